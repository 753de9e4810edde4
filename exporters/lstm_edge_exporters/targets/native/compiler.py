"""Compile an ONNX graph to a native program, which computes one step, or one unit, of
one source.

The graph is followed node by node with every batch axis at size 1 and the time axis at
one unit. Every shape is known then, and what depends on stored tensors and shapes alone
is an array.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
from onnxscript.rewriter import pattern

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array, Axes, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native import OUTPUT_TYPES, TYPES, Past
from lstm_edge_runtime.state import STATE_TYPES

from ...graph import KEEPING, infer_shapes
from . import convolutions, reductions  # noqa: F401  they register their operators
from .evaluate import attribute, evaluate
from .loops import inline_loops
from .memory import INT8, Memory, Value
from .operators import LOWER, MICROSOFT, MOVES, In, to_int64
from .products import rewrite_products
from .program import Binary, Function, ProgramWriter
from .whole import fits_float32

_TAKES_SIZES = ("ConstantOfShape", "Range", "Shape", "Size")
"""Operators that take sizes: their results do not count as computed from them."""


_IN_RANGE = KEEPING | {
    *("ArgMax", "ArgMin", "Cast", "Concat", "Max", "Min", "Mod", "ReduceMax"),
    *("ReduceMin", "ScatterElements", "ScatterND", "Sign", "Where"),
}
"""Operators whose whole results are within the range of their type."""
_MISFITS = (ArithmeticError, LookupError, TypeError, ValueError)
"""Exceptions of evaluation and lowering for sizes that do not fit."""


class ProgramState(NamedTuple):
    """A state of the program: a layer of one of the file's states."""

    state: StateSpec
    """The file's state."""
    layer: int | None
    """Its index along the state's first axis; None for the state itself."""
    past: Past | None = None
    """The ring of past frames; None for a row of numbers."""

    @property
    def name(self) -> str:
        """The name in the program."""
        if self.layer is None:
            return self.state.input
        return f"{self.state.input}[{self.layer}]"


class Compiled(NamedTuple):
    """A program, and how its states belong to the file's. Inputs and outputs are in the
    manifest's order.
    """

    writer: ProgramWriter
    """The program."""
    states: tuple[ProgramState, ...]
    """States of the program, in its order."""
    followed: "Followed"
    """The graph, and where its values are."""


class Followed(NamedTuple):
    """The graph that a program computes, and where its values are."""

    model: ir.Model
    """The graph, whose loops are plain nodes."""
    values: dict[str, Value]
    """The results of nodes by name, but for products that an addition joined."""
    memory: Memory
    """The buffers of the program, by addresses."""


def compile_program(model: ir.Model, manifest: Manifest) -> Compiled:
    """Return the program of a file that can be streamed.

    Raises:
        UnsupportedError: a node, an input or a state is not covered; the message says
            which and why.
    """
    model = model.clone()
    inline_loops(model, manifest)
    _INT8_PRODUCTS.apply_to_model(model)
    infer_shapes(model)  # which sizes depend on rows and steps
    rewrite_products(model)
    infer_shapes(model)
    return _Compiler(model, manifest).compile()


def _int8_product(op: Any, x: Any, weights: Any, zero: Any, scale: Any) -> Any:
    """Describe an int8 product as onnxruntime's quantizer writes it."""
    quantized, input_scale, point = op.DynamicQuantizeLinear(x, _outputs=3)
    return op.Mul(
        op.Cast(op.MatMulInteger(quantized, weights, point, zero)),
        op.Mul(input_scale, scale),
    )


def _one_node(op: Any, x: Any, weights: Any, zero: Any, scale: Any) -> Any:
    """Describe an int8 product that is one node."""
    return op.DynamicQuantizeMatMul(x, weights, scale, zero, _domain=MICROSOFT)


_INT8_PRODUCTS = pattern.RewriteRuleSet(
    [pattern.RewriteRule(_int8_product, _one_node, remove_nodes=False)], commute=True
)


class _Compiler:
    def __init__(self, model: ir.Model, manifest: Manifest) -> None:
        """Start with an empty program."""
        self._model = model
        self._graph = model.graph
        self._manifest = manifest
        self._writer = ProgramWriter(manifest.unit, _reset_every(manifest))
        self._memory = Memory(self._writer, int8=manifest.arithmetic in INT8)
        self._results = {_name(value): value for value in model.graph.outputs}
        self._values: dict[str, Any] = {}
        self._sized: dict[str, Array] = {}
        """Mask per array, by name: numbers that follow from the number of rows or
        steps."""
        self._uses = Counter(
            str(value.name) for node in model.graph for value in node.inputs if value
        )
        self._uses.update(manifest.output_names)
        self._states: list[tuple[ProgramState, int]] = []
        self._pasts: dict[str, tuple[int, Past, int]] = {}
        """Buffer, ring and frame axis of each state that is a ring."""

    def compile(self) -> Compiled:
        """Return the program of the graph."""
        manifest = self._manifest
        for spec in manifest.inputs:
            self._values[spec.name] = self._open_input(spec)
        for state in manifest.states:
            self._open_state(state)
        for node in self._graph:
            self._node(node)
        for output in manifest.outputs:
            self._close_output(output)
        # rings last: nothing reads them after their PUSH
        for state in sorted(manifest.states, key=lambda x: x.input in self._pasts):
            self._close_state(state)
        states = tuple(state for state, _ in self._states)
        return Compiled(self._writer, states, self._followed())

    def _followed(self) -> Followed:
        """Return the graph with the values that the program computes as well."""
        other = {_name(value) for node in self._memory.fused for value in node.inputs}
        other.update(str(value.name) for value in self._graph.inputs)
        values = {
            name: value
            for name, value in self._values.items()
            if name and isinstance(value, Value) and name not in other
        }
        return Followed(self._model, values, self._memory)

    def _open_input(self, spec: TensorSpec) -> Value | Array:
        """Add an input of the program; lengths are a constant."""
        shape = self._shape_of(spec.name, spec.axes)
        time = self._manifest.time_axis(spec.axes)
        if spec.name == self._manifest.lengths:
            return np.ones(shape, spec.dtype)
        if time is None and self._manifest.unit > 1:
            raise UnsupportedError(
                f"input {spec.name} has no time axis, in a file with a unit"
            )
        if spec.dtype not in TYPES:
            raise UnsupportedError(f"input {spec.name} is {spec.dtype}")
        buffer = self._writer.input(spec.name, prod(shape), spec.dtype)
        addresses = self._memory.at(buffer)
        dtype = "float32" if spec.dtype == "float32" else "int64"
        if not shape:
            return Value(addresses.reshape(shape), dtype)
        first = 0 if time is None else time
        in_memory = (shape[first], *shape[:first], *shape[first + 1 :])
        return Value(np.moveaxis(addresses.reshape(in_memory), 0, first), dtype)

    def _open_state(self, state: StateSpec) -> None:
        """Add a state of the file, or each of its layers, as a state of the program."""
        shape = self._shape_of(state.input, state.axes)
        reset = np.broadcast_to(np.asarray(state.reset, state.dtype), shape)
        axis = self._axis_of_frames(state, shape)
        if axis is not None:
            ring = Past(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
            buffer = self._writer.past(state.input, ring, reset)
            self._states.append((ProgramState(state, None, ring), buffer))
            self._pasts[state.input] = buffer, ring, axis
            return
        if re.search(r"\[[0-9]+\]$", state.input):
            raise UnsupportedError(
                f"state {state.input} has a name as programs give to layers; rename it"
            )
        if state.dtype not in STATE_TYPES:
            raise UnsupportedError(
                f"state {state.input} is {state.dtype}, expected one of"
                f" {', '.join(STATE_TYPES)}: convert it where the module makes it"
            )
        dtype = STATE_TYPES[state.dtype]
        has_layers = len(shape) > 1 and state.axes[0] != self._manifest.batch
        layers = shape[0] if has_layers else 1
        addresses = []
        for layer, values in enumerate(reset.reshape(layers, -1)):
            program_state = ProgramState(state, layer if layers > 1 else None)
            buffer = self._writer.state(program_state.name, values.size, values, dtype)
            self._states.append((program_state, buffer))
            addresses.append(self._memory.at(buffer))
        joined = np.concatenate(addresses).reshape(shape)
        self._values[state.input] = Value(joined, state.dtype)

    def _axis_of_frames(self, state: StateSpec, shape: Sequence[int]) -> int | None:
        """Return the axis of the frames of a state that is the last frames of a value;
        None for any other.

        One Concat appends new frames to it, and a Slice of the result is its new value.
        """
        values = {value.name: value for value in self._graph.inputs}
        value = values[state.input]
        joining = next((node for node, _ in value.uses()), None)
        slicing = self._results[state.output].producer()
        is_read_once = state.dtype == "float32" and self._uses[state.input] == 1
        if not is_read_once or joining is None or slicing is None:
            return None
        appends = joining.op_type == "Concat" and len(joining.inputs) == 2
        if not appends or slicing.op_type != "Slice":
            return None
        axis = int(attribute(joining, "axis")) % len(shape)
        in_front = joining.inputs[0] is value
        reads = in_front and slicing.inputs[0] is joining.outputs[0]
        return axis if reads and isinstance(state.axes[axis], int) else None

    def _close_output(self, output: TensorSpec) -> None:
        """Add an output of the program."""
        manifest = self._manifest
        value = self._get(output.name)
        if not isinstance(value, Value):
            raise UnsupportedError(
                f"output {output.name} is computed of lengths or constants alone"
            )
        if output.dtype not in OUTPUT_TYPES:
            raise UnsupportedError(
                f"output {output.name} is {output.dtype}, expected one of"
                f" {', '.join(OUTPUT_TYPES)}; return .float() of it"
            )
        if value.dtype not in ("float32", "bool"):
            elements = {name: value.size for name, value in self._values.items()}
            if not fits_float32(self._results[output.name], elements):
                raise UnsupportedError(
                    f"output {output.name} is {output.dtype} and may be above 2**24;"
                    " outputs of programs are float32: return .float() of it"
                )
            value = self._memory.map(value, self._writer.cast, "float32")
        time = manifest.time_axis(output.axes)
        if time is not None:
            value = value._replace(addresses=np.moveaxis(value.addresses, time, 0))
        self._writer.output(
            output.name,
            self._memory.row(value),
            every_step=time is not None,
            delay=manifest.delays.get(output.name, 0),
            frames=manifest.frames_per_unit.get(output.name, 1),
        )

    def _close_state(self, state: StateSpec) -> None:
        """Set the new value of a state of the file."""
        value = self._get(state.output)
        writer = self._writer
        if not isinstance(value, Value) or value.dtype != state.dtype:
            raise UnsupportedError(f"state {state.output} does not depend on the input")
        if state.input in self._pasts:
            self._memory.push(value, *self._pasts[state.input][:2])
            return
        olds = [
            buffer
            for program_state, buffer in self._states
            if program_state.state is state
        ]
        readable = writer.readable
        for old, addresses in zip(
            olds, value.addresses.reshape(len(olds), -1), strict=True
        ):
            new = self._memory.row(Value(addresses, value.dtype))
            if new in readable and value.dtype == "int64":
                new = writer.binary(Binary.ADD, new, np.zeros(1, np.int64))
            elif new in readable:
                new = writer.unary(new, Function.IDENTITY)
            writer.next_state(old, new)

    def _shape_of(self, name: str, axes: Axes) -> tuple[int, ...]:
        """Return the shape of one row at one step, or in one unit."""
        manifest = self._manifest
        unit = self._manifest.unit
        sizes = manifest.axis_sizes(rows=1, steps=unit) | manifest.time_sizes(unit)
        names = [axis for axis in axes if isinstance(axis, str)]
        unknown = [axis for axis in names if axis not in sizes]
        if unknown:
            raise UnsupportedError(
                f"{name} {axes} has an axis {unknown[0]}, expected batch and time"
            )
        return tuple(axis if isinstance(axis, int) else sizes[axis] for axis in axes)

    def _get(self, name: str) -> Any:
        """Return the value of a name; an initializer is read on first use."""
        if name not in self._values:
            stored = self._graph.initializers.get(name)
            tensor = None if stored is None else stored.const_value
            if tensor is None:
                raise UnsupportedError(f"{name!r} is computed by no node before it")
            self._values[name] = tensor.numpy()
        return self._values[name]

    # nodes

    def _node(self, node: ir.Node) -> None:
        """Lower a node and keep its results; errors name the node."""
        name = f"{node.name!r} " if node.name else ""
        about = f"node {name}({node.op_type})"
        try:
            results = self._lower(node)
        except UnsupportedError as error:
            raise UnsupportedError(f"{about}: {error}") from error
        except _MISFITS as error:
            raise UnsupportedError(f"{about} does not fit its inputs") from error
        for value, result in zip(node.outputs, results, strict=False):
            if isinstance(result, Value) and result.dtype == "int64":
                result = self._in_range(node, result, value.dtype)
            self._values[str(value.name)] = result
        for value in node.outputs[len(results) :]:
            if self._uses[str(value.name)]:
                raise UnsupportedError(f"{about}: an output that is not covered")

    def _in_range(
        self, node: ir.Node, value: Value, dtype: ir.DataType | None
    ) -> Value:
        """Return whole numbers as their type has them: int32 wraps.

        Raises:
            UnsupportedError: a narrower type is computed with.
        """
        if node.op_type in _IN_RANGE or dtype == ir.DataType.INT64:
            return value
        if dtype == ir.DataType.INT32:
            return to_int64(self._memory, value, is_narrow=True)
        name = "an unknown type" if dtype is None else dtype.name
        raise UnsupportedError(
            f"node {node.op_type} computes with {name}, expected INT64 or INT32"
        )

    def _lower(self, node: ir.Node) -> Sequence[Any]:
        """Return the results of a node: values and arrays."""
        if _has_body(node):
            raise UnsupportedError("it has a subgraph")
        if node.op_type == "Concat" and _name(node.inputs[0]) in self._pasts:
            return self._append_frames(node)
        inputs: list[In] = [
            None if value is None else self._get(_name(value)) for value in node.inputs
        ]
        if node.domain in ("", "ai.onnx"):
            return self._lower_standard(node, inputs)
        return self._lower_by_table(node, node.domain, inputs)

    def _lower_standard(self, node: ir.Node, inputs: Sequence[In]) -> Sequence[Any]:
        """Return the results of an operator of ONNX itself."""
        first = inputs[0] if inputs else None
        if isinstance(first, Value) and node.op_type in ("Shape", "Size"):
            return self._size(node, first)
        if not any(isinstance(operand, Value) for operand in inputs):
            return self._fold(node, inputs)
        if isinstance(first, Value) and node.op_type in MOVES:
            return self._move(node, first, inputs[1:])
        return self._lower_by_table(node, "", inputs)

    def _lower_by_table(
        self, node: ir.Node, domain: str, inputs: Sequence[In]
    ) -> Sequence[Any]:
        """Return the results of an operator that ``LOWER`` has."""
        self._refuse_sizes(node, inputs)
        lower = LOWER.get((domain, node.op_type))
        if lower is None:
            raise UnsupportedError("an operator that is not covered")
        lowered = lower(self._memory, node, *inputs)
        return lowered if isinstance(lowered, list) else [lowered]

    def _refuse_sizes(self, node: ir.Node, inputs: Sequence[In]) -> None:
        """Refuse to compute with the number of rows or steps, except to count steps."""
        dtypes = [getattr(operand, "dtype", "") for operand in inputs]
        counts_steps = node.op_type == "Add" and "int64" in dtypes
        reads_sizes = any(_name(value) in self._sized for value in node.inputs)
        if reads_sizes and not counts_steps:
            raise UnsupportedError("it computes with the number of rows or steps")

    def _append_frames(self, node: ir.Node) -> Sequence[Value]:
        """Return the frames of a ring, followed by the new ones."""
        buffer, ring, axis = self._pasts[_name(node.inputs[0])]
        source = self._get(_name(node.inputs[1]))
        if not isinstance(source, Value) or source.dtype != "float32":
            raise UnsupportedError("a past takes in frames that are not computed")
        return [Value(self._memory.with_past(buffer, ring, source=source, axis=axis))]

    def _move(self, node: ir.Node, value: Value, rest: Sequence[In]) -> Sequence[Value]:
        """Return a value with moved elements, by moving their addresses."""
        operands = [operand for operand in rest if operand is not None]
        if not all(isinstance(operand, np.ndarray) for operand in operands):
            raise UnsupportedError("a shape, axis or index that depends on the input")
        moved = evaluate(node, [value.addresses, *rest])  # type: ignore[list-item]
        return [value._replace(addresses=addresses) for addresses in moved]

    # sizes, and other known numbers

    def _size(self, node: ir.Node, value: Value) -> Sequence[Array]:
        """Return the shape of a value, and mark the sizes that follow from rows and
        steps.
        """
        like = np.broadcast_to(np.int8(0), value.shape)
        (result,) = evaluate(node, [like])
        start = attribute(node, "start", 0)
        sized = ~_fixed_sizes(node.inputs[0], value)[start : attribute(node, "end")]
        mask = sized if node.op_type == "Shape" else np.asarray(sized.any())
        self._mark(node, [mask])
        return [result]

    def _fold(self, node: ir.Node, inputs: Sequence[Any]) -> Sequence[Array]:
        """Return the results of a node of known inputs, and mark the numbers in them
        that follow from rows and steps.
        """
        arrays = evaluate(node, inputs)
        masks = [
            self._sized.get(_name(value), np.zeros(np.shape(array), bool))
            for value, array in zip(node.inputs, inputs, strict=True)
        ]
        if node.op_type in (*MOVES, "Gather"):
            self._mark(node, evaluate(node, [masks[0], *inputs[1:]]))
        elif node.op_type == "Concat":
            self._mark(node, evaluate(node, masks))
        elif node.op_type not in _TAKES_SIZES:
            sized = any(mask.any() for mask in masks)
            self._mark(node, [np.full(array.shape, sized) for array in arrays])
        return arrays

    def _mark(self, node: ir.Node, masks: Sequence[Array]) -> None:
        """Remember which elements of the outputs follow from sizes."""
        for value, mask in zip(node.outputs, masks, strict=False):
            if mask.any():
                self._sized[str(value.name)] = mask.astype(bool)


def _name(value: ir.Value | None) -> str:
    """Return the name of a value; empty for an input that is left out."""
    return "" if value is None else str(value.name)


def _reset_every(manifest: Manifest) -> int:
    """Return the reset interval as a program stores it, 0 for never."""
    interval = manifest.reset_every or 0
    if interval >= 2**32:
        raise UnsupportedError(f"reset_every is {interval}, expected below 2**32")
    return interval


def _has_body(node: ir.Node) -> bool:
    """Return True if a node has a subgraph."""
    types = [option.type for option in node.attributes.values()]
    return ir.AttributeType.GRAPH in types


def _fixed_sizes(declared: ir.Value | None, value: Value) -> Array:
    """Return for each axis True if its size depends on neither rows nor steps."""
    shape = None if declared is None else declared.shape
    if shape is not None and len(shape) == len(value.shape):
        return np.array([isinstance(size, int) for size in shape], bool)
    return np.array([size != 1 for size in value.shape], bool)
