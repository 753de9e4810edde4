"""Files with ``If``: replace inputs that choose a branch by constants, and keep the branches they choose."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import all_ones
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, Axes

from ..graph import axes_of, constant, data_inputs, forget_shapes, infer_shapes, is_used, operands, walk
from .axes import take_given
from .config import LiftConfig
from .table import Table

# fmt: off
_FOLDED = (
    "Add", "And", "Cast", "Concat", "Div", "Equal", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Mod", "Mul", "Not", "Or", "ReduceProd", "Reshape", "Slice", "Squeeze", "Sub",
    "Unsqueeze", "Where", "Xor",
)
# fmt: on
"""Operators between a constant or a fixed size and the condition of an ``If``."""


def decide_branches(model: ir.Model, config: LiftConfig) -> tuple[ir.Model, dict[str, Array], bool]:
    """Return a copy with the axes and constants that the user gives, without branches that they rule out.

    Returns:
        The copy; what stands in the place of inputs that it has no more; and whether a branch was taken.

    Raises:
        InputError: the config gives axes or a constant for no input, or such as do not fit it.
    """
    decided = model.clone()
    constants = _check_constants(decided, config.constants)
    _fix_inputs(decided, constants)
    take_given(decided.graph, config.inputs)
    branched = _take_branches(decided)
    kept = {*constants, *(value.name for value in decided.graph.inputs)}
    constants |= {
        str(value.name): np.zeros(all_ones(axes_of(value)), value.dtype.numpy())
        for value in data_inputs(model.graph)
        if value.name not in kept and value.dtype is not None
    }
    return decided, constants, branched


def _check_constants(model: ir.Model, constants: Mapping[str, float]) -> dict[str, Array]:
    """Return the constants as arrays of their inputs' dtypes and shapes.

    Raises:
        InputError: no such input, one of several elements, or a number outside its dtype.
    """
    inputs = {str(value.name): value for value in data_inputs(model.graph)}
    arrays = {}
    for name, number in constants.items():
        if name not in inputs:
            raise InputError(f"no input {name!r}; the inputs are {', '.join(inputs)}")
        value = inputs[name]
        shape = all_ones(axes_of(value))
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        if any(axis != 1 for axis in shape):
            raise InputError(
                f"input {name} is {value.shape}, expected one number to put {number:g} in its place"
            )
        array = np.full(shape, number).astype(dtype)
        if (array != number).any():
            raise InputError(f"input {name} is {dtype.name}, which can't represent {number:g}")
        arrays[name] = array
    return arrays


def _fix_inputs(model: ir.Model, arrays: Mapping[str, Array]) -> None:
    """Replace inputs by constants, in place."""
    graph = model.graph
    for value in [value for value in data_inputs(graph) if value.name in arrays]:
        graph.inputs.remove(value)
        array = arrays[str(value.name)]
        value.const_value, value.shape = ir.tensor(array, name=value.name), ir.Shape(array.shape)
        graph.register_initializer(value)


def _take_branches(model: ir.Model) -> bool:
    """Replace each ``If`` that constants and fixed sizes decide by its branch, in place.

    An ``If`` inside the branch taken is looked at too; one inside a loop's body is not. Inputs that only the
    other branches read are removed.

    Returns:
        Whether there was such a node.
    """
    graph = model.graph
    if not any(node.op_type == "If" for node in graph):
        return False
    read = [value for value in data_inputs(graph) if value.uses()]
    declared = {value.name: value.shape for value in graph.outputs}
    _name_apart(graph)
    forget_shapes(model)
    taken, undecided = False, set[ir.Node]()
    infer_shapes(model)
    while nodes := [node for node in graph if node.op_type == "If" and node not in undecided]:
        if (branch := _decided(model, nodes[0])) is None:
            undecided.add(nodes[0])
            continue
        _inline(nodes[0], branch)
        infer_shapes(model)
        taken = True
    RemoveUnusedNodesPass()(model)
    for value in graph.outputs:
        value.shape = value.shape or declared[value.name]
    for value in read:
        if not is_used(value):
            graph.inputs.remove(value)
    return taken


def _decided(model: ir.Model, node: ir.Node) -> ir.Graph | None:
    """Return the branch that constants, declared sizes, or those of a run choose; None if they don't."""
    (condition,) = node.inputs
    known = _known(condition, {})
    if known is None:
        known = _known(condition, _measured_axes(model, condition))
    if known is None:
        return None
    return node.attributes["then_branch" if known.all() else "else_branch"].as_graph()


def choosing_input(model: ir.Model) -> str | None:
    """Return the input of one number that a condition of an ``If`` compares, or None."""
    inputs = set(data_inputs(model.graph))
    for node in model.graph:
        for above in _above(node.inputs[0]) if node.op_type == "If" else ():
            for value in above.inputs:
                if value in inputs and value.shape is not None and all(axis == 1 for axis in value.shape):
                    return value.name
        if node.op_type == "If" and (condition := node.inputs[0]) in inputs:
            return condition.name
    return None


def _name_apart(main: ir.Graph) -> None:
    """Give values and nodes in branches unique names; separate branches may share them."""
    taken: set[str | None] = set()
    for graph in (main, *main.subgraphs()):
        for value in list(graph.initializers.values()):
            graph.initializers.pop(str(value.name))
            value.name = _free(value.name, taken)
            graph.register_initializer(value)
        for value in graph.inputs:
            if not value.is_initializer():
                value.name = _free(value.name, taken)
        for node in graph:
            node.name = node.name and _free(node.name, taken)
            for value in node.outputs:
                value.name = value.name and _free(value.name, taken)


def _free(name: str | None, taken: set[str | None]) -> str | None:
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}_{count}"
    taken.add(free)
    return free


def _inline(node: ir.Node, branch: ir.Graph) -> None:
    graph: Any = node.graph
    results = list(branch.outputs)
    branch.outputs.clear()
    for value in list(branch.initializers.values()):
        branch.initializers.pop(str(value.name))
        graph.register_initializer(value)
    nodes = list(branch)
    branch.remove(nodes)
    graph.insert_before(node, nodes)
    for old, new in zip(node.outputs, results, strict=True):
        result = new
        if old.is_graph_output():
            copy = ir.node("Identity", [new])
            graph.insert_before(node, copy)
            (result,) = copy.outputs
            result.name, result.type, old.name = old.name, old.type, f"{old.name}.branch"
        ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    for dead in node.attributes.values():  # so that values which only they read are removed
        for inner in ir.traversal.RecursiveGraphIterator(dead.as_graph()):
            for place in range(len(inner.inputs)):
                inner.replace_input_with(place, None)
    graph.remove(node, safe=True)


def _measured_axes(model: ir.Model, condition: ir.Value | None) -> dict[ir.Value, Axes]:
    """Return the axes of the values whose sizes a condition reads, found by running the graph."""
    read = [node.inputs[0] for node in _above(condition) if node.op_type in ("Shape", "Size")]
    table, known = Table(model), [value for value in read if value is not None]
    if not table.has(known):
        return {}
    return {value: axes for value in known if (axes := table.axes(value)) is not None}


def _above(value: ir.Value | None) -> Iterator[ir.Node]:
    """Return the nodes between a condition and the constants and shapes that it is computed from."""

    def folded(each: ir.Value) -> Iterator[ir.Value]:
        node = each.producer()
        return operands(each) if node is not None and node.op_type in _FOLDED else iter(())

    producers = (each.producer() for each in walk([] if value is None else [value], folded))
    return (node for node in dict.fromkeys(producers) if node is not None)


def _known(value: ir.Value | None, shapes: Mapping[ir.Value, Axes]) -> Array | None:
    """Return a value that constants and fixed sizes decide, None for any other."""
    fixed = constant(value)
    node = None if value is None else value.producer()
    if fixed is not None or node is None or node.domain != "":
        return fixed
    if node.op_type in ("Shape", "Size") or _shape_above(node):
        sizes = _sizes(node, shapes)
        return None if sizes is None or None in sizes else np.array(sizes, np.int64)
    if node.op_type not in _FOLDED:
        return None
    operands = {str(entry.name): _known(entry, shapes) for entry in node.inputs if entry is not None}
    return None if any(array is None for array in operands.values()) else _computed(node, operands)


def _shape_above(node: ir.Node) -> ir.Node | None:
    """Return the ``Shape`` whose sizes a ``Gather`` picks."""
    source = node.inputs[0] if node.op_type == "Gather" else None
    above = None if source is None else source.producer()
    return above if above is not None and above.op_type == "Shape" else None


def _sizes(node: ir.Node, shapes: Mapping[ir.Value, Axes]) -> Array | None:
    """Return the sizes that a node reads, None for a dynamic one; None if the rank or an index is unknown."""
    if above := _shape_above(node):
        whole, picks = _sizes(above, shapes), _known(node.inputs[1], shapes)
        return None if whole is None or picks is None else np.array(whole[picks], object)
    source = node.inputs[0]
    sizes = None if source is None else shapes.get(source, source.shape)
    if sizes is None:
        return None
    fixed = np.array([size if isinstance(size, int) else None for size in sizes], object)
    if node.op_type == "Size":
        return np.array(None if None in fixed else fixed.prod(), object)
    return fixed[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]


def _computed(node: ir.Node, operands: Mapping[str, Array | None]) -> Array:
    """Run one node on arrays."""
    names = [onnx.helper.make_empty_tensor_value_info(name) for name in operands]
    result = onnx.helper.make_empty_tensor_value_info(str(node.outputs[0].name))
    graph = onnx.helper.make_graph([ir.to_proto(node)], "node", names, [result])
    opset = node.graph.opset_imports[""] if isinstance(node.graph, ir.Graph) else 13
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    array: Array = np.asarray(ReferenceEvaluator(model).run(None, dict(operands))[0])  # type: ignore[index]
    return array
