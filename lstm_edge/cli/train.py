"""``lstm-edge train``."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lstm_edge_runtime.errors import InputError, MissingDependencyError

from ..data.config import DataConfig
from ..data.training import read_training_data
from ..run_files import REPORT, check_run_folder
from ..training.config import CARRY, CLASS_WEIGHTS, TrainConfig
from ._extras import needing
from ._options import PATH, data_options, fill, json_option, names, rate
from ._output import Screen, echo, echo_json
from ._training import epoch_log, print_summary, training_progress

if TYPE_CHECKING:
    from ..training.loop import Epoch


@click.command()
@click.argument("data", type=PATH)
@click.option(
    "-o", "--output", "folder", type=PATH, required=True, metavar="RUN", help="Run folder to create."
)
@click.option("--window", type=int, help="Time steps of a window; without it every series is one sample.")
@click.option("--stride", type=int, help="Time steps between windows.  [default: the window]")
@data_options
@click.option(
    "--target", "targets", type=names, default=(), help="Columns with values to predict, for regression."
)
@click.option(
    "--forecast", type=names, default=(), help="Columns whose next value to predict; needs --window."
)
@click.option(
    "--forecast-difference/--forecast-value",
    default=None,
    help="Predict the change from now, or the value.  [default: the change where that is small]",
)
@click.option("--units", type=names, default=(), help="Units of the values, kept in the exported file.")
@click.option("--rate", "sampling_rate", type=rate, help="Sampling rate, kept in the exported file.")
@click.option(
    "--validation", type=float, help="Fraction of the series in the validation set.  [default: 0.2]"
)
@click.option("--test", type=float, help="Fraction of the series in the test set.  [default: 0.2]")
@click.option("--validation-data", metavar="FILE", help="Separate file with the validation set.")
@click.option("--test-data", metavar="FILE", help="Separate file with the test set.")
@click.option(
    "--folds", type=int, help="Number of cross-validation folds, in addition to the run.  [default: 0]"
)
@click.option("--hidden-size", type=int, help="Hidden size of the LSTM.  [default: 32]")
@click.option("--layers", "num_layers", type=int, help="Number of LSTM layers.  [default: 1]")
@click.option("--dropout", type=float, help="Dropout between layers.  [default: 0]")
@click.option(
    "--bidirectional", is_flag=True, help="Also read samples backwards; the network can't be streamed."
)
@click.option(
    "--carry",
    type=click.Choice(CARRY),
    help="Carry states from window to window, as a stream does; auto is off if the output needs the whole "
    "sample.  [default: auto]",
)
@click.option(
    "--epochs",
    type=int,
    help="Maximum number of epochs.  [default: enough for 4,000 optimizer steps, at least 100]",
)
@click.option(
    "--patience",
    type=int,
    help="Number of epochs without improvement before stopping.  [default: 0.3 of --epochs]",
)
@click.option("--batch-size", type=int, help="Samples per optimizer step.  [default: 16]")
@click.option("--learning-rate", type=float, help="AdamW's learning rate.  [default: 0.005]")
@click.option("--weight-decay", type=float, help="AdamW's weight decay.  [default: 0.05]")
@click.option("--clip", type=float, help="Maximum norm of the gradient.  [default: 1]")
@click.option(
    "--crop",
    type=float,
    help="Minimum length of random crops, as a fraction of a sample; 1 for none.  [default: 1]",
)
@click.option("--label-smoothing", type=float, help="Label smoothing of the loss.  [default: 0.05]")
@click.option(
    "--class-weight",
    type=click.Choice(CLASS_WEIGHTS),
    help="Class weights in the loss; balanced gives all classes the same weight.  [default: none]",
)
@click.option("--seed", type=int, help="Random seed.  [default: 0]")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), help="Device for training.  [default: cpu]")
@click.option(
    "--tensorboard",
    type=PATH,
    metavar="DIR",
    help="Also log loss and score per epoch to DIR for TensorBoard.",
)
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
    tensorboard: Path | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train an LSTM1 on DATA and save the best epoch to RUN.

    DATA is a .npz with x (samples, L, features) and y, or a .csv with one row per time step. Text or
    integers in y, or a label column, are classes; floats, --target or --forecast are values to predict.
    Ctrl-C keeps the best epoch so far.

    \b
    Example:
      lstm-edge train har.npz -o runs/har
      lstm-edge train log.csv -o runs/log --label surface --window 100 --stride 50
      lstm-edge train load.csv -o runs/load --forecast megawatt --window 48
    """  # noqa: D301
    if resume and overwrite:
        raise InputError("--resume continues a run and --overwrite replaces it; give only one of them")
    if tensorboard is not None and find_spec("tensorboard") is None:
        raise MissingDependencyError(
            "--tensorboard needs tensorboard, which is not installed; pip install tensorboard"
        )
    given = {
        name: options[name]
        for name in options
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    data_config, config = DataConfig(), TrainConfig()
    if resume:
        with needing("export", "train"):
            from ..training.resume import read_configs
        data_config, config = read_configs(folder)
    data_config, config = fill(DataConfig, vars(data_config) | given), fill(TrainConfig, vars(config) | given)
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    read = read_training_data(data, data_config, seed=config.seed, batch_size=config.batch_size)
    config = config.resolved(len(read.sets.windows["train"]))
    with needing("export", "train"):
        from ..training.runner import train_on
    with (
        training_progress(config.epochs or 0, quiet=as_json) as (show_epoch, on_fold),
        epoch_log(tensorboard) as log_epoch,
    ):

        def on_epoch(epoch: "Epoch") -> None:
            show_epoch(epoch)
            log_epoch(epoch)

        run = train_on(read, folder, data_config, config, resume=resume, on_epoch=on_epoch, on_fold=on_fold)
    interrupted = run.summary["stopped"] == "interrupted"
    kept = f"saved to {folder}; see {folder / REPORT}\n"
    try:
        with needing("report", "train"):
            from ..report.training import write_report
        write_report(folder)
    except MissingDependencyError as error:
        kept = f"saved to {folder}\n\nno report: {error}"
    if as_json:
        echo_json({"run": str(folder), "sha256": run.sha256, **run.summary})
    else:
        print_summary(run.summary)
        echo(kept)
        Screen().print("next:", style="bold")
        if interrupted:
            echo(f"  lstm-edge train {data} -o {folder} --resume")
        echo(f"  lstm-edge export {folder} -o model.onnx")
    if interrupted:
        raise KeyboardInterrupt(f"the best epoch so far is in {folder}")
