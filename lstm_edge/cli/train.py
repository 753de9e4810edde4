"""``lstm-edge train``."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lstm_edge_runtime.errors import InputError, MissingDependencyError, counted

from ..data.config import DataConfig
from ..run_files import REPORT
from ..training.config import TrainConfig
from ._extras import needing
from ._options import PATH, config_options, fill, json_option
from ._output import Screen, echo, echo_json, print_table, progress

if TYPE_CHECKING:
    from ..training.train import Epoch

_ENDS = {
    "epochs": "all epochs done",
    "patience": "stopped early, no improvement in validation loss",
    "interrupted": "interrupted, the best epoch so far is kept",
}


@click.command()
@click.argument("data", type=PATH)
@click.option(
    "-o", "--output", "folder", type=PATH, required=True, metavar="RUN", help="Run folder to create."
)
@config_options(DataConfig, TrainConfig)
@click.option(
    "--resume", is_flag=True, help="Resume the training in RUN; --epochs and --patience may change."
)
@click.option("--overwrite", is_flag=True, help="Replace an existing run in RUN.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    data: Path,
    folder: Path,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
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
    with needing("export", "train"):
        from ..training.train import read_configs, train
    given = {
        name: value
        for name, value in options.items()
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    data_config, config = read_configs(folder) if resume else (DataConfig(), TrainConfig())
    with progress(quiet=as_json) as show:
        run = train(
            data,
            folder,
            data_config=fill(DataConfig, vars(data_config) | given),
            config=fill(TrainConfig, vars(config) | given),
            resume=resume,
            overwrite=overwrite,
            on_epoch=lambda epoch, epochs: show(epoch.number / epochs, describe_epoch(epoch, epochs)),
            on_fold=lambda number, count: show(number / count, f"cross-validation, fold {number}/{count}"),
        )
    summary, report = run.summary, f"report: {folder / REPORT}"
    try:
        with needing("report", "train"):
            from ..report.training import write_report
        write_report(folder, summary)
    except MissingDependencyError as error:
        report = f"no report: {error}"
    if as_json:
        echo_json({"run": str(folder), "sha256": run.sha256, **summary})
    else:
        print_summary(summary)
        echo(f"saved to {folder}; {report}\n")
        Screen().print("next:", style="bold")
        if summary["stopped"] == "interrupted":
            echo(f"  lstm-edge train {data} -o {folder} --resume")
        echo(f"  lstm-edge export {folder} -o model.onnx")
    if summary["stopped"] == "interrupted":
        raise KeyboardInterrupt(f"the best epoch so far is in {folder}")


def describe_epoch(epoch: "Epoch", epochs: int) -> str:
    """Return one line of progress."""
    return (
        f"epoch {epoch.number}/{epochs}  loss {epoch.loss:.4f}  val {epoch.streams:.4f}  "
        f"score {epoch.score:.3f}"
    )


def print_summary(summary: Mapping[str, Any]) -> None:
    """Print the data, the sets, their scores, and notes."""
    data, split = summary["data"], summary["split"]
    length = " to ".join(dict.fromkeys(str(data["steps"][key]) for key in ("shortest", "longest")))
    echo(
        f"{counted(summary['epochs'], 'epoch')}, best epoch {summary['best_epoch']}; "
        f"{_ENDS[summary['stopped']]}"
    )
    echo(
        f"data: {data['series']} series of {length} steps, {counted(len(data['features']), 'feature')}; "
        f"split: {split['description']}"
    )
    for text in summary["notes"]:
        echo(f"note: {text}")
    for name, each in (summary.get("cross_validation") or {}).items():
        spread = f"standard deviation {each['std']:.2g}"
        echo(f"{name} over {len(each['folds'])} folds: {each['mean']:.4g}, {spread}")
    sets = [name for name in ("validation", "test") if summary[name]]
    columns = [dict(_rows(summary[name])) for name in sets]
    rows = [[what, *(column.get(what, "") for column in columns)] for what in columns[0]]
    print_table("", ["", *(f"{name} ({split[name]} series)" for name in sets)], rows)


_WAYS = {"streams": "streams", "windows": "windows from reset"}


def _rows(scores: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a set's scores, what a device runs first."""
    for way in sorted(set(_WAYS) & scores.keys(), key=lambda each: each != scores["shown"]):
        yield from _score_rows(scores[way], _WAYS[way])
        if "steps_until_right" in scores[way]:
            found = scores[way]["steps_until_right"]
            yield "  at all steps", f"{scores[way]['all_steps']:.3f}"
            yield "  steps until right, median (90 %)", f"{_steps(found['median'])} ({_steps(found['p90'])})"
    for name, each in scores["baselines"].items():
        yield from _score_rows(each, f"baseline: {name}")
    shown = scores[scores["shown"]]
    for label, recall in shown.get("recall", {}).items():
        count = shown["count"][label]
        yield f"recall of {label}", "not in this set" if recall is None else f"{recall:.3f} of {count}"


def _score_rows(scores: Mapping[str, Any], what: str) -> Iterator[tuple[str, str]]:
    if "accuracy" in scores:
        yield f"accuracy, {what}", f"{scores['accuracy']:.3f}"
    for error in ("mae", "rmse"):
        for target, value in scores.get(error, {}).items():
            yield f"{error.upper()} of {target}, {what}", f"{value:.4g}"


def _steps(found: int | None) -> str:
    return "not reached" if found is None else str(found)
