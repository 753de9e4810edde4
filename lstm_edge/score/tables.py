"""Rows between stages: Parquet files, which DuckDB sorts out of core."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_edge_runtime.errors import LstmEdgeError, first_line
from lstm_edge_runtime.manifest import Array

from .job import Job, writing

_BATCH, _GROUP = 131_072, 65_536
"""Maximum number of rows in a batch from DuckDB, and in a row group, which it has in memory while writing."""
_MEMORY = "256MB"
"""Memory limit of DuckDB: twice the rows in memory."""


def write_sorted(job: Job, target: Path, schema: pa.Schema, rows: Iterable[pa.RecordBatch], by: str) -> None:
    """Write rows as one Parquet file, sorted by some of its columns, so that row groups can be skipped."""
    with writing(job, target) as path, _database(job) as database:
        database.register("rows", pa.RecordBatchReader.from_batches(schema, rows))
        database.execute(
            f"COPY (FROM rows ORDER BY {by}) TO {_text(path)} "
            f"(FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {min(_GROUP, max(job.rows // 16, 1))})"
        ).fetchall()


def read_sorted(job: Job, folder: str, where: str, by: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a folder's files that fulfill a condition, sorted, up to ``job.rows`` at once.

    They are sorted in ranges of the first column that fit in memory: DuckDB can't sort rows of several kB out
    of core.
    """
    files = ", ".join(_text(str(path)) for path in sorted(job.folder(folder).glob("*.parquet")))
    if not files:
        return
    found = f"FROM read_parquet([{files}], hive_partitioning = false) WHERE {where}"
    with _database(job) as database:
        ((rows,),) = database.sql(f"SELECT count(*) {found}").fetchall()
        shares = np.linspace(0, 1, rows // job.rows + 1, endpoint=False).tolist()
        ((cuts,),) = database.sql(f"SELECT approx_quantile({by[0]}, {shares}) {found}").fetchall()
        _, *ends = sorted(set(cuts or [0]))
        low = ["", *(f" AND {by[0]} >= {end!r}" for end in ends)]
        high = [*(f" AND {by[0]} < {end!r}" for end in ends), ""]
        for least, most in zip(low, high, strict=True):
            query = f"{found}{least}{most} ORDER BY {', '.join(by)}"
            yield from database.sql(query).to_arrow_reader(min(job.rows, _BATCH))


def as_column(values: Array) -> pa.Array:
    """Return an array ``(n, k)`` as one column with the bytes of each row."""
    size = values.dtype.itemsize * values.shape[1]
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(values), [None, data])


def as_array(column: pa.Array, dtype: npt.DTypeLike) -> Array:
    """Return the array ``(n, k)`` of such a column, as DuckDB returns it."""
    _, offsets, data = column.buffers()
    places = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8)[places[0] : places[-1]].view(dtype).reshape(len(column), -1)


@contextlib.contextmanager
def _database(job: Job) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a database in memory that spills into the run's folder and has access to nothing else.

    Raises:
        LstmEdgeError: DuckDB fails, for example because the disk is full.
    """
    job.folder("tmp").mkdir(exist_ok=True)
    with TemporaryDirectory(dir=job.folder("tmp")) as folder:
        options: dict[str, str | bool | int | float | list[str]] = {
            "threads": 1,
            "memory_limit": _MEMORY,
            "temp_directory": folder,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_persistent_secrets": False,
        }
        try:
            with duckdb.connect(config=options) as database:
                for setting in (
                    f"allowed_directories = [{_text(job.work)}]",
                    "enable_external_access = false",
                    "enable_progress_bar = false",
                    "lock_configuration = true",
                ):
                    database.execute(f"SET {setting}").fetchall()
                yield database
        except duckdb.Error as error:
            raise LstmEdgeError(
                f"DuckDB can't sort rows in {job.work} ({first_line(error)}); free some space there"
            ) from error


def _text(value: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"
