"""The files of a data set, and their rows as arrays."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import compute, parquet

from lstm_edge.data.tables import missing_name, usable
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.manifest import Array

from .config import ScoreConfig
from .job import DataFile, Job, exact_order

_BATCH, _BATCH_BYTES = 65_536, 2**25
"""Maximum number of rows decoded at once, and of their bytes by the file's footer."""
_ADVICE = "correct it, or skip such files with --skip-bad"


def find_files(dataset: str) -> list[DataFile]:
    """Return the Parquet files of a folder, a glob or a single path, sorted by name.

    Names that begin with ``_`` or ``.`` are ignored, as Parquet's readers do.

    Raises:
        NotFoundError: there is none.
    """
    path, advice = Path(dataset), "name a folder, a file, or a glob in quotes"
    fixed = next((index for index, part in enumerate(path.parts) if glob.has_magic(part)), None)
    if path.is_dir():
        root, found = path, list(path.rglob("*.parquet"))
    elif path.is_file():
        root, found = path.parent, [path]
    elif fixed is None:
        raise NotFoundError(f"{dataset} does not exist; {advice}")
    else:
        root = Path(*path.parts[:fixed])
        found = [Path(each) for each in glob.glob(dataset, recursive=True)]  # noqa: PTH207
    files: list[DataFile] = []
    for each in sorted(each for each in found if each.is_file()):
        name, about = each.relative_to(root).as_posix(), each.stat()
        if not any(part.startswith(("_", ".")) for part in name.split("/")):
            files.append(DataFile(len(files), str(each.absolute()), name, about.st_size, about.st_mtime_ns))
    if not files:
        raise NotFoundError(f"{dataset} contains no .parquet file; {advice}")
    return files


def open_parquet(source: DataFile, config: ScoreConfig) -> parquet.ParquetFile:
    """Open a file that has the columns of a run.

    Raises:
        FileFormatError: it can't be read as Parquet.
        InputError: a column is missing or occurs twice.
    """
    with _readable(source):
        file = parquet.ParquetFile(source.path, pre_buffer=False)
        stored = file.schema_arrow.names
    have = [*stored, *source.path_columns]
    for option, columns, where in (
        ("name the right one with --series", [config.series], have),
        ("name the right one with --order", [config.order], have),
        ("name the features with --features", config.features, stored),
    ):
        for column in columns:
            if column is not None and column not in where:
                raise missing_name(Path(source.path), "column", column, have, option)
    needed = (*source.stored_keys(config), *config.features)
    if twice := next((column for column in needed if stored.count(column) > 1), None):
        raise InputError(
            f"{source.path} has {stored.count(twice)} columns {twice!r}, expected one; {_ADVICE}"
        )
    return file


@contextmanager
def _readable(source: DataFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(
            f"{source.path} can't be read as Parquet ({first_line(error)}); {_ADVICE}"
        ) from error


def read_batches(
    source: DataFile, job: Job, groups: Sequence[int] | None = None, first: int = 0
) -> Iterator["Batch"]:
    """Yield the columns of a file that a run needs, in batches that fit in memory.

    Args:
        source: the file.
        job: the run.
        groups: the row groups to read; None for all.
        first: number of their first row.

    Raises:
        FileFormatError, InputError: the file can't be read, or lacks a column.
    """
    file = open_parquet(source, job.config)
    about = file.metadata
    size = sum(about.row_group(group).total_byte_size for group in range(about.num_row_groups))
    rows = max(1, min(_BATCH, job.rows, _BATCH_BYTES * about.num_rows // max(size, 1)))
    columns = [*source.stored_keys(job.config), *job.config.features]
    with _readable(source):
        for batch in file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False):
            yield Batch(source, job, batch, first)
            first += len(batch)


class Batch(NamedTuple):
    """Rows of a file, checked when they are taken; raises ``InputError``."""

    source: DataFile
    job: Job
    rows: pa.RecordBatch
    first: int
    """Number of the first row in the file."""

    def _column(self, name: str) -> pa.Array:
        """Return a column without empty cells."""
        column = self.rows.column(name)
        if column.null_count:
            row = self.first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.source.path} row {row + 1}, column {name!r} is empty; {_ADVICE}")
        return column

    def series(self) -> pa.Array:
        """Return the names of the series."""
        name, given = str(self.job.config.series), self.source.path_columns
        if name in given:
            return pa.array([given[name]] * len(self.rows), pa.string())
        column = self._column(name)
        try:
            names = column.cast(pa.string())
            names.validate(full=True)
        except pa.ArrowException as error:
            raise InputError(
                f"{self.source.path}: the series column contains no valid names ({first_line(error)})"
            ) from error
        return names

    def order(self) -> pa.Array:
        """Return the order as it is stored between stages."""
        name, path, expected = str(self.job.config.order), self.source.path, self.job.order_type
        if name in self.source.path_columns:
            raise InputError(
                f"{path}: column {name!r} is in its path, expected one in the file, a number or time for "
                "each row"
            )
        column = self._column(name)
        exact, own = exact_order(column.type), exact_order(expected)
        if exact is None or own is None or exact.id != own.id:
            raise InputError(
                f"{path}: column {name!r} is {column.type}, expected {expected} as in the first file"
            )
        try:
            order = column.cast(exact).cast(self.job.order_storage)
        except pa.ArrowException as error:
            raise InputError(f"{path}: column {name!r}: {first_line(error)}") from error
        if pa.types.is_floating(order.type) and not np.isfinite(order.to_numpy()).all():
            raise InputError(f"{path}: column {name!r} contains a number that is not finite")
        return order

    def features(self) -> Array:
        """Return the features of samples as ``(n, I)``."""
        return self._stack([self._column(name) for name in self.job.config.features])

    def _stack(self, columns: Sequence[pa.Array]) -> Array:
        names = self.job.config.features
        return np.stack([self._numbers(*each) for each in zip(names, columns, strict=True)], axis=1)

    def _numbers(self, name: str, column: pa.Array) -> Array:
        kind, dtype = column.type, self.job.dtype
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise InputError(
                f"{self.source.path}: column {name!r} is {kind}, expected numbers; --by-window reads lists"
            )
        values, whole = column.to_numpy(zero_copy_only=False), not np.issubdtype(dtype, np.floating)
        with np.errstate(invalid="ignore"):
            numbers: Array = values.astype(dtype, copy=False)
        wrong = ~usable(values)
        if whole:
            wrong |= values != numbers
        if (places := np.flatnonzero(wrong)).size:
            row, cell = self.first + int(places[0]), values[places[0]]
            expected = f"{dtype} number" if whole else "number"
            raise InputError(
                f"{self.source.path} row {row + 1}, column {name!r} is {cell}, expected a finite {expected}; "
                f"{_ADVICE}"
            )
        return numbers

    def windows(self) -> tuple[Array, Array]:
        """Return all steps of windows ``(steps, I)``, and the number of steps of each ``(n,)``.

        A feature's column has a list of L values in each row, or one value; or one column has L lists of I.
        """
        path, width, names = self.source.path, self.job.width, self.job.config.features
        columns, counts = [self._column(name) for name in names], np.ones(len(self.rows), dtype=np.int64)
        nested = {_is_list(column.type) for column in columns}
        if len(nested) > 1:
            raise InputError(f"{path}: some features are lists and some are numbers, expected one kind")
        if True in nested:
            counts, *others = (_lengths(column) for column in columns)
            if not all(np.array_equal(each, counts) for each in others) or (counts < 1).any():
                raise InputError(f"{path}: the lists of a row are empty or differ in length")
            counts = counts.astype(np.int64)
            columns = [column.flatten() for column in columns]
        if len(names) == 1 and _is_list(columns[0].type):
            if (_lengths(columns[0]) != width).any():
                raise InputError(f"{path}: column {names[0]!r} has a step that is no list of {width}")
            return self._numbers(names[0], columns[0].flatten()).reshape(-1, width), counts
        if len(names) != width:
            raise InputError(f"{path}: got {len(names)} features, expected {width}")
        if empty := [name for name, each in zip(names, columns, strict=True) if each.null_count]:
            raise InputError(f"{path}: a list in column {empty[0]!r} has an empty cell; {_ADVICE}")
        return self._stack(columns), counts


def _lengths(column: pa.Array) -> Array:
    lengths: Array = compute.call_function("list_value_length", [column]).to_numpy(zero_copy_only=False)
    return lengths


def _is_list(kind: pa.DataType) -> bool:
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))
