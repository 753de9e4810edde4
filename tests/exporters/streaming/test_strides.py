"""Networks with strides over time stream in units: one frame comes with every unit of samples."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lstm_edge.results import MainFrames
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_exporters.validate import validate
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import CheckFailedError, ContractError, ManifestError, StateError
from lstm_edge_runtime.graph_check import check_stream
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.native.library import installed

from .stage1 import Stage1, export_elsewhere, resize, restart

WIDTH = 4


class Front(nn.Module):
    """The usual convolutions in front of an LSTM at an eighth of the rate, and a head."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(WIDTH, 8, 4, 2, padding=1), nn.Conv1d(8, 8, 5, 4, padding=2)
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.transpose(1, 2)))))
        return self.head(self.lstm(y.transpose(1, 2))[0])


class Causal(Front):
    """The same, padded in front alone: no delay."""

    def forward(self, x):
        y = F.conv1d(F.pad(x.transpose(1, 2), (2, 0)), self.first.weight, self.first.bias, 2)
        y = F.conv1d(F.pad(torch.relu(y), (4, 0)), self.second.weight, self.second.bias, 4)
        return self.head(self.lstm(torch.relu(y).transpose(1, 2))[0])


class Last(Front):
    def forward(self, x):
        return super().forward(x)[:, -1]


class Valid(nn.Module):
    """Without padding, which the stream has a frame less for."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(WIDTH, 6, 5, 3), nn.Conv1d(6, 4, 2, 2, dilation=3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x.transpose(1, 2)))).transpose(1, 2)


class Spectrum(nn.Module):
    """2-d convolutions over time and frequency, of which one has a stride over both, and a GRU."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, (1, 2), 1), nn.Conv2d(3, 3, 3, (2, 2), 1)
        self.gru = nn.GRU(3, 5, batch_first=True)

    def forward(self, x):
        y = torch.relu(self.second(torch.relu(self.first(x.unsqueeze(1)))))
        return self.gru(y.permute(0, 2, 1, 3).flatten(2))[0]


class Pools(nn.Module):
    """A delay before an average and a maximum, each with a stride, and an LSTM behind both."""

    def __init__(self):
        super().__init__()
        self.conv, self.lstm = nn.Conv1d(WIDTH, 5, 3, padding=1), nn.LSTM(5, 6, batch_first=True)

    def forward(self, x):
        y = F.max_pool1d(F.avg_pool1d(self.conv(x.transpose(1, 2)), 3, 2, 1), 3, 3, 1)
        return self.lstm(y.transpose(1, 2))[0]


class Branches(nn.Module):
    """Two strided branches of unlike delay that meet."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 6, 3, padding=1)
        self.near, self.far = nn.Conv1d(6, 5, 4, 4), nn.Conv1d(6, 5, 12, 4, padding=4)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2))
        return (torch.tanh(self.near(y)) + torch.tanh(self.far(y))).transpose(1, 2)


class TwoRates(nn.Module):
    """An LSTM at half the rate behind a delay, and a convolution of less taps than its stride."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(WIDTH, 6, 5, 2, padding=2), nn.Conv1d(5, 3, 2, 4, padding=1)
        self.lstm = nn.LSTM(6, 5, batch_first=True)

    def forward(self, x):
        y = self.lstm(self.first(x.transpose(1, 2)).transpose(1, 2))[0]
        return self.second(y.transpose(1, 2)).transpose(1, 2), y


class Mean(nn.Module):
    """What a frame is above the mean of all frames so far."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 3, 5, 4, padding=2)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return y - y.cumsum(1) / torch.arange(1, y.size(1) + 1)[:, None]


class UNet(nn.Module):
    """Strided and transposed convolutions with skips, an LSTM in the middle, one frame a sample again."""

    def __init__(self):
        super().__init__()
        self.down, self.deep = nn.Conv1d(WIDTH, 6, 4, 2, padding=1), nn.Conv1d(6, 6, 4, 2, padding=1)
        self.lstm = nn.LSTM(6, 6, batch_first=True)
        self.up, self.last = (nn.ConvTranspose1d(6, size, 4, 2, padding=1) for size in (6, WIDTH))

    def forward(self, x):
        x = x.transpose(1, 2)
        y = torch.relu(self.down(x))
        z = torch.relu(self.deep(y))
        z = z + self.lstm(z.transpose(1, 2))[0].transpose(1, 2)
        return (x + self.last(y + torch.relu(self.up(z)))).transpose(1, 2)


class Codec(nn.Module):
    """Windows that overlap by half, a GRU on them, and their sum again, with a bias."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Conv1d(WIDTH, 8, 8, 4), nn.ConvTranspose1d(8, 2, 8, 4)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        z = self.encode(F.pad(x.transpose(1, 2), (4, 0)))
        return self.decode(self.gru(z.transpose(1, 2))[0].transpose(1, 2) * torch.sigmoid(z)).transpose(1, 2)


class Gaps(nn.Module):
    """A transposed convolution of less taps than its stride, behind zeros in front."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Conv1d(WIDTH, 8, 6, 3), nn.ConvTranspose1d(8, 2, 2, 3, output_padding=1)

    def forward(self, x):
        return torch.tanh(self.decode(F.pad(self.encode(x.transpose(1, 2)), (2, 0)))).transpose(1, 2)


class More(nn.Module):
    """More frames than samples: a delay, then a transposed convolution with a dilation."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 6, 3, padding=1)
        self.decode = nn.ConvTranspose1d(6, 2, 5, 2, padding=2, dilation=2)

    def forward(self, x):
        return self.decode(self.conv(x.transpose(1, 2))).transpose(1, 2)


class Decoder(nn.Module):
    """A transposed convolution that a convolution reads without anything between them."""

    def __init__(self):
        super().__init__()
        self.up, self.last = nn.ConvTranspose1d(WIDTH, 3, 4, 2), nn.Conv1d(3, 2, 3)

    def forward(self, x):
        return self.last(self.up(x.transpose(1, 2))).transpose(1, 2)


class Nearest(nn.Module):
    """Frames repeated up to the rate of the samples."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(WIDTH, 6, 4, 4), nn.Conv1d(6, WIDTH, 3, padding=1)

    def forward(self, x):
        y = F.interpolate(self.second(self.first(x.transpose(1, 2))), scale_factor=4, mode="nearest")
        return y.transpose(1, 2)


class Every(nn.Module):
    """Every third frame."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 6, 3, padding=1)

    def forward(self, x):
        return self.conv(x.transpose(1, 2))[:, :, 1::3].transpose(1, 2)


class Reframed(nn.Module):
    """Frames of 12 samples behind a delay, as a vector."""

    def __init__(self):
        super().__init__()
        self.conv, self.gru = nn.Conv1d(WIDTH, 2, 3, padding=1), nn.GRU(24, 5, batch_first=True)

    def forward(self, x):
        y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        return self.gru(y.reshape(y.size(0), -1, 24))[0]


class Spectra(nn.Module):
    """A spectrum of 16 samples every 8, and a GRU."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(18, 5, batch_first=True)
        self.register_buffer("window", torch.hann_window(16))

    def forward(self, x):
        z = torch.stft(x[:, :, 0], 16, 8, window=self.window, center=False, return_complex=True)
        return self.gru(torch.view_as_real(z).permute(0, 2, 1, 3).flatten(2))[0]


CONFIG = ExportConfig(inputs={"x": ("N", "L", WIDTH)})
X = np.random.default_rng(0).standard_normal((3, 107, WIDTH)).astype(np.float32)
PACES = {
    Front: "one frame every 8 samples, 1 frame behind",
    Causal: "one frame every 8 samples",
    Last: "one frame every 8 samples, 1 frame behind",
    Valid: "one frame every 6 samples, 2 frames behind",
    Spectrum: "one frame every 2 samples, 1 frame behind",
    Pools: "one frame every 6 samples, 1 frame behind",
    Branches: "one frame every 4 samples, 2 frames behind",
    TwoRates: "one frame every 8 samples, 1 frame behind",
    Mean: "one frame every 4 samples",
    UNet: "one frame a step, 4 at a time, 9 frames behind",
    Codec: "one frame a step, 4 at a time",
    Gaps: "one frame a step, 3 at a time, 3 frames behind",
    Decoder: "2 frames a step, 2 frames behind",
    More: "2 frames a step, 4 frames behind",
    Nearest: "one frame a step, 4 at a time, 4 frames behind",
    Every: "one frame every 3 samples",
    Reframed: "one frame every 12 samples, 1 frame behind",
    Spectra: "one frame every 8 samples, 1 frame behind",
}
WHOLE_UNITS = (UNet, Nearest, Reframed)
"""They take no other lengths."""
QUICK = (Front, Causal, Decoder, TwoRates, UNet)
KINDS = [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in PACES]


def made(kind):
    torch.manual_seed(0)
    module = kind().eval()
    return module, export(module, torch.randn(2, 48, WIDTH), CONFIG)


@pytest.fixture(scope="module")
def front():
    return made(Front)


@pytest.fixture(scope="module")
def two_rates():
    return made(TwoRates)


def frames_of(module, x, manifest: Manifest):
    """Return the frames that the samples ``x`` complete, by output."""
    units = len(x) // manifest.unit
    if type(module) is Last:
        ends = range(manifest.unit * 2, len(x) + 1, manifest.unit)
        whole = [Front.forward(module, torch.from_numpy(x[None, :end]))[0, -2] for end in ends]
        return {"output": np.array([each.detach() for each in whole])}
    if type(module) in WHOLE_UNITS:
        x = x[: units * manifest.unit]
    with torch.no_grad():
        found = module(torch.from_numpy(x)[None])
    outputs = found if isinstance(found, tuple) else (found,)
    return {
        spec.name: array[0].numpy()[: units * manifest.frames_a_unit[spec.name] - manifest.delays[spec.name]]
        for spec, array in zip(manifest.outputs, outputs, strict=True)
    }


def gathered(results, manifest: Manifest):
    """Return the frames of many results, by output."""
    frames = {spec.name: [] for spec in manifest.outputs}
    for result in results:
        for name, array in (result if isinstance(result, dict) else {next(iter(frames)): result}).items():
            if array is not None:
                frames[name].append(array[None] if array.ndim == 1 else array)
    return {name: np.concatenate(parts) for name, parts in frames.items() if parts}


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].shape == array.shape
        np.testing.assert_allclose(got[name], array, atol=3e-6)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_samples_and_blocks_of_any_size_give_the_frames_of_the_whole(kind):
    module, artifact = made(kind)
    manifest, model = artifact.manifest, load(artifact.model)
    assert manifest.stream is not None, manifest.unstreamable
    assert manifest.pace == PACES[kind]
    assert model.selftest().ok
    stream, rng, place = model.stream(), np.random.default_rng(1), 0
    same(gathered(map(stream.step, X[0]), manifest), frames_of(module, X[0], manifest))
    if kind is Last:  # of several frames of a chunk it gives the last one
        return
    stream.reset()
    results = []
    while place < X.shape[1]:
        size = int(rng.integers(1, 3 * manifest.unit))
        results.append(stream.process(X[0, place : place + size]))
        place += size
    same(gathered(results, manifest), frames_of(module, X[0], manifest))


class Means(nn.Module):
    """The mean of two steps, time in the last axis."""

    def forward(self, x):
        return F.avg_pool1d(x.unsqueeze(1) if x.ndim == 2 else x, 2)


class Grids(nn.Module):
    """The same of samples with two axes."""

    def forward(self, x):
        return F.avg_pool1d(x.flatten(2).transpose(1, 2), 2).transpose(1, 2).unflatten(2, x.shape[2:])


@pytest.mark.parametrize(
    ("module", "axes", "sample", "wrong"),
    [
        (Means(), ("N", "L"), (), (1,)),
        (Means(), ("N", 3, "L"), (3,), (1,)),
        pytest.param(Grids(), ("N", "L", 3, 2), (3, 2), (6,), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_samples_of_any_layout_and_dtype_fill_a_unit(module, axes, sample, wrong):
    sizes = {"N": 2, "L": 12}
    example = torch.randn([sizes.get(axis, axis) for axis in axes])
    artifact = export(module, example, ExportConfig(inputs={"x": axes}))
    rng = np.random.default_rng(0)
    for check in (False, True):
        stream = load(artifact.model, check=check).stream()
        for _ in range(3):
            first, last = rng.standard_normal((2, *sample)).astype(np.float32)
            with pytest.raises(ValueError, match="shape"):
                stream.step(np.zeros(wrong, np.float32))
            assert stream.step(first) is None
            with pytest.raises(ValueError, match=r"dtype|nan"):
                stream.step(np.full(sample, np.nan) if check else np.full(sample, "a"))
            result = stream.step(last.astype(np.float64).tolist())
            np.testing.assert_allclose(np.squeeze(result), (first + last) / 2, atol=1e-6)


def test_samples_that_fill_no_unit_give_no_frame(front):
    _, artifact = front
    stream = load(artifact.model).stream()
    assert stream.process(X[0, :5]).shape == (0, 3)
    assert [stream.step(sample) for sample in X[0, 5:15]] == [None] * 10  # a frame behind
    assert stream.step(X[0, 15]).shape == (3,)
    assert stream.delay == 8
    assert stream.steps_seen == 16


def test_a_saved_state_has_the_samples_that_fill_no_unit(front, tmp_path):
    module, artifact = front
    model, batch = load(artifact.model), load(artifact.model).streams(2)
    expected = frames_of(module, X[0], artifact.manifest)["output"]
    for cut in (3, 8, 13, 29):
        stream = model.stream()
        done = len(stream.process(X[0, :cut]))
        stream.state.save(tmp_path / "state.npz")
        state = State.load(tmp_path / "state.npz")
        assert {name: array.shape for name, array in state.rest.items()} == (
            {"x": (1, cut % 8, WIDTH)} if cut % 8 else {}
        )
        other, source = model.stream(), batch.add()
        other.restore(state)
        batch.restore(source, state)
        same({"": other.process(X[0, cut:])}, {"": expected[done:]})
        same({"": batch.process({source: X[0, cut:]})[source]}, {"": expected[done:]})
        assert batch.state(source).rest.keys() == other.state.rest.keys()
        np.testing.assert_array_equal(batch.state(source).rest["x"], X[None, 0, 104:])
        batch.remove(source)
    with pytest.raises(StateError, match="age 13 with other samples than the last 5"):
        other.restore(State(dict(state), state.identity, 13))


def test_a_stream_that_starts_again_drops_the_rest(front):
    module, artifact = front
    model = load(artifact.model)
    windows = [frames_of(module, X[0, at : at + 21], artifact.manifest)["output"] for at in (0, 21, 42)]
    stream, batch = model.stream(reset_every=21), model.streams(2, reset_every=21)
    same(gathered(map(stream.step, X[0, :63]), artifact.manifest), {"output": np.concatenate(windows)})
    stream.reset()
    same({"": stream.process(X[0, :63])}, {"": np.concatenate(windows)})
    source = batch.add()
    same({"": batch.process({source: X[0, :63]})[source]}, {"": np.concatenate(windows)})


def test_sources_of_a_batch_have_their_own_age_and_rest(two_rates):
    module, artifact = two_rates
    manifest = artifact.manifest
    batch, got = load(artifact.model).streams(4), {}
    starts = {batch.add(): start for start in (0, 3, 11)}
    results = {source: [] for source in starts}
    for at, size in ((0, 1), (1, 1), (2, 1), (3, 8), (11, 29), (40, 1), (41, 5), (46, 61)):
        taken = {
            source: X[row, at : at + size]
            for row, (source, start) in enumerate(starts.items())
            if at >= start
        }
        if size == 1:
            got = batch.step({source: chunk[0] for source, chunk in taken.items()})
            assert all(array is not None for each in got.values() for array in each.values())
        else:
            got = batch.process(taken)
        for source, result in got.items():
            results[source].append(result)
    for row, (source, start) in enumerate(starts.items()):
        same(gathered(results[source], manifest), frames_of(module, X[row, start:], manifest))
        assert batch.state(source).age == 107 - start


def test_rows_without_a_frame_are_nan_in_an_array(front):
    module, artifact = front
    batch = load(artifact.model).streams(3)
    old, young = batch.add(), batch.add()
    batch.process({old: X[0, :15]})
    rows = batch.step(np.stack([X[0, 15], X[1, 0]]), [old, young])
    np.testing.assert_allclose(
        rows[0], frames_of(module, X[0, :16], artifact.manifest)["output"][0], atol=3e-6
    )
    assert np.isnan(rows[1]).all()
    chunk = batch.process(np.stack([X[1, 1:26], X[0, 16:41]]), [young, old])  # at most four frames each
    assert chunk.shape == (2, 4, 3)
    for got, x, new in zip(chunk, (X[1, :26], X[0, :41]), (2, 3), strict=True):
        expected = frames_of(module, x, artifact.manifest)["output"][-new:]
        assert np.isnan(got[:-new]).all()
        np.testing.assert_allclose(got[-new:], expected, atol=3e-6)


def test_an_error_leaves_no_trace(front, monkeypatch):
    module, artifact = front
    model = load(artifact.model)
    stream, batch = model.stream(), model.streams(1)
    source = batch.add()
    stream.process(X[0, :13])
    batch.process({source: X[0, :13]})
    with pytest.raises(ValueError, match="shape"):
        stream.step(X[0, 0, :2])
    with monkeypatch.context() as patch:  # behind 13 steps, 20 more; behind 15 one that fills a unit
        patch.setattr(type(stream), "_call", lambda *_: 1 / 0)
        patch.setattr(type(batch), "_hold", lambda *_: 1 / 0)
        for call in (lambda: stream.process(X[0, 20:40]), lambda: batch.process({source: X[0, 20:40]})):
            with pytest.raises(ZeroDivisionError):
                call()
        for sample in X[0, 13:15]:
            assert stream.step(sample) is None
        with pytest.raises(ZeroDivisionError):
            stream.step(X[0, 20])
    expected = frames_of(module, X[0], artifact.manifest)["output"]
    same({"": stream.process(X[0, 15:])}, {"": expected})
    same({"": batch.process({source: X[0, 13:]})[source]}, {"": expected})


@pytest.fixture(scope="module")
def stage1():
    return Stage1(Front, CONFIG)


def dilate(found):
    """Let the second convolution look further back than it should."""
    _, node = (node for node in found.model.graph if node.op_type == "Conv")
    node.attributes["dilations"] = ir.AttrInt64s("dilations", [2])
    return resize(found, "conv_1", 4)


FAULTS = {
    "none": lambda found: None,
    "a frame too few": lambda found: resize(found, "conv_0", -1),
    "a frame too many": lambda found: resize(found, "conv_1", 1),
    "another dilation": dilate,
    "a delay too short": lambda found: replace(found, delays={"output": 0}),
    "a delay too long": lambda found: replace(found, delays={"output": 2}),
    "a layer that starts early": lambda found: restart(found, "h_0", -8),
    "a layer that starts late": lambda found: restart(found, "h_0", 8),
    "no padding within a unit": lambda found: replace(
        found,
        states=tuple(each._replace(reset=float(each.input == "begun_0")) for each in found.states),
    ),
    "padding within another unit": lambda found: restart(found, "begun_0", 8),
    "padding that ends late": lambda found: restart(found, "conv_1", 8),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_stream_is_seen(stage1, monkeypatch, fault):
    stage1.check(monkeypatch, FAULTS[fault], right=fault == "none")


def test_a_wrong_overlap_is_seen(monkeypatch):
    stage = Stage1(UNet, CONFIG)
    for fault in (
        lambda found: restart(found, "overlap_1", -4),
        lambda found: restart(found, "overlap_0", 4),
        lambda found: replace(found, delays={"output": 8}),
        lambda found: resize(found, "delay_0", -1),
    ):
        with monkeypatch.context() as patch, pytest.raises(CheckFailedError, match=r"in chunks|does not run"):
            stage.run(patch, fault)


def test_the_whole_takes_no_state_of_a_stream(front):
    model = load(front[1].model)
    stream = model.stream()
    stream.step(X[0, 0])
    with pytest.raises(StateError, match="state of a stream"):
        model.run(X[:1, :48], stream.state)


def test_a_manifest_whose_unit_can_not_be_is_refused(front):
    manifest = front[1].manifest
    for unit in (0, 3, 1 << 24):
        wrong = manifest._replace(stream=manifest.stream._replace(unit=unit))
        with pytest.raises(ManifestError, match="unit"):
            check_stream(wrong)
    for axis in ("L/9", "999999999*L"):
        outputs = tuple(spec._replace(axes=("N", axis, *spec.axes[2:])) for spec in manifest.stream.outputs)
        with pytest.raises(ManifestError, match=r"frames in 8 steps"):
            check_stream(manifest._replace(stream=manifest.stream._replace(outputs=outputs)))


def test_a_stream_that_does_not_keep_its_contract_is_refused(front):
    """Its output is of another shape than its manifest says, which a batch makes room for."""
    manifest = front[1].manifest
    for axes in (("N", "L/8", "C"), ("N", "L/4", 3)):
        outputs = tuple(spec._replace(axes=axes) for spec in manifest.stream.outputs)
        wrong = manifest._replace(stream=manifest.stream._replace(outputs=outputs))
        model = load(with_manifest(onnx.load_from_string(front[1].model), wrong))
        batch = model.streams(1)
        with pytest.raises(ContractError, match="expected"):
            batch.process({batch.add(): X[0, :32]})
        if axes[1] == "L/4":
            with pytest.raises(CheckFailedError, match="expected 2 frames on axis 1"):
                model.selftest()


def test_validate_compares_the_stream_with_the_whole(front, tmp_path):
    front[1].save(tmp_path / "net.onnx")
    checks = [check for group in validate(tmp_path / "net.onnx").groups for check in group.checks]
    name = "a stream gives the frames of the whole"
    assert next(check for check in checks if check.name == name).status == "passed"
    assert not [check for check in checks if check.status == "failed"]


@pytest.mark.filterwarnings("ignore")
def test_a_file_from_elsewhere_streams(tmp_path):
    torch.manual_seed(0)
    module = Front().eval()
    export_elsewhere(module, 48, WIDTH, tmp_path / "theirs.onnx")
    lifted = lift(tmp_path / "theirs.onnx")
    assert lifted.report.unstreamable == ""
    stream, manifest = load(lifted.model).stream(), lifted.manifest
    assert manifest.pace == PACES[Front]
    same(gathered(map(stream.step, X[0]), manifest), frames_of(module, X[0], manifest))


def test_a_result_is_printed_with_the_step_that_its_frame_ends_with(front):
    model = load(front[1].model)
    stream, frames = model.stream(), MainFrames(model)
    found = [
        each for step, sample in enumerate(X[0, :32], 1) for each in frames.of(stream.step(sample), step)
    ]
    assert [(frame, step) for frame, step, _ in found] == [(1, 8), (2, 16), (3, 24)]
    assert [values.shape for _, _, values in found] == [(3,)] * 3


@pytest.mark.skipif(not installed(), reason="no native engine")
def test_a_mean_since_the_start_before_a_stride_becomes_a_program(tmp_path):
    """Its counter adds as many steps as the stride in one unit."""

    class Means(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.gru = nn.Conv1d(WIDTH, 5, 3, stride=3), nn.GRU(5, 6, batch_first=True)

        def forward(self, x):
            steps = torch.arange(1, x.shape[1] + 1).to(x.dtype)
            means = x.cumsum(1) / steps[None, :, None]
            return self.gru(self.down(means.transpose(1, 2)).transpose(1, 2))[0]

    torch.manual_seed(0)
    module, x = Means().eval(), torch.randn(1, 30, WIDTH)
    made = export(module, x, ExportConfig(inputs={"x": ("N", "L", WIDTH)}))
    made.save(tmp_path / "net.onnx")
    (tmp_path / "net.lep").write_bytes(to_native(tmp_path / "net.onnx"))
    with load(tmp_path / "net.lep") as model:
        assert model.selftest().ok
        found = model.stream().process(x[0].numpy())
    np.testing.assert_allclose(found, module(x)[0].detach(), atol=1e-6)
