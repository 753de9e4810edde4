"""Open a model for a verb, and the options for it."""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from lstm_edge.data.config import DATA_SUFFIXES
from lstm_edge.run_files import CHECKPOINT_SUFFIXES, is_run
from lstm_edge_runtime.errors import InputError

from ._options import PATH, combined, count_or, engine_option
from ._output import note

if TYPE_CHECKING:
    from lstm_edge_runtime import Model


def _no_profile(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:  # noqa: ARG001
    if value is not None:
        note("--profile is ignored: profiles were removed; lstm-edge bench prints the fastest settings")


class ModelOptions(NamedTuple):
    """How a verb opens a model; see ``lstm_edge_runtime.load``."""

    device: str = "auto"
    threads: "int | Literal['auto']" = "auto"
    engine: "Literal['auto', 'onnxruntime', 'native']" = "auto"


_options = combined(
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda"]),
        default="auto",
        help="Device; cuda is an error if it is not actually used.",
    ),
    engine_option,
    click.option(
        "--threads",
        type=count_or("auto"),
        metavar="N",
        default="auto",
        help="Number of threads per operator, or auto.",
    ),
    click.option("--profile", type=PATH, hidden=True, expose_value=False, callback=_no_profile),
)


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--device``, ``--engine`` and ``--threads``, passed on as ``options``."""

    @functools.wraps(function)
    def call(**given: Any) -> None:
        function(options=ModelOptions(**{name: given.pop(name) for name in ModelOptions._fields}), **given)

    added: Callable[..., None] = _options(call)
    return added


def check_model_path(path: Path) -> None:
    """Refuse a run folder or data file given as a model, and suggest the right command.

    Raises:
        InputError: ``path`` is one of these.
    """
    if is_run(path):
        raise InputError(
            f"{path} is a run folder, expected an .onnx file; run lstm-edge export {path} -o {path.name}.onnx"
        )
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise InputError(
            f"{path} is a PyTorch checkpoint, expected an .onnx file; run lstm-edge export {path} -o "
            f"{path.stem}.onnx"
        )
    if path.suffix in DATA_SUFFIXES:
        raise InputError(f"{path} is a data file, expected an .onnx file; MODEL is the first argument")


def open_model(path: Path, options: ModelOptions) -> "Model":
    """Load a model file; print warnings of ``load`` as one line each on standard error.

    Raises:
        LstmEdgeError: as ``lstm_edge_runtime.load``.
    """
    from lstm_edge_runtime import load

    check_model_path(path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = load(path, **options._asdict())
    for warning in caught:
        note(str(warning.message))
    return model
