"""Products whose second operand is computed, as ones with stored weights, or as
elementwise products and sums.
"""

import string

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

from ...graph import Builder, operands, walk

_OPERATORS = ("Einsum", "MatMul")
_OPERANDS = 2


def rewrite_products(model: ir.Model) -> None:
    """Replace each Einsum of two operands, and each MatMul whose second operand is
    computed, in place. The ranks of their operands are known.

    Raises:
        UnsupportedError: an equation has another form.
    """
    for node in [node for node in model.graph if node.op_type in _OPERATORS]:
        computed = [not _is_stored(value) for value in node.inputs]
        if node.op_type == "Einsum" or all(computed):
            _rewrite(node)
        elif computed == [False, True]:
            _exchange(node)


def _is_stored(value: ir.Value | None) -> bool:
    """Return True if a value is computed from constants alone, such as int8 weights
    and their scales.
    """
    above = walk([value] if value is not None else [], operands)
    return not any(x.is_graph_input() and not x.is_initializer() for x in above)


def _exchange(node: ir.Node) -> None:
    """Replace ``A @ b``, of a stored matrix, by ``(b.T @ A.T).T``."""
    stored, value = node.inputs
    assert stored is not None
    assert value is not None
    rank = len(value.shape or ())
    if len(stored.shape or ()) != _OPERANDS or rank < _OPERANDS:
        raise UnsupportedError(
            f"node {node.name!r} (MatMul): a stored value in front that is not a matrix,"
            " or a vector behind it"
        )
    turned = {"perm": [*range(rank - 2), rank - 1, rank - 2]}
    build = Builder(node, node.name or node.op_type)
    columns = build.value("Transpose", [value], turned)
    matrix = build.value("Transpose", [stored])
    product = build.value("MatMul", [columns, matrix])
    result = build.value("Transpose", [product], turned)
    _take_place(build, node, result)


def _rewrite(node: ir.Node) -> None:
    """Replace a product by ``ReduceSum(a * b)`` over the letters that are left out."""
    left, right, result = _equation(node)
    summed = "".join(dict.fromkeys(x for x in left + right if x not in result))
    letters = result + summed
    build = Builder(node, node.name or node.op_type)
    a, b = (
        _spread(build, value, letters_of_value=letters_of_input, letters=letters)
        for value, letters_of_input in zip(node.inputs, (left, right), strict=True)
    )
    product = build.value("Mul", [a, b])
    if summed:
        axes = np.arange(len(result), len(letters))
        product = build.value("ReduceSum", [product, axes], {"keepdims": 0})
    _take_place(build, node, product)


def _take_place(build: Builder, node: ir.Node, result: ir.Value) -> None:
    """Let ``result`` be the node's."""
    result.name = node.outputs[0].name
    result.type = node.outputs[0].type
    result.shape = node.outputs[0].shape
    build.replace([result])


def _equation(node: ir.Node) -> tuple[str, str, str]:
    """Return the letters of the axes of both operands and of the result."""
    if node.op_type == "Einsum":
        equation = node.attributes["equation"].as_string().replace(" ", "")
        operands, _, result = equation.partition("->")
        inputs = operands.split(",")
        letters = "".join((*inputs, result))
        repeated = any(len({*term}) < len(term) for term in (*inputs, result))
        if len(inputs) != _OPERANDS or not letters.isalpha() or repeated:
            raise UnsupportedError(
                f"node {node.name!r} (Einsum): equation {equation!r}, expected two"
                " operands and an axis once in each"
            )
        return inputs[0], inputs[1], result
    ranks = [len(value.shape or ()) for value in node.inputs if value is not None]
    if min(ranks) < 2:
        raise UnsupportedError(
            f"node {node.name!r} (MatMul): a vector, or a value of unknown shape"
        )
    outer = string.ascii_lowercase[: max(ranks) - 2]
    left = outer[len(outer) - ranks[0] + 2 :] + "XY"
    right = outer[len(outer) - ranks[1] + 2 :] + "YZ"
    return left, right, outer + "XZ"


def _spread(
    build: Builder, value: ir.Value | None, letters_of_value: str, letters: str
) -> ir.Value:
    """Return ``value``, with an axis per letter of ``letters_of_value``, with one per letter of
    ``letters``.
    """
    assert value is not None
    order = sorted(letters_of_value, key=letters.index)
    if order != [*letters_of_value]:
        perm = [letters_of_value.index(letter) for letter in order]
        value = build.value("Transpose", [value], {"perm": perm})
    missing = [
        at for at, letter in enumerate(letters) if letter not in letters_of_value
    ]
    if missing:
        value = build.value("Unsqueeze", [value, np.array(missing)])
    return value
