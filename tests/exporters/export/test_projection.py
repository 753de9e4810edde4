"""``proj_size`` folded into a standard node, whatever the projection's condition."""

import numpy as np
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

from lstm_edge_runtime.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)


class Projected(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.rnn = nn.LSTM(5, 8, proj_size=4, batch_first=True, **options)

    def forward(self, x, h_0, c_0):
        output, (h_n, c_n) = self.rnn(x, (h_0, c_0))
        return output, h_n, c_n


def with_condition(module, condition):
    """Make every projection have the singular values 1 ... 1/condition; infinity makes
    it rank-deficient."""
    for name, weight in module.named_parameters():
        if "weight_hr" in name:
            u, _, v = torch.linalg.svd(weight.detach().double(), full_matrices=False)
            singular = torch.linspace(0, 1, weight.shape[0], dtype=torch.float64)
            scales = (
                condition**-singular
                if np.isfinite(condition)
                else (singular < 0.9).double()
            )
            weight.data = (u @ torch.diag(scales) @ v).float()
    return module


@pytest.mark.parametrize("condition", [1.0, 50.0, 900.0])
@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}], ids=["one", "stack"]
)
def test_a_projection_is_exact(condition, options):
    torch.manual_seed(0)
    module = with_condition(Projected(**options), condition).eval()
    rows = options.get("num_layers", 1) * (2 if options else 1)
    example = (torch.randn(3, 6, 5), torch.randn(rows, 3, 4), torch.randn(rows, 3, 8))
    artifact = export(module, example)
    assert artifact.verified.largest < 1e-11
    assert [state.axes for state in artifact.manifest.states] == [
        (rows, "N", 4),
        (rows, "N", 8),
    ]


def test_a_projection_without_an_inverse_is_refused():
    torch.manual_seed(0)
    module = with_condition(Projected(), np.inf).eval()
    with pytest.raises(UnsupportedError, match=r"projection of l0 .*smaller proj_size"):
        export(
            module, (torch.randn(3, 6, 5), torch.randn(1, 3, 4), torch.randn(1, 3, 8))
        )
