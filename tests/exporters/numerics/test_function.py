"""Stage 1: valid files equal their module in float64, and the smallest fault is seen."""

import copy
import math

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.cases import CaseGenerator, InputSpec
from lstm_edge_exporters.numerics.compare import EQUAL, Function, fixed_axes
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.numerics.reference import Signature, TorchReference


class Net(nn.Module):
    """A recurrent layer between what a form puts in front of it and behind it."""

    def __init__(self, kind="LSTM", width=6, front=None, outputs=2, end=None, **options):
        super().__init__()
        self.front = front or nn.Identity()
        self.rnn = getattr(nn, kind)(6, width, batch_first=True, **options)
        self.head = nn.Linear(width, outputs)
        self.end = end or nn.Identity()

    def forward(self, x):
        return self.end(self.head(self.rnn(self.front(x))[0]))


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class OverTime(nn.Module):
    """A norm of channels first, as convolutions have them."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class Units(nn.Module):
    """A pressure in Pa and an angle in rad, twelve steps ahead: ``(N, 2, 12)``."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(6, 5, batch_first=True)
        self.head = nn.Linear(5, 24)
        self.register_buffer("scale", torch.tensor([[500.0], [2e-5]]))
        self.register_buffer("center", torch.tensor([[101325.0], [0.0]]))

    def forward(self, x):
        return self.head(self.rnn(x)[1][0][-1]).unflatten(-1, (2, 12)) * self.scale + self.center


def made(module, x=None):
    """Return the file's graph and manifest."""
    artifact = export(module.eval(), torch.randn(3, 5, 6) if x is None else x, ExportConfig(stateless=True))
    return artifact, onnx.load_from_string(artifact.model)


def compared(module, proto, manifest, feeds):
    x = torch.zeros(2, 5, feeds["x"].shape[-1])
    reference = TorchReference(module, Signature.of(module, x), manifest.output_names)
    return Function(Graph64(proto), reference, fixed_axes(manifest)).compare(feeds)


def draw(rows, steps, scale=1.0, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, steps, 6))
    return {"x": (scale * x).astype(np.float32)}


NORMS = {
    "layer": lambda: nn.LayerNorm(6),
    "instance": lambda: OverTime(nn.InstanceNorm1d(6)),
    "group": lambda: OverTime(nn.GroupNorm(3, 6)),
    "batch": lambda: OverTime(nn.BatchNorm1d(6)),
    "rms": lambda: nn.RMSNorm(6),
}


@pytest.mark.parametrize("norm", NORMS)
def test_a_network_that_normalizes_its_input_is_equal_at_every_magnitude(norm):
    torch.manual_seed(0)
    module = Net(front=NORMS[norm]())
    artifact, proto = made(module)
    for scale in (1e-20, 1.0, 1e15, 1e30):
        found = compared(module, proto, artifact.manifest, draw(3, 9, scale))
        assert found.ok, found.worst
    assert found.largest < EQUAL


ENDS = {
    "sum": lambda y: torch.cumsum(y, 1),
    "mean": lambda y: y.cumsum(1) / torch.arange(1, y.shape[1] + 1)[:, None],
    "log-softmax": lambda y: torch.log_softmax(10 * y, -1),
    "probabilities": lambda y: torch.softmax(y, -1),
    "softplus": lambda y: nn.functional.softplus(30 * y),
    "squeezed": lambda y: y[..., :1].squeeze(-1),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_a_network_ends_in_is_equal_over_three_thousand_equal_steps(end):
    torch.manual_seed(0)
    module = Net(end=Apply(ENDS[end]))
    artifact, proto = made(module)
    feeds = {"x": np.broadcast_to(draw(2, 1)["x"], (2, 3000, 6)).copy()}
    found = compared(module, proto, artifact.manifest, feeds)
    assert found.ok, found.worst


def test_a_leak_that_is_nearly_one_is_equal_over_three_thousand_equal_steps():
    torch.manual_seed(0)
    module = Net(kind="GRU")
    with torch.no_grad():
        for weight in (module.rnn.weight_ih_l0, module.rnn.weight_hh_l0):
            weight[6:12] = 0
        module.rnn.bias_ih_l0[6:12] = 9.2
    artifact, proto = made(module)
    feeds = {"x": np.broadcast_to(draw(2, 1)["x"], (2, 3000, 6)).copy()}
    assert compared(module, proto, artifact.manifest, feeds).ok


def spoil(proto, change):
    """Return a copy in which ``change`` was made to one weight of the largest tensor."""
    spoiled = copy.deepcopy(proto)
    floats = [each for each in spoiled.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    tensor = max(floats, key=lambda each: np.prod(each.dims))
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[3] = change(array.flat[3])
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return spoiled


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_one_weight_off_by_one_unit_in_the_last_place_is_found(kind):
    torch.manual_seed(0)
    module = Net(kind=kind)
    artifact, proto = made(module)
    feeds = draw(3, 12)
    assert compared(module, proto, artifact.manifest, feeds).ok
    wrong = spoil(proto, lambda weight: np.nextafter(weight, np.float32(9)))
    found = compared(module, wrong, artifact.manifest, feeds)
    assert not found.ok
    assert 1e-12 < found.largest < 1e-6


def test_the_second_quantity_of_unlike_units_is_compared_by_itself():
    torch.manual_seed(0)
    module = Units()
    artifact, proto = made(module)
    wrong = copy.deepcopy(module)
    with torch.no_grad():
        wrong.scale[1] *= 1 + 1e-6
    feeds = draw(3, 12)
    assert compared(module, proto, artifact.manifest, feeds).ok
    found = compared(wrong, proto, artifact.manifest, feeds)
    assert not found.ok
    assert found.worst.channel[0] == 1


def test_a_fault_of_states_of_a_ten_thousandth_is_found():
    torch.manual_seed(0)
    module = Net(kind="RNN", width=8)
    with torch.no_grad():
        for name, parameter in module.rnn.named_parameters():
            parameter *= 1.0 if name == "weight_hh_l0" else 1e-4
        module.head = nn.Identity()
    artifact, proto = made(module)
    assert compared(module, proto, artifact.manifest, draw(3, 12)).ok
    wrong = spoil(proto, lambda weight: weight * np.float32(1 + 1e-5))
    assert not compared(module, wrong, artifact.manifest, draw(3, 12)).ok


def test_constants_that_the_translation_rounds_are_named_and_allow_no_more_than_they_explain():
    torch.manual_seed(0)
    module = Net(end=Apply(lambda y: nn.functional.gelu(y) * 0.1))
    artifact, proto = made(module)
    assert len(artifact.equivalence.equality.constants) == 2
    assert 1e-9 < artifact.equivalence.equality.largest < 1e-7
    assert "except for 2 constants introduced by the translation" in str(artifact.equivalence.equality)
    wrong = spoil(proto, lambda weight: weight * np.float32(1 + 1e-5))
    assert not compared(module, wrong, artifact.manifest, draw(3, 12)).ok


class WeightNormed(nn.Module):
    """Weights that the module computes of others: in float64 they have more digits than the file holds."""

    def __init__(self):
        super().__init__()
        norm = nn.utils.parametrizations.weight_norm
        self.rnn = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        for name in ("weight_hh_l0", "weight_ih_l0_reverse"):
            self.rnn = norm(self.rnn, name)
        self.head = norm(nn.Linear(10, 2))

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def test_weights_that_the_module_computes_are_introduced_and_allow_no_more_than_their_rounding_explains():
    torch.manual_seed(0)
    module = WeightNormed()
    artifact, proto = made(module)
    assert len(artifact.equivalence.equality.constants) == 3  # of W and R one direction each
    assert artifact.equivalence.equality.largest > EQUAL
    wrong = spoil(proto, lambda weight: weight * np.float32(1 + 1e-5))
    assert not compared(module, wrong, artifact.manifest, draw(3, 12)).ok


class Decays(nn.Module):
    """State spaces as in Mamba: in float32, -exp(log(n)) is -n, and in float64 it is not."""

    def __init__(self):
        super().__init__()
        self.A = nn.Parameter(torch.arange(1.0, 5.0).log().repeat(5, 1))
        self.take = nn.Linear(6, 5)

    def forward(self, x, h):
        step = nn.functional.softplus(self.take(x)).unsqueeze(-1)
        h = torch.exp(step * -torch.exp(self.A)) * h + step
        return h.sum(2), h


def test_short_numbers_that_the_translation_computed_count_among_its_constants():
    torch.manual_seed(0)
    module = Decays().eval()
    artifact = export(module, (torch.randn(3, 6), torch.zeros(3, 5, 4)))
    assert [state.input for state in artifact.manifest.states] == ["h"]
    assert len(artifact.equivalence.equality.constants) == 1
    assert EQUAL < artifact.equivalence.equality.largest < 1e-7


def test_a_chaotic_network_is_as_equal_as_float64_can_tell():
    torch.manual_seed(0)
    module = Net(kind="RNN", width=12)
    with torch.no_grad():
        module.rnn.weight_hh_l0 *= 12
    artifact, proto = made(module)
    found = compared(module, proto, artifact.manifest, draw(2, 200))
    assert found.ok
    assert found.ill_conditioned
    wrong = copy.deepcopy(module)
    with torch.no_grad():
        wrong.head.bias[0] += 1e-3
    assert not compared(wrong, proto, artifact.manifest, draw(3, 12)).ok


def test_constants_whose_effects_cancel_in_the_first_draws_are_moved_again():
    torch.manual_seed(0)
    module = Net(end=Apply(lambda y: ((y * math.sqrt(2) + math.pi * 1e-6) + math.e * 1e-6) * math.sqrt(3)))
    artifact, proto = made(module)
    assert len(artifact.equivalence.equality.constants) == 4
    assert compared(module, proto, artifact.manifest, draw(3, 9)).ok


class OneSensor(nn.Module):
    """Units that an input without variation leaves at 0 or not, by how its norm rounds."""

    def __init__(self):
        super().__init__()
        self.norm = OverTime(nn.InstanceNorm1d(1))
        self.rnn = nn.RNN(1, 31, nonlinearity="relu", batch_first=True)

    def forward(self, x):
        return self.rnn(self.norm(x))[0]


@pytest.mark.parametrize("steps", [9, 50])
def test_a_case_on_which_rounding_switches_units_on_and_off_says_nothing(steps):
    torch.manual_seed(0)
    module = OneSensor()
    artifact, proto = made(module, torch.randn(3, 5, 1))
    found = compared(module, proto, artifact.manifest, {"x": np.full((3, steps, 1), 1e15, np.float32)})
    assert found.ok, found.worst
    assert found.ill_conditioned
    wrong = copy.deepcopy(module)
    with torch.no_grad():
        wrong.rnn.bias_ih_l0[0] += 1e-3
    assert not compared(wrong, proto, artifact.manifest, {"x": draw(3, 9)["x"][..., :1]}).ok


def test_tokens_are_drawn_over_the_whole_table():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(40, 5)
            self.rnn = nn.GRU(5, 7, batch_first=True)

        def forward(self, tokens):
            return self.rnn(self.embed(tokens))[0]

    artifact = export(Tagger().eval(), torch.randint(20, 30, (3, 5)), ExportConfig(stateless=True))
    assert artifact.manifest.golden.inputs["tokens"].min() == 0
    assert artifact.manifest.golden.inputs["tokens"].max() == 39
    cases = CaseGenerator((InputSpec("tokens", "int64", ("N", "L"), values=40),), "N", "L")
    drawn = np.concatenate([case.feeds["tokens"].ravel() for case in cases.cases()])
    assert set(drawn.tolist()) == set(range(40))
