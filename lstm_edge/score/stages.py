"""The stages of a run, each a function that a worker calls for one item of work.

1. ``read_files`` writes the rows of files as a table sorted by the buckets of their series.
2. ``score_series`` runs the series of some buckets through the model in their order.
3. ``write_files`` writes the results in the order of the files, one output per file.

``score_windows`` does all of it for independent rows. A stage has as arguments the run, an item of work, and
a function to call with numbers of processed rows; its result has ``rows``, their total. It reads the files of
the previous stage and writes its own files atomically, so that an item can be repeated if its worker dies.
"""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.prediction import softmax

from .dataset import open_parquet, read_rows, read_windows, stored_keys
from .job import DataFile, Job, Tell, hash_of, open_job_model, writing
from .series import Series, Span, add_samples, from_storage, read_series, write_events, write_series
from .stepping import Stepper
from .tables import GROUP, as_array, as_column, read_table, write_sorted

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

    The item has ``part``, the number of the result, and ``pieces``, a list of (source, row group, number of
    its first row); the result has the rows ``by_file`` and in ``buckets``, ``bad`` with the message by file,
    and ``series``, the hashes of their names.
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
    """Run the series of some buckets through the model, all of them together in the order of their rows.

    The item has ``task``, its number, ``buckets``, the number of ``rows`` in them, and ``bad``, the files
    to leave out; the result has the number of ``series`` that had rows, and of ``events``.

    Raises:
        InputError: a series has one order twice, or rows before the last one that was scored.
    """
    stepper = Stepper(open_job_model(job.model, job.identity, job.engine), job.reset_every)
    series, seen = read_series(job, item["buckets"], stepper.reset), set[str]()
    closed: list[tuple[str, Span]] = []
    total = 0
    schema = pa.schema({"file": pa.int32(), "row": pa.int64(), "values": pa.binary(4 * len(job.results))})
    with (
        writing(job, job.folder("results") / f"{item['task']:05d}.parquet") as path,
        parquet.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer,
    ):
        where = f"bucket IN ({', '.join(map(str, item['buckets']))})"
        for every in read_table(job, "rows", where, '"order"', item["rows"]):
            rows = every.filter(pa.array(~np.isin(every.column("file").to_numpy(), item["bad"])))
            if not len(rows):
                continue
            encoded = rows.column("series").dictionary_encode()
            codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
            places, counts = np.argsort(codes, kind="stable"), np.bincount(codes)
            order, file, row = (rows.column(key).to_numpy()[places] for key in ("order", "file", "row"))
            ends = np.cumsum(counts)
            own = [series.setdefault(name, Series(stepper.reset, Hold(job.hold))) for name in names]
            _check_order(job, dict(zip(names, own, strict=True)), codes[places], order, ends - counts, seen)
            states, x = [one.state for one in own], as_array(rows.column("x"), job.dtype)[places]
            values, states = stepper.run(states, counts, x, tell)
            if job.labels:
                values = softmax(values)
            if job.events:
                has = ~_without(job, values)
                counted = np.bincount(np.repeat(np.arange(len(own)), counts)[has], minlength=len(own))
                found = add_samples(own, counted, order[has], values[has])
                closed += [(names[code], span) for code, span in found]
            for one, state, last in zip(own, states, order[ends - 1].tolist(), strict=True):
                one.state, one.last = state, last
            seen.update(names)
            total += len(values)
            by_file = np.argsort(file, kind="stable")
            columns = [pa.array(file[by_file]), pa.array(row[by_file]), as_column(values[by_file])]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP)
    write_series(job, series)
    opened = [(name, each.span) for name, each in series.items() if each.span]
    events = 0
    for kind, spans in (("closed", closed), ("open", opened)):
        name = f"{kind}-{job.number:04d}-{item['task']:05d}.parquet"
        events += write_events(job, name, spans, is_open=kind == "open")
    return {"rows": total, "series": len(seen), "events": events}


def _without(job: Job, values: Array) -> Array:
    """Return which rows ``(n, C)`` have no result, as their samples complete no frame."""
    return np.logical_and(np.isnan(values).all(axis=1), job.late)


def _check_order(
    job: Job, series: Mapping[str, Series], codes: Array, order: Array, starts: Array, seen: Collection[str]
) -> None:
    """Raise ``InputError`` if sorted rows of series can't follow those before them.

    Args:
        job: the run.
        series: by name, in the order of ``codes``.
        codes: index of each row's series ``(n,)``.
        order: of the rows ``(n,)``.
        starts: index of the first row of each series.
        seen: names of the series that had rows in this run.
    """

    def say(value: Any) -> str:
        return f"{job.columns.order} {from_storage(job, [value])[0]}"

    names = list(series)
    same = 1 + np.flatnonzero((codes[1:] == codes[:-1]) & (order[1:] == order[:-1]))
    twice = [(names[codes[row]], order[row]) for row in same[:1]]
    for (name, one), start in zip(series.items(), starts.tolist(), strict=True):
        if one.last is None or one.last < order[start]:
            continue
        if name not in seen:
            raise InputError(
                f"series {name!r} has {say(order[start])}, but was scored up to {say(one.last)} before; its "
                "rows came late, score everything without --since"
            )
        twice.append((name, order[start]))
    if twice:
        name, value = twice[0]
        raise InputError(f"series {name!r} has {say(value)} twice; expected a different value in each row")


def write_files(job: Job, item: Item, tell: Tell) -> Done:
    """Write the outputs of some files.

    The item has ``files``, a list of (source, rows).
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
        _write_parquet(job, source, _with_keys(job, source, values[source.number], tell))
    return {"rows": sum(filled.values())}


def _array(job: Job, rows: int) -> Array:
    """Return an array for the results of a file; on disk if it may not fit in memory."""
    shape = (rows, len(job.results))
    if rows <= job.rows:
        return np.empty(shape, dtype=np.float32)
    with tempfile.TemporaryFile(dir=job.folder("tmp")) as file:  # it stays as long as it is mapped
        return np.memmap(file, dtype=np.float32, mode="w+", shape=shape)


def _with_keys(
    job: Job, source: DataFile, values: Array, tell: Tell
) -> Iterator[tuple[pa.RecordBatch, Array]]:
    """Yield the key columns of a file with its results; raises ``InputError`` if their numbers differ."""
    file, done = open_parquet(source, job.columns), 0
    if file.metadata.num_rows != len(values):
        raise InputError(f"{source.path} changed while it was scored; run again")
    for batch in file.iter_batches(columns=stored_keys(source, job.columns), use_threads=False):
        done += len(batch)
        yield batch, values[done - len(batch) : done]
        tell(len(batch))


def score_windows(job: Job, item: Item, tell: Tell) -> Done:
    """Score some files whose rows are windows, and write their outputs.

    The item has ``files``, a list of sources; the result has the rows ``by_file``, and ``bad`` with the
    message by file.
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
            missing = _without(job, values)
            if names is not None:
                columns.append(names.take(pa.array(values.argmax(axis=1), mask=missing)))
            columns += [pa.array(each, mask=missing) for each in np.ascontiguousarray(values.T)]
            writer.write_table(pa.table(columns, schema=schema))
