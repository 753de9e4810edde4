"""Positions and step counters go on from call to call in a stream, up to the end of their table."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.validate import validate
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import ManifestError, StateError
from lstm_edge_runtime.graph_check import check_stream

from .stage1 import Stage1, export_elsewhere, restart

WIDTH = 4


class Learned(nn.Module):
    """The first rows of a parameter at half the rate, behind a delay, channels first."""

    def __init__(self):
        super().__init__()
        self.conv, self.position = nn.Conv1d(WIDTH, 6, 5, 2, padding=2), nn.Parameter(torch.randn(1, 6, 40))
        self.gru = nn.GRU(6, 5, batch_first=True)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2))
        return self.gru((y + self.position[:, :, : y.size(2)]).transpose(1, 2))[0]


class Embedded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.lstm = nn.Embedding(50, WIDTH), nn.LSTM(WIDTH, 3, batch_first=True)

    def forward(self, x):
        return self.lstm(x + self.table(torch.arange(x.size(1))))[0]


class Expanded(Embedded):
    """Positions of each row, from 2 on, behind a layer."""

    def forward(self, x):
        positions = torch.arange(2, x.size(1) + 2).unsqueeze(0).expand(x.size(0), -1)
        return torch.cat([self.lstm(x)[0], torch.tanh(self.table(positions))], -1)


class Sines(nn.Module):
    """A table of sines and cosines from the third row on, and a step counter."""

    def __init__(self):
        super().__init__()
        angles = torch.arange(80.0)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("table", torch.cat([torch.sin(angles), torch.cos(angles)], 1)[None])

    def forward(self, x):
        count = torch.ones_like(x[..., :1]).cumsum(1)
        return x * self.table[:, 2 : 2 + x.size(1)] / count


class Computed(nn.Module):
    """Sines of positions behind a delay, computed in ``forward``; without an end."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        angles = torch.arange(y.size(1), dtype=torch.float32)[:, None] * torch.tensor([1.0, 0.125])
        return y * torch.cat([torch.sin(angles), torch.cos(angles)], -1)


class Short(Learned):
    """A table that only few lengths fit."""

    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.randn(1, 6, 16))


class Hours(Embedded):
    """A table of 24 rows again and again, and a mask of the first steps; without an end."""

    def forward(self, x):
        positions = torch.arange(x.size(1))
        y = x + self.table(positions % 24)
        return torch.where((positions < 5)[:, None], 0.0, y)


PACES = {
    Learned: "one frame every 2 samples, 1 frame behind, for 82 steps from a reset",
    Embedded: "one frame a step, for 50 steps from a reset",
    Expanded: "one frame a step, for 48 steps from a reset",
    Sines: "one frame a step, for 78 steps from a reset",
    Computed: "one frame a step, 1 frame behind",
    Short: "one frame every 2 samples, 1 frame behind, for 34 steps from a reset",
    Hours: "one frame a step",
}
QUICK = (Learned, Computed)
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in PACES]
CONFIG = ExportConfig(inputs={"x": ("N", "L", WIDTH)})
X = np.random.default_rng(0).standard_normal((2, 80, WIDTH)).astype(np.float32)


def made(kind):
    torch.manual_seed(0)
    module = kind().eval()
    return module, export(module, torch.randn(2, 24, WIDTH), CONFIG)


@pytest.fixture(scope="module")
def learned():
    return made(Learned)


def frames_of(module, x, manifest):
    with torch.no_grad():
        whole = module(torch.from_numpy(x)[None])[0].numpy()
    return whole[: len(x) // manifest.unit - manifest.delays.get("output", 0)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_steps_chunks_and_rows_of_other_ages_give_the_frames_of_the_whole(kind, tmp_path):
    module, artifact = made(kind)
    manifest, model = artifact.manifest, load(artifact.model)
    assert manifest.pace == PACES[kind]
    assert model.selftest().ok
    x = X[:, : manifest.ranges["L"].most] if "L" in manifest.ranges else X
    expected = [frames_of(module, row, manifest) for row in x]
    stream = model.stream()
    frames = [frame for frame in map(stream.step, x[0]) if frame is not None]
    np.testing.assert_allclose(frames, expected[0], atol=2e-6)
    stream.reset()
    first = stream.process(x[0, :17])
    stream.state.save(tmp_path / "state.npz")
    other = model.stream()
    other.restore(State.load(tmp_path / "state.npz"))
    found = np.concatenate([first, *(other.process(x[0, at : at + 9]) for at in range(17, x.shape[1], 9))])
    np.testing.assert_allclose(found, expected[0], atol=2e-6)
    batch = model.streams(2)
    old, young = batch.add(), batch.add()
    parts = {old: [batch.process({old: x[0, :6]})[old]], young: []}
    for at in range(0, x.shape[1] - 6, 4):
        rows = {old: x[0, at + 6 : at + 10], young: x[1, at : at + 4]}
        length = min(map(len, rows.values()))
        for source, result in batch.process({each: row[:length] for each, row in rows.items()}).items():
            parts[source].append(result)
    for source, want in ((old, expected[0]), (young, expected[1])):
        got = np.concatenate(parts[source])
        np.testing.assert_allclose(got, want[: len(got)], atol=2e-6)


def test_a_stream_ends_with_its_positions_and_keeps_its_state(learned):
    module, artifact = learned
    model = load(artifact.model)
    x = np.concatenate([X[0], X[1]])
    stream, batch = model.stream(), model.streams(1)
    source = batch.add()
    stream.process(x[:81])
    batch.process({source: x[:81]})
    for call in (lambda: stream.process(x[81:84]), lambda: batch.process({source: x[81:84]})):
        with pytest.raises(StateError, match=r"has taken 82 steps since its reset.*reset_every=82"):
            call()
    assert stream.step(x[81]).shape == batch.process({source: x[81:82]})[source][0].shape == (5,)
    for call in (lambda: stream.step(x[82]), lambda: batch.step({source: x[82]})):
        with pytest.raises(StateError, match="has taken 82 steps"):
            call()
    stream.reset()
    stream.process(x[:40])
    stream.process(x[:40])
    with pytest.raises(StateError, match="has taken 82 steps"):
        stream.process(x[:40])
    assert model.manifest.longest_run == 82
    again = model.stream(reset_every=40)
    found = again.process(x[:120])
    want = [frames_of(module, x[at : at + 40], artifact.manifest) for at in (0, 40, 80)]
    np.testing.assert_allclose(found, np.concatenate(want), atol=2e-6)


def uncarried(found):
    """Let the counter's state leave a call as it came."""
    leaving = next(value for value in found.model.graph.outputs if value.name == "count_0_n")
    frames = next(value for value in leaving.producer().inputs if value.name != "count_0")
    zero = ir.node("Sub", [frames, frames])
    zero.outputs[0].name, zero.outputs[0].dtype = "none", ir.DataType.INT64
    leaving.producer().prepend(zero)
    leaving.producer().replace_input_with(1, zero.outputs[0])


FAULTS = {
    "none": lambda found: None,
    "a counter that starts at 1": lambda found: replace(
        found,
        states=tuple(each._replace(reset=float(each.input == "count_0")) for each in found.states),
    ),
    "a counter that is not carried": uncarried,
    "a counter that starts early": lambda found: restart(found, "count_0", -2),
    "a counter that starts late": lambda found: restart(found, "count_0", 2),
}


@pytest.fixture(scope="module")
def stage1():
    return Stage1(Learned, CONFIG)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_counter_is_seen(stage1, monkeypatch, fault):
    stage1.check(monkeypatch, FAULTS[fault], right=fault == "none")


def test_a_table_that_is_shorter_than_the_stream_claims_is_seen(stage1, monkeypatch):
    """The verification reaches the end."""
    stage1.check(monkeypatch, lambda found: replace(found, end=found.end + 2), right=False)


def test_a_manifest_whose_end_can_not_be_is_refused(learned):
    manifest = learned[1].manifest
    assert '"schema":1' in manifest.to_json()
    for end in (0, 1, 81):
        with pytest.raises(ManifestError, match=f"ends after {end} steps"):
            check_stream(manifest._replace(stream=manifest.stream._replace(end=end)))
    states = tuple(each._replace(reset=-1e308) for each in manifest.stream.states if each.input == "count_0")
    with pytest.raises(ManifestError, match="count_0 has a reset value beyond int64"):
        check_stream(manifest._replace(stream=manifest.stream._replace(states=states)))


@pytest.mark.system
def test_validate_compares_it_up_to_its_end(learned, tmp_path):
    learned[1].save(tmp_path / "net.onnx")
    checks = [check for group in validate(tmp_path / "net.onnx").groups for check in group.checks]
    name = "a stream gives the frames of the whole"
    assert next(check for check in checks if check.name == name).status == "passed"
    assert not [check for check in checks if check.status == "failed"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [Embedded, *(pytest.param(each, marks=pytest.mark.slow) for each in (Learned, Sines))]
)
def test_a_file_from_elsewhere_streams(kind, tmp_path):
    torch.manual_seed(0)
    module = kind().eval()
    export_elsewhere(module, 24, WIDTH, tmp_path / "theirs.onnx")
    lifted = lift(tmp_path / "theirs.onnx")
    manifest = lifted.manifest
    assert manifest.pace == PACES[kind]
    x = X[0, : manifest.stream.end]
    np.testing.assert_allclose(
        load(lifted.model).stream().process(x), frames_of(module, x, manifest), atol=2e-6
    )
