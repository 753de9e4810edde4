"""Layer normalization of values far from zero, as onnxruntime before 1.27 needs it.

Up to 1.26 its kernel takes the variance as E[x^2] - E[x]^2. The result is off by about 9 (mean/std)^2 units
in the last place: by 5e-5 where the mean is ten times the standard deviation, and it is NaN at 1e5 times.
Where the cases of an export come near that, the mean is subtracted first, which is the same function.
"""

import contextlib
from collections.abc import Iterable

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import open_session, run_by_name

from ..graph import Builder
from ..numerics.cases import Case

_MOST = 1.0
"""The largest square of mean by standard deviation that the old kernel takes within three noise floors."""


def center_norms(model: ir.Model, content: bytes, cases: Iterable[Case]) -> bool:
    """Subtract the mean in front of each layer norm that needs it, in place; return whether any did.

    Args:
        model: the graph.
        content: the same as a file.
        cases: what it is run on.
    """
    norms = {
        node: str(node.inputs[0].name)
        for node in model.graph
        if node.op_type == "LayerNormalization" and node.inputs[0] is not None and _axes(node)
    }
    if not norms:
        return False
    proto = onnx.load_from_string(content)
    passed = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    proto.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        for name in {*norms.values()} - passed
    )
    session = open_session(proto.SerializeToString())
    largest = dict.fromkeys(norms, 0.0)
    for case in cases:
        with contextlib.suppress(Exception):  # a size that the graph does not take; the verification will say
            values = {**case.feeds, **run_by_name(session, case.feeds)}
            for node, name in norms.items():
                largest[node] = max(largest[node], _offset(values[name], _axes(node)))
    for node in (node for node, offset in largest.items() if offset > _MOST):
        build, x = Builder(node, "centered"), node.inputs[0]
        (mean,) = build.node("ReduceMean", [x, build.constant(np.array(_axes(node)), "axes")])
        node.replace_input_with(0, build.node("Sub", [x, mean])[0])
    return max(largest.values()) > _MOST


def _axes(node: ir.Node) -> list[int]:
    """Return the axes that a node normalizes, from the last; none where they are counted from the first."""
    axis = node.attributes.get("axis")
    return [*range(-1 if axis is None else axis.as_int(), 0)]


def _offset(x: Array, axes: list[int]) -> float:
    """Return the largest square of mean by standard deviation; rows without spread don't count."""
    wide = x.astype(np.float64)
    mean, variance = wide.mean(tuple(axes)), wide.var(tuple(axes))
    some = variance > 1e-12 * np.square(mean)
    return float(np.max(np.square(mean[some]) / variance[some], initial=0.0))
