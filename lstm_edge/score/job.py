"""A run, from the data set to the output."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pyarrow import parquet

from lstm_edge.run_files import LOCK, locked
from lstm_edge_runtime.errors import InputError, counted
from lstm_edge_runtime.files import write_bytes

from .config import ScoreConfig
from .plan import EVENTS, PLAN, STATES, Plan, is_in_dataset, make_plan
from .stages import SKIPPED, read_group, score_partition
from .workers import Workers

Show = Callable[[float, str], None]


@dataclass(frozen=True)
class ScoreSummary:
    """Result of a run."""

    rows: int
    """Number of rows with a result."""
    late: int
    """Number of rows that were left out, because later rows of their series had been
    scored."""
    series: int
    """Number of series, those of the earlier runs included."""
    events: int | None
    """Number of events; None if these were not asked for."""
    files: int
    """Number of files of the data set."""
    skipped: dict[str, str]
    """The error of each file that was left out."""
    reset_every: int | str
    """Number of steps after which a series is reset, or ``"never"``."""
    seconds: float
    """Duration of the run."""


def score(
    dataset: str,
    model: Path,
    output: Path,
    options: ScoreConfig,
    workers: Workers,
    show: Show = lambda *_: None,
) -> ScoreSummary:
    """Score a Parquet data set; write the folder ``output`` with the results,
    ``STATES`` and ``EVENTS``.

    It appears when it is complete. The next run with the same arguments continues one
    that was killed.
    """
    begun = time.monotonic()
    exists = output.exists() or output.is_symlink()
    if exists or not output.parent.is_dir():
        why = "is in a folder that does not exist; create that"
        if exists:
            why = "exists; remove it"
        raise InputError(f"{output} {why}, or name another output")
    if is_in_dataset(dataset, output / "part-00000.parquet"):
        raise InputError(
            f"{output} would be read as a part of {dataset} by the next run; name an"
            " output outside of it"
        )
    plan, skipped = make_plan(dataset, model, output=output, options=options)
    with _working(plan):
        work = Path(plan.work)
        rows = 0
        groups = len(plan.groups)
        files = len(plan.files)
        for done, _ in enumerate(workers(read_group, plan, groups), 1):
            show(
                0.3 * done / groups,
                f"read {files * done // groups} of {counted(files, 'file')}",
            )
        for done, count in enumerate(
            workers(score_partition, plan, plan.partitions), 1
        ):
            rows += count
            show(
                0.3 + 0.7 * done / plan.partitions,
                f"scored {done} of {counted(plan.partitions, 'partition')}",
            )
        skipped |= dict(
            file.read_text("utf-8").split("\n", 1)
            for file in work.glob(f"_rows/*/{SKIPPED}")
        )
        summary = ScoreSummary(
            rows=rows,
            late=sum(count for path, _, _, count in plan.files if path not in skipped)
            - rows,
            series=sum(_rows(work / STATES)),
            events=sum(_rows(work / EVENTS)) if options.events else None,
            files=files,
            skipped=skipped,
            reset_every=plan.options.reset_every or "never",
            seconds=time.monotonic() - begun,
        )
        _publish(plan, output)
    return summary


def _rows(folder: Path) -> list[int]:
    """Return the number of rows of each Parquet part in a folder."""
    return [parquet.read_metadata(path).num_rows for path in folder.glob("part-*")]


@contextlib.contextmanager
def _working(plan: Plan) -> Iterator[None]:
    """Open the working folder: the work of a run with the same plan is continued, any
    other removed.
    """
    work = Path(plan.work)
    _check_working_folder(work)
    with locked(work):
        is_continued = _read_text(work / PLAN) == plan.to_json()
        if not is_continued:
            _remove(path for path in work.iterdir() if path.name != LOCK)
            write_bytes(work / PLAN, plan.to_json().encode())
        yield


def _check_working_folder(work: Path) -> None:
    """Raise InputError for a folder that no run made: a link, or one with other
    files.
    """
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        raise InputError(
            f"{work} is not a folder of a killed run, whose name it has; move it, or"
            " name another output"
        )
    if not work.exists():
        return
    names = {path.name for path in work.iterdir()}
    patterns = (LOCK, PLAN, f".{PLAN}.*.tmp", "_*", "part-*", ".part-*")
    others = [name for name in names if not _matches(name, patterns)]
    is_begun = PLAN in names or names <= {LOCK}
    if others or not is_begun:
        name = min(others or names)
        raise InputError(
            f"{work} contains {name}, which no run wrote; move it, or name another"
            " output"
        )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Return True if the name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _read_text(path: Path) -> str:
    """Return the text of a file; empty without it."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _publish(plan: Plan, output: Path) -> None:
    """Remove all that is not part of the output, such as files of killed runs, and
    rename it.
    """
    work = Path(plan.work)
    published = (PLAN, STATES, EVENTS)
    _remove(path for path in work.glob("_*") if path.name not in published)
    _remove(work.rglob(".*"))
    _remove(
        path
        for path in work.glob("part-*")
        if not parquet.read_metadata(path).num_columns
    )
    work.rename(output)


def _remove(paths: Iterable[Path]) -> None:
    """Remove files and folders; a link is removed, not what it points to."""
    for path in list(paths):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
