"""How initial states are found, named, lifted, reset, or left alone."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from compared import export_and_compare as export
from torch import nn

from lstm_edge_exporters import ExportConfig, validate
from lstm_edge_exporters import export as export_only
from lstm_edge_exporters.validate import ValidateConfig
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, UnsupportedError

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


class Started(nn.Module):
    """A GRU that starts from what ``start`` returns for a number of rows."""

    def __init__(self, start):
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)
        self.start = start

    def forward(self, x):
        return self.rnn(x, self.start(x.size(0)))[0]


class StartedLoop(Started):
    def forward(self, x):
        h = self.start(x.size(0))[0]
        outputs = []
        for t in range(x.size(1)):
            h = torch.tanh(h + x[:, t, :1])
            outputs.append(h)
        return torch.stack(outputs, 1)


UNEVEN = torch.linspace(0.1, 0.7, 6)
STARTS = {
    "a constant": lambda n: torch.full((1, n, 6), 0.1),
    "a fraction": lambda n: torch.ones(1, n, 6) / 3,
    "a value per unit": lambda n: torch.tanh(UNEVEN).repeat(1, n, 1),
    "a scaled learned value": lambda n: (UNEVEN * 0.3).repeat(1, n, 1),
}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("kind", [Started, StartedLoop])
def test_a_state_may_start_from_numbers_that_float32_rounds(tmp_path, kind, start):
    torch.manual_seed(3)
    module = kind(start).eval()
    artifact = export(module, X)
    assert len(artifact.manifest.states) == 1
    model = load(artifact.model)
    model.selftest()
    want = module(X).detach().numpy()
    outputs, _ = model.run(X.numpy())
    np.testing.assert_allclose(outputs["output"], want, atol=1e-6)
    stream = model.stream()
    steps = [stream.step(sample) for sample in X[0].numpy()]
    np.testing.assert_allclose(steps, want[0], atol=1e-6)
    artifact.save(tmp_path / "started.onnx")
    quick = ValidateConfig(quick=True)
    validate(tmp_path / "started.onnx", module, quick).require()
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
    artifact = export(Shared(), (X, torch.randn(3, X.shape[1] + 1, 5)))
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
        return {"spikes": (mem > 1).float(), "mem": mem}


def test_a_state_whose_features_are_taken_for_time_is_noted_with_the_axes_that_make_it_one():
    x = torch.randn(3, 5)
    mem = torch.zeros(3, 5)
    artifact = export(Leaks(), (x, mem))
    assert artifact.manifest.states == ()
    (note,) = artifact.notes
    assert note.startswith("mem (N, L) looks like a state")
    assert "give its size: --input x=N,5 --input mem=N,5" in note
    config = ExportConfig(inputs={"x": ("N", 5), "mem": ("N", 5)})
    assert states(export(Leaks(), (x, mem), config)) == [("mem", "mem_n", ("N", 5))]


class Conditioned(nn.Module):
    """A layer and a condition of the shape of its only output."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, c):
        return self.rnn(x)[0][:, -1] + c


class Auxiliary(nn.Module):
    """Returns an auxiliary result in a variable of an argument's name."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, scale):
        y = self.rnn(x)[0] * scale.unsqueeze(1)
        scale = torch.sigmoid(scale)
        return y, scale


class Unchanged(nn.Module):
    """Returns an argument as it is, under its name, and its next value under
    another."""

    def __init__(self):
        super().__init__()
        self.cell = nn.Linear(11, 6)

    def forward(self, x, h):
        after = torch.tanh(self.cell(torch.cat([x, h], 1)))
        return {"after": after, "h": h}


class OwnPair(nn.Module):
    """Two states of one shape, returned in their order behind a result of that
    shape."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(5 + 6, 24)

    def forward(self, x, h, c):
        i, f, g, o = self.gates(torch.cat([x, h], 1)).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return torch.relu(h), h, c


@pytest.mark.parametrize(
    ("kind", "example", "names", "option"),
    [
        (Conditioned, (X, N6), ["h_0"], "--state c=output"),
        (Auxiliary, (X, N6), ["h_0"], "--state scale=output_1"),
        (Unchanged, (X[:, 0], N6), [], "--state h=after"),
        (
            OwnPair,
            (X[:, 0], N6, N6),
            [],
            "--state h=output_1 --state c=output_2",
        ),
    ],
)
def test_an_argument_that_may_be_a_state_is_asked_for_and_stays_an_input(
    kind, example, names, option
):
    artifact = export(kind().eval(), example)
    assert [name for name, _, _ in states(artifact)] == names
    (note,) = artifact.notes
    assert note.endswith(f": {option} (states=)")


def test_the_suggested_option_has_all_states():
    class Both(OwnPair):
        def forward(self, x, h, c):
            y, h, c = super().forward(x, h, c)
            return {"y": y, "next": h, "c": c}

    (note,) = export(Both().eval(), (X[:, 0], N6, N6)).notes
    assert "--state c=c_n --state h=next" in note


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ({"h": "output_1", "c": "output_1"}, "h and c: both name the output output_1"),
        ({"h": "output_3"}, "the outputs output, output_1, output_2"),
        ({"x": "output"}, r"the axes \(N, 5\) of x differ from the axes \(N, 6\)"),
    ],
)
def test_declared_states_that_do_not_fit_are_refused(pairs, message):
    with pytest.raises(InputError, match=message):
        export_only(OwnPair().eval(), (X[:, 0], N6, N6), ExportConfig(states=pairs))


def test_a_declared_state_has_no_time_axis():
    class Masked(nn.GRU):
        def forward(self, x, mask):
            return super().forward(x)[0], mask * 2

    module = Masked(5, 6, batch_first=True).eval()
    config = ExportConfig(states={"mask": "output_1"})
    with pytest.raises(InputError, match=r"\(N, L\) contain time \(L\)"):
        export_only(
            module,
            (X, torch.ones(3, 6)),
            replace(config, inputs={"x": ("N", "L", 5), "mask": ("N", "L")}),
        )


class InPlace(nn.Module):
    """A step as in public state-space models: it writes the next state into its
    argument."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(5, 6)

    def forward(self, x, state):
        state.copy_(0.9 * state + self.line(x))
        return {"y": torch.tanh(state), "state": state}


class InPlaceOnly(InPlace):
    def forward(self, x, state):
        return super().forward(x, state)["y"]


def test_an_argument_that_forward_writes_into_is_a_state():
    state = torch.zeros(3, 6)
    artifact = export(InPlace().eval(), (X[:, 0], state))
    assert states(artifact) == [("state", "state_n", ("N", 6))]
    assert not state.any()


def test_an_argument_that_is_changed_and_not_returned_is_refused():
    with pytest.raises(UnsupportedError, match="changes its argument state in place"):
        export_only(InPlaceOnly().eval(), (X[:, 0], N6))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(5, 6, batch_first=True)

    def forward(self, x, state):
        _, g = self.gru(x, state["gru"])
        return {"y": g, "state": {"gru": g}}


def test_a_last_state_that_is_a_result_too_keeps_both_names():
    artifact = export(Nested().eval(), (X, {"gru": torch.zeros(1, 3, 6)}))
    assert [spec.name for spec in artifact.manifest.outputs] == ["y"]
    assert states(artifact) == [("state_gru", "state_gru_n", (1, "N", 6))]


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


class NamedGate(OwnGate):
    def forward(self, x, h):
        y, h = super().forward(x, h)
        return {"y": y, "h": h}


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
        (NamedGate, (X[:, 0], N6), None, [("h", "h_n", ("N", 6))]),
        (
            OwnGate,
            (X[:, 0], N6),
            ExportConfig(states={"h": "output_1"}),
            [("h", "output_1", ("N", 6))],
        ),
    ],
    ids=["cell", "by key", "declared"],
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


class FromTheFirstStep(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(x[:, 1:], x[:, 0].unsqueeze(0))[1][0]


class LoopFromTheFirstStep(nn.Module):
    def forward(self, x):
        h = x[:, 0]
        for t in range(1, x.size(1)):
            h = torch.tanh(h + x[:, t])
        return h


class FromAPart(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 3, batch_first=True)

    def forward(self, x, h):
        return self.rnn(x, h[:1])


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        (FromTheFirstStep, [(2, 6, 3)]),
        (LoopFromTheFirstStep, [(2, 6, 3)]),
        (FromAPart, [(3, 6, 3), (2, 3, 3)]),
    ],
)
def test_a_layer_that_starts_from_a_part_of_an_input_has_no_state_of_its_name(
    kind, shapes
):
    torch.manual_seed(5)
    example = tuple(torch.randn(shape) for shape in shapes)
    assert export(kind().eval(), example).manifest.states == ()
