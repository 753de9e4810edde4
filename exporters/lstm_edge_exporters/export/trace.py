"""From a module to an ONNX graph: ``torch.export`` with recording, then PyTorch's own translation."""

import contextlib
import copy
import functools
import io
import logging
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lstm_edge_runtime.axes import learn_sizes, parse_sum, resolve
from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError
from lstm_edge_runtime.graph_check import is_called_like_a_state, why_window
from lstm_edge_runtime.manifest import Axes, AxisRange

from ..numerics.floats import AllFloats
from ..numerics.reference import Signature, flatten_output
from .ranges import Guard, read_guards
from .record import Recorder, RecurrentCall, instrument
from .refusals import ConstantSizeError, Place, place_of, tracing_refusal, translation_refusal
from .sizes import TRANSLATIONS, keep_sizes, settle_floats

try:
    from torch.onnx._internal.exporter import _registration
except ImportError:  # it is no promise of PyTorch's
    _registry: Any = None
else:
    _registry = _registration.ONNXRegistry
    _build_registry = staticmethod(functools.cache(_registry.from_torchlib))

__all__ = ["TURNS", "FoundAxes", "Traced", "find_axes", "runs", "trace"]

TURNS = threading.RLock()
"""Held while an export runs: PyTorch's tracer, logging, warnings and stderr belong to the whole process."""
_SPARE = (3, 7, 5, 11, 13)
"""Sizes for dynamic axes that are 1 in the example, which tracing takes for a constant."""


@dataclass(frozen=True)
class Traced:
    """An ONNX graph with recorded recurrent nodes."""

    model: ir.Model
    outputs: tuple[str, ...]
    """What the module calls its outputs, ``""`` where it says nothing."""
    calls: tuple[RecurrentCall, ...]
    """The recurrent calls, in order."""
    guards: tuple[Guard, ...]
    """What holds at the sizes that were traced, and may not at others."""
    sizes: Mapping[str, int]
    """The size of each dynamic axis that was traced."""
    squeezed: Mapping[str, str]
    """The axes of inputs that code drops where they are 1, and the line that does it."""
    checked: tuple[str, ...]
    """Lines that check values, which were taken to hold."""

    def window(self) -> str:
        """Return why a call is a whole window, where no axis of an input is time; empty for one step."""
        for call in self.calls:
            steps = call.shape[0]
            if not call.cell and _text(steps) != "1":
                return why_window(
                    f"layer {call.path or 'rnn'}", steps if isinstance(steps, int) else _text(steps)
                )
        return ""


def trace(
    module: nn.Module, signature: Signature, axes: Mapping[str, Axes], ranges: Mapping[str, AxisRange]
) -> Traced:
    """Trace ``module``, a copy in eval mode, at the example's own sizes.

    Where code takes one of these sizes for a constant, or two for the same, it is traced at others.

    Args:
        module: the copy.
        signature: its inputs and an example.
        axes: for every input, an int where an axis is fixed and a name where it is dynamic.
        ranges: the sizes that are asked for, by axis.

    Raises:
        UnsupportedError: the module does what can't be exported right; the message says what instead.
    """
    own = copy.deepcopy(module)
    if keep_sizes(own):
        with contextlib.suppress(UnsupportedError):
            return _trace(own, signature, axes, ranges)
    return _trace(module, signature, axes, ranges)


def _trace(
    module: nn.Module, signature: Signature, axes: Mapping[str, Axes], ranges: Mapping[str, AxisRange]
) -> Traced:
    sizes = _example_sizes(signature, axes)
    try:
        tensors = _at_sizes(signature, axes, sizes)
        recorder, program = _trace_at(copy.deepcopy(module), signature, axes, tensors)
    except ConstantSizeError as error:
        other = _other_sizes(module, signature, axes, sizes, ranges)
        if other is None:
            raise
        sizes, tensors = other, _at_sizes(signature, axes, other)
        try:
            recorder, program = _trace_at(module, signature, axes, tensors)
        except ConstantSizeError:
            raise error from None
    with _quietly(), _registry_built_once():
        try:
            made = torch.onnx.export(
                program,
                tuple(tensors),
                dynamo=True,
                input_names=list(signature.names),
                custom_translation_table=dict(TRANSLATIONS),
                opset_version=18,
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise translation_refusal(error, recorder.seen, program) from error
    assert made is not None
    settle_floats(made.model.graph)
    _name_axes(made.model, axes)
    guards = read_guards(program, recorder.shapes, {name: axes[name] for name in signature.names})
    known = {
        _text(size): axis
        for name, shape in zip(signature.names, recorder.shapes, strict=True)
        for size, axis in zip(shape, axes[name], strict=True)
        if isinstance(axis, str) and axis.isidentifier()
    }
    squeezed = {known[size]: line for size, line in recorder.squeezed.items() if size in known}
    return Traced(
        made.model,
        tuple(recorder.outputs),
        tuple(recorder.calls),
        guards,
        sizes,
        squeezed,
        tuple(recorder.checked),
    )


def _trace_at(
    module: nn.Module, signature: Signature, axes: Mapping[str, Axes], tensors: Sequence[Tensor]
) -> tuple[Recorder, ExportedProgram]:
    shapes = [
        [Dim.DYNAMIC if isinstance(axis, str) else Dim.STATIC for axis in axes[n]] for n in signature.names
    ]
    recorder, program = _export(module, signature, tensors, shapes)
    named: dict[str, str] = {}
    for name, shape in zip(signature.names, recorder.shapes, strict=True):
        for size, axis in zip(shape, axes[name], strict=True):
            if isinstance(axis, str) and axis.isidentifier() and named.setdefault(_text(size), axis) != axis:
                raise ConstantSizeError(
                    f"forward works only where axes {named[_text(size)]} and {axis} have the same size; give "
                    "them the same name"
                )
    return recorder, program


def _other_sizes(
    module: nn.Module,
    signature: Signature,
    axes: Mapping[str, Axes],
    sizes: Mapping[str, int],
    ranges: Mapping[str, AxisRange],
) -> dict[str, int] | None:
    """Return sizes apart from ``sizes``, from one another and from fixed ones that the module runs at."""
    fixed = {size for tensor in signature.example for size in tensor.shape}
    for times, more in ((2, 1), (1, 1), (2, 0)):
        other: dict[str, int] = {}
        for name, size in sizes.items():
            wanted = least = times * size + more
            while (wanted := ranges.get(name, AxisRange()).nearest(wanted)) in {*fixed, *other.values()}:
                if wanted < least or wanted > 3 * size + 20:
                    break
                wanted += 1
            other[name] = wanted
        if runs(module, replace(signature, example=tuple(_at_sizes(signature, axes, other)))):
            return other
    return None


@dataclass(frozen=True)
class FoundAxes:
    """What tracing found with every axis free."""

    axes: dict[str, Axes]
    """By input; a name where the recurrent layers see batch or time, else the example's size."""
    batches: frozenset[int]
    """The batch sizes of layers that see always the same one."""
    times: frozenset[int]
    """The counts of steps of layers that see always the same one."""
    loops: Mapping[int, str]
    """How often one layer is called for a single step, and the line that calls it."""
    layers: bool
    """Whether ``forward`` calls recurrent layers."""
    fixed: Mapping[tuple[str, int], Place]
    """Where the module's code fixes an axis of an input."""


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
    if not recorder.calls:  # the first free axis is taken for the batch, the next one for the time
        sizes = [size for shape in recorder.shapes for size in shape]
        tied = {symbol for size in sizes if parse_sum(_text(size)) is None for symbol in _symbols(size)}
        kept = _kept(recorder, signature.names)
        sizes = [size for place, shape in enumerate(recorder.shapes) if place not in kept for size in shape]
        free = dict.fromkeys(symbol for size in sizes for symbol in _symbols(size) if symbol not in tied)
        rows, steps = list(free)[:1], list(free)[1:]
    # Where words are read by letters, the batch of the letters' layer holds the time of the words' layer.
    rows = [symbol for symbol in rows if symbol not in steps] or rows
    names: dict[str, str] = {}
    for stem, found in ((batch, rows), (sequence, steps)):
        fresh = [symbol for symbol in found if symbol not in names]
        names |= {symbol: stem if index == 0 else f"{stem}{index + 1}" for index, symbol in enumerate(fresh)}
    names |= _of_same_size(recorder, names, tensors)
    axes = {
        name: tuple(
            _axis_of(_text(size), names, example) for size, example in zip(shape, tensor.shape, strict=True)
        )
        for name, shape, tensor in zip(signature.names, recorder.shapes, tensors, strict=True)
    }
    times, batches = (
        frozenset(
            int(_text(call.shape[place])) for call in recorder.calls if _text(call.shape[place]).isdecimal()
        )
        for place in (0, 1)
    )
    single = Counter((call.path, call.line) for call in recorder.calls if _text(call.shape[0]) == "1")
    loops = {count: line for (_, line), count in single.items() if count > 1}
    return FoundAxes(axes, batches, times, loops, bool(recorder.calls), _fixed(recorder, signature.names))


def _kept(recorder: Recorder, names: Sequence[str]) -> set[int]:
    """Return the places of inputs whose shape an output has too, as a cell's caches: no axis of them is time.

    The first input that is not called like a state is the signal, whatever its shape.
    """
    signal = next((i for i, name in enumerate(names) if not is_called_like_a_state(name)), 0)
    returned = [_texts(shape) for shape in recorder.returned]
    return {i for i, shape in enumerate(recorder.shapes) if i != signal and _texts(shape) in returned}


def _texts(shape: Sequence[Any]) -> list[str]:
    return [_text(size) for size in shape]


def _fixed(recorder: Recorder, names: Sequence[str]) -> dict[tuple[str, int], Place]:
    found: dict[tuple[str, int], Place] = {}
    for name, shape in zip(names, recorder.shapes, strict=True):
        for axis, size in enumerate(shape):
            if isinstance(size, torch.SymInt) and _text(size).isdecimal():
                line = recorder.unbound.get(str(size.node._expr))
                place = Place(line, loop=True) if line else place_of(size)
                found[name, axis] = place or Place(recorder.fixed.get(str(size.node._expr), ""), loop=False)
    return found


def _axis_of(text: str, names: Mapping[str, str], example: int) -> str | int:
    """Return the axis of a traced size: a name, a multiple or sum of names, else the example's size."""
    factors, constant = parse_sum(text) or ({}, 0)
    if not factors or not all(symbol in names for symbol in factors):
        return example
    terms = [
        names[symbol] if factor == 1 else f"{factor}*{names[symbol]}" for symbol, factor in factors.items()
    ]
    return "+".join([*terms, *([str(constant)] if constant else [])])


def _of_same_size(recorder: Recorder, names: Mapping[str, str], tensors: Sequence[Tensor]) -> dict[str, str]:
    """Name further dynamic axes after the one axis that has their size in the example.

    Such are the axes of an input that reaches the layers through a gather: its rows are picked, not seen. Two
    axes of one input are never the same.
    """
    sizes: dict[str, int] = {}
    others: dict[int, set[str]] = {}
    for shape, tensor in zip(recorder.shapes, tensors, strict=True):
        for size, number in zip(shape, tensor.shape, strict=True):
            if _text(size) in names:
                others.setdefault(number, set()).add(names[_text(size)])
            elif isinstance(size, torch.SymInt) and not _text(size).isdecimal():
                sizes[_text(size)] = number
    unique = {number: found.pop() for number, found in others.items() if len(found) == 1}
    beside = {
        (_text(size), names.get(_text(each))) for shape in recorder.shapes for size in shape for each in shape
    }
    return {
        symbol: unique[number]
        for symbol, number in sizes.items()
        if number in unique and (symbol, unique[number]) not in beside
    }


def runs(module: nn.Module, signature: Signature) -> bool:
    """Return whether ``module`` takes the example of ``signature``."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signature.call(module, signature.example)
    except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
        return False
    return True


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
            recorder.returned.extend(tensor.shape for _, tensor in flat)
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
        except LstmEdgeError:
            raise
        except Exception as error:
            recorder.check_calls()
            raise tracing_refusal(error, module, recorder.seen, _fixed(recorder, signature.names)) from error
    recorder.check_calls()
    return recorder, program


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what PyTorch's exporters say about themselves; what matters comes as an exception."""
    with TURNS:
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
    """Let ``torch.onnx.export`` reuse the registry of its first call.

    It parses the sources of some 500 translations at every call, which takes a third of an export.
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


def _example_sizes(signature: Signature, axes: Mapping[str, Axes]) -> dict[str, int]:
    """Return the size of every name in ``axes`` in the example, another one where it is 1."""
    sizes: dict[str, int] = {}
    for name, tensor in zip(signature.names, signature.example, strict=True):
        for axis, size in zip(axes[name], tensor.shape, strict=True):
            if isinstance(axis, str) and axis.isidentifier():
                sizes.setdefault(axis, size)
    for name, tensor in zip(signature.names, signature.example, strict=True):
        learned = dict(sizes)
        learn_sizes(name, axes[name], tuple(tensor.shape), learned)
        sizes = {**learned, **sizes}
    spare = iter([size for size in _SPARE if size not in sizes.values()])
    return {name: size if size > 1 else next(spare, 17) for name, size in sizes.items()}


def _at_sizes(signature: Signature, axes: Mapping[str, Axes], sizes: Mapping[str, int]) -> list[Tensor]:
    """Return the example repeated or cut to ``sizes``."""
    return [
        _resize(tensor, resolve(axes[name], sizes) or tensor.shape)
        for name, tensor in zip(signature.names, signature.example, strict=True)
    ]


def _resize(tensor: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat or cut ``tensor`` to ``shape``."""
    for axis, size in enumerate(shape):
        if size != tensor.shape[axis]:
            tensor = tensor.index_select(axis, torch.arange(size, device=tensor.device) % tensor.shape[axis])
    return tensor.detach()


def _name_axes(model: ir.Model, axes: Mapping[str, Axes]) -> None:
    """Write the declared names in the place of the tracer's symbols."""
    names: dict[str, str] = {}
    dimensions = [
        (str(dimension), axis)
        for value in model.graph.inputs
        for dimension, axis in zip(value.shape or (), axes[str(value.name)], strict=True)
        if isinstance(axis, str)
    ]
    for dimension, axis in sorted(dimensions, key=lambda each: not each[1].isidentifier()):
        factors = (parse_sum(dimension) or ({dimension: 1}, 0))[0]
        if len(factors) > 1:
            continue
        ((symbol, factor),) = factors.items()
        own, _ = parse_sum(axis) or ({}, 0)
        (name,) = [axis] if factor == 1 else [each for each in own if own == {each: factor}] or [""]
        names.setdefault(symbol, name if name.isidentifier() else f"({name or f'{axis}/{factor}'})")
    unknown = dict.fromkeys(
        symbol
        for value in _values(model.graph)
        for dimension in value.shape or ()
        if not isinstance(dimension, int)
        for symbol in re.findall(r"\bu\d+\b", str(dimension))
    )
    names |= {symbol: f"longest{index or ''}" for index, symbol in enumerate(unknown)}
    for value in model.graph.inputs:
        value.shape = ir.Shape(axes[str(value.name)])
    for value in _values(model.graph)[len(model.graph.inputs) :]:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dimension, names) for dimension in value.shape])


def _renamed(dimension: int | ir.SymbolicDim, names: Mapping[str, str]) -> Any:
    if isinstance(dimension, int) or dimension.value is None:
        return dimension
    text = re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), dimension.value)
    text = re.sub(r"\(\((\d+)\*(\w+)\)//\1\)", r"\2", text)
    return text[1:-1] if re.fullmatch(r"\(\d+\*\w+\)", text) else text


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]


def _text(size: Any) -> str:
    """Return a traced size as text, what tracing learned of it later included."""
    return str(size.node.expr) if isinstance(size, torch.SymInt) else str(size)


def _symbols(size: Any) -> list[str]:
    return re.findall(r"\b[su]\d+\b", _text(size))
