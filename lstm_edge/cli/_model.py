"""Open a model for a verb, and the options for it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from lstm_edge.data.config import DATA_SUFFIXES
from lstm_edge.run_files import CHECKPOINT_SUFFIXES, is_run
from lstm_edge_runtime.errors import InputError

from ._options import combined

if TYPE_CHECKING:
    from lstm_edge_runtime import Model


class ModelOptions(NamedTuple):
    """How a verb opens a model; see ``lstm_edge_runtime.load``."""

    device: "Literal['cpu', 'cuda']" = "cpu"
    threads: int = 1


_options = combined(
    click.option(
        "--device",
        type=click.Choice(["cpu", "cuda"]),
        default="cpu",
        help="Device; cuda is an error if it is not actually used.",
    ),
    click.option("--threads", type=click.IntRange(1), default=1, help="Number of threads per operator."),
)


def model_options(function: Callable[..., None]) -> Callable[..., None]:
    """Add ``--device`` and ``--threads``, passed on as ``options``."""

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
    """Load a model file.

    Raises:
        LstmEdgeError: as ``lstm_edge_runtime.load``.
    """
    from lstm_edge_runtime import load

    check_model_path(path)
    return load(path, **options._asdict())
