"""A saved stream: the same bytes in C and in Python, which refuse damaged ones."""

import ctypes as C
import itertools
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import FileFormatError, LstmEdgeError
from lstm_edge_runtime.native import INPUT, STATE
from lstm_edge_runtime.state import state_of_bytes

DATA = Path(__file__).parents[1] / "runtime" / "data"
NETWORKS = ("lstm", "late", "strided", "motions-int8", "tokens", "step", "gru")
"""Two layers; a ring of frames; a ring and a unit of four steps; int8; whole numbers;
one step per call; two inputs."""
BAD_STATE = 9


class CStream:
    """A stream of the C library with numpy arrays as samples and results."""

    def __init__(self, library, name):
        content = (DATA / f"{name}.lep").read_bytes()
        library.lstm_edge_save.restype = C.c_size_t
        library.lstm_edge_save.argtypes = (C.c_void_p, C.c_char_p, C.c_size_t)
        library.lstm_edge_restore.argtypes = (C.c_void_p, C.c_char_p, C.c_size_t)
        library.lstm_edge_find.restype = C.c_size_t
        library.lstm_edge_find.argtypes = (C.c_void_p, C.c_int, C.c_char_p)
        self.library = library
        self.model = load(content)
        self.program = library.lstm_edge_load(content, len(content))
        self.handle = library.lstm_edge_stream_new(self.program)

    def __del__(self):
        self.library.lstm_edge_stream_free(self.handle)
        self.library.lstm_edge_free(self.program)

    def step(self, sample):
        """Take a step; return the frames of each output."""
        for index, spec in enumerate(self.model.inputs):
            if spec.name == self.model.manifest.lengths:
                continue
            array = np.ascontiguousarray(sample[spec.name])
            address = self.library.lstm_edge_input(self.handle, index)
            C.memmove(address, array.ctypes.data, array.nbytes)
        assert self.library.lstm_edge_step(self.handle) == 0
        frames = []
        for index in range(len(self.model.outputs)):
            count = self.library.lstm_edge_frames(self.handle, index)
            layout = self.model._engine.outputs[index]
            width = int(np.prod(layout.inner))
            address = self.library.lstm_edge_output(self.handle, index)
            view = (C.c_float * (count * width)).from_address(address)
            frames.append(np.array(view))
        return np.concatenate(frames)

    def save(self):
        size = self.library.lstm_edge_save(self.handle, None, 0)
        buffer = C.create_string_buffer(size)
        assert self.library.lstm_edge_save(self.handle, buffer, size - 1) == size
        assert not any(buffer.raw)  # too small: nothing is written
        assert self.library.lstm_edge_save(self.handle, buffer, size) == size
        return buffer.raw

    def restore(self, content):
        return self.library.lstm_edge_restore(self.handle, content, len(content))


def draw_samples(model, steps):
    """Return samples by input for each step."""
    rng = np.random.default_rng(3)
    samples = []
    for _ in range(steps):
        sample = {}
        for layout in model._engine.inputs:
            shape = layout.inner
            if np.dtype(layout.dtype).kind == "f":
                sample[layout.name] = rng.normal(size=shape).astype(layout.dtype)
            else:
                sample[layout.name] = rng.integers(0, 5, shape).astype(layout.dtype)
        samples.append(sample)
    return samples


def flat(result):
    """Return the frames of a result of Python, one after another."""
    values = result.values() if isinstance(result, dict) else [result]
    arrays = [np.ravel(value) for value in values if value is not None]
    return np.concatenate([*arrays, np.zeros(0, np.float32)])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_stream_moves_between_c_and_python_at_every_step(best, name):
    stream = CStream(best, name)
    other = CStream(best, name)
    models = [stream.model, load(DATA / f"{name}.onnx")]
    samples = draw_samples(stream.model, 12)
    for sample, following in itertools.pairwise(samples):
        stream.step(sample)
        saved = stream.save()
        state, more = state_of_bytes(saved)
        assert (state.identity, more) == (stream.model.identity, {})
        again = None
        for model in models:
            python = model.stream(reset_every="never")
            python.restore(state)
            again = python.state
            assert other.restore(again.to_bytes()) == 0
            assert other.save() == saved
            given = following if len(following) > 1 else next(iter(following.values()))
            rtol = 0 if model.engine == "native" else 1e-4
            atol = 0.15 if name == "motions-int8" and rtol else 3e-6
            np.testing.assert_allclose(
                flat(python.step(given)), other.step(following), rtol, atol * (rtol > 0)
            )
        assert state.age == again.age


def test_a_saved_stream_of_c_is_a_file_of_python(best, tmp_path):
    stream = CStream(best, "strided")
    for sample in draw_samples(stream.model, 6):
        stream.step(sample)
    (tmp_path / "s.state").write_bytes(stream.save())
    state = State.load(tmp_path / "s.state")
    assert (state.age, sorted(state.samples)) == (6, ["x"])
    assert sum(array.nbytes for array in state.samples.values()) == 2 * 3 * 4


def test_a_damaged_saved_stream_is_refused_and_changes_nothing(best):
    stream = CStream(best, "strided")
    for sample in draw_samples(stream.model, 6):
        stream.step(sample)
    saved = stream.save()
    fresh = CStream(best, "strided")
    before = fresh.save()
    damaged = [saved[:size] for size in range(0, len(saved), 5)]
    damaged += [
        saved[:at] + bytes([saved[at] ^ 0x10]) + saved[at + 1 :]
        for at in range(len(saved))
    ]
    refused = 0
    for content in damaged:
        status = fresh.restore(content)
        with pytest.raises((ValueError, struct.error)):
            state_of_bytes(content)
        assert status == BAD_STATE
        refused += 1
    assert refused == len(damaged)
    assert fresh.save() == before
    assert fresh.restore(saved) == 0
    assert fresh.save() == saved


@pytest.mark.parametrize("seed", range(20))
def test_a_saved_stream_with_wrong_numbers_is_refused_or_harmless(best, seed):
    stream = CStream(best, "strided")
    for sample in draw_samples(stream.model, 6):
        stream.step(sample)
    rng = np.random.default_rng(seed)
    saved = np.frombuffer(stream.save(), "<u4").copy()
    odd = np.array([0, 1, 2, 7, 63, 65, 2**16, 2**31 - 1, 2**31, 2**32 - 1], np.uint32)
    for _ in range(50):
        content = saved.copy()
        for _ in range(int(rng.integers(1, 4))):
            content[rng.integers(3, len(content))] = rng.choice(odd)
        content[2] = zlib.crc32(content[3:].tobytes())
        status = stream.restore(content.tobytes())
        assert status in (0, BAD_STATE)
        try:
            state, _ = state_of_bytes(content.tobytes())
            stream.model.stream().restore(state)
        except (ValueError, struct.error, LstmEdgeError):
            pass


def test_the_state_of_another_network_is_refused_by_name(best, tmp_path):
    stream = CStream(best, "lstm")
    content = CStream(best, "late").save()
    assert stream.restore(content) == BAD_STATE
    expected = f"expected {stream.model.identity[:12]}"
    assert expected in best.lstm_edge_last_error().decode()
    (tmp_path / "s.state").write_bytes(b"PK" + content)
    with pytest.raises(FileFormatError, match="is not a saved state"):
        State.load(tmp_path / "s.state")


def test_a_port_is_found_by_its_name(best):
    stream = CStream(best, "lstm")
    find = best.lstm_edge_find
    assert find(stream.program, INPUT, b"x") == 0
    assert find(stream.program, STATE, b"c_0[1]") < best.lstm_edge_count(
        stream.program, STATE
    )
    assert find(stream.program, STATE, b"x") == best.lstm_edge_count(
        stream.program, STATE
    )


def test_kept_samples_outside_of_a_table_are_refused(best, tmp_path):
    content = _tokens_with_a_unit()
    (tmp_path / "tokens.lep").write_bytes(content)
    stream = CStream(best, tmp_path / "tokens")
    stream.step({"x": np.array(3, np.int64)})
    saved = stream.save()
    state, _ = state_of_bytes(saved)
    assert stream.restore(saved) == 0
    hostile = State(state, state.identity, state.age, {"x": np.array([10**6])})
    assert stream.restore(hostile.to_bytes()) != 0
    assert stream.save() == saved


def _tokens_with_a_unit():
    """Return a program that looks tokens up and has a unit of two steps."""
    import torch
    from torch import nn

    from lstm_edge_exporters import ExportConfig, export
    from lstm_edge_exporters.targets.native import to_native

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(7, 4)
            self.conv = nn.Conv1d(4, 3, 2, stride=2)
            self.rnn = nn.GRU(3, 5, batch_first=True)

        def forward(self, x):
            frames = self.conv(self.words(x).transpose(1, 2)).transpose(1, 2)
            return self.rnn(torch.relu(frames))[0]

    torch.manual_seed(0)
    example = torch.randint(0, 7, (2, 8), generator=torch.Generator().manual_seed(1))
    config = ExportConfig(inputs={"x": ("N", "L")}, stream=True)
    return to_native(export(Tokens().eval(), example, config).model)
