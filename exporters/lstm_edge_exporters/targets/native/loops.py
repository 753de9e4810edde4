"""Loops over time in a program that computes one step: the body replaces
the loop.
"""

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

from ...graph import UniqueNames

_TIME = 0
"""Axis of the steps of what a Scan reads and gives, if it has no attribute for it."""
_LAYOUTS = ("scan_input_axes", "scan_output_axes")
_DIRECTIONS = ("scan_input_directions", "scan_output_directions")


def inline_loops(model: ir.Model, unit: int) -> None:
    """Replace every Scan of the main graph by one step of its body, in place.

    Raises:
        UnsupportedError: a call takes several steps, or a Scan runs backwards.
    """
    for node in [node for node in model.graph if node.op_type == "Scan"]:
        if unit > 1:
            raise UnsupportedError(
                f"node {node.name!r} (Scan): a loop over time in a file of {unit} steps"
                " per call"
            )
        backwards = (node.attributes.get_ints(name, ()) for name in _DIRECTIONS)
        if any(any(directions or ()) for directions in backwards):
            raise UnsupportedError(f"node {node.name!r} (Scan): it runs backwards")
        _Inlined(model.graph, node).write()


class _Inlined:
    """One Scan while it is replaced."""

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph = graph
        self._node = node
        self._names = UniqueNames(graph)
        self._body = node.attributes["body"].as_graph()
        scanned = node.attributes["num_scan_inputs"].as_int()
        self._states = len(node.inputs) - scanned
        self._values: dict[ir.Value, ir.Value] = {}
        """Values of the main graph by those of the body."""

    def write(self) -> None:
        """Replace the Scan."""
        self._read()
        for name, value in self._body.initializers.items():
            stored = ir.val(self._names.unique(name), const_value=value.const_value)
            self._graph.register_initializer(stored)
            self._values[value] = stored
        for inner in list(self._body):
            self._copy(inner)
        self._give()
        self._graph.remove(self._node, safe=True)

    def _read(self) -> None:
        """Let the body read the states and one step of what is scanned."""
        axes = self._node.attributes.get_ints(_LAYOUTS[0], ()) or ()
        for index, inner in enumerate(self._body.inputs):
            outer = self._node.inputs[index]
            assert outer is not None
            number = index - self._states
            if number >= 0:
                axis = axes[number] if axes else _TIME
                outer = self._add("Squeeze", outer, axis)
                outer.shape = inner.shape
            self._values[inner] = outer

    def _copy(self, inner: ir.Node) -> None:
        inputs = [
            None if value is None else self._values.get(value, value)
            for value in inner.inputs
        ]
        node = ir.Node(
            inner.domain,
            inner.op_type,
            inputs,
            inner.attributes.values(),
            num_outputs=len(inner.outputs),
            name=self._names.unique(inner.name or inner.op_type),
        )
        for old, new in zip(inner.outputs, node.outputs, strict=True):
            new.name = self._names.unique(str(old.name))
            new.type = old.type
            new.shape = old.shape
            self._values[old] = new
        self._graph.insert_before(self._node, node)

    def _give(self) -> None:
        """Replace the Scan's outputs by the results of the step."""
        axes = self._node.attributes.get_ints(_LAYOUTS[1], ()) or ()
        outputs = zip(self._body.outputs, self._node.outputs, strict=True)
        for index, (inner, outer) in enumerate(outputs):
            value = self._values.get(inner, inner)
            number = index - self._states
            if number >= 0:
                axis = axes[number] if axes else _TIME
                value = self._add("Unsqueeze", value, axis)
            else:
                value = self._add("Identity", value)
            name = outer.name
            outer.name = self._names.unique(f"{name}.scan")
            value.name = name
            value.type = outer.type
            value.shape = outer.shape
            ir.convenience.replace_all_uses_with(
                outer, value, replace_graph_outputs=True
            )

    def _add(self, op: str, value: ir.Value, axis: int | None = None) -> ir.Value:
        """Add a node that changes the axes of ``value``."""
        inputs = [value]
        if axis is not None:
            name = self._names.unique("step.axis")
            array = ir.tensor(np.array([axis]), name=name)
            inputs.append(ir.val(name, const_value=array))
            self._graph.register_initializer(inputs[-1])
        node = ir.node(op, inputs, name=self._names.unique(f"step.{op}"))
        node.outputs[0].name = self._names.unique(f"step.{op}.out")
        node.outputs[0].type = value.type
        self._graph.insert_before(self._node, node)
        return node.outputs[0]
