"""Networks whose frames need later steps stream by a graph of their own, a fixed number of steps behind."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.validate import validate
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.native.library import installed

from .stage1 import Stage1, export_elsewhere, of, resize, restart

WIDTH = 4


class Wearable(nn.Module):
    """Convolutions padded on both sides, a skip connection, an LSTM, the result of the last step."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv1d(WIDTH, 8, 5, padding=2), nn.BatchNorm1d(8)
        self.second, self.lstm = nn.Conv1d(8, 8, 3, padding=1), nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 3)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)

    def frames(self, x):
        y = torch.relu(self.norm(self.first(x.transpose(1, 2))))
        y = y + torch.relu(self.second(y))
        return self.head(self.lstm(y.transpose(1, 2))[0])

    def forward(self, x):
        return self.frames(x)[:, -1]


class Frames(Wearable):
    def forward(self, x):
        return self.frames(x)


class Hidden(Wearable):
    """The last hidden and cell states, which are states too."""

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x.transpose(1, 2)))).transpose(1, 2)
        _, (hidden, cell) = self.lstm(y)
        return self.head(hidden[-1] + cell[-1])


class DeepConvLSTM(nn.Module):
    """Convolutions over time without padding, frames flattened, two layers of LSTM, the last step."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, (5, 1)), nn.Conv2d(3, 3, (5, 1))
        self.lstm, self.head = nn.LSTM(3 * WIDTH, 6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1))))).permute(0, 2, 1, 3)
        return self.head(self.lstm(y.reshape(y.size(0), y.size(1), -1))[0][:, -1])


class Pools(nn.Module):
    def forward(self, x):
        y = x.transpose(1, 2)
        return (F.max_pool1d(y, 3, 1, 1) + F.avg_pool1d(y, 5, 1, 2)).transpose(1, 2)


class TwoDelays(nn.Module):
    """An LSTM at one delay, a GRU behind it at another."""

    def __init__(self):
        super().__init__()
        self.first, self.lstm = nn.Conv1d(WIDTH, 8, 3, padding=1), nn.LSTM(8, 6, batch_first=True)
        self.second, self.gru = nn.Conv1d(6, 5, 3, padding=1), nn.GRU(5, 4, batch_first=True)

    def forward(self, x):
        y = self.lstm(self.first(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.gru(self.second(y.transpose(1, 2)).transpose(1, 2))[0]


class Dilated(nn.Module):
    """A temporal convolutional network that looks both ways."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv1d(WIDTH, 6, 1)
        self.layers = nn.ModuleList(nn.Conv1d(6, 6, 3, dilation=2**n, padding=2**n) for n in range(3))

    def forward(self, x):
        y = self.enter(x.transpose(1, 2))
        for layer in self.layers:
            y = y + torch.relu(layer(y))
        return y.transpose(1, 2)


class CumulativeNorm(nn.Module):
    """Sums and a count of steps behind a convolution that looks ahead."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 3, 3, padding=1)

    def forward(self, x):
        x = self.conv(x.transpose(1, 2)).transpose(1, 2)
        count = torch.arange(1, x.size(1) + 1)[:, None] * x.size(2)
        mean = x.sum(2, keepdim=True).cumsum(1) / count
        square = (x * x).sum(2, keepdim=True).cumsum(1) / count
        return (x - mean) / torch.sqrt(square - mean * mean + 1e-3)


class LogSums(nn.Module):
    """Sums in the scale of logarithms behind a convolution that looks ahead."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 5, 3, padding=1)

    def forward(self, x):
        return torch.logcumsumexp(self.conv(x.transpose(1, 2)), 2).transpose(1, 2)


class FarPadding(nn.Module):
    """More padding behind a delay than the kernel reaches, and the end cut off."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(WIDTH, 5, 3, padding=1), nn.Conv1d(5, 5, 3)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        y = self.second(F.pad(self.first(x.transpose(1, 2)), (6, 0)))
        return self.head(y[:, :, :-5].transpose(1, 2))


class Ahead(nn.Module):
    """Two steps later, less this one."""

    def forward(self, x):
        return torch.cat([x[:, 2:], torch.zeros_like(x[:, :2])], 1) - x


class FullPadding(nn.Module):
    """As much padding as the kernel reaches, on both sides: two frames more than steps."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 5, 3, padding=2)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class LastSteps(nn.Module):
    """A head on the last five frames, and their mean."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv1d(WIDTH, 3, 3), nn.Linear(15, 4)

    def forward(self, x):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)[:, -5:]
        return self.head(y.flatten(1)) + y.mean((1, 2))[:, None]


DELAYS = {
    Wearable: 3,
    Frames: 3,
    Hidden: 2,
    DeepConvLSTM: 8,
    Pools: 2,
    TwoDelays: 2,
    Dilated: 7,
    CumulativeNorm: 1,
    FarPadding: 1,
    Ahead: 2,
    FullPadding: 0,
    LogSums: 1,
    LastSteps: 6,
}
QUICK = (Wearable, TwoDelays, LastSteps)
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in DELAYS]
CONFIG = ExportConfig(inputs={"x": ("N", "L", WIDTH)})
X = np.random.default_rng(0).standard_normal((3, 40, WIDTH)).astype(np.float32)


def made(kind):
    torch.manual_seed(0)
    module = kind().eval()
    return module, export(module, torch.randn(2, 19, WIDTH), CONFIG)


@pytest.fixture(scope="module")
def wearable():
    return made(Wearable)


@pytest.fixture(scope="module")
def two_delays():
    return made(TwoDelays)


def frames_of(module, x):
    """Return what a stream gives after each step of one row: None, or the frame ``delay`` steps before."""
    delay = DELAYS[type(module)]
    with torch.no_grad():
        whole = module.frames if type(module) is Wearable else module
        if type(module) in (Hidden, DeepConvLSTM, LastSteps):  # of the last step alone
            more = DELAYS[type(module)] if type(module) is Hidden else 0
            found = [None] * delay
            for end in range(delay + 1, len(x) + 1):
                y = (
                    module(torch.from_numpy(x[None, :end]))[0]
                    if not more
                    else hidden_at(module, x, end - more)
                )
                found.append(y.numpy())
            return found
        return [None] * delay + [*whole(torch.from_numpy(x)[None])[0].numpy()[: len(x) - delay]]


def hidden_at(module, x, steps):
    y = torch.relu(module.norm(module.first(torch.from_numpy(x[None]).transpose(1, 2)))).transpose(1, 2)
    _, (hidden, cell) = module.lstm(y[:, :steps])
    return module.head((hidden + cell)[0, 0])


def same(got, expected):
    assert [each is None for each in got] == [each is None for each in expected]
    for one, other in zip(got, expected, strict=True):
        if one is not None:
            np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_single_steps_and_chunks_give_the_frames_of_the_whole(kind):
    module, artifact = made(kind)
    assert artifact.manifest.stream is not None, artifact.manifest.unstreamable
    model = load(artifact.model)
    assert model.selftest().ok
    stream, expected = model.stream(), frames_of(module, X[0])
    assert stream.delay == DELAYS[kind]
    same([stream.step(sample) for sample in X[0]], expected)
    stream.reset()
    chunks = [stream.process(X[0, start:end]) for start, end in ((0, 1), (1, 12), (12, 13), (13, 40))]
    if chunks[-1].ndim == 1:
        same(chunks, [expected[end - 1] for end in (1, 12, 13, 40)])
    else:
        same(np.concatenate(chunks), expected[stream.delay :])


def test_the_whole_is_run_as_ever(wearable):
    module, artifact = wearable
    outputs, _ = load(artifact.model).run(X)
    with torch.no_grad():
        np.testing.assert_allclose(outputs["output"], module(torch.from_numpy(X)), atol=1e-6)


def test_a_stream_goes_on_from_a_state_saved_before_its_first_frame(two_delays, tmp_path):
    module, artifact = two_delays
    model, expected = load(artifact.model), frames_of(module, X[0])
    for end in (1, 2, 5):
        first, second = model.stream(), model.stream()
        first.process(X[0, :end])
        first.state.save(tmp_path / "state.npz")
        second.restore(State.load(tmp_path / "state.npz"))
        same([second.step(sample) for sample in X[0, end:]], expected[end:])


def test_a_stream_that_starts_again_is_behind_again(two_delays):
    module, artifact = two_delays
    stream = load(artifact.model).stream(reset_every=9)
    expected = [each for start in (0, 9, 18) for each in frames_of(module, X[0, start : start + 9])]
    same([stream.step(sample) for sample in X[0, :27]], expected)
    stream.reset()
    same(stream.process(X[0, :27]), [each for each in expected if each is not None])


def test_sources_of_a_batch_have_their_own_age(two_delays):
    module, artifact = two_delays
    batch = load(artifact.model).streams(4)
    starts = {batch.add(): start for start in (0, 1, 4)}
    got = {source: [] for source in starts}
    for step in range(20):
        taken = {source: X[row, step] for row, (source, start) in enumerate(starts.items()) if step >= start}
        outputs = batch.step(taken)
        assert outputs.keys() <= taken.keys()
        for source in taken:
            got[source].append(outputs.get(source))
    for row, (source, start) in enumerate(starts.items()):
        same(got[source], frames_of(module, X[row, start:20]))
        state = batch.state(source)
        assert state.age == 20 - start


def test_rows_without_a_frame_are_nan_in_an_array(two_delays):
    module, artifact = two_delays
    batch = load(artifact.model).streams(3)
    old, young = batch.add(), batch.add()
    assert batch.process({old: X[0, :1]})[old].shape == (0, 4)
    assert np.isnan(batch.step(np.stack([X[0, 1], X[1, 0]]), [old, young])).all()
    chunk = batch.process(np.stack([X[1, 1:8], X[0, 2:9]]), [young, old])
    for got, x in zip(chunk, (X[1, :8], X[0, :9]), strict=True):
        same([None if np.isnan(each).any() else each for each in got], frames_of(module, x)[-7:])


def test_an_error_leaves_no_trace(two_delays):
    module, artifact = two_delays
    stream = load(artifact.model).stream()
    stream.step(X[0, 0])
    with pytest.raises(ValueError, match="shape"):
        stream.step(X[0, 0, :2])
    same([stream.step(sample) for sample in X[0, 1:]], frames_of(module, X[0])[1:])


@pytest.fixture(scope="module")
def stage1():
    return Stage1(TwoDelays, CONFIG)


FAULTS = {
    "none": lambda found: None,
    "a frame too few": lambda found: resize(found, "conv_1", -1),
    "a frame too many": lambda found: resize(found, "conv_0", 1),
    "a delay too short": lambda found: replace(found, delays={**found.delays, "output": 1}),
    "a delay too long": lambda found: replace(found, delays={**found.delays, "output": 3}),
    "a layer that starts early": lambda found: restart(found, "lstm.h_0", -1),
    "a layer that starts late": lambda found: restart(found, "gru.h_0", 1),
    "padding that starts early": lambda found: restart(found, "conv_1", -1),
    "padding that starts late": lambda found: restart(found, "conv_1", 1),
    "another padding value": lambda found: replace(
        found, states=tuple(each._replace(reset=0.25) for each in found.states)
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_stream_is_seen(stage1, monkeypatch, fault):
    stage1.check(monkeypatch, FAULTS[fault], right=fault == "none")


def test_a_branch_that_does_not_wait_is_seen(monkeypatch):
    """The skip connection of ``Dilated`` reads the newest frame."""
    stage = Stage1(Dilated, CONFIG)

    def hurry(found):
        joined = of(found, "delay_0").uses()[0][0].outputs[0]
        part = next(node for node, _ in joined.uses() if not node.outputs[0].is_graph_output())
        for place, number in ((1, 1), (2, 2**62)):
            part.inputs[place].const_value = ir.tensor(np.array([number]), name=part.inputs[place].name)

    with pytest.raises(CheckFailedError, match="in chunks"):
        stage.run(monkeypatch, hurry)


@pytest.mark.system
def test_validate_compares_the_stream_with_the_whole(two_delays, tmp_path):
    manifest = two_delays[1].manifest
    path = tmp_path / "net.onnx"

    def checked():
        checks = [check for group in validate(path).groups for check in group.checks]
        names = ["a stream gives the frames of the whole", *["native engine"] * installed()]
        return {next(check.status for check in checks if check.name.startswith(name)) for name in names}

    two_delays[1].save(path)
    assert checked() == {"passed"}
    states = [each._replace(start=3 if each.start == 2 else each.start) for each in manifest.stream.states]
    wrong = manifest._replace(stream=manifest.stream._replace(states=tuple(states)))
    path.write_bytes(with_manifest(onnx.load_from_string(two_delays[1].model), wrong))
    assert checked() == {"failed"}
    assert not load(path).selftest().ok


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Wearable, pytest.param(Dilated, marks=pytest.mark.slow)])
def test_a_file_from_elsewhere_streams(kind, tmp_path):
    torch.manual_seed(0)
    module = kind().eval()
    export_elsewhere(module, 30, WIDTH, tmp_path / "theirs.onnx")
    lifted = lift(tmp_path / "theirs.onnx")
    assert lifted.report.unstreamable == ""
    stream = load(lifted.model).stream()
    same([stream.step(sample) for sample in X[0]], frames_of(module, X[0]))
