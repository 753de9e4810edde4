"""Functions that PyTorch computes without overflow and cancellation, far from 1."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load

POSITIVE = torch.tensor([1e-30, 1e-4, 0.5, 20.0, 100.0, 1e4, 1e30])
VALUES = torch.cat([-POSITIVE, POSITIVE, torch.zeros(1)])
FUNCTIONS = {
    "log_sigmoid": F.logsigmoid,
    "softplus": F.softplus,
    "log_add_exp": lambda x: torch.logaddexp(x, x.flip(-1)),
    "log_add_exp_of_zero": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "log_add_exp_of_infinities": lambda x: torch.logaddexp(
        x.masked_fill(x > 50, -torch.inf), x.masked_fill(x > 5, -torch.inf)
    ),
    "log_add_exp2": lambda x: torch.logaddexp2(x, x.flip(-1)),
    "log_sum_exp": lambda x: torch.logsumexp(x, -1),
    "log_softmax": lambda x: F.log_softmax(x, -1),
    "expm1": lambda x: 1e4 * torch.expm1(x.clamp_max(50.0)),
    "log1p": lambda x: 1e4 * torch.log1p(x.abs()),
    "log1p_below": lambda x: torch.log1p(-0.5 * torch.exp(-x.abs())),
    "silu": F.silu,
    "mish": F.mish,
    "cross_entropy": lambda x: F.binary_cross_entropy_with_logits(
        x, torch.full_like(x, 0.3), reduction="none"
    ),
    "so_far": lambda x: torch.logcumsumexp(x, 1),
}


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(len(VALUES), 2, batch_first=True)

    def forward(self, x):
        results = {name: function(x) for name, function in FUNCTIONS.items()}
        return {**results, "y": self.rnn(x)[0]}


def test_results_are_those_of_pytorch_far_from_one():
    torch.manual_seed(0)
    module = Table().eval()
    model = export(module, torch.randn(2, 4, len(VALUES))).model
    x = torch.stack([VALUES, VALUES.roll(1), VALUES.roll(4)])[None]
    want = module(x)
    for engine in (model, to_native(model)):
        got = load(engine).run({"x": x.numpy()})[0]
        for name in FUNCTIONS:
            np.testing.assert_allclose(
                got[name], want[name].numpy(), rtol=1e-4, atol=1e-7, err_msg=name
            )
