"""Networks that look back along time on the native engine, in a program file and in C."""

import subprocess

import numpy as np
import onnx
import pytest
import torch

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_runtime import load
from lstm_edge_runtime.native.convert import to_native
from lstm_edge_runtime.native.library import installed

from . import test_past as past

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")

KINDS = [
    kind if kind in (past.Wearable, past.Spectral) else pytest.param(kind, marks=pytest.mark.slow)
    for kind in past.STREAMING
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
    manifest = model.interface
    feeds = {"x": x[None]} | {
        state.input: np.full([1 if axis == "N" else axis for axis in state.axes], state.reset, state.dtype)
        for state in manifest.states
    }
    return Graph64(onnx.load_from_string(content)).run64(feeds)[manifest.outputs[0].name][0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_native_engine_streams_it_in_steps_and_chunks(kind, exported):
    content, x = exported(kind).model, samples(0, 40, past.WIDTH)
    native, plain = load(content), load(content, engine="onnxruntime")
    assert native.engine == "native"
    assert native.selftest().ok
    every = "L" in native.interface.outputs[0].axes
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


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_sources_of_different_age_share_a_native_batch(kind, exported):
    model, x = load(exported(kind).model, engine="native"), samples(1, 3, 20, past.WIDTH)
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
    program, model = load(path), load(content, engine="native")
    assert program.selftest().ok
    stream = model.stream()
    stream.process(x)
    other = program.stream()
    other.restore(stream.state)
    assert np.array_equal(other.process(x), stream.process(x))


def test_a_wrong_place_dilation_or_state_fails_the_golden_case(exported, monkeypatch):
    from lstm_edge_runtime.errors import CheckFailedError
    from lstm_edge_runtime.native.program import ProgramWriter

    content, window = exported(past.WaveNet).model, ProgramWriter.window
    for change in ((1, 0, 0), (0, 1, 0)):

        def wrong(self, source, ring, first, dilation, count, change=change):
            if count == 2 and first == 0 and dilation > 1:
                first, dilation = first + change[0], dilation - change[1]
            return window(self, source, ring, first, dilation - change[0], count)

        monkeypatch.setattr(ProgramWriter, "window", wrong)
        with pytest.raises(CheckFailedError, match="golden case"):
            load(content, engine="native")


C_KINDS = [
    kind if kind is past.Wearable else pytest.param(kind, marks=pytest.mark.slow) for kind in past.STREAMING
]


@pytest.mark.parametrize("kind", C_KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("chunk", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_it_runs_as_c(kind, chunk, exported, find_program, tmp_path):
    """No compiler warns, and the sanitizers find nothing."""
    x = samples(3, 30, past.WIDTH)
    (tmp_path / "net.onnx").write_bytes(exported(kind).model)
    folder = to_c(tmp_path / "net.onnx", chunk=chunk).save(tmp_path / "net_c")
    sources = [
        f"-I{folder / 'src'}",
        *sorted((folder / "src").glob("*.c")),
        folder / "examples/main.c",
        "-lm",
    ]
    warnings = ["-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror"]
    sanitized = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    program = tmp_path / "main"
    for command in (
        ["clang", "-std=c99", "-O2"],
        ["g++", "-std=c++11", "-x", "c++"],
        ["gcc", "-std=c99", *sanitized],
    ):
        call = [find_program(command[0]), *command[1:], *warnings, *sources, "-o", program]
        ran = subprocess.run(call, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    text = "\n".join(" ".join(f"{value:.9g}" for value in sample) for sample in x)
    ran = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
    got = np.array([line.split()[: x.size] for line in ran.stdout.splitlines()], "float64")
    stream = load(tmp_path / "net.onnx", engine="onnxruntime").stream()
    expected = [stream.process(x[start : start + chunk]).reshape(-1) for start in range(0, len(x), chunk)]
    assert np.abs(got - np.array(expected)).max() <= 1e-5 * max(1, np.abs(expected).max())
