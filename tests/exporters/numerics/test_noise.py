"""Noise floors: engines are within them on healthy networks of whatever scale."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.compare import MANY_DRAWS, expected
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.numerics.noise import Rounding
from lstm_edge_exporters.verify.cases import Case
from lstm_edge_runtime import load


class Net(nn.Module):
    """A recurrent layer, a linear head, and a function at the end."""

    def __init__(self, kind="LSTM", width=16, outputs=2, end=None, **options):
        super().__init__()
        self.rnn = getattr(nn, kind)(6, width, batch_first=True, **options)
        self.head = nn.Linear(width, outputs)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.head(self.rnn(x)[0]))


def made(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options).eval()


@pytest.mark.parametrize("bias", [-4.0, -6.0, -14.0])
def test_a_detector_with_small_probabilities_is_exported(bias):
    module = made(end=nn.Sigmoid())
    with torch.no_grad():
        module.head.bias += bias
    assert load(export(module, torch.randn(2, 9, 6), ExportConfig()).model).selftest().ok


def test_an_rnn_with_small_states_is_exported():
    torch.manual_seed(0)
    module = nn.RNN(6, 16, batch_first=True).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= 1e-3
    export(module, torch.randn(2, 9, 6), ExportConfig())


@pytest.mark.parametrize("gate", [0, 3])
def test_an_lstm_whose_gates_are_mostly_closed_is_exported(gate):
    module = made(seed=gate)
    with torch.no_grad():
        module.rnn.bias_ih_l0[gate * 16 : (gate + 1) * 16] -= 8
    export(module, torch.randn(2, 9, 6), ExportConfig())


class Normalized(nn.Module):
    """A signal's channels, each by its own mean and spread."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


def fitted(channels):
    norm = nn.BatchNorm1d(channels)
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4e-4)
    return norm


@pytest.mark.system
@pytest.mark.parametrize(
    "norm", [fitted(6), nn.InstanceNorm1d(6), nn.GroupNorm(6, 6)], ids=lambda norm: type(norm).__name__
)
def test_a_channel_that_varies_little_around_its_mean_is_normalized_as_exactly_as_float32_can(norm):
    module = Normalized(norm).eval()
    rng = np.random.default_rng(0)
    cases = [
        Case({"N": 1, "L": 2}, {"x": (2 + 0.02 * rng.standard_normal((1, 2, 6))).astype(np.float32)}, True)
        for _ in range(50)
    ]
    config = ExportConfig(inputs={"x": ("N", "L", 6)})
    made = export(module, torch.from_numpy(np.repeat(cases[0].feeds["x"], 3, 0)), config)
    session = onnxruntime.InferenceSession(made.model)
    graph = Graph64(onnx.load_from_string(made.model))
    for case in cases:
        with torch.no_grad():
            own = module(torch.from_numpy(case.feeds["x"])).numpy()
        known = expected(graph, case.feeds, {"output": (-1,)}, draws=MANY_DRAWS)
        for got in (own, session.run(None, dict(case.feeds))[0]):
            (record,) = known.compare({"output": got})
            assert record.ok, record


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_a_rounded_value_keeps_its_shape(shape):
    rounding, value = Rounding(0), np.asarray(np.full(shape, 2.0))
    for found in (
        rounding.relative(value),
        rounding.relative(value, 2.0),
        rounding.absolute(value),
        rounding.signs(shape),
    ):
        assert isinstance(found, np.ndarray)
        assert found.shape == shape


class ScaledByNumbers(nn.Module):
    """Attention's scale, a learned temperature and a gate: elementary functions of tensors without axes."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(6, 4, batch_first=True)
        self.log_scale = nn.Parameter(torch.tensor(0.3))

    def forward(self, x):
        return self.rnn(x)[0] / torch.sqrt(torch.tensor(8.0)) * self.log_scale.exp() * self.log_scale.rsqrt()


def test_elementary_functions_of_a_tensor_without_axes_export():
    torch.manual_seed(0)
    assert load(export(ScaledByNumbers(), torch.zeros(2, 5, 6)).model).selftest().ok


@pytest.mark.parametrize("keep", [False, True])
def test_signs_are_kept_over_time_or_drawn_anew(keep):
    rounding, value = Rounding(0, keep=keep), np.ones((5, 64))
    mark = rounding.mark()
    first = rounding.relative(value)
    rounding.go_back(mark)
    assert np.array_equal(first, rounding.relative(value)) == keep
    assert (first == first[0]).all() == keep
    assert not np.array_equal(first, rounding.relative(value))
