"""What a smaller file must pass before it exists: really quantised, smaller, within its budget."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx

from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.tolerance import limit_for

from ._config import Budget
from .judge import Judgement, Moved

__all__ = ["Count", "broken", "count_quantised", "limits"]

_ARITHMETIC = {"DynamicQuantizeLSTM": "LSTM", "MatMulInteger": "Linear"}
_RECURRENT = ("LSTM", "GRU", "RNN")
_MARGIN = 4.0
"""How many times the largest measured difference another device may be away: rounding falls otherwise there,
saturation (8 times and more, measured on x86 without VNNI) is still caught."""
_STORED = (onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16)

Count = dict[str, int]
"""What was made smaller, to how many nodes: ``{"LSTM int8": 2, "GRU stored": 1}``."""


def count_quantised(model: onnx.ModelProto, what: str) -> Count:
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
            f"nothing {'recurrent ' if left else ''}could be quantised{names}: weights must be float32 "
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
    for group, most in ((judgement.drift, budget.drift), (judgement.change, budget.change)):
        for name, moved in group.items():
            if not moved.share <= most:
                at = f" at step {moved.step}" if moved.step else ""
                said.append(f"{name} moves by {moved.share:.4f} of {moved.scale:.4g}{at} (budget {most:g})")
    return said


def limits(judgement: Judgement, budget: Budget) -> dict[str, float]:
    """Give, per output, the absolute limit that a self-test holds a device to.

    Four times the largest difference that was measured, and never more than the budget: a device may round
    otherwise than this one, and must not compute something else.
    """
    return {
        **{name: _limit(moved, budget.change) for name, moved in judgement.change.items()},
        **{name: _limit(moved, budget.drift) for name, moved in judgement.drift.items()},
    }


def _limit(moved: Moved, most: float) -> float:
    least = limit_for(np.array([moved.scale]), 0.0)
    return max(min(_MARGIN * moved.largest, most * moved.scale), least)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _source(name: str, made_by: dict[str, onnx.NodeProto], held: dict[str, int]) -> int | None:
    """Give the dtype that a weight is stored in, seen through Cast and Mul."""
    while name not in held:
        node = made_by.get(name)
        if node is None or node.op_type not in ("Cast", "Mul"):
            return None
        name = node.input[0]
    return held[name]
