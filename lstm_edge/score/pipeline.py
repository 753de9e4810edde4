"""A scoring run, from the data set to the output."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError, counted

from .config import ScoreConfig
from .dataset import find_files, open_parquet
from .engines import Engine, open_engine
from .job import MOST_PARTS, DataFile, Done, Job, Stage, exact_order
from .output import adopt, check_output, decode_keys, encode_keys, publish, read_ledger, workspace
from .stages import read_files, score_series, score_windows, write_files
from .stepping import Stepper

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

Show = Callable[[float, str], None]
_SERIES = 512
"""Least number of series per part: they fill a batch."""
_ROWS, _BYTES, _KEYS = 1_000_000, 2**27, 48
"""Limits of rows in memory: rows, bytes of features, results and keys, and bytes of keys per row."""
_SAME = {
    "model": "the model",
    "engine": "the engine",
    "columns": "the columns",
    "events": "--events",
    "hold": "--hold",
    "reset_every": "--reset-every",
    "by_window": "--by-window",
}
"""What a run has in common with one that it continues."""
_SHOWN = 0.2
"""Seconds between two progress reports."""


@dataclass(frozen=True)
class StageReport:
    """Results of one stage."""

    name: str
    rows: int
    seconds: float
    rows_per_second: float


@dataclass(frozen=True)
class ScoreReport:
    """Results of a run."""

    rows: int
    series: int | None
    """Number of series with new rows; None for windows."""
    files: int
    known: int
    """Number of files that an earlier run had scored."""
    left_out: Mapping[str, str]
    """Error of each skipped file, by name."""
    events: int | None
    seconds: float
    rows_per_second: float
    stages: Sequence[StageReport]
    slowest: str
    """Name of the stage that took longest."""
    workers: int
    distribution: str
    """``one process`` or ``Ray``."""
    engine: str
    """``native`` or ``onnxruntime``."""
    reset_every: int | None
    """Steps after which series were reset; None for never, and for windows."""
    from_reset: bool
    """Whether each training window started from reset and ``reset_every`` was not given."""


def score(dataset: str, model: Path, output: Path, config: ScoreConfig, show: Show) -> ScoreReport:
    """Score a Parquet data set and write the results as one, with a file for each of its files.

    Args:
        dataset: a folder, a file or a glob.
        model: the model file.
        output: the folder to create, or an earlier output to replace.
        config: the options.
        show: called with the fraction done and a description of the current work.

    Raises:
        NotFoundError: a path does not exist.
        FileFormatError: a file can't be read.
        InputError: the options or the data don't fit the model, the output or an earlier run.
        ContractError: the model carries no states, or can't be streamed.
        StateError: the earlier run was of another model.
        MissingDependencyError: Ray is needed and not installed.
    """
    begun, given = time.monotonic(), config.by_window or config.reset_every is not None
    files = find_files(dataset)
    check_output(output, dataset, (source.path for source in files))
    earlier = read_ledger(config.since) if config.since else None
    config = _continued(config, earlier) if earlier else config
    opened = load(model)
    config = _resolved(config, opened)
    new, bad = _look(files, config, earlier)
    width = _width(opened, config)
    with workspace(output) as work, open_engine(config.workers, config.address) as workers:
        job = _job(model, opened, new, width, config, earlier, work)
        ledger = _settings(model, job)
        if earlier:
            _check_earlier(earlier, ledger, config)
            if config.since and output.exists() and config.since.samefile(output):
                adopt(output, job.folder("new"))
        run = _Run(job, workers, new, bad, show)
        done = run.windows() if config.by_window else run.series()
        scored = {source.name: _mark(source, rows) for source, rows in run.rows.items()}
        left_out = {source.name: _mark(source, 0) | {"why": why} for source, why in sorted(run.bad.items())}
        known = earlier or {"files": {}, "left_out": {}}
        listed = {"files": known["files"] | scored, "left_out": known["left_out"] | left_out}
        publish(work, output, {**ledger, "buckets": run.parts, **listed})
        rows, seconds = sum(run.rows.values()), time.monotonic() - begun
        return ScoreReport(
            rows=rows,
            series=None if config.by_window else done.series,
            files=len(scored),
            known=len(files) - len(new) - len(bad),
            left_out={source.name: why for source, why in sorted(run.bad.items())},
            events=done.events if config.events else None,
            seconds=seconds,
            rows_per_second=_rate(rows, seconds),
            stages=run.stages,
            slowest=max(run.stages, key=lambda stage: stage.seconds).name,
            workers=workers.workers,
            distribution=workers.name,
            engine=job.engine,
            reset_every=ledger["reset_every"],
            from_reset=opened.manifest.from_reset and not given,
        )


def _continued(config: ScoreConfig, earlier: Mapping[str, Any]) -> ScoreConfig:
    """Return the options of a run that continues an earlier one, with its values for those not given."""
    before = earlier["columns"]
    return replace(
        config,
        **{name: getattr(config, name) or before[name] for name in before},
        reset_every=config.reset_every or earlier["reset_every"] or "never",
        hold=config.hold or (earlier["hold"] if config.events else None),
    )


def _resolved(config: ScoreConfig, model: "Model") -> ScoreConfig:
    """Return the options with the model's values, or the defaults, for those not given."""
    width = sample_input(model).width
    features = config.features or model.manifest.signal.features
    if not features:
        raise InputError(f"the model's file names no features; name its {width} with --features")
    if len(features) != width and not (config.by_window and len(features) == 1):
        raise InputError(
            f"got {len(features)} features ({', '.join(features)}), expected {width}; name them in the "
            "model's order with --features"
        )
    if config.by_window:
        if config.series and config.series == config.order:
            raise InputError(f"--series and --order are both {config.series!r}; leave one out")
        return replace(config, features=features)
    series, order = config.series or "series", config.order or "order"
    if series == order or {series, order} & set(features):
        raise InputError(f"the columns {series!r} and {order!r} must differ from each other and the features")
    every = config.reset_every or model.manifest.reset_every or "never"
    return replace(config, features=features, series=series, order=order, reset_every=every)


def _width(model: "Model", config: ScoreConfig) -> int:
    """Return C, the number of values per row of the output."""
    if config.events and not is_classification(model.manifest.task):
        raise InputError("--events are changes of a label, and this file's outputs are values; leave it out")
    if not config.by_window:
        return Stepper(model, "never").width
    samples = sample_input(model)
    row = np.zeros((model.manifest.signal.window or 1, samples.width), dtype=samples.spec.dtype)
    return int(run_series(model, samples, [row]).shape[1])


def _look(
    files: Sequence[DataFile], config: ScoreConfig, earlier: Mapping[str, Any] | None
) -> tuple[list[DataFile], dict[DataFile, str]]:
    """Read the footers of the files that no earlier run scored; return those, and the errors of bad ones."""
    found: list[DataFile] = []
    bad: dict[DataFile, str] = {}
    seen = {**earlier["files"], **earlier["left_out"]} if earlier else {}
    for source in files:
        if (mark := seen.get(source.name)) is not None:
            if (mark["bytes"], mark["modified"]) != (source.size, source.modified):
                raise InputError(
                    f"{source.path} changed since an earlier run scored it; score everything without --since"
                )
            continue
        try:
            file = open_parquet(source, config)
        except (FileFormatError, InputError) as error:
            if not config.skip_bad:
                raise
            bad[source] = str(error)
            continue
        types = {name: file.schema_arrow.field(name).type for name in source.stored_keys(config)}
        groups = tuple(file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups))
        series, order = types.get(str(config.series), pa.string()), types.get(str(config.order))
        found.append(source._replace(groups=groups, series_type=series, order_type=order))
    if len(bad) == len(files):
        raise InputError(f"none of the {len(files)} files can be read: {next(iter(bad.values()))}")
    return found, bad


def _key_types(
    files: Sequence[DataFile], config: ScoreConfig, earlier: Mapping[str, Any] | None
) -> tuple[pa.DataType, pa.DataType]:
    """Return the types that the series and order of all files have in events."""
    if not files and earlier:
        series, order = decode_keys(earlier["keys"])
        return series, order
    if config.by_window:
        return pa.string(), pa.null()
    series, order = files[0].series_type, files[0].order_type
    if (exact := exact_order(order)) is None:
        raise InputError(
            f"column {config.order!r} is {order or 'in the path'}, expected numbers, dates, dated times or "
            "durations"
        )
    one_series = all(each.series_type == series for each in files) and _from_text(series)
    one_order = all(each.order_type == order for each in files)
    return series if one_series else pa.string(), order if one_order else exact


def _from_text(kind: pa.DataType) -> bool:
    """Return whether names of series can be converted back to this type."""
    try:
        pa.array([], pa.string()).cast(kind)
    except pa.ArrowException:
        return False
    return True


def _job(
    model: Path,
    opened: "Model",
    files: Sequence[DataFile],
    width: int,
    config: ScoreConfig,
    earlier: Mapping[str, Any] | None,
    work: Path,
) -> Job:
    task, place = opened.manifest.task, sample_input(opened)
    in_memory = config.rows_in_memory or min(_ROWS, _BYTES // (4 * (place.width + width) + _KEYS))
    series_type, order_type = _key_types(files, config, earlier)
    names = tuple(result_names(task, width))
    if clash := {"label", *names} & {config.series, config.order}:
        raise InputError(f"column {min(map(str, clash))!r} has the name of a result; rename it")
    return Job(
        config=config,
        model=str(model.resolve()),
        identity=opened.identity,
        engine=opened.engine,
        work=str(work.resolve()),
        series_type=series_type,
        order_type=order_type,
        width=place.width,
        dtype=np.dtype(place.spec.dtype),
        results=names,
        labels=tuple(class_names(task, width)) if is_classification(task) else (),
        late=opened.manifest.is_buffered and not config.by_window,
        number=earlier["number"] + 1 if earlier else 1,
        rows=in_memory,
        previous=str(config.since.resolve()) if config.since else "",
        previous_parts=earlier["buckets"] if earlier else 0,
    )


def _settings(model: Path, job: Job) -> dict[str, Any]:
    """Return the ledger of a run, without its files."""
    config = job.config
    return {
        "model": {"name": model.name, "identity": job.identity},
        "engine": job.engine,
        "columns": {"series": config.series, "order": config.order, "features": config.features},
        "keys": encode_keys(job.series_type, job.order_type),
        "events": config.events,
        "hold": config.hold or 1,
        "reset_every": config.reset_every if isinstance(config.reset_every, int) else None,
        "by_window": config.by_window,
        "number": job.number,
        "versions": {name: version(name) for name in ("lstm-edge", "pyarrow", "numpy")},
    }


def _check_earlier(earlier: Mapping[str, Any], settings: Mapping[str, Any], config: ScoreConfig) -> None:
    """Raise ``InputError`` if the run and the earlier one could not equal one long run."""
    if earlier["keys"] != settings["keys"]:
        raise InputError(
            f"series and order are of other types than in the run in {config.since}; give the same, or score "
            "everything without --since"
        )
    for key, what in _SAME.items():
        before, now = earlier[key], settings[key]
        if key == "model":
            before, now = before["identity"][:12], now["identity"][:12]
        if before != now:
            raise InputError(
                f"the run in {config.since} had {before} as {what}, this one has {now}; give the same, or "
                "score everything without --since"
            )


class _Run:
    """The stages of a run, one after the other."""

    def __init__(
        self, job: Job, workers: Engine, files: Sequence[DataFile], bad: Mapping[DataFile, str], show: Show
    ) -> None:
        self._job, self._workers, self._files, self._show = job, workers, files, show
        self.rows = dict.fromkeys(files, 0)
        """Number of rows of each scored file."""
        self.bad = dict(bad)
        """Error of each skipped file."""
        self.parts = 1
        """Number of parts that the series are split into."""
        self.stages: list[StageReport] = []

    def series(self) -> Done:
        """Score series."""
        pieces = [
            (source, group, first)
            for source in self._files
            for group, first in enumerate([0, *accumulate(source.groups)][:-1])
        ]
        items = self._grouped(pieces, [size for source in self._files for size in source.groups])
        read = self._stage("read", (0, 0.15), read_files, items)
        bad = [source.number for source in self.bad]
        self.parts = self._parts(len(read.names))
        scored = self._stage("score", (0.15, 0.9), score_series, [(self.parts, bad)] * self.parts)
        files = self._grouped([*self.rows.items()], self.rows.values())
        self._stage("write", (0.9, 1), write_files, files)
        return scored

    def windows(self) -> Done:
        """Score files of windows."""
        files = self._grouped(self._files, [source.rows for source in self._files])
        return self._stage("score", (0, 1), score_windows, files)

    def _grouped(self, things: Sequence[Any], sizes: Iterable[int]) -> list[list[Any]]:
        """Group consecutive things into items that fit in memory and are enough for all workers."""
        total = sum(source.rows for source in self._files)
        most = min(self._job.rows, total // (2 * self._workers.workers) + 1)
        groups: list[list[Any]] = []
        room = 0
        for thing, size in zip(things, sizes, strict=True):
            if not groups or size > room:
                groups.append([])
                room = most
            groups[-1].append(thing)
            room -= size
        return groups

    def _parts(self, series: int) -> int:
        """Return the number of parts of so many series, a power of two: enough for all workers and memory."""
        workers = self._workers.workers
        wanted = max(2 * workers if workers > 1 else 1, series // _SERIES)
        return min(1 << (wanted - 1).bit_length(), MOST_PARTS)

    def _stage(self, name: str, share: tuple[float, float], stage: Stage, items: Sequence[Any]) -> Done:
        """Return the results of all items together, and report progress."""
        begun = shown = time.monotonic()
        done, rows, total = Done(), 0, max(sum(source.rows for source in self._files), 1)

        def tell(more: int) -> None:
            nonlocal rows, shown
            rows += more
            now = time.monotonic()
            if now - shown >= _SHOWN:
                shown = now
                fraction = share[0] + (share[1] - share[0]) * min(rows / total, 1)
                rate = rows / (now - begun)
                self._show(fraction, f"{name}: {rows:,} of {total:,} rows, {rate:,.0f} rows/s")

        workers = counted(self._workers.workers, "worker")
        self._show(share[0], f"{name}: {counted(len(items), 'item')} for {workers}")
        for each in self._workers.map(stage, self._job, items, tell) if items else ():
            if each.bad and not self._job.config.skip_bad:
                raise InputError(next(iter(each.bad.values())))
            done.add(each)
        self.bad |= done.bad
        for source in self.rows.copy():
            self.rows[source] += done.by_file[source]
            if source in self.bad:
                del self.rows[source]
        seconds = time.monotonic() - begun
        self.stages.append(StageReport(name, done.rows, seconds, _rate(done.rows, seconds)))
        return done


def _mark(source: DataFile, rows: int) -> dict[str, int]:
    return {"rows": rows, "bytes": source.size, "modified": source.modified}


def _rate(rows: int, seconds: float) -> float:
    """Return rows per second; 0 if the clock measured no time."""
    return rows / seconds if seconds else 0.0
