"""Evaluate a node on arrays that are known when the graph is compiled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from lstm_edge_runtime.errors import UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """Return an attribute of a node as a Python value; a tensor as an array."""
    value = node.attributes.get(name)
    if value is None:
        return default
    return value.value.numpy() if value.type is ir.AttributeType.TENSOR else value.value


def evaluate(node: ir.Node, arrays: Sequence[Array | None]) -> list[Array]:
    """Return the outputs of a node of ``ai.onnx``, by the latest version of the operator
    in onnx's reference implementation.

    Raises:
        UnsupportedError: it does not take these arrays, or is not implemented.
    """
    proto: Any = ir.to_proto(node)
    proto.input[:] = [
        f"i{index}" if array is not None else "" for index, array in enumerate(arrays)
    ]
    proto.output[:] = [f"o{index}" for index in range(len(node.outputs))]
    feeds = {
        name: array for name, array in zip(proto.input, arrays, strict=True) if name
    }
    try:
        with np.errstate(all="ignore"):
            outputs = ReferenceEvaluator(proto).run(None, feeds)
    except (
        Exception
    ) as error:  # whatever the implementation raises for sizes that do not fit
        raise UnsupportedError(
            f"stored tensors that do not fit ({first_line(error)})"
        ) from error
    return [np.asarray(output) for output in outputs]
