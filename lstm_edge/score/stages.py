"""The two stages of a run: functions of the plan and the number of an item, which may
be repeated.
"""

import contextlib
import shutil
import tempfile
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.files import malformed_as, replacing
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.results import softmax

from . import sql
from .events import NONE, Events, Spans
from .plan import EVENTS, STATES, Plan, open_model
from .pool import Pool

SKIPPED = "_skipped"
_BLOCK = 131_072
"""Maximum number of results per table that is written."""
_ORDERS = ("start", "end", "last")
"""Columns of the states that are orders."""


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
        sql.write_partitions(
            folder / "rows",
            plan.groups[group],
            names=names,
            partitions=plan.partitions,
            order_type=plan.types.order,
            key=plan.types.series_is_key,
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


def score_partition(plan: Plan, number: int) -> int:
    """Run all series of a partition; write results, events and states, and return the
    number of results.
    """
    target = plan.partition_file(number)
    if target.exists():
        return int(parquet.read_metadata(target).num_rows)
    partition = Partition(plan, number)
    with sql.sorted_rows(plan.work, number) as batches:
        for batch in batches:
            partition.score(batch)
    partition.write()
    return partition.write_results(target)


@dataclass(frozen=True)
class _Batch:
    """The next rows of some series, one series after another."""

    owners: Array
    """Number of the series of each row, ``(R,)``."""
    order: Array
    """Order of each row, ``(R,)``."""
    x: Array
    """Features, float32 ``(R, I)``."""
    series: Array
    """Number of each series, ``(K,)``."""
    counts: Array
    """Number of rows of each series, ``(K,)``."""

    @property
    def starts(self) -> Array:
        """Index of the first row of each series, ``(K,)``."""
        starts: Array = np.cumsum(self.counts) - self.counts
        return starts

    @property
    def last_order(self) -> Array:
        """Order of the last row of each series, ``(K,)``."""
        last: Array = self.order[self.starts + self.counts - 1]
        return last


class Partition:
    """The series of one partition, by number: the order of their names."""

    def __init__(self, plan: Plan, number: int) -> None:
        """Take the series of the rows and those of the earlier run."""
        self._plan = plan
        self._number = number
        rows = sql.series_of(plan.work, number)
        before = _read_states(plan, number)
        names_before = before.column("series").to_pylist() if before else []
        self._names = sorted({*names_before, *rows})
        self._numbers = {name: number for number, name in enumerate(self._names)}
        size = len(self._names)
        self.total = sum(rows.values())
        self._pool = Pool(
            open_model(plan.model, plan.identity),
            size=max(size, 1),
            reset_every=plan.options.reset_every,
            window=plan.options.window,
        )
        counts = np.array([rows.get(name, 0) for name in self._names], np.int64)
        self._first = np.cumsum(counts) - counts
        """Index of the first result of each series."""
        self._done = np.zeros(size, np.int64)
        """Number of results of each series."""
        self._seen = np.zeros(size, bool)
        """True for a series that has a result."""
        self._known = np.zeros(size, bool)
        """True for a series of the earlier run."""
        self._order = self._file(np.int64, 1)
        self._values = self._file(np.float32, len(plan.results))
        self._ended = list[Events]()
        self._order_type = _order_type(plan, before)
        is_float = pa.types.is_floating(self._order_type)
        self._spans = Spans.empty(size, np.dtype(np.float64 if is_float else np.int64))
        if before:
            with _damaged_states(plan):
                self._restore(before)

    def _file(self, dtype: npt.DTypeLike, width: int) -> Array:
        """Return an array for all rows of the partition, in a file that the system
        writes out as needed.
        """
        with tempfile.TemporaryFile(dir=self._plan.work) as file:
            return np.memmap(file, dtype, "w+", shape=(max(self.total, 1), width))

    def _restore(self, before: pa.Table) -> None:
        """Continue the series of the earlier run."""
        names = before.column("series").to_pylist()
        numbers = np.array([self._numbers[name] for name in names])
        states = before.drop_columns(_ORDERS).to_pylist()
        for number, row in zip(numbers.tolist(), states, strict=True):
            self._pool.restore(number, row)
        for name, values in vars(self._spans).items():
            column = before.column(name).combine_chunks()
            is_order = name in _ORDERS
            values[numbers] = _as_numbers(column) if is_order else column.to_numpy()
        self._known[numbers] = True

    def score(self, rows: pa.RecordBatch) -> None:
        """Process the next rows, which are sorted by order."""
        batch = self._select(rows)
        if not len(batch.owners):
            return
        self._check_order(batch)
        values = self._pool.run(batch.series, batch.counts, batch.x)
        if self._plan.labels:
            values = softmax(values)
        self._store(batch, values)
        self._spans.last[batch.series] = batch.last_order
        if self._plan.options.events:
            self._add_events(batch, values)

    def _select(self, rows: pa.RecordBatch) -> _Batch:
        """Return the rows by their series, without those that come before the last
        scored one.
        """
        names = rows.column("series").dictionary_encode()
        numbers = [self._numbers[name] for name in names.dictionary.to_pylist()]
        owners = np.array(numbers, np.int64)[names.indices.to_numpy()]
        order = _as_numbers(rows.column("order"))
        is_new = ~self._known[owners] | self._seen[owners]
        is_later = order > self._spans.last[owners]
        selected = np.flatnonzero(is_new | is_later)
        by_owner = np.argsort(owners[selected], kind="stable")
        selected = selected[by_owner]
        owners = owners[selected]
        features = []
        for index in range(len(self._plan.options.features)):
            column = rows.column(f"x{index}").to_numpy()
            features.append(column[selected])
        series, counts = np.unique(owners, return_counts=True)
        return _Batch(
            owners=owners,
            order=order[selected],
            x=np.stack(features, axis=1),
            series=series,
            counts=counts,
        )

    def _store(self, batch: _Batch, values: Array) -> None:
        """Keep the results of a batch, behind the earlier ones of each series."""
        first_result = self._first[batch.series] + self._done[batch.series]
        shift = np.repeat(first_result - batch.starts, batch.counts)
        results = np.arange(len(batch.owners)) + shift
        self._order[results, 0] = batch.order.view(np.int64)
        self._values[results] = values
        self._done[batch.series] += batch.counts
        self._seen[batch.series] = True

    def _add_events(self, batch: _Batch, values: Array) -> None:
        """Add the labels of the rows that have a result."""
        has_result = ~np.isnan(values[:, 0])
        if not has_result.any():
            return
        owners = batch.owners[has_result]
        series, counts = np.unique(owners, return_counts=True)
        ended = self._spans.extend(
            series=series,
            counts=counts,
            order=batch.order[has_result],
            labels=values[has_result].argmax(axis=1),
            hold=self._plan.options.hold,
        )
        self._ended.append(ended)

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
        order = self._order[at, 0].view(self._spans.last.dtype)
        columns = {
            options.series: self._series(owners),
            options.order: _as_orders(order, self._order_type),
        }
        if self._plan.labels:
            has_no_result = np.isnan(values[:, 0])
            labels = pa.array(values.argmax(axis=1), mask=has_no_result)
            columns["label"] = pa.array(self._plan.labels).take(labels)
        by_column = np.ascontiguousarray(values.T)
        for name, column in zip(self._plan.results, by_column, strict=True):
            columns[name] = pa.array(column, from_pandas=self._pool.delayed)
        return pa.table(columns)

    def _series(self, numbers: Array) -> pa.Array:
        """Return the names of series in the type of the data set."""
        series_type = pa.type_for_alias(self._plan.types.series)
        names = pa.array(self._names, pa.string())
        return names.take(pa.array(numbers)).cast(series_type)

    def write(self) -> None:
        """Write the states of all series, and their events."""
        states: dict[str, Any] = {"series": pa.array(self._names, pa.string())}
        states |= self._pool.columns(range(len(self._names)))
        for name, values in vars(self._spans).items():
            column = pa.array(values)
            if name in _ORDERS:
                column = _as_orders(values, self._order_type)
            states[name] = column
        self._write_table(STATES, pa.table(states))
        if self._plan.options.events:
            tables = [self._events(ended, is_open=False) for ended in self._ended]
            tables.append(self._events(self._spans.open_events(), is_open=True))
            events = pa.concat_tables(tables)
            by = [(name, "ascending") for name in events.column_names[:2]]
            self._write_table(EVENTS, events.sort_by(by))

    def _write_table(self, folder: str, table: pa.Table) -> None:
        """Write a table as the partition's file of this kind."""
        target = self._plan.partition_file(self._number, folder)
        target.parent.mkdir(exist_ok=True)
        with replacing(target) as path:
            parquet.write_table(table, path)

    def _check_order(self, batch: _Batch) -> None:
        """Raise ``InputError`` if a series has one order twice."""
        order = batch.order
        is_same_series = batch.owners[1:] == batch.owners[:-1]
        is_same_order = order[1:] == order[:-1]
        repeats = 1 + np.flatnonzero(is_same_series & is_same_order)
        is_last = self._spans.last[batch.series] == order[batch.starts]
        repeats_last = batch.starts[self._seen[batch.series] & is_last]
        for row in (*repeats_last[:1], *repeats[:1]):
            value = _as_orders(order[row : row + 1], self._order_type)[0]
            raise InputError(
                f"series {self._names[batch.owners[row]]!r} has"
                f" {self._plan.options.order} {value} twice"
            )

    def _events(self, events: Events, *, is_open: bool) -> pa.Table:
        """Return the events as a table with the columns of the output."""
        columns = {
            self._plan.options.series: self._series(events.series),
            "start": _as_orders(events.start, self._order_type),
            "end": _as_orders(events.end, self._order_type),
            "label": pa.array(self._plan.labels).take(pa.array(events.label)),
            "samples": pa.array(events.samples),
            "open": pa.array(np.full(len(events.series), is_open)),
        }
        return pa.table(columns)


def _order_type(plan: Plan, before: pa.Table | None) -> pa.DataType:
    """Return the type of the orders in the data set, or in the earlier run."""
    if plan.files:
        schema = parquet.read_schema(plan.files[0][0])
        return schema.field(plan.options.order).type
    return before.column("last").type if before else pa.int64()


def _damaged_states(plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Return a context whose errors say that the states of the earlier run are
    damaged.
    """
    what = f"{plan.options.since} has damaged states"
    return malformed_as(FileFormatError, what, "score without --since")


def _read_states(plan: Plan, number: int) -> pa.Table | None:
    """Return the states of the series of a partition from the earlier run; None without
    any.
    """
    if not plan.options.since:
        return None
    with _damaged_states(plan):
        folder = Path(plan.options.since) / STATES
        table = sql.states_of(folder, number, plan.partitions)
        if table is not None:
            _check_states(table, len(plan.labels))
        return table


def _check_states(table: pa.Table, classes: int) -> None:
    """Raise KeyError, TypeError or ValueError for values that no run wrote."""
    for name in _ORDERS:
        column = table.column(name)
        if not (pa.types.is_temporal(column.type) or _is_number(column.type)):
            raise TypeError(f"{name} is {column.type}, expected an order")
    names = table.column("series").to_pylist()
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a series has no name")
    if len(set(names)) < len(names):
        raise ValueError("a series is there twice")
    ranges = {
        "label": (NONE, classes - 1),
        "candidate": (NONE, classes - 1),
        "count": (0, sql.MAX_INT64),
        "samples": (0, sql.MAX_INT64),
        "age": (0, sql.MAX_INT64),
    }
    for name, (low, high) in ranges.items():
        column = table.column(name)
        if not pa.types.is_integer(column.type) or column.null_count:
            raise TypeError(f"{name} is {column.type}, expected integers")
        values = column.to_numpy()
        if len(values) and not (low <= values.min() and values.max() <= high):
            raise ValueError(f"{name} is out of range")


def _is_number(column_type: pa.DataType) -> bool:
    """Return True for types of integers and floats."""
    return bool(pa.types.is_integer(column_type) or pa.types.is_floating(column_type))


def _as_numbers(order: pa.Array) -> Array:
    """Return orders as int64, times in nanoseconds; or as float64."""
    if pa.types.is_temporal(order.type):
        nanoseconds = pa.timestamp("ns", getattr(order.type, "tz", None))
        order = order.cast(nanoseconds).cast(pa.int64())
    floats = pa.types.is_floating(order.type)
    numbers: Array = order.cast(pa.float64() if floats else pa.int64()).to_numpy()
    if floats and not np.isfinite(numbers).all():
        raise InputError("the order contains a number that is not finite; correct it")
    return numbers


def _as_orders(numbers: Array, order_type: pa.DataType) -> pa.Array:
    """Return what ``_as_numbers`` made numbers of."""
    values = pa.array(numbers)
    if pa.types.is_temporal(order_type):
        values = values.cast(pa.timestamp("ns", getattr(order_type, "tz", None)))
    return values.cast(order_type)
