"""Compile an ONNX graph to a native program: what it computes for one source in one step, or one unit.

The graph is followed node by node with every batch axis at size 1 and the time axis at one unit. Every shape
is known then, and what depends on stored tensors and shapes alone is an array.
"""

from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import row_factor
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array, Axes, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native import TYPES, Past

from ...graph import constant, infer_shapes
from . import convolutions  # noqa: F401  registers its operators
from .evaluate import attribute, evaluate
from .memory import Memory, Value
from .operators import LOWER, MOVES, In
from .program import Binary, Function, ProgramWriter

_MOST_NUMBERS = 1 << 24
"""Elements that a row of an input or a state may have."""
_TAKES_SIZES = (*MOVES, "ConstantOfShape", "Range", "Shape", "Size")
"""Operators that take sizes as such: what they give does not count as computed with them."""


class StatePart(NamedTuple):
    """A state of the program: a layer of one of the file's states."""

    state: StateSpec
    layer: int | None
    """Its index along the state's first axis; None for the state itself."""
    past: Past | None = None
    """How it is a ring; None where it is a row of numbers."""


class Compiled(NamedTuple):
    """A program, and how its states belong to the file's. Inputs and outputs are in the manifest's order."""

    writer: ProgramWriter
    parts: tuple[StatePart, ...]


class _Past(NamedTuple):
    """A state that holds the last frames of a value."""

    part: StatePart
    buffer: int
    axis: int
    """Of the frames."""


def compile_program(model: ir.Model, manifest: Manifest) -> Compiled:
    """Return the program of a file that can be streamed.

    Raises:
        UnsupportedError: a node, an input or a state is not covered; the message says which and why.
    """
    _check_axes(manifest)
    model = model.clone()
    infer_shapes(model)  # which sizes depend on rows and steps
    return _Compiler(model, manifest).compile()


class _Compiler:
    def __init__(self, model: ir.Model, manifest: Manifest) -> None:
        self._graph, self._manifest = model.graph, manifest
        self._opset = model.graph.opset_imports.get("", 18)
        self._writer = ProgramWriter(manifest.unit)
        self._memory = Memory(self._writer, int8=manifest.int8_activations)
        self._values: dict[str, Any] = {}
        self._sized: dict[str, Array] = {}
        """Of arrays, by name: which numbers follow from the number of rows or steps."""
        self._uses = Counter(str(value.name) for node in model.graph for value in node.inputs if value)
        self._uses.update(manifest.output_names)
        self._parts: list[tuple[StatePart, int]] = []
        self._pasts: dict[str, _Past] = {}

    def compile(self) -> Compiled:
        manifest = self._manifest
        for spec in manifest.inputs:
            self._values[spec.name] = self._open_input(spec)
        for state in manifest.states:
            self._open_state(state)
        for node in self._graph:
            self._node(node)
        for output in manifest.outputs:
            self._close_output(output)
        for state in sorted(manifest.states, key=lambda state: state.input in self._pasts):
            self._close_state(state)  # a past at the end: nothing reads it after its PUSH
        return Compiled(self._writer, tuple(part for part, _ in self._parts))

    def _open_input(self, spec: TensorSpec) -> Value | Array:
        shape, time = self._shape_of(spec.name, spec.axes), self._manifest.time_axis(spec.axes)
        if spec.name == self._manifest.lengths:
            return np.ones(shape, spec.dtype)
        if time is None and self._manifest.unit > 1:
            raise UnsupportedError(f"input {spec.name} has no time axis, in a file with a unit")
        flag = spec.dtype == "bool"
        if spec.dtype not in TYPES and not flag:
            raise UnsupportedError(f"input {spec.name} is {spec.dtype}")
        buffer = self._writer.input(spec.name, prod(shape), "uint8" if flag else spec.dtype)
        buffer = self._writer.cast(buffer) if flag else buffer
        at = 0 if time is None else time
        lying = (shape[at : at + 1], shape[:at], shape[at + 1 :])
        places = self._memory.at(buffer).reshape(sum(lying, ()))
        return Value(np.moveaxis(places, 0, at) if shape else places, spec.dtype)

    def _open_state(self, state: StateSpec) -> None:
        """Make a state of the program of a state of the file, or one of each of its layers."""
        shape = self._shape_of(state.input, state.axes)
        reset = np.broadcast_to(np.asarray(state.reset, state.dtype), shape)
        axis = self._axis_of_frames(state, shape)
        if axis is not None:
            ring = Past(prod(shape[:axis]), shape[axis], prod(shape[axis + 1 :]))
            part, buffer = StatePart(state, None, ring), self._writer.past(state.input, ring, reset)
            self._parts.append((part, buffer))
            self._pasts[state.input] = _Past(part, buffer, axis)
            return
        if state.dtype not in ("float32", "int64"):
            raise UnsupportedError(f"state {state.input} is {state.dtype}, expected float32 or int64")
        layers = shape[0] if len(shape) > 1 and state.axes[0] != self._manifest.batch else 1
        places = []
        for layer, own in enumerate(reset.reshape(layers, -1)):
            part = StatePart(state, layer if layers > 1 else None)
            name = state.input if layers == 1 else f"{state.input}[{layer}]"
            buffer = self._writer.state(name, own.size, own, state.dtype)
            self._parts.append((part, buffer))
            places.append(self._memory.at(buffer))
        self._values[state.input] = Value(np.concatenate(places).reshape(shape), state.dtype)

    def _axis_of_frames(self, state: StateSpec, shape: Sequence[int]) -> int | None:
        """Return the axis of the frames of a state that is the last frames of a value; None for any other.

        One Concat reads it, which puts new frames behind it, and a Slice of the result is its new value.
        """
        value, made = (
            next((each for each in values if each.name == name), None)
            for values, name in ((self._graph.inputs, state.input), (self._graph.outputs, state.output))
        )
        slicing = None if made is None else made.producer()
        if value is None or slicing is None or state.dtype != "float32" or self._uses[state.input] != 1:
            return None
        joining = next(node for node, _ in value.uses())
        if (joining.op_type, slicing.op_type) != ("Concat", "Slice") or joining.inputs[0] is not value:
            return None
        axis = int(attribute(joining, "axis")) % len(shape)
        ends = [constant(each) for each in slicing.inputs[1:]]
        if len(joining.inputs) != 2 or slicing.inputs[0] is not joining.outputs[0]:
            return None
        if not isinstance(state.axes[axis], int) or any(end is None for end in ends):
            return None
        for new in (1, 2):
            size = [*shape[:axis], shape[axis] + new, *shape[axis + 1 :]]
            joined = np.arange(prod(size)).reshape(size)
            (kept,) = evaluate(slicing, [joined, *ends], self._opset)
            if not np.array_equal(kept, joined.take(range(new, size[axis]), axis)):
                return None
        return axis

    def _close_output(self, output: TensorSpec) -> None:
        manifest, value = self._manifest, self._get(output.name)
        if not isinstance(value, Value):
            raise UnsupportedError(f"output {output.name} is computed of lengths or constants alone")
        time = manifest.time_axis(output.axes)
        if time is not None:
            value = value._replace(places=np.moveaxis(value.places, time, 0))
        self._writer.output(
            output.name,
            self._memory.row(value),
            every_step=time is not None,
            delay=manifest.delays.get(output.name, 0),
            frames=manifest.frames_a_unit.get(output.name, 1),
        )

    def _close_state(self, state: StateSpec) -> None:
        value, writer = self._get(state.output), self._writer
        if not isinstance(value, Value) or value.dtype != state.dtype:
            raise UnsupportedError(f"state {state.output} does not depend on the input")
        if state.input in self._pasts:
            past = self._pasts[state.input]
            assert past.part.past is not None
            self._memory.push(value, past.buffer, past.part.past)
            return
        olds = [buffer for part, buffer in self._parts if part.state is state]
        given = writer.given
        for old, places in zip(olds, value.places.reshape(len(olds), -1), strict=True):
            new = self._memory.row(Value(places, value.dtype))
            if new in given and state.dtype == "int64":
                new = writer.binary(Binary.ADD, new, np.zeros(1, np.int64))
            elif new in given:
                new = writer.unary(new, Function.IDENTITY)
            writer.next_state(old, new)

    def _shape_of(self, name: str, axes: Axes) -> tuple[int, ...]:
        """Return the shape of one row at one step, or in one unit."""
        unit, sequence = self._manifest.unit, self._manifest.sequence or ""
        sizes = {sequence: unit, **self._manifest.time_sizes(unit)}
        shape = tuple(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in axes)
        if prod(shape) > _MOST_NUMBERS:
            raise UnsupportedError(f"{name} {axes} has {prod(shape)} numbers a row, beyond {_MOST_NUMBERS}")
        return shape

    def _get(self, name: str) -> Any:
        if name not in self._values:
            stored = self._graph.initializers.get(name)
            tensor = None if stored is None else stored.const_value
            if tensor is None:
                raise UnsupportedError(f"{name!r} is computed by no node before it")
            self._values[name] = tensor.numpy()
        return self._values[name]

    # nodes

    def _node(self, node: ir.Node) -> None:
        about = f"node {node.name!r} ({node.op_type})" if node.name else f"node ({node.op_type})"
        try:
            results = self._lower(node)
        except UnsupportedError as error:
            raise UnsupportedError(f"{about}: {error}") from error
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # sizes that do not fit
            raise UnsupportedError(f"{about} does not fit its inputs") from error
        for value, result in zip(node.outputs, results, strict=False):
            self._values[str(value.name)] = result
        for value in node.outputs[len(results) :]:
            if self._uses[str(value.name)]:
                raise UnsupportedError(f"{about}: an output that is not covered")

    def _lower(self, node: ir.Node) -> Sequence[Any]:
        if any(each.type is ir.AttributeType.GRAPH for each in node.attributes.values()):
            raise UnsupportedError("it has a subgraph")
        names = ["" if value is None else str(value.name) for value in node.inputs]
        first = self._pasts.get(names[0]) if names and node.op_type == "Concat" else None
        if first is not None:
            return [self._join(first, self._get(names[1]))]
        inputs: list[In] = [self._get(name) if name else None for name in names]
        own = node.domain in ("", "ai.onnx")
        if own and node.op_type in ("Shape", "Size") and isinstance(inputs[0], Value):
            return self._size(node, inputs[0])
        if own and not any(isinstance(each, Value) or hasattr(each, "role") for each in inputs):
            return self._fold(node, names, inputs)
        if own and node.op_type in MOVES and isinstance(inputs[0], Value):
            return self._move(node, names[0], inputs[0], inputs[1:])
        counts = node.op_type == "Add" and any(getattr(each, "dtype", "") == "int64" for each in inputs)
        if not counts and any(name in self._sized for name in names):
            raise UnsupportedError("it computes with the number of rows or steps")
        lower = LOWER.get(("" if own else node.domain, node.op_type))
        if lower is None:
            raise UnsupportedError("an operator that is not covered")
        end = self._memory.end
        found = lower(self._memory, node, *inputs)
        results = found if isinstance(found, list) else [found]
        for value, result in zip(node.outputs, results, strict=False):
            if self._uses[str(value.name)] == 1 and isinstance(result, Value) and result.places.min() > end:
                self._memory.exclusive.add(str(value.name))
        return results

    def _move(self, node: ir.Node, name: str, value: Value, rest: Sequence[In]) -> Sequence[Value]:
        """Return a value whose numbers are moved, by moving their places."""
        if not all(each is None or isinstance(each, np.ndarray) for each in rest):
            raise UnsupportedError("a shape, axis or place that depends on the input")
        moved = evaluate(node, [value.places, *rest], self._opset)  # type: ignore[list-item]
        result = str(node.outputs[0].name)
        if name in self._memory.exclusive and self._uses[result] == 1:
            self._memory.exclusive.add(result)
        return [value._replace(places=each) for each in moved]

    def _join(self, past: _Past, source: Any) -> Value:
        """Return a past with the frames of ``source`` behind it."""
        if not isinstance(source, Value) or source.dtype != "float32":
            raise UnsupportedError("a past takes in frames that are not computed")
        assert past.part.past is not None
        return Value(self._memory.behind(past.buffer, past.part.past, source, past.axis))

    # sizes, and what else is known

    def _size(self, node: ir.Node, value: Value) -> Sequence[Array]:
        """Return the shape of a value, and note which sizes follow from rows and steps."""
        (found,) = evaluate(node, [np.broadcast_to(np.int8(0), value.shape)], self._opset)
        declared = node.inputs[0].shape if node.inputs[0] is not None else None
        fixed = [isinstance(size, int) for size in declared] if declared is not None else []
        if len(fixed) != len(value.shape):
            fixed = [size != 1 for size in value.shape]
        sized = ~np.array(fixed, bool)[attribute(node, "start", 0) : attribute(node, "end")]
        self._mark(node, [sized if node.op_type == "Shape" else np.asarray(sized.any())])
        return [found]

    def _fold(self, node: ir.Node, names: Sequence[str], inputs: Sequence[Any]) -> Sequence[Array]:
        found = evaluate(node, inputs, self._opset)
        masks = [
            None if each is None else self._sized.get(name, np.zeros(np.shape(each), bool))
            for name, each in zip(names, inputs, strict=True)
        ]
        if node.op_type in _TAKES_SIZES:
            moved = [masks[0], *inputs[1:]] if node.op_type in MOVES else []
        elif node.op_type in ("Concat", "Gather"):
            moved = masks if node.op_type == "Concat" else [masks[0], inputs[1]]
        else:
            some = any(mask.any() for mask in masks if mask is not None)
            sized: Sequence[Array] = [np.full(each.shape, some) for each in found]
            moved = []
            self._mark(node, sized)
        if moved:
            self._mark(node, evaluate(node, moved, self._opset))
        return found

    def _mark(self, node: ir.Node, masks: Sequence[Array]) -> None:
        for value, mask in zip(node.outputs, masks, strict=False):
            if mask.any():
                self._sized[str(value.name)] = mask.astype(bool)


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
