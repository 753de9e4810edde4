"""From a module to an ONNX graph: ``torch.export`` with recording, then PyTorch's own translation."""

import contextlib
import copy
import functools
import io
import logging
import math
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from traceback import FrameSummary, walk_tb
from types import CodeType
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._guards import SLoc
from torch.export import Dim, ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter

from lstm_edge_runtime.axes import learn_sizes, parse_sum, resolve
from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError
from lstm_edge_runtime.manifest import Axes, AxisRange

from ..numerics.reference import AllFloats, Signature, flatten_output
from .constants import fold_batch_norms, fold_constants, hide_batch_norms
from .record import Recorder, RecurrentCall, instrument
from .request import Request, runs
from .sizes import TRANSLATIONS, keeping_sizes, settle_floats, size_text, symbols
from .source import line_at

_ONCE: list[tuple[Any, str, Callable[[], Any]]] = []
"""What ``torch.onnx.export`` calls over and over, and what makes a function that does it once."""
with contextlib.suppress(ImportError, AttributeError):  # they are no promise of PyTorch's
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    _REGISTRY = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
    _ONCE.append((ONNXRegistry, "from_torchlib", lambda: _REGISTRY))
with contextlib.suppress(ImportError, AttributeError):
    from torch._export import utils as _utils

    _ONCE.append(
        (_utils, "_materialize_cpp_cia_ops", partial(functools.cache, _utils._materialize_cpp_cia_ops))
    )

TURNS = threading.RLock()
"""Held while an export runs: PyTorch's tracer, logging, warnings and stderr belong to the whole process."""
_SPARE = (3, 7, 5, 11, 13)
"""Sizes for dynamic axes that are 1 in the example, which tracing takes for a constant."""
_NAMES = {
    "__builtins__": {"min": min, "max": max, "abs": abs, "int": int, "round": round},
    "math": math,
    "torch": types.SimpleNamespace(sym_float=float, sym_int=int),
}
"""What the tracer's text may call."""
_DISTRIBUTIONS = str(Path(torch.distributions.__path__[0]))
_HIGHER = str(Path(torch.__file__).parent / "_higher_order_ops")
CONTROL_FLOW = ("associative_scan", "cond", "map", "scan", "while_loop")
"""torch's own loops and branches, by the name of their source."""


class TracingError(UnsupportedError):
    """PyTorch can't trace a module or translate what it traced."""

    def __init__(
        self, kind: str, recorder: Recorder, error: Exception, program: ExportedProgram | None = None
    ) -> None:
        super().__init__(str(error))
        self.kind = kind
        """``translation``, or what tracing failed at: see ``_kind``."""
        self.recorder, self.error, self.program = recorder, error, program
        """What tracing saw, PyTorch's error, and what was to be translated."""

    @property
    def constant(self) -> bool:
        """Whether code takes the size of an axis that was traced for a constant."""
        return self.kind in ("same size", "size")


@dataclass(frozen=True)
class Guard:
    """One fact about the sizes of axes."""

    text: str
    """In terms of the axes' names: ``L > 200``."""
    code: CodeType
    line: str
    """The line of the module that asked: ``net.py:12: return y * 2 if x.shape[1] > 200 else y``; empty where
    an operator did."""

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether it is true where the axes have ``sizes``.

        Raises:
            UnsupportedError: it can't be evaluated.
        """
        try:
            return bool(eval(self.code, _NAMES.copy(), dict(sizes)))  # noqa: S307  the tracer's own text
        except ArithmeticError:
            return False
        except (AttributeError, NameError, TypeError) as error:
            line = f" ({self.line})" if self.line else ""
            raise UnsupportedError(
                f"forward depends on {self.text}{line}, which can't be evaluated ({error}); write the "
                "condition with whole numbers"
            ) from error


@dataclass(frozen=True)
class Program:
    """A module as ``torch.export`` traced it."""

    exported: ExportedProgram
    recorder: Recorder
    """What its layers did."""


@dataclass(frozen=True)
class FoundAxes:
    """The axes of every input, an int where fixed and a name where dynamic."""

    axes: Mapping[str, Axes]
    program: Program | None = None
    """The example traced with every axis free, if that is how they were found."""


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
    notes: tuple[str, ...]
    """Lines that check values, which were taken to hold."""


def trace(request: Request, found: FoundAxes) -> Traced:
    """Trace the module at the example's own sizes, or take the trace that found the axes if it is this one.

    Where code takes one of these sizes for a constant, or two for the same, it is traced at others. An axis
    of 1 that the code drops is fixed at 1.

    Raises:
        UnsupportedError: the module does what can't be exported right.
    """
    axes, programs = found.axes, [found.program]  # which a second try goes without
    traced = keeping_sizes(
        request.module, lambda module: _trace(module, request, axes, programs.pop() if programs else None)
    )
    squeezed, shapes = traced.squeezed, request.signature.shapes
    many = {axis for name in shapes for axis, size in zip(axes[name], shapes[name], strict=True) if size > 1}
    single = [axis for axis in squeezed if axis not in many]
    if single:
        dropped = [
            f"axis {each} is fixed at 1, as in the example: {squeezed[each]} drops it; give squeeze an axis"
            for each in single
        ]
        axes = {name: tuple(1 if axis in single else axis for axis in axes[name]) for name in axes}
        traced = keeping_sizes(request.module, lambda module: _trace(module, request, axes, None))
    else:
        dropped = [_squeezes(squeezed[each], each, axes) for each in squeezed]
    return replace(traced, notes=(*dropped, *traced.notes))


def _squeezes(line: str, axis: str, axes: Mapping[str, Axes]) -> str:
    """Return the note for an axis that the code drops where it is 1."""
    options = " ".join(
        f"--input {name}={','.join('1' if each == axis else str(each) for each in axes[name])}"
        for name in axes
    )
    return (
        f"{line} drops axis {axis} where it is 1, so that the file takes no {axis} of 1; give "
        f"squeeze the axis that it is to drop, or export for one alone: {options}"
    )


def _trace(module: nn.Module, request: Request, axes: Mapping[str, Axes], program: Program | None) -> Traced:
    signature, sizes = request.signature, _example_sizes(request.signature, axes)
    tensors = _at_sizes(signature, axes, sizes)
    try:
        program = _trace_at(module, signature, axes, tensors, program)
    except TracingError as error:
        other = (
            _other_sizes(module, signature, axes, sizes, request.config.ranges) if error.constant else None
        )
        if other is None:
            raise
        sizes, tensors = other, _at_sizes(signature, axes, other)
        try:
            program = _trace_at(module, signature, axes, tensors)
        except TracingError as again:
            if again.constant:
                raise error from None
            raise
    recorder = program.recorder
    known = _named_sizes(recorder, signature, axes)
    model = _translate(program.exported, tensors, signature.names, recorder)
    settle_floats(model.graph)
    _name_axes(model, axes)
    return Traced(
        model,
        tuple(recorder.outputs),
        tuple(recorder.calls),
        _read_guards(program.exported, recorder, axes),
        sizes,
        {known[size]: line for size, line in recorder.squeezed.items() if size in known},
        tuple(
            f"the file does not check what {line} does, which was taken to hold" for line in recorder.checked
        ),
    )


def _trace_at(
    module: nn.Module,
    signature: Signature,
    axes: Mapping[str, Axes],
    tensors: Sequence[Tensor],
    found: Program | None = None,
) -> Program:
    """Trace at the sizes of ``tensors``, unless ``found`` is this trace."""
    if found and _is_traced_at(found, signature, axes, tensors):
        program = found
    else:
        shapes = [
            [Dim.DYNAMIC if isinstance(axis, str) else Dim.STATIC for axis in axes[name]]
            for name in signature.names
        ]
        program = export_program(module, signature, tensors, shapes)
    _named_sizes(program.recorder, signature, axes)
    return program


def _is_traced_at(
    program: Program, signature: Signature, axes: Mapping[str, Axes], tensors: Sequence[Tensor]
) -> bool:
    """Return whether a trace of the example with every axis free has these sizes and is free in no others."""
    return all(
        tensor.shape == example.shape
        and all(bool(symbols(size)) == isinstance(axis, str) for size, axis in zip(shape, own, strict=True))
        for tensor, example, shape, own in zip(
            tensors, signature.example, program.recorder.shapes, axes.values(), strict=True
        )
    )


def _named_sizes(recorder: Recorder, signature: Signature, axes: Mapping[str, Axes]) -> dict[str, str]:
    """Return the axis of each size as traced.

    Raises:
        TracingError: two axes have the same size.
    """
    named: dict[str, str] = {}
    for name, place, size in recorder.sizes(signature.names):
        axis = axes[name][place]
        if isinstance(axis, str) and axis.isidentifier():
            other = named.setdefault(size_text(size), axis)
            if other != axis:
                text = f"forward works only where axes {other} and {axis} have the same size; give "
                raise TracingError("same size", recorder, ValueError(f"{text}them the same name"))
    return named


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
        if runs(module, signature.with_example(_at_sizes(signature, axes, other))):
            return other
    return None


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


def export_program(
    module: nn.Module, signature: Signature, tensors: Sequence[Tensor], shapes: Sequence[Any]
) -> Program:
    """Trace a copy of ``module`` with what its layers do recorded.

    Raises:
        TracingError: ``torch.export`` can't.
        LoopError: a loop over cells would be unrolled.
    """
    module, recorder = copy.deepcopy(module), Recorder()
    instrument(module, recorder)
    example = tuple(tensor.detach() for tensor in tensors)
    with quietly(), torch.no_grad():
        try:
            program = torch.export.export(
                _Wrapper(module, signature, recorder), example, dynamic_shapes=(tuple(shapes),), strict=False
            )
        except LstmEdgeError:
            raise
        except Exception as error:
            recorder.check_calls(signature.names)
            raise TracingError(_kind(error, recorder.seen), recorder, error) from error
    recorder.check_calls(signature.names)
    return Program(program, recorder)


def _kind(error: Exception, seen: Mapping[str, str]) -> str:
    """Sort what ``torch.export`` raised."""
    if "numpy" in seen:
        return "numpy"
    passed = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if any(each.startswith(_DISTRIBUTIONS) for each in passed):
        return "distribution"
    for each in passed:
        if _HIGHER in each and Path(each).stem in CONTROL_FLOW:
            return Path(each).stem
    text = " ".join(str(error).split()).partition(" The error above occurred")[0]
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return "list" if "list" in seen else "values"
    if "specialized" in text or "Constraints violated" in text or re.search(r"[\[(, *]s\d+\b", text):
        return "size"
    return "complex" if "complex" in seen else ""


def _translate(
    program: ExportedProgram, tensors: Sequence[Tensor], names: Sequence[str], recorder: Recorder
) -> ir.Model:
    with quietly(), _looked_up_once(), _matched_exactly():
        try:
            made = torch.onnx.export(
                program,
                tuple(tensors),
                dynamo=True,
                custom_translation_table=dict(TRANSLATIONS),
                opset_version=18,
                optimize=False,
                verbose=False,
            )
            assert made is not None
            fold_constants(made.model)
            hide_batch_norms(made.model)
            made.optimize()
            fold_batch_norms(made.model)
            for value, name in zip(made.model.graph.inputs, names, strict=True):
                value.name = name
        except Exception as error:
            raise TracingError("translation", recorder, error, program) from error
    return made.model


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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
def _looked_up_once() -> Iterator[None]:
    """Let ``torch.onnx.export`` build its registry once, and list PyTorch's operators once per call.

    It parses the sources of some 500 translations at every call, which takes a third of an export, and lists
    the operators twice for each of 28 namespaces, which takes a tenth.
    """
    with contextlib.ExitStack() as stack:
        for home, name, once in _ONCE:
            stack.callback(setattr, home, name, vars(home)[name])
            setattr(home, name, once())
        yield


@contextlib.contextmanager
def _matched_exactly() -> Iterator[None]:
    """Let onnxscript's optimizer drop only what adds 0 or multiplies by 1: it takes 1e-8 for 0."""
    try:
        from onnxscript.rewriter import _matcher
        from onnxscript.rewriter._pattern_ir import Constant

        matcher: Any = _matcher.SimplePatternMatcher
        match = matcher._match_constant
    except (ImportError, AttributeError):  # they are no promise of onnxscript's
        yield
        return

    def exactly(self: Any, pattern: Any, value: ir.Value) -> bool:
        near = pattern if pattern.value not in (0, 1) else Constant(pattern.value, 0.0, 0.0)
        return bool(match(self, near, value))

    matcher._match_constant = exactly
    try:
        yield
    finally:
        matcher._match_constant = match


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


def _read_guards(program: ExportedProgram, recorder: Recorder, axes: Mapping[str, Axes]) -> tuple[Guard, ...]:
    """Return every fact about sizes that the trace of inputs with these axes rests on."""
    values: dict[str, str] = {}
    facts: list[tuple[str, str]] = []
    free = [
        (size, axis)
        for name, place, size in recorder.sizes(axes)
        if isinstance(size, torch.SymInt) and isinstance(axis := axes[name][place], str)
    ]
    for size, axis in free:
        factors, constant = parse_sum(str(size.node.expr))
        ((symbol, factor), *more) = factors.items()
        if symbol.isidentifier() and not more and not constant:
            values.setdefault(symbol, f"({axis})" if factor == 1 else f"(({axis})//{factor})")
            if factor > 1:
                facts.append((f"({axis}) % {factor} == 0", ""))
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower > 0:
            facts.append((f"{symbol} >= {bounds.lower}", ""))
        if bounds.upper != int_oo:
            facts.append((f"{symbol} <= {bounds.upper}", ""))
    if free:
        printer = PythonPrinter()
        guards = free[-1][0].node.shape_env.guards
        facts = [(printer.doprint(each.expr), _line(each.sloc)) for each in guards] + facts
    found = []
    for text, line in dict.fromkeys(facts):
        named = re.sub(r"\b[su]\d+\b", lambda match: values.get(match[0], match[0]), text)
        if not re.search(r"\b[su]\d+\b", named):
            shown = re.sub(r"\((\w+)\)", r"\1", named)
            found.append(Guard(shown, compile(named, "<guard>", "eval"), line))
    return tuple(found)


def _line(place: SLoc) -> str:
    """Return the line that asked for a fact, where that is the module's own."""
    frame = place.framework_loc
    return line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""


def _name_axes(model: ir.Model, axes: Mapping[str, Axes]) -> None:
    """Write the declared names in the place of the tracer's symbols."""
    names, values = _symbol_names(model, axes), _values(model.graph)
    texts = [str(each) for value in values for each in value.shape or () if not isinstance(each, int)]
    unknown = dict.fromkeys(symbol for text in texts for symbol in re.findall(r"\bu\d+\b", text))
    names |= {symbol: f"longest{index or ''}" for index, symbol in enumerate(unknown)}
    for value in model.graph.inputs:
        value.shape = ir.Shape(axes[str(value.name)])
    for value in values[len(model.graph.inputs) :]:
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dimension, names) for dimension in value.shape])


def _symbol_names(model: ir.Model, axes: Mapping[str, Axes]) -> dict[str, str]:
    """Return what each symbol of an input's shape is in terms of the declared names."""
    names: dict[str, str] = {}
    dimensions = [
        (str(dimension), axis)
        for value in model.graph.inputs
        for dimension, axis in zip(value.shape or (), axes[str(value.name)], strict=True)
        if isinstance(axis, str)
    ]
    for dimension, axis in sorted(dimensions, key=lambda each: not each[1].isidentifier()):
        factors, _ = parse_sum(dimension)
        if len(factors) > 1:
            continue
        ((symbol, factor),) = factors.items()
        own, _ = parse_sum(axis)
        (name,) = [axis] if factor == 1 else [each for each in own if own == {each: factor}] or [""]
        names.setdefault(symbol, name if name.isidentifier() else f"({name or f'{axis}/{factor}'})")
    return names


def _renamed(dimension: int | ir.SymbolicDim, names: Mapping[str, str]) -> Any:
    if isinstance(dimension, int) or dimension.value is None:
        return dimension
    text = re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), dimension.value)
    text = re.sub(r"\(\((\d+)\*(\w+)\)//\1\)", r"\2", text)
    return text[1:-1] if re.fullmatch(r"\(\d+\*\w+\)", text) else text


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
