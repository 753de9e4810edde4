"""The plan of a run, decided once: options, files and partitions."""

import glob
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lstm_edge.data.sample_input import SampleInput
from lstm_edge.results import class_labels, is_classification, result_names
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    NotFoundError,
    first_line,
)
from lstm_edge_runtime.files import malformed_as, open_regular, read_json

from . import sql
from .config import ScoreConfig
from .pool import Pool

ROWS = 1_000_000
"""Rows of a partition, and of a group of files."""
_SERIES = 64
"""Minimum number of series of a partition."""
_MAX_PARTITIONS = 1024
"""Maximum number of partitions."""
PLAN = "_plan.json"
STATES = "_states"
EVENTS = "_events"
EVENT_COLUMNS = ("start", "end", "label", "samples", "open")
"""Columns of ``EVENTS`` after the series."""
_Test = Callable[[pa.DataType], bool]
_TypeRule = tuple[str, Sequence[_Test]]
"""Description of the types of a column, and functions that are True for them."""
_NUMBER = (pa.types.is_integer, pa.types.is_floating)
_TIME = (pa.types.is_timestamp, pa.types.is_date)
_TEXT = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_dictionary,
)  # as pandas writes it
_NUMBERS: _TypeRule = ("numbers", _NUMBER)
_NUMBERS_OR_TIMES: _TypeRule = ("numbers, dates or times", (*_NUMBER, *_TIME))
_NAMES: _TypeRule = ("text or integers", (*_TEXT, pa.types.is_integer))
_SAME = (
    "series",
    "order",
    "features",
    "events",
    "hold",
    "reset_every",
    "window",
)  # in runs that continue
Files = tuple[tuple[str, int, int, int], ...]
"""Path, size in bytes, time of modification and number of rows of each file."""


@dataclass(frozen=True)
class ColumnTypes:
    """Types of the columns that name and order rows, the same in all files."""

    series: str
    """Arrow's name of the type of series."""
    order: str
    """Arrow's name of the type of the order."""
    series_is_key: bool
    """True if the series is a key in the path, ``series=7/``, not a column."""

    def __str__(self) -> str:
        """Return both types for a message."""
        series = "a key in the path" if self.series_is_key else self.series
        return f"{series} and {self.order}"


@dataclass(frozen=True)
class Plan:
    """All that a worker needs. Equal plans give equal outputs: one run can finish the
    work of another.
    """

    options: ScoreConfig
    """The options; those left out have the model's values."""
    model: str
    """Path of the model's file."""
    identity: str
    """Hash of the model's file."""
    groups: tuple[tuple[str, ...], ...]
    """Paths of the files that are read together."""
    files: Files
    """Files that are scored."""
    known: Files
    """Files of the earlier runs."""
    results: tuple[str, ...]
    """Columns with probabilities or values."""
    labels: tuple[str, ...]
    """Classes; empty if the outputs are values."""
    types: ColumnTypes
    """Types of series and order."""
    work: str
    """Folder in which the output is made."""
    partitions: int
    """Number of partitions."""

    def to_json(self) -> str:
        """Return the plan as text, to compare it with another run's."""
        return json.dumps(asdict(self) | {"duckdb": sql.VERSION}, indent=1)

    def partition_file(self, number: int, folder: str = "") -> Path:
        """Return the file of a partition: its results, or its ``EVENTS`` or
        ``STATES``.
        """
        return Path(self.work) / folder / f"part-{number:05d}.parquet"


@lru_cache(maxsize=1)
def open_model(path: str, identity: str | None) -> Model:
    """Open a model, once per process; raises ``InputError`` if its identity is another
    one.
    """
    model = load(path)
    if identity not in (None, model.identity):
        raise InputError(f"{path} changed during the run; run again")
    return model


def make_plan(
    dataset: str, model: Path, output: Path, options: ScoreConfig
) -> tuple[Plan, dict[str, str]]:
    """Check options, model and columns; return the plan, and the error of each file
    that is left out.
    """
    opened = open_model(str(model.resolve()), None)
    options = _resolve(options, opened)
    task = opened.manifest.task
    width = Pool(model=opened, size=1, reset_every="never", window=options.window).width
    results = tuple(result_names(task, width))
    labels = class_labels(task, width)
    _check_output_columns(options, results, labels)
    paths = find_files(dataset)
    earlier = _Earlier()
    if options.since:
        earlier = _read_earlier(options, opened.identity)
    new_files = _new_files(paths, earlier.files)
    rows, types, skipped = _check_files(new_files, options, earlier.types)
    groups = _groups(rows, 0 if options.skip_bad else ROWS)
    work = output.resolve().with_name(f".{output.name}.partial")
    plan = Plan(
        options=options,
        model=str(model.resolve()),
        identity=opened.identity,
        groups=tuple(groups),
        files=tuple((path, *_mark(path), count) for path, count in rows.items()),
        known=earlier.files,
        results=results,
        labels=labels,
        types=types,
        work=str(work),
        partitions=options.partitions or _count_partitions(rows, options, types),
    )
    return plan, skipped


def _check_output_columns(
    options: ScoreConfig, results: Sequence[str], labels: Sequence[str]
) -> None:
    """Raise InputError if a table of the output would have two columns of one name."""
    columns = [options.series, options.order, *results]
    if labels:
        columns.append("label")
    tables = [columns]
    if options.events:
        tables.append([options.series, *EVENT_COLUMNS])
    for table in tables:
        for name in table:
            if table.count(name) > 1:
                raise InputError(
                    f"the output would have two columns {name!r} (it has"
                    f" {', '.join(table)}); rename the column of the data set that"
                    " --series or --order names, or the model's labels"
                )


def _resolve(options: ScoreConfig, model: Model) -> ScoreConfig:
    """Return the options; those left out have the model's values."""
    width = SampleInput(model).width
    manifest = model.manifest
    features = options.features or tuple(manifest.signal.features)
    if len(features) != width:
        names = ", ".join(features) or "no names in the model's file"
        raise InputError(
            f"got {len(features)} features ({names}), expected {width}; name them by"
            " --features"
        )
    if options.events and not is_classification(manifest.task):
        raise InputError(
            "--events are changes of a label, and this file's outputs are values; leave"
            " it out"
        )
    reset_every = None
    if not options.window:
        reset_every = options.reset_every or manifest.reset_every or "never"
    return replace(options, features=features, reset_every=reset_every)


def find_files(dataset: str) -> list[str]:
    """Return the files of a folder, a glob or a single path, without names that begin
    with ``_`` or ``.``.
    """
    folder, pattern = _split_dataset(dataset)
    files = []
    for path in map(Path, glob.glob(pattern, recursive=True)):  # noqa: PTH207
        names = path.parts[len(folder.parts) :]
        is_hidden = any(name.startswith("_") for name in names)
        if path.is_file() and not is_hidden:
            files.append(str(path.resolve()))
    files.sort()
    if not files:
        raise NotFoundError(
            f"{dataset} has no .parquet file; name a folder, a file, or a glob in"
            " quotes"
        )
    return files


def _split_dataset(dataset: str) -> tuple[Path, str]:
    """Return the folder of a data set, and the glob of its files."""
    if Path(dataset).is_dir():
        return Path(dataset), f"{glob.escape(dataset)}/**/*.parquet"
    return Path(dataset.partition("*")[0]), dataset


def is_in_dataset(dataset: str, file: Path) -> bool:
    """Return True if ``file``, which may not exist yet, would be a file of a data
    set.
    """
    folder, pattern = _split_dataset(dataset)
    below = Path(os.path.realpath(file))
    root = Path(os.path.realpath(folder))
    if root not in below.parents:
        return False
    names = below.parts[len(root.parts) :]
    if any(name.startswith((".", "_")) for name in names):
        return False
    expected = Path(pattern).parts[len(folder.parts) :]
    if "**" in expected:
        return True
    return len(names) == len(expected) and all(map(fnmatchcase, names, expected))


def _mark(path: str) -> tuple[int, int]:
    """Return size and time of modification of a file."""
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _new_files(paths: Sequence[str], scored: Files) -> list[str]:
    """Return the files that no earlier run scored."""
    before = {path: (size, modified) for path, size, modified, _ in scored}
    for path in paths:
        if path in before and _mark(path) != before[path]:
            raise InputError(
                f"{path} changed since an earlier run scored it; score without --since"
            )
    return [path for path in paths if path not in before]


@dataclass(frozen=True)
class _Earlier:
    """An earlier run, with those that it continued."""

    files: Files = ()
    """Files that were scored."""
    types: ColumnTypes | None = None
    """Types of series and order; None if there was no run."""


def _read_earlier(options: ScoreConfig, identity: str) -> _Earlier:
    """Return the earlier run of ``--since``; raises InputError for other options."""
    path = Path(str(options.since)) / PLAN
    what = f"{options.since} is not an output of lstm-edge score"
    with malformed_as(FileFormatError, what, "score without --since"):
        with open_regular(path) as file:
            before = read_json(file.read())
        pairs = {
            name: (before["options"][name], asdict(options)[name]) for name in _SAME
        }
        pairs["model"] = before["identity"], identity
        files = tuple(_read_file(entry) for entry in before["known"] + before["files"])
        types = _read_types(before["types"])
    for name, (old, new) in pairs.items():
        if json.dumps(old) != json.dumps(new):
            raise InputError(
                f"the earlier run had {name} {old}, this one has {new}; score without"
                " --since"
            )
    return _Earlier(files, types)


def _read_file(entry: Any) -> tuple[str, int, int, int]:
    """Return an item of ``Files`` from JSON; raises TypeError and ValueError."""
    path, size, modified, rows = entry
    return str(path), int(size), int(modified), int(rows)


def _read_types(entry: Mapping[str, Any]) -> ColumnTypes:
    """Return the types of an earlier plan; raises KeyError, TypeError and
    ValueError.
    """
    types = ColumnTypes(
        series=str(entry["series"]),
        order=str(entry["order"]),
        series_is_key=bool(entry["series_is_key"]),
    )
    is_text = types.series == "string"
    if not is_text and not pa.types.is_integer(pa.type_for_alias(types.series)):
        raise ValueError(f"a series can't be {types.series}")
    return types


def _check_files(
    paths: Sequence[str], options: ScoreConfig, types: ColumnTypes | None
) -> tuple[dict[str, int], ColumnTypes, dict[str, str]]:
    """Return the rows of each usable file, the types of series and order, and the
    errors of other files.
    """
    files = dict[str, int]()
    skipped = dict[str, str]()
    for path in paths:
        try:
            files[path], types = _check_columns(path, options, types)
        except (FileFormatError, InputError) as error:  # noqa: PERF203
            if not options.skip_bad:
                raise
            skipped[path] = str(error)
    if skipped and not files:
        raise InputError(
            f"none of the {len(paths)} files can be used:"
            f" {next(iter(skipped.values()))}"
        )
    assert types is not None  # of a file, or of the earlier run
    return files, types, skipped


def _check_columns(
    path: str, options: ScoreConfig, before: ColumnTypes | None
) -> tuple[int, ColumnTypes]:
    """Return the number of rows of a file that has all columns, and the types of its
    series and order.
    """
    schema, rows = _read_schema(path)
    types = dict(zip(schema.names, schema.types, strict=True))
    names = list(schema.names)
    keys = [part.partition("=")[0] for part in Path(path).parts[:-1] if "=" in part]
    is_key = options.series in keys and options.series not in types
    if is_key:
        types[options.series] = pa.string()
        names += keys
    expected = {options.series: _NAMES, options.order: _NUMBERS_OR_TIMES}
    expected |= dict.fromkeys(options.features, _NUMBERS)
    for name, expected_type in expected.items():
        _check_column(path, name, expected=expected_type, names=names, types=types)
    series = types[options.series]
    column_types = ColumnTypes(
        series="string" if _is_any(series, _TEXT) else str(series),
        order=str(types[options.order]),
        series_is_key=is_key,
    )
    if before not in (None, column_types):
        raise InputError(
            f"{path}: series and order are {column_types}, expected {before} as in the"
            " first file"
        )
    return rows, column_types


def _read_schema(path: str) -> tuple[pa.Schema, int]:
    """Return the columns and the number of rows of a file."""
    try:
        with open_regular(path) as source, parquet.ParquetFile(source) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        advice = ""
        if not path.endswith(".parquet"):
            advice = "; lstm-edge predict reads CSV, NumPy and WAV files"
        raise FileFormatError(
            f"{path} can't be read as Parquet ({first_line(error)}){advice}"
        ) from error


def _check_column(
    path: str,
    name: str,
    expected: _TypeRule,
    names: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> None:
    """Raise InputError for a column that does not exist once, or has another type."""
    lower = [other.lower() for other in names]  # DuckDB ignores the case
    count = lower.count(name.lower())
    if count != 1 or name not in types:
        has = "several columns" if count else "no column"
        raise InputError(
            f"{path} has {has} {name!r} (it has {', '.join(types)}); name columns with"
            " --series, --order and --features"
        )
    description, tests = expected
    if not _is_any(types[name], tests):
        raise InputError(
            f"{path}: column {name!r} is {types[name]}, expected {description}"
        )


def _is_any(column_type: pa.DataType, tests: Sequence[_Test]) -> bool:
    """Return True if one of the tests accepts the type."""
    return any(test(column_type) for test in tests)


def _groups(files: dict[str, int], rows: int) -> Iterator[tuple[str, ...]]:
    """Yield neighboring files that have about this number of rows together."""
    before = dict(zip(files, accumulate(files.values(), initial=0), strict=False))
    for _, group in groupby(
        files, key=lambda path: before[path] // rows if rows else path
    ):
        yield tuple(group)


def _count_partitions(
    files: dict[str, int], options: ScoreConfig, types: ColumnTypes
) -> int:
    """Return a number of partitions with enough series to share calls, and few enough
    rows to redo.
    """
    partitions = min(max(1, -(-sum(files.values()) // ROWS)), _MAX_PARTITIONS)
    if partitions == 1 or options.skip_bad:  # pages may be damaged
        return partitions
    series = sql.count_series(list(files), options.series, key=types.series_is_key)
    return max(1, min(partitions, series // _SERIES))
