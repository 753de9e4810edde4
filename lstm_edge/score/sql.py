"""The queries: DuckDB reads, checks, partitions and sorts rows, out of core."""

# ruff: noqa: S608

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line

VERSION = duckdb.__version__  # another one may hash names in another way
_MEMORY = "256MB"
_BATCH = 131_072
_BAD = "bad row: "
MAX_INT64 = 2**63 - 1


@contextmanager
def connect(work: str | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a database that spills into a folder of its own in ``work``; errors are
    ``LstmEdgeError``.
    """
    with TemporaryDirectory(dir=work, prefix="_spill-") as folder:
        config: dict[str, Any] = {
            "threads": 1,
            "memory_limit": _MEMORY,
            "temp_directory": folder,
        }
        config |= {
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
        }
        try:
            with duckdb.connect(config=config) as database:
                database.execute("SET enable_progress_bar = false")
                yield database
        except (duckdb.Error, pa.ArrowException) as error:
            line = first_line(error)
            if _BAD in line:
                raise InputError(line.split(_BAD, 1)[1]) from error
            raise FileFormatError(
                f"the data can't be read or sorted ({line})"
            ) from error


def count_series(paths: Sequence[str], series: str, *, key: bool) -> int:
    """Return about the number of series in files."""
    with connect() as database:
        query = (
            f"SELECT approx_count_distinct({_name(series)}) FROM"
            f" {_files(paths, key=key)}"
        )
        return int(database.execute(query).fetchall()[0][0])


def write_partitions(
    target: Path,
    paths: Sequence[str],
    names: tuple[str, str, Sequence[str]],
    partitions: int,
    *,
    order_type: str,
    key: bool,
) -> None:
    """Write the rows of files to ``target``, a folder ``part=K`` for the series of
    partition K.

    ``names`` are the columns of series, order and features, which become ``series``,
    ``order``, and ``x0``, ``x1``, ... in float32. A cell that is empty, not finite or
    out of range raises ``InputError`` with file, row and column.
    """
    series, order, features = names
    text = f"CAST({_name(series)} AS VARCHAR)"
    columns = [
        f"CAST({_name(name)} AS FLOAT) AS x{index}"
        for index, name in enumerate(features)
    ]
    checks = [
        f"WHEN {_name(series)} IS NULL {_raise(series, 'text or an integer')}",
        f"WHEN {_name(order)} IS NULL {_raise(order, 'a number or a time')}",
        *_order_checks(order, order_type),
        *(
            f"WHEN NOT coalesce(isfinite(TRY_CAST({_name(x)} AS FLOAT)), false)"
            f" {_raise(x, 'a finite number')}"
            for x in features
        ),
    ]
    with connect(str(target.parent)) as database:
        database.execute(
            f'COPY (SELECT {text} AS series, {_name(order)} AS "order",'
            f" {', '.join(columns)}, "
            f"hash({text}) % {partitions} AS part FROM {_files(paths, True, key=key)} "
            f"WHERE CASE {' '.join(checks)} ELSE true END) "
            f"TO {_text(target)} (FORMAT parquet, COMPRESSION lz4, PARTITION_BY (part))"
        )


@contextmanager
def sorted_rows(work: str, number: int) -> Iterator[Iterator[pa.RecordBatch]]:
    """Yield the rows of a partition in batches, sorted by order: all series advance
    together.
    """
    paths = sorted(map(str, Path(work).glob(f"_rows/*/part={number}/*.parquet")))
    query = f'SELECT * FROM {_files(paths)} ORDER BY "order"'
    with connect(work) as database:
        yield iter(database.sql(query).to_arrow_reader(_BATCH)) if paths else iter(())


def series_of(work: str, number: int) -> dict[str, int]:
    """Return the number of rows of each series in a partition, by its name."""
    paths = sorted(map(str, Path(work).glob(f"_rows/*/part={number}/*.parquet")))
    query = f"SELECT series, count(*) FROM {_files(paths)} GROUP BY series"
    with connect(work) as database:
        return dict(database.execute(query).fetchall()) if paths else {}


def states_of(folder: Path, number: int, partitions: int) -> pa.Table | None:
    """Return the states of the series in a partition from those of a run with any
    number of partitions.
    """
    paths = sorted(str(path) for path in folder.glob("*.parquet") if path.is_file())
    query = (
        f"SELECT * FROM {_files(paths)} WHERE hash(series) % {partitions} = {number} ORDER BY"
        " series"
    )
    with connect() as database:
        return database.sql(query).to_arrow_table() if paths else None


def _order_checks(order: str, column_type: str) -> Iterator[str]:
    """Yield the check of an order's values, if those of its type may not fit."""
    if column_type in ("halffloat", "float", "double"):
        is_finite = f"isfinite({_name(order)})"
        yield f"WHEN NOT {is_finite} {_raise(order, 'a finite number')}"
    if column_type == "uint64":
        expected = f"an integer up to {MAX_INT64}"
        yield f"WHEN {_name(order)} > {MAX_INT64} {_raise(order, expected)}"


def _raise(column: str, expected: str) -> str:
    """Return the end of a check that raises an error with the place of a cell."""
    value = f"coalesce(CAST({_name(column)} AS VARCHAR), 'empty')"
    return (
        f"THEN error(concat({_text(_BAD)}, lstm_edge_file, ' row ', file_row_number +"
        f" 1, {_text(f', column {column!r} is ')}, {value},"
        f" {_text(f', expected {expected}')}))"
    )


def _files(paths: Sequence[str], rows: bool = False, *, key: bool = False) -> str:
    """Return the table of files; ``rows`` adds the name of the file and the number of
    the row.
    """
    options = [f"hive_partitioning = {str(key).lower()}"]
    if key:
        options.append("hive_types_autocast = false")
    if rows:
        options += ["filename = 'lstm_edge_file'", "file_row_number = true"]
    # names are patterns to DuckDB
    literal = [re.sub(r"[*?\[]", r"[\g<0>]", path) for path in paths]
    files = ", ".join(map(_text, literal))
    return f"read_parquet([{files}], {', '.join(options)})"


def _name(column: str) -> str:
    """Return a column's name as a quoted SQL identifier."""
    return '"' + column.replace('"', '""') + '"'


def _text(value: object) -> str:
    """Return a value as a quoted SQL string."""
    return "'" + str(value).replace("'", "''") + "'"
