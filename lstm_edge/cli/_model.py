"""Open a model for a verb, and the options for it."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lstm_edge.data.config import DATA_SUFFIXES
from lstm_edge.run_files import CHECKPOINT_SUFFIXES, is_run
from lstm_edge_exporters.options import check_options, option
from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from lstm_edge_runtime import Model


@dataclass(frozen=True)
class ModelOptions:
    """How a verb opens a model; see ``lstm_edge_runtime.load``."""

    device: Literal["cpu", "cuda"] = option(
        "cpu", "Device; cuda is an error if it is not actually used.", choices=("cpu", "cuda")
    )
    threads: int = option(1, "Number of threads per operator.", low=1)

    def __post_init__(self) -> None:
        """Raise InputError for a value that does not fit."""
        check_options(self)


def check_model_path(path: Path) -> None:
    """Refuse a run folder or data file given as a model, and suggest the right command.

    Raises:
        InputError: ``path`` is one of these.
    """
    kind, name = "a PyTorch checkpoint", path.stem
    if is_run(path):
        kind, name = "a run folder", path.name
    elif path.suffix in DATA_SUFFIXES:
        raise InputError(f"{path} is a data file, expected an .onnx file; MODEL is the first argument")
    elif path.suffix not in CHECKPOINT_SUFFIXES:
        return
    raise InputError(f"{path} is {kind}, expected an .onnx file; run lstm-edge export {path} -o {name}.onnx")


def open_model(path: Path, options: ModelOptions) -> "Model":
    """Load a model file.

    Raises:
        LstmEdgeError: as ``lstm_edge_runtime.load``.
    """
    from lstm_edge_runtime import load

    return load(path, device=options.device, threads=options.threads)
