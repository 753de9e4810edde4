"""A stream of the C library is reset every so many steps, as its file says and as
Python's are: to the bit."""

import ctypes as C
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from engine import Program, Stream

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

DATA = Path(__file__).parents[1] / "runtime" / "data"
NAMES = {"lstm": "one result per step", "late": "a delay", "strided": "a unit of 4"}
EVERY = 7


@pytest.fixture
def best(best):
    """The library, with the types of functions that Python does not call."""
    for name, result in (("reset_every", C.c_uint64), ("begin", None)):
        function = getattr(best, f"lstm_edge_{name}")
        function.argtypes = (C.c_void_p,)
        function.restype = result
    best.lstm_edge_save.argtypes = (C.c_void_p, C.c_char_p, C.c_size_t)
    best.lstm_edge_save.restype = C.c_size_t
    return best


def trained_on_windows(name: str) -> bytes:
    """Return the program of a file whose training windows start from reset."""
    model = onnx.load(DATA / f"{name}.onnx")
    (entry,) = (prop for prop in model.metadata_props if prop.key == KEY)
    entry.value = json.dumps(json.loads(entry.value) | {"reset_every": EVERY})
    return to_native(sealed(model.SerializeToString()))


def frames_of(program: Program, handle: int, x: Any) -> dict[str, Any]:
    """Return the frames that a chunk completes, by output."""
    arrays = [np.full((len(x) + 4, port.width), 7, "f4") for port in program.outputs]
    inputs = (C.c_void_p * 1)(x.ctypes.data)
    outputs = (C.c_void_p * len(arrays))(*[array.ctypes.data for array in arrays])
    program.check(program.library.lstm_edge_chunk(handle, inputs, len(x), outputs))
    counts = [program.library.lstm_edge_frames(handle, i) for i in range(len(arrays))]
    return {
        port.name.decode(): array[:count]
        for port, array, count in zip(program.outputs, arrays, counts, strict=True)
    }


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [[1] * 40, [40], [3, 9, 1, 27]], ids=str)
def test_results_after_a_reset_are_those_of_python(best, name, sizes):
    data = trained_on_windows(name)
    program = Program(best, data)
    assert best.lstm_edge_reset_every(program.handle) == EVERY
    handle = best.lstm_edge_stream_new(program.handle)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype("f4")
    with load(data) as model:
        stream = model.stream(reset_every=EVERY)
        for chunk in np.split(x, np.cumsum(sizes)[:-1]):
            expected = stream.process(chunk)
            if not isinstance(expected, dict):
                expected = {model.outputs[0].name: expected}
            for output, got in frames_of(program, handle, chunk).items():
                array = np.reshape(expected.get(output, []), (-1, got.shape[1]))
                np.testing.assert_array_equal(got, array, err_msg=output)
    best.lstm_edge_stream_free(handle)


def test_the_interval_can_be_changed_and_steps_are_chunks(best):
    program = Program(best, trained_on_windows("lstm"))
    x = np.random.default_rng(1).normal(size=(30, 3)).astype("f4")
    never, default = Stream(program), Stream(program)
    best.lstm_edge_set_reset_every(never.handle, 0)
    steps = np.stack([default.step(row) for row in x])
    np.testing.assert_array_equal(Stream(program).chunk(x), steps[-1])
    assert best.lstm_edge_age(default.handle) == 30 % EVERY
    carried = np.stack([never.step(row) for row in x])
    np.testing.assert_array_equal(carried[:EVERY], steps[:EVERY])
    assert np.abs(carried[EVERY:] - steps[EVERY:]).max() > 0.01


def test_a_refused_sample_leaves_the_state_before_a_reset(best):
    writer = ProgramWriter(reset_every=2)
    count = writer.state("n", 1)
    writer.next_state(count, writer.unary(count, 4, 1.0, 1.0))  # n + 1
    writer.output("y", count, every_step=True)
    rows = writer.gather(writer.input("x", 1, "int32"), np.eye(3))
    writer.output("rows", rows, every_step=True)
    program = Program(best, writer.to_bytes())
    stream = Stream(program)
    index = stream.x.view(np.int32)
    for sample, expected in ((0, 0), (1, 1)):
        index[:] = sample
        assert best.lstm_edge_step(stream.handle) == 0
        assert stream.y == expected
    index[:] = 3
    assert best.lstm_edge_step(stream.handle) != 0
    assert stream.states[0] == 2
    index[:] = 2
    assert best.lstm_edge_step(stream.handle) == 0
    assert stream.y == 0


def test_the_golden_case_is_replayed_in_all_rows(best):
    def made(second: float) -> bytes:
        writer = ProgramWriter()
        state = writer.state("h", 2)
        new = writer.binary(0, state, writer.input("x", 2))
        writer.next_state(state, new)
        writer.output("y", new, every_step=True)
        x = np.arange(12.0).reshape(2, 3, 2)
        y = x.cumsum(1)
        y[1, 2, 0] += second
        last = y[:, -1]
        writer.golden({"x": x}, {"y": (y, 0.5), "h": (last, 0.5)}, rows=2)
        return writer.to_bytes()

    assert Program(best, made(0)).selftest() == 0
    assert Program(best, made(2)).selftest() == 4


def test_equal_infinities_and_nan_agree_with_the_golden_case(best):
    writer = ProgramWriter()
    y = writer.unary(writer.input("x", 3), 18)  # log
    writer.output("y", y, every_step=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.array([[0, -1, 1.0]])
        writer.golden({"x": x}, {"y": (np.log(x), 1e-3)})
    assert Program(best, writer.to_bytes()).selftest() <= 1


def test_states_with_brackets_in_their_names_are_saved_each(best):
    writer = ProgramWriter()
    x = writer.input("x", 2)
    for name in ("h[a]", "h[b]", "g[0]", "g[1]"):
        state = writer.state(name, 2)
        writer.next_state(state, writer.binary(0, state, x))
    writer.output("y", x, every_step=True)
    stream = Stream(Program(best, writer.to_bytes()))
    size = best.lstm_edge_save(stream.handle, None, 0)
    saved = (C.c_char * size)()
    best.lstm_edge_save(stream.handle, saved, size)
    assert [bytes(saved).count(name) for name in (b"h[a]", b"h[b]", b"g[")] == [1, 1, 0]


MODE = """
import ctypes, sys
import numpy as np
library = ctypes.CDLL(sys.argv[1])
for function in (library.lstm_edge_open, library.lstm_edge_stream_new):
    function.restype = ctypes.c_void_p
program = ctypes.c_void_p(library.lstm_edge_open(sys.argv[2].encode()))
stream = ctypes.c_void_p(library.lstm_edge_stream_new(program))
tiny = np.full(1, 1e-40, "f4")
library.lstm_edge_begin(stream)
print(float((tiny * np.float32(1))[0]) > 0)
library.lstm_edge_stream_free(stream)
print(float((tiny * np.float32(1))[0]) > 0)
"""


def test_a_freed_stream_gives_the_mode_of_the_thread_back(built):
    command = [sys.executable, "-c", MODE, built, DATA / "lstm.lep"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split()[-1] == "True"
