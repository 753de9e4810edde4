"""Noise floors and limits: healthy networks pass whatever their scale, and small faults are found."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.cases import Case, CaseGenerator, InputSpec
from lstm_edge_exporters.numerics.noise import Layout, Rounding, noise_floors
from lstm_edge_exporters.numerics.reference import Injection, Signature, TorchReference
from lstm_edge_exporters.numerics.verify import verify
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError


class Net(nn.Module):
    """A recurrent layer, a linear head, and a function at the end."""

    def __init__(self, kind="LSTM", width=16, outputs=2, end=None, **options):
        super().__init__()
        self.rnn = getattr(nn, kind)(6, width, batch_first=True, **options)
        self.head = nn.Linear(width, outputs)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.head(self.rnn(x)[0]))


class Units(nn.Module):
    """Pressure in Pa and an angle in rad."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor([500.0, 0.02]))
        self.register_buffer("center", torch.tensor([101325.0, 0.0]))

    def forward(self, x):
        return x * self.scale + self.center


def made(seed=0, **options):
    torch.manual_seed(seed)
    return Net(**options).eval()


def reference_of(module):
    layout = Layout({"x": 0}, {"output": -1})
    return TorchReference(module, Signature.of(module, torch.zeros(2, 5, 6)), ["output"], layout=layout)


CASES = CaseGenerator((InputSpec("x", "float32", ("N", "L", 6)),), "N", "L")


def test_outputs_of_unlike_units_are_each_compared():
    module = made(end=Units())
    reference = reference_of(module)
    verify(reference.run, reference, CASES.cases())

    def wrong(feeds):
        got = reference.run(feeds)["output"].copy()
        got[..., 1] = -0.0002
        return {"output": got}

    with pytest.raises(CheckFailedError, match=r"output\[1, 1, 2\] differs by .* at \[0, 0, 1\]"):
        verify(wrong, reference, CASES.cases())


@pytest.mark.parametrize("bias", [-4.0, -6.0, -14.0])
def test_a_detector_with_small_probabilities_is_exported(bias):
    module = made(end=nn.Sigmoid())
    with torch.no_grad():
        module.head.bias += bias
    figures = export(module, torch.randn(2, 9, 6), ExportConfig()).manifest.equivalence
    assert figures["ratio"] < 1
    assert bool(figures["unverified"]) == (bias == -14.0)
    assert all(3e-7 < limit < 6e-7 for limit in figures["unverified"].values())


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


@pytest.mark.parametrize(
    "norm", [fitted(6), nn.InstanceNorm1d(6), nn.GroupNorm(6, 6)], ids=lambda norm: type(norm).__name__
)
def test_a_channel_that_varies_little_around_its_mean_is_normalized_as_exactly_as_float32_can(norm):
    module = Normalized(norm).eval()
    reference = reference_of(module)
    rng = np.random.default_rng(0)
    cases = [
        Case({"N": 1, "L": 2}, {"x": (2 + 0.02 * rng.standard_normal((1, 2, 6))).astype(np.float32)}, True)
        for _ in range(200)
    ]
    verify(reference.run, reference, cases)
    config = ExportConfig(inputs={"x": ("N", "L", 6)})
    made = export(module, torch.from_numpy(np.repeat(cases[0].feeds["x"], 3, 0)), config)
    session = onnxruntime.InferenceSession(made.model)
    verify(lambda feeds: {"output": session.run(None, feeds)[0]}, reference, cases)


def test_the_floors_of_lifted_states_are_perturbed_as_those_of_outputs_are():
    torch.manual_seed(0)

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(6, 5, batch_first=True)

        def forward(self, x):
            return self.rnn(x)[0]

    module = Inside().eval()
    injections = [Injection(f"{k}_0", f"{k}_n", "rnn", 0, part, 0, (0, 0), 1) for part, k in enumerate("hc")]
    lifted = TorchReference(module, Signature.of(module, torch.zeros(1, 2, 6)), ["output"], injections)
    state = np.full((1, 1, 5), 0.5, np.float32)
    feeds = {"x": np.ones((1, 4, 6), np.float32), "h_0": state, "c_0": state}
    exact = lifted.run64(feeds)
    floors = noise_floors(lifted, feeds, exact)
    for name in ("h_n", "c_n"):
        assert floors[name].item() > 2 * 2.0**-24 * np.abs(exact[name]).max()
    assert 0.3 < floors["h_n"].item() / floors["output"].item() < 3


def test_rows_that_depend_on_each_other_are_perturbed_in_runs_of_their_own():
    class Summed(nn.Module):
        def forward(self, x):
            return x.sum(0, keepdim=True) + x

    module = Summed().eval()
    signature = Signature.of(module, torch.zeros(2, 6))
    reference = TorchReference(module, signature, ["y"], layout=Layout({"x": 0}, {"y": -1}))
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 6)).astype(np.float32)}
    floors = noise_floors(reference, feeds, reference.run64(feeds))["y"]
    assert floors.shape == (1, 6)
    assert 0 < floors.max() < 1e-6


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("fault", [1e-4, 1e-5])
def test_a_small_fault_in_an_ordinary_network_is_found(kind, fault):
    module, wrong = made(kind=kind), made(kind=kind)
    with torch.no_grad():
        wrong.head.bias[1] += fault
    with pytest.raises(CheckFailedError, match="differs by"):
        verify(reference_of(wrong).run, reference_of(module), CASES.cases())


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 5)
        self.rnn = nn.GRU(5, 7, batch_first=True)

    def forward(self, tokens):
        return self.rnn(self.embed(tokens))[0]


@pytest.mark.parametrize("row", [0, 1, 39])
def test_tokens_are_drawn_over_the_whole_table_and_a_wrong_row_is_found(row):
    torch.manual_seed(0)
    module = Tagger().eval()
    artifact = export(module, torch.randint(20, 30, (3, 5)), ExportConfig(stateless=True))
    file = onnx.load_from_string(artifact.model)
    table = next(each for each in file.graph.initializer if list(each.dims) == [40, 5])
    wrong = onnx.numpy_helper.to_array(table).copy()
    wrong[row] += 1e-3
    with torch.no_grad():
        module.embed.weight.copy_(torch.from_numpy(wrong))
    signature = Signature.of(module, torch.zeros(2, 3, dtype=torch.int64))
    reference = TorchReference(module, signature, ["output"])
    values = reference.index_values({"tokens": np.zeros((1, 2), np.int64)})
    assert values == {"tokens": 40}
    cases = CaseGenerator((InputSpec("tokens", "int64", ("N", "L"), values=40),), "N", "L")
    with load(artifact.model) as model, pytest.raises(CheckFailedError, match="differs by"):
        verify(lambda feeds: model.run(feeds)[0], reference, cases.cases())
    assert artifact.manifest.golden.inputs["tokens"].min() == 0
    assert artifact.manifest.golden.inputs["tokens"].max() == 39


@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0, 4)])
def test_a_rounded_value_keeps_its_shape(shape):
    rounding, value = Rounding(0), np.asarray(np.full(shape, 2.0))
    for found in (
        rounding.relative(value),
        rounding.relative(value, 2.0),
        rounding.absolute(value),
        rounding.factors(shape),
        rounding.factors(shape, 2.0),
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
    assert export(ScaledByNumbers(), torch.zeros(2, 5, 6)).equivalence.worst.ok
