"""A user's own module on the command line: ``package.module:factory``, its weights, its inputs."""

import copy
import hashlib
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lstm_edge.checkpoint import read_tensors
from lstm_edge.suggest import did_you_mean
from lstm_edge_runtime.axes import parse_sum, resolve
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Axes, AxisRange

_FLOATS = ("float32", "float16", "bfloat16", "float64")
_DTYPES = (*_FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")
_ROWS, _STEPS = 3, 64
"""Batch size and number of steps of the example; each further axis is two longer than the previous one."""
_LENGTHS = {"length", "lengths", "len", "lens"}
"""Words in the name of an input of lengths, if ``--lengths`` names none."""


@dataclass(frozen=True)
class InputOption:
    """One ``--input``."""

    name: str
    axes: Axes
    dtype: str | None = None
    """None for the float dtype of the module's parameters, and for lengths."""
    values: tuple[int, int] | None = None
    """Smallest and largest value of an integer input."""
    ranges: Mapping[str, AxisRange] = field(default_factory=dict)
    """Given ranges of its axes."""


def parse_input(entry: str) -> InputOption:
    """Read ``x=N,L,8``, ``tokens=N,L:int64:0..9999`` or ``x=N,L:16..4096:4,8``.

    Raises:
        InputError: it is none of these.
    """
    name, _, rest = entry.partition("=")
    if not name or not rest:
        raise InputError(
            f"got --input {entry!r}, expected x=N,L,8, x=N,L:16..4096:4,8 or tokens=N,L:int64:0..9999"
        )
    axes: list[int | str] = []
    ranges: dict[str, AxisRange] = {}
    left: list[str] = []
    for part in rest.split(","):
        if left:
            raise InputError(f"--input {entry}: {left[0]!r} follows an axis; put the dtype last")
        axis, *left = (each.strip() for each in part.split(":"))
        axes.append(int(axis) if axis.isdecimal() else axis)
        if axis == "0" or not (axis.isdecimal() or axis.isidentifier()):
            raise InputError(f"--input {entry}: axis {axis!r} is neither a positive number nor a valid name")
        if left and re.fullmatch(r"\d+\.\.\d*", left[0]):
            if not axis.isidentifier():
                raise InputError(f"--input {entry}: got a range for {axis}; only a name, such as L, has one")
            count = 2 if left[1:] and left[1].isdecimal() else 1
            ranges[axis] = parse_range(":".join(left[:count]))
            left = left[count:]
    dtype, values = [*left, "", ""][:2]
    if left[2:] or (dtype and dtype not in _DTYPES):
        raise InputError(
            f"--input {entry}: got dtype {':'.join(left)!r}, expected one of {', '.join(_DTYPES)}"
        )
    return InputOption(name, tuple(axes), dtype or None, _parse_values(entry, dtype, values), ranges)


def _parse_values(entry: str, dtype: str, values: str) -> tuple[int, int] | None:
    if not values:
        return None
    found = re.fullmatch(r"(-?\d+)\.\.(-?\d+)", values)
    low, high = map(int, found.groups()) if found else (1, 0)
    if low > high:
        raise InputError(f"--input {entry}: got values {values!r}, expected LOW..HIGH such as 0..9999")
    limits = np.iinfo(dtype) if "int" in dtype else None
    if limits is None or low < limits.min or high > limits.max:
        raise InputError(f"--input {entry}: {values} is a range for integers that {dtype} does not hold")
    return low, high


def build_module(source: str, weights: Path | None) -> tuple[nn.Module, str | None]:
    """Call the factory and load the weights; return the module in eval mode and the sha256 of the weights.

    Raises:
        InputError: the factory can't be imported or called, or does not return a module.
        FileFormatError: the weights are unsafe, truncated, or do not fit the module.
    """
    path, _, name = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(path)
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{source}: importing {path} raised {_in_one_line(error)}; expected a module importable "
            "from this folder, without .py, that trains only under if __name__ == '__main__'"
        ) from error
    if not hasattr(found, name):
        public = [each for each in vars(found) if not each.startswith("_")]
        advice = did_you_mean(name, public) or "write a function that returns the module"
        raise InputError(f"{path} has no {name!r}; {advice}")
    try:
        made = getattr(found, name)
        module = made if isinstance(made, nn.Module) else made()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{source} raised {_in_one_line(error)}; expected a function without arguments"
        ) from error
    if not isinstance(module, nn.Module):
        raise InputError(f"{source} returned a {type(module).__name__}, expected a torch.nn.Module")
    module.eval()
    if weights is None:
        return module, None
    tensors, _ = read_tensors(weights)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        expected = module.state_dict()
        absent, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
        wrong = [f"{name} is not in the module" for name in unknown]
        wrong += [f"{name} is missing" for name in absent]
        raise FileFormatError(
            f"{weights} does not fit {source}: {'; '.join(wrong[:4]) or _in_one_line(error)}"
        ) from error
    return module, hashlib.sha256(weights.read_bytes()).hexdigest()


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def make_example(options: Sequence[InputOption], lengths: str | None, module: nn.Module) -> dict[str, Tensor]:
    """Return a random example of each input; lengths, given or recognized by name, are in descending order.

    Raises:
        InputError: ``forward`` has a parameter that is not described, or does not take the example.
    """
    from lstm_edge_exporters.export.advice import raising_line

    _check_complete(options, module)
    example = _make_example(options, lengths, module)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy.deepcopy(module)(**example)
    except Exception as error:
        line = f" ({found})" if (found := raising_line(error)) else ""
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in example.items())
        advice = (
            "give fixed axes as numbers, and a range to one that is longer or shorter: --input x=N,L:500..,8"
        )
        widths = [layer.input_size for layer in module.modules() if isinstance(layer, nn.RNNBase)]
        first = options[0]
        if widths and first.dtype is None and first.axes[2:] != (widths[0],):
            axes = ",".join(map(str, (*first.axes[:2], widths[0])))
            advice = f"its first recurrent layer takes {widths[0]} features: --input {first.name}={axes}"
        raise InputError(
            f"{type(module).__name__}.forward fails on {shapes}: {_in_one_line(error)}{line}; {advice}"
        ) from error
    return example


def _check_complete(options: Sequence[InputOption], module: nn.Module) -> None:
    """Raise ``InputError`` if ``forward`` has further required parameters."""
    parameters = inspect.signature(module.forward).parameters
    plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    needed = {name for name, each in parameters.items() if each.kind in plain and each.default is each.empty}
    given = {each.name for each in options}
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    if (unknown := sorted(given - parameters.keys())) and not takes_any:
        found = next(each for each in options if each.name == unknown[0])
        free = [name for name in parameters if name not in given] or list(parameters)
        raise InputError(
            f"{type(module).__name__}.forward takes {', '.join(parameters)}, not {unknown[0]}; use --input "
            f"{free[0]}={','.join(map(str, found.axes))}"
        )
    if given <= parameters.keys() and (missing := [name for name in parameters if name in needed - given]):
        rows = (options[0].axes or ("N",))[0]
        advice = " ".join(
            f"--input {name}={rows}{':int64' if _means_lengths(name) else ',8'}" for name in missing
        )
        raise InputError(
            f"{type(module).__name__}.forward also takes {', '.join(missing)}; describe each input, such as "
            f"{advice}"
        )


def _means_lengths(name: str) -> bool:
    return not _LENGTHS.isdisjoint(name.lower().split("_"))


def _make_example(
    options: Sequence[InputOption], lengths: str | None, module: nn.Module
) -> dict[str, Tensor]:
    sizes = _choose_sizes(options)
    steps = [*sizes.values()][1:2] or [_STEPS]
    rng = np.random.default_rng(0)
    floats = [each.dtype for each in module.parameters() if each.is_floating_point()]
    example = {}
    for each in options:
        shape = resolve(each.axes, sizes)
        assert shape is not None
        counts = each.name == lengths or (_means_lengths(each.name) and len(shape) == 1 and not each.values)
        usual = torch.int64 if counts else (*floats, torch.float32)[0]
        try:
            if counts:
                array = np.clip(steps[0] - np.arange(int(np.prod(shape))), 1, None).reshape(shape)
            else:
                array = _draw(each, shape, module, rng)
        except (MemoryError, ValueError) as error:
            raise InputError(
                f"--input {each.name}: can't create an example of shape {list(shape)} ({error})"
            ) from error
        example[each.name] = torch.from_numpy(array).to(getattr(torch, each.dtype) if each.dtype else usual)
    return example


def _choose_sizes(options: Sequence[InputOption]) -> dict[str, int]:
    """Return a size for every named axis, in order: rows, steps, and so on."""
    axes = [axis for each in options for axis in each.axes if isinstance(axis, str)]
    names = dict.fromkeys(name for axis in axes for name in parse_sum(axis)[0])
    ranges = {name: limits for each in options for name, limits in each.ranges.items()}
    usual = (_ROWS if place == 0 else _STEPS + 2 * (place - 1) for place in range(len(names)))
    return {
        name: ranges.get(name, AxisRange()).nearest(size) for name, size in zip(names, usual, strict=True)
    }


def _draw(
    each: InputOption, shape: tuple[int, ...], module: nn.Module, rng: np.random.Generator
) -> npt.NDArray[Any]:
    if each.dtype in (None, *_FLOATS):
        return rng.standard_normal(shape)
    sizes = [layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)]
    low, high = each.values or (0, min(sizes, default=2) - 1)  # an index valid for every embedding
    array = rng.integers(low, high + 1, shape)
    array.flat[0], array.flat[-1] = low, high
    return array


def parse_range(text: str) -> AxisRange:
    """Read ``16..``, ``16..4096`` or ``16..4096:4``.

    Raises:
        InputError: it is none of these, or holds no size.
    """
    if match := re.fullmatch(r"(\d+)\.\.(\d*)(?::(\d+))?", text, re.ASCII):
        least, most, multiple = (int(each or 0) for each in match.groups())
        found = AxisRange(least, most if match[2] else None, multiple if match[3] else 1)
        if found.least and found.multiple and found.most != 0 and found.nearest(1) >= found.least:
            return found
    raise InputError(f"got range {text!r}, expected LEAST..[MOST][:MULTIPLE] such as 16.. or 16..4096:4")
