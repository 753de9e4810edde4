"""A user's own module on the command line: ``package.module:factory``, its weights, its inputs."""

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_edge._weights import read_tensors
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Axes

__all__ = ["InputOption", "build_module", "is_factory", "make_example", "parse_input"]

_ROWS, _STEPS = 3, 5
"""The example's batch and sequence; a further axis is one longer than the one before."""


@dataclass(frozen=True)
class InputOption:
    """One ``--input``."""

    name: str
    axes: Axes
    dtype: str = "float32"
    values: tuple[int, int] | None = None
    """The least and the greatest value of an integer input."""


def is_factory(source: str) -> bool:
    """Tell ``package.module:factory`` from a path."""
    module, mark, name = source.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return bool(mark) and dotted and name.isidentifier() and not Path(source).exists()


def parse_input(entry: str) -> InputOption:
    """Read ``x=N,L,8`` or ``tokens=N,L:int64:0..9999``.

    Raises:
        InputError: it is neither.
    """
    name, mark, rest = entry.partition("=")
    axes, _, rest = rest.partition(":")
    dtype, _, values = rest.partition(":")
    cut = tuple(int(axis) if axis.strip().isdecimal() else axis.strip() for axis in axes.split(","))
    if not name or not mark or not axes:
        raise InputError(f"--input {entry!r} came, expected x=N,L,8 or tokens=N,L:int64:0..9999")
    wrong = [axis for axis in cut if axis == 0 or (isinstance(axis, str) and not axis.isidentifier())]
    if wrong:
        raise InputError(f"--input {entry}: axis {wrong[0]!r} is neither a positive number nor a plain name")
    try:
        kind = np.dtype(dtype or "float32")
    except TypeError as error:
        raise InputError(f"--input {entry}: {dtype!r} is no dtype; try float32 or int64") from error
    low, dots, high = values.partition("..")
    if values and not (dots and low.lstrip("-").isdecimal() and high.lstrip("-").isdecimal()):
        raise InputError(f"--input {entry}: values {values!r} came, expected LOW..HIGH such as 0..9999")
    return InputOption(name, cut, kind.name, (int(low), int(high)) if values else None)


def build_module(source: str, weights: Path | None) -> tuple[nn.Module, str | None]:
    """Call the factory and load its weights; gives the module in eval mode and the weights' sha256.

    Raises:
        InputError: the factory can't be imported or called, or does not give a module.
        FileFormatError: the weights are unsafe, truncated, or do not fit the module.
    """
    path, _, name = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        made = getattr(importlib.import_module(path), name)
        module = made if isinstance(made, nn.Module) else made()
    except Exception as error:
        raise InputError(
            f"{source}: {type(error).__name__}: {error}; expected a function that takes nothing"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{source} gave a {type(module).__name__}, expected a torch.nn.Module")
    if weights is None:
        return module.eval(), None
    tensors = read_tensors(weights)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        text = " ".join(str(error).split())
        raise FileFormatError(f"{weights} does not fit {source}: {text}") from error
    return module.eval(), hashlib.sha256(weights.read_bytes()).hexdigest()


def make_example(options: Sequence[InputOption], lengths: str | None, module: nn.Module) -> dict[str, Tensor]:
    """Draw an example of each input; lengths, told or known by their name, come in falling order."""
    names = dict.fromkeys(axis for each in options for axis in each.axes if isinstance(axis, str))
    sizes: Mapping[str, int] = {name: _ROWS + 2 * place for place, name in enumerate(names)}
    rng = np.random.default_rng(0)
    example = {}
    array: npt.NDArray[Any]
    for each in options:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in each.axes)
        if each.name == lengths or ("len" in each.name.lower() and len(shape) == 1 and not each.values):
            array = np.clip(_STEPS - np.arange(int(np.prod(shape))), 1, None).reshape(shape)
        elif np.dtype(each.dtype).kind == "f":
            array = rng.standard_normal(shape)
        else:
            low, high = each.values or (0, _largest_index(module))
            array = rng.integers(low, high + 1, shape)
            array.flat[0], array.flat[-1] = low, high
        example[each.name] = torch.from_numpy(array.astype(each.dtype))
    return example


def _largest_index(module: nn.Module) -> int:
    """Give the greatest index that every embedding of ``module`` has."""
    sizes = [layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)]
    return min(sizes, default=2) - 1
