"""A run, from the data set to the output."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pyarrow import parquet

from lstm_edge.run_files import LOCK, locked
from lstm_edge_runtime.errors import InputError, counted
from lstm_edge_runtime.files import write_bytes

from .config import ScoreConfig
from .plan import EVENTS, PLAN, STATES, Plan, make_plan
from .stages import SKIPPED, read_group, score_part
from .workers import Workers

Show = Callable[[float, str], None]


@dataclass(frozen=True)
class Report:
    """Result of a run."""

    rows: int
    late: int
    """Number of rows that were left out, because later rows of their series had been
    scored."""
    series: int
    """Number of series, those of the earlier runs included."""
    events: int | None
    files: int
    skipped: dict[str, str]
    reset_every: int | str
    seconds: float


def score(
    dataset: str,
    model: Path,
    output: Path,
    options: ScoreConfig,
    workers: Workers,
    show: Show = lambda *_: None,
) -> Report:
    """Score a Parquet data set; write the folder ``output`` with the results,
    ``STATES`` and ``EVENTS``.

    It appears when it is complete. The next run with the same arguments continues one
    that was killed.
    """
    begun = time.monotonic()
    if output.exists() or not output.parent.is_dir():
        why = (
            "exists; remove it"
            if output.exists()
            else "is in a folder that does not exist; create that"
        )
        raise InputError(f"{output} {why}, or name another output")
    plan, skipped = make_plan(dataset, model, output, options)
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
        for done, count in enumerate(workers(score_part, plan, plan.parts), 1):
            rows += count
            show(
                0.3 + 0.7 * done / plan.parts,
                f"scored {done} of {counted(plan.parts, 'part')}",
            )
        skipped |= dict(
            file.read_text("utf-8").split("\n", 1)
            for file in work.glob(f"_rows/*/{SKIPPED}")
        )
        report = Report(
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
    return report


def _rows(folder: Path) -> list[int]:
    return [parquet.read_metadata(path).num_rows for path in folder.glob("part-*")]


@contextlib.contextmanager
def _working(plan: Plan) -> Iterator[None]:
    """Open the working folder: the work of a run with the same plan is continued, any
    other removed.
    """
    work = Path(plan.work)
    with locked(work):
        if (
            not (work / PLAN).exists()
            or (work / PLAN).read_text(encoding="utf-8") != plan.to_json()
        ):
            _remove(path for path in work.iterdir() if path.name != LOCK)
            write_bytes(work / PLAN, plan.to_json().encode())
        yield


def _publish(plan: Plan, output: Path) -> None:
    """Remove all that is not part of the output, such as files of killed runs, and
    rename it.
    """
    work = Path(plan.work)
    kept = (PLAN, STATES, EVENTS)
    _remove(path for path in work.glob("_*") if path.name not in kept)
    _remove(work.rglob(".*"))
    _remove(
        path
        for path in work.glob("part-*")
        if not parquet.read_metadata(path).num_columns
    )
    work.rename(output)


def _remove(paths: Iterable[Path]) -> None:
    for path in list(paths):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
