"""The stages of a run, each a function that a worker calls for one item of work.

1. ``read_files`` writes the rows of files as a table that is sorted by the series' buckets.
2. ``score_series`` takes the series of some buckets through the model in their order.
3. ``write_files`` puts the results back into the order of the files and writes one output a file.

``score_windows`` does all of it where rows are independent. A stage takes the run, an item of work, and a
function that it tells how many more rows are done; its result has ``rows``, how many there were. It reads
what the one before wrote and writes files of its own, whole or not at all, so that an item may be done again
after its worker died.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
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
from .job import DataFile, Job, Tell, hash_of, open_job_model, writing
from .memory import Kept, read_kept, write_kept
from .stepping import Stepper
from .tables import GROUP, as_array, as_column, read_table, write_sorted

__all__ = ["read_files", "score_series", "score_windows", "write_files"]

Item = Mapping[str, Any]
Done = dict[str, Any]
_KEYS = {
    "series": pa.string(),
    "order": pa.int64(),
    "file": pa.int32(),
    "row": pa.int64(),
    "bucket": pa.int32(),
}


def read_files(job: Job, item: Item, tell: Tell) -> Done:
    """Read row groups of files.

    The item holds ``part``, the result's number, and ``pieces``, a list of (source, row group, number of its
    first row); the result the rows ``by_file`` and in ``buckets``, ``bad`` with the message by file, and
    ``series``, the hashes of their names.
    """
    by_file: dict[int, int] = {}
    bad: dict[int, str] = {}
    buckets = np.zeros(job.buckets, dtype=np.int64)
    series: set[int] = set()
    schema = pa.schema({**_KEYS, "order": job.order_storage, "x": pa.binary(job.dtype.itemsize * job.width)})

    def rows() -> Iterator[pa.RecordBatch]:
        nonlocal buckets
        for source, pieces in groupby(item["pieces"], key=itemgetter(0)):
            groups, firsts = zip(*(piece[1:] for piece in pieces), strict=True)
            by_file[source.number] = 0
            try:
                for keys, x in read_rows(source, job, groups, firsts[0]):
                    names = keys[0].dictionary_encode()
                    hashes = np.array([hash_of(name) for name in names.dictionary.to_pylist()], np.int64)
                    bucket = (hashes % job.buckets)[names.indices.to_numpy()].astype(np.int32)
                    buckets += np.bincount(bucket, minlength=job.buckets)
                    series.update(hashes.tolist())
                    by_file[source.number] += len(x)
                    tell(len(x))
                    yield pa.record_batch([*keys, pa.array(bucket), as_column(x)], schema=schema)
            except (FileFormatError, InputError) as error:
                bad[source.number] = str(error)
                del by_file[source.number]

    write_sorted(job, job.folder("rows") / f"{item['part']:05d}.parquet", schema, rows(), 'bucket, "order"')
    return {
        "rows": sum(by_file.values()),
        "by_file": by_file,
        "bad": bad,
        "buckets": buckets,
        "series": series,
    }


def score_series(job: Job, item: Item, tell: Tell) -> Done:
    """Take the series of some buckets through the model, all of them together in the order of their rows.

    The item holds ``task``, its number, ``buckets``, how many ``rows`` are in them, and ``bad``, the files to
    leave out; the result how many ``series`` had rows, and how many ``events``.

    Raises:
        InputError: a series has one order twice, or rows before the last one that was scored.
    """
    scorer = _SeriesScorer(job, item["buckets"], tell)
    closed: list[tuple[str, Span]] = []
    schema = pa.schema({"file": pa.int32(), "row": pa.int64(), "values": pa.binary(4 * len(job.results))})
    with (
        writing(job, job.folder("results") / f"{item['task']:05d}.parquet") as path,
        parquet.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer,
    ):
        where = f"bucket IN ({', '.join(map(str, item['buckets']))})"
        for rows in read_table(job, "rows", where, '"order"', item["rows"]):
            good = rows.filter(pa.array(~np.isin(rows.column("file").to_numpy(), item["bad"])))
            if len(good):
                results, ended = scorer.score(good)
                closed += ended
                writer.write_table(pa.Table.from_batches([results], schema), row_group_size=GROUP)
    kept = scorer.kept()
    write_kept(job, kept)
    count = 0
    for kind, spans in (
        ("closed", closed),
        ("open", [(name, each.span) for name, each in kept.items() if each.span]),
    ):
        if events := [(name, span) for name, span in spans if span.label >= 0]:
            count += len(events)
            name = f"{kind}-{job.number:04d}-{item['task']:05d}.parquet"
            with writing(job, job.folder("new") / "_events" / name, durable=True) as path:
                parquet.write_table(event_table(job, events, is_open=kind == "open"), path)
    return {"rows": scorer.rows, "series": len(scorer.last), "events": count}


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

    def score(self, rows: pa.RecordBatch) -> tuple[pa.RecordBatch, list[tuple[str, Span]]]:
        """Score the next rows in their order; return the results by file, and the spans that ended."""
        encoded = rows.column("series").dictionary_encode()
        codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        places, counts = np.argsort(codes, kind="stable"), np.bincount(codes)
        order, file, row = (rows.column(key).to_numpy()[places] for key in ("order", "file", "row"))
        ends = np.cumsum(counts)
        starts = ends - counts
        self._check(names, codes[places], order, starts)
        x = as_array(rows.column("x"), self._job.dtype)[places]
        values = self._stepper.run(names, counts, x, self._tell)
        if self._job.labels:
            values = softmax(values)
        self.last.update(zip(names, order[ends - 1].tolist(), strict=True))
        self.rows += len(values)
        ended = self._spans.take(names, counts, order, values) if self._job.events else []
        by_file = np.argsort(file, kind="stable")
        columns = [pa.array(file[by_file]), pa.array(row[by_file]), as_column(values[by_file])]
        return pa.record_batch(columns, ["file", "row", "values"]), ended

    def _check(self, names: Sequence[str], codes: Array, order: Array, starts: Array) -> None:
        """Let series go on from an earlier run; raise ``InputError`` where their rows can't follow."""
        twice = [(codes[place], order[place]) for place in _repeated(codes, order)[:1]]
        for code, (name, start) in enumerate(zip(names, starts.tolist(), strict=True)):
            if kept := self._kept.pop(name, None):
                self._stepper.restore(name, kept.state, kept.age)
                self._spans.holds[name].restore(*kept.hold)
                if kept.span is not None:
                    self._spans.last[name] = kept.span
                if order[start] <= kept.last:
                    raise InputError(
                        f"series {name!r} has {self._say(order[start])}, but was scored up to "
                        f"{self._say(kept.last)} before; its rows came late, score everything without --since"
                    )
            elif self.last.get(name) == order[start]:
                twice.append((code, order[start]))
        if twice:
            code, place = twice[0]
            raise InputError(
                f"series {names[code]!r} has {self._say(place)} twice; expected a different value in each row"
            )

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


def _repeated(codes: Array, order: Array) -> Array:
    """Return the places of sorted rows whose series and order are those of the row before."""
    return 1 + np.flatnonzero((codes[1:] == codes[:-1]) & (order[1:] == order[:-1]))


def write_files(job: Job, item: Item, tell: Tell) -> Done:
    """Write the outputs of some files.

    The item holds ``files``, a list of (source, rows).
    """
    values = {source.number: _array(job, rows) for source, rows in item["files"]}
    filled = dict.fromkeys(values, 0)
    for batch in read_table(job, "results", f"file BETWEEN {min(values)} AND {max(values)}"):
        file, row = (batch.column(key).to_numpy() for key in ("file", "row"))
        results = as_array(batch.column("values"), np.float32)
        for number in np.unique(file).tolist():
            own = file == number
            values[number][row[own]] = results[own]
            filled[number] += int(own.sum())
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
        for keys, steps, counts in read_windows(source, job):
            out = run_series(model, samples, np.split(steps, np.cumsum(counts)[:-1]))
            out = out.astype(np.float32, copy=False)
            rows[source.number] += len(counts)
            tell(len(counts))
            yield keys, softmax(out) if job.labels else out

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
            columns = [keys.column(name) for name in stored_keys(source, job.columns)]
            if names is not None:
                columns.append(names.take(pa.array(values.argmax(axis=1))))
            columns += [pa.array(each) for each in np.ascontiguousarray(values.T)]
            writer.write_table(pa.table(columns, schema=schema))
