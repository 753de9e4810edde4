"""A user's own module on the command line: ``package.module:factory``, its weights, its inputs."""

import copy
import hashlib
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lstm_edge.checkpoint import read_tensors
from lstm_edge.suggest import did_you_mean
from lstm_edge_exporters.export.advice import raising_line
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Array, AxisRange, TensorSpec

_DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_ROWS, _STEPS = 3, 64
"""Batch size and number of steps of the example; each further axis is two longer than the previous one."""
_AXIS = re.compile(r"([^:]+)(?::(\d+\.\.\d*(?::\d+)?))?(?::([a-z]\w*))?")
"""An axis, its range, and the dtype."""


def parse_input(name: str, text: str) -> tuple[TensorSpec, dict[str, AxisRange]]:
    """Read an input, such as ``N,L,8``, ``N,L:int64`` or ``N,L:16..4096:4,8``, and its ranges.

    The dtype is empty for that of the parameters.
    """
    axes, ranges, dtype = list[int | str](), dict[str, AxisRange](), ""
    for part in text.split(","):
        found = _AXIS.fullmatch(part.strip())
        axis = found[1].strip() if found else ""
        is_name = axis.isidentifier()
        is_known = found and (found[3] or "bool") in _DTYPES and (is_name or not found[2])
        if not found or dtype or not is_known or not (is_name or (axis.isdecimal() and int(axis))):
            raise InputError(
                f"got --input {name}={text}, expected x=N,L,8, x=N,L:16..4096:4,8 or "
                f"tokens=N,L:int64, with a dtype of {', '.join(_DTYPES)}"
            )
        axes.append(axis if is_name else int(axis))
        dtype = found[3] or ""
        if found[2]:
            ranges[axis] = parse_range(found[2])
    return TensorSpec(name, dtype, tuple(axes)), ranges


def parse_range(text: str) -> AxisRange:
    """Read ``16..``, ``16..4096`` or ``16..4096:4``; raises InputError, also for a range without a size."""
    if match := re.fullmatch(r"(\d+)\.\.(\d*)(?::(\d+))?", text, re.ASCII):
        least, most, multiple = (int(group or 0) for group in match.groups())
        found = AxisRange(least, most if match[2] else None, multiple if match[3] else 1)
        if found.least and found.multiple and found.most != 0 and found.nearest(1) >= found.least:
            return found
    raise InputError(f"got range {text!r}, expected LEAST..[MOST][:MULTIPLE] such as 16.. or 16..4096:4")


def build_module(source: str, weights: Path | None) -> tuple[nn.Module, str | None]:
    """Call the factory and load the weights; return the module in eval mode and the sha256 of the weights."""
    path, _, name = source.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = importlib.import_module(path)
        made = getattr(imported, name, None)
        module = made() if callable(made) and not isinstance(made, nn.Module) else made
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{source} raised {_in_one_line(error)}; expected a function without arguments, in a module "
            "importable from this folder, without .py, that trains only under if __name__ == '__main__'"
        ) from error
    if made is None:
        advice = did_you_mean(name, [key for key in vars(imported) if key[0] != "_"])
        raise InputError(f"{path} has no {name!r}; {advice or 'write a function that returns the module'}")
    if not isinstance(module, nn.Module):
        raise InputError(f"{source} returned a {type(module).__name__}, expected a torch.nn.Module")
    module.eval()
    if weights is None:
        return module, None
    try:
        module.load_state_dict(read_tensors(weights)[0])
    except RuntimeError as error:
        raise FileFormatError(f"{weights} does not fit {source}: {_in_one_line(error)}") from error
    return module, hashlib.sha256(weights.read_bytes()).hexdigest()


def _in_one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def make_example(
    specs: Sequence[TensorSpec], ranges: Mapping[str, AxisRange], module: nn.Module
) -> dict[str, Tensor]:
    """Return a random example of each input; InputError if ``forward`` does not take it.

    Integers with one axis are lengths, in descending order; others are indices valid for every embedding.
    """
    _check_names(specs, module)
    sizes, rng = _choose_sizes(specs, ranges), np.random.default_rng(0)
    steps = [*sizes.values(), _STEPS, _STEPS][1]
    floats = [parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()]
    example = {}
    for spec in specs:
        shape = resolve(spec.axes, sizes) or ()
        dtype = getattr(torch, spec.dtype) if spec.dtype else (*floats, torch.float32)[0]
        try:
            example[spec.name] = torch.from_numpy(_draw(spec, shape, steps, module, rng)).to(dtype)
        except (MemoryError, ValueError) as error:
            raise InputError(f"--input {spec.name}: can't create an example of {list(shape)}") from error
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy.deepcopy(module)(**example)
    except Exception as error:
        line, shapes = raising_line(error), ", ".join(f"{x} {list(y.shape)}" for x, y in example.items())
        raise InputError(
            f"{type(module).__name__}.forward fails on {shapes}: {_in_one_line(error)}"
            f"{f' ({line})' if line else ''}; {_advice(specs[0], module)}"
        ) from error
    return example


def _check_names(specs: Sequence[TensorSpec], module: nn.Module) -> None:
    """Raise ``InputError`` if ``forward`` has no such parameter, or further required ones."""
    signature = inspect.signature(module.forward)
    try:
        signature.bind(**{spec.name: spec for spec in specs})
    except TypeError as error:
        needed = [
            name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty
        ]
        axes = [",".join(map(str, spec.axes)) for spec in specs][: len(needed)]
        pairs = zip_longest(needed, axes, fillvalue="N,L,8")
        raise InputError(
            f"{type(module).__name__}.forward: {error}; describe its inputs, such as "
            f"{' '.join(f'--input {name}={text}' for name, text in pairs)} (N:int64 for lengths)"
        ) from error


def _advice(first: TensorSpec, module: nn.Module) -> str:
    """Return what to write if ``forward`` fails."""
    layer = next((each for each in module.modules() if [*each.parameters(recurse=False)]), module)
    if isinstance(layer, nn.RNNBase) and not first.dtype and first.axes[2:] != (layer.input_size,):
        axes = ",".join(map(str, (*first.axes[:2], layer.input_size)))
        return f"its first layer takes {layer.input_size} features: --input {first.name}={axes}"
    return "give fixed axes as numbers, and a range to one that is longer or shorter: --input x=N,L:500..,8"


def _choose_sizes(specs: Sequence[TensorSpec], ranges: Mapping[str, AxisRange]) -> dict[str, int]:
    """Return a size for every named axis, in order: rows, steps, and so on."""
    axes = [axis for spec in specs for axis in spec.axes if isinstance(axis, str)]
    names = list(dict.fromkeys(axes))
    usual = zip(names, (_ROWS, *range(_STEPS, _STEPS + 2 * len(names), 2)), strict=False)
    return {name: ranges.get(name, AxisRange()).nearest(size) for name, size in usual}


def _draw(
    spec: TensorSpec, shape: tuple[int, ...], steps: int, module: nn.Module, rng: np.random.Generator
) -> Array:
    if not spec.dtype or "float" in spec.dtype:
        return rng.standard_normal(shape)
    if len(shape) == 1 and spec.dtype != "bool":
        return np.clip(steps - np.arange(*shape), 1, None)
    words = [layer.num_embeddings for layer in module.modules() if isinstance(layer, nn.Embedding)]
    array: Array = rng.integers(0, min(words, default=2), shape)
    array.flat[0], array.flat[-1] = 0, min(words, default=2) - 1
    return array
