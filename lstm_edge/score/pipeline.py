"""A scoring run, from the data set to the output."""

import base64
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lstm_edge.data.sample_input import run_series, sample_input
from lstm_edge.results import class_names, is_classification, result_names
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError, counted

from .config import ScoreConfig
from .dataset import find_files, open_parquet, stored_keys
from .engines import Engine, open_engine
from .job import MOST_BUCKETS, Columns, DataFile, Job, exact_order
from .output import adopt, check_output, publish, read_ledger, workspace
from .stages import read_files, score_series, score_windows, write_files
from .stepping import Stepper

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

Show = Callable[[float, str], None]
_SERIES = 512
"""Series per item of the second stage: they fill a batch."""
_LEAST_BUCKETS = 16
"""Minimum number of parts that series are split into."""
_ROWS, _BYTES, _KEYS = 1_000_000, 2**27, 48
"""Limits of rows in memory: rows, bytes of features, results and keys, and bytes of keys per row."""
_LEAST_MEMORY = 2**27
"""Minimum memory of DuckDB in bytes."""
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


@dataclass
class _Found:
    """The files of the data set and their footers."""

    files: list[DataFile]
    """All of them, by number."""
    known: int = 0
    """Number of files that an earlier run had scored."""
    groups: dict[int, list[int]] = field(default_factory=dict)
    """Rows of each row group of the files to score, by number."""
    series_types: list[pa.DataType] = field(default_factory=list)
    """Type of the series column in each of these."""
    order_types: list[pa.DataType | None] = field(default_factory=list)
    """Type of the order column in each; None if it is in the path."""
    bad: dict[int, str] = field(default_factory=dict)
    """Errors of files that can't be scored, by number."""

    @property
    def rows(self) -> int:
        """Number of rows to score."""
        return sum(map(sum, self.groups.values()))


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
    begun, given = time.monotonic(), config.reset_every is not None
    files = find_files(dataset)
    check_output(output, dataset, (source.path for source in files))
    earlier = read_ledger(config.since) if config.since else None
    config = _continued(config, earlier) if earlier else config
    opened = load(model, device="cpu", threads=1, engine=config.engine)
    columns = _columns(opened, config)
    found = _look(files, columns, config, earlier)
    width = _width(opened, config)
    with open_engine(config.workers, config.address) as workers, workspace(output) as work:
        job = _job(model, opened, found, columns, width, config, earlier, work, workers)
        if earlier:
            _check_earlier(earlier, job, config)
            if config.since and output.exists() and config.since.samefile(output):
                adopt(output, job.folder("new"))
        run = _Run(job, workers, found, config, show)
        done = run.windows() if config.by_window else run.series()
        scored = {each.name: _mark(each, run.rows[each.number]) for each in files if each.number in run.rows}
        bad = {each: run.bad[each.number] for each in files if each.number in run.bad}
        left_out = {each.name: _mark(each, 0) | {"why": why} for each, why in bad.items()}
        known = earlier or {"files": {}, "left_out": {}}
        listed = {"files": known["files"] | scored, "left_out": known["left_out"] | left_out}
        publish(work, output, _settings(model, job, config) | listed)
        rows, seconds = sum(run.rows.values()), time.monotonic() - begun
        return ScoreReport(
            rows=rows,
            series=done.get("series"),
            files=len(scored),
            known=found.known,
            left_out={each.name: why for each, why in bad.items()},
            events=done.get("events") if config.events else None,
            seconds=seconds,
            rows_per_second=_rate(rows, seconds),
            stages=run.stages,
            slowest=max(run.stages, key=lambda stage: stage.seconds).name,
            workers=workers.workers,
            distribution=workers.name,
            engine=job.engine,
            reset_every=job.reset_every,
            from_reset=opened.interface.from_reset and not (given or config.by_window),
        )


def _continued(config: ScoreConfig, earlier: Any) -> ScoreConfig:
    """Return the options of a run that continues an earlier one, with its values for those not given."""
    before: Columns = earlier["columns"]
    return replace(
        config,
        series=config.series or before.series,
        order=config.order or before.order,
        features=config.features or before.features,
        engine=earlier["engine"] if config.engine == "auto" else config.engine,
        reset_every=config.reset_every or earlier.get("reset_every") or "never",
        hold=config.hold or (earlier.get("hold") if config.events else None),
    )


def _settings(model: Path, job: Job, config: ScoreConfig) -> dict[str, Any]:
    """Return the ledger of a run, without its files."""
    return {
        "model": {"name": model.name, "identity": job.identity},
        "engine": job.engine,
        "columns": job.columns._asdict(),
        "keys": _encoded(job),
        "events": config.events,
        "hold": job.hold,
        "reset_every": job.reset_every,
        "by_window": config.by_window,
        "buckets": job.buckets,
        "number": job.number,
        "versions": {name: version(name) for name in ("lstm-edge", "pyarrow", "numpy")},
    }


def _encoded(job: Job) -> str:
    """Return the types of series and order as text."""
    keys = pa.schema({"series": job.series_type, "order": job.order_type or pa.null()})
    return base64.b64encode(keys.serialize().to_pybytes()).decode()


def _mark(source: DataFile, rows: int) -> dict[str, int]:
    return {"rows": rows, "bytes": source.size, "modified": source.modified}


def _columns(model: "Model", config: ScoreConfig) -> Columns:
    place = sample_input(model)
    features = config.features or model.interface.signal.features
    if not features:
        raise InputError(f"the model's file names no features; name its {place.width} with --features")
    if len(features) != place.width and not (config.by_window and len(features) == 1):
        raise InputError(
            f"got {len(features)} features ({', '.join(features)}), expected {place.width}; name them in the "
            "model's order with --features"
        )
    if config.by_window:
        if config.series and config.series == config.order:
            raise InputError(f"--series and --order are both {config.series!r}; leave one out")
        return Columns(config.series, config.order, features)
    series, order = config.series or "series", config.order or "order"
    if series == order or {series, order} & set(features):
        raise InputError(f"the columns {series!r} and {order!r} must differ from each other and the features")
    return Columns(series, order, features)


def _width(model: "Model", config: ScoreConfig) -> int:
    """Return C, the number of values per row of the output."""
    if config.events and not is_classification(model.interface.task):
        raise InputError("--events are changes of a label, and this file's outputs are values; leave it out")
    if not config.by_window:
        return Stepper(model, None).width
    samples = sample_input(model)
    row = np.zeros((model.interface.signal.window or 1, samples.width), dtype=samples.spec.dtype)
    return int(run_series(model, samples, [row]).shape[1])


def _rate(rows: int, seconds: float) -> float:
    """Return rows per second; 0 if the clock measured no time."""
    return rows / seconds if seconds else 0.0


def _look(
    files: list[DataFile], columns: Columns, config: ScoreConfig, earlier: Mapping[str, Any] | None
) -> _Found:
    """Read the footers of the files that no earlier run scored."""
    found = _Found(files)
    seen = {**earlier["files"], **earlier["left_out"]} if earlier else {}
    for source in files:
        if (mark := seen.get(source.name)) is not None:
            found.known += 1
            if (mark["bytes"], mark["modified"]) != (source.size, source.modified):
                raise InputError(
                    f"{source.path} changed since an earlier run scored it; score everything without --since"
                )
            continue
        try:
            file = open_parquet(source, columns)
        except (FileFormatError, InputError) as error:
            if not config.skip_bad:
                raise
            found.bad[source.number] = str(error)
            continue
        about, schema, own = file.metadata, file.schema_arrow, stored_keys(source, columns)
        found.groups[source.number] = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
        found.series_types.append(schema.field(columns.series).type if columns.series in own else pa.string())
        found.order_types.append(schema.field(columns.order).type if columns.order in own else None)
    if not found.groups and not found.known:
        raise InputError(f"none of the {len(files)} files can be read: {next(iter(found.bad.values()))}")
    return found


def _job(
    model: Path,
    opened: "Model",
    found: _Found,
    columns: Columns,
    width: int,
    config: ScoreConfig,
    earlier: Mapping[str, Any] | None,
    work: Path,
    workers: Engine,
) -> Job:
    task = opened.interface.task
    place = sample_input(opened)
    row_bytes = 4 * (place.width + width) + _KEYS
    in_memory = config.rows_in_memory or min(_ROWS, _BYTES // row_bytes)
    wanted = max(_LEAST_BUCKETS, 16 * workers.workers, found.rows // in_memory)
    buckets = 1 << (min(wanted, MOST_BUCKETS) - 1).bit_length()
    types: dict[str, Any] = {"series": pa.string(), "order": None}
    if not found.groups and earlier:
        keys = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(earlier["keys"])))
        types = dict(zip(types, keys.types, strict=True))
    elif not config.by_window:
        order = found.order_types[0]
        exact = None if order is None else exact_order(order)
        if exact is None:
            raise InputError(
                f"column {columns.order!r} is {order or 'in the path'}, expected numbers, dates, dated times "
                "or durations"
            )
        types["order"] = order if len(set(found.order_types)) == 1 else exact
        if len(set(found.series_types)) == 1 and _from_text(found.series_types[0]):
            types["series"] = found.series_types[0]
    names = tuple(result_names(task, width))
    if clash := {"label", *names} & {columns.series, columns.order}:
        raise InputError(f"column {min(map(str, clash))!r} has the name of a result; rename it")
    return Job(
        model=str(model.resolve()),
        identity=opened.identity,
        engine=opened.engine,
        work=str(work.resolve()),
        columns=columns,
        order_type=types["order"],
        series_type=types["series"],
        width=place.width,
        dtype=np.dtype(place.spec.dtype),
        results=names,
        labels=tuple(class_names(task, width)) if is_classification(task) else (),
        buckets=buckets,
        events=config.events,
        late=opened.interface.stream is not None and not config.by_window,
        hold=config.hold or 1,
        reset_every=_reset_every(opened, config),
        number=earlier["number"] + 1 if earlier else 1,
        rows=in_memory,
        memory=max(_LEAST_MEMORY, 2 * row_bytes * in_memory),
        previous=str(config.since.resolve()) if config.since else None,
        previous_buckets=earlier["buckets"] if earlier else 0,
    )


def _reset_every(model: "Model", config: ScoreConfig) -> int | None:
    if config.by_window or config.reset_every == "never":
        return None
    return config.reset_every or model.interface.reset_every


def _from_text(kind: pa.DataType) -> bool:
    """Return whether names of series can be converted back to this type."""
    try:
        pa.array([], pa.string()).cast(kind)
    except pa.ArrowException:
        return False
    return True


def _check_earlier(earlier: Mapping[str, Any], job: Job, config: ScoreConfig) -> None:
    """Raise ``InputError`` if the run and the earlier one could not equal one long run."""
    same = {
        "the model": (earlier["model"]["identity"][:12], job.identity[:12]),
        "the engine": (earlier["engine"], job.engine),
        "the columns": (earlier["columns"]._asdict(), job.columns._asdict()),
        "--events": (earlier["events"], config.events),
        "--hold": (earlier.get("hold", 1), job.hold),
        "--reset-every": (earlier.get("reset_every"), job.reset_every),
        "--by-window": (earlier["by_window"], config.by_window),
    }
    if earlier["keys"] != _encoded(job):
        raise InputError(
            f"series and order are of other types than in the run in {config.since}; give the same, or score "
            "everything without --since"
        )
    for what, (before, now) in same.items():
        if before != now:
            raise InputError(
                f"the run in {config.since} had {before} as {what}, this one has {now}; give the same, or "
                "score everything without --since"
            )


class _Run:
    """The stages of a run, one after the other."""

    def __init__(self, job: Job, workers: Engine, found: _Found, config: ScoreConfig, show: Show) -> None:
        self._job, self._workers, self._found, self._config, self._show = job, workers, found, config, show
        self.rows: dict[int, int] = {}
        """Number of rows of each scored file, by number."""
        self.bad = dict(found.bad)
        self.stages: list[StageReport] = []

    def series(self) -> dict[str, int]:
        """Score series; return the numbers of series and of events."""
        buckets, series = np.zeros(self._job.buckets, dtype=np.int64), set[int]()
        self.rows = {number: 0 for number, groups in self._found.groups.items() if not groups}
        for done in self._stage("read", (0, 0.15), read_files, self._read_items()):
            self._take(done)
            buckets += done["buckets"]
            series |= done["series"]
        for number in self.bad:
            self.rows.pop(number, None)
        tasks = self._tasks(buckets, len(series))
        items = [
            {"task": task, "buckets": own, "rows": int(buckets[own].sum()), "bad": sorted(self.bad)}
            for task, own in enumerate(tasks)
        ]
        total = {"series": 0, "events": 0}
        for done in self._stage("score", (0.15, 0.9), score_series, items):
            for key in total:
                total[key] += done[key]
        sizes = [(self._found.files[number], rows) for number, rows in sorted(self.rows.items())]
        groups = _grouped(sizes, [rows for _, rows in sizes], self._most(self._job.rows))
        for _ in self._stage("write", (0.9, 1), write_files, [{"files": group} for group in groups]):
            pass
        return total

    def windows(self) -> dict[str, int]:
        """Score files of windows."""
        groups = self._found.groups
        sources = [self._found.files[number] for number in groups]
        items = _grouped(sources, list(map(sum, groups.values())), self._most(self._job.rows))
        for done in self._stage("score", (0, 1), score_windows, [{"files": group} for group in items]):
            self._take(done)
        return {}

    def _take(self, done: Mapping[str, Any]) -> None:
        for number, message in done["bad"].items():
            if not self._config.skip_bad:
                raise InputError(message)
            self.bad[number] = message
        for number, rows in done["by_file"].items():
            self.rows[number] = self.rows.get(number, 0) + rows

    def _most(self, limit: int) -> int:
        """Return the maximum number of rows of an item: the limit, or fewer so that no worker is idle."""
        return min(limit, self._found.rows // (2 * self._workers.workers) + 1)

    def _read_items(self) -> list[dict[str, Any]]:
        """Return items of consecutive row groups."""
        pieces: list[tuple[DataFile, int, int]] = []
        sizes: list[int] = []
        for number, groups in self._found.groups.items():
            firsts = np.cumsum([0, *groups]).tolist()[:-1]
            pieces += [(self._found.files[number], group, first) for group, first in enumerate(firsts)]
            sizes += groups
        items = _grouped(pieces, sizes, self._most(self._job.rows))
        return [{"part": part, "pieces": group} for part, group in enumerate(items)]

    def _tasks(self, rows: "np.ndarray[Any, Any]", series: int) -> list[list[int]]:
        """Distribute the buckets by their rows; with an earlier run all of them: their states continue."""
        used = np.arange(self._job.buckets) if self._job.previous else np.flatnonzero(rows)
        workers = self._workers.workers
        wanted = max(2 * workers if workers > 1 else 1, series // _SERIES)
        ranked = sorted(used.tolist(), key=lambda bucket: -int(rows[bucket]))
        return [ranked[task::wanted] for task in range(min(wanted, len(ranked)))]

    def _stage(
        self, name: str, share: tuple[float, float], stage: Any, items: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        """Yield the results of the items, and report progress."""
        begun = shown = time.monotonic()
        done = rows = 0
        total = max(self._found.rows, 1)

        def tell(more: int) -> None:
            nonlocal done, shown
            done += more
            now = time.monotonic()
            if now - shown >= _SHOWN:
                shown = now
                fraction = share[0] + (share[1] - share[0]) * min(done / total, 1)
                rate = done / (now - begun)
                self._show(fraction, f"{name}: {done:,} of {total:,} rows, {rate:,.0f} rows/s")

        self._show(
            share[0], f"{name}: {counted(len(items), 'item')} for {counted(self._workers.workers, 'worker')}"
        )
        for result in self._workers.map(stage, self._job, items, tell) if items else ():
            rows += result["rows"]
            yield result
        seconds = time.monotonic() - begun
        self.stages.append(StageReport(name, rows, seconds, _rate(rows, seconds)))


def _grouped(things: Any, sizes: Sequence[int], most: int) -> list[list[Any]]:
    """Group consecutive things so that each group has a size of at most ``most``, or one thing."""
    groups: list[list[Any]] = []
    room = 0
    for thing, size in zip(things, sizes, strict=True):
        if not groups or size > room:
            groups.append([])
            room = most
        groups[-1].append(thing)
        room -= size
    return groups
