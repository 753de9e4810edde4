"""What a smaller file must pass before it exists: really quantized, smaller, within its budget."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt
import onnx

from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.tolerance import limit_for

from ._config import Budget
from .judge import Judgement

__all__ = ["Count", "broken", "count_quantized", "limits"]

_ARITHMETIC = {"DynamicQuantizeLSTM": "LSTM", "MatMulInteger": "Linear"}
_RECURRENT = ("LSTM", "GRU", "RNN")
_MARGIN = 4.0
"""How many times the largest measured difference another device may be away: rounding falls otherwise there,
saturation (8 times and more, measured on x86 without VNNI) is still caught."""
_STORED = (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16)

Array = npt.NDArray[Any]
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


def broken(judgement: Judgement, budget: Budget) -> list[str]:
    """Say in which points, with figures, ``judgement`` is outside ``budget``."""
    said = []
    if judgement.agreement is not None and judgement.agreement < budget.agreement:
        said.append(f"{judgement.agreement:.4f} of labels agree (budget {budget.agreement:g})")
    if judgement.accuracy is not None:
        before, after = judgement.accuracy
        if (before - after) * judgement.cases > budget.samples + 1e-6:
            said.append(f"accuracy falls from {before:.4f} to {after:.4f} (budget {budget.samples} samples)")
    for name, drifted in judgement.drift.items():
        if not drifted.share <= budget.drift:
            said.append(f"{name} drifts by {drifted.share:.4f} of its size (budget {budget.drift:g})")
    for name, changed in judgement.change.items():
        if not changed.share <= budget.change:
            said.append(f"{name} changes by {changed.share:.4f} of its range (budget {budget.change:g})")
    return said


def limits(largest: dict[str, float], golden: Mapping[str, Array]) -> dict[str, float]:
    """Give, per output, the absolute limit that a self-test holds a device to.

    Args:
        largest: the largest difference per output on the golden case, measured here.
        golden: the golden outputs.
    """
    return {name: max(_MARGIN * largest[name], limit_for(array, 0.0)) for name, array in golden.items()}


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
