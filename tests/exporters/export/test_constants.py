"""Constants that the translation makes are computed in float64 and rounded once."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export

P = nn.utils.parametrizations


class Standardized(nn.Conv1d):
    """Weights with mean 0 and variance 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = self.weight.flatten(1)
        var, mean = torch.var_mean(flat, 1, unbiased=False)
        weight = (self.weight - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        return nn.functional.conv1d(x, weight, self.bias, padding=1)


class LowRank(nn.Conv1d):
    """A fine-tuned convolution: its weights and a product of two narrow matrices."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out, 3, padding=1)
        self.a, self.b = nn.Parameter(torch.rand(out, 4)), nn.Parameter(torch.rand(4, width * 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight + 0.37 * (self.a @ self.b).reshape(self.weight.shape)
        return nn.functional.conv1d(x, weight, self.bias, padding=1)


class Wide(nn.Module):
    """Sums over many inputs that do not cancel: errors that weights share add up."""

    def __init__(self, front: nn.Module, out: int) -> None:
        super().__init__()
        self.front, self.lstm = front, nn.LSTM(out, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(self.front(x).transpose(1, 2))[0]


class OverFeatures(nn.Module):
    """Linear and batch norm on ``(N, I)``, as one Gemm computes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear, self.norm, self.cell = nn.Linear(width, 8), nn.BatchNorm1d(8), nn.LSTMCell(8, 4)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.cell(self.norm(self.linear(x)), (h, c))


def positive(module: nn.Module, seed: int = 0) -> nn.Module:
    """Draw every parameter and statistic between 0.1 and 1.1."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1.1)
    return module.eval()


def conv(width: int, out: int, **options: object) -> nn.Conv1d:
    return nn.Conv1d(width, out, 3, padding=1, **options)  # type: ignore[arg-type]


def transposed(width: int, out: int, groups: int) -> nn.Module:
    layer = nn.ConvTranspose1d(width, out, 3, padding=1, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm1d(out))


FRONTS: dict[str, Callable[[], tuple[nn.Module, int]]] = {
    "batch norm": lambda: (nn.Sequential(conv(500, 6, bias=False), nn.BatchNorm1d(6)), 6),
    "batch norm of groups": lambda: (nn.Sequential(conv(500, 6, groups=2), nn.BatchNorm1d(6)), 6),
    "batch norm, transposed": lambda: (transposed(500, 6, 1), 6),
    "batch norm, transposed, of groups": lambda: (transposed(500, 6, 2), 6),
    "weight norm": lambda: (P.weight_norm(conv(500, 4)), 4),
    "weight norm and batch norm": lambda: (nn.Sequential(P.weight_norm(conv(500, 4)), nn.BatchNorm1d(4)), 4),
    "weight norm, more than onnxscript folds": lambda: (P.weight_norm(conv(500, 20)), 20),
    "spectral norm": lambda: (P.spectral_norm(conv(500, 4)), 4),
    "standardized": lambda: (Standardized(500, 4, 3), 4),
    "low rank": lambda: (LowRank(500, 4), 4),
}


QUICK = ("batch norm", "batch norm, transposed, of groups", "weight norm", "low rank")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.system) for name in FRONTS]
)
def test_weights_that_are_computed_are_rounded_once(name: str) -> None:
    module = Wide(*FRONTS[name]())
    made = export(positive(module), (torch.rand(2, 500, 9),), ExportConfig())
    assert made.equivalence.equality.equal
    graph = onnx.load_from_string(made.model).graph
    assert graph.node[0].op_type in ("Conv", "ConvTranspose")
    with torch.no_grad():
        one = torch.zeros(500, 500, 3, dtype=torch.float64)
        one[range(500), range(500), 1] = 1.0
        wide = module.front.double()
        bias = wide(torch.zeros(1, 500, 3, dtype=torch.float64))[0, :, 1]
        exact = (wide(one) - bias[:, None]).numpy()  # the weights, input by input
    arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    weights, shift = (arrays[name] for name in graph.node[0].input[1:])
    np.testing.assert_allclose(shift, bias, rtol=2.0**-24, atol=0)
    if graph.node[0].op_type == "Conv" and weights.shape[1] == len(exact):
        np.testing.assert_allclose(weights.transpose(1, 0, 2)[..., ::-1], exact, rtol=2.0**-22, atol=0)


def test_a_batch_norm_over_features_becomes_one_product() -> None:
    module = positive(OverFeatures(3000))
    made = export(module, (torch.rand(2, 3000), torch.zeros(2, 4), torch.zeros(2, 4)), ExportConfig())
    assert "BatchNormalization" not in [node.op_type for node in onnx.load_from_string(made.model).graph.node]


def test_a_batch_norm_stays_where_it_can_not_be_folded() -> None:
    class Twice(nn.Module):
        """The same weights with and without a norm."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.lstm = conv(6, 6), nn.BatchNorm1d(6), nn.LSTM(6, 4, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.lstm((self.norm(y) + y).transpose(1, 2))[0]

    made = export(positive(Twice()), (torch.rand(2, 6, 9),), ExportConfig())
    assert "BatchNormalization" in [node.op_type for node in onnx.load_from_string(made.model).graph.node]
