"""A run: it scores the files that are new since the last one, whole or not at all."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lstm_edge.run_files import locked
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    NotFoundError,
    first_line,
)
from lstm_edge_runtime.files import (
    malformed_as,
    open_regular,
    read_content,
    read_json,
    write_bytes,
)

from .source import LATE, Scorer

_ORDERS = ("int", "uint", "float", "double", "date32", "timestamp")
"""How Arrow's names of types begin that order rows."""


@dataclass(frozen=True)
class Job:
    """All that an engine needs."""

    model: bytes
    """Content of the model file."""
    columns: pa.Schema
    """Columns that are read: series, order and features."""
    results: pa.Schema
    """Columns that are written: series, order, ``LATE`` and results."""
    output: Path
    """Folder of the runs."""
    earlier: int
    """Number of the runs before."""
    facts: Mapping[str, Any]
    """What is written about a run; ``files`` are those that no run has scored."""

    @property
    def work(self) -> Path:
        """Folder of a run that is not complete, with a folder per value of ``LATE``."""
        return self.output / ".run"

    def publish(self, number: int) -> None:
        """Rename the results to the folder of a run. If it exists, the process was killed
        after this, and the run was repeated.
        """
        folder = self.work / f"{LATE}=false"
        folder.mkdir(exist_ok=True)
        for path in self.work.glob(f"{LATE}=true"):
            path.rename(folder / LATE)
        for path in self.work.glob("_*.parquet"):
            path.rename(folder / path.name)
        for path in folder.rglob("*.parquet"):
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        write_bytes(folder / "_run.json", json.dumps(self.facts, indent=1).encode())
        target = self.output / f"run={number:05d}"
        if not target.exists():
            folder.rename(target)
        shutil.rmtree(self.work)


def find_runs(output: Path) -> list[Path]:
    """Return the folders of the complete runs."""
    return sorted(output.glob("run=*"))


@contextlib.contextmanager
def open_job(
    data: Path,
    model: Path,
    output: Path,
    names: tuple[str, str, tuple[str, ...]],
    reset_every: int | str | None,
    engine: str,
) -> Iterator[Job]:
    """Context with the job of the files that are new, and with the only run of an output.

    ``names`` are the columns of series, order and features, () for those of the model.
    Raises InputError if arguments do not fit, or differ from those of the runs before.
    """
    content = read_content(model)[1]
    scorer = Scorer(content, reset_every)
    series, order, features = names
    features = features or scorer.features
    if len(features) != scorer.width:
        raise InputError(
            f"got {len(features)} features ({', '.join(features) or 'without names'}),"
            f" expected {scorer.width}; name them with --features"
        )
    results = [pa.field(LATE, pa.bool_())]
    if scorer.labels:
        results.append(pa.field("label", pa.string()))
    results += [pa.field(name, pa.float32()) for name in scorer.values]
    found = _find_files(data, output)
    columns = _read_columns(min(found), (series, order, *features))
    written = pa.schema([*list(columns)[:2], *results])
    _check_names(written.names)
    facts = {
        "data": str(data.resolve()),
        "engine": engine,
        "model": scorer.identity,
        "reset_every": scorer.reset_every,
        "columns": [[field.name, str(field.type)] for field in columns],
    }
    with locked(output):
        earlier = find_runs(output)
        before = _check_runs(output, facts, found)
        new = {path: found[path] for path in found if path not in before}
        for path in new:
            if _read_columns(path, columns.names) != columns:
                raise InputError(f"{path} has other types than {min(found)}")
        facts["files"] = new
        job = Job(content, columns, written, output.resolve(), len(earlier), facts)
        shutil.rmtree(job.work, ignore_errors=True)
        yield job


def summarize(job: Job) -> dict[str, Any]:
    """Return the new runs, their numbers of rows, and other facts."""
    made = find_runs(job.output)[job.earlier :]
    return {
        "runs": made,
        "files": len(job.facts["files"]),
        "rows": sum(map(_count_rows, made)),
        "late": sum(_count_rows(folder / LATE) for folder in made),
        "reset_every": job.facts["reset_every"],
    }


def _count_rows(folder: Path) -> int:
    """Return the number of rows of the results in a folder."""
    files = folder.glob("[!_]*.parquet")
    return sum(parquet.read_metadata(path).num_rows for path in files)


def _find_files(data: Path, output: Path) -> dict[str, int]:
    """Return the Parquet files in a folder, without names that begin with ``_`` or ``.``,
    and their times of modification in milliseconds.
    """
    root = data.resolve()
    if root in (output.resolve(), *output.resolve().parents):
        raise InputError(f"{output} is in {data}; name an output outside of it")
    files = {}
    for path in sorted(root.rglob("*.parquet")):
        names = path.relative_to(root).parts
        if path.is_file() and not any(name.startswith(("_", ".")) for name in names):
            files[str(path)] = path.stat().st_mtime_ns // 1_000_000
    if not files:
        raise NotFoundError(f"{data} is no folder with .parquet files; name another")
    return files


def _read_columns(path: str, names: Iterable[str]) -> pa.Schema:
    """Return the series, order and features of a file; InputError if one is missing."""
    try:
        schema = parquet.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise FileFormatError(
            f"{path} can't be read as Parquet ({first_line(error)})"
        ) from error
    lower = [name.lower() for name in schema.names]
    fields = []
    for name in names:
        if name not in schema.names or lower.count(name.lower()) > 1:
            raise InputError(
                f"{path} has no single column {name!r} ({', '.join(schema.names)}); name"
                " columns with --series, --order and --features"
            )
        kind = schema.field(name).type
        if pa.types.is_dictionary(kind):  # as pandas writes it
            kind = kind.value_type
        fields.append(
            pa.field(name, pa.string() if str(kind)[-6:] == "string" else kind)
        )
    _check_names([field.name for field in fields])
    if not str(fields[1].type).startswith(_ORDERS):
        raise InputError(
            f"{path}: {fields[1].name!r} is {fields[1].type}, expected numbers, dates or"
            " times; name another with --order"
        )
    return pa.schema(fields)


def _check_names(names: Iterable[str]) -> None:
    """Raise InputError for two names that are equal but for case, as engines ignore."""
    lower = [name.lower() for name in names]
    for name in lower:
        if lower.count(name) > 1:
            raise InputError(f"two columns would be named {name!r}; rename one")


def _check_runs(
    output: Path, facts: Mapping[str, Any], found: Mapping[str, int]
) -> set[str]:
    """Return the files that were scored; InputError if a file or a fact has changed."""
    runs = find_runs(output)
    others = {path.name for path in output.iterdir()} - {".lock", ".run", "_spark"}
    if others and not runs:
        raise InputError(f"{output} contains {min(others)}; name another output")
    scored: dict[str, int] = {}
    for folder in runs:
        path = folder / "_run.json"
        with (
            malformed_as(FileFormatError, f"{path} is damaged", "use a new output"),
            open_regular(path) as file,
        ):
            before = read_json(file.read())
            scored |= before["files"]
        for name, value in facts.items():
            if before.get(name) != value:
                raise InputError(
                    f"{folder} has {name} {before.get(name)}, expected {value}; use a new"
                    " output"
                )
    for name, modified in scored.items():
        if found.get(name, modified) != modified:
            raise InputError(f"{name} changed since it was scored; use a new output")
    return set(scored)
