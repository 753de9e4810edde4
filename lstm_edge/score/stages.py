"""The stages of a run, each a function that a worker calls for one item of work.

1. ``read_files`` writes the rows of files as a table sorted by the parts that their series belong to.
2. ``score_series`` runs the series of a part through the model in their order.
3. ``write_files`` writes the results in the order of the files, one output per file.

``score_windows`` does all of it for independent rows. A stage takes the run, the number of the item, the item
and a function to call with numbers of processed rows. It reads the files of the previous stage and writes its
own files atomically, so that an item can be repeated if its worker dies.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.hold import Hold
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.prediction import softmax

from .dataset import open_parquet, read_batches
from .job import MOST_PARTS, PLACES, DataFile, Done, Job, Tell, hash_of, open_job_model, writing
from .series import Series, Span, add_samples, from_storage, read_series, write_events, write_series
from .stepping import Stepper
from .tables import as_array, as_column, read_sorted, write_sorted


def read_files(job: Job, number: int, item: Sequence[tuple[DataFile, int, int]], tell: Tell) -> Done:
    """Read row groups of files: (file, row group, number of its first row)."""
    done = Done()
    places = {name: pa.int64() for name in ("file", "row", "place")}
    x_type = pa.binary(job.dtype.itemsize * job.width)
    schema = pa.schema({"series": pa.string(), "order": job.order_storage, **places, "x": x_type})

    def rows() -> Iterator[pa.RecordBatch]:
        for source, group, first in item:
            try:
                for batch in read_batches(source, job, [group], first):
                    keys, size = [batch.series(), batch.order()], len(batch.rows)
                    names = keys[0].dictionary_encode()
                    hashes = [hash_of(name) for name in names.dictionary.to_pylist()]
                    place = PLACES[np.array(hashes, np.int64) % MOST_PARTS][names.indices.to_numpy()]
                    file, row = np.full(size, source.number), np.arange(batch.first, batch.first + size)
                    columns = [*keys, *map(pa.array, (file, row, place)), as_column(batch.features())]
                    done.names.update(hashes)
                    done.by_file[source] += size
                    tell(size)
                    yield pa.record_batch(columns, schema=schema)
            except (FileFormatError, InputError) as error:  # noqa: PERF203
                done.bad[source] = str(error)

    found = rows()
    for slice_, batch in enumerate(found):  # a row group may be larger than memory
        target = job.folder("rows") / f"{number:05d}-{slice_:05d}.parquet"
        batches = chain([batch], _up_to(job.rows - len(batch), found))
        write_sorted(job, target, schema, batches, 'place, "order"')
    done.rows = sum(rows for file, rows in done.by_file.items() if file not in done.bad)
    return done


def _up_to(rows: int, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield batches until they have a number of rows."""
    while rows > 0 and (batch := next(batches, None)) is not None:
        yield batch
        rows -= len(batch)


def score_series(job: Job, number: int, item: tuple[int, Sequence[int]], tell: Tell) -> Done:
    """Run the series of one part through the model, all of them together in the order of their rows.

    The item has the number of parts, and the numbers of files to leave out.

    Raises:
        InputError: a series has one order twice, or rows before the last one that was scored.
    """
    parts, left_out = item
    first, bad = int(PLACES[number]), ", ".join(map(str, [-1, *left_out]))
    where = f"place BETWEEN {first} AND {first + MOST_PARTS // parts - 1} AND file NOT IN ({bad})"
    stepper = Stepper(open_job_model(job.model, job.identity), job.config.reset_every)
    series, seen = read_series(job, number, parts, stepper.reset), set[str]()
    closed: list[tuple[str, Span]] = []
    done = Done()
    schema = pa.schema({"file": pa.int64(), "row": pa.int64(), "values": pa.binary(4 * len(job.results))})
    with (
        writing(job, job.folder("results") / f"{number:05d}.parquet") as path,
        parquet.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as writer,
    ):
        for rows in read_sorted(job, "rows", where, ['"order"']):
            encoded = rows.column("series").dictionary_encode()
            codes, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
            places, counts = np.argsort(codes, kind="stable"), np.bincount(codes)
            order, file, row = (rows.column(key).to_numpy()[places] for key in ("order", "file", "row"))
            ends = np.cumsum(counts)
            own = [
                series.setdefault(name, Series(stepper.reset, Hold(job.config.hold or 1))) for name in names
            ]
            _check_order(job, dict(zip(names, own, strict=True)), codes[places], order, ends - counts, seen)
            states, x = [one.state for one in own], as_array(rows.column("x"), job.dtype)[places]
            values, states = stepper.run(states, counts, x, tell)
            if job.labels:
                values = softmax(values)
            if job.config.events:
                has = ~_without(job, values)
                counted = np.bincount(np.repeat(np.arange(len(own)), counts)[has], minlength=len(own))
                found = add_samples(own, counted, order[has], values[has])
                closed += [(names[code], span) for code, span in found]
            for one, state, last in zip(own, states, order[ends - 1].tolist(), strict=True):
                one.state, one.last = state, last
            seen.update(names)
            done.rows += len(values)
            by_file = np.argsort(file, kind="stable")
            columns = [pa.array(file[by_file]), pa.array(row[by_file]), as_column(values[by_file])]
            writer.write_table(pa.table(columns, schema=schema))
    write_series(job, number, parts, series)
    opened = [(name, each.span) for name, each in series.items() if each.span]
    for kind, spans in (("closed", closed), ("open", opened)):
        name = f"{kind}-{job.number:04d}-{number:05d}.parquet"
        done.events += write_events(job, name, spans, is_open=kind == "open")
    done.series = len(seen)
    return done


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
        return f"{job.config.order} {from_storage(job, [value])[0]}"

    same = 1 + np.flatnonzero((codes[1:] == codes[:-1]) & (order[1:] == order[:-1]))
    twice = [(list(series)[codes[row]], order[row]) for row in same[:1]]
    for (name, one), first in zip(series.items(), order[starts], strict=True):
        if one.last is not None and one.last >= first:
            if name not in seen:
                raise InputError(
                    f"series {name!r} has {say(first)}, but was scored up to {say(one.last)} before; its "
                    "rows came late, score everything without --since"
                )
            twice.append((name, first))
    for name, value in twice[:1]:
        raise InputError(f"series {name!r} has {say(value)} twice; expected a different value in each row")


def write_files(job: Job, _: int, item: Sequence[tuple[DataFile, int]], tell: Tell) -> Done:
    """Write the outputs of some files: (file, rows)."""
    by = ["file", "row"] if len(item) > 1 else ["row"]
    where = f"file BETWEEN {item[0][0].number} AND {item[-1][0].number}"
    parts = (as_array(batch.column("values"), np.float32) for batch in read_sorted(job, "results", where, by))
    rest = np.empty((0, len(job.results)), dtype=np.float32)

    def with_keys(source: DataFile, rows: int) -> Iterator[tuple[pa.RecordBatch, Array]]:
        nonlocal rest
        file = open_parquet(source, job.config)
        if file.metadata.num_rows != rows:
            raise InputError(f"{source.path} changed while it was scored; run again")
        for keys in file.iter_batches(columns=source.stored_keys(job.config), use_threads=False):
            while len(rest) < len(keys):
                rest = np.concatenate([rest, next(parts)])
            yield keys, rest[: len(keys)]
            rest = rest[len(keys) :]
            tell(len(keys))

    for source, rows in item:
        _write_parquet(job, source, with_keys(source, rows))
    return Done(rows=sum(rows for _, rows in item))


def score_windows(job: Job, _: int, item: Sequence[DataFile], tell: Tell) -> Done:
    """Score some files whose rows are windows, and write their outputs."""
    model = open_job_model(job.model, job.identity)
    samples = sample_input(model)
    done = Done()

    def scored(source: DataFile) -> Iterator[tuple[pa.RecordBatch, Array]]:
        for batch in read_batches(source, job):
            steps, counts = batch.windows()
            out = run_series(model, samples, np.split(steps, np.cumsum(counts)[:-1]))
            out = out.astype(np.float32, copy=False)
            done.by_file[source] += len(counts)
            tell(len(counts))
            yield batch.rows, softmax(out) if job.labels else out

    for source in item:
        try:
            _write_parquet(job, source, scored(source))
        except (FileFormatError, InputError) as error:  # noqa: PERF203
            done.bad[source] = str(error)
            del done.by_file[source]
    done.rows = done.by_file.total()
    return done


def _write_parquet(job: Job, source: DataFile, parts: Iterator[tuple[pa.RecordBatch, Array]]) -> None:
    """Write key columns and results as the output of a file."""
    stored, keys = open_parquet(source, job.config).schema_arrow, source.stored_keys(job.config)
    schema = pa.schema(
        [stored.field(name) for name in keys]
        + ([pa.field("label", pa.string())] if job.labels else [])
        + [pa.field(name, pa.float32()) for name in job.results]
    )
    with (
        writing(job, job.folder("new") / source.name, durable=True) as path,
        parquet.ParquetWriter(path, schema) as writer,
    ):
        for batch, values in parts:
            columns, missing = [batch.column(name) for name in keys], _without(job, values)
            if job.labels:
                labels = pa.array(values.argmax(axis=1), mask=missing)
                columns.append(pa.array(job.labels, pa.string()).take(labels))
            columns += [pa.array(each, mask=missing) for each in np.ascontiguousarray(values.T)]
            writer.write_table(pa.table(columns, schema=schema))
