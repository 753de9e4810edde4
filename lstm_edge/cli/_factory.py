"""A user's own module on the command line: ``package.module:factory``, its weights, its inputs."""

import copy
import hashlib
import importlib
import inspect
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
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
_ROWS, _STEPS = 3, 5
"""Batch size and number of steps of the example; each further axis is two longer than the previous one."""
_LONGER = (1, 16, 256, 4096)
"""Factors by which the axes are extended for a module that refuses short ones."""
_LENGTHS = {"length", "lengths", "len", "lens"}
"""Words in the name of an input of lengths, if ``--lengths`` names none."""
_SHOWN = 3
"""Tensors that are named of weights that do not fit."""


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
    """Read ``x=N,L,8``, ``tokens=N,L:int64:0..9999``, ``x=N,L:16..4096:4,8`` or ``wave=N,4*L``.

    Raises:
        InputError: it is none of these.
    """
    name, mark, rest = entry.partition("=")
    if not name or not mark or not rest:
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
        if axis == "0" or not (axis.isdecimal() or all(map(str.isidentifier, parse_sum(axis)[0]))):
            raise InputError(f"--input {entry}: axis {axis!r} is neither a positive number nor a valid name")
        if left and re.fullmatch(r"\d+\.\.\d*", left[0]):
            count = 2 if left[1:] and left[1].isdecimal() else 1
            ranges[axis] = parse_range(":".join(left[:count]))
            left = left[count:]
            if not axis.isidentifier():
                raise InputError(
                    f"--input {entry}: got a range for {axis}; only a name, such as L, can have a range"
                )
    dtype, values = _parse_numbers(entry, left)
    return InputOption(name, tuple(axes), dtype, values, ranges)


def _parse_numbers(entry: str, words: list[str]) -> tuple[str | None, tuple[int, int] | None]:
    """Return the dtype and the range of values that follow the axes."""
    dtype, values = [*words, "", ""][:2]
    if dtype and dtype not in _DTYPES:
        raise InputError(f"--input {entry}: got dtype {dtype!r}, expected one of {', '.join(_DTYPES)}")
    if words[2:]:
        raise InputError(f"--input {entry}: unexpected {words[2]!r} after the values")
    return dtype or None, _parse_values(entry, dtype, values) if values else None


def _parse_values(entry: str, dtype: str, values: str) -> tuple[int, int]:
    low, high = values.partition("..")[::2]
    if not all(end.removeprefix("-").isdecimal() for end in (low, high)) or int(low) > int(high):
        raise InputError(f"--input {entry}: got values {values!r}, expected LOW..HIGH such as 0..9999")
    if "int" not in dtype:
        raise InputError(
            f"--input {entry}: {values} is a range for integers; add a dtype such as int64, or remove it"
        )
    limits = np.iinfo(dtype)
    if int(low) < limits.min or int(high) > limits.max:
        raise InputError(
            f"--input {entry}: got {values}, but {dtype} has the range {limits.min}..{limits.max}"
        )
    return int(low), int(high)


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
        wrong = list(_differing(module.state_dict(), tensors)) or [_in_one_line(error)]
        more = f"; {len(wrong) - _SHOWN} more differ" if len(wrong) > _SHOWN else ""
        raise FileFormatError(
            f"{weights} does not fit {source}: {'; '.join(wrong[:_SHOWN])}{more}"
        ) from error
    return module, hashlib.sha256(weights.read_bytes()).hexdigest()


def _differing(expected: Mapping[str, Any], given: Mapping[str, Tensor]) -> Iterator[str]:
    """Return the errors of tensors in a file that do not fit, those of another shape first."""
    for name in sorted(expected.keys() & given.keys()):
        if (found := tuple(given[name].shape)) != (wanted := tuple(expected[name].shape)):
            yield f"{name} is {found}, expected {wanted}"
    absent, unknown = sorted(expected.keys() - given.keys()), sorted(given.keys() - expected.keys())
    for missing, extra in zip_longest(absent, unknown):
        yield from [f"{missing} is missing"] if missing else []
        yield from [f"{extra} is not in the module"] if extra else []


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def make_example(options: Sequence[InputOption], lengths: str | None, module: nn.Module) -> dict[str, Tensor]:
    """Return a random example of each input; lengths, given or recognized by name, are in descending order.

    If the module refuses the example, the axes after the batch are made longer.

    Raises:
        InputError: ``forward`` has a parameter that is not described, or an example can't be created.
    """
    _check_complete(options, module)
    failed: Exception | None = None
    for times in _LONGER:
        example = _make_example(options, lengths, module, times)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                copy.deepcopy(module)(**example)
        except Exception as error:  # noqa: BLE001  a module may raise anything at a size that it does not support
            failed = failed or error
            continue
        return example
    assert failed is not None
    raise InputError(
        f"{type(module).__name__}.forward fails: {_in_one_line(failed)}{_line_of(failed, module)}"
        f"{_advice_on_width(options, module)}"
    ) from failed


def _line_of(error: BaseException, module: nn.Module) -> str:
    """Return the last line of the user's own code that an error came through; empty if there is none."""
    folder = Path(inspect.getfile(type(module))).parent
    lines = [
        frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).parent == folder
    ]
    return f" ({Path(lines[-1].filename).name}:{lines[-1].lineno}: {lines[-1].line})" if lines else ""


def _advice_on_width(options: Sequence[InputOption], module: nn.Module) -> str:
    """Return the ``--input`` with as many features as the first recurrent layer takes, if they differ."""
    layers = [layer.input_size for layer in module.modules() if isinstance(layer, nn.RNNBase)]
    first = options[0]
    if not layers or first.axes[2:] == (layers[0],) or first.dtype:
        return ""
    axes = ",".join(map(str, (*first.axes[:2], layers[0])))
    return f"; its first recurrent layer takes {layers[0]} features: --input {first.name}={axes}"


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
    options: Sequence[InputOption], lengths: str | None, module: nn.Module, times: int
) -> dict[str, Tensor]:
    sizes = _choose_sizes(options, times)
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


def _choose_sizes(options: Sequence[InputOption], times: int) -> dict[str, int]:
    """Return a size for every named axis, in order: rows, then ``times`` as many steps, and so on."""
    axes = [axis for each in options for axis in each.axes if isinstance(axis, str)]
    names = dict.fromkeys(name for axis in axes for name in parse_sum(axis)[0])
    ranges = {name: limits for each in options for name, limits in each.ranges.items()}
    return {
        name: ranges.get(name, AxisRange()).nearest((_ROWS + 2 * place) * (times if place else 1))
        for place, name in enumerate(names)
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
