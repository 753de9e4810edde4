"""One measurement of one or more files, side by side, as a document ready for JSON."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from lstm_edge.host import describe_host, describe_software
from lstm_edge_exporters.bootstrap import ratio_interval
from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError

from .calls import TimedModel, chunk_call, step_call, streams_call
from .rounds import Call, Rounds, interleave
from .system import cpu_at_rate, cpu_idle, measure_load

FORMAT = "lstm-edge bench"
_SCHEMA = 1
STREAMS = "streams "
"""Prefix of a batch's measure, before the number of streams."""
_IDLE_SECONDS = 0.5
_PACED_SECONDS = 1.0
_LEAST_RATE = 0.2
"""Hertz; below it two samples keep everyone waiting for more than ten seconds."""
_NOISE_LIMIT = 0.25
"""Maximum variation of the calibration workload; beyond it the rounds measure the machine, not a file."""


@dataclass(frozen=True)
class Plan:
    """Measurements and their durations."""

    seconds: float = 10.0
    """Approximate duration of the timed rounds of each file."""
    rounds: int = 15
    """Blocks of each call; the intervals resample them."""
    chunk: int = 256
    """Time steps of a chunk."""
    streams: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    """Batches of streams whose ticks are timed."""
    rate: float | None = None
    """Hertz; None for each file's own sampling rate."""


def measure(
    timed_models: Sequence[TimedModel],
    plan: Plan,
    settings: dict[str, Any],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure files side by side.

    Args:
        timed_models: the open files; ratios are against the first.
        plan: the measurements.
        settings: arguments of ``load``, for the processes that measure loading, and for the record.
        progress: called with the current work.

    Raises:
        CheckFailedError: the machine was too noisy, twice.
    """
    calls: dict[tuple[str, str], Call] = {}
    left_out: dict[str, list[str]] = {}
    for timed_model in timed_models:
        made, skipped = _calls(timed_model, plan)
        calls |= {(timed_model.name, name): call for name, call in made.items()}
        left_out[timed_model.name] = skipped
    progress("timing")
    rounds = _quiet_rounds(calls, plan, len(timed_models), progress)
    files = []
    for timed_model in timed_models:
        progress(f"loading {timed_model.name} in separate processes")
        files.append(_file(timed_model, rounds, plan, settings) | {"left_out": left_out[timed_model.name]})
    return {
        "format": FORMAT,
        "schema": _SCHEMA,
        "host": describe_host(),
        "software": describe_software(),
        "settings": settings | {"plan": asdict(plan)},
        "noise": rounds.noise,
        "preemptions_per_second": rounds.preemptions,
        "calibration_us": [value / 1e3 for value in rounds.calibration],
        "files": files,
        "ratios": _ratios(timed_models, rounds),
    }


def _calls(timed_model: TimedModel, plan: Plan) -> tuple[dict[str, Call], list[str]]:
    """Return the calls that a file supports, each tried once, and why others are left out."""
    makers: dict[str, Callable[[], Call]] = {"chunk": partial(chunk_call, timed_model, plan.chunk)}
    skipped = []
    if timed_model.streamable:
        makers = {"step" if timed_model.unit == 1 else "unit": partial(step_call, timed_model)} | makers
    else:
        skipped.append("step and streams: the file can't be streamed")
    if timed_model.batched:
        makers |= {f"{STREAMS}{count}": partial(streams_call, timed_model, count) for count in plan.streams}
    calls = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
        except LstmEdgeError as error:  # noqa: PERF203
            skipped.append(f"{name}: {error}")
        else:
            calls[name] = call
    if not calls:
        raise CheckFailedError(f"{timed_model.path} supports none of the calls: {'; '.join(skipped)}")
    return calls, skipped


def _quiet_rounds(
    calls: dict[tuple[str, str], Call], plan: Plan, files: int, progress: Callable[[str], None]
) -> Rounds[tuple[str, str]]:
    seconds = plan.seconds * files
    rounds = interleave(calls, seconds, plan.rounds)
    if rounds.noise > _NOISE_LIMIT:
        progress("timing again: the machine was noisy")
        rounds = interleave(calls, seconds, plan.rounds)
    if rounds.noise > _NOISE_LIMIT:
        raise CheckFailedError(
            f"the machine is too noisy: the calibration workload varied by {rounds.noise:.0%} "
            f"between rounds, expected at most {_NOISE_LIMIT:.0%}; stop other work, or increase --seconds"
        )
    return rounds


def _file(
    timed_model: TimedModel, rounds: Rounds[tuple[str, str]], plan: Plan, settings: dict[str, Any]
) -> dict[str, Any]:
    model = timed_model.model
    timed = {call: found for (name, call), found in rounds.timed.items() if name == timed_model.name}
    measures = {
        name: asdict(found.latency) | {"rounds_us": [value / 1e3 for value in found.rounds]}
        for name, found in timed.items()
    }
    rate, unit = plan.rate or timed_model.model.manifest.signal.sampling_rate, timed_model.unit
    step = measures.get("step" if unit == 1 else "unit")
    return {
        "name": timed_model.name,
        "path": str(timed_model.path),
        "sha256": model.sha256,
        "bytes": timed_model.path.stat().st_size,
        "precision": model.manifest.precision,
        "engine": model.engine,
        "device": model.device,
        "latency_us": measures,
        "samples_per_second": {
            count: int(count) * unit / measures[name]["p50"] * 1e6
            for name in measures
            if (count := name.removeprefix(STREAMS)) != name
        },
        "rate_hz": rate,
        "real_time_factor": step["p50"] * rate / unit / 1e6 if step and rate else None,
        "cpu": _cpu(timed_model, rate),
        "load": asdict(measure_load(timed_model.path, settings)),
    }


def describe_costs(file: dict[str, Any]) -> dict[str, str]:
    """Return the costs of a file other than its calls, as text by name; ``file`` is from ``measure``."""
    load, cpu = file["load"], file["cpu"]
    memory = {"peak memory": load["peak_bytes"], "memory beyond imports": load["beyond_import_bytes"]}
    shares = {
        "processor while waiting": cpu["idle"],
        "processor at the rate": cpu["at_rate"],
        "processor of pacing alone": cpu["pacing_alone"],
    }
    rate, factor = file["rate_hz"], file["real_time_factor"]
    return {
        "size": f"{file['bytes']:,} bytes",
        "load": f"{load['load_ms']:.1f} ms",
        "imports": f"{load['import_ms']:.0f} ms",
        **{what: f"{size / 1e6:.1f} MB" for what, size in memory.items() if size is not None},
        **({"rate": f"{rate:g} Hz"} if rate else {}),
        **{what: f"{share:.2%} of a core" for what, share in shares.items() if share is not None},
        **({} if factor is None else {"real-time factor": f"{factor:.2g}"}),
    }


def _cpu(timed_model: TimedModel, rate: float | None) -> dict[str, float | None]:
    """Return shares of one core: waiting, at the sensor's rate, and at that rate with nothing to compute."""
    idle = cpu_idle(_IDLE_SECONDS)
    if rate is None or rate < _LEAST_RATE or not timed_model.streamable:
        return {"idle": idle, "at_rate": None, "pacing_alone": None}
    rate /= timed_model.unit
    return {
        "idle": idle,
        "at_rate": cpu_at_rate(step_call(timed_model), rate, _PACED_SECONDS),
        "pacing_alone": cpu_at_rate(lambda: None, rate, _PACED_SECONDS),
    }


def _ratios(timed_models: Sequence[TimedModel], rounds: Rounds[tuple[str, str]]) -> list[dict[str, Any]]:
    """Compare every file with the first, call by call, round by round."""
    first = timed_models[0].name
    found = []
    for (name, call), timed in rounds.timed.items():
        reference = rounds.timed.get((first, call))
        if name != first and reference is not None:
            interval = ratio_interval(timed.rounds, reference.rounds, paired=True)
            found.append({"file": name, "against": first, "measure": call} | asdict(interval))
    return found
