"""Graphs that come from outside, in the one form that all stages read: the project's
opset, constants in the main graph, scans along axis 0.
"""

from collections.abc import Sequence

import onnx_ir as ir
from onnx import version_converter
from onnx_ir.passes.common import (
    LiftSubgraphInitializersToMainGraphPass,
    NameFixPass,
)

from lstm_edge_runtime.errors import ContractError, FileFormatError, first_line

from .graph import Builder, infer_shapes, put_behind
from .recurrent import label
from .versions import OPSET


def normalize(model: ir.Model) -> ir.Model:
    """Return a graph without functions in the form that all stages read.

    A later opset than the project's stays: its operators have the same inputs.

    Raises:
        FileFormatError: a node has no form in the project's opset.
        ContractError: the rank of what a Scan takes is unknown.
    """
    if model.opset_imports[""] < OPSET:
        model = _converted(model)
    if any(graph.initializers for graph in model.graph.subgraphs()):
        NameFixPass()(model)
        LiftSubgraphInitializersToMainGraphPass()(model)
    _scan_along_first_axis(model)
    return model


def _converted(model: ir.Model) -> ir.Model:
    """Return the graph in the project's opset."""
    opset = model.opset_imports[""]
    try:
        proto = version_converter.convert_version(ir.to_proto(model), OPSET)
    except Exception as error:  # C++ errors, which share no base class
        raise FileFormatError(
            f"opset {opset} can't be converted to {OPSET} ({first_line(error)}); export"
            f" the file again with opset {OPSET}"
        ) from error
    converted = ir.from_proto(proto)
    converted.metadata_props.update(model.metadata_props)
    return converted


_SCANNED = ("scan_input_axes", "scan_output_axes")


def _scan_along_first_axis(model: ir.Model) -> None:
    """Let transposes move the axes of scans to the front, in place."""
    scans = [
        node
        for node in model.graph.all_nodes()
        if node.op_type == "Scan"
        and any(any(node.attributes.get_ints(name, ()) or ()) for name in _SCANNED)
    ]
    if scans:
        infer_shapes(model)
    for node in scans:
        _move_inputs(node)
        _move_outputs(node)


def _move_inputs(node: ir.Node) -> None:
    """Transpose the sequences that a Scan reads."""
    axes = _axes(node, "scan_input_axes")
    build = Builder(node, node.name or node.op_type)
    first = len(node.inputs) - len(axes)
    for index, axis in enumerate(axes, first):
        value = node.inputs[index]
        if value is not None and axis != 0:
            order = [*range(_rank(node, value))]
            order.insert(0, order.pop(axis))
            moved = build.value("Transpose", [value], {"perm": order})
            node.replace_input_with(index, moved)


def _move_outputs(node: ir.Node) -> None:
    """Transpose the sequences that a Scan gives."""
    axes = _axes(node, "scan_output_axes")
    first = len(node.outputs) - len(axes)
    for index, axis in enumerate(axes, first):
        value = node.outputs[index]
        if value.name and axis != 0:
            rank = _rank(node, value)
            order = [*range(1, rank)]
            order.insert(axis % rank, 0)
            put_behind(value, "Transpose", [], {"perm": order})


def _axes(node: ir.Node, name: str) -> Sequence[int]:
    """Return the axes of a Scan, which are 0 from now on."""
    axes = node.attributes.get_ints(name, ()) or ()
    node.attributes.pop(name, None)
    return axes


def _rank(node: ir.Node, value: ir.Value) -> int:
    """Return the number of axes of a value; raise ``ContractError`` if it is unknown."""
    if value.shape is None:
        raise ContractError(
            f"{label(node)} scans along another axis than the first one of a value of"
            " unknown rank; transpose it, or declare its shape in the graph"
        )
    return len(value.shape)
