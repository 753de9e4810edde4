"""Networks that look back along time stream: what they look back at is a state."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from beside import export_beside as export
from torch import nn
from torch.nn import functional as F

from lstm_edge_exporters import ExportConfig
from lstm_edge_exporters.export import pipeline
from lstm_edge_exporters.export.pipeline import convert
from lstm_edge_exporters.export.request import make_request
from lstm_edge_exporters.export.trace import trace
from lstm_edge_exporters.graph import to_proto
from lstm_edge_exporters.numerics.cases import CaseGenerator
from lstm_edge_exporters.numerics.compare import Function, fixed_axes
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.numerics.verify import ChunkedFile, run_in_chunks
from lstm_edge_exporters.streaming import streamable
from lstm_edge_exporters.streaming.streamable import make_streamable
from lstm_edge_runtime import State, load

WIDTH = 4


class Causal(nn.Module):
    """Padded in front, with dilations and skip connections."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv1d(WIDTH, 6, 1), nn.Linear(6, 3)
        self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, dilation=2**level) for level in range(3))

    def forward(self, x):
        y = self.enter(x.transpose(1, 2))
        for level, layer in enumerate(self.layers):
            y = y + torch.relu(layer(F.pad(y, (2 * 2**level, 0))))
        return self.leave(y.transpose(1, 2))


class LastOf(Causal):
    def forward(self, x):
        return super().forward(x)[:, -1]


class Chomp(nn.Module):
    """Padded on both sides and cut at the end, as in the code of the TCN paper; then a GRU."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(WIDTH, 5, 3, padding=4, dilation=2), nn.GRU(5, 7, batch_first=True)

    def forward(self, x):
        return self.gru(torch.relu(self.conv(x.transpose(1, 2))[:, :, :-4]).transpose(1, 2))[0]


class Wearable(nn.Module):
    """Convolutions, batch norm, depthwise convolution, LSTM, the last hidden state."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(WIDTH, 8, 5), nn.BatchNorm1d(8)
        self.depthwise, self.lstm = nn.Conv1d(8, 8, 3, groups=8), nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        y = torch.relu(self.norm(self.conv(F.pad(x.transpose(1, 2), (4, 0)))))
        y = self.depthwise(F.pad(y, (2, 0)))
        return self.head(self.lstm(y.transpose(1, 2))[1][0][-1])


class WaveNet(nn.Module):
    """Gated units, of which two read one past."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Conv1d(WIDTH, 6, 1), nn.Conv1d(6, 3, 1)
        self.filters = nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**level) for level in range(3))
        self.gates = nn.ModuleList(nn.Conv1d(6, 6, 2, dilation=2**level) for level in range(3))

    def forward(self, x):
        y, total = self.enter(x.transpose(1, 2)), 0
        for level, (layer, gate) in enumerate(zip(self.filters, self.gates, strict=True)):
            padded = F.pad(y, (2**level, 0))
            z = torch.tanh(layer(padded)) * torch.sigmoid(gate(padded))
            y, total = y + z, total + z
        return self.leave(torch.relu(total)).transpose(1, 2)


class Pools(nn.Module):
    def forward(self, x):
        y = x.transpose(1, 2)
        return (F.max_pool1d(F.pad(y, (2, 0)), 3, 1) + F.avg_pool1d(F.pad(y, (3, 0)), 4, 1)).transpose(1, 2)


class Shifts(nn.Module):
    """The step before, in two ways, and a difference."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(2 * WIDTH, 5, batch_first=True)

    def forward(self, x):
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        return self.gru(torch.cat([before, x - F.pad(x, (0, 0, 2, 0))[:, :-2]], -1))[0]


class Sums(nn.Module):
    def forward(self, x):
        return torch.cumsum(x, 1)


class CumulativeNorm(nn.Module):
    """Conv-TasNet's norm over all that has been: two sums and a count of steps."""

    def forward(self, x):
        count = torch.arange(1, x.size(1) + 1)[:, None] * x.size(2)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        square = (x * x).sum(2, keepdim=True).cumsum(1) / count
        return (x - mean) / torch.sqrt(square - mean * mean + 1e-3)


class MinGru(nn.Module):
    """A recurrence in the scale of logarithms: two sums over time."""

    def __init__(self):
        super().__init__()
        self.gates = nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x):
        log, gate = self.gates(x).chunk(2, -1)  # the name of the sum's own logarithm
        decays = -F.softplus(gate).cumsum(1)
        return (
            (F.logsigmoid(torch.log(log.exp())) - F.softplus(-gate) - decays).logcumsumexp(1) + decays
        ).exp()


class Spectral(nn.Module):
    """2-d convolutions over time and frequency, then a GRU over time."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 3, (3, 3), padding=(0, 1), stride=(1, 2))
        self.second, self.gru = nn.Conv2d(3, 3, (2, 1)), nn.GRU(6, 5, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.first(F.pad(x.unsqueeze(1), (0, 0, 2, 0))))
        y = torch.relu(self.second(F.pad(y, (0, 0, 1, 0))))
        return self.gru(y.permute(0, 2, 1, 3).flatten(2))[0]


class PerFrame(nn.Module):
    """A network of one frame, with frames as rows of its batch, then a convolution over time."""

    def __init__(self):
        super().__init__()
        self.frame, self.time = nn.Conv1d(1, 3, 3, padding=1), nn.Conv1d(3 * WIDTH, 5, 3)

    def forward(self, x):
        rows, steps, width = x.shape
        y = self.frame(x.reshape(rows * steps, 1, width)).reshape(rows, steps, -1)
        return self.time(F.pad(y.transpose(1, 2), (2, 0))).transpose(1, 2)


class WeightNorm(nn.Module):
    """A convolution of two taps over zeros that are joined in front, as a QRNN has."""

    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(WIDTH, 6, 2))

    def forward(self, x):
        front = torch.zeros(x.size(0), WIDTH, 1)
        return torch.tanh(self.conv(torch.cat([front, x.transpose(1, 2)], 2))).transpose(1, 2)


STREAMING = {
    Causal: ["conv_0", "conv_1", "conv_2"],
    LastOf: ["conv_0", "conv_1", "conv_2"],
    Chomp: ["h_0", "conv_0"],
    Wearable: ["h_0", "c_0", "conv_0", "conv_1"],
    WaveNet: ["conv_0", "conv_1", "conv_2"],
    Pools: ["pool_0", "pool_1"],
    Shifts: ["h_0", "delay_0", "delay_1"],
    Sums: ["total_0"],
    CumulativeNorm: ["total_0", "count_0", "total_1"],
    MinGru: ["total_0", "carried_0"],
    Spectral: ["h_0", "conv_0", "conv_1"],
    PerFrame: ["conv_0"],
    WeightNorm: ["conv_0"],
}


QUICK = (Wearable, WaveNet, Shifts, CumulativeNorm, MinGru)


class Stage1:
    """A graph with states of the past in chunks, beside the graph without them on the whole, in float64."""

    def __init__(self, kind):
        torch.manual_seed(0)
        config = ExportConfig(inputs={"x": ("N", "L", WIDTH)})
        *_, made = convert(make_request(kind().eval(), torch.randn(2, 9, WIDTH), config))
        found = make_streamable(made.model, "N", "L")
        self.model, self.whole = found.model, Graph64(to_proto(made.model))
        self.manifest = made.manifest._replace(states=(*made.manifest.states, *found.states))

    def run(self, model=None, manifest=None, steps=31):
        manifest, graph = manifest or self.manifest, Graph64(to_proto(model or self.model))
        function = Function(graph, self.whole, fixed_axes(manifest))
        feeds = CaseGenerator.of(manifest).case(2, steps, at_reset=True).feeds
        return run_in_chunks(
            ChunkedFile(manifest, graph.run64, (), function), feeds, np.random.default_rng(0)
        )


@pytest.mark.parametrize(
    "kind",
    [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in STREAMING],
    ids=lambda kind: kind.__name__,
)
def test_chunks_are_the_whole_network_in_float64(kind):
    found = Stage1(kind)
    assert [state.input for state in found.manifest.states] == STREAMING[kind]
    run = found.run()
    assert run.error is None
    assert max(each.max_rel for each in run.records) < 1e-12


class Both(nn.Module):
    """A convolution beside the step before, and a maximum padded by another value than 0."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(WIDTH, 5, 3, dilation=4), nn.GRU(5 + 2 * WIDTH, 5, batch_first=True)

    def forward(self, x):
        y = self.conv(F.pad(x.transpose(1, 2), (8, 0))).transpose(1, 2)
        largest = F.max_pool1d(F.pad(x.transpose(1, 2), (2, 0), value=0.5), 3, 1).transpose(1, 2)
        return self.gru(torch.cat([y, largest, F.pad(x, (0, 0, 3, 0))[:, :-3]], -1))[0]


@pytest.fixture(scope="module")
def both():
    found = Stage1(Both)
    assert found.run().ok
    return found


def resized(both, name, frames):
    """Return the graph and the manifest with a state of so many frames more."""
    model = both.model.clone()
    (state,) = (each for each in both.manifest.states if each.input == name)
    axis, size = next((axis, size) for axis, size in enumerate(state.axes) if size in FRAMES)
    axes = (*state.axes[:axis], size + frames, *state.axes[axis + 1 :])
    (entering,) = (value for value in model.graph.inputs if value.name == name)
    (leaving,) = (value for value in model.graph.outputs if value.name == state.output)
    entering.shape, leaving.shape = ir.Shape(axes), ir.Shape(axes)
    put(leaving.producer().inputs[1], -size - frames)
    states = (each._replace(axes=axes) if each.input == name else each for each in both.manifest.states)
    return model, both.manifest._replace(states=tuple(states))


FRAMES = (2, 3, 8)
"""Of the states of ``Both``, none of which is as large on another axis."""


def put(value, number):
    value.const_value = ir.tensor(np.array([number]), name=value.name)


@pytest.mark.parametrize("name", ["conv_0", "pool_0", "delay_0"])
@pytest.mark.parametrize("frames", [-1, 1])
def test_a_state_of_a_frame_too_few_or_too_many_is_seen(both, name, frames):
    assert not both.run(*resized(both, name, frames)).ok


def test_a_wrong_dilation_is_seen(both):
    model = both.model.clone()
    conv = next(node for node in model.graph if node.op_type == "Conv")
    assert list(conv.attributes["dilations"].value) == [4]
    conv.attributes["dilations"] = ir.AttrInt64s("dilations", [3])
    assert not both.run(model).ok
    conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 2 * -1])  # as many frames as before
    assert not both.run(model).ok


def test_a_branch_that_does_not_wait_is_seen(both):
    """The step before is the step itself, or the one before that."""
    for start, end in ((3, 2**62), (1, -2)):
        model = both.model.clone()
        state = next(value for value in model.graph.inputs if value.name == "delay_0")
        part = next(
            node for node, _ in state.uses()[0][0].outputs[0].uses() if not node.outputs[0].is_graph_output()
        )
        put(part.inputs[1], start)
        put(part.inputs[2], end)
        assert not both.run(model).ok


@pytest.mark.parametrize("name", ["conv_0", "pool_0", "delay_0"])
def test_a_wrong_value_before_the_first_step_is_seen(both, name):
    states = (
        state._replace(reset=state.reset + 0.25) if state.input == name else state
        for state in both.manifest.states
    )
    assert not both.run(manifest=both.manifest._replace(states=tuple(states))).ok


def test_a_graph_that_goes_wrong_in_chunks_is_not_taken(monkeypatch):
    """Then the file is the one without states of the past, with the reason; the module is traced once."""
    right, traced = streamable.make_streamable, []

    def wrong(*arguments):
        found = right(*arguments)
        return replace(found, states=tuple(state._replace(reset=0.5) for state in found.states))

    monkeypatch.setattr(streamable, "make_streamable", wrong)
    monkeypatch.setattr(pipeline, "trace", lambda *given: traced.append(given) or trace(*given))
    artifact = export(Chomp(), torch.randn(2, 9, WIDTH), ExportConfig(inputs={"x": ("N", "L", WIDTH)}))
    assert [state.input for state in artifact.manifest.states] == ["h_0"]
    assert artifact.manifest.unstreamable.startswith("a convolution over time")
    assert len(traced) == 1


@pytest.fixture(scope="module")
def wearable():
    torch.manual_seed(0)
    module = Wearable().eval()
    return module, export(module, torch.randn(2, 9, WIDTH), ExportConfig(inputs={"x": ("N", "L", WIDTH)}))


def alone(module, x):
    with torch.no_grad():
        return module(torch.from_numpy(x)[None])[0].numpy()


def test_sources_of_different_age_share_a_batch(wearable):
    module, artifact = wearable
    batch, rng = load(artifact.model).streams(8), np.random.default_rng(0)
    x = rng.standard_normal((3, 20, WIDTH)).astype(np.float32)
    starts = dict(zip([batch.add() for _ in range(3)], (0, 3, 11), strict=True))
    for step in range(20):
        samples = {
            source: x[row, step] for row, (source, start) in enumerate(starts.items()) if step >= start
        }
        outputs = batch.step(samples)
    for row, (source, start) in enumerate(starts.items()):
        np.testing.assert_allclose(outputs[source], alone(module, x[row, start:]), atol=1e-6)


def test_a_stream_goes_on_from_a_saved_state(wearable, tmp_path):
    module, artifact = wearable
    model, x = load(artifact.model), np.random.default_rng(1).standard_normal((15, WIDTH)).astype(np.float32)
    first = model.stream()
    first.process(x[:6])
    first.state.save(tmp_path / "state.npz")
    second = model.stream()
    second.restore(State.load(tmp_path / "state.npz"))
    np.testing.assert_allclose(second.process(x[6:]), alone(module, x), atol=1e-6)
    assert second.state.age == 15


def test_the_golden_case_replays_with_the_past(wearable):
    _, artifact = wearable
    assert artifact.manifest.golden.inputs["conv_0"].any()
    assert load(artifact.model).selftest().ok


class Same(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(WIDTH, 5, 3, **options), nn.GRU(5, 3, batch_first=True)

    def forward(self, x):
        return self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class Attends(nn.Module):
    def forward(self, x):
        steps = torch.arange(x.size(1))
        scores = (x @ x.transpose(1, 2)).masked_fill(steps[:, None] < steps, float("-inf"))
        return torch.softmax(scores, -1) @ x


class Maps(nn.Module):
    def __init__(self, front):
        super().__init__()
        self.conv, self.front = nn.Conv2d(1, 1, (3, 3), padding=(0, 1)), front

    def forward(self, x):
        return self.conv(F.pad(x[:, None], (0, 0, self.front, 2 - self.front)))[:, 0]


class Pooled(nn.Module):
    def forward(self, x):
        return F.max_pool1d(x.transpose(1, 2), 3).transpose(1, 2)


@pytest.mark.parametrize(
    ("module", "axis", "reason"),
    [
        (Same(padding=1, padding_mode="reflect"), WIDTH, "padding='reflect' before the first step"),
        (Attends(), WIDTH, "attention over the whole sequence, MatMul"),
        (Maps(2), "F", "F takes any"),
        (Maps(1), "F", "F takes any"),
        (Pooled(), "F", "F takes any"),
    ],
    ids=["reflect", "attention", "maps", "maps behind", "pooled"],
)
def test_what_no_state_can_keep_is_named(module, axis, reason):
    artifact = export(module, torch.randn(2, 9, WIDTH), ExportConfig(inputs={"x": ("N", "L", axis)}))
    assert reason in artifact.manifest.unstreamable
