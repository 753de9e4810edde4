"""Loops over time in a program that computes one unit: the loop is replaced by its
body, once for each step of a unit.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Manifest

from ...graph import Builder, UniqueNames, copied_node, infer_shapes

_TIME = 0
"""Axis of the steps of what a Scan reads and gives, if it has no attribute for it."""
_LAYOUTS = ("scan_input_axes", "scan_output_axes")
_DIRECTIONS = ("scan_input_directions", "scan_output_directions")


def inline_loops(model: ir.Model, manifest: Manifest) -> None:
    """Replace every Scan of the main graph by its body, in place.

    Raises:
        UnsupportedError: the number of steps is unknown, or a Scan runs backwards.
    """
    loops = [node for node in model.graph if node.op_type == "Scan"]
    steps = _steps_of_loops(model, manifest) if loops else []
    for node, count in zip(loops, steps, strict=True):
        if count is None:
            raise UnsupportedError(
                f"node {node.name!r} (Scan): its number of steps per call is unknown"
            )
        backwards = (node.attributes.get_ints(name, ()) for name in _DIRECTIONS)
        if any(any(directions or ()) for directions in backwards):
            raise UnsupportedError(f"node {node.name!r} (Scan): it runs backwards")
        _Inlined(model.graph, node, count).write()


def _steps_of_loops(model: ir.Model, manifest: Manifest) -> list[int | None]:
    """Return the number of steps of each Scan for one unit; None if it is unknown."""
    sized = _for_one_unit(model, manifest)
    # shapes behind an operator of onnxruntime are not inferred
    usual = 1 if manifest.unit == 1 else None
    counts = []
    for node in sized.graph:
        if node.op_type != "Scan":
            continue
        axes = node.attributes.get_ints(_LAYOUTS[0], ()) or (_TIME,)
        first = -node.attributes["num_scan_inputs"].as_int()
        scanned = node.inputs[first]
        shape = None if scanned is None else scanned.shape
        size = None if shape is None else shape[axes[0]]
        counts.append(size if isinstance(size, int) else usual)
    return counts


def _for_one_unit(model: ir.Model, manifest: Manifest) -> ir.Model:
    """Return a copy of the model with the shapes that one unit of one row has."""
    sized = model.clone()
    sizes = manifest.axis_sizes(rows=1, steps=manifest.unit)
    sizes |= manifest.time_sizes(manifest.unit)
    for node in sized.graph:
        for value in node.outputs:
            value.shape = None
    for value in sized.graph.inputs:
        value.shape = ir.Shape(
            dim if isinstance(dim, int) else sizes.get(str(dim.value), dim)
            for dim in value.shape or ()
        )
    infer_shapes(sized)
    return sized


class _Inlined:
    """One Scan while it is replaced."""

    def __init__(self, graph: ir.Graph, node: ir.Node, steps: int) -> None:
        """Prepare to write ``steps`` iterations of a Scan into the graph."""
        self._graph = graph
        self._node = node
        self._steps = steps
        self._names = UniqueNames(graph)
        self._build = Builder(node, "step", self._names)
        self._body = node.attributes["body"].as_graph()
        scanned = node.attributes["num_scan_inputs"].as_int()
        self._states = len(node.inputs) - scanned
        self._values: dict[ir.Value, ir.Value] = {}
        """Values of the main graph by those of the body."""

    def write(self) -> None:
        """Replace the Scan."""
        for name, value in self._body.initializers.items():
            stored = ir.val(self._names.unique(name), const_value=value.const_value)
            self._graph.register_initializer(stored)
            self._values[value] = stored
        states: Sequence[ir.Value | None] = self._node.inputs[: self._states]
        frames: list[list[ir.Value]] = []
        for step in range(self._steps):
            self._read(states, step)
            for inner in list(self._body):
                self._copy(inner)
            results = [self._values.get(x, x) for x in self._body.outputs]
            states = results[: self._states]
            frames.append(results[self._states :])
        self._give([self._add("Identity", [state]) for state in states], frames)
        self._graph.remove(self._node, safe=True)

    def _read(self, states: Sequence[ir.Value | None], step: int) -> None:
        """Let the body read the states, and one step of what is scanned."""
        axes = self._node.attributes.get_ints(_LAYOUTS[0], ()) or ()
        for index, inner in enumerate(self._body.inputs):
            number = index - self._states
            if number < 0:
                outer = states[index]
            else:
                outer = self._node.inputs[index]
                axis = axes[number] if axes else _TIME
                if self._steps > 1:
                    outer = self._slice(outer, step, axis)
                outer = self._add("Squeeze", [outer, self._stored(axis)])
                outer.shape = inner.shape
            assert outer is not None
            self._values[inner] = outer

    def _copy(self, inner: ir.Node) -> None:
        """Copy a node of the body in front of the loop."""
        inputs = [
            None if value is None else self._values.get(value, value)
            for value in inner.inputs
        ]
        node = copied_node(inner, inputs, self._names.unique)
        self._values.update(zip(inner.outputs, node.outputs, strict=True))
        self._build.insert(node)

    def _give(
        self, states: Sequence[ir.Value], frames: Sequence[Sequence[ir.Value]]
    ) -> None:
        """Replace the Scan's outputs by the last states, and by ``frames``: what each
        step gives.
        """
        axes = self._node.attributes.get_ints(_LAYOUTS[1], ()) or ()
        values = list(states)
        for number, steps in enumerate(zip(*frames, strict=True)):
            axis = axes[number] if axes else _TIME
            values.append(self._stacked(steps, axis))
        for value, outer in zip(values, self._node.outputs, strict=True):
            name = outer.name
            outer.name = self._names.unique(f"{name}.scan")
            value.name = name
            value.type = outer.type
            value.shape = outer.shape
            ir.convenience.replace_all_uses_with(
                outer, value, replace_graph_outputs=True
            )

    def _stacked(self, steps: Sequence[ir.Value], axis: int) -> ir.Value:
        """Return the results of the steps along a new axis."""
        rows = [self._add("Unsqueeze", [step, self._stored(axis)]) for step in steps]
        if len(rows) == 1:
            return rows[0]
        return self._add("Concat", rows, axis=axis)

    def _slice(self, value: ir.Value | None, step: int, axis: int) -> ir.Value:
        """Return one step of ``value``, with its axis."""
        ends = [self._stored(number) for number in (step, step + 1, axis)]
        return self._add("Slice", [value, *ends])

    def _stored(self, number: int) -> ir.Value:
        """Return a stored ``(1,)`` array."""
        return self._build.constant(np.array([number]), "number")

    def _add(
        self, op: str, inputs: Sequence[ir.Value | None], **attributes: int
    ) -> ir.Value:
        """Add a node, whose result has the type of its first input."""
        return self._build.value(op, inputs, attributes)
