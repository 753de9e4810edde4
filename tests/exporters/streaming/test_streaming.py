"""A stream gives the frames of the network, however it is cut, on both engines."""

import functools
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lstm_edge_exporters import ExportConfig, export, validate
from lstm_edge_exporters.streaming import rules
from lstm_edge_exporters.streaming.rewrite import Rewriter
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_exporters.validate.expected import against_module
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    InputError,
    UnsupportedError,
)
from lstm_edge_runtime.native import installed

from . import networks
from .networks import NETWORKS, WHOLE_UNITS, WIDTH

ENGINES = ["onnxruntime", *["native"] * installed()]
AXES = {"x": ("N", "L", WIDTH)}
X = np.random.default_rng(0).standard_normal((3, 144, WIDTH)).astype(np.float32)
KINDS = [
    kind if expected.quick else pytest.param(kind, marks=pytest.mark.slow)
    for kind, expected in NETWORKS.items()
]
BUFFERED = [
    kind
    for kind, expected in NETWORKS.items()
    if expected.quick and expected[:2] != (1, 0)
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
buffered_kind = pytest.mark.parametrize(
    "kind", BUFFERED, ids=lambda kind: kind.__name__
)
cuts = st.lists(st.integers(0, X.shape[1]), max_size=6).map(sorted)
few = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@functools.cache
def made(kind, only_back=None):
    """Return a network and its file that streams."""
    torch.manual_seed(0)
    module = kind().eval()
    with torch.no_grad():
        for (
            parameter
        ) in module.parameters():  # biases that a layer which is not held would show
            parameter.add_(0.1 * torch.randn(parameter.shape))
    config = ExportConfig(inputs=AXES)
    artifact = export(module, torch.randn(2, 48, WIDTH), config)
    if artifact.manifest.unstreamable and not only_back:
        config = ExportConfig(inputs=AXES, stream=True)
        artifact = export(module, torch.randn(2, 48, WIDTH), config)
    return module, artifact


@functools.cache
def opened(kind, engine):
    content = made(kind)[1].model
    return load(to_native(content) if engine == "native" else content)


def outputs_of(module, x):
    with torch.no_grad():
        result = module(torch.from_numpy(np.ascontiguousarray(x))[None])
    return [
        output[0].numpy()
        for output in (result if isinstance(result, tuple) else (result,))
    ]


def frames_of(kind, x):
    """Return the frames that samples of one row complete, of the first output with a
    time axis."""
    module, artifact = made(kind)
    manifest = artifact.manifest
    spec = manifest.outputs[0]
    units = len(x) // manifest.unit
    whole = outputs_of(
        module, x[: units * manifest.unit] if kind in WHOLE_UNITS else x
    )[0]
    count = units * manifest.frames_per_unit[spec.name] - manifest.delays.get(
        spec.name, 0
    )
    return whole[: max(count, 0)]


def last_of(kind, x):
    """Return the result for the newest complete frame, or None, of a network without a
    time axis."""
    module, artifact = made(kind)
    delay = artifact.manifest.delays.get("output", 0)
    unit = artifact.manifest.unit
    if len(x) // unit <= delay:
        return None
    if kind is networks.SameWearable:
        return outputs_of_frames(module.frames, x)[len(x) - delay - 1]
    if kind is networks.Hidden:
        y = torch.from_numpy(np.ascontiguousarray(x))[None].transpose(1, 2)
        y = torch.relu(module.norm(module.first(y))).transpose(1, 2)[
            :, : len(x) - delay
        ]
        with torch.no_grad():
            _, (hidden, cell) = module.lstm(y)
            return module.head(hidden[-1] + cell[-1])[0].numpy()
    if kind is networks.Last:
        return outputs_of_frames(functools.partial(networks.Front.forward, module), x)[
            len(x) // unit - 1
        ]
    return outputs_of(module, x)[0]


def outputs_of_frames(frames, x):
    with torch.no_grad():
        return frames(torch.from_numpy(np.ascontiguousarray(x))[None])[0].numpy()


def first(result):
    """Return the frames of the first output."""
    return next(iter(result.values())) if isinstance(result, dict) else result


def same(got, expected):
    assert (got is None) == (expected is None)
    if got is not None:
        assert got.shape == expected.shape
        np.testing.assert_allclose(
            got, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max(initial=0))
        )


def has_time(kind):
    manifest = made(kind)[1].manifest
    return manifest.outputs[0].name in manifest.time_axes


@every_kind
def test_a_network_has_the_expected_unit_delay_and_states(kind):
    manifest = made(kind)[1].manifest
    expected = NETWORKS[kind]
    kinds = [
        state.input.rpartition(".")[2].rpartition("_")[0] for state in manifest.states
    ]
    delay = manifest.delays.get(manifest.outputs[0].name, 0)
    assert (manifest.unit, delay, " ".join(kinds)) == expected[:3]
    assert manifest.is_buffered == (manifest.unit > 1 or delay > 0)
    assert load(made(kind)[1].model).selftest().ok


@every_kind
@pytest.mark.parametrize("engine", ENGINES)
@given(cuts=cuts)
@few
def test_chunks_give_the_frames_of_the_network(kind, engine, cuts):
    stream = opened(kind, engine).stream()
    chunks = [part for part in np.split(X[0], cuts) if len(part)]
    parts = [first(stream.process(part)) for part in chunks]
    if has_time(kind):
        same(np.concatenate(parts), frames_of(kind, X[0]))
    else:
        unit = made(kind)[1].manifest.unit
        completes = len(X[0]) // unit > (len(X[0]) - len(chunks[-1])) // unit
        same(parts[-1], last_of(kind, X[0]) if completes else None)


@every_kind
@pytest.mark.parametrize("engine", ENGINES)
def test_single_steps_give_the_same_and_a_reset_stream_is_a_new_one(kind, engine):
    x = X[0, :72]
    stream = opened(kind, engine).stream()
    for _ in range(2):
        steps = [first(result) for result in map(stream.step, x) if result is not None]
        if has_time(kind):
            whole = frames_of(kind, x)
            same(
                np.concatenate(
                    [frame.reshape(-1, *whole.shape[1:]) for frame in steps]
                ),
                whole,
            )
        else:
            same(steps[-1], last_of(kind, x))
        stream.reset()


@buffered_kind
@given(end=st.integers(1, 60), engines=st.permutations(ENGINES))
@few
def test_a_stream_goes_on_from_a_saved_state_on_either_engine(
    kind, end, engines, tmp_path
):
    before, after = (
        opened(kind, engine).stream() for engine in (engines[0], engines[-1])
    )
    unit = opened(kind, engines[0]).manifest.unit
    end = -(-end // unit) * unit
    start = first(before.process(X[0, :end]))
    before.state.save(tmp_path / "state.bin")
    after.restore(State.load(tmp_path / "state.bin"))
    rest = first(after.process(X[0, end:]))
    assert after.steps_seen == X.shape[1] - end
    if has_time(kind):
        same(np.concatenate([start, rest]), frames_of(kind, X[0]))
    else:
        same(rest, last_of(kind, X[0]))


@buffered_kind
@pytest.mark.parametrize("engine", ENGINES)
@given(
    starts=st.lists(st.integers(0, 30), min_size=3, max_size=3),
    sizes=st.lists(st.integers(1, 40), max_size=4),
)
@few
def test_sources_of_a_batch_have_their_own_age(kind, engine, starts, sizes):
    model = opened(kind, engine)
    batch = model.streams(4)
    streams = [model.stream() for _ in starts]
    ids = [batch.add() for _ in starts]
    for source, stream, start, x in zip(ids, streams, starts, X, strict=True):
        if start:
            batch.process(x[None, :start], [source])
            stream.process(x[:start])
    at = np.array(starts)
    for size in (*sizes, 1):
        chunks = [x[start : start + size] for start, x in zip(at, X, strict=True)]
        if min(map(len, chunks)) < size:
            break
        results = first(batch.process(np.stack(chunks), ids))
        for _, stream, chunk, row in zip(ids, streams, chunks, results, strict=True):
            alone = first(stream.process(chunk))
            got = (
                row
                if alone is None or np.ndim(row) != np.ndim(alone)
                else row[len(row) - len(alone) :]
            )
            if alone is None:
                assert np.isnan(row).all()
            else:
                same(got, alone)
        at += size


def test_an_error_leaves_no_trace():
    stream = opened(networks.TwoRates, "onnxruntime").stream()
    stream.process(X[0, :3])
    for wrong in (X[0, 3, :2], X[0, 3:9, :2]):
        with pytest.raises(InputError):
            stream.process(wrong) if wrong.ndim > 1 else stream.step(wrong)
    new = opened(networks.TwoRates, "onnxruntime").stream()
    new.process(X[0, :3])
    for got, want in zip(
        stream.process(X[0, 3:40]).values(),
        new.process(X[0, 3:40]).values(),
        strict=True,
    ):
        same(got, want)


# --- the files ---


class Attends(nn.Module):
    def forward(self, x):
        return torch.softmax(x @ x.mT, -1) @ x


class Reads(nn.Module):
    def __init__(self, read, **options):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, **options)
        self.read = read

    def forward(self, x):
        return self.read(self.lstm(x)[0])


REFUSED = {
    "attention": (Attends, r"MatMul 'node_\w+' relates frames with frames"),
    "reversed": (
        lambda: Reads(lambda y: y.flip(1)),
        r"Slice '\w+' selects frames from the end",
    ),
    "both directions": (
        lambda: Reads(lambda y: y, bidirectional=True),
        "bidirectional",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_stream_is_refused_by_the_name_of_its_node(name):
    make, reason = REFUSED[name]
    torch.manual_seed(0)
    for stream_option in (False, True):
        config = ExportConfig(inputs=AXES, stream=stream_option)
        if stream_option:
            with pytest.raises(UnsupportedError, match=reason):
                export(make().eval(), torch.randn(2, 9, WIDTH), config)
        else:
            manifest = export(make().eval(), torch.randn(2, 9, WIDTH), config).manifest
            assert re.search(reason, manifest.unstreamable)


def test_without_the_option_export_and_stream_say_what_a_stream_needs():
    _, artifact = made(networks.SameWearable, only_back=True)
    reason = "looks 3 steps ahead: --stream writes a file whose outputs lag by 3"
    assert artifact.manifest.unstreamable == reason
    model = load(artifact.model)
    with pytest.raises(ContractError, match=reason):
        model.stream()
    expected = [outputs_of(made(networks.SameWearable)[0], x)[0] for x in X[:, :40]]
    same(model.run(X[:, :40])[0]["output"], np.stack(expected))


def test_a_network_that_only_looks_back_has_no_file_of_its_own():
    with pytest.raises(InputError, match="ordinary file streams"):
        export(
            networks.Causal().eval(),
            torch.randn(2, 9, WIDTH),
            ExportConfig(inputs=AXES, stream=True),
        )


def test_a_state_that_is_an_argument_is_held_behind_a_delay():
    torch.manual_seed(0)
    module = networks.Given().eval()
    config = ExportConfig(
        inputs={**AXES, "h_0": (1, "N", 6)},
        outputs=("output", "h_n"),
        states={"h_0": "h_n"},
        stream=True,
    )
    artifact = export(module, (torch.randn(2, 9, WIDTH), torch.zeros(1, 2, 6)), config)
    stream = load(artifact.model).stream()
    expected = module(torch.from_numpy(X[:1]))[0][0, :-1].detach().numpy()
    same(
        np.concatenate(
            [first(stream.process(part)) for part in np.split(X[0], [1, 30, 31])]
        ),
        expected,
    )


def no_hold(work, node, value, flow):
    return value


def unmasked(work, value, flow, fill):
    value, flow = work.pad_front(value, flow)
    return value, flow.__class__(flow.axis, flow.delay, flow.rate, fill)


def long_mask(work, value, flow, *, mask=Rewriter.mask):
    return mask(
        work, value, flow.__class__(flow.axis, flow.delay + 1, flow.rate, flow.fill)
    )


def wrong_fill(work, value, flow, frames, *, past=Rewriter.past):
    return past(
        work, value, flow.__class__(flow.axis, flow.delay, flow.rate, 0.5), frames
    )


def short_wait(work, value, flow, frames, *, wait=Rewriter.wait):
    delayed, result = wait(work, value, flow, max(frames - 1, 0))
    return delayed, result.__class__(
        flow.axis, flow.delay + frames, flow.rate, result.fill
    )


FAULTS = {
    "layers are not held": (rules, "hold", no_hold, networks.TwoDelays),
    "padding is not masked": (Rewriter, "clean", unmasked, networks.SameWearable),
    "masks end a frame late": (Rewriter, "mask", long_mask, networks.TwoDelays),
    "states begin with 0.5": (Rewriter, "past", wrong_fill, networks.UNet),
    "a branch waits a frame less": (Rewriter, "wait", short_wait, networks.Dilated),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_stream_is_not_written(monkeypatch, fault):
    owner, name, wrong, kind = FAULTS[fault]
    monkeypatch.setattr(owner, name, wrong)
    torch.manual_seed(0)
    with pytest.raises(CheckFailedError, match="a stream in chunks"):
        export(
            kind().eval(),
            torch.randn(2, 48, WIDTH),
            ExportConfig(inputs=AXES, stream=True),
        )


@pytest.mark.system
@buffered_kind
def test_validate_passes_a_stream_and_sees_a_wrong_one(kind, tmp_path):
    module, artifact = made(kind)
    artifact.save(tmp_path / "net.onnx")
    file = open_file(tmp_path / "net.onnx")
    report = validate(file, against_module(module, file, torch.randn(2, 48, WIDTH)))
    assert [
        (group.key, check.name) for group in report.groups for check in group.failed
    ] == []
    other = kind().eval()
    report = validate(file, against_module(other, file, torch.randn(2, 48, WIDTH)))
    assert not report.ok


def test_a_stream_of_fixed_axes_asks_for_their_names():
    torch.manual_seed(0)
    module = nn.Conv1d(3, 4, 3, padding="same").eval()
    config = ExportConfig(inputs={"input": (2, 3, 9)}, stream=True)
    with pytest.raises(
        InputError, match=r"no axis of input \(2,3,9\) is known as time"
    ):
        export(module, torch.zeros(2, 3, 9), config)


class OneFrameMore(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 2, 2, padding=1)

    def forward(self, x):
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


def test_a_network_with_more_frames_than_steps_is_said_to_have_them():
    x = torch.from_numpy(X[:1])
    manifest = export(OneFrameMore().eval(), x, ExportConfig(inputs=AXES)).manifest
    assert manifest.unstreamable.startswith("does not return one frame per step")


class Decision(nn.Module):
    """A convolution that looks ahead, a GRU, and whole numbers or booleans of it."""

    def __init__(self, stride, decide):
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, 4, 5, stride=stride, padding=2)
        self.gru = nn.GRU(4, 5, batch_first=True)
        self.decide = decide

    def forward(self, x):
        return self.decide(self.gru(self.conv(x.transpose(1, 2)).transpose(1, 2))[0])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "decide", [lambda y: y.argmax(-1), lambda y: y > 0], ids=["argmax", "positive"]
)
def test_decisions_stream_and_are_zero_before_the_first_frame(stride, decide):
    for seed in range(4):
        torch.manual_seed(seed)
        module = Decision(stride, decide).eval()
        config = ExportConfig(inputs=AXES, stream=True)
        artifact = export(module, torch.randn(2, 20, WIDTH), config)
        delay = artifact.manifest.delays["output"]
        with load(artifact.model) as model:
            model.selftest().require()
            got = model.run(X)[0]["output"]
        want = module(torch.from_numpy(X)).numpy()
        assert not got[:, :delay].any()
        np.testing.assert_array_equal(got[:, delay:], want[:, : got.shape[1] - delay])


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.rnn = nn.GRU(4, 5, batch_first=True)

    def forward(self, tokens):
        return self.rnn(self.table(tokens))[0]


def test_a_batch_keeps_its_states_if_a_later_segment_fails():
    tokens = torch.zeros(2, 5, dtype=torch.int64)
    with load(export(Tokens().eval(), (tokens,)).model) as model:
        batch = model.streams(2, reset_every=2)
        ids = [batch.add(), batch.add()]
        batch.process(np.array([[1], [2]]), ids)
        before = [batch.state(source) for source in ids]
        with pytest.raises(ContractError, match="no state has changed"):
            batch.process(np.array([[1, 2, 3], [1, 2, 99]]), ids)
        for source, state in zip(ids, before, strict=True):
            assert batch.state(source).age == state.age == 1
            for name, array in batch.state(source).items():
                np.testing.assert_array_equal(array, state[name])


class OverTheLastThree(nn.Module):
    """A layer that starts again with the last frames of another one."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(WIDTH, 4, batch_first=True)
        self.last = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        return self.last(self.rnn(x)[0][:, -3:])[0][:, -1]


class LoopOverTheLastThree(OverTheLastThree):
    def forward(self, x):
        h = x.new_zeros(x.size(0), 4)
        for frame in self.rnn(x)[0][:, -3:].unbind(1):
            h = torch.tanh(h + frame)
        return h


class MeanOfTheLastThree(OverTheLastThree):
    def forward(self, x):
        return self.rnn(x)[0][:, -3:].mean(1)


class TheLastThree(OverTheLastThree):
    def forward(self, x):
        return self.rnn(x)[0][:, -3:]


def test_the_last_frames_are_no_output_of_a_stream():
    torch.manual_seed(8)
    module = TheLastThree().eval()
    artifact = export(module, torch.randn(2, 12, WIDTH), ExportConfig(inputs=AXES))
    assert "output output is the last frames alone" in artifact.manifest.unstreamable


@pytest.mark.parametrize("kind", [OverTheLastThree, MeanOfTheLastThree])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_result_of_the_last_frames_is_that_of_these_alone(engine, kind):
    torch.manual_seed(8)
    module = kind().eval()
    config = ExportConfig(inputs=AXES, stream=True)
    artifact = export(module, torch.randn(2, 12, WIDTH), config)
    layer, past = artifact.manifest.states
    assert (layer.input[-3:], past.input) == ("h_0", "past_0")
    content = artifact.model if engine == "onnxruntime" else to_native(artifact.model)
    x = X[:1, :20]
    stream = load(content).stream()
    steps = [stream.step(sample) for sample in x[0]]
    assert [step is None for step in steps[:3]] == [True, True, False]
    for count, step in enumerate(steps[2:], 3):
        expected = module(torch.from_numpy(x[:, :count]))[0].detach().numpy()
        np.testing.assert_allclose(step, expected, rtol=0, atol=1e-5)


def test_a_loop_over_the_last_frames_carries_no_state():
    torch.manual_seed(8)
    example = torch.randn(2, 12, WIDTH)
    module = LoopOverTheLastThree().eval()
    artifact = export(module, example, ExportConfig(inputs=AXES))
    assert [state.input for state in artifact.manifest.states] == ["h_0"]
    assert "cuts the last frames at a computed step" in artifact.manifest.unstreamable
