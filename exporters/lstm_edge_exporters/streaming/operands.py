"""Attributes and constant operands of a node."""

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir

from ..graph import constant
from .rewrite import Rewriter


def ints(node: ir.Node, name: str) -> list[int]:
    """Return the numbers of an attribute, none if it is missing."""
    return [*(node.attributes.get_ints(name, None) or ())]


def numbers(
    work: Rewriter, node: ir.Node, index: int, default: Iterable[float] | None = None
) -> list[Any]:
    """Return the numbers of a constant operand, or ``default`` if it is missing."""
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if array is None and (value is not None or default is None):
        raise work.refusal("takes computed numbers along time")
    return [*(default or ())] if array is None else array.reshape(-1).tolist()


def elements(value: ir.Value | None, size: int) -> list[int | None]:
    """Return the elements of a vector, None for those that are computed from sizes."""
    array = constant(value)
    node = None if value is None else value.producer()
    if array is not None:
        return list(array.reshape(-1).tolist())
    if node is not None and node.op_type == "Concat":
        return [element for operand in node.inputs for element in elements(operand, 1)]
    if node is not None and node.op_type in (
        "Cast",
        "Identity",
        "Reshape",
        "Unsqueeze",
    ):
        return elements(node.inputs[0], size)
    return [None] * size
