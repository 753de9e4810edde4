"""The two stages of a run: functions of the plan and the number of an item, which may
be repeated.
"""

import shutil
import tempfile
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.files import replacing
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.results import softmax

from . import sql
from .events import Events, Spans
from .plan import EVENTS, KEY, STATES, Plan, open_model
from .pool import Pool

SKIPPED = "_skipped"
_BLOCK = 131_072
_ORDERS = ("start", "end", "last")


def read_group(plan: Plan, group: int) -> int:
    """Partition the rows of a group of files by their series; return 0, as no row has a
    result yet.
    """
    target = Path(plan.work) / "_rows" / f"{group:05d}"
    options = plan.options
    if target.exists():
        return 0
    target.parent.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=plan.work, prefix="_group-"))
    try:
        names = (options.series, options.order, options.features)
        key = plan.types[0] == KEY
        sql.write_partitions(
            folder / "rows", plan.groups[group], names, plan.parts, key=key
        )
    except (FileFormatError, InputError) as error:
        if not options.skip_bad:
            raise _damaged(plan, group) or error from error
        shutil.rmtree(folder / "rows", ignore_errors=True)
        (folder / "rows").mkdir()
        (folder / "rows" / SKIPPED).write_text(
            f"{plan.groups[group][0]}\n{error}", encoding="utf-8"
        )
    (folder / "rows").rename(target)
    return 0


def _damaged(plan: Plan, group: int) -> FileFormatError | None:
    """Return the error of the first file whose pages are damaged."""
    for path in plan.groups[group]:
        try:
            with parquet.ParquetFile(path) as file:
                all(file.iter_batches())
        except (pa.ArrowException, OSError) as error:  # noqa: PERF203
            return FileFormatError(
                f"{path} can't be read as Parquet ({first_line(error)})"
            )
    return None


def score_part(plan: Plan, part: int) -> int:
    """Run all series of a partition; write results, events and states, and return the
    number of results.
    """
    target = plan.part_file(part)
    if target.exists():
        return int(parquet.read_metadata(target).num_rows)
    partition = Partition(plan, part)
    with sql.sorted_rows(plan.work, part) as batches:
        for batch in batches:
            partition.score(batch)
    partition.write()
    return partition.write_results(target)


class Partition:
    """The series of one partition, by number: the order of their names."""

    def __init__(self, plan: Plan, part: int) -> None:
        """Take the series of the rows and those of the earlier run."""
        self._plan = plan
        self._part = part
        since = plan.options.since
        rows = sql.series_of(plan.work, part)
        before = (
            sql.states_of(Path(since) / STATES, part, plan.parts) if since else None
        )
        scored = before.column("series").to_pylist() if before else []
        self._names = sorted({*scored, *rows})
        self._numbers = {name: number for number, name in enumerate(self._names)}
        size = len(self._names)
        self.total = sum(rows.values())
        model = open_model(plan.model, plan.identity)
        self._pool = Pool(
            model, max(size, 1), plan.options.reset_every, plan.options.window
        )
        self._seen = np.zeros(size, bool)
        self._known = np.zeros(size, bool)
        counts = np.array([rows.get(name, 0) for name in self._names], np.int64)
        self._first = np.cumsum(counts) - counts
        self._done = np.zeros(size, np.int64)
        self._order, self._values = (
            self._file(np.int64, 1),
            self._file(np.float32, len(plan.results)),
        )
        self._ended = list[Events]()
        self._order_type = before.column("last").type if before else pa.int64()
        if plan.files:
            self._order_type = (
                parquet.read_schema(plan.files[0][0]).field(plan.options.order).type
            )
        floats = pa.types.is_floating(self._order_type)
        self._spans = Spans.empty(size, np.dtype(np.float64 if floats else np.int64))
        if before:
            self._restore(before)

    def _file(self, dtype: npt.DTypeLike, width: int) -> Array:
        """Return an array for all rows of the partition, in a file that the system
        writes out as needed.
        """
        with tempfile.TemporaryFile(dir=self._plan.work) as file:
            return np.memmap(file, dtype, "w+", shape=(max(self.total, 1), width))

    def _restore(self, before: pa.Table) -> None:
        try:
            numbers = np.array(
                [self._numbers[name] for name in before.column("series").to_pylist()]
            )
            for number, row in zip(
                numbers.tolist(), before.drop_columns(_ORDERS).to_pylist(), strict=True
            ):
                self._pool.restore(number, row)
            for name, values in vars(self._spans).items():
                column = before.column(name).combine_chunks()
                values[numbers] = (
                    _as_numbers(column) if name in _ORDERS else column.to_numpy()
                )
            self._known[numbers] = True
        except (
            pa.ArrowException,
            LookupError,
            TypeError,
            ValueError,
            EOFError,
            OSError,
        ) as error:
            why = f"{self._plan.options.since} has damaged states ({first_line(error)})"
            raise FileFormatError(f"{why}; score without --since") from error

    def score(self, batch: pa.RecordBatch) -> None:
        """Process the next rows, which are sorted by order."""
        plan = self._plan
        spans = self._spans
        names = batch.column("series").dictionary_encode()
        order = _as_numbers(batch.column("order"))
        numbers = np.array(
            [self._numbers[name] for name in names.dictionary.to_pylist()]
        )
        owners = numbers[names.indices.to_numpy()]
        rows = np.flatnonzero(
            ~self._known[owners] | self._seen[owners] | (order > spans.last[owners])
        )
        rows = rows[np.argsort(owners[rows], kind="stable")]
        owners = owners[rows]
        order = order[rows]
        if not len(rows):
            return
        features = (
            batch.column(f"x{i}").to_numpy()[rows]
            for i in range(len(plan.options.features))
        )
        x = np.stack(list(features), axis=1)
        series, counts = np.unique(owners, return_counts=True)
        starts = np.cumsum(counts) - counts
        self._check_order(owners, order, series, starts)
        values = self._pool.run(series, counts, x)
        if plan.labels:
            values = softmax(values)
        at = np.arange(len(owners)) + np.repeat(
            self._first[series] + self._done[series] - starts, counts
        )
        self._order[at, 0] = order.view(np.int64)
        self._values[at] = values
        self._done[series] += counts
        self._seen[series] = True
        spans.last[series] = order[starts + counts - 1]
        framed = ~np.isnan(values[:, 0])
        if plan.options.events and framed.any():
            series, counts = np.unique(owners[framed], return_counts=True)
            labels = values[framed].argmax(axis=1)
            self._ended.append(
                spans.extend(series, counts, order[framed], labels, plan.options.hold)
            )

    def write_results(self, target: Path) -> int:
        """Write the results, ordered by series and step; return their number."""
        done = int(self._done.sum())
        tables = (
            self._results(start, min(start + _BLOCK, done))
            for start in range(0, done, _BLOCK)
        )
        first = next(tables, pa.table({}))
        texts = [self._plan.options.series, "label"]
        with (
            replacing(target) as path,
            parquet.ParquetWriter(path, first.schema, use_dictionary=texts) as writer,
        ):
            for table in chain([first], tables):
                writer.write_table(table)
        return done

    def _results(self, start: int, stop: int) -> pa.Table:
        """Return the results ``start ... stop - 1`` of all series."""
        options = self._plan.options
        ends = np.cumsum(self._done)
        at = np.arange(start, stop)
        owners = np.searchsorted(ends, at, side="right")
        at += (self._first - ends + self._done)[owners]
        values = self._values[at]
        columns = {
            options.series: self._series(owners),
            options.order: _as_orders(
                self._order[at, 0].view(self._spans.last.dtype), self._order_type
            ),
        }
        if self._plan.labels:
            labels = pa.array(values.argmax(axis=1), mask=np.isnan(values[:, 0]))
            columns["label"] = pa.array(self._plan.labels).take(labels)
        for name, column in zip(
            self._plan.results, np.ascontiguousarray(values.T), strict=True
        ):
            columns[name] = pa.array(column, from_pandas=self._pool.delayed)
        return pa.table(columns)

    def _series(self, numbers: Array) -> pa.Array:
        kind = pa.type_for_alias(
            "string" if self._plan.types[0] in (KEY, "") else self._plan.types[0]
        )
        return pa.array(self._names, pa.string()).take(pa.array(numbers)).cast(kind)

    def write(self) -> None:
        """Write the states of all series, and their events."""
        states = {"series": pa.array(self._names, pa.string())} | self._pool.columns(
            range(len(self._names))
        )
        for name, values in vars(self._spans).items():
            states[name] = (
                _as_orders(values, self._order_type)
                if name in _ORDERS
                else pa.array(values)
            )
        tables = [self._events(ended, is_open=False) for ended in self._ended]
        tables.append(self._events(self._spans.open_events(), is_open=True))
        events = pa.concat_tables(tables)
        by = [(name, "ascending") for name in events.column_names[:2]]
        for kind, table in ((STATES, pa.table(states)), (EVENTS, events.sort_by(by))):
            if kind == STATES or self._plan.options.events:
                (target := self._plan.part_file(self._part, kind)).parent.mkdir(
                    exist_ok=True
                )
                with replacing(target) as path:
                    parquet.write_table(table, path)

    def _check_order(
        self, owners: Array, order: Array, series: Array, starts: Array
    ) -> None:
        """Raise ``InputError`` if a series has one order twice."""
        twice = 1 + np.flatnonzero(
            (owners[1:] == owners[:-1]) & (order[1:] == order[:-1])
        )
        again = starts[self._seen[series] & (self._spans.last[series] == order[starts])]
        for row in (*again[:1], *twice[:1]):
            value = _as_orders(order[row : row + 1], self._order_type)[0]
            raise InputError(
                f"series {self._names[owners[row]]!r} has {self._plan.options.order}"
                f" {value} twice"
            )

    def _events(self, events: Events, *, is_open: bool) -> pa.Table:
        columns = {
            self._plan.options.series: self._series(events.series),
            "start": _as_orders(events.start, self._order_type),
            "end": _as_orders(events.end, self._order_type),
            "label": pa.array(self._plan.labels).take(pa.array(events.label)),
            "samples": pa.array(events.samples),
            "open": pa.array(np.full(len(events.series), is_open)),
        }
        return pa.table(columns)


def _as_numbers(order: pa.Array) -> Array:
    """Return orders as int64, times in nanoseconds; or as float64."""
    if pa.types.is_temporal(order.type):
        order = order.cast(pa.timestamp("ns", getattr(order.type, "tz", None))).cast(
            pa.int64()
        )
    floats = pa.types.is_floating(order.type)
    numbers: Array = order.cast(pa.float64() if floats else pa.int64()).to_numpy()
    if floats and not np.isfinite(numbers).all():
        raise InputError("the order contains a number that is not finite; correct it")
    return numbers


def _as_orders(numbers: Array, kind: pa.DataType) -> pa.Array:
    """Return what ``_as_numbers`` made numbers of."""
    values = pa.array(numbers)
    if pa.types.is_temporal(kind):
        values = values.cast(pa.timestamp("ns", getattr(kind, "tz", None)))
    return values.cast(kind)
