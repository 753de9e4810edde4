"""From a module to an ONNX graph: ``torch.export`` with recording, then PyTorch's own translation."""

import contextlib
import functools
import io
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from ..numerics.floats import AllFloats
from ..numerics.reference import Signature, flatten_output
from .record import Call, Recorder, instrument
from .refusals import check_calls, tracing_refusal, translation_refusal

try:
    from torch.onnx._internal.exporter import _registration
except ImportError:  # it is no promise of PyTorch's
    _registry: Any = None
else:
    _registry = _registration.ONNXRegistry
    _build_registry = staticmethod(functools.cache(_registry.from_torchlib))

__all__ = ["FoundAxes", "Traced", "find_axes", "trace"]

_SIZES = (3, 7, 5, 11, 13)
"""What dynamic axes are traced at: never 0 or 1, which tracing takes for constants."""


@dataclass(frozen=True)
class Traced:
    """An ONNX graph with recorded recurrent nodes."""

    model: ir.Model
    outputs: tuple[str, ...]
    """What the module calls its outputs, ``""`` where it says nothing."""
    calls: tuple[Call, ...]
    """The recurrent calls, in order."""


def trace(module: nn.Module, signature: Signature, axes: Mapping[str, Axes]) -> Traced:
    """Trace ``module``, a copy in eval mode that this function may instrument.

    Args:
        module: the copy.
        signature: its inputs and an example.
        axes: for every input, an int where an axis is fixed and a name where it is dynamic.

    Raises:
        UnsupportedError: the module does what can't be exported right; the message says what instead.
    """
    sizes = _trace_sizes(axes)
    tensors = [
        _resize(tensor, [sizes[axis] if isinstance(axis, str) else axis for axis in axes[name]])
        for name, tensor in zip(signature.names, signature.example, strict=True)
    ]
    shapes = [
        [Dim.DYNAMIC if isinstance(axis, str) else Dim.STATIC for axis in axes[n]] for n in signature.names
    ]
    recorder, program = _export(module, signature, tensors, shapes)
    with _quietly(), _registry_built_once():
        try:
            made = torch.onnx.export(
                program,
                tuple(tensors),
                dynamo=True,
                input_names=list(signature.names),
                opset_version=18,
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise translation_refusal(error) from error
    assert made is not None
    _name_axes(made.model, axes)
    return Traced(made.model, tuple(recorder.outputs), tuple(recorder.calls))


@dataclass(frozen=True)
class FoundAxes:
    """What tracing found with every axis free."""

    axes: dict[str, Axes]
    """By input; a name where the recurrent layers see batch or time, else the example's size."""
    batches: frozenset[int]
    """The batch sizes of layers that see always the same one."""
    times: frozenset[int]
    """The counts of steps of layers that see always the same one."""
    loops: frozenset[int]
    """How often one layer is called for a single step."""


def find_axes(module: nn.Module, signature: Signature, batch: str, sequence: str) -> FoundAxes:
    """Find which axes of the inputs the recurrent layers see as batch and as time.

    Every axis is traced as dynamic; those that turn out to be neither are fixed at the example's size.

    Args:
        module: a copy in eval mode that this function may instrument.
        signature: its inputs and an example of two rows and two steps or more.
        batch: the name for a batch axis; further ones are numbered.
        sequence: the name for a time axis, likewise.

    Raises:
        UnsupportedError: the module does what can't be exported right.
    """
    tensors = [tensor.detach() for tensor in signature.example]
    recorder, _ = _export(module, signature, tensors, [[Dim.AUTO] * tensor.dim() for tensor in tensors])
    steps, rows = (
        list(dict.fromkeys(symbol for call in recorder.calls for symbol in _symbols(call.shape[place])))
        for place in (0, 1)
    )
    # Where words are read by letters, the batch of the letters' layer holds the time of the words' layer.
    rows = [symbol for symbol in rows if symbol not in steps] or rows
    names: dict[str, str] = {}
    for stem, found in ((batch, rows), (sequence, steps)):
        fresh = [symbol for symbol in found if symbol not in names]
        names |= {symbol: stem if index == 0 else f"{stem}{index + 1}" for index, symbol in enumerate(fresh)}
    names |= _of_same_size(recorder, names, tensors)
    axes = {
        name: tuple(
            names.get(_text(size), example) for size, example in zip(shape, tensor.shape, strict=True)
        )
        for name, shape, tensor in zip(signature.names, recorder.shapes, tensors, strict=True)
    }
    times, batches = (
        frozenset(
            int(_text(call.shape[place])) for call in recorder.calls if _text(call.shape[place]).isdecimal()
        )
        for place in (0, 1)
    )
    single = Counter(call.path for call in recorder.calls if _text(call.shape[0]) == "1")
    return FoundAxes(axes, batches, times, frozenset(single.values()) - {1})


def _of_same_size(recorder: Recorder, names: Mapping[str, str], tensors: Sequence[Tensor]) -> dict[str, str]:
    """Name further dynamic axes after the one axis that has their size in the example.

    Such are the axes of an input that reaches the layers through a gather: its rows are picked, not seen.
    """
    sizes: dict[str, str] = {}
    others: dict[int, set[str]] = {}
    for shape, tensor in zip(recorder.shapes, tensors, strict=True):
        for size, number in zip(shape, tensor.shape, strict=True):
            if _text(size) in names:
                others.setdefault(number, set()).add(names[_text(size)])
            elif isinstance(size, torch.SymInt) and not _text(size).isdecimal():
                sizes[_text(size)] = str(number)
    unique = {str(number): found.pop() for number, found in others.items() if len(found) == 1}
    return {symbol: unique[number] for symbol, number in sizes.items() if number in unique}


class _Wrapper(nn.Module):
    """Flat tensors in, flat tensors out, recorded."""

    def __init__(self, module: nn.Module, signature: Signature, recorder: Recorder) -> None:
        super().__init__()
        self.module = module
        self._signature = signature
        self._recorder = recorder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with AllFloats(torch.float32), self._recorder as recorder:
            recorder.begin([tensor.shape for tensor in tensors])
            flat = flatten_output(self._signature.call(self.module, tensors))
            recorder.outputs.extend(name for name, _ in flat)
        return tuple(tensor for _, tensor in flat)


def _export(
    module: nn.Module, signature: Signature, tensors: Sequence[Tensor], shapes: Sequence[Any]
) -> tuple[Recorder, ExportedProgram]:
    recorder = Recorder()
    instrument(module, recorder)
    wrapper = _Wrapper(module, signature, recorder)
    with _quietly(), torch.no_grad():
        try:
            program = torch.export.export(
                wrapper, tuple(tensors), dynamic_shapes=(tuple(shapes),), strict=False
            )
        except Exception as error:
            raise tracing_refusal(error, module, recorder) from error
    check_calls(recorder)
    return recorder, program


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what PyTorch's exporters say about themselves; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _registry_built_once() -> Iterator[None]:
    """Give ``torch.onnx.export`` the registry of its first call.

    It parses the sources of some 500 translations anew at every call, which takes a third of an export.
    """
    if _registry is None:
        yield
        return
    before = vars(_registry)["from_torchlib"]
    _registry.from_torchlib = _build_registry
    try:
        yield
    finally:
        _registry.from_torchlib = before


def _trace_sizes(axes: Mapping[str, Axes]) -> dict[str, int]:
    names = dict.fromkeys(axis for each in axes.values() for axis in each if isinstance(axis, str))
    if len(names) > len(_SIZES):
        raise InputError(
            f"{len(names)} dynamic axes ({', '.join(names)}); at most {len(_SIZES)} can be named"
        )
    return dict(zip(names, _SIZES, strict=False))


def _resize(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat or cut ``tensor`` to ``shape``."""
    for axis, size in enumerate(shape):
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor.detach()


def _name_axes(model: ir.Model, axes: Mapping[str, Axes]) -> None:
    """Write the declared names in the place of the tracer's symbols."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.name is not None and value.shape is not None  # noqa: PT018
        for dimension, axis in zip(value.shape, axes[value.name], strict=True):
            if isinstance(axis, str):
                names.setdefault(str(dimension), axis)
    unknown = dict.fromkeys(
        symbol
        for value in _values(model.graph)
        for dimension in value.shape or ()
        if not isinstance(dimension, int)
        for symbol in re.findall(r"\bu\d+\b", str(dimension))
    )
    names |= {symbol: f"longest{index or ''}" for index, symbol in enumerate(unknown)}
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dimension, names) for dimension in value.shape])


def _renamed(dimension: Any, names: Mapping[str, str]) -> Any:
    if isinstance(dimension, int):
        return dimension
    return re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), str(dimension))


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _text(size: Any) -> str:
    """Return a traced size as text, what tracing learned of it later included."""
    return str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)


def _symbols(size: Any) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", _text(size))
