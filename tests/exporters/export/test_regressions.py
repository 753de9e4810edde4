"""Regressions: networks whose export was wrong or refused."""

import runpy

import numpy as np
import pytest
import torch
from compared import export_and_compare
from patched import Patched, wrapped
from torch import nn

from lstm_edge_exporters import export
from lstm_edge_runtime import load

CELLS = {
    "gru": (
        lambda: nn.GRUCell(3, 4),
        lambda: (torch.randn(2, 3), torch.randn(2, 4)),
        1,
    ),
    "rnn": (
        lambda: nn.RNNCell(3, 4),
        lambda: (torch.randn(2, 3), torch.randn(2, 4)),
        1,
    ),
    "lstm": (
        lambda: nn.LSTMCell(3, 4),
        lambda: (torch.randn(2, 3), (torch.randn(2, 4), torch.randn(2, 4))),
        2,
    ),
}


@pytest.mark.parametrize("kind", CELLS)
def test_a_network_that_returns_its_states_alone_streams_them(kind):
    torch.manual_seed(0)
    make, example, count = CELLS[kind]
    cell = make().eval()
    made = export(cell, example())
    assert len(made.manifest.outputs) == count
    assert len(made.manifest.states) == count
    steps = torch.randn(5, 3)
    hidden = None
    with load(made.model) as model:
        stream = model.stream()
        for x in steps:
            hidden = cell(x[None], hidden)
            got = stream.step(x.numpy())
            want = hidden if count == 2 else (hidden,)
            arrays = list(got.values()) if isinstance(got, dict) else [got]
            assert len(arrays) == count
            for array, expected in zip(arrays, want, strict=True):
                np.testing.assert_allclose(
                    array, expected.detach().numpy()[0], atol=1e-6
                )


class Masked(nn.Module):
    """A state that another input sets to zero, as agents of reinforcement learning have
    it."""

    def __init__(self, swapped=False):
        super().__init__()
        self.rnn = nn.LSTM(3, 4)
        self.swapped = swapped

    def forward(self, x, h, c, done):
        keep = (1.0 - done)[None, :, None]
        y, (h, c) = self.rnn(x, (keep * h, keep * c))
        return {"y": y, "h": h, "c": c}


def masked():
    return (
        torch.randn(5, 2, 3),
        torch.randn(1, 2, 4),
        torch.randn(1, 2, 4),
        torch.tensor([0.0, 1.0]),
    )


def test_a_state_that_another_input_masks_is_paired_by_its_name():
    torch.manual_seed(0)
    made = export(Masked(), masked())
    assert {state.input: state.output[0] for state in made.manifest.states} == {
        "h": "h",
        "c": "c",
    }


class Waves(nn.Module):
    """Four samples a step."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, wave):
        return self.rnn(wave.reshape(wave.shape[0], -1, 4))[0]


def test_an_axis_may_be_a_multiple_of_the_steps_of_a_layer():
    torch.manual_seed(0)
    made = export(Waves(), torch.randn(2, 24))
    assert made.manifest.inputs[0].axes == ("N", "L")
    assert made.manifest.outputs[0].axes == ("N", "(L//4)", 5)


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        return torch.squeeze(input=self.head(self.rnn(x)[0]), dim=2)


def test_squeeze_takes_its_arguments_by_name():
    torch.manual_seed(0)
    made = export(Squeezed(), torch.randn(2, 5, 3))
    assert made.manifest.outputs[0].axes == ("N", "L")


SCALERS = {
    "plain": lambda x, m, s: (x - m) / s,
    "epsilon": lambda x, m, s: (x - m) / (s + 1e-8),
    "reciprocal": lambda x, m, s: (x - m) * (1 / s),
    "clamped": lambda x, m, s: (x - m) / s.clamp(min=1e-6),
    "root": lambda x, m, s: (x - m) / torch.sqrt(s * s + 1e-5),
    "rsqrt": lambda x, m, s: (x - m) * torch.rsqrt(s * s + 1e-5),
    "affine": lambda x, m, s: x * (1 / s) - m / s,
    "minmax": lambda x, m, s: 2 * (x - m) / (s - m + 1e-8) - 1,
    "log": lambda x, m, s: torch.log1p((x - m).abs() / (s + 1e-3)),
    "tanh": lambda x, m, s: torch.tanh((x - m) / (3 * s)),
    "lerp": lambda x, m, s: torch.lerp(x, m, 0.1) / s,
    "power": lambda x, m, s: (x - m) / s.pow(0.9),
}


class Scaled(nn.Module):
    def __init__(self, scale, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.scale = scale
        self.rnn = nn.LSTM(5, 8, batch_first=True)
        self.register_buffer(
            "mean", torch.tensor(rng.normal(3, 2, 5), dtype=torch.float32)
        )
        self.register_buffer(
            "std", torch.tensor(rng.uniform(0.2, 3, 5), dtype=torch.float32)
        )

    def forward(self, x):
        return self.rnn(self.scale(x, self.mean, self.std))[0]


@pytest.mark.parametrize("name", SCALERS)
def test_a_network_may_scale_its_own_input(name):
    torch.manual_seed(0)
    made = export(Scaled(SCALERS[name], 0), torch.randn(2, 20, 5) * 2 + 3)
    with load(made.model) as model:
        assert model.selftest()


class ZerosLikeTheLastState(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.GRU(3, 4, batch_first=True)
        self.b = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        y, h = self.a(x)
        return self.b(y, torch.zeros_like(h))[0]


def test_zeros_of_the_size_of_a_state_are_a_reset_value():
    torch.manual_seed(3)
    artifact = export_and_compare(ZerosLikeTheLastState().eval(), torch.randn(2, 5, 3))
    assert [state.input for state in artifact.manifest.states] == ["a.h_0", "b.h_0"]


class TwoSignals(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.GRU(3, 4, batch_first=True)
        self.b = nn.GRU(2, 4, batch_first=True)

    def forward(self, x, z):
        return {"p": self.a(x)[0], "q": self.b(z)[0][:, -1]}


@pytest.mark.parametrize(
    ("steps", "axis", "states"),
    [(5, "L", ["a.h_0", "b.h_0"]), (6, "L2", ["a.h_0"])],
)
def test_two_signals_of_one_length_in_the_example_share_their_time(steps, axis, states):
    torch.manual_seed(4)
    example = (torch.randn(2, 5, 3), torch.randn(2, steps, 2))
    manifest = export(TwoSignals().eval(), example).manifest
    assert manifest.inputs[1].axes == ("N", axis, 2)
    assert [state.input for state in manifest.states] == states


class AsksForAnInt(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        factor = 2.0 if isinstance(x.size(1), int) else 1.0
        return self.rnn(x)[0] * factor


def test_a_size_is_an_int():
    torch.manual_seed(5)
    export_and_compare(AsksForAnInt().eval(), torch.randn(2, 5, 3))


def _masked_steps(self, x, mask):
    h = x.new_zeros(x.size(0), 4)
    out = []
    for step, kept in zip(x.unbind(1), mask.unbind(1), strict=True):
        h = torch.where(kept[:, None], self.cell(step, h), h)
        out.append(h)
    return torch.stack(out, 1)


@pytest.mark.parametrize("form", ["method", "closure"])
def test_forward_may_be_a_function_of_another_file_than_its_class(form):
    torch.manual_seed(6)
    kind = wrapped(_masked_steps)
    if form == "method":
        kind = type("Forward", (Patched,), {"forward": _masked_steps})
        kind.__module__ = Patched.__module__
    example = (torch.randn(2, 5, 3), torch.rand(2, 5) > 0.5)
    export_and_compare(kind().eval(), example)


def test_the_file_of_forward_need_not_be_imported(tmp_path):
    file = tmp_path / "unregistered.py"
    file.write_text(
        """
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = torch.nn.GRUCell(3, 4)

    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1)):
            h = self.cell(x[:, t], h)
        return h
"""
    )
    kind = runpy.run_path(str(file))["Net"]
    artifact = export_and_compare(kind().eval(), torch.randn(2, 5, 3))
    assert artifact.manifest.streamable


class StacksTheBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y = self.rnn(torch.cat([x, -x], 0))[0]
        return y[: x.size(0)] - y[x.size(0) :]


def test_a_computed_cut_of_the_batch_streams():
    artifact = export_and_compare(StacksTheBatch().eval(), torch.randn(2, 5, 3))
    assert artifact.manifest.streamable
