"""Compile an ONNX graph to a native program: what it computes for one row at one time step.

The graph is followed node by node with every batch axis at size 1 and the time axis at one step, or one unit,
so that each shape is known and each value is a flat row of numbers. What only renames axes or moves axes of
size 1 is then no operation at all, and what depends on shapes alone is folded. A value is a list of buffers
that hold its numbers in order: layers of a state that are split, and joined again, are never copied.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import prod
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from lstm_edge_runtime.axes import row_factor, unit_shape
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array, Axes, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native.library import TYPES
from lstm_edge_runtime.native.past import Past

from ...onnx_reader import Graph, Node, OnnxFile, Tensor
from . import folding
from .program import Binary, Code, Function, ProgramWriter, in_int8
from .windows import PADDING, declared, stretches, windows_of

_MICROSOFT = "com.microsoft"
_MOST_STRETCHES = 1024
"""Copies that one rearrangement may take."""
_MOST_NUMBERS = 1 << 24
"""Elements that a row of an input or a state may have."""


class StatePart(NamedTuple):
    """A state of the program: a layer of one of the file's states."""

    state: StateSpec
    layer: int | None
    """Its place along the state's first axis; None where it is the whole state."""
    past: Past | None = None
    """How it is a ring; None where it is a row of numbers."""


class Compiled(NamedTuple):
    """A program, and how its states belong to the file's. Inputs and outputs are in the manifest's order."""

    writer: ProgramWriter
    parts: tuple[StatePart, ...]


class _Value(NamedTuple):
    """A value that is computed at run time."""

    shape: tuple[int, ...]
    buffers: tuple[int, ...]
    """Buffers with its numbers, in order."""
    dtype: str = "float32"
    order: tuple[int, ...] = ()
    """The axes in the order in which the numbers lie, outermost first; empty for that of ``shape``."""

    @property
    def is_straight(self) -> bool:
        """Whether the numbers lie in the order of the axes."""
        return _same_order(self.shape, self.order, ())

    @property
    def as_it_lies(self) -> "_Value":
        """The same with its axes in the order in which the numbers lie."""
        return self._replace(shape=tuple(self.shape[axis] for axis in self.order), order=())


class _Quantized(NamedTuple):
    """What DynamicQuantizeLinear makes of a value, and what follows from it up to the product's scale."""

    source: _Value
    role: str
    """``quantized``, ``scale``, ``zero``, ``product`` or ``product_scale``."""
    weights: Array | None = None
    """int8 ``(M, K)`` of a product."""
    scales: Array | None = None
    """``(M,)`` or one, of a product's scale."""
    shape: tuple[int, ...] = ()


class _Frames(NamedTuple):
    """Frames of a past and, behind its last one, that of this step."""

    shape: tuple[int, ...]
    part: StatePart
    buffer: int
    axis: int
    """Of the frames."""
    first: int = 0
    source: _Value | None = None
    """This step's frame; None for the past alone."""


def _same_order(shape: Sequence[int], one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether two orders of axes are the same but for axes of size 1."""
    large = [[axis for axis in order or range(len(shape)) if shape[axis] > 1] for order in (one, other)]
    return large[0] == large[1]


def _axes_first(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    return (*axes, *(each for each in range(rank) if each not in axes))


def _resized(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    """Return a shape with another size on an axis."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _is_whole(value: "_In") -> bool:
    return isinstance(value, _Value) and value.dtype == "int64"


def _as_floats(value: "_In") -> "_In":
    """Return values that are 0 or 1 as numbers."""
    return value._replace(dtype="float32") if isinstance(value, _Value) else value


def _time_first(axis: int, rank: int) -> tuple[int, ...]:
    return _axes_first((axis,), rank)


_Any = _Value | _Quantized | _Frames | Array
"""Value of a name in the graph: an array if it is known at compile time."""
_In = _Any | None
"""Input of a node; None for one that is left out."""
_Takes = Literal["rows", "any order", "frames"]
"""Which values an operator takes: those whose numbers lie in the order of their axes; in any order; or
frames of a past as well."""


class _Operator(NamedTuple):
    """How an operator is lowered."""

    lower: Callable[..., Any]
    """Method of the compiler: takes the node and its inputs."""
    takes: _Takes


_Lower = TypeVar("_Lower", bound=Callable[..., Any])
_LOWER: dict[tuple[str, str], _Operator] = {}
"""By domain and name."""


def _lowers(*names: str, takes: _Takes = "rows", domain: str = "") -> Callable[[_Lower], _Lower]:
    """Return a decorator for the method that lowers some operators."""

    def register(lower: _Lower) -> _Lower:
        _LOWER.update({(domain, name): _Operator(lower, takes) for name in names})
        return lower

    return register


_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_UNARY: dict[str, tuple[Function, tuple[tuple[str, float], ...]]] = {
    "Relu": (Function.RELU, ()),
    "Sigmoid": (Function.SIGMOID, ()),
    "Tanh": (Function.TANH, ()),
    "LeakyRelu": (Function.LEAKY_RELU, (("alpha", 0.01),)),
    "ThresholdedRelu": (Function.THRESHOLDED_RELU, (("alpha", 1.0),)),
    "HardSigmoid": (Function.HARD_SIGMOID, (("alpha", 0.2), ("beta", 0.5))),
    "Elu": (Function.ELU, (("alpha", 1.0),)),
    "Selu": (Function.SELU, (("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805))),
    "Softsign": (Function.SOFTSIGN, ()),
    "Softplus": (Function.SOFTPLUS, ()),
    "Gelu": (Function.GELU, ()),
    "Abs": (Function.ABS, ()),
    "Neg": (Function.NEGATE, ()),
    "Exp": (Function.EXP, ()),
    "Log": (Function.LOG, ()),
    "Sqrt": (Function.SQRT, ()),
    "Reciprocal": (Function.RECIPROCAL, ()),
    "Erf": (Function.ERF, ()),
    "Floor": (Function.FLOOR, ()),
    "Ceil": (Function.CEIL, ()),
    "Round": (Function.ROUND, ()),
    "Sin": (Function.SIN, ()),
    "Cos": (Function.COS, ()),
}
"""An operator to its function, and the attributes that are alpha and beta with their defaults."""
_ACTIVATIONS: dict[str, tuple[Function, Sequence[float | None]]] = {
    "affine": (Function.AFFINE, (None, None)),
    "scaledtanh": (Function.SCALED_TANH, (None, None)),
    **{
        name.lower(): (function, [default for _, default in attributes])
        for name, (function, attributes) in _UNARY.items()
        if function <= Function.SOFTPLUS
    },
}
"""The functions inside a recurrent operator, with the parameters that they take where the node gives none."""
_BINARY = {
    "Add": Binary.ADD,
    "Sub": Binary.SUBTRACT,
    "Mul": Binary.MULTIPLY,
    "Div": Binary.DIVIDE,
    "Max": Binary.MAXIMUM,
    "Min": Binary.MINIMUM,
    "PRelu": Binary.PRELU,
    "Pow": Binary.POWER,
    "Sum": Binary.ADD,
    "Mod": Binary.REMAINDER,
    "Less": Binary.LESS,
    "LessOrEqual": Binary.LESS_EQUAL,
    "Greater": Binary.LESS,
    "GreaterOrEqual": Binary.LESS_EQUAL,
    "Equal": Binary.EQUAL,
}
"""Greater and GreaterOrEqual take their inputs the other way around."""
_LOGIC = {"And": Binary.MULTIPLY, "Or": Binary.MAXIMUM, "Xor": Binary.EQUAL}
_WHOLE = (
    "Add", "Sub", "Mul", "Div", "Mod", "Max", "Min", "Clip", "Neg", "Abs", "Less", "LessOrEqual", "Greater",
    "GreaterOrEqual", "Equal",
)  # fmt: skip
"""Operators of whole numbers."""
_COMPARES = (Binary.LESS, Binary.LESS_EQUAL, Binary.EQUAL)


def compile_program(file: OnnxFile, manifest: Manifest) -> Compiled:
    """Return the program of a file that can be streamed.

    Raises:
        UnsupportedError: a node, an input or a state is not covered; the message says which and why.
        FileFormatError: a stored tensor that can't be read.
    """
    return _Compiler(file, manifest).compile()


class _Compiler:
    def __init__(self, file: OnnxFile, manifest: Manifest) -> None:
        self._file, self._manifest = file, manifest
        self._opset = file.opsets.get("", 1)
        self._writer = ProgramWriter(manifest.unit)
        self._values: dict[str, _Any] = {}
        self._uses = Counter(name for node in file.graph.nodes for name in node.inputs)
        self._uses.update(manifest.output_names)
        self._parts: list[tuple[StatePart, int]] = []
        self._windows: dict[tuple[int, ...], int] = {}
        """What WINDOW operations made, by their arguments."""
        self._fresh: set[str] = set()
        """Values in buffers that their own node made: no other name stands for these buffers."""
        self._sizes: set[str] = set()
        """Values that follow from shapes, of which those of rows and steps are 1 here alone."""
        self._pasts = _find_pasts(file, manifest)
        """The axis of the frames of states that hold frames."""

    def compile(self) -> Compiled:
        manifest, graph = self._manifest, self._file.graph
        if graph.has_sparse:
            raise UnsupportedError("it stores sparse tensors")
        _check_axes(manifest)
        for spec in manifest.inputs:
            self._values[spec.name] = self._open_input(spec)
        for state in manifest.states:
            self._values[state.input] = self._open_state(state)
        for node in graph.nodes:
            self._node(node)
        for output in manifest.outputs:
            self._close_output(output)
        for state in sorted(manifest.states, key=lambda state: state.input in self._pasts):
            self._close_state(state)  # a past at the end: nothing reads it after its PUSH
        return Compiled(self._writer, tuple(part for part, _ in self._parts))

    def _open_input(self, spec: TensorSpec) -> _Any:
        shape = self._shape_of(spec.name, spec.axes)
        if spec.name == self._manifest.lengths:
            return np.ones(shape, spec.dtype)
        time = self._manifest.time_axis(spec.axes)
        if time is None and self._manifest.unit > 1:
            raise UnsupportedError(f"input {spec.name} has no time axis, in a file with a unit")
        order = () if time is None else _time_first(time, len(shape))
        order = () if _same_order(shape, order, ()) else order
        if spec.dtype == "bool":
            flags = self._writer.input(spec.name, prod(shape), "uint8")
            return _Value(shape, (self._writer.cast(flags),), "bool", order)
        if spec.dtype not in TYPES:
            raise UnsupportedError(f"input {spec.name} is {spec.dtype}")
        return _Value(shape, (self._writer.input(spec.name, prod(shape), spec.dtype),), spec.dtype, order)

    def _open_state(self, state: StateSpec) -> "_Value | _Frames":
        """Make a state of the program of a state of the file, or one of each of its layers."""
        shape = self._shape_of(state.input, state.axes)
        reset = np.broadcast_to(np.asarray(state.reset, state.dtype), shape)
        if state.input in self._pasts:
            axis = self._pasts[state.input]
            past = Past(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
            part, buffer = StatePart(state, None, past), self._writer.past(state.input, past, reset)
            self._parts.append((part, buffer))
            return _Frames(shape, part, buffer, axis)
        if state.dtype not in ("float32", "int64"):
            raise UnsupportedError(f"state {state.input} is {state.dtype}, expected float32 or int64")
        layers = shape[0] if len(shape) > 1 and state.axes[0] != self._manifest.batch else 1
        for layer, own in enumerate(reset.reshape(layers, -1)):
            part = StatePart(state, layer if layers > 1 else None)
            name = state.input if layers == 1 else f"{state.input}[{layer}]"
            self._parts.append((part, self._writer.state(name, own.size, own, state.dtype)))
        return _Value(shape, tuple(buffer for _, buffer in self._parts[-layers:]), state.dtype)

    def _close_output(self, output: TensorSpec) -> None:
        manifest = self._manifest
        value, time = self._settled(self._get(output.name)), manifest.time_axis(output.axes)
        if not isinstance(value, _Value):
            raise UnsupportedError(f"output {output.name} is computed of lengths or constants alone")
        if time is not None:
            value = self._in_order(value, _time_first(time, len(value.shape)))
        self._writer.output(
            output.name,
            self._row(value),
            every_step=time is not None,
            delay=manifest.delays.get(output.name, 0),
            frames=manifest.frames_a_unit.get(output.name, 1),
        )

    def _close_past(self, state: StateSpec, old: _Frames) -> None:
        new, past = self._get(state.output), old.part.past
        assert past is not None
        assert isinstance(new, _Frames)
        assert new.source is not None
        if (new.buffer, new.first) != (old.buffer, new.source.shape[new.axis]):
            raise UnsupportedError(f"state {state.output} is not the last frames of a value")
        self._writer.push(self._in_time(new), old.buffer, past)

    def _close_state(self, state: StateSpec) -> None:
        old = self._values[state.input]
        if isinstance(old, _Frames):
            self._close_past(state, old)
            return
        assert isinstance(old, _Value)
        value = self._get(state.output)
        if not isinstance(value, _Value) or value.dtype != state.dtype:
            raise UnsupportedError(f"state {state.output} does not depend on the input")
        value, widths = self._in_order(value, ()), [*map(self._writer.width, old.buffers)]
        news = [*value.buffers]
        if [*map(self._writer.width, news)] != widths:
            news = self._cut(self._row(value), widths)
        given = self._writer.given
        for buffer, new in zip(old.buffers, news, strict=True):
            self._writer.next_state(buffer, self._copied(new) if new in given else new)

    def _copied(self, buffer: int) -> int:
        if self._writer.dtype(buffer) == "int64":
            return self._writer.binary(Binary.ADD, buffer, np.zeros(1, np.int64))
        return self._writer.unary(buffer, Function.IDENTITY)

    # values

    def _shape_of(self, name: str, axes: Axes) -> tuple[int, ...]:
        """Return the shape of one row at one step, or in one unit."""
        shape = unit_shape(axes, self._manifest)
        if prod(shape) > _MOST_NUMBERS:
            raise UnsupportedError(f"{name} {axes} has {prod(shape)} numbers a row, beyond {_MOST_NUMBERS}")
        return shape

    def _get(self, name: str) -> _Any:
        if name not in self._values:
            tensor = self._file.graph.initializers.get(name)
            if tensor is None:
                raise UnsupportedError(f"{name!r} is computed by no node before it")
            self._values[name] = tensor.array()
        return self._values[name]

    def _inputs(self, node: Node, takes: "_Takes") -> list[_In]:
        inputs: list[_In] = [self._get(name) if name else None for name in node.inputs]
        if takes != "frames":
            inputs = [*map(self._settled, inputs)]
        if takes == "rows":
            inputs = [self._in_order(each, ()) if isinstance(each, _Value) else each for each in inputs]
        return inputs

    def _row(self, value: _In) -> int:
        """Return one buffer that holds all of a value's numbers, as they lie."""
        value = self._settled(value)
        if not isinstance(value, _Value):
            raise UnsupportedError("expected a runtime value, got a constant or a quantized value")
        if len(value.buffers) == 1:
            return value.buffers[0]
        if value.dtype not in ("float32", "bool"):
            raise UnsupportedError(f"{value.dtype} values are joined")
        out, at = self._writer.buffer(prod(value.shape)), 0
        for buffer in value.buffers:
            width = self._writer.width(buffer)
            self._writer.copy(buffer, out, out_offset=at, length=width)
            at += width
        return out

    def _cut(self, row: int, widths: Sequence[int]) -> list[int]:
        parts, at = [], 0
        for width in widths:
            parts.append(self._writer.buffer(width))
            self._writer.copy(row, parts[-1], source_offset=at, length=width)
            at += width
        return parts

    def _floats(self, value: _In) -> _Value:
        if not isinstance(value, _Value):
            raise UnsupportedError("a constant or quantized input")
        if value.dtype != "float32":
            raise UnsupportedError(f"an input of {value.dtype}, expected float32")
        return value

    @staticmethod
    def _runtime(value: _In) -> _Value:
        if not isinstance(value, _Value):
            raise UnsupportedError("a quantized input")
        return value

    def _filled(self, value: _In) -> _Value:
        """Return a value, or a buffer with what is stored in the file."""
        if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.bool_) and value.size:
            return self._single(value.shape, self._writer.filled(value))
        return self._floats(value)

    @staticmethod
    def _known(value: _In, what: str) -> Array:
        if not isinstance(value, np.ndarray):
            raise UnsupportedError(f"{what} that is not stored in the file")
        return value

    def _optional(self, value: _In, what: str) -> Array | None:
        return None if value is None else self._known(value, what)

    @staticmethod
    def _places(value: _Value) -> Array:
        """Return where each number of a value lies in its row, in its shape."""
        order = value.order or tuple(range(len(value.shape)))
        lying = np.arange(prod(value.shape)).reshape([value.shape[axis] for axis in order])
        found: Array = lying.transpose(np.argsort(order))
        return found

    def _in_order(self, value: _Value, order: Sequence[int]) -> _Value:
        """Return a value whose numbers lie in an order of its axes."""
        order = tuple(order)
        if _same_order(value.shape, value.order, order):
            return value._replace(order=order)
        lying = self._places(value).transpose(order or range(len(value.shape)))
        return self._arrange(value, lying)._replace(shape=value.shape, order=order)

    def _in_time(self, frames: _Frames) -> int:
        """Return the buffer of the frames behind a past, each in one stretch."""
        assert frames.source is not None
        source = frames.source
        return self._row(self._in_order(source, _time_first(frames.axis, len(source.shape))))

    def _arrange(self, value: _Value, places: Array, padding: float = 0.0) -> _Value:
        """Return the numbers of a value at some places of its row, in their shape."""
        flat = places.reshape(-1)
        if np.array_equal(flat, np.arange(prod(value.shape))):
            return value._replace(shape=places.shape, order=())
        copies = list(islice(stretches(flat), _MOST_STRETCHES + 1))
        if value.dtype not in ("float32", "bool") or not flat.size or len(copies) > _MOST_STRETCHES:
            raise UnsupportedError(f"{flat.size} places of {value.dtype} {value.shape}")
        row, out = self._row(value), self._writer.buffer(flat.size)
        empty = max((each.length for each in copies if each.source == PADDING), default=0)
        filled = self._writer.filled(np.full(empty, padding, "float32")) if empty else row
        for source, at, length, count, source_stride, out_stride in copies:
            places_of = {"out_offset": at, "length": length, "count": count, "out_stride": out_stride}
            if source == PADDING:
                self._writer.copy(filled, out, **places_of)
            else:
                self._writer.copy(row, out, source_offset=source, source_stride=source_stride, **places_of)
        return _Value(places.shape, (out,), value.dtype)

    def _window(self, frames: _Frames, dilation: int, count: int) -> _Value:
        """Return ``count`` of some frames, one after another, each in one stretch."""
        assert frames.source is not None
        key = (frames.buffer, frames.first, dilation, count)
        if key not in self._windows:
            new = frames.source.shape[frames.axis]
            self._windows[key] = self._writer.window(self._in_time(frames), *key, new)
        shape = (count, *frames.shape[: frames.axis], *frames.shape[frames.axis + 1 :])
        return self._single(shape, self._windows[key])

    def _settled(self, value: _In) -> "_Value | _Quantized | Array | None":
        """Return frames as a value, and anything else as it is."""
        if not isinstance(value, _Frames):
            return value
        found = self._window(value, 1, value.shape[value.axis])
        return found._replace(shape=value.shape, order=_time_first(value.axis, len(value.shape)))

    def _broadcast(self, value: _Value, shape: tuple[int, ...], order: Sequence[int] = ()) -> _Value:
        """Return a value in a shape that it broadcasts to, and an order of its axes."""
        front = len(shape) - len(value.shape)
        if prod(value.shape) == prod(shape):
            moved = tuple(axis + front for axis in value.order)
            same = value._replace(shape=shape, order=moved and (*range(front), *moved))
            return self._in_order(same, order)
        places = np.broadcast_to(self._places(value), shape).transpose(order or range(len(shape)))
        return self._arrange(value, places)._replace(shape=shape, order=tuple(order))

    def _single(self, shape: Sequence[int], buffer: int) -> _Value:
        return _Value(tuple(shape), (buffer,))

    # nodes

    def _node(self, node: Node) -> None:
        about = f"node {node.name!r} ({node.op_type})" if node.name else f"node ({node.op_type})"
        try:
            self._lower(node)
        except UnsupportedError as error:
            raise UnsupportedError(f"{about}: {error}") from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # sizes that do not fit
            raise UnsupportedError(f"{about} does not fit its inputs") from error

    def _lower(self, node: Node) -> None:
        if any(isinstance(value, Graph) for value in node.attributes.values()):
            raise UnsupportedError("it has a subgraph")
        own = node.domain in ("", "ai.onnx")
        operator = _LOWER.get(("" if own else node.domain, node.op_type))
        inputs = self._inputs(node, operator.takes if operator else "rows")
        known = [value for value in inputs if value is None or isinstance(value, np.ndarray)]
        if node.op_type in ("Shape", "Size") or not self._sizes.isdisjoint(node.inputs):
            self._sizes.update(node.outputs)
        if own and len(known) == len(inputs):
            results: Sequence[_Any] = self._fold(node, known)
        elif operator is None:
            raise UnsupportedError("an operator that is not covered")
        else:
            results = self._operate(node, operator, inputs)
        self._values.update((name, each) for name, each in zip(node.outputs, results, strict=False) if name)
        if any(name and name not in self._values for name in node.outputs if self._uses[name]):
            raise UnsupportedError("an output that is not covered")

    def _fold(self, node: Node, known: list[Array | None]) -> Sequence[_Any]:
        results = folding.fold(node, known)
        counted = node.op_type == "Cast" and results[0].dtype.kind == "f"
        # chunks of a graph of a stream were compared with the whole
        counted = counted and not self._manifest.is_buffered and node.outputs[0] in self._sizes
        if counted and (results[0] == 1).any():
            raise UnsupportedError("a number of rows or steps that is computed with")
        return results

    def _operate(self, node: Node, operator: "_Operator", inputs: Sequence[_In]) -> Sequence[_Any]:
        mark = self._writer.buffers
        lowered = operator.lower(self, node, *inputs)
        if isinstance(lowered, _Value) and min(lowered.buffers) >= mark:
            self._fresh.add(node.outputs[0])
        return lowered if isinstance(lowered, list) else [lowered]

    @_lowers("Identity", "Dropout", "Reshape", "Squeeze", "Unsqueeze", "Flatten", takes="any order")
    def _rename(self, node: Node, given: _In, *rest: _In) -> _Value:
        """Change the shape alone."""
        value = self._runtime(given)
        shape = folding.shape_after(node, value.shape, rest)
        if prod(shape) != prod(value.shape):
            raise UnsupportedError(f"{value.shape} becomes {shape}")
        old, new = ([axis for axis, size in enumerate(each) if size > 1] for each in (value.shape, shape))
        if value.is_straight or [value.shape[axis] for axis in old] != [shape[axis] for axis in new]:
            return self._in_order(value, ())._replace(shape=shape, order=())
        large = [new[old.index(axis)] for axis in value.order if axis in old]
        return value._replace(
            shape=shape, order=(*(axis for axis in range(len(shape)) if axis not in new), *large)
        )

    @_lowers("Shape", takes="any order")
    def _shape(self, node: Node, given: _In) -> Array:
        return folding.fold(node, [np.broadcast_to(np.int8(0), self._runtime(given).shape)])[0]

    @_lowers("Transpose", takes="any order")
    def _transpose(self, node: Node, given: _In) -> _Value:
        value = self._runtime(given)
        rank = len(value.shape)
        order = list(node.attributes.get("perm", tuple(range(rank))[::-1]))
        lying = tuple(order.index(axis) for axis in value.order or range(rank))
        moved = value._replace(shape=tuple(value.shape[axis] for axis in order), order=lying)
        return moved._replace(order=()) if moved.is_straight else moved

    def _linear(
        self,
        source: _Value,
        weights: Array,
        bias: Array | None,
        shape: Sequence[int],
        scales: Array | None = None,
    ) -> _Value:
        return self._single(shape, self._writer.linear(self._row(source), weights, bias, scales))

    @_lowers("Gemm")
    def _gemm(self, node: Node, given: _In, matrix: _In, added: _In = None) -> _Value:
        attributes = node.attributes
        source, weights = self._floats(given), self._known(matrix, "weights")
        if attributes.get("transA", 0) and 1 not in source.shape:
            raise UnsupportedError("a transposed input")
        weights = weights if attributes.get("transB", 0) else weights.T
        shape = (prod(source.shape) // weights.shape[1], weights.shape[0])
        if attributes.get("alpha", 1.0) != 1.0:
            weights = np.float32(attributes["alpha"]) * weights
        if (bias := self._optional(added, "a bias")) is not None:
            bias = _uniform(bias * np.float32(attributes.get("beta", 1.0)), shape)
            if bias is None:
                raise UnsupportedError("a bias that differs between rows")
        return self._linear(source, weights, bias, shape)

    @_lowers("MatMul")
    def _matmul(self, node: Node, given: _In, matrix: _In) -> _Value:
        source, weights = self._floats(given), _matrix(self._known(matrix, "weights"))
        return self._linear(source, weights.T, None, (*source.shape[:-1], weights.shape[1]))

    @_lowers(*_UNARY, takes="any order")
    @_lowers("Gelu", takes="any order", domain=_MICROSOFT)
    def _unary(self, node: Node, given: _In) -> _Value:
        if node.op_type in ("Neg", "Abs") and _is_whole(given):
            negated = self._combine(node, Binary.SUBTRACT, np.zeros(1, np.int64), given)
            return negated if node.op_type == "Neg" else self._combine(node, Binary.MAXIMUM, given, negated)
        function, names = _UNARY[node.op_type]
        value = self._floats(given)
        parameters = [float(node.attributes.get(name, default)) for name, default in names]
        if node.op_type == "Gelu" and node.attributes.get("approximate", "none") == "tanh":
            function = Function.GELU_TANH
        return self._each(value, function, *parameters)

    def _each(self, value: _Value, function: Function, alpha: float = 0.0, beta: float = 0.0) -> _Value:
        """Apply a function to each buffer of a value."""
        buffers = [self._writer.unary(buffer, function, alpha, beta) for buffer in value.buffers]
        return value._replace(buffers=tuple(buffers))

    @_lowers("Clip", takes="any order")
    def _clip(self, node: Node, given: _In, least: _In = None, most: _In = None) -> _Value:
        if _is_whole(given):
            for kind, limit in ((Binary.MAXIMUM, least), (Binary.MINIMUM, most)):
                given = given if limit is None else self._combine(node, kind, given, limit)
            return self._runtime(given)
        limits = [
            node.attributes.get(name, default if limit is None else self._known(limit, "a limit").item())
            for name, limit, default in (("min", least, -np.inf), ("max", most, np.inf))
        ]
        return self._each(self._floats(given), Function.CLIP, *map(float, limits))

    @_lowers("HardSwish", takes="any order")
    def _hard_swish(self, node: Node, given: _In) -> _Value:
        row = self._row(value := self._floats(given))
        gate = self._writer.unary(row, Function.HARD_SIGMOID, 1 / 6, 0.5)
        return value._replace(buffers=(self._writer.binary(Binary.MULTIPLY, row, gate),))

    @_lowers(*_BINARY, takes="any order")
    def _binary(self, node: Node, *inputs: _In) -> "_Value | _Quantized":
        """Combine the inputs, from the first to the last."""
        if any(isinstance(value, _Quantized) for value in inputs):
            return self._scale_product(*inputs)
        if node.op_type == "Mod":
            if not any(map(_is_whole, inputs)):
                raise UnsupportedError("an operator that is not covered")
            if node.attributes.get("fmod", 0):
                raise UnsupportedError("fmod of whole numbers")
        first, *rest = inputs[::-1] if node.op_type.startswith("Greater") else inputs
        for other in rest:
            first = self._combine(node, _BINARY[node.op_type], first, other)
        return self._runtime(first)

    def _combine(self, node: Node, kind: Binary, a: _In, b: _In) -> _Value:
        """Return a function of two values of float32, or of whole numbers; one of them may be stored."""
        swap = not isinstance(a, _Value)
        whole = node.op_type in _WHOLE and (_is_whole(a) or _is_whole(b))
        numbers = self._whole_numbers if whole else self._floats
        value, other = (numbers(b), a) if swap else (numbers(a), b)
        if isinstance(other, np.ndarray):
            found = self._combine_stored(node, kind, value, other, swap=swap)
        else:
            second = numbers(other)
            shape = np.broadcast_shapes(value.shape, second.shape)
            value, order = self._spread(value, shape)
            if prod(value.shape) == 1 and second.shape == shape:
                order = second.order
            elif prod(second.shape) != 1:
                second = self._broadcast(second, shape, order)
            row = self._writer.binary(kind, self._row(value), self._row(second))
            found = _Value(shape, (row,), value.dtype, order)
        if kind not in _COMPARES:
            return found
        buffers = (self._writer.cast(self._row(found)),) if whole else found.buffers
        return found._replace(buffers=buffers, dtype="bool")

    def _combine_stored(
        self, node: Node, kind: Binary, value: _Value, stored: Array, *, swap: bool
    ) -> _Value:
        whole, shape = value.dtype == "int64", np.broadcast_shapes(value.shape, stored.shape)
        value, order = self._spread(value, shape)
        adds = kind is Binary.ADD and value.shape == shape
        if adds and (not stored.any() if whole else self._fuse_bias(node.inputs[swap], value, stored)):
            return value
        flat = _laid(np.asarray(stored, value.dtype), shape, order)
        flat = flat[:1] if (flat == flat[0]).all() and prod(value.shape) == flat.size else flat
        row = self._writer.binary(kind, self._row(value), flat, swap=swap)
        return _Value(shape, (row,), value.dtype, order)

    def _spread(self, value: _Value, shape: tuple[int, ...]) -> tuple[_Value, tuple[int, ...]]:
        """Return a value in a shape, or as it is if it is a single number, and the order of the result."""
        if value.shape != shape and prod(value.shape) != 1:
            value = self._broadcast(value, shape)
        return value, value.order if value.shape == shape else ()

    @staticmethod
    def _whole_numbers(value: _In) -> _Value:
        if not isinstance(value, _Value):
            raise UnsupportedError("a quantized input")
        if value.dtype != "int64":
            raise UnsupportedError(f"whole numbers beside {value.dtype}")
        return value

    @_lowers("And", "Or", "Xor", "Not", takes="any order")
    def _logic(self, node: Node, *inputs: _In) -> _Value:
        """Combine values that are 0 or 1."""
        values = [self._filled(_as_floats(each)) for each in inputs]
        if node.op_type == "Not":
            return self._negated(*values)
        found = self._combine(node, _LOGIC[node.op_type], *values)
        return self._negated(found) if node.op_type == "Xor" else found._replace(dtype="bool")

    def _negated(self, value: _Value) -> _Value:
        return self._each(value, Function.AFFINE, -1.0, 1.0)._replace(dtype="bool")

    @_lowers("Where", takes="any order")
    def _where(self, node: Node, condition: _In, *choices: _In) -> _Value:
        values = [self._filled(each) for each in (_as_floats(condition), *choices)]
        shape = np.broadcast_shapes(*[value.shape for value in values])
        rows = [self._row(self._broadcast(value, shape)) for value in values]
        return self._single(shape, self._writer.where(*rows))

    @_lowers("Expand", takes="any order")
    def _expand(self, node: Node, given: _In, shape: _In) -> _Value:
        wanted = tuple(self._known(shape, "a shape").reshape(-1).tolist())
        value = self._runtime(given)
        return self._broadcast(value, np.broadcast_shapes(value.shape, wanted))

    def _fuse_bias(self, name: str, value: _Value, bias: Array) -> bool:
        """Add a bias to a product that nothing else uses; return whether it is one."""
        if name not in self._fresh or self._uses[name] != 1 or len(value.buffers) != 1:
            return False
        columns = self._writer.linear_rows(value.buffers[0])
        if not columns or not value.is_straight:
            return False
        row = _uniform(bias, (prod(value.shape) // columns, columns))
        return row is not None and self._writer.fuse_bias(value.buffers[0], row)

    @_lowers("Softmax", "LogSoftmax")
    def _softmax(self, node: Node, given: _In) -> _Value:
        value = self._floats(given)
        axis = node.attributes.get("axis", -1 if self._opset >= 13 else 1) % len(value.shape)
        if self._opset >= 13 and prod(value.shape[axis + 1 :]) != 1:
            raise UnsupportedError(f"axis {axis} of {value.shape}, expected the last")
        length = value.shape[axis] if self._opset >= 13 else prod(value.shape[axis:])
        logarithm = node.op_type == "LogSoftmax"
        return self._single(value.shape, self._writer.softmax(self._row(value), length, logarithm=logarithm))

    @_lowers("LayerNormalization")
    def _layer_norm(self, node: Node, given: _In, scale: _In = None, bias: _In = None) -> _Value:
        value = self._floats(given)
        inner = value.shape[node.attributes.get("axis", -1) % len(value.shape) :]
        parameters = [
            None if each is None else np.broadcast_to(self._known(each, "a scale"), inner).reshape(-1)
            for each in (scale, bias)
        ]
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        row = self._writer.normalize(self._row(value), prod(inner), epsilon, *parameters)
        return self._single(value.shape, row)

    @_lowers("BatchNormalization", takes="any order")
    def _batch_norm(self, node: Node, given: _In, *parameters: _In) -> _Value:
        value = self._floats(given)
        if node.attributes.get("training_mode", 0):
            raise UnsupportedError("training mode")
        scale, bias, mean, variance = (
            self._known(each, "a parameter").astype("float64") for each in parameters
        )
        factor = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
        row, shape = self._row(value), (-1, *[1] * (len(value.shape) - 2))
        for kind, each in ((Binary.MULTIPLY, factor), (Binary.ADD, bias - mean * factor)):
            row = self._writer.binary(kind, row, _laid(each.reshape(shape), value.shape, value.order))
        return value._replace(buffers=(row,))

    @_lowers("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
    def _reduce(self, node: Node, given: _In, axes: _In = None) -> _Value:
        value, kind = self._floats(given), node.op_type
        rank = len(value.shape)
        reduced = self._reduced_axes(node, axes, rank)
        if reduced is None:
            return value
        inner = sorted(reduced)
        outer = [axis for axis in range(rank) if axis not in reduced]
        keep = node.attributes.get("keepdims", 1)
        sizes = [1 if axis in reduced else size for axis, size in enumerate(value.shape)]
        shape = sizes if keep else [sizes[axis] for axis in outer]
        length = prod(value.shape[axis] for axis in inner)
        if kind in ("ReduceL2", "ReduceSumSquare"):
            row = self._row(value)
            value = self._single(value.shape, self._writer.binary(Binary.MULTIPLY, row, row))
        elif kind == "ReduceL1":
            value = self._each(value, Function.ABS)
        if length == 1:
            total = value._replace(shape=tuple(shape))
        else:
            if not _same_order(value.shape, (*outer, *inner), ()):
                value = self._arrange(value, self._places(value).transpose(*outer, *inner))
            factor = 1 / length if kind == "ReduceMean" else 1
            total = self._linear(value, np.full((1, length), factor, "float32"), None, shape)
        return self._each(total, Function.SQRT) if kind == "ReduceL2" else total

    def _reduced_axes(self, node: Node, given: _In, rank: int) -> set[int] | None:
        """Return the axes that a node reduces; None if it does adds."""
        axes = node.attributes.get("axes")
        if given is not None:
            axes = tuple(self._known(given, "axes").reshape(-1).tolist())
        if axes:
            return {axis % rank for axis in axes}
        return None if node.attributes.get("noop_with_empty_axes", 0) else set(range(rank))

    @_lowers("Cast", takes="any order")
    def _cast(self, node: Node, given: _In) -> "_Value | _Quantized":
        to = folding.CASTS.get(node.attributes.get("to", 0), node.attributes.get("to"))
        if isinstance(given, _Quantized) and given.role == "product" and to == "float32":
            return given
        value = self._runtime(given)
        floats = value.dtype in ("float32", "bool")
        if to in ("int64", "int32") and not floats:
            return value
        if to == "int64":
            return value._replace(buffers=(self._writer.cast(self._row(value), "int64"),), dtype="int64")
        if not floats and (to == "float32" or (to == "bool" and value.dtype == "int64")):
            value = value._replace(buffers=(self._writer.cast(self._row(value)),), dtype="float32")
            floats = True
        if to == "float32":
            return value._replace(dtype="float32")
        if to == "bool" and floats:
            zero = self._writer.binary(Binary.EQUAL, self._row(value), np.zeros(1, "float32"))
            return self._negated(value._replace(buffers=(zero,)))
        raise UnsupportedError(f"from {value.dtype} to {to}")

    # parts of values

    def _join(self, past: _Frames, source: _Value) -> _Frames:
        """Return a past with this step's frame behind it."""
        axis, count = past.axis, source.shape[past.axis]
        if source.shape != _resized(past.shape, axis, count):
            raise UnsupportedError(f"a past of {past.shape} takes in {source.shape}")
        return past._replace(shape=_resized(past.shape, axis, past.shape[axis] + count), source=source)

    @_lowers("Concat", takes="frames")
    def _concat(self, node: Node, *inputs: _In) -> "_Value | _Frames":
        if isinstance(past := inputs[0], _Frames) and past.source is None:
            _, source = inputs
            return self._join(past, self._floats(self._settled(source)))
        given = [each for each in inputs if not isinstance(each, np.ndarray) or each.size]
        values = [self._filled(self._settled(each)) for each in given]
        axis = node.attributes["axis"] % len(values[0].shape)
        total = sum(value.shape[axis] for value in values)
        order = next((value.order for value in values if not value.is_straight), ())
        if order:
            lying = [self._in_order(value, order).as_it_lies for value in values]
            shape = _resized(values[0].shape, axis, total)
            return self._concat_rows(lying, order.index(axis), total)._replace(shape=shape, order=order)
        return self._concat_rows(values, axis, total)

    def _concat_rows(self, values: Sequence[_Value], axis: int, total: int) -> _Value:
        """Join values, whose numbers lie in the order of their axes, along an axis."""
        shape = _resized(values[0].shape, axis, total)
        outer, inner = prod(shape[:axis]), prod(shape[axis + 1 :])
        if outer == 1:
            return _Value(shape, tuple(buffer for value in values for buffer in value.buffers))
        out, at = self._writer.buffer(prod(shape)), 0
        for value in values:
            length = value.shape[axis] * inner
            strides = {"source_stride": length, "out_stride": total * inner}
            self._writer.copy(self._row(value), out, out_offset=at, length=length, count=outer, **strides)
            at += length
        return self._single(shape, out)

    def _pick(self, given: _In, axis: int, picked: Sequence[int]) -> _Value:
        """Return what stands at some places of an axis."""
        value = self._runtime(given)
        shape, size = _resized(value.shape, axis, len(picked)), value.shape[axis]
        if order := value.order:
            return self._pick(value.as_it_lies, order.index(axis), picked)._replace(shape=shape, order=order)
        outer, inner = prod(value.shape[:axis]), prod(value.shape[axis + 1 :])
        if [*picked] == [*range(size)]:
            return value
        if value.dtype != "float32" or not picked:
            raise UnsupportedError(f"{len(picked)} places of {value.dtype} {value.shape}")
        if outer == 1 and all(self._writer.width(buffer) == inner for buffer in value.buffers):
            return _Value(shape, tuple(value.buffers[place] for place in picked))
        row, out, at = self._row(value), self._writer.buffer(prod(shape)), 0
        strides = {"source_stride": size * inner, "out_stride": len(picked) * inner}
        for part in np.split(np.asarray(picked), np.flatnonzero(np.diff(picked) != 1) + 1):
            places = {"source_offset": int(part[0]) * inner, "out_offset": at, "length": len(part) * inner}
            self._writer.copy(row, out, count=outer, **places, **strides)
            at += len(part) * inner
        return self._single(shape, out)

    @_lowers("Split", takes="any order")
    def _split(self, node: Node, given: _In, sizes: _In = None) -> list[_Any]:
        value = self._runtime(given)
        axis = node.attributes.get("axis", 0) % len(value.shape)
        parts = folding.parts(node, value.shape[axis], None if sizes is None else self._known(sizes, "sizes"))
        return [self._pick(value, axis, part) for part in parts]

    @_lowers("Slice", takes="frames")
    def _slice(self, node: Node, given: _In, *ends: _In) -> "_Value | _Frames":
        if isinstance(given, _Frames):
            cuts = list(folding.slices(node, given.shape, ends))
            picked = [range(given.shape[axis])[cut] for axis, cut in cuts if axis == given.axis]
            if len(cuts) == len(picked) == 1 and len(picked[0]) and picked[0].step == 1:
                shape = _resized(given.shape, given.axis, len(picked[0]))
                return given._replace(shape=shape, first=given.first + picked[0].start)
            given = self._settled(given)
        value = self._runtime(given)
        for axis, places in folding.slices(node, value.shape, ends):
            value = self._pick(value, axis, range(value.shape[axis])[places])
        return value

    @_lowers("Gather", takes="any order")
    def _gather(self, node: Node, data: _In, index: _In) -> _Value:
        axis = node.attributes.get("axis", 0)
        if isinstance(data, np.ndarray):
            if not isinstance(index, _Value) or index.dtype == "float32":
                raise UnsupportedError("an index that is no whole number")
            axis %= data.ndim
            if not set(index.buffers) <= {port.buffer for port in self._writer.ports("inputs")}:
                raise UnsupportedError("an index that is computed, which may be beyond the table")
            shape = (*data.shape[:axis], *index.shape, *data.shape[axis + 1 :])
            table = np.moveaxis(data, axis, 0).reshape(data.shape[axis], -1)
            found = self._single(shape, self._writer.gather(self._row(self._in_order(index, ())), table))
            order = _axes_first(range(axis, axis + len(index.shape)), len(shape))
            return found if _same_order(shape, order, ()) else found._replace(order=order)
        value, places = self._runtime(data), self._known(index, "places")
        axis %= len(value.shape)
        picked = (places.reshape(-1) % value.shape[axis]).tolist()
        found = self._in_order(self._pick(value, axis, picked), ())
        return found._replace(shape=(*value.shape[:axis], *places.shape, *value.shape[axis + 1 :]))

    # convolutions

    def _taps(self, node: Node, given: _In, kernel: Sequence[int]) -> tuple[_Value, Array, int | None]:
        """Return what the outputs of a kernel read.

        A value, the places in its row ``(N, C, *outputs, *kernel)``, and the axis of the kernel along frames,
        if any.
        """
        if not isinstance(given, _Frames) or given.axis < 2:
            value = self._floats(self._settled(given))
            windows = windows_of(node, value.shape[2:], kernel)
            first = next((axis for axis in value.order if value.shape[axis] > 1), 0)
            return value, windows.places(self._places(value)), first - 2 if first >= 2 else None
        time, windows = given.axis - 2, windows_of(node, given.shape[2:], kernel)
        if windows.pads[time] != (0, 0):
            raise UnsupportedError("padding of a past")
        dilation, count = windows.dilations[time], given.shape[given.axis]
        if (kernel[time] - 1) * dilation + 1 == count:  # one frame of the output: only its taps are read
            count = kernel[time]
            windows = windows._replace(dilations=_resized(windows.dilations, time, 1))
        else:
            dilation = 1
        value = self._window(given, dilation, count)
        places = np.moveaxis(np.arange(prod(value.shape)).reshape(value.shape), 0, given.axis)
        return value, windows.places(places), time

    @_lowers("Conv", takes="frames")
    def _conv(self, node: Node, given: _In, matrix: _In, added: _In = None) -> _Value:
        weights = self._known(matrix, "weights").astype("float32")
        bias = self._optional(added, "a bias")
        rank, groups = weights.ndim - 2, node.attributes.get("group", 1)
        value, places, time = self._taps(node, given, weights.shape[2:])
        rows, channels, outputs = places.shape[0], places.shape[1], places.shape[2 : 2 + rank]
        each, made = channels // groups, weights.shape[0] // groups
        if weights.shape[1] != each or channels != each * groups or weights.shape[0] != made * groups:
            raise ValueError(f"weights {weights.shape} for {channels} channels in {groups} groups")
        shape = (rows, weights.shape[0], *outputs)
        if each == 1 and groups > 1:
            return self._depthwise(value, places, weights, bias, time)
        # what an output reads in the order in which it lies: the taps along time, channels, the other taps
        taps = [2 + rank + axis for axis in range(rank) if axis != time]
        first = [] if time is None else [2 + rank + time]
        laid = places.transpose(0, *range(2, 2 + rank), *first, 1, *taps)
        at = 1 + rank + len(first)
        laid = laid.reshape(*laid.shape[:at], groups, each, *laid.shape[at + 1 :])
        flat = weights.transpose(0, *(axis - rank for axis in first), 1, *(axis - rank for axis in taps))
        buffers = []
        for group in range(groups):
            own = slice(group * made, (group + 1) * made)
            read = self._arrange(value, laid.take(group, axis=at))
            start = None if bias is None else bias[own]
            buffers.append(self._writer.linear(self._row(read), flat[own].reshape(made, -1), start))
        result = _Value((groups, rows, prod(outputs), made), tuple(buffers))
        if rows * prod(outputs) == 1:
            return result._replace(shape=shape)
        if not groups == rows == 1:
            result = self._arrange(result, self._places(result).transpose(1, 2, 0, 3))
        return result._replace(shape=shape, order=(0, *range(2, 2 + rank), 1))

    def _depthwise(
        self, value: _Value, places: Array, weights: Array, bias: Array | None, time: int | None
    ) -> _Value:
        """Return a convolution in which each output reads one channel."""
        rank, channels = weights.ndim - 2, places.shape[1]
        taps, shape = prod(weights.shape[2:]), places.shape[: 2 + rank]
        order = () if time is None else _time_first(2 + time, 2 + rank)
        lying = tuple(shape[axis] for axis in order or range(2 + rank))
        read = self._arrange(value, _taps_first(places, rank, order))
        full = weights.reshape(channels, -1, taps).transpose(1, 2, 0)  # (multiplier, K, C)
        starts = None if bias is None else bias.reshape(channels, -1).T
        channel = tuple(channels if axis == 1 else 1 for axis in order or range(2 + rank))

        def spread(each: Array) -> Array:  # (..., C) to every output
            wide = each.reshape(*each.shape[:-1], *channel)
            return np.broadcast_to(wide, (*each.shape[:-1], *lying)).reshape(*each.shape[:-1], -1)

        buffers = []
        for place, each in enumerate(full):
            start = None if starts is None else spread(starts[place])
            buffers.append(self._writer.depthwise(self._row(read), prod(shape), spread(each), start))
        result = _Value((len(full), *shape), tuple(buffers))
        if len(full) == 1:
            return result._replace(shape=shape, order=order)
        moved = tuple(axis + 1 for axis in order or range(2 + rank))
        own = self._places(result._replace(order=(0, *moved)))  # (multiplier, N, C, *outputs)
        joined = (shape[0], channels * len(full), *shape[2:])
        return self._arrange(result, own.transpose(1, 2, 0, *range(3, 3 + rank)))._replace(shape=joined)

    @_lowers("MaxPool", "AveragePool", takes="frames")
    def _pool(self, node: Node, given: _In) -> _Value:
        kernel, largest = node.attributes["kernel_shape"], node.op_type == "MaxPool"
        if len(node.outputs) > 1 and self._uses[node.outputs[1]]:
            raise UnsupportedError("places of maxima")
        value, places, time = self._taps(node, given, kernel)
        rank = len(kernel)
        order = () if time is None else _time_first(2 + time, 2 + rank)
        laid = _taps_first(places, rank, order)
        shape, taps = places.shape[: 2 + rank], prod(kernel)
        read = self._arrange(value, laid, -np.inf if largest else 0.0)
        weights = None
        if not largest:
            all_of_them = node.attributes.get("count_include_pad", 0)
            counted = (np.ones(laid.shape) if all_of_them else laid != PADDING).reshape(taps, -1)
            weights = (counted / counted.sum(0)).astype("float32")
        made = self._single(shape, self._writer.depthwise(self._row(read), prod(shape), weights))
        return made._replace(order=order)

    @_lowers("ConvTranspose", takes="any order")
    def _conv_transpose(self, node: Node, given: _In, matrix: _In, bias: _In = None) -> _Value:
        """Multiply each frame with the taps' weights and add up what falls on one place."""
        value, weights = self._floats(given), self._known(matrix, "weights").astype("float32")
        rank, groups, kernel = weights.ndim - 2, node.attributes.get("group", 1), weights.shape[2:]
        windows = declared(node, kernel)
        more = node.attributes.get("output_padding", (0,) * rank)
        if node.attributes.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
            raise UnsupportedError("auto_pad or output_shape")
        if bias is not None:
            raise UnsupportedError("a bias")
        sizes = value.shape[2:]
        outputs = tuple(
            (size - 1) * stride + reach + extra - sum(pad)
            for size, stride, reach, extra, pad in zip(
                sizes, windows.strides, windows.reach, more, windows.pads, strict=True
            )
        )
        each, made = weights.shape[0] // groups, weights.shape[1]
        # products of each place with each tap: (groups, *sizes, *kernel, made)
        own = self._places(value).reshape(groups, each, *sizes)
        buffers = []
        for group in range(groups):
            read = self._arrange(value, np.moveaxis(own[group], 0, -1))
            part = weights[group * each : (group + 1) * each]  # (C, M, *kernel)
            flat = np.moveaxis(part, 0, -1).transpose(*range(1, 1 + rank), 0, 1 + rank).reshape(-1, each)
            buffers.append(self._writer.linear(self._row(read), flat))
        products = _Value((groups, *sizes, *kernel, made), tuple(buffers))
        # the products that fall on each place of the output: (one after another, *outputs, groups, made)
        reached = windows.places(np.arange(prod(outputs)).reshape(1, 1, *outputs))[0, 0]
        to = reached[tuple(map(slice, sizes))].reshape(-1)
        order = np.argsort(to, kind="stable")[(to == PADDING).sum() :]
        number = np.arange(len(order)) - np.searchsorted(to[order], to[order])
        most = int(number.max()) + 1
        laid = np.full((most, prod(outputs), groups, made), PADDING)
        laid[number, to[order]] = self._places(products).reshape(groups, -1, made).swapaxes(0, 1)[order]
        shape = (1, groups * made, *outputs)
        row = self._row(self._arrange(products, laid))
        if most > 1:
            row = self._writer.depthwise(row, prod(shape), np.ones((most, prod(shape)), "float32"))
        return _Value(shape, (row,), order=(0, *range(2, 2 + rank), 1))

    @_lowers("Resize", takes="any order")
    def _resize(self, node: Node, given: _In, roi: _In = None, scales: _In = None, *_: _In) -> _Value:
        """Repeat frames: nearest neighbors, upsampled by whole numbers."""
        expected = {
            "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
        }  # fmt: skip
        said = {name: _text(node.attributes.get(name, "")) for name in expected}
        if said != expected or scales is None:
            raise UnsupportedError(f"{said}, expected {expected} and scales")
        value = self._floats(given)
        for axis, scale in enumerate(self._known(scales, "scales").tolist()):
            if scale != int(scale) or scale < 1:
                raise UnsupportedError(f"a scale of {scale}")
            if scale > 1:
                value = self._pick(value, axis, np.repeat(np.arange(value.shape[axis]), int(scale)).tolist())
        return value

    @_lowers("STFT", takes="any order")
    def _stft(self, node: Node, given: _In, hop: _In, taper: _In = None, length: _In = None) -> _Value:
        """Multiply each frame of the signal ``(N, samples, 1)`` with the window and the Fourier matrix."""
        value, step = self._floats(given), int(self._known(hop, "a step").item())
        window: Array | float = 1.0
        if taper is not None:
            window = self._known(taper, "a window").astype("float64").reshape(-1)
            size = len(window)
        elif length is None:
            raise UnsupportedError("no length of frames")
        else:
            size = int(self._known(length, "a length").item())
        samples = prod(value.shape)
        if value.shape[0] != 1 or value.shape[-1] != 1 or samples < size or step < 1:
            raise UnsupportedError(f"frames of {size} in {value.shape}")
        starts = np.arange(0, samples - size + 1, step)
        bins = size // 2 + 1 if node.attributes.get("onesided", 1) else size
        angles = -2 * np.pi * np.outer(np.arange(bins), np.arange(size)) / size
        matrix = np.stack([np.cos(angles), np.sin(angles)], 1).reshape(-1, size) * window
        read = self._arrange(value, starts[:, None] + np.arange(size))
        return self._linear(read, matrix.astype("float32"), None, (1, len(starts), bins, 2))

    @_lowers("Pad")
    def _pad(self, node: Node, given: _In, pads: _In = None, fill: _In = None, axes: _In = None) -> _Value:
        value = self._floats(given)
        if (mode := node.attributes.get("mode", "constant")) != "constant":
            raise UnsupportedError(f"mode {mode}")
        around = self._known(pads, "pads").reshape(-1).tolist()
        number = 0.0 if fill is None else float(self._known(fill, "a value").item())
        widths = [(0, 0)] * len(value.shape)
        own = range(len(widths)) if axes is None else self._known(axes, "axes").reshape(-1).tolist()
        for place, axis in enumerate(own):
            widths[axis % len(widths)] = (around[place], around[place + len(around) // 2])
        if min(min(each) for each in widths) < 0 or any(
            size == 1 and any(each) for size, each in zip(value.shape, widths, strict=True)
        ):
            raise UnsupportedError(f"pads of {widths} around {value.shape}")
        places = np.arange(prod(value.shape)).reshape(value.shape)
        return self._arrange(value, np.pad(places, widths, constant_values=PADDING), number)

    @_lowers("CumSum", takes="any order")
    def _cumulative_sum(self, node: Node, given: _In, along: _In) -> _Value:
        value = self._floats(given)
        axis = self._known(along, "an axis").item() % len(value.shape)
        frames = value.shape[axis]
        if (frames != 1 and not self._manifest.is_buffered) or node.attributes.get("reverse", 0):
            raise UnsupportedError(f"axis {axis} of {value.shape}, expected that of time")
        one = _resized(value.shape, axis, 1)
        sums = [self._writer.filled(np.zeros(one, "float32"))] if node.attributes.get("exclusive", 0) else []
        for frame in range(frames - len(sums)):
            row = self._row(self._in_order(self._pick(value, axis, [frame]), ()))
            sums.append(row if not sums or frame == 0 else self._writer.binary(Binary.ADD, sums[-1], row))
        return _Value(value.shape, tuple(sums), order=_time_first(axis, len(value.shape)))

    # recurrent layers

    @_lowers(*_GATES)
    def _recurrent(self, node: Node, x: _In, w: _In, r: _In, *rest: _In) -> list[_Any]:
        weights = [self._known(each, "weights") for each in (w, r)]
        scales: list[Array | None] = [None, None]
        for place, each in enumerate(weights if self._manifest.int8_activations else ()):
            if (found := in_int8(each[0])) is not None and node.op_type != "LSTM":
                weights[place], scales[place] = found[0][None], found[1]
        return self._layer(node, node.op_type, x, weights, scales, *rest)

    @_lowers("DynamicQuantizeLSTM", domain=_MICROSOFT)
    def _int8_lstm(self, node: Node, x: _In, w: _In, r: _In, *rest: _In) -> list[_Any]:
        *others, w_scale, w_zero, r_scale, r_zero = rest
        weights, scales = [], []
        for given, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
            raw = self._known(given, "weights")
            weights.append(_shift(raw, self._known(zero, "a zero point")).transpose(0, 2, 1))
            scales.append(_vector(self._known(scale, "a scale"), raw.shape[2]))
        return self._layer(node, "LSTM", x, weights, scales, *others)

    def _layer(
        self,
        node: Node,
        kind: str,
        x: _In,
        weights: list[Array],
        scales: Sequence[Array | None],
        bias: _In = None,
        lengths: _In = None,
        h: _In = None,
        c: _In = None,
        peepholes: _In = None,
    ) -> list[_Any]:
        attributes, hidden = node.attributes, weights[1].shape[2]
        _check_layer(attributes, weights[0].shape[0])
        self._optional(lengths, "lengths")
        states = [self._floats(each) for each in ((h, c) if kind == "LSTM" else (h,))]
        olds = [self._row(value) for value in states]
        if (both := self._optional(bias, "a bias")) is not None:
            both = both.reshape(2, _GATES[kind] * hidden)
            both = both.reshape(-1) if kind == "GRU" else both[0] + both[1]
        checks = self._optional(peepholes, "peepholes")
        before = kind == "GRU" and attributes.get("linear_before_reset", 0)
        forget = kind == "LSTM" and attributes.get("input_forget", 0)
        frames = self._floats(x)
        rows = [self._row(self._pick(frames, 0, [place])) for place in range(frames.shape[0])]
        news = self._writer.recurrent(
            Code[kind],
            rows[0],
            olds,
            [each[0] for each in weights],
            both,
            peepholes=checks,
            scales=scales,
            clip=float(attributes.get("clip", 0.0)),
            flags=2 if before else 1 if forget else 0,
            functions=_activations(kind, attributes),
        )
        first, every = self._writer.latest, [news[0]]
        for row in rows[1:]:
            news = self._writer.recurrent_again(first, row, news)
            every.append(news[0])
        last = [self._single((1, 1, hidden), new) for new in news]
        return [_Value((len(rows), 1, 1, hidden), tuple(every)), *last]

    # int8 products

    @_lowers("DynamicQuantizeLinear")
    def _quantize(self, node: Node, given: _In) -> list[_Any]:
        source = self._floats(given)
        return [_Quantized(source, role, shape=source.shape) for role in ("quantized", "scale", "zero")]

    @_lowers("MatMulInteger")
    def _integer_product(
        self, node: Node, source: _In, matrix: _In, _: _In = None, zero: _In = None
    ) -> _Quantized:
        raw = _matrix(self._known(matrix, "weights"))
        if not isinstance(source, _Quantized) or source.role != "quantized":
            raise UnsupportedError("an input that DynamicQuantizeLinear did not make")
        weights = self._shifted(raw, zero)
        return _Quantized(source.source, "product", weights.T, shape=(*source.shape[:-1], raw.shape[1]))

    def _shifted(self, raw: Array, zero: _In) -> Array:
        return _shift(raw, np.zeros(1, raw.dtype) if zero is None else self._known(zero, "a zero point"))

    def _scale_product(self, *inputs: _In) -> "_Value | _Quantized":
        """Multiply the scale of an input with that of weights, or an integer product with both."""
        by_role = {each.role if isinstance(each, _Quantized) else "": each for each in inputs}
        scale, product, stored = (by_role.get(role) for role in ("scale", "product", ""))
        if isinstance(scale, _Quantized) and isinstance(stored, np.ndarray):
            return scale._replace(role="product_scale", scales=stored.reshape(-1))
        scale = by_role.get("product_scale")
        if isinstance(product, _Quantized) and isinstance(scale, _Quantized):
            assert product.weights is not None
            assert scale.scales is not None
            if product.source == scale.source:
                scales = _vector(scale.scales, len(product.weights))
                return self._linear(product.source, product.weights, None, product.shape, scales)
        raise UnsupportedError("a quantized input")

    @_lowers("DynamicQuantizeMatMul", domain=_MICROSOFT)
    def _quantized_matmul(
        self, node: Node, given: _In, matrix: _In, scale: _In, zero: _In = None, added: _In = None
    ) -> _Value:
        source, raw = self._floats(given), _matrix(self._known(matrix, "weights"))
        weights, bias = self._shifted(raw, zero).T, self._optional(added, "a bias")
        scales = _vector(self._known(scale, "a scale"), raw.shape[1])
        return self._linear(source, weights, bias, (*source.shape[:-1], raw.shape[1]), scales)


def _find_pasts(file: OnnxFile, manifest: Manifest) -> dict[str, int]:
    """Return the states that are adds but the last frames of a value, with their axis of frames.

    Such a state is read by one Concat, which puts this step's frame behind it, and a Slice of the result
    without the oldest frame is its new value.
    """
    nodes = file.graph.nodes
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    made = {name: node for node in nodes for name in node.outputs}
    found = {}
    for state in manifest.states:
        reading, slicing = readers.get(state.input, []), made.get(state.output)
        if len(reading) != 1 or slicing is None or state.input in manifest.output_names:
            continue
        several = manifest.is_buffered
        axis = _axis_of_frames(state, reading[0], slicing, file.graph.initializers, several=several)
        if axis is not None:
            found[state.input] = axis
    return found


def _axis_of_frames(
    state: StateSpec, joining: Node, slicing: Node, stored: Mapping[str, Tensor], *, several: bool
) -> int | None:
    """Return the axis along which one node puts frames behind a state and the other drops the oldest.

    It is one frame, or with ``several`` any number of them.
    """
    if joining.op_type != "Concat" or len(joining.inputs) != 2 or joining.inputs[0] != state.input:
        return None
    if slicing.op_type != "Slice" or slicing.inputs[0] != joining.outputs[0]:
        return None
    shape = tuple(axis if isinstance(axis, int) else 1 for axis in state.axes)
    axis: int = joining.attributes["axis"] % max(1, len(shape))
    known = all(name in stored for name in slicing.inputs[1:] if name)
    if state.dtype != "float32" or not isinstance(state.axes[axis], int) or not known:
        return None
    given = [stored[name].array() if name else None for name in slicing.inputs[1:]]
    for new in (1, 2) if several else (1,):
        joined = (*shape[:axis], shape[axis] + new, *shape[axis + 1 :])
        cuts = [(at, range(joined[at])[cut]) for at, cut in folding.slices(slicing, joined, given)]
        if cuts != [(axis, range(new, joined[axis]))]:
            return None
    return axis


def _taps_first(places: Array, rank: int, order: Sequence[int] = ()) -> Array:
    """Return places ``(N, C, *outputs, *kernel)`` as ``(*kernel, N, C, *outputs)``; outputs in an order."""
    moved: Array = places.transpose(*range(2 + rank, 2 + 2 * rank), *(order or range(2 + rank)))
    return moved


def _laid(array: Array, shape: Sequence[int], order: Sequence[int]) -> Array:
    """Return the numbers of an array in a shape that it broadcasts to, in an order of its axes."""
    flat: Array = np.broadcast_to(array, shape).transpose(order or range(len(shape))).reshape(-1)
    return flat


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _matrix(weights: Array) -> Array:
    """Return stored weights as ``(K, M)``."""
    if weights.ndim < 2 or prod(weights.shape[:-2]) != 1:
        raise UnsupportedError(f"weights {weights.shape}, expected a matrix")
    return weights.reshape(weights.shape[-2:])


def _check_layer(attributes: Mapping[str, Any], directions: int) -> None:
    if attributes.get("direction", "forward") != "forward" or directions != 1:
        raise UnsupportedError(f"direction {attributes.get('direction')!r}")
    if attributes.get("layout", 0) != 0:
        raise UnsupportedError("layout 1")


def _check_axes(manifest: Manifest) -> None:
    """Raise if an axis is neither fixed nor the batch or time axis, or a state has several rows."""
    times = (manifest.sequence, *manifest.time_sizes(manifest.unit))
    for name, axes in manifest.axes.items():
        for axis in axes:
            if isinstance(axis, str) and axis not in times and row_factor(axis, manifest.batch) is None:
                raise UnsupportedError(f"{name} {axes} has a dynamic axis other than batch and time")
    for state in manifest.states:
        if any(row_factor(axis, manifest.batch) for axis in state.axes):
            raise UnsupportedError(f"state {state.input} {state.axes} has several rows for each source")


def _uniform(array: Array, shape: tuple[int, int]) -> Array | None:
    """Return the one row of an array that broadcasts to ``shape``, or None where its rows differ."""
    try:
        full = np.broadcast_to(np.asarray(array, "float32").reshape(array.shape[-2:]), shape)
    except ValueError:
        return None
    return full[0] if (full == full[0]).all() else None


def _shift(raw: Array, zero: Array) -> Array:
    """Return quantized weights ``(..., K, M)`` without their zero points, as int8."""
    shifted = raw.astype("int16") - zero.astype("int16").reshape(-1)
    if shifted.min() < -128 or shifted.max() > 127:
        raise UnsupportedError("weights that do not fit into int8 without their zero points")
    narrow: Array = shifted.astype("int8")
    return narrow


def _vector(scales: Array, size: int) -> Array:
    return np.broadcast_to(np.asarray(scales, "float32").reshape(-1), size)


def _activations(kind: str, attributes: Mapping[str, Any]) -> list[tuple[Function, float, float]]:
    names = attributes.get("activations") or _USUAL[kind]
    given = [list(attributes.get(f"activation_{which}", ())) for which in ("alpha", "beta")]
    if len(names) != len(_USUAL[kind]):
        raise UnsupportedError(f"{len(names)} activations, expected {len(_USUAL[kind])}")
    found = []
    for name in names:
        function, defaults = _ACTIVATIONS.get(str(name).lower(), (None, ()))
        if function is None:
            raise UnsupportedError(f"activation {name!r}")
        numbers = [own.pop(0) if own else usual for own, usual in zip(given, defaults, strict=False)]
        if None in numbers:
            raise UnsupportedError(f"activation {name!r} without its parameters")
        alpha, beta, *_ = (*numbers, 0.0, 0.0)
        found.append((function, float(alpha or 0), float(beta or 0)))
    return found
