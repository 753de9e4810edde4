"""``lstm-edge train``."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_exporters.options import option_fields
from lstm_edge_runtime.errors import InputError, MissingDependencyError

from ..data.config import DataConfig
from ..run_files import REPORT
from ..training.config import TrainConfig
from ._extras import needing
from ._options import PATH, field_options, verb
from ._output import Report

if TYPE_CHECKING:
    from ..training.train import Epoch


@verb("train", extra="export")
@click.argument("data", type=PATH)
@click.option(
    "-o", "--output", "folder", type=PATH, required=True, metavar="RUN", help="Run folder to create."
)
@field_options(DataConfig, TrainConfig)
@click.option(
    "--resume", is_flag=True, help="Resume the training in RUN; --epochs and --patience may change."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing run in RUN.")
def command(
    data: Path,
    folder: Path,
    resume: bool,
    overwrite: bool,
    show: Callable[[float, str], None],
    **options: Any,
) -> Report:
    """Train an LSTM1 on DATA and save the best epoch to RUN.

    DATA is a .npz with x (samples, L, features) and y, a .csv or .parquet with one row per time step, or a
    folder of these. Text or integers in y, or a label column, are classes; floats, --target or --forecast
    are values to predict. Ctrl-C keeps the best epoch so far.

    \b
    Example:
      lstm-edge train har.npz -o runs/har
      lstm-edge train log.csv -o runs/log --label surface --window 100 --stride 50
      lstm-edge train load.csv -o runs/load --forecast megawatt --window 48
    """  # noqa: D301
    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite replaces it; give only one of them")
    from ..training.train import read_configs, train

    of_data, of_training = read_configs(folder) if resume else (DataConfig(), TrainConfig())
    given = {name: value for name, value in options.items() if value is not None}
    run = train(
        data,
        folder,
        data_config=replace(
            of_data, **{name: given[name] for name in option_fields(of_data) if name in given}
        ),
        config=replace(
            of_training, **{name: given[name] for name in option_fields(of_training) if name in given}
        ),
        resume=resume,
        overwrite=overwrite,
        on_epoch=lambda epoch, epochs: show(epoch.number / epochs, describe_epoch(epoch, epochs)),
    )
    sets = [name for name in ("validation", "test") if run.summary[name]]
    columns = {
        f"{name} ({run.summary['split'][name]} series)": dict(_rows(run.summary[name])) for name in sets
    }
    names = dict.fromkeys(what for column in columns.values() for what in column)
    scores = [{"score": what} | {name: each.get(what) for name, each in columns.items()} for what in names]
    document = {"run": folder, "sha256": run.sha256, **run.summary, "scores": scores}
    try:
        with needing("report", "train"):
            from ..report.training import write_report
        write_report(folder, run.summary)
        document["report"] = folder / REPORT
    except MissingDependencyError as error:
        document["notes"] = [*run.summary["notes"], f"no report: {error}"]
    export = f"lstm-edge export {folder} -o model.onnx"
    hidden = (*sets, "history", "config")
    if run.summary["stopped"] != "interrupted":
        return Report(document, hidden=hidden, next=[export])
    stopped = KeyboardInterrupt(f"the best epoch so far is in {folder}")
    return Report(
        document, hidden=hidden, next=[f"lstm-edge train {data} -o {folder} --resume", export], error=stopped
    )


def describe_epoch(epoch: "Epoch", epochs: int) -> str:
    """Return one line of progress."""
    loss = epoch.windows if epoch.streams is None else epoch.streams
    return f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}  val {loss:.4f}  score {epoch.score:.3f}"


_WAYS = {"streams": "streams", "windows": "windows from reset"}


def _rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of a set's scores, what a device runs first."""
    for way in sorted(set(_WAYS) & scores.keys(), key=lambda each: each != scores["shown"]):
        yield from _score_rows(scores[way], _WAYS[way])
        if "all_steps" in scores[way]:
            yield "accuracy, streams, at all steps", scores[way]["all_steps"]
    for name, each in scores["baselines"].items():
        yield from _score_rows(each, f"baseline: {name}")
    shown = scores[scores["shown"]]
    for label, recall in shown.get("recall", {}).items():
        yield f"recall of {label}", "not in this set" if recall is None else recall


def _score_rows(scores: Mapping[str, Any], what: str) -> Iterator[tuple[str, Any]]:
    if "accuracy" in scores:
        yield f"accuracy, {what}", scores["accuracy"]
    for error in ("mae", "rmse"):
        for target, value in scores.get(error, {}).items():
            yield f"{error.upper()} of {target}, {what}", value
