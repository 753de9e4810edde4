"""How initial states are found, named, lifted, reset, or left alone."""

import numpy as np
import onnx
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

from lstm_edge_exporters import ExportConfig
from lstm_edge_runtime import load

X = torch.randn(3, 6, 5)
N6 = torch.zeros(3, 6)


def states(artifact):
    return [
        (state.input, state.output, state.axes) for state in artifact.manifest.states
    ]


class Absent(nn.Module):
    def __init__(self, hidden=6, layers=2, **options):
        super().__init__()
        self.rnn = nn.LSTM(5, hidden, layers, batch_first=True, **options)

    def forward(self, x):
        return self.rnn(x)[0]


@pytest.mark.parametrize(("hidden", "layers"), [(6, 2), (1, 1)])
def test_absent_states_become_one_input_a_layer_shaped_as_pytorch_has_them(
    hidden, layers
):
    artifact = export(Absent(hidden, layers), X)
    assert states(artifact) == [
        ("h_0", "h_n", (layers, "N", hidden)),
        ("c_0", "c_n", (layers, "N", hidden)),
    ]
    assert [state.reset for state in artifact.manifest.states] == [0.0, 0.0]


def test_a_stateless_file_has_no_states_and_gives_the_same(tmp_path):
    torch.manual_seed(1)
    module = Absent()
    with_states = export(module, X)
    without = export(module, X, ExportConfig(stateless=True))
    assert without.manifest.states == ()
    x = np.random.default_rng(0).standard_normal((2, 9, 5)).astype(np.float32)
    np.testing.assert_array_equal(
        load(without.model).run(x)[0]["output"],
        load(with_states.model).run(x)[0]["output"],
    )


class Returned(Absent):
    """The usual code: its caller may pass the hidden state on, or not."""

    def forward(self, x, hidden=None):
        y, (h, c) = self.rnn(x, hidden)
        return y.sum(-1), (h, c)


class Keyed(Absent):
    def forward(self, x):
        y, (h, _) = self.rnn(x)
        return {"y": y.sum(-1), "h": h}


@pytest.mark.parametrize(
    ("kind", "names", "outputs"),
    [
        (Returned, (), ["output"]),
        (Returned, ("y", "h", "c"), ["y", "h", "c"]),
        (Keyed, (), ["y", "h"]),
    ],
)
def test_a_returned_state_is_an_output_of_its_own_only_under_a_name(
    kind, names, outputs
):
    artifact = export(kind(), X, ExportConfig(outputs=names))
    assert [spec.name for spec in artifact.manifest.outputs] == outputs
    assert states(artifact) == [
        ("h_0", "h_n", (2, "N", 6)),
        ("c_0", "c_n", (2, "N", 6)),
    ]


class Learned(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 6, 2, batch_first=True)
        self.start = nn.Parameter(torch.randn(2, 1, 6))

    def forward(self, x):
        return self.rnn(x, self.start.expand(-1, x.size(0), -1).contiguous())[0]


def test_a_learned_state_is_the_reset_value_in_the_contract():
    module = Learned()
    artifact = export(module, X)
    (state,) = artifact.manifest.states
    np.testing.assert_array_equal(state.reset, module.start.detach().numpy())
    model = load(artifact.model)
    x = np.random.default_rng(0).standard_normal((4, 7, 5)).astype(np.float32)
    with torch.no_grad():
        expected = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model.run(x)[0]["output"], expected, rtol=0, atol=1e-6)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 4, batch_first=True)

    def forward(self, a, b):
        return torch.cosine_similarity(self.rnn(a)[1][0], self.rnn(b)[1][0])


def test_a_layer_called_on_two_sequences_carries_the_state_of_the_first():
    artifact = export(Shared(), (X, torch.randn(3, 6, 5)))
    assert [name for name, _, _ in states(artifact)] == ["rnn.h_0"]
    assert artifact.nodes["GRU"] == 2
    weights = onnx.load_model_from_string(artifact.model).graph.initializer
    assert [list(tensor.dims) for tensor in weights].count([1, 12, 5]) == 1


class ReturnsLast(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x):
        output, last = self.rnn(x)
        return {"output": output, "last": last, "again": last}


def test_a_last_state_that_forward_returns_stays_an_output_next_to_the_state():
    artifact = export(ReturnsLast(), X)
    assert states(artifact) == [("h_0", "h_n", (1, "N", 6))]
    assert [spec.name for spec in artifact.manifest.outputs] == [
        "output",
        "last",
        "again",
    ]


class Pair(nn.Module):
    """The hidden pair goes in as one argument and out as one item of a tuple."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x, hidden):
        return self.rnn(x, hidden)


def test_a_hidden_pair_is_two_states():
    artifact = export(Pair(), (X, (torch.zeros(1, 3, 6), torch.zeros(1, 3, 6))))
    assert states(artifact) == [
        ("hidden_0", "hidden_0_n", (1, "N", 6)),
        ("hidden_1", "hidden_1_n", (1, "N", 6)),
    ]


@pytest.mark.parametrize("batched", [True, False])
def test_cells_used_for_one_step_a_call_carry_their_states(batched):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.LSTMCell(5, 6)
            self.second = nn.GRUCell(6, 4)
            self.third = nn.RNNCell(4, 3)

        def forward(self, x):
            return self.third(self.second(self.first(x)[0]))

    module = Cells().eval()
    artifact = export(module, torch.randn(3, 5) if batched else torch.randn(5))
    names = ["first.h_0", "first.c_0", "second.h_0", "third.h_0"]
    assert [name for name, _, _ in states(artifact)] == names
    assert artifact.manifest.sequence is None
    steps = torch.randn(4, 2, 5) if batched else torch.randn(4, 5)
    model = load(artifact.model)
    state = None
    hidden = None
    second = None
    third = None
    for step in steps:
        outputs, state = model.run(step.numpy(), state)
        with torch.no_grad():
            hidden = module.first(step, hidden)
            second = module.second(hidden[0], second)
            third = module.third(second, third)
        np.testing.assert_allclose(outputs["output"], third.numpy(), rtol=0, atol=1e-6)


def test_unbatched_modules_keep_their_shapes():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.LSTM(5, 6, 2, bidirectional=True)

        def forward(self, x, h_0, c_0):
            output, (h_n, c_n) = self.rnn(x, (h_0, c_0))
            return output, h_n, c_n

    artifact = export(
        Unbatched(), (torch.randn(7, 5), torch.zeros(4, 6), torch.zeros(4, 6))
    )
    assert artifact.manifest.batch is None
    assert [spec.axes for spec in artifact.manifest.inputs] == [("L", 5)]
    assert states(artifact) == [("h_0", "h_n", (4, 6)), ("c_0", "c_n", (4, 6))]


class Leaks(nn.Module):
    """A spiking neuron: no layer tells time from features."""

    def forward(self, x, mem):
        mem = 0.9 * mem + x
        return (mem > 1).float(), mem


def test_a_state_whose_features_are_taken_for_time_is_noted_with_the_axes_that_make_it_one():
    x = torch.randn(3, 5)
    mem = torch.zeros(3, 5)
    artifact = export(Leaks(), (x, mem))
    assert artifact.manifest.states == ()
    (note,) = artifact.notes
    assert note.startswith("mem (N, L) may be a state and stays an input")
    config = ExportConfig(inputs={"x": ("N", 5), "mem": ("N", 5)})
    assert states(export(Leaks(), (x, mem), config)) == [("mem", "mem_n", ("N", 5))]


class OutputOnly(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0]


class Squashed(nn.GRUCell):
    def forward(self, x):
        return torch.tanh(super().forward(x))


@pytest.mark.parametrize(
    ("layer", "x", "names"),
    [
        (OutputOnly(5, 6, 2, batch_first=True), X, ["h_0", "c_0"]),
        (Squashed(5, 6), X[:, 0], ["h_0"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_subclass_may_take_and_give_what_it_likes(layer, x, names):
    kind = type(layer)
    artifact = export(nn.Sequential(layer).eval(), x)
    assert [name for name, _, _ in states(artifact)] == names
    assert type(layer) is kind


class OwnCell(nn.Module):
    """An LSTM cell of linear layers and a head; takes and gives its states in a
    tuple."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(5 + 6, 24)
        self.head = nn.Linear(6, 2)

    def forward(self, x, hidden):
        h, c = hidden
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return self.head(h), (h, c)


class OwnGate(nn.Module):
    """An output and a state of the same shape."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(5 + 6, 6)

    def forward(self, x, h):
        h = torch.tanh(self.hidden(torch.cat([x, h], 1)))
        return torch.relu(h), h


@pytest.mark.parametrize(
    ("kind", "example", "config", "expected"),
    [
        (
            OwnCell,
            (X[:, 0], (N6, N6)),
            ExportConfig(
                states={"hidden_0": "h_n", "hidden_1": "c_n"},
                outputs=("logits", "h_n", "c_n"),
            ),
            [("hidden_0", "h_n", ("N", 6)), ("hidden_1", "c_n", ("N", 6))],
        ),
        (OwnGate, (X[:, 0], N6), None, [("h", "h_n", ("N", 6))]),
        (
            OwnGate,
            (X[:, 0], N6),
            ExportConfig(states={"h": "output_1"}),
            [("h", "output_1", ("N", 6))],
        ),
    ],
    ids=["cell", "by variable", "told"],
)
def test_states_of_ones_own_cells_are_states(kind, example, config, expected):
    torch.manual_seed(0)
    artifact = export(kind().eval(), example, config)
    assert states(artifact) == expected
    assert artifact.manifest.streamable


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(5, 6, batch_first=True)

    def forward(self, x):
        zeros = x.new_zeros(1, x.size(0), 6)
        return torch.lstm(
            x, (zeros, zeros), self.rnn._flat_weights, True, 1, 0.0, False, False, True
        )[0]


def test_a_call_outside_of_a_layer_has_states_too():
    made = export(Functional().eval(), X)
    assert [state.input for state in made.manifest.states] == ["h_0", "c_0"]
    assert (
        export(Functional().eval(), X, ExportConfig(stateless=True)).manifest.states
        == ()
    )
