"""``lstm-edge train``."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.errors import InputError, MissingDependencyError

from ..data.config import DataConfig, ReadConfig
from ..run_files import REPORT
from ..training.config import TrainConfig
from ._options import PATH, field_options, needing, take_given, verb
from ._output import Output, Show

if TYPE_CHECKING:
    from ..training.training import Epoch


_SECTIONS = {
    "Data": (ReadConfig,),
    "Windows and sets": (DataConfig,),
    "Network and training": (TrainConfig,),
}
"""Configurations by the title of their options in the help."""


@verb("train", extra="export")
@click.argument("data", type=PATH)
@click.option(
    "-o",
    "--output",
    "folder",
    type=PATH,
    required=True,
    metavar="RUN",
    help="Run folder.",
)
@field_options(_SECTIONS)
@click.option(
    "--resume", is_flag=True, help="Resume; --epochs and --patience may change."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing run in RUN.")
def command(
    data: Path, folder: Path, resume: bool, overwrite: bool, show: Show, **options: Any
) -> Output:
    """Train an LSTM1 on DATA and save the best epoch to RUN.

    DATA is a .npz with x (samples, L, features) and y, a .csv or .parquet with one row
    per time step, or a folder of these. Text or integers in y, or a label column, are
    classes; floats, --target or --forecast are values to predict. Ctrl-C keeps the best
    epoch so far.

    \b
    Example:
      lstm-edge train har.npz -o runs/har
      lstm-edge train load.csv -o runs/load --forecast megawatt --window 48
    """  # noqa: D301
    if resume and overwrite:
        raise InputError(
            "--resume continues a run and --overwrite replaces it; give only one of"
            " them"
        )
    from ..training.train import train
    from ..training.training import read_state

    started = time.monotonic()
    data_config = DataConfig()
    config = TrainConfig()
    if resume:
        state = read_state(folder)
        data_config = state.data_config
        config = state.config
    run = train(
        data,
        folder,
        data_config=replace(data_config, **take_given(DataConfig, options)),
        config=replace(config, **take_given(TrainConfig, options)),
        resume=resume,
        overwrite=overwrite,
        on_epoch=lambda epoch, epochs: show(
            epoch.number / epochs, describe_epoch(epoch, epochs)
        ),
    )
    summary = run.summary
    sets = [name for name in ("validation", "test") if summary[name]]
    document = {
        "run": folder,
        "sha256": run.sha256,
        **summary,
        "scores": _score_table(summary, sets),
        "seconds": time.monotonic() - started,
    }
    try:
        with needing("report", "train"):
            from ..report.training import write_report
        write_report(folder, summary)
        document["report"] = folder / REPORT
    except MissingDependencyError as error:
        document["notes"] = [*summary["notes"], f"no report: {error}"]
    following: list[tuple[object, ...]] = [("export", folder, "-o", "model.onnx")]
    if summary["stopped"] == "interrupted":
        following.insert(0, ("train", data, "-o", folder, "--resume"))
    hidden = {*sets, "history", "config"}
    lines = {name: entry for name, entry in document.items() if name not in hidden}
    titles = {name: f"{name} ({summary['split'][name]} series)" for name in sets}
    lines["data"] = {
        name.replace("_", " "): entry for name, entry in summary["data"].items()
    }
    lines["scores"] = [_with_titles(row, titles) for row in document["scores"]]
    return Output(document, lines=lines, next=following)


def _with_titles(row: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """Return a row of scores with the size of each set in its name."""
    return {titles.get(name, name): value for name, value in row.items()}


def _score_table(
    summary: Mapping[str, Any], sets: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one row per score, with the name of each set as a key."""
    rows: dict[str, dict[str, Any]] = {}
    for name in sets:
        for score, value in _scores(summary[name]):
            row = rows.setdefault(score, {"score": score})
            row[name] = value
    return list(rows.values())


def describe_epoch(epoch: "Epoch", epochs: int) -> str:
    """Return one line of progress."""
    loss = epoch.windows if epoch.streams is None else epoch.streams
    return (
        f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}  val {loss:.4f}  score"
        f" {epoch.score:.3f}"
    )


_SHOWN = ("accuracy", "all_steps", "mae", "rmse", "recall")
"""Names of the scores in the table."""


def _scores(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a set's scores."""
    modes = {mode: summary[mode] for mode in ("streams", "windows") if mode in summary}
    for name, scores in summary["baselines"].items():
        modes[f"baseline {name}"] = scores
    for mode, scores in modes.items():
        for name in _SHOWN:
            title = name.replace("_", " ")
            value = scores.get(name)
            if isinstance(value, dict):
                for label, entry in value.items():
                    yield f"{title} {label}, {mode}", _or_none(entry)
            elif name in scores:
                yield f"{title}, {mode}", _or_none(value)


def _or_none(value: Any) -> Any:
    """Return a score, or ``none`` for one that is not defined."""
    return "none" if value is None else value
