"""What of a file is quantized: nodes with int8 arithmetic, and nodes whose weights are stored small."""

from collections import Counter
from collections.abc import Iterator

import onnx

from lstm_edge_runtime.errors import CheckFailedError

__all__ = ["Count", "count_quantized"]

_ARITHMETIC = {"DynamicQuantizeLSTM": "LSTM", "MatMulInteger": "Linear"}
_RECURRENT = ("LSTM", "GRU", "RNN")
_STORED = (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16)

Count = dict[str, int]
"""What was made smaller, to how many nodes: ``{"LSTM int8": 2, "GRU stored": 1}``."""


def count_quantized(model: onnx.ModelProto, what: str) -> Count:
    """Count the nodes that are smaller than they were.

    Args:
        model: the smaller file.
        what: its precision, for words.

    Raises:
        CheckFailedError: none is; or there are recurrent nodes and none of them is.
    """
    found: Counter[str] = Counter()
    left: list[str] = []
    for graph in _graphs(model.graph):
        made_by = {name: node for node in graph.node for name in node.output}
        held = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for node in graph.node:
            weights = [_source(name, made_by, held) for name in node.input[1:3] + node.input[:1]]
            if node.op_type in _ARITHMETIC:
                found[f"{_ARITHMETIC[node.op_type]} {what}"] += 1
            elif node.op_type not in ("Cast", "Mul") and any(kind in _STORED for kind in weights):
                found[f"{node.op_type} stored"] += 1
            elif node.op_type in _RECURRENT:
                left.append(f"{node.op_type} {node.name or node.output[0]}")
    recurrent = [name for name in found if name.split()[0] in _RECURRENT]
    if not found or (left and not recurrent):
        names = f" ({', '.join(left)})" if left else ""
        raise CheckFailedError(
            f"nothing {'recurrent ' if left else ''}could be quantized{names}: weights must be float32 "
            "constants in the main graph (and of 256 elements or more to be stored); keep the float file"
        )
    if left:
        found["recurrent left float"] = len(left)
    return dict(found)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _source(name: str, made_by: dict[str, onnx.NodeProto], held: dict[str, int]) -> int | None:
    """Return the dtype that a weight is stored in, seen through Cast and Mul."""
    while name not in held:
        node = made_by.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        name = node.input[0]
    return held[name]
