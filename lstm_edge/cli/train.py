"""``lstm-edge train``."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from lstm_edge_runtime.errors import InputError

from ._extras import needing_export
from ._output import console, echo_json, json_option
from ._training import print_summary, progress

__all__ = ["command"]

_DATA = (
    "window",
    "stride",
    "series",
    "order",
    "label",
    "targets",
    "forecast",
    "features",
    "units",
    "sampling_rate",
    "validation",
    "test",
)
_TRAIN = (
    "hidden_size",
    "num_layers",
    "dropout",
    "epochs",
    "patience",
    "batch_size",
    "learning_rate",
    "clip",
    "crop",
    "label_smoothing",
    "seed",
    "device",
)


def _names(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Split ``a,b,c``."""
    names = tuple(name.strip() for name in value.split(",")) if value is not None else ()
    if not all(names):
        raise click.BadParameter(f"{value!r} has an empty name in it; write NAME,NAME", ctx, param)
    return names


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="RUN",
    help="The run folder to make.",
)
@click.option("--window", type=int, help="Time steps of a sample; without it every series is taken whole.")
@click.option("--stride", type=int, help="Time steps between windows.  [default: the window]")
@click.option("--series", metavar="COLUMN", help="Column that tells series apart.  [default: series]")
@click.option("--order", metavar="COLUMN", help="Column that orders a series.  [default: order]")
@click.option("--label", metavar="COLUMN", help="Column with the class.  [default: label]")
@click.option(
    "--target",
    "targets",
    callback=_names,
    metavar="NAMES",
    help="Columns with values to predict, for regression.",
)
@click.option(
    "--forecast",
    callback=_names,
    metavar="NAMES",
    help="Columns whose next value to predict; needs --window.",
)
@click.option(
    "--features", callback=_names, metavar="NAMES", help="Columns to learn from.  [default: all the others]"
)
@click.option(
    "--units", callback=_names, metavar="NAMES", help="Units of the values, kept in the exported file."
)
@click.option(
    "--rate", "sampling_rate", type=float, metavar="HZ", help="Sampling rate, kept in the exported file."
)
@click.option(
    "--validation", type=float, help="Share of the series that decides when to stop.  [default: 0.2]"
)
@click.option("--test", type=float, help="Share that only the summary sees.  [default: 0.2]")
@click.option("--hidden-size", type=int, help="Width of the LSTM.  [default: 32]")
@click.option("--layers", "num_layers", type=int, help="LSTM layers.  [default: 1]")
@click.option("--dropout", type=float, help="Dropout between layers.  [default: 0]")
@click.option("--epochs", type=int, help="The most passes over the data.  [default: 200]")
@click.option("--patience", type=int, help="Epochs without progress before stopping.  [default: 40]")
@click.option("--batch-size", type=int, help="Samples a step of the optimizer.  [default: 16]")
@click.option("--learning-rate", type=float, help="Adam's learning rate.  [default: 0.005]")
@click.option("--clip", type=float, help="The largest norm of the gradient.  [default: 1]")
@click.option(
    "--crop",
    type=float,
    help="Shortest random crop, a share of a sample; 1 for none.  [default: 0.2 for classes, 1 for values]",
)
@click.option("--label-smoothing", type=float, help="Share of a class spread over all.  [default: 0.05]")
@click.option("--seed", type=int, help="Of everything random.  [default: 0]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Where to train.  [default: cpu]")
@click.option("--resume", is_flag=True, help="Go on where RUN stopped; --epochs and --patience may change.")
@click.option("--overwrite", is_flag=True, help="Replace a run that RUN holds.")
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
    """Train an LSTM1 on DATA and keep the best of it in the folder RUN.

    DATA is a .npz with x (samples, L, features) and y, or a long-form .csv with a row a time step. Text or
    integers in y, or a label column, make classes; floats, --target or --forecast make values to predict.
    Ctrl-C keeps the best so far.

    \b
    Example:
      lstm-edge train har.npz -o runs/har
      lstm-edge train log.csv -o runs/log --series ride --label surface --window 100 --stride 50
      lstm-edge train load.csv -o runs/load --forecast megawatt --window 48 --stride 1
    """  # noqa: D301
    if resume and overwrite:
        raise InputError("--resume goes on with a run and --overwrite replaces it; give one of the two")
    given = {
        name: options[name]
        for name in options
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    with needing_export("train"):
        from ..training import DataConfig, TrainConfig, read_configs, train
    data_config, config = read_configs(folder) if resume else (DataConfig(), TrainConfig())
    data_config = replace(data_config, **{name: given[name] for name in _DATA if name in given})
    config = replace(config, **{name: given[name] for name in _TRAIN if name in given})
    try:
        with progress(config.epochs, quiet=as_json) as on_epoch:
            run = train(
                data,
                folder,
                data_config=data_config,
                config=config,
                resume=resume,
                overwrite=overwrite,
                on_epoch=on_epoch,
            )
    except KeyboardInterrupt:
        click.echo("stopped by Ctrl-C before the first epoch was done; nothing is kept", err=True)
        ctx.exit(130)
    interrupted = run.summary["stopped"] == "interrupted"
    if as_json:
        echo_json({"run": str(folder), "sha256": run.sha256, **run.summary})
    else:
        print_summary(run.summary)
        console().print(f"kept in {folder}\n")
        console().print("next:", style="bold")
        if interrupted:
            console().print(f"  lstm-edge train {data} -o {folder} --resume")
        console().print(f"  lstm-edge export {folder} -o model.onnx")
    if interrupted:
        ctx.exit(130)
