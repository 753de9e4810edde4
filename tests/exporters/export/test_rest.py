"""``rest``: a network starts from the state that it settles into on silence."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.rest import find_rest
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.validate import ValidateConfig, open_file
from lstm_edge_exporters.validate.engine import Validation
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_exporters.validate.reference import against_file
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

REST = ExportConfig(rest=True)


class Amp(nn.Module):
    """As amplifier models are: an LSTM, a projection, and the input added."""

    def __init__(self, layer=nn.LSTM, **options):
        super().__init__()
        torch.manual_seed(3)
        self.rnn, self.out = layer(1, 6, batch_first=True, **options), nn.Linear(6, 1)

    def forward(self, x):
        return self.out(self.rnn(x)[0]) + x


X = torch.randn(2, 30, 1)


@pytest.fixture(scope="module")
def amp():
    return export(Amp(), X, REST)


@pytest.mark.parametrize("engine", ["onnxruntime", "native"])
def test_a_stream_starts_and_resets_without_a_transient(amp, engine):
    if engine == "native":
        pytest.importorskip("lstm_edge_native")
    module, silence = Amp(), np.zeros((400, 1), np.float32)
    x = np.random.default_rng(0).standard_normal((50, 1)).astype(np.float32)
    with torch.no_grad():
        after = module(torch.from_numpy(np.concatenate([silence, x]))[None])[0].numpy()
    assert np.ptp(after[:400]) > 1e-2  # from zeros there is a transient
    with load(amp.model, engine=engine) as model:
        stream, batch = model.stream(), model.streams(3)
        for _ in range(2):
            np.testing.assert_allclose(stream.process(x), after[400:], rtol=0, atol=2e-6)
            stream.reset()
            assert np.ptp(stream.process(silence)) < 1e-6
            stream.reset()
        ids = [batch.add() for _ in range(3)]
        batch.reset(ids[1])
        for step, expected in zip(x[:3], after[400:], strict=False):
            np.testing.assert_allclose(
                batch.step(np.tile(step, (3, 1)), ids), [expected] * 3, rtol=0, atol=2e-6
            )
        assert model.selftest().ok


@pytest.mark.parametrize(
    ("layer", "options"), [(nn.LSTM, {"num_layers": 2}), (nn.GRU, {"bias": False}), (nn.RNN, {})]
)
def test_every_kind_of_layer_stays_where_it_starts(layer, options):
    artifact = export(Amp(layer, **options), X, REST)
    states = artifact.manifest.states
    if options.get("bias", True):
        assert all(np.ptp(state.reset) > 0 for state in states)
    else:
        assert [state.reset for state in states] == [0.0] * len(states)
    stream = load(artifact.model, engine="onnxruntime").stream()
    assert np.ptp(stream.process(np.zeros((300, 1), np.float32))) < 1e-6


def test_states_of_forward_start_at_rest_from_the_reset_values_that_are_given():
    class Stepped(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(5)
            self.cell = nn.GRUCell(2, 4)

        def forward(self, x, h):
            h = self.cell(x, h)
            return h.sum(1), h

    config = ExportConfig(rest=True, reset={"h": np.full((1, 4), 0.9, np.float32)})
    artifact = export(Stepped(), (torch.randn(3, 2), torch.randn(3, 4)), config)
    (state,) = artifact.manifest.states
    module, h = Stepped(), torch.full((1, 4), 0.9)
    with torch.no_grad():
        for _ in range(200):
            h = module.cell(torch.zeros(1, 2), h)
    np.testing.assert_allclose(state.reset, h.numpy(), rtol=0, atol=1e-6)


START = np.array([[0.5, -0.25]])
MANIFEST = Manifest(
    (TensorSpec("x", "float32", ("N", "L", 1)),),
    (TensorSpec("y", "float32", ("N", "L", 1)),),
    (StateSpec("s", "t", "float32", ("N", 2), START.astype(np.float32)),),
)


def follow(law):
    """A network whose state obeys ``law`` on silence."""

    def run(feeds):
        s, steps = feeds["s"], feeds["x"].shape[1]
        assert s.dtype == np.float64
        assert not feeds["x"].any()
        for _ in range(steps):
            s = law(s)
        return {"y": np.zeros((1, steps, 1)), "t": s}

    return run


def test_a_slow_state_is_followed_to_its_end():
    rest = find_rest(
        MANIFEST, follow(lambda s: 1 + 0.999 * (s - 1))
    )  # moves by 5e-4 at first, and stays for long
    np.testing.assert_allclose(rest.states["s"], 1, rtol=0, atol=1e-9)
    assert rest.steps >= 20_000


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (lambda s: s + 1e-6, "still moves by .* over 65,536 steps"),
        (lambda s: -s, "moves by 1 at every step and comes back"),
        (lambda s: np.inf * s, "still moves by inf"),
        (lambda s: 2 * s, "still moves by inf"),
        (
            lambda s: START + np.clip(1.01 * (s - START), -1, 1),
            "not stable: a change of 0.001 grows to 1 in s",
        ),
    ],
    ids=[
        "drifts",
        "oscillates with a period of two",
        "overflows",
        "grows",
        "leaves a point that it never reaches",
    ],
)
def test_what_does_not_settle_is_refused_with_how_far_it_moved(law, message):
    with np.errstate(over="ignore"), pytest.raises(CheckFailedError, match=message):
        find_rest(MANIFEST, follow(law))


class Behind(nn.Module):
    def __init__(self, before, after):
        super().__init__()
        self.pad, self.conv, self.rnn = (before, after), nn.Conv1d(1, 2, 3), nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(self.conv(nn.functional.pad(x.transpose(1, 2), self.pad)).transpose(1, 2))[0]


class Strided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.rnn = nn.Conv1d(1, 2, 2, stride=2), nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(self.conv(x.transpose(1, 2)).transpose(1, 2))[0]


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.rnn = nn.Embedding(9, 2), nn.GRU(2, 3, batch_first=True)

    def forward(self, x):
        return self.rnn(self.words(x))[0]


@pytest.mark.parametrize(
    ("module", "example", "message"),
    [
        (Behind(2, 0), X, "conv_0 holds past steps"),
        (Behind(1, 1), X, "a stream of this network is behind"),
        (Strided(), X, "a stream of this network takes 2 steps at a time"),
        (Tokens(), torch.randint(0, 9, (2, 5)), "input x is int64"),
        (nn.LSTM(1, 2, bidirectional=True), X, "bidirectional"),
    ],
    ids=["past", "delay", "stride", "tokens", "bidirectional"],
)
def test_what_has_no_rest_is_refused_in_one_line(module, example, message):
    with pytest.raises(UnsupportedError, match=message) as error:
        export(module, example, REST)
    assert "leave rest out" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def files(amp, tmp_path_factory):
    """The network from zeros, from rest, and without states."""
    folder = tmp_path_factory.mktemp("files")
    amp.save(folder / "rest.onnx")
    for name, stateless in (("zeros", False), ("stateless", True)):
        export(Amp(), X, ExportConfig(stateless=stateless)).save(folder / f"{name}.onnx")
    return folder


def failures(path, reference=None):
    """The failed checks of the contract."""
    validation = Validation(open_file(path), reference, ValidateConfig(quick=True))
    checks = next(validation.groups()).checks
    assert any(each.name == "reset values are the states at rest" for each in checks)
    return [each.name for each in checks if each.status == "failed"]


@pytest.mark.system
def test_validate_computes_the_rest_again_from_the_reference(files):
    path = files / "rest.onnx"
    file = open_file(path)
    for reference in (None, against_module(Amp(), file, X), against_file(files / "zeros.onnx", file)):
        assert failures(path, reference) == []
    with pytest.raises(InputError, match=r"starts at rest, where stateless\.onnx"):
        failures(path, against_file(files / "stateless.onnx", file))


def restated(path, change):
    """Write the file with other states, and that they are at rest."""
    model = onnx.load(path)
    (entry,) = model.metadata_props
    manifest = Manifest.from_json(entry.value)
    states = tuple(change(state) for state in manifest.states)
    entry.value = manifest._replace(states=states, provenance={**manifest.provenance, "rest": True}).to_json()
    onnx.save(model, path.with_name("restated.onnx"))
    return path.with_name("restated.onnx")


@pytest.mark.parametrize("name", ["rest", "zeros"])
def test_a_file_that_claims_another_rest_fails_with_and_without_a_reference(files, name):
    off = np.float32(1e-5 if name == "rest" else 0)
    path = restated(files / f"{name}.onnx", lambda state: state._replace(reset=state.reset + off))
    for reference in (None, against_module(Amp(), open_file(path), X)):
        failed = failures(path, reference)
        assert "reset values are the states at rest" in failed
        assert (reference is None) == ("reset value of h_0" not in failed)


@pytest.mark.system
def test_every_target_starts_at_rest(amp, files, tmp_path, find_program):
    find_program("cc", "gcc", "clang")
    to_c(files / "rest.onnx")  # refuses to write code whose states do not start at their reset values
