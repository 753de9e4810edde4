"""Networks that look along time on the native engine, in a program file and in C."""

import ctypes
import subprocess

import numpy as np
import onnx
import pytest
import torch

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import StateError, UnsupportedError
from lstm_edge_runtime.native.library import installed, library

from ..targets.c.conftest import driver, sources
from . import test_late as late
from . import test_past as past
from . import test_positions as positions
from . import test_strides as strides

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")

SCANS = (past.MinGru, late.LogSums)  # which run on onnxruntime alone
KINDS = [
    kind if kind in (past.Wearable, past.Spectral) else pytest.param(kind, marks=pytest.mark.slow)
    for kind in (*past.STREAMING, positions.Hours)
    if kind not in SCANS
]


@pytest.fixture(scope="module")
def exported():
    """A function that gives a kind's file, made once."""
    made = {}

    def artifact(kind):
        if kind not in made:
            torch.manual_seed(0)
            config = ExportConfig(inputs={"x": ("N", "L", past.WIDTH)})
            made[kind] = export(kind().eval(), torch.randn(2, 9, past.WIDTH), config)
        return made[kind]

    return artifact


def samples(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def whole(content, model, x):
    """The outputs of all steps of one row from the reset state, in float64; of the last step (C,)."""
    manifest = model.manifest
    feeds = {"x": x[None]} | {
        state.input: np.full([1 if axis == "N" else axis for axis in state.axes], state.reset, state.dtype)
        for state in manifest.states
    }
    return Graph64(onnx.load_from_string(content)).run64(feeds)[manifest.outputs[0].name][0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_native_engine_streams_it_in_steps_and_chunks(kind, exported):
    content, x = exported(kind).model, samples(0, 40, past.WIDTH)
    native, plain = load(to_native(content)), load(content)
    assert native.engine == "native"
    assert native.selftest().ok
    every = "L" in native.manifest.outputs[0].axes
    expected = whole(content, native, x)
    first, second = native.stream(), native.stream()
    steps = np.array([first.step(sample) for sample in x])
    chunks = [second.process(x[start:stop]) for start, stop in ((0, 7), (7, 8), (8, 23), (23, 40))]
    limit = 1e-5 * max(1, np.abs(expected).max())
    assert np.abs((steps if every else steps[-1]) - expected).max() <= limit
    assert np.array_equal(np.concatenate(chunks) if every else chunks[-1], steps if every else steps[-1])
    other = plain.stream()
    other.process(x[:13])
    first.restore(other.state)
    other.restore(first.state)
    for name, array in first.state.items():
        assert np.array_equal(array, other.state[name])
    assert np.abs(first.process(x[13:]) - other.process(x[13:])).max() <= limit
    for name, array in first.state.items():
        assert np.abs(array - other.state[name]).max() <= 1e-5 * max(1, np.abs(array).max())


@pytest.mark.parametrize("engine", ["native", "onnxruntime"])
def test_a_norm_goes_on_for_more_steps_than_float32_counts(engine, exported):
    """17 minutes of sound at 16 kHz are 2 ** 24 frames, where a count in float32 would stand still."""
    content, steps = exported(past.CumulativeNorm).model, 2**24 - 1
    model = load(content if engine == "onnxruntime" else to_native(content))
    stream, x = model.stream(), samples(11, 3, past.WIDTH)
    (count,) = (state for state in model.manifest.states if state.dtype == "int64")
    totals = [state.input for state in model.manifest.states if state.dtype == "float32"]
    stream.process(x)
    state = stream.state
    arrays = {**state, **{name: state[name] * 0 + steps for name in totals}}
    arrays[count.input] = np.full_like(state[count.input], steps)
    stream.restore(State(arrays, state.identity, steps))
    got = stream.process(x)
    assert stream.state[count.input].tolist() == [[steps + 3]]
    mean, square = (float(stream.state[name].item()) / (steps + 3) / past.WIDTH for name in totals)
    np.testing.assert_allclose(got[-1], (x[-1] - mean) / np.sqrt(square - mean**2 + 1e-3), rtol=1e-5)
    stream.step(x[0])
    assert stream.state[count.input].tolist() == [[steps + 4]]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_sources_of_different_age_share_a_native_batch(kind, exported):
    model, x = load(to_native(exported(kind).model)), samples(1, 3, 20, past.WIDTH)
    batch = model.streams(5)
    starts = dict(zip([batch.add() for _ in range(3)], (0, 3, 11), strict=True))
    streams = {source: model.stream() for source in starts}
    for step in range(16):
        given = {source: x[row, step] for row, (source, start) in enumerate(starts.items()) if step >= start}
        for source, output in batch.step(given).items():
            assert np.array_equal(output, streams[source].step(given[source]))
    ids = list(starts)
    outputs = batch.process(x[:, 16:], ids)
    for row, source in enumerate(ids):
        assert np.array_equal(outputs[row], streams[source].process(x[row, 16:]))
        for name, array in streams[source].state.items():
            assert np.array_equal(batch.state(source)[name], array)
    batch.restore(ids[0], streams[ids[2]].state)
    batch.reset(ids[1])
    streams[ids[1]].reset()
    got = batch.step(dict.fromkeys(ids, x[0, 0]))
    assert np.array_equal(got[ids[1]], streams[ids[1]].step(x[0, 0]))
    assert np.array_equal(got[ids[0]], streams[ids[2]].step(x[0, 0]))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_program_file_holds_it_with_its_golden_case(kind, exported, tmp_path):
    content, x = exported(kind).model, samples(2, 12, past.WIDTH)
    path = tmp_path / "net.lep"
    path.write_bytes(to_native(content))
    program, model = load(path), load(to_native(content))
    assert program.selftest().ok
    stream = model.stream()
    stream.process(x)
    other = program.stream()
    other.restore(stream.state)
    assert np.array_equal(other.process(x), stream.process(x))


def test_a_wrong_place_dilation_or_state_fails_the_golden_case(exported, monkeypatch):
    from lstm_edge_exporters.targets.native.program import ProgramWriter
    from lstm_edge_runtime.errors import CheckFailedError

    content, window = exported(past.WaveNet).model, ProgramWriter.window
    for change in ((1, 0, 0), (0, 1, 0)):

        def wrong(self, source, ring, first, dilation, count, frames=1, change=change):
            if count == 2 and first == 0 and dilation > 1:
                first, dilation = first + change[0], dilation - change[1]
            return window(self, source, ring, first, dilation - change[0], count, frames)

        monkeypatch.setattr(ProgramWriter, "window", wrong)
        with pytest.raises(CheckFailedError, match="golden case"):
            load(to_native(content))


QUICK = (late.Wearable, late.TwoDelays, strides.TwoRates, strides.UNet, positions.Learned, positions.Computed)
ENDING = [kind for kind, pace in positions.PACES.items() if "from a reset" in pace]
BEHIND = [
    kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow)
    for kind in (*late.DELAYS, *strides.PACES, *ENDING, positions.Computed)
    if kind not in SCANS
]


@pytest.fixture(scope="module")
def behind():
    """A function that gives the file of a kind whose results are behind, made once."""
    made = {}

    def artifact(kind):
        if kind not in made:
            paces = ((late, late.DELAYS), (strides, strides.PACES), (positions, positions.PACES))
            made[kind] = next(module for module, kinds in paces if kind in kinds).made(kind)[1].model
        return made[kind]

    return artifact


def by_name(result):
    """The outputs of a call that gave any, as lists of frames."""
    given = {} if result is None else result if isinstance(result, dict) else {"": result}
    return {name: np.asarray(array) for name, array in given.items() if array is not None}


def assert_same(got, expected, limit=1e-5):
    got, expected = by_name(got), by_name(expected)
    assert {name: array.shape for name, array in got.items()} == {
        name: array.shape for name, array in expected.items()
    }
    for name, array in expected.items():
        assert np.abs(got[name] - array).max(initial=0) <= limit * max(1, np.abs(array).max(initial=0))


@pytest.mark.parametrize("kind", BEHIND, ids=lambda kind: kind.__name__)
def test_a_native_stream_that_is_behind_is_that_of_onnxruntime(kind, behind):
    """In blocks of any size, with a state that moves between the engines, in steps and after a reset."""
    content, rng = behind(kind), np.random.default_rng(4)
    native, plain = load(to_native(content)), load(content)
    assert (native.engine, plain.engine) == ("native", "onnxruntime")
    assert native.selftest().ok
    unit, x, at = native.manifest.unit, samples(4, native.manifest.longest_run or 90, past.WIDTH), 0
    streams = native.stream(), plain.stream()
    while at < len(x):
        size = int(rng.integers(1, 2 * unit + 4))
        assert_same(*(stream.process(x[at : at + size]) for stream in streams))
        at += size
        one, other = (stream.state for stream in streams)
        assert (one.age, one.rest.keys()) == (other.age, other.rest.keys())
        for name, array in other.items():
            assert np.abs(one[name] - array).max() <= 1e-5 * max(1, np.abs(array).max())
        streams[0].restore(other)
        streams[1].restore(one)
    for stream in streams:
        stream.reset()
    for sample in x:
        assert_same(*(stream.step(sample) for stream in streams))


class InC:
    """A stream of a program with one input, as a program in C uses it."""

    def __init__(self, content):
        self.lib, self.handle = library(), library().lstm_edge_load(content, len(content))
        assert self.handle, library().lstm_edge_last_error()
        self.stream = self.lib.lstm_edge_stream_new(self.handle)
        self.outputs, self.states = (self.lib.lstm_edge_count(self.handle, kind) for kind in (1, 2))
        self.unit = self.lib.lstm_edge_unit(self.handle)
        ends = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p)(("lstm_edge_end", self.lib))
        self.end = ends(self.handle)

    def __del__(self):
        self.lib.lstm_edge_stream_free(self.stream)
        self.lib.lstm_edge_free(self.handle)

    def _frames(self, places, index):
        from lstm_edge_runtime.native.library import Port

        port, count = Port(), self.lib.lstm_edge_frames(self.stream, index)
        assert self.lib.lstm_edge_describe(self.handle, 1, index, ctypes.byref(port)) == 0
        return np.ctypeslib.as_array(places, (max(count, 1) * port.width,))[: count * port.width].copy()

    def step(self, sample):
        place = self.lib.lstm_edge_input(self.stream, 0)
        ctypes.memmove(place, np.ascontiguousarray(sample).ctypes.data, sample.nbytes)
        assert self.lib.lstm_edge_step(self.stream) == 0
        floats = ctypes.POINTER(ctypes.c_float)
        return [
            self._frames(ctypes.cast(self.lib.lstm_edge_output(self.stream, index), floats), index)
            for index in range(self.outputs)
        ]

    def state(self, index):
        from lstm_edge_runtime.native.library import Port

        port = Port()
        assert self.lib.lstm_edge_describe(self.handle, 2, index, ctypes.byref(port)) == 0
        size = port.width * (8 if port.type == 1 else 4)
        return ctypes.string_at(self.lib.lstm_edge_state(self.stream, index), size)

    def status(self, chunk):
        """What a call says that writes no output."""
        chunk = np.ascontiguousarray(chunk)
        nowhere = (ctypes.c_void_p * self.outputs)()
        return self.lib.lstm_edge_chunk(
            self.stream, (ctypes.c_void_p * 1)(chunk.ctypes.data), len(chunk), nowhere
        )

    def process(self, chunk):
        chunk = np.ascontiguousarray(chunk)
        rooms = [(ctypes.c_float * (64 * (len(chunk) + self.unit)))() for _ in range(self.outputs)]
        inputs = (ctypes.c_void_p * 1)(chunk.ctypes.data)
        outputs = (ctypes.c_void_p * self.outputs)(*map(ctypes.addressof, rooms))
        assert self.lib.lstm_edge_chunk(self.stream, inputs, len(chunk), outputs) == 0
        floats = ctypes.POINTER(ctypes.c_float)
        return [self._frames(ctypes.cast(room, floats), index) for index, room in enumerate(rooms)]


@pytest.mark.parametrize("kind", BEHIND, ids=lambda kind: kind.__name__)
def test_a_program_that_is_behind_streams_by_itself_in_c(kind, behind, tmp_path):
    """C keeps the ages, the samples that fill no unit, and leaves out what comes before the first frame."""
    content, rng = behind(kind), np.random.default_rng(5)
    path = tmp_path / "net.lep"
    path.write_bytes(to_native(content))
    program, own = load(path), InC(path.read_bytes())
    x = samples(5, program.manifest.longest_run or 90, past.WIDTH)
    assert own.end == (program.manifest.stream.end or 0)
    assert program.selftest().ok
    assert own.lib.lstm_edge_delay(own.handle) == program.stream().delay
    with pytest.raises(UnsupportedError, match="has the stream alone"):
        program.run(x[None, :72])
    stream = program.stream()
    for sample in x:
        expected, got = by_name(stream.step(sample)), own.step(sample)
        assert sum(array.size for array in got) == sum(array.size for array in expected.values())
        for array, frames in zip(expected.values(), filter(len, got), strict=True):
            assert np.array_equal(array.reshape(-1), frames)
    own.lib.lstm_edge_reset(own.stream)
    stream.reset()
    at = 0
    while at < len(x):
        size = int(rng.integers(1, 3 * own.unit + 9))
        expected, got = by_name(stream.process(x[at : at + size])), own.process(x[at : at + size])
        at += size
        for array, frames in zip(
            expected.values(), got if len(expected) == len(got) else filter(len, got), strict=True
        ):
            assert np.array_equal(array.reshape(-1), frames)
    assert own.lib.lstm_edge_age(own.stream) == len(x)


@pytest.mark.system
def test_a_stream_ends_with_its_positions_in_c(behind, find_program, tmp_path):
    """Behind the end every call is refused and changes nothing; a reset starts again."""
    content, x = behind(positions.Learned), samples(9, 90, past.WIDTH)
    own, model = InC(to_native(content)), load(to_native(content))
    expected = model.stream().process(x[:82])
    batch, stream = model.streams(1), model.stream()
    source = batch.add()
    first = own.process(x[:79])[0]
    stream.process(x[:79])
    batch.process({source: x[:79]})
    for take in (lambda: stream.process(x[79:83]), lambda: batch.process({source: x[79:83]})):
        with pytest.raises(StateError, match="has taken 82 steps since its reset"):
            take()
    state = [own.state(index) for index in range(own.states)]
    assert own.status(x[79:83]) == 9
    assert b"positions for 82 steps" in own.lib.lstm_edge_last_error()
    assert state == [own.state(index) for index in range(own.states)]
    got = np.concatenate([first, own.process(x[79:81])[0], *(own.step(each)[0] for each in x[81:82])])
    assert np.array_equal(got, expected.reshape(-1))
    assert np.array_equal(stream.process(x[79:82]), batch.process({source: x[79:82]})[source])
    assert own.status(x[82:83]) == 9
    own.lib.lstm_edge_reset(own.stream)
    assert np.array_equal(own.process(x[:82])[0], expected.reshape(-1))
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(UnsupportedError, match="positions for some steps only"):
        to_c(tmp_path / "net.onnx")


@pytest.mark.parametrize("kind", [late.TwoDelays, strides.UNet], ids=lambda kind: kind.__name__)
def test_native_sources_of_different_age_that_are_behind_share_a_batch(kind, behind):
    """Each gives over thousands of steps what a stream of its own gives."""
    model, rng = load(to_native(behind(kind))), np.random.default_rng(6)
    batch, x = model.streams(3), samples(6, 2, 3000, past.WIDTH)
    sources, streams, at = [batch.add(), batch.add()], [model.stream(), model.stream()], [0, 0]
    while min(at) < x.shape[1]:
        size, taken = int(rng.integers(1, 120)), {}
        for row in {0, int(rng.integers(0, 2))}:
            if at[row] + size <= x.shape[1] or at[row] == x.shape[1]:
                taken[row] = x[row, at[row] : at[row] + size]
        taken = {row: chunk for row, chunk in taken.items() if len(chunk) == size}
        if not taken:
            row = at.index(min(at))
            taken = {row: x[row, at[row] :]}
        given = {sources[row]: chunk for row, chunk in taken.items()}
        for source, result in batch.process(given).items():
            row = sources.index(source)
            assert np.array_equal(result, streams[row].process(taken[row]))
            at[row] += len(taken[row])
        row = int(rng.integers(0, 2))
        if rng.random() < 0.1:
            batch.restore(sources[row], streams[row].state)
    for row, source in enumerate(sources):
        assert batch.state(source).age == 3000
        for name, array in streams[row].state.items():
            assert np.array_equal(batch.state(source)[name], array)


def test_an_output_that_is_an_input_has_a_place_of_its_own_in_each_stream():
    class Passing(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(past.WIDTH, 3, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0], x

    config = ExportConfig(inputs={"x": ("N", "L", past.WIDTH)})
    model = load(to_native(export(Passing().eval(), torch.randn(2, 9, past.WIDTH), config).model))
    streams, x = [model.stream() for _ in range(20)], samples(7, 20, past.WIDTH)
    for stream, sample in zip(streams, x, strict=True):
        assert np.array_equal(stream.step(sample)["output_1"], sample)


C_KINDS = [
    kind if kind is past.Wearable else pytest.param(kind, marks=pytest.mark.slow)
    for kind in past.STREAMING
    if kind not in SCANS
]


C_BEHIND = [
    kind if kind is strides.TwoRates else pytest.param(kind, marks=pytest.mark.slow)
    for kind in (*late.DELAYS, *strides.PACES, positions.Computed)
    if kind not in SCANS
]


@pytest.mark.system
@pytest.mark.parametrize("kind", C_KINDS + C_BEHIND, ids=lambda kind: kind.__name__)
def test_it_runs_as_c(kind, exported, behind, find_program, tmp_path):
    """No compiler warns, the sanitizers find nothing, and each call gives the frames of a unit."""
    content = exported(kind).model if kind in past.STREAMING else behind(kind)
    (tmp_path / "net.onnx").write_bytes(content)
    model = load(tmp_path / "net.onnx")
    unit, stream = model.manifest.unit, model.stream()
    x = samples(8, 20 * unit, past.WIDTH)
    results = [by_name(stream.process(x[start : start + unit])) for start in range(0, len(x), unit)]
    whole = {name: array.shape for name, array in results[-1].items()}
    expected = [
        np.concatenate([array.reshape(-1) for array in each.values()])
        for each in results
        if {name: array.shape for name, array in each.items()} == whole
    ]
    folder = to_c(tmp_path / "net.onnx").save(tmp_path / "net_c")
    (tmp_path / "main.c").write_text(driver(folder))
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    options = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *warnings]
    command = [find_program("gcc"), *options, *sources(folder), tmp_path / "main.c", "-lm"]
    subprocess.run([*command, "-o", tmp_path / "main"], check=True)
    ran = subprocess.run([tmp_path / "main"], input=x.astype("f4").tobytes(), capture_output=True, check=True)
    got = np.frombuffer(ran.stdout, np.float32).reshape(len(results), -1)[-len(expected) :]
    assert np.abs(got - np.array(expected)).max() <= 1e-5 * max(1, np.abs(expected).max())
