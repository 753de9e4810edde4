"""Layer norms keep their accuracy on kernels that take the variance in one pass, as onnxruntime's did."""

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from torch import nn

from lstm_edge_exporters import export


class LayerNormalization(OpRun):
    """onnxruntime's kernel up to 1.26, in float32."""

    op_domain = ""

    def _run(self, x, scale, bias=None, axis=-1, epsilon=1e-5, stash_type=1):
        axes = tuple(range(axis, 0))
        mean = x.mean(axes, keepdims=True, dtype=np.float32)
        square = np.square(x).mean(axes, keepdims=True, dtype=np.float32)
        spread = np.sqrt(square - np.square(mean) + np.float32(epsilon))
        y = (x - mean) / spread * scale
        return (y if bias is None else y + bias,)


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.rnn = nn.GRU(32, 5, batch_first=True)

    def forward(self, x):
        return self.rnn(self.norm(x))[0]


@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
def test_the_norm_of_an_input_with_an_offset_is_within_the_golden_limits_in_one_pass(offset):
    torch.manual_seed(1)
    artifact = export(Normed().eval(), torch.randn(3, 5, 32) + offset)
    model = onnx.load_from_string(artifact.model)
    golden = artifact.manifest.golden
    got = ReferenceEvaluator(model, new_ops=[LayerNormalization]).run(None, dict(golden.inputs))
    by_name = dict(zip([output.name for output in model.graph.output], got, strict=True))
    for name, limits in golden.limits.items():
        assert np.all(np.abs(by_name[name] - golden.outputs[name]) <= limits)
    assert ("Sub" in artifact.nodes) == (offset > 0)
