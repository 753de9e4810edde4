"""Axes that take some sizes only: promised by the tracer, stated, or refused with the
line."""

import re

import pytest
import torch
import torch.nn.functional as F
from compared import export_and_compare
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import AxisRange


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 5, batch_first=True)
        self.wide = nn.Conv1d(4, 4, 16)


class Doubles(Net):
    """Does something else for long inputs."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] > 200 else y


class Single(Net):
    """A branch for single steps."""

    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] == 1 else y


class WritesFeatures(Net):
    """Writes into a part of what a layer returns."""

    def forward(self, x):
        y = self.rnn(x)[0].clone()
        y[..., -1] = 1.5
        y[:, :, 0] = y[:, :, 1] - y[:, :, 0]
        return y


class ChangesParts(Net):
    """Changes parts of what a layer returns in place."""

    def forward(self, x):
        y = self.rnn(x)[0]
        y[:, 1:] += x[:, 1:, :1]
        y[:, 0].fill_(0.5)
        y[:, -1:, 1:3].mul_(2)
        return y


class ChangesLast(Net):
    """Changes the last step of what a layer returns."""

    def forward(self, x):
        h = self.rnn(x)[0][:, -1]
        h[:, 0] += 1
        h[:, 1:3] *= 2
        return h


class DoublesByElements(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.numel() > 5000 else y


class Wide(Net):
    """A kernel of 16 in front of the layer."""

    def forward(self, x):
        return self.rnn(self.wide(x.transpose(1, 2)).transpose(1, 2))[0]


class Reflects(Net):
    """Padding by 3 needs 4 steps."""

    def forward(self, x):
        return self.rnn(
            F.pad(x.transpose(1, 2), (3, 3), mode="reflect").transpose(1, 2)
        )[0]


class PadsTo4(Net):
    def forward(self, x):
        if x.shape[1] % 4:
            x = F.pad(x, (0, 0, 0, 4 - x.shape[1] % 4))
        return self.rnn(x)[0]


class DoublesByFloat(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.size(1) * 0.5 > 1000 else y


X = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))


class DoublesAtOneLength(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] == 50 else y


class DoublesAtOneBatch(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[0] == 32 else y


class DoublesAtTwelveFrames(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.shape[1] // 4 == 12 else y


class DoublesAtThisManyElements(Net):
    def forward(self, x):
        y = self.rnn(x)[0]
        return y * 2 if x.numel() == 6400 else y


class DoublesWhereSquare(Net):
    def forward(self, x):
        y = self.rnn(x)[0][:, -1]
        return y * 2 if x.shape[0] == x.shape[1] else y


@pytest.mark.parametrize(
    ("module", "line"),
    [
        (DoublesByElements, r"x\.numel\(\) > 5000"),
        (DoublesByFloat, r"x\.size\(1\) \* 0\.5 > 1000"),
        (PadsTo4, r"if x\.shape\[1\] % 4:"),
        (DoublesAtOneLength, r"L=50 .*x\.shape\[1\] == 50"),
        (DoublesAtOneBatch, r"N=32 .*x\.shape\[0\] == 32"),
        (DoublesAtTwelveFrames, r"L=48 .*x\.shape\[1\] // 4 == 12"),
        (DoublesAtThisManyElements, r"x\.numel\(\) == 6400"),
        (DoublesWhereSquare, r"x\.shape\[0\] == x\.shape\[1\]"),
    ],
)
def test_a_condition_on_sizes_is_refused_with_its_line(module, line):
    with pytest.raises(UnsupportedError, match=rf"takes another branch at .*{line}"):
        export(module().eval(), X)


def test_two_axes_that_a_condition_makes_one_are_refused_with_its_line():
    with pytest.raises(
        UnsupportedError, match=r"two axes of x have the same size.*x\.shape\[0\] =="
    ):
        export(DoublesWhereSquare().eval(), X[:, :2])


SOURCE = """
def forward(self, x):
    y = self.rnn(x)[0]
    return y * 2 if {condition} else y
"""


@pytest.mark.parametrize(
    ("file", "place"),
    [
        ("<string>", "in code that was compiled from a string"),
        ("<stdin>", "line 4 of forward in <stdin>"),
        ("frozen.py", "line 4 of forward in frozen.py"),
    ],
)
@pytest.mark.parametrize(
    ("condition", "sizes"),
    [
        ("x.shape[1] == 50", "L=50"),
        ("x.shape[0] == 32", "N=32"),
        ("x.size(1) * 0.5 > 1000", "L=4097"),
        ("x.shape[1] == 40", "fixes axis 1 of x at 40"),
    ],
)
def test_a_condition_counts_if_its_source_can_not_be_read(
    condition, sizes, file, place
):
    names = {}
    exec(compile(SOURCE.format(condition=condition), file, "exec"), names)
    module = type("Compiled", (Net,), {"forward": names["forward"]})().eval()
    with pytest.raises(UnsupportedError) as refusal:
        export(module, X)
    assert sizes in str(refusal.value)
    assert place in str(refusal.value)


@pytest.mark.parametrize(
    ("module", "limits"),
    [
        (Wide, AxisRange(16)),
        (Reflects, AxisRange(4)),
        (Doubles, AxisRange(1, 200)),
        (Single, AxisRange(2)),
    ],
)
def test_the_sizes_that_operators_need_are_stated(module, limits):
    made = export(module().eval(), X)
    assert made.manifest.ranges == {"L": limits}


@pytest.mark.parametrize("module", [WritesFeatures, ChangesLast])
def test_writes_into_the_output_of_a_layer_take_any_size_and_stream(module):
    manifest = export(module().eval(), X).manifest
    assert manifest.ranges == {}
    assert manifest.streamable


def test_changed_steps_take_any_size():
    manifest = export_and_compare(ChangesParts().eval(), X).manifest
    assert manifest.ranges == {}


class Spelled(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        factor = 2.0 if f"{x.size(1)}" == "1100" else 1.0
        return self.rnn(x)[0] * factor


def test_a_size_that_is_turned_into_text_is_noted_with_its_line():
    (note,) = export(Spelled().eval(), torch.randn(2, 5, 3)).notes
    assert "size into text (test_ranges.py:" in note
    assert '== "1100"' in note


class Branches(nn.Module):
    """A path of its own for one step, of the same results unless ``gain`` is not 1."""

    def __init__(self, gain):
        super().__init__()
        self.gain = gain
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x, h):
        return self.gru(self.gain * x if x.size(1) == 1 else x, h)


class Differences(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(3, 4, batch_first=True)

    def forward(self, x):
        y = self.gru(x)[0]
        return y - F.pad(y, (0, 0, 1, 0))[:, :-1] if x.size(1) > 1 else y


class Neuron(nn.Module):
    """Its first call makes a buffer of the input's shape."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mem", torch.zeros(1))

    def forward(self, x):
        self.mem = torch.zeros_like(self.mem)
        outs = []
        for t in range(x.size(1)):
            if self.mem.shape != x[:, t].shape:
                self.mem = torch.zeros_like(x[:, t])
            self.mem = 0.9 * self.mem + x[:, t]
            outs.append(self.mem)
        return torch.stack(outs, 1)


def used(module, x):
    with torch.no_grad():
        module(x)
    return module


SIGNAL = torch.linspace(-1, 1, 2 * 7 * 3).reshape(2, 7, 3)


@pytest.mark.parametrize(
    ("module", "example"),
    [
        (Branches(1.0), (SIGNAL, torch.zeros(1, 2, 4))),
        (Differences(), SIGNAL),
        (Neuron(), SIGNAL),
        (used(Neuron(), SIGNAL), SIGNAL),
    ],
)
def test_a_branch_of_the_same_results_is_no_limit(module, example):
    manifest = export(module.eval(), example).manifest
    assert (manifest.ranges, manifest.unstreamable) == ({}, "")


def test_a_branch_of_other_results_is_named_with_its_size():
    example = SIGNAL, torch.zeros(1, 2, 4)
    manifest = export(Branches(2.0).eval(), example).manifest
    assert manifest.ranges == {"L": AxisRange(2)}
    branch = (
        r"forward takes another branch at L=1 \(test_ranges.py:\d+: .*size\(1\) == 1"
    )
    assert re.match(branch, manifest.unstreamable)


@pytest.mark.parametrize(
    "attend",
    [
        lambda x: F.scaled_dot_product_attention(x, x, x),
        lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
        lambda x: F.scaled_dot_product_attention(x, x, x, later(x).logical_not()),
        lambda x: F.scaled_dot_product_attention(x, x, x, later(x)),
        lambda x: F.scaled_dot_product_attention(
            x, x, x, torch.zeros(x.size(1), x.size(1)).masked_fill(later(x), -torch.inf)
        ),
        lambda x: F.scaled_dot_product_attention(
            *[x[:, None, None]] * 3, is_causal=True
        ),
    ],
)
def test_attention_translates_in_any_number_of_axes(attend):
    class Attention(nn.Module):
        def forward(self, x):
            return attend(x)

    config = ExportConfig(inputs={"x": ("N", "L", 3)})
    artifact = export(Attention().eval(), SIGNAL, config)
    assert artifact.verified.largest < 1e-12


def later(x):
    """True where a key is later than its query: masked, or the only ones that count."""
    return torch.ones(x.size(1), x.size(1), dtype=torch.bool).triu(1)
