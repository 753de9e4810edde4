"""``lstm-edge train``."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_exporters.options import option_fields
from lstm_edge_runtime.errors import InputError, MissingDependencyError

from ..data.config import DataConfig
from ..run_files import REPORT
from ..training.config import TrainConfig
from ._options import PATH, field_options, needing, verb
from ._output import Report, Show

if TYPE_CHECKING:
    from ..training.train import Epoch


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
@field_options(DataConfig, TrainConfig)
@click.option(
    "--resume", is_flag=True, help="Resume; --epochs and --patience may change."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing run in RUN.")
def command(
    data: Path, folder: Path, resume: bool, overwrite: bool, show: Show, **options: Any
) -> Report:
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
    from ..training.train import read_state, train

    given = {name: value for name, value in options.items() if value is not None}
    data_config, config = (
        read_state(folder)[:2] if resume else (DataConfig(), TrainConfig())
    )
    run = train(
        data,
        folder,
        data_config=replace(
            data_config,
            **{n: given[n] for n in option_fields(data_config) if n in given},
        ),
        config=replace(
            config, **{n: given[n] for n in option_fields(config) if n in given}
        ),
        resume=resume,
        overwrite=overwrite,
        on_epoch=lambda epoch, epochs: show(
            epoch.number / epochs, describe_epoch(epoch, epochs)
        ),
    )
    summary = run.summary
    scores = dict[str, dict[str, Any]]()
    sets = [name for name in ("validation", "test") if summary[name]]
    for name in sets:
        for score, value in _scores(summary[name]):
            scores.setdefault(score, {"score": score})[name] = value
    document = {
        "run": folder,
        "sha256": run.sha256,
        **summary,
        "scores": [*scores.values()],
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
    lines["scores"] = [
        {titles.get(name, name): value for name, value in row.items()}
        for row in scores.values()
    ]
    return Report(document, lines=lines, next=following)


def describe_epoch(epoch: "Epoch", epochs: int) -> str:
    """Return one line of progress."""
    loss = epoch.windows if epoch.streams is None else epoch.streams
    return (
        f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}  val {loss:.4f}  score"
        f" {epoch.score:.3f}"
    )


_SHOWN = ("accuracy", "all_steps", "mae", "rmse", "recall")


def _scores(summary: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a set's scores."""
    ways = {way: summary[way] for way in ("streams", "windows") if way in summary}
    ways |= {
        f"baseline {name}": scores for name, scores in summary["baselines"].items()
    }
    for way, scores in ways.items():
        for name in _SHOWN:
            value = scores.get(name, {})
            for part, entry in (
                value.items() if isinstance(value, dict) else [("", value)]
            ):
                title = f"{name.replace('_', ' ')}{part and f' {part}'}, {way}"
                yield title, "none" if entry is None else entry
