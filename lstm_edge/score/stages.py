"""The stages of a run, each a function that a worker calls for one item of work.

1. ``split_files`` reads files and splits their rows by series into buckets.
2. ``score_series`` takes the series of some buckets through the model in their order.
3. ``write_files`` puts the results back into the order of the files and writes one output a file.

``score_windows`` does all of it where rows are independent. A stage takes the run, an item of work, and a
function that it tells how many more rows are done; its result has ``rows``, how many there were. It reads
what the one before wrote and writes files of its own, whole or not at all, so that an item may be done again
after its worker died.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.prediction import softmax

from .dataset import open_parquet, read_rows, read_windows, stored_keys
from .events import Span, Spans, event_table, from_storage
from .job import DataFile, Job, Tell, fixed_lists, from_fixed_lists, hash_of, open_job_model, writing
from .memory import Kept, read_kept, write_kept
from .shuffle import Shuffled, shuffle_writer
from .stepping import Stepper

__all__ = ["score_series", "score_windows", "split_files", "write_files"]

Item = Mapping[str, Any]
Done = dict[str, Any]
_SPLIT = 262_144
"""Rows that are split at once: a bucket's share of them is one record batch."""
_POINTS = 64
"""Places of a batch that are looked at to find where to cut the order."""
_ORDER = 1
"""The order's place among the spilled columns."""


def split_files(job: Job, item: Item, tell: Tell) -> Done:
    """Split the rows of some files into buckets.

    The item holds ``part``, the result's number, and ``pieces``, a list of (source, row group, number of its
    first row); the result the rows ``by_file`` and in ``buckets``, ``bad`` with the message by file, and
    ``series``, the hashes of their names.
    """
    by_file: dict[int, int] = {}
    bad: dict[int, str] = {}
    buckets, series = np.zeros(job.buckets, dtype=np.int64), np.empty(0, dtype=np.int64)
    with shuffle_writer(job, "spill", item["part"], job.spill_schema) as write:
        waiting: list[pa.RecordBatch] = []

        def split() -> None:
            nonlocal buckets, series
            batch = _joined(waiting)
            waiting.clear()
            encoded = batch.column("series").dictionary_encode()
            hashes = np.array([hash_of(name) for name in encoded.dictionary.to_pylist()], np.int64)
            bucket = (hashes % job.buckets)[encoded.indices.to_numpy()]
            write(batch, bucket)
            buckets += np.bincount(bucket, minlength=job.buckets)
            series = np.union1d(series, hashes)

        for source, pieces in groupby(item["pieces"], key=itemgetter(0)):
            groups, firsts = zip(*(piece[1:] for piece in pieces), strict=True)
            by_file[source.number] = 0
            try:
                for batch in read_rows(source, job, groups, firsts[0]):
                    waiting.append(batch)
                    by_file[source.number] += len(batch)
                    tell(len(batch))
                    if sum(map(len, waiting)) >= min(_SPLIT, job.rows):
                        split()
            except (FileFormatError, InputError) as error:
                bad[source.number] = str(error)
                del by_file[source.number]
        if waiting:
            split()
    rows = sum(by_file.values())
    return {"rows": rows, "by_file": by_file, "bad": bad, "buckets": buckets, "series": series}


def score_series(job: Job, item: Item, tell: Tell) -> Done:
    """Take the series of some buckets through the model.

    A bucket that is larger than memory is taken in ranges of the order, states carried.

    The item holds ``task``, its number, ``parts``, how many files the first stage wrote, ``buckets``, and
    ``bad``, the files to leave out; the result how many ``series`` had rows, and how many ``events``.

    Raises:
        InputError: a series has one order twice, or rows before the last one that was scored.
    """
    scorer = _SeriesScorer(job, item["buckets"], tell)
    closed: list[tuple[str, Span]] = []
    with shuffle_writer(job, "results", item["task"], job.result_schema) as write:
        for rows in _in_order(job, item):
            closed += scorer.score(rows, write)
    kept = scorer.kept()
    write_kept(job, kept)
    open_events = [(name, each.span) for name, each in kept.items() if each.span]
    found = {
        kind: [(name, span) for name, span in spans if span.label >= 0]
        for kind, spans in (("closed", closed), ("open", open_events))
    }
    for kind, events in found.items():
        if events:
            name = f"{kind}-{job.number:04d}-{item['task']:05d}.parquet"
            with writing(job, job.folder("new") / "_events" / name, durable=True) as path:
                parquet.write_table(event_table(job, events, is_open=kind == "open"), path)
    return {"rows": scorer.rows, "series": len(scorer.last), "events": sum(map(len, found.values()))}


class _SeriesScorer:
    """Scores rows of series that may go on from an earlier run."""

    def __init__(self, job: Job, buckets: Sequence[int], tell: Tell) -> None:
        """Read what an earlier run kept of the series of some buckets."""
        self._job, self._tell = job, tell
        model = open_job_model(job.model, job.identity, job.engine)
        self._stepper = Stepper(model, job.reset_every)
        reset = model.stream(reset_every="never").state
        self._kept: dict[str, Kept] = {}
        for bucket in buckets:
            self._kept |= read_kept(job, bucket, reset)
        self.last: dict[str, int | float] = {}
        """The last order of each series that had rows."""
        self._spans = Spans(job.hold)
        self.rows = 0

    def score(self, rows: "_Rows", write: Callable[..., None]) -> list[tuple[str, Span]]:
        """Score the next rows, and return the events that ended."""
        names, counts = rows.names, rows.counts
        starts = np.cumsum(counts) - counts
        for name, start in zip(names, starts.tolist(), strict=True):
            if name in self._kept and name not in self.last:
                kept = self._kept[name]
                self._stepper.restore(name, kept.state, kept.age)
                self.last[name] = kept.last
                self._spans.holds[name].restore(*kept.hold)
                if kept.span is not None:
                    self._spans.last[name] = kept.span
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
        schema = self._job.result_schema
        columns = [pa.array(rows.row), fixed_lists(values, schema.field("values").type)]
        write(pa.record_batch(columns, schema=schema), rows.file)
        self.rows += len(values)
        return self._spans.take(names, counts, rows.order, values) if self._job.events else []

    def kept(self) -> dict[str, Kept]:
        """Return what is to be kept of all series, those without rows included."""
        kept = dict(self._kept)
        for name, last in self.last.items():
            state = self._stepper.state(name)
            kept[name] = Kept(
                last, self._spans.last.get(name), state, state.age, self._spans.holds[name].saved
            )
        return kept

    def _say(self, order: Any) -> str:
        return f"{self._job.columns.order} {from_storage(self._job, [order])[0]}"


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
            place = from_storage(job, [self.order[same[0]]])[0]
            raise InputError(
                f"series {self.names[codes[same[0]]]!r} has {job.columns.order} {place} twice; expected a "
                "different value in each row"
            )


def _in_order(job: Job, item: Item) -> Iterator[_Rows]:
    """Yield the rows of some buckets in ranges of the order, each with about as many as memory may hold."""
    parts = [Shuffled(job, "spill", part) for part in range(item["parts"])]
    found: list[tuple[int, int, Any, Any]] = []
    """Part, batch, and the first and last order in it."""
    sketch, weights = [], []
    for number, part in enumerate(parts):
        places = part.places(item["buckets"])
        for place, batch in zip(places, part.read(places, [_ORDER]), strict=True):
            order = np.sort(batch.column(0).to_numpy())
            found.append((number, place, order[0], order[-1]))
            points = order[np.linspace(0, len(order) - 1, min(_POINTS, len(order))).astype(int)]
            sketch.append(points)
            weights.append(np.full(len(points), len(order) / len(points)))
    if not found:
        return
    cuts = _cuts(np.concatenate(sketch), np.concatenate(weights), job.rows)
    for low, high in pairwise([-np.inf, *cuts, np.inf]):
        batches = []
        for number, own in groupby(found, key=itemgetter(0)):
            places = [place for _, place, first, last in own if first < high and last >= low]
            for batch in parts[number].read(places):
                order, file = (batch.column(name).to_numpy() for name in ("order", "file"))
                keep = (order >= low) & (order < high) & ~np.isin(file, item["bad"])
                batches.append(batch.filter(pa.array(keep)))
        if any(map(len, batches)):
            yield _Rows(job, _joined(batches))


def _joined(batches: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return batches as one."""
    return pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def _cuts(points: Array, weights: Array, most: int) -> list[Any]:
    """Return where to cut weighted points so that about ``most`` lie between two cuts."""
    places = np.argsort(points, kind="stable")
    points, reached = points[places], np.cumsum(weights[places])
    goals = np.arange(most, reached[-1], most)
    return np.unique(points[np.searchsorted(reached, goals)]).tolist() if len(goals) else []


def write_files(job: Job, item: Item, tell: Tell) -> Done:
    """Write the outputs of some files.

    The item holds ``tasks``, how many the second stage had, and ``files``, a list of (source, rows).
    """
    values = {source.number: _array(job, rows) for source, rows in item["files"]}
    filled = dict.fromkeys(values, 0)
    for task in range(item["tasks"]):
        results = Shuffled(job, "results", task)
        places = results.places(list(values))
        for file, batch in zip(results.keys[places].tolist(), results.read(places), strict=True):
            values[file][batch.column("row").to_numpy()] = from_fixed_lists(batch.column("values"))
            filled[file] += len(batch)
    for source, rows in item["files"]:
        done = filled[source.number]
        assert done == rows, f"{source.name}: {done} of {rows} rows were scored"
        _write_output(job, source, values[source.number], tell)
    return {"rows": sum(filled.values())}


def _array(job: Job, rows: int) -> Array:
    """Return room for a file's results; on disk where memory may not hold it."""
    shape = (rows, len(job.results))
    if rows <= job.rows:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile(dir=job.folder("tmp")) as file:  # it stays until nothing maps it
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _write_output(job: Job, source: DataFile, values: Array, tell: Tell) -> None:
    done = 0

    def parts() -> Iterator[tuple[pa.RecordBatch, Array]]:
        nonlocal done
        keys = stored_keys(source, job.columns)
        for batch in open_parquet(source, job.columns).iter_batches(columns=keys, use_threads=False):
            done += len(batch)
            yield batch, values[done - len(batch) : done]
            tell(len(batch))

    _write_parquet(job, source, parts())
    if done != len(values):
        raise InputError(f"{source.path} changed while it was scored; run again")


def score_windows(job: Job, item: Item, tell: Tell) -> Done:
    """Score some files whose rows are windows, and write their outputs.

    The item holds ``files``, a list of sources; the result the rows ``by_file``, and ``bad`` with the message
    by file.
    """
    model = open_job_model(job.model, job.identity, job.engine)
    samples = sample_input(model)
    rows: dict[int, int] = {}
    bad: dict[int, str] = {}

    def scored(source: DataFile) -> Iterator[tuple[pa.RecordBatch, Array]]:
        rows[source.number] = 0
        for batch, steps, counts in read_windows(source, job):
            series = np.split(steps, np.cumsum(counts)[:-1])
            out = run_series(model, samples, series).astype(np.float32, copy=False)
            rows[source.number] += len(counts)
            tell(len(counts))
            yield batch, softmax(out) if job.labels else out

    for source in item["files"]:
        try:
            _write_parquet(job, source, scored(source))
        except (FileFormatError, InputError) as error:  # noqa: PERF203
            bad[source.number] = str(error)
            rows.pop(source.number, None)
    return {"rows": sum(rows.values()), "by_file": rows, "bad": bad}


def _write_parquet(job: Job, source: DataFile, parts: Iterator[tuple[pa.RecordBatch, Array]]) -> None:
    """Write key columns and results as the output of a file."""
    names = pa.array(job.labels, pa.string()) if job.labels else None
    stored = open_parquet(source, job.columns).schema_arrow
    schema = pa.schema(
        [stored.field(name) for name in stored_keys(source, job.columns)]
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
