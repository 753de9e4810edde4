"""The stages of a run, each a function that a worker calls for one item of work.

1. ``split_files`` reads files and splits their rows by series into buckets.
2. ``score_series`` takes the series of some buckets through the model in their order.
3. ``write_files`` puts the results back into the order of the files and writes one output a file.

``score_windows`` does all of it where rows are independent. A stage reads what the one before wrote and
writes files of its own, whole or not at all, so that an item may be done again after its worker died.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc, parquet

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge.results import main_output, top_rows
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.prediction import softmax

from .dataset import key_columns, open_parquet, read_rows, read_windows
from .events import Span, event_table, find_spans, from_storage
from .job import (
    DataFile,
    Job,
    Tell,
    bucket_of,
    fixed_lists,
    from_fixed_lists,
    hash_of,
    open_job_model,
    writing,
)
from .memory import Kept, read_kept, write_kept
from .stepping import Stepper

__all__ = ["count_series", "mark_series", "score_series", "score_windows", "split_files", "write_files"]

Item = Mapping[str, Any]
Done = dict[str, Any]
_SPLIT = 262_144
"""Rows that are split at once: a bucket's share of them is one record batch."""
_WINDOWS = 256
"""Windows in one call: enough to keep the core busy, and few enough that memory stays small."""
_SKETCH = 1 << 16
"""Bits that count series."""
_POINTS = 64
"""Places of a batch that are looked at to find where to cut the order."""


def split_files(job: Job, item: Item, tell: Tell) -> Done:
    """Split the rows of some files into buckets.

    Writes an Arrow file in which every ``job.buckets`` record batches are the buckets of up to as many rows
    as are split at once.

    Args:
        job: the run.
        item: ``part``, the result's number; ``files``, a list of (source, row groups or None, first row).
        tell: called with rows done.

    Returns:
        ``rows`` by file, ``bad`` with the message by file, ``buckets`` with the rows of each, and ``seen``,
        what ``count_series`` takes, in hex.
    """
    rows: dict[int, int] = {}
    bad: dict[int, str] = {}
    totals = np.zeros(job.buckets, dtype=np.int64)
    seen = np.zeros(_SKETCH, dtype=bool)
    at_once = min(_SPLIT, job.rows)
    with writing(job, _spill(job, item["part"])) as path, ipc.new_file(path, job.spill_schema) as writer:
        waiting: list[pa.RecordBatch] = []
        for fields, groups, first in item["files"]:
            source = DataFile(*fields)
            try:
                count = 0
                for batch in read_rows(source, job, groups, first):
                    waiting.append(batch)
                    count += len(batch)
                    tell(len(batch))
                    if sum(map(len, waiting)) >= at_once:
                        _write_buckets(writer, waiting, totals, seen)
                rows[source.number] = count
            except (FileFormatError, InputError) as error:
                bad[source.number] = str(error)
        if waiting:
            _write_buckets(writer, waiting, totals, seen)
    return {
        "rows": sum(rows.values()),
        "by_file": list(rows.items()),
        "bad": list(bad.items()),
        "buckets": totals.tolist(),
        "seen": np.packbits(seen).tobytes().hex(),
    }


def mark_series(seen: npt.NDArray[np.bool_], hashes: Array) -> None:
    """Set the bits of some names in what ``count_series`` takes.

    Names that differ in a few digits have hashes that do too: a product spreads them (Knuth, The Art of
    Computer Programming, volume 3, 6.4).
    """
    seen[(hashes.astype(np.uint64) * np.uint64(2654435761) >> np.uint64(16)) % np.uint64(len(seen))] = True


def count_series(seen: int) -> int:
    """Estimate how many series there are from the ``seen`` of all parts, joined by ``|``.

    Each name sets one bit; how many stay 0 tells how many names there were (linear counting: Whang,
    Vander-Zanden and Taylor 1990). Beyond some 700,000 series it tells no more.
    """
    unset = max(_SKETCH - seen.bit_count(), 1)
    return round(-_SKETCH * math.log(unset / _SKETCH))


def _write_buckets(
    writer: ipc.RecordBatchFileWriter,
    waiting: list[pa.RecordBatch],
    totals: npt.NDArray[np.int64],
    seen: npt.NDArray[np.bool_],
) -> None:
    """Write what waits, a batch a bucket, and forget it."""
    batch = _joined(waiting)
    waiting.clear()
    encoded = batch.column("series").dictionary_encode()
    names = np.array([hash_of(name) for name in encoded.dictionary.to_pylist()], np.int64)
    mark_series(seen, names)
    of_row = (names & (len(totals) - 1))[encoded.indices.to_numpy()]
    sizes = np.bincount(of_row, minlength=len(totals))
    sorted_rows = batch.take(pa.array(np.argsort(of_row, kind="stable")))
    begin = 0
    for size in sizes.tolist():
        writer.write_batch(sorted_rows.slice(begin, size))
        begin += size
    totals += sizes


def score_series(job: Job, item: Item, tell: Tell) -> Done:
    """Take the series of some buckets through the model.

    A bucket that is larger than memory is taken in ranges of the order, states carried.

    Args:
        job: the run.
        item: ``task``, its number; ``parts``, how many files the first stage wrote; ``buckets``; ``bad``, the
            files to leave out.
        tell: called with rows done.

    Returns:
        ``rows``, ``series`` that had any, and ``events`` that ended.

    Raises:
        InputError: a series has one order twice, or rows before the last one that was scored.
    """
    kept: dict[str, Kept] = {}
    scorer = _SeriesScorer(job, kept, tell)
    for bucket in item["buckets"]:
        kept |= read_kept(job, bucket, scorer.like)
    events: list[tuple[str, Span]] = []
    with _results(job, item["task"]) as write:
        for rows in _in_order(job, item):
            events += scorer.score(rows, write)
    kept |= scorer.keep()
    by_bucket: dict[int, dict[str, Kept]] = {}
    for name, each in kept.items():
        by_bucket.setdefault(bucket_of(name, job.buckets), {})[name] = each
    for bucket, own in by_bucket.items():
        write_kept(job, bucket, own)
    open_events = [(name, each.span) for name, each in kept.items() if each.span]
    if job.events:
        for kind, found in (("closed", events), ("open", open_events)):
            if found:
                name = f"{kind}-{job.number:04d}-{item['task']:05d}.parquet"
                with writing(job, job.folder("new") / "_events" / name, durable=True) as path:
                    parquet.write_table(event_table(job, found, is_open=kind == "open"), path)
    return {"rows": scorer.rows, "series": len(scorer.last), "events": len(events) + len(open_events)}


class _SeriesScorer:
    """Scores rows of series that may go on from an earlier run."""

    def __init__(self, job: Job, kept: Mapping[str, Kept], tell: Tell) -> None:
        """Take what an earlier run kept of the series; it may be filled in before the first rows."""
        self._job, self._kept, self._tell = job, kept, tell
        model = open_job_model(job.model, job.identity, job.engine)
        self._stepper = Stepper(model)
        self.like = dict(model.stream().state)
        """Arrays like the states of one series."""
        self.last: dict[str, int | float] = {}
        """The last order of each series that had rows."""
        self._spans: dict[str, Span] = {}
        self.rows = 0

    def score(self, rows: "_Rows", write: Any) -> list[tuple[str, Span]]:
        """Score the next rows, and return the events that ended."""
        names, counts = rows.names, rows.counts
        starts = np.cumsum(counts) - counts
        for name, start in zip(names, starts.tolist(), strict=True):
            if name in self._kept and name not in self.last:
                self._stepper.restore(name, self._kept[name].state)
                self.last[name] = self._kept[name].last
                if (span := self._kept[name].span) is not None:
                    self._spans[name] = span
            if name in self.last and rows.order[start] <= self.last[name]:
                now, before = self._say(rows.order[start]), self._say(self.last[name])
                raise InputError(
                    f"series {name!r} has {now}, but was scored up to {before} before; its rows came late, "
                    "score everything without --since"
                )
        values = self._stepper.run(names, counts, rows.x, self._tell)
        if self._job.labels:
            values = softmax(values)
        self.last.update(zip(names, rows.order[starts + counts - 1].tolist(), strict=True))
        write(rows.file, rows.row, values)
        self.rows += len(values)
        if not self._job.events:
            return []
        labels = values.argmax(axis=1)
        shares = values[np.arange(len(values)), labels]
        spans = [self._spans.get(name) for name in names]
        found, last = find_spans(spans, counts, rows.order, labels, shares)
        self._spans.update(zip(names, last, strict=True))
        return [(names[place], span) for place, span in found]

    def keep(self) -> dict[str, Kept]:
        """Return what is to be kept of the series that had rows."""
        return {
            name: Kept(last, self._spans.get(name), self._stepper.state(name))
            for name, last in self.last.items()
        }

    def _say(self, order: Any) -> str:
        place = from_storage(pa.array([order], self._job.order_storage), self._job.order_type)[0]
        return f"{self._job.columns.order} {place}"


class _Rows:
    """Rows of one bucket, sorted by series and order."""

    def __init__(self, job: Job, batch: pa.RecordBatch) -> None:
        encoded = batch.column("series").dictionary_encode()
        codes, order = encoded.indices.to_numpy(), batch.column("order").to_numpy()
        places = np.lexsort((order, codes))
        self.names: list[str] = encoded.dictionary.to_pylist()
        self.counts = np.bincount(codes, minlength=len(self.names))
        self.order = order[places]
        self.file, self.row = (batch.column(name).to_numpy()[places] for name in ("file", "row"))
        self.x = from_fixed_lists(batch.column("x"))[places]
        codes = codes[places]
        same = np.flatnonzero((codes[1:] == codes[:-1]) & (self.order[1:] == self.order[:-1]))
        if same.size:
            place = from_storage(pa.array([self.order[same[0]]], job.order_storage), job.order_type)[0]
            raise InputError(
                f"series {self.names[codes[same[0]]]!r} has {job.columns.order} {place} twice; expected a "
                "different value in each row"
            )


def _in_order(job: Job, item: Item) -> Iterator[_Rows]:
    """Yield the rows of some buckets in ranges of the order, each with about as many as memory may hold."""
    found: list[tuple[int, int, Any, Any]] = []
    """Part, batch, and the first and last order in it."""
    sketch, weights, buckets = [], [], set(item["buckets"])
    only_order = ipc.IpcReadOptions(included_fields=[1], use_threads=False)
    for part in range(item["parts"]):
        with _opened(job, part, only_order) as reader:
            for index in range(reader.num_record_batches):
                if index % job.buckets not in buckets:
                    continue
                order = np.sort(reader.get_batch(index).column(0).to_numpy())
                if len(order):
                    found.append((part, index, order[0], order[-1]))
                    points = order[np.linspace(0, len(order) - 1, min(_POINTS, len(order))).astype(int)]
                    sketch.append(points)
                    weights.append(np.full(len(points), len(order) / len(points)))
    if not found:
        return
    bounds = [None, *_cuts(np.concatenate(sketch), np.concatenate(weights), job.rows), None]
    bad = np.array(item["bad"], dtype=np.int32)
    for low, high in pairwise(bounds):
        batches = []
        for part in sorted({each[0] for each in found}):
            inside = [
                index
                for own, index, first, last in found
                if own == part and (low is None or last >= low) and (high is None or first < high)
            ]
            if not inside:
                continue
            with _opened(job, part, ipc.IpcReadOptions(use_threads=False)) as reader:
                for index in inside:
                    batch = reader.get_batch(index)
                    order = batch.column("order").to_numpy()
                    keep = ~np.isin(batch.column("file").to_numpy(), bad)
                    if low is not None:
                        keep &= order >= low
                    if high is not None:
                        keep &= order < high
                    if keep.any():
                        batches.append(batch if keep.all() else batch.filter(pa.array(keep)))
        if batches:
            yield _Rows(job, _joined(batches))


def _cuts(points: Array, weights: Array, most: int) -> list[Any]:
    """Return where to cut weighted points so that about ``most`` lie between two cuts."""
    places = np.argsort(points, kind="stable")
    points, reached = points[places], np.cumsum(weights[places])
    goals = np.arange(most, reached[-1], most)
    return np.unique(points[np.searchsorted(reached, goals)]).tolist() if len(goals) else []


@contextmanager
def _results(job: Job, task: int) -> Iterator[Any]:
    """Yield a function that takes (file, row, values) of scored rows; they are read by ``_read_results``."""
    files: list[int] = []
    folder = job.folder("results")
    with ExitStack() as stack:
        path = stack.enter_context(writing(job, folder / f"{task:05d}.arrow"))
        writer = stack.enter_context(ipc.new_file(path, job.result_schema))

        def write(file: Array, row: Array, values: Array) -> None:
            places = np.argsort(file, kind="stable")
            columns = [pa.array(row[places]), fixed_lists(values[places], job.result_schema.field(1).type)]
            batch = pa.record_batch(columns, schema=job.result_schema)
            own, begins = np.unique(file[places], return_index=True)
            for each, begin, end in zip(
                own.tolist(), begins.tolist(), [*begins[1:].tolist(), len(row)], strict=True
            ):
                files.append(each)
                writer.write_batch(batch.slice(begin, end - begin))

        yield write
    with writing(job, folder / f"{task:05d}.npy") as path, Path(path).open("wb") as file:
        np.save(file, np.array(files, dtype=np.int32))


def write_files(job: Job, item: Item, tell: Tell) -> Done:
    """Write the outputs of some files.

    Args:
        job: the run.
        item: ``tasks``, how many tasks the second stage had; ``files``, a list of (source, rows).
        tell: called with rows done.

    Returns:
        ``rows``.
    """
    sources = {fields[0]: (DataFile(*fields), rows) for fields, rows in item["files"]}
    with ExitStack() as stack:
        values = {index: _array(job, rows, stack) for index, (_, rows) in sources.items()}
        filled = dict.fromkeys(sources, 0)
        for task in range(item["tasks"]):
            files = np.load(job.folder("results") / f"{task:05d}.npy")
            wanted = np.flatnonzero(np.isin(files, list(sources)))
            if not wanted.size:
                continue
            with (
                pa.OSFile(str(job.folder("results") / f"{task:05d}.arrow")) as raw,
                ipc.open_file(raw) as reader,
            ):
                for index in wanted.tolist():
                    batch = reader.get_batch(index)
                    values[int(files[index])][batch.column("row").to_numpy()] = from_fixed_lists(
                        batch.column("values")
                    )
                    filled[int(files[index])] += len(batch)
        for index, (source, rows) in sources.items():
            assert filled[index] == rows, f"{source.name}: {filled[index]} of {rows} rows were scored"
            _write_output(job, source, values[index], tell)
    return {"rows": sum(filled.values())}


def _array(job: Job, rows: int, stack: ExitStack) -> Array:
    """Return room for a file's results; on disk where memory may not hold it."""
    shape = (rows, len(job.results))
    if rows <= job.rows:
        return np.empty(shape, dtype=np.float32)
    path = stack.enter_context(_scratch(job))
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


@contextmanager
def _scratch(job: Job) -> Iterator[str]:
    import tempfile

    job.folder("tmp").mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=job.folder("tmp")) as file:
        yield file.name


def _write_output(job: Job, source: DataFile, values: Array, tell: Tell) -> None:
    given = key_columns(source.name)
    keys = [name for name in (job.columns.series, job.columns.order) if name and name not in given]
    done = 0

    def parts() -> Iterator[tuple[pa.RecordBatch, Array]]:
        nonlocal done
        for batch in open_parquet(source.path).iter_batches(columns=keys, use_threads=False):
            done += len(batch)
            yield batch, values[done - len(batch) : done]
            tell(len(batch))

    _write_parquet(job, source, parts())
    if done != len(values):
        raise InputError(f"{source.path} changed while it was scored; run again")


def score_windows(job: Job, item: Item, tell: Tell) -> Done:
    """Score some files whose rows are windows, and write their outputs.

    Args:
        job: the run.
        item: ``files``, a list of sources.
        tell: called with rows done.

    Returns:
        ``rows`` by file, and ``bad`` with the message by file.
    """
    model = open_job_model(job.model, job.identity, job.engine)
    samples = sample_input(model)
    together = _WINDOWS if samples.batched else 1
    rows: dict[int, int] = {}
    bad: dict[int, str] = {}

    def scored(source: DataFile) -> Iterator[tuple[pa.RecordBatch, Array]]:
        rows[source.number] = 0
        for batch, steps, counts in read_windows(source, job):
            starts = np.cumsum(counts) - counts
            out = np.empty((len(counts), len(job.results)), dtype=np.float32)
            for count in np.unique(counts).tolist():
                places = np.flatnonzero(counts == count)
                for begin in range(0, len(places), together):
                    own = places[begin : begin + together]
                    series = [steps[start : start + count] for start in starts[own].tolist()]
                    values = main_output(model, run_series(model, samples, series))
                    out[own] = top_rows(values, len(own))
            rows[source.number] += len(counts)
            tell(len(counts))
            yield batch, softmax(out) if job.labels else out

    for fields in item["files"]:
        source = DataFile(*fields)
        try:
            _write_parquet(job, source, scored(source))
        except (FileFormatError, InputError) as error:
            bad[source.number] = str(error)
            rows.pop(source.number, None)
    return {"rows": sum(rows.values()), "by_file": list(rows.items()), "bad": list(bad.items())}


def _write_parquet(job: Job, source: DataFile, parts: Iterator[tuple[pa.RecordBatch, Array]]) -> None:
    """Write key columns and results as the output of a file."""
    names = pa.array(job.labels, pa.string()) if job.labels else None
    given = key_columns(source.name)
    kinds = open_parquet(source.path).schema_arrow
    schema = pa.schema(
        [kinds.field(name) for name in (job.columns.series, job.columns.order) if name and name not in given]
        + ([pa.field("label", pa.string())] if job.labels else [])
        + [pa.field(name, pa.float32()) for name in job.results]
    )
    with (
        writing(job, job.folder("new") / source.name, durable=True) as path,
        parquet.ParquetWriter(path, schema) as writer,
    ):
        for keys, values in parts:
            columns = {name: keys.column(name) for name in keys.schema.names}
            if names is not None:
                columns["label"] = names.take(pa.array(values.argmax(axis=1)))
            columns |= {
                name: pa.array(np.ascontiguousarray(values[:, place]))
                for place, name in enumerate(job.results)
            }
            writer.write_table(pa.table(columns, schema=schema))


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return batches as one."""
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _spill(job: Job, part: int) -> Path:
    return job.folder("spill") / f"{part:05d}.arrow"


@contextmanager
def _opened(job: Job, part: int, options: ipc.IpcReadOptions) -> Iterator[ipc.RecordBatchFileReader]:
    with pa.OSFile(str(_spill(job, part))) as raw, ipc.open_file(raw, options=options) as reader:
        yield reader
