"""Operators that compute each frame from the same frame of their operands."""

from collections.abc import Iterable

import onnx_ir as ir

from ..graph import ELEMENTWISE, axes_of, constant
from .rewrite import Flow, Rewriter

ALONG_ONE_AXIS = {
    "ArgMax": 0,
    "ArgMin": 0,
    "GatherElements": 0,
    "Hardmax": -1,
    "LogSoftmax": -1,
    "LpNormalization": -1,
    "Softmax": -1,
    "Split": 0,
    "TopK": -1,
}
"""Operators that read one axis as a whole, and its default."""
REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)
"""Operators that read the axes of an attribute or of their second operand."""
NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
"""Operators that read all axes from one on."""
PRODUCTS = ("Einsum", "Gemm", "MatMul")
"""Operators that sum products along an axis."""
PER_FRAME = (
    *ELEMENTWISE,
    *ALONG_ONE_AXIS,
    *REDUCTIONS,
    *NORMALIZATIONS,
    *PRODUCTS,
    "GatherND",
)
_PARTIAL = (
    *("Acos", "Acosh", "Asin", "Atanh", "Div", "Log", "LpNormalization", "Mod", "Pow"),
    *("Reciprocal", "ReduceLogSum", "Sqrt"),
)
"""Operators that have no result for some numbers."""


def per_frame(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite an operator of single frames: operands wait for one another."""
    rate = work.flows[value].rate
    operands = [
        (index, operand, work.flows[operand])
        for index, operand in enumerate(node.inputs)
        if operand is not None and operand in work.flows
    ]
    delay = max(0, *(incoming.delay for _, _, incoming in operands))
    for index, operand, incoming in operands:
        if incoming.rate != rate:
            raise work.refusal("joins frames of different rates")
        if incoming.axis in axes_read(node, index, len(axes_of(operand))):
            raise work.refusal("reads all time")
        waiting, _ = work.wait(operand, incoming, delay - incoming.delay)
        node.replace_input_with(index, waiting)
    work.undefined |= delay > 0 and node.op_type in _PARTIAL
    for result in node.outputs:
        time = work.time_of(result)
        if time is not None:
            work.set(result, Flow(time.index, delay, rate))
        elif result.uses() or result.is_graph_output():
            raise work.refusal("reads all time")


def axes_read(node: ir.Node, index: int, rank: int) -> Iterable[int]:
    """Return the axes of an operand that each element of the result reads as a
    whole.
    """
    op = node.op_type
    if op in ALONG_ONE_AXIS:
        axis = node.attributes.get_int("axis", ALONG_ONE_AXIS[op])
        return [axis % max(rank, 1)]
    if op in NORMALIZATIONS:
        return range(node.attributes.get_int("axis", -1) % max(rank, 1), rank)
    if op in REDUCTIONS:
        return _reduced_axes(node, rank)
    if op == "GatherND":
        return _indexed_axes(node, index, rank)
    if op == "Einsum":
        return _summed_axes(node, index, rank)
    if op == "MatMul":
        return [rank - 1] if index == 0 or rank == 1 else [rank - 2]
    if op == "Gemm" and index == 0:
        return [0] if node.attributes.get_int("transA", 0) else [1]
    if op == "Gemm" and index == 1:
        return [1] if node.attributes.get_int("transB", 0) else [0]
    return ()


def _reduced_axes(node: ir.Node, rank: int) -> list[int]:
    """Return the axes that a reduction reads; all if they are computed or left out."""
    stored_axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    axes = [] if stored_axes is None else stored_axes.reshape(-1).tolist()
    return [axis % rank for axis in axes or range(rank)]


def _indexed_axes(node: ir.Node, index: int, rank: int) -> Iterable[int]:
    """Return the axes of the data of a GatherND that constant indices select from."""
    indices = constant(node.inputs[1])
    if index != 0 or indices is None:
        return range(rank)
    first = node.attributes.get_int("batch_dims", 0)
    return range(first, first + indices.shape[-1])


def _summed_axes(node: ir.Node, index: int, rank: int) -> Iterable[int]:
    """Return the axes of an operand of an Einsum that the result does not have."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    if not arrow or "." in equation:
        return range(rank)
    letters = terms.split(",")[index]
    return [axis for axis, letter in enumerate(letters) if letter not in result]
