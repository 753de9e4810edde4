"""What a graph declares of its values: dropped where the inputs changed, and inferred anew."""

from collections.abc import Iterator

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

__all__ = ["forget_shapes", "infer_shapes"]

_MAKES_NO_TENSOR = (
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
)


def forget_shapes(model: ir.Model) -> None:
    """Drop what the graph declares about values that follow from the inputs."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None


def infer_shapes(model: ir.Model) -> None:
    """Infer dtypes and shapes of tensors, in place.

    onnx-ir's pass takes a sequence that no declaration calls one for a tensor of its elements' dtype; such a
    value is left without a type.
    """
    untyped = {
        value
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        for value in node.outputs
        if value.type is None
    }
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)
    sequences: set[ir.Value] = set()
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in _no_tensors(node, sequences):
            sequences.add(value)
            if value in untyped:
                value.type = value.shape = None


def _no_tensors(node: ir.Node, known: set[ir.Value]) -> Iterator[ir.Value]:
    """Return the outputs of ``node`` that are sequences or optionals, where those before it are ``known``."""
    if node.op_type in _MAKES_NO_TENSOR or (node.op_type == "Identity" and node.inputs[0] in known):
        yield from node.outputs
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            inner = body.outputs[len(body.outputs) - len(node.outputs) :]
            for value, within in zip(node.outputs, inner, strict=False):
                if isinstance(within.type, ir.SequenceType | ir.OptionalType):
                    yield value
