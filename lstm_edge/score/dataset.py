"""The files of a data set, and their rows as arrays."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import compute, parquet

from lstm_edge.data.recordings import missing_name, usable
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.manifest import Array

from .job import Columns, DataFile, Job, exact_order

__all__ = ["find_files", "open_parquet", "read_rows", "read_windows", "stored_keys"]

_BATCH, _BATCH_BYTES = 65_536, 2**25
"""Rows decoded at once, and bytes of them as the file's footer says."""
_ADVICE = "mend it, or leave such files out by --skip-bad"


def find_files(dataset: str) -> list[DataFile]:
    """Return the Parquet files of a folder, a glob or a single path, sorted by name.

    Names that begin with ``_`` or ``.`` are passed over, as Parquet's readers do.

    Raises:
        NotFoundError: there is none.
    """
    path = Path(dataset)
    if path.is_dir():
        root, found = path, [each for each in path.rglob("*.parquet") if each.is_file()]
    elif path.is_file():
        root, found = path.parent, [path]
    else:
        parts = path.parts
        fixed = next((place for place, part in enumerate(parts) if glob.has_magic(part)), None)
        if fixed is None:
            raise NotFoundError(f"{dataset} is not there; name a folder, a file, or a glob in quotes")
        root = Path(*parts[:fixed])
        found = [Path(each) for each in glob.glob(dataset, recursive=True)]  # noqa: PTH207
        found = [each for each in found if each.is_file()]
    files: list[DataFile] = []
    for each in sorted(found):
        name = each.relative_to(root).as_posix()
        if not any(part.startswith(("_", ".")) for part in name.split("/")):
            about = each.stat()
            files.append(DataFile(len(files), str(each.absolute()), name, about.st_size, about.st_mtime_ns))
    if not files:
        raise NotFoundError(f"{dataset} has no .parquet file; name a folder, a file, or a glob in quotes")
    return files


def open_parquet(source: DataFile, columns: Columns) -> parquet.ParquetFile:
    """Open a file that has these columns.

    Raises:
        FileFormatError: it can't be read as Parquet.
        InputError: it lacks a column.
    """
    with _readable(source):
        file = parquet.ParquetFile(source.path, pre_buffer=False)
        stored = file.schema_arrow.names
    have = [*stored, *_path_columns(source)]
    for option, column in (("--series", columns.series), ("--order", columns.order)):
        if column is not None and column not in have:
            raise missing_name(Path(source.path), "column", column, have, f"name the right one by {option}")
    for column in columns.features:
        if column not in stored:
            raise missing_name(Path(source.path), "column", column, have, "name the features by --features")
    needed = (*stored_keys(source, columns), *columns.features)
    if twice := next((column for column in needed if stored.count(column) > 1), None):
        raise InputError(
            f"{source.path} has {stored.count(twice)} columns {twice!r}, expected one; {_ADVICE}"
        )
    return file


def stored_keys(source: DataFile, columns: Columns) -> list[str]:
    """Return which of the columns of series and order are in the file itself, not in its path."""
    given = _path_columns(source)
    return [name for name in (columns.series, columns.order) if name and name not in given]


def _path_columns(source: DataFile) -> dict[str, str]:
    """Return what the folders of a file's name say of its rows: ``day=17`` is a column ``day``."""
    pairs = (part.partition("=") for part in source.name.split("/")[:-1])
    return {key: value for key, equals, value in pairs if key and equals}


@contextmanager
def _readable(source: DataFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(
            f"{source.path} can't be read as Parquet ({first_line(error)}); {_ADVICE}"
        ) from error


def read_rows(
    source: DataFile, job: Job, groups: Sequence[int], first: int
) -> Iterator[tuple[list[pa.Array], Array]]:
    """Yield the rows of a file's row groups: series, order, file and row, and the features ``(n, I)``.

    Args:
        source: the file.
        job: the run.
        groups: its row groups to read.
        first: the number of the first row in them.

    Raises:
        FileFormatError, InputError: the file can't be read, lacks a column, or holds a cell that is no use.
    """
    columns, given = job.columns, _path_columns(source)
    if columns.order in given:
        raise InputError(
            f"{source.path}: column {columns.order!r} is in its path, expected one in the file, a number "
            "or time for each row"
        )
    for batch in _batches(source, job, groups):
        if columns.series in given:
            series = pa.array([given[columns.series]] * len(batch), pa.string())
        else:
            series = _series(source, _filled(source, batch, str(columns.series), first))
        order = _order(source, _filled(source, batch, str(columns.order), first), job)
        file = pa.array(np.full(len(batch), source.number, dtype=np.int32))
        row = pa.array(np.arange(first, first + len(batch)))
        features = [_filled(source, batch, name, first) for name in columns.features]
        yield [series, order, file, row], _features(source, columns.features, features, job, first)
        first += len(batch)


def read_windows(source: DataFile, job: Job) -> Iterator[tuple[pa.RecordBatch, Array, Array]]:
    """Yield a file's rows as a batch of the key columns, all steps ``(steps, I)``, and each row's ``(n,)``.

    A feature's column holds a list of L values in each row, or one value; or one column holds L lists of I.

    Raises:
        FileFormatError, InputError: as ``read_rows``.
    """
    first = 0
    for batch in _batches(source, job):
        steps, counts = _windows(source, batch, job, first)
        yield batch.select(stored_keys(source, job.columns)), steps, counts
        first += len(batch)


def _batches(source: DataFile, job: Job, groups: Sequence[int] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the columns that a run needs, in batches that memory holds."""
    file = open_parquet(source, job.columns)
    about = file.metadata
    size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    rows = max(1, min(_BATCH, job.rows, _BATCH_BYTES * about.num_rows // max(size, 1)))
    columns = [*stored_keys(source, job.columns), *job.columns.features]
    batches = file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False)
    with _readable(source):
        yield from batches


def _filled(source: DataFile, batch: pa.RecordBatch, name: str, first: int) -> pa.Array:
    """Return a column; raise ``InputError`` for an empty cell."""
    column = batch.column(name)
    if column.null_count:
        row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise InputError(f"{source.path} row {row + 1}, column {name!r} is empty; {_ADVICE}")
    return column


def _series(source: DataFile, column: pa.Array) -> pa.Array:
    try:
        names = column.cast(pa.string())
        names.validate(full=True)
    except pa.ArrowException as error:
        raise InputError(
            f"{source.path}: the column of series holds no names ({first_line(error)})"
        ) from error
    return names


def _order(source: DataFile, column: pa.Array, job: Job) -> pa.Array:
    kind = column.type
    exact, own = exact_order(kind), exact_order(job.order_type)
    if exact is None or own is None or exact.id != own.id:
        raise InputError(
            f"{source.path}: column {job.columns.order!r} is {kind}, expected {job.order_type} as in the "
            "first file"
        )
    try:
        column = column.cast(exact).cast(job.order_storage)
    except pa.ArrowException as error:
        raise InputError(f"{source.path}: column {job.columns.order!r}: {first_line(error)}") from error
    if pa.types.is_floating(kind) and not np.isfinite(column.to_numpy()).all():
        raise InputError(f"{source.path}: column {job.columns.order!r} holds a number that is not finite")
    return column


def _features(
    source: DataFile, names: Sequence[str], columns: Sequence[pa.Array], job: Job, first: int
) -> Array:
    """Return columns as ``(n, I)``."""
    numbers = [
        _numbers(source, column, name, job.dtype, first) for name, column in zip(names, columns, strict=True)
    ]
    return np.stack(numbers, axis=1)


def _numbers(source: DataFile, column: pa.Array, name: str, dtype: npt.DTypeLike, first: int) -> Array:
    """Return a column's cells in ``dtype``; raise ``InputError`` for one that is no finite number."""
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise InputError(
            f"{source.path}: column {name!r} is {kind}, expected numbers; --by-window reads lists"
        )
    values = column.to_numpy(zero_copy_only=False)
    wrong = ~usable(values)
    if not np.issubdtype(dtype, np.floating):
        with np.errstate(invalid="ignore"):
            wrong |= values != values.astype(dtype)
    if (places := np.flatnonzero(wrong)).size:
        cell = values[places[0]]
        raise InputError(
            f"{source.path} row {first + int(places[0]) + 1}, column {name!r} is {cell}, expected a finite "
            f"{'number' if np.issubdtype(dtype, np.floating) else f'{np.dtype(dtype)} number'}; {_ADVICE}"
        )
    numbers: Array = values.astype(dtype, copy=False)
    return numbers


def _windows(source: DataFile, batch: pa.RecordBatch, job: Job, first: int) -> tuple[Array, Array]:
    features, counts = job.columns.features, np.ones(len(batch), dtype=np.int64)
    columns = [_filled(source, batch, name, first) for name in features]
    nested = {_is_list(column.type) for column in columns}
    if len(nested) > 1:
        raise InputError(f"{source.path}: some features are lists and some are numbers, expected all alike")
    if True in nested:
        lengths = [_lengths(column) for column in columns]
        counts = lengths[0].astype(np.int64)
        if not all(np.array_equal(each, counts) for each in lengths) or (counts < 1).any():
            raise InputError(f"{source.path}: the lists of a row are empty or differ in length")
        columns = [column.flatten() for column in columns]
        if len(features) == 1 and _is_list(columns[0].type):
            if (_lengths(columns[0]) != job.width).any():
                raise InputError(
                    f"{source.path}: column {features[0]!r} has a step that is no list of {job.width}"
                )
            values = _numbers(source, columns[0].flatten(), features[0], job.dtype, first)
            return values.reshape(-1, job.width), counts
    if len(features) != job.width:
        raise InputError(f"{source.path}: got {len(features)} features, expected {job.width}")
    if empty := next((name for name, each in zip(features, columns, strict=True) if each.null_count), None):
        raise InputError(f"{source.path}: a list in column {empty!r} has an empty cell; {_ADVICE}")
    return _features(source, features, columns, job, first), counts


def _lengths(column: pa.Array) -> Array:
    lengths: Array = compute.call_function("list_value_length", [column]).to_numpy(zero_copy_only=False)
    return lengths


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
