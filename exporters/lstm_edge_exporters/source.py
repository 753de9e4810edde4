"""A user's own module, its weights and an example of its inputs: the arguments of
``export``.
"""

import copy
import importlib
import inspect
import os
import random
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import FileFormatError, InputError, counted
from lstm_edge_runtime.manifest import TensorSpec

from .export.advice import raising_line
from .export.config import ExportConfig
from .modules import check_factory
from .options import parse_input
from .suggest import did_you_mean
from .verify.cases import CaseGenerator, InputSpec
from .weights import fit_names, read_tensors


@dataclass(frozen=True)
class LoadedModule:
    """A module with its weights."""

    module: nn.Module
    """In eval mode."""
    sha256: str
    """Hash of the file with the weights; empty without one."""


@dataclass(frozen=True)
class Source:
    """The arguments of ``export`` for a module of the user's own."""

    module: nn.Module
    """In eval mode, with its weights."""
    example: dict[str, Tensor]
    """Random values of each declared input, which ``forward`` takes by name."""
    config: ExportConfig
    """Names the axes of each input, and the hash of the weights."""


def load_source(
    source: str,
    inputs: Mapping[str, str],
    weights: str | os.PathLike[str] | None = None,
) -> Source:
    """Load a module as ``lstm-edge export`` does, and draw an example of its inputs.

    Args:
        source: ``package.module:factory``, see ``load_module``.
        inputs: each argument of ``forward`` in the notation of ``--input``:
            ``{"x": "N,L,8"}``, ``"N,L:int64"`` for indices, ``"N:int64"`` for lengths,
            ``"N,L:500,8"`` for an example of 500 steps.
        weights: see ``load_module``.

    Raises:
        InputError: the source, an input or the module's ``forward`` is wrong.
        NotFoundError: no file with the weights.
        FileFormatError: the weights can't be read or do not fit the module.
    """
    if not inputs:
        raise InputError(
            f"{source}: describe each input of forward, such as --input x=N,L,8"
        )
    specs = list[TensorSpec]()
    sizes = dict[str, int]()
    for name, text in inputs.items():
        try:
            declared = parse_input(text)
        except ValueError as error:
            raise InputError(f"--input {name}={text}: {error}") from error
        specs.append(TensorSpec(name, declared.dtype, declared.axes))
        sizes.update(declared.sizes)
    loaded = load_module(source, weights)
    config = ExportConfig(
        inputs={spec.name: spec.axes for spec in specs},
        checkpoint_sha256=loaded.sha256 or None,
    )
    return Source(loaded.module, _make_example(specs, sizes, loaded.module), config)


def load_module(
    source: str, weights: str | os.PathLike[str] | None = None
) -> LoadedModule:
    """Call a factory and load its weights.

    The working folder is added to the front of ``sys.path`` if it is not in it, and the
    code is imported as by ``import``. The global generators of torch, NumPy and
    ``random`` are seeded: a factory without weights draws the same ones in every call.

    Args:
        source: ``package.module:factory``, in a module that can be imported from the
            working folder: a function or class without arguments that gives a
            ``torch.nn.Module``, or such a module. ``net:Net`` is ``Net`` in ``net.py``.
        weights: a ``.safetensors`` file or a ``state_dict`` that ``torch.save`` wrote.

    Raises:
        InputError: ``source`` names no factory, its code raises, or it gives no module.
        NotFoundError: no file with the weights.
        FileFormatError: the weights can't be read or do not fit the module.
    """
    module = _build(source)
    if weights is None:
        return LoadedModule(module, "")
    path = Path(weights)
    checkpoint = read_tensors(path)
    try:
        module.load_state_dict(
            fit_names(checkpoint.tensors, module.state_dict().keys(), path)
        )
    except RuntimeError as error:
        raise FileFormatError(
            f"{path} does not fit {source}: {_in_one_line(error)}"
        ) from error
    return LoadedModule(module, checkpoint.sha256)


def _build(source: str) -> nn.Module:
    """Return the module of a factory, in eval mode."""
    check_factory(source)
    path, _, name = source.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    _seed_generators()
    try:
        imported = importlib.import_module(path)
        result = getattr(imported, name, None)
        is_async = inspect.iscoroutinefunction(result)
        is_made = is_async or isinstance(result, nn.Module)
        module = result() if callable(result) and not is_made else result
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{source} raised {_in_one_line(error)}; expected a function without"
            " arguments, in a module importable from this folder, without .py, that"
            " trains only under if __name__ == '__main__'"
        ) from error
    if result is None:
        advice = did_you_mean(name, [key for key in vars(imported) if key[0] != "_"])
        raise InputError(
            f"{path} has no {name!r};"
            f" {advice or 'write a function that returns the module'}"
        )
    if is_async:
        raise InputError(
            f"{source} is an async function, expected one that returns a"
            " torch.nn.Module; write def instead of async def"
        )
    if not isinstance(module, nn.Module):
        raise InputError(
            f"{source} returned {type(module).__name__}, expected a torch.nn.Module"
        )
    return module.eval()


def _seed_generators() -> None:
    """Seed the global generators of torch, NumPy and ``random``."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  the generator that factories draw from
    torch.manual_seed(0)


def _in_one_line(error: BaseException) -> str:
    """Return the type and message of an error as one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


_BATCH = 3
_FIRST_SIZE = 64
"""Sizes of an example's first axis and of the second one; each further axis has two
more, so that all differ."""


def _make_example(
    specs: Sequence[TensorSpec], sizes_given: Mapping[str, int], module: nn.Module
) -> dict[str, Tensor]:
    """Return a random example of each input; InputError if ``forward`` does not take
    it.

    Integers with one axis are lengths, in descending order; others are indices valid
    for every embedding.
    """
    example = _draw(specs, sizes_given, module)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy.deepcopy(module)(**example)
    except Exception as error:
        trace = error.__traceback__  # without the line above
        line = raising_line(error.with_traceback(trace and trace.tb_next))
        where = f" ({line})" if line else ""
        shapes = ", ".join(
            f"{name} {list(tensor.shape)}" for name, tensor in example.items()
        )
        raise InputError(
            f"{type(module).__name__}.forward fails on {shapes}: {_in_one_line(error)}"
            f"{where}; {_advice(specs, module)}"
        ) from error
    return example


def _draw(
    specs: Sequence[TensorSpec], sizes_given: Mapping[str, int], module: nn.Module
) -> dict[str, Tensor]:
    """Return random values of each input, with the ``sizes_given`` sizes of axes."""
    names: dict[str, None] = {}
    for spec in specs:
        names.update(dict.fromkeys(axis for axis in spec.axes if isinstance(axis, str)))
    axes = list(names)
    sizes = {axis: _FIRST_SIZE + 2 * index for index, axis in enumerate(axes, -1)}
    sizes.update(dict.fromkeys(axes[:1], _BATCH))
    sizes.update(sizes_given)
    words = _smallest_embedding(module)
    cases = CaseGenerator(
        tuple(_to_draw(spec, words) for spec in specs),
        None,
        axes[1] if len(axes) > 1 else None,
        sorted_lengths=True,
    )
    default = _float_dtype(module)
    try:
        feeds = cases.at(sizes).feeds
        return {
            spec.name: torch.from_numpy(feeds[spec.name]).to(
                getattr(torch, spec.dtype) if spec.dtype else default
            )
            for spec in specs
        }
    except (MemoryError, ValueError) as error:
        raise InputError(
            "can't create an example: an axis of --input is too large"
        ) from error


def _smallest_embedding(module: nn.Module) -> int:
    """Return the number of indices that every embedding has; 2 without any."""
    sizes = [
        layer.num_embeddings
        for layer in module.modules()
        if isinstance(layer, nn.Embedding)
    ]
    return min(sizes, default=2)


def _float_dtype(module: nn.Module) -> torch.dtype:
    """Return the dtype of most numbers in float parameters; float32 without any."""
    counts = Counter[torch.dtype]()
    for parameter in module.parameters():
        if parameter.is_floating_point():
            counts[parameter.dtype] += parameter.numel()
    return max(counts, key=counts.__getitem__, default=torch.float32)


def _to_draw(spec: TensorSpec, words: int) -> InputSpec:
    """Return how to draw random values for an input that the user described."""
    if not spec.dtype or "float" in spec.dtype:
        return InputSpec(spec.name, "float32", spec.axes)
    role = "lengths" if len(spec.axes) == 1 and spec.dtype != "bool" else "signal"
    return InputSpec(
        name=spec.name, dtype=spec.dtype, axes=spec.axes, role=role, values=words
    )


def _advice(specs: Sequence[TensorSpec], module: nn.Module) -> str:
    """Return what to write if ``forward`` fails."""
    parameters = inspect.signature(module.forward).parameters
    needed = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
    ]
    names = {spec.name for spec in specs}
    if not set(needed) <= names <= set(parameters):
        axes = [",".join(map(str, spec.axes)) for spec in specs][: len(needed)]
        pairs = zip_longest(needed, axes, fillvalue="N,L,8")
        inputs = " ".join(f"--input {name}={text}" for name, text in pairs)
        return f"describe its inputs, such as {inputs} (N:int64 for lengths)"
    for spec in specs:
        if len(spec.axes) == 1 and not spec.dtype:
            return (
                f"if {spec.name} are lengths or indices, give their dtype: --input"
                f" {spec.name}={spec.axes[0]}:int64"
            )
    first = specs[0]
    layer = _first_layer(module)
    if (
        isinstance(layer, nn.RNNBase)
        and not first.dtype
        and first.axes[2:] != (layer.input_size,)
    ):
        features = ",".join(map(str, (*first.axes[:2], layer.input_size)))
        return (
            f"its first layer takes {counted(layer.input_size, 'feature')}: --input"
            f" {first.name}={features}"
        )
    return (
        "take device and sizes from the inputs in forward, give fixed axes as numbers,"
        " and the size of the example if it is another: --input x=N,L:500,8"
    )


def _first_layer(module: nn.Module) -> nn.Module:
    """Return the first module that has parameters of its own."""
    for layer in module.modules():
        if any(True for _ in layer.parameters(recurse=False)):
            return layer
    return module
