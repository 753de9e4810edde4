"""``lstm-edge tune``: the session options, and the file, that serve an objective best on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.errors import InputError

from ._model import ModelOptions, open_model
from ._options import PATH, RATE, engine_option, json_option, models_argument
from ._output import echo, echo_json, print_table, progress

if TYPE_CHECKING:
    from lstm_edge.timing.objective import Objective
    from lstm_edge.timing.search import Outcome

__all__ = ["command"]

_THROUGHPUT_STREAMS = 64


@click.command("tune")
@models_argument
@click.option(
    "--goal",
    "goal_name",
    type=click.Choice(["latency", "p99", "throughput", "energy"]),
    default="latency",
    help="What to make small: a step's median time, its 99th percentile, the time a sample of many streams "
    "takes, or the processor time a step takes.",
)
@click.option("--rate", type=RATE, help="Calls come at this rate, such as 100Hz.")
@click.option(
    "--streams", type=click.IntRange(min=1), help="Streams that share a call.  [default: 1; throughput: 64]"
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    help="The time budget.",
)
@click.option("-o", "--output", type=PATH, help="The profile.  [default: MODEL.profile.json]")
@engine_option
@json_option
def command(
    models: tuple[Path, ...],
    goal_name: str,
    rate: float | None,
    streams: int | None,
    seconds: float,
    output: Path | None,
    engine: Any,
    as_json: bool,
) -> None:
    """Measure which session options serve an objective on this machine, and write them as a profile.

    The first of MODELS is tuned; the others are variants of it (int8, fp16), of which the fastest that
    passes its self-test is taken. Every candidate is timed beside the best so far, in turn, and kept where
    the 95 % interval of the ratio says that it is faster; the winner is measured once more beside the
    defaults. load(MODEL, profile=PROFILE) uses the profile on this kind of machine only.

    For energy, processor time at the sensor's rate stands in: a program can't read what the board draws.

    \b
    Example:
      lstm-edge tune har.onnx har-int8.onnx --goal energy --rate 100Hz
    """  # noqa: D301
    from lstm_edge.host import try_providers
    from lstm_edge.timing.objective import Objective
    from lstm_edge.timing.search import tune
    from lstm_edge_runtime.files import replacing
    from lstm_edge_runtime.profile import host_key

    with open_model(models[0], ModelOptions(engine=engine)) as model:
        signal, first = model.interface.signal, model.engine
    engines = [first] if engine != "auto" or first == "onnxruntime" else [first, "onnxruntime"]
    if goal_name == "energy" and rate is None:
        rate = signal.sampling_rate
        if rate is None:
            raise InputError("energy depends on the rate, which the file does not state; give --rate")
    streams = streams or (_THROUGHPUT_STREAMS if goal_name == "throughput" else 1)
    objective = Objective(goal_name, rate, streams)
    target = output or models[0].with_suffix(".profile.json")
    providers = [state.name for state in try_providers() if state.usable]
    with replacing(target) as temporary:
        with progress(quiet=as_json) as show:
            outcome = tune(models, objective, seconds, providers, host_key()["cores"], engines, show)
        document = _document(outcome, objective)
        outcome.chosen.profile(objective.name, document).save(temporary)
    if as_json:
        echo_json({"profile": str(target)} | document)
    else:
        _print(outcome, objective, target)


def _document(outcome: "Outcome", objective: "Objective") -> dict[str, Any]:
    chosen, default = outcome.chosen, outcome.default
    return {
        "goal": asdict(objective),
        "better_than_default": outcome.better,
        "file": str(chosen.path),
        "engine": chosen.engine,
        "options": chosen.options._asdict(),
        "cost": outcome.cost,
        "unit": objective.unit,
        "default": {
            "file": str(default.path),
            "engine": default.engine,
            "options": default.options._asdict(),
            "cost": outcome.default_cost,
        },
        "ratio": outcome.final and asdict(outcome.final),
        "trials": [
            {
                "candidate": str(trial.candidate),
                "ratio": trial.interval and asdict(trial.interval),
                "verdict": trial.verdict,
            }
            for trial in outcome.trials
        ],
    }


def _print(outcome: "Outcome", objective: "Objective", target: Path) -> None:
    rows = [
        (str(trial.candidate), "" if trial.interval is None else str(trial.interval), trial.verdict)
        for trial in outcome.trials
    ]
    print_table("tried, each beside the best so far", ["candidate", "share of its cost", "verdict"], rows)
    if outcome.better and outcome.final:
        echo(
            f"best: {outcome.chosen}: {outcome.cost:.3g} {objective.unit}, {outcome.final} of the default's "
            f"{outcome.default_cost:.3g}"
        )
    else:
        echo(f"nothing beats the defaults beyond noise: {outcome.default_cost:.3g} {objective.unit}")
    echo(f'use it: load("{outcome.chosen.path}", profile="{target}")')
