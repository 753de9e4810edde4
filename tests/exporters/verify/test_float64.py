"""The evaluation in float64 agrees with PyTorch where onnx's evaluator does not."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from lstm_edge_exporters.verify.float64 import Graph64

X = np.random.default_rng(0).standard_normal((3, 4, 5)) * 1e3
X[0, :, 0] = -np.inf
X[1, 2, 3] = np.inf
X[2, 0, 0] = np.nan
NODES = {
    "LogSoftmax(x)": lambda x: x.log_softmax(-1),
    "LogSoftmax<axis=1>(x)": lambda x: x.log_softmax(1),
    "ReduceLogSumExp(x)": lambda x: x.logsumexp((0, 1, 2), keepdim=True),
    "ReduceLogSumExp<keepdims=0>(x, last)": lambda x: x.logsumexp(-1),
    "ReduceLogSumExp(x, first)": lambda x: x.logsumexp((0, 1), keepdim=True),
}


@pytest.mark.parametrize("node", NODES)
def test_exponentials_of_large_and_infinite_numbers(node):
    text = f"""<ir_version: 10, opset_import: ["": 18]> g (double[A, B, C] x) => (double[D] y)
        <int64[1] last = {{-1}}, int64[2] first = {{0, 1}}> {{ y = {node} }}"""
    graph = Graph64(ir.from_proto(onnx.parser.parse_model(text)))
    want = NODES[node](torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(graph({"x": X})["y"], want, rtol=1e-15)
