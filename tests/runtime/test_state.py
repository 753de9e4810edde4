import os
import pickle
import struct
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import FileFormatError, NotFoundError, StateError
from lstm_edge_runtime.files import read_arrays, write_bytes
from lstm_edge_runtime.state import state_of_bytes


@pytest.fixture
def state() -> State:
    h = np.random.default_rng(2).normal(size=(2, 1, 8)).astype(np.float32)
    return State({"h_0": h, "odd/name": np.arange(3, dtype=np.float64)}, "ab" * 32, 7)


def same(left: State, right: State) -> bool:
    facts = [
        (s.identity, s.age, [(name, a.dtype, a.tolist()) for name, a in s.items()])
        for s in (left, right)
    ]
    return facts[0] == facts[1]


def test_a_state_survives_pickle_and_file_and_says_what_it_holds(state, tmp_path):
    assert same(pickle.loads(pickle.dumps(state)), state)
    state.save(tmp_path / "s.state", steps=np.array(3))
    assert same(State.load(tmp_path / "s.state"), state)
    assert [path.name for path in tmp_path.iterdir()] == ["s.state"]
    assert "h_0: float32 (2, 1, 8)" in repr(state)


def test_a_state_can_not_be_written_to_and_does_not_follow_the_array_it_came_from():
    array = np.zeros(3, np.float32)
    state = State({"h": array}, "x")
    assert state.age == 0
    array[:] = 1
    np.testing.assert_array_equal(state["h"], 0)
    for instance in (state, pickle.loads(pickle.dumps(state))):
        with pytest.raises(ValueError, match="read-only"):
            instance["h"][0] = 1


def saved(age=0, arrays=b"", count=0):
    """Return the bytes of a saved state with a right checksum."""
    rest = struct.pack("<IQII64s", 0, age, count, 0, b"a" * 64) + arrays
    return b"LSTMSAVE" + struct.pack("<I", zlib.crc32(rest)) + rest


def entry(kind=0, number=0, size=1, dims=1, count=1, shape=(1,), name=b"h" + bytes(7)):
    """Return the bytes of an array."""
    head = struct.pack(f"<IIIIQ{len(shape)}Q", kind, number, size, dims, count, *shape)
    return head + name + bytes(8)


assert state_of_bytes(saved(arrays=entry(), count=1))[0]["h"].shape == (1,)
BAD = {
    "nothing": b"",
    "another kind of file": b"PK\x03\x04" + bytes(500),
    "an age that is too large": saved(age=2**63),
    "a huge claim": saved(arrays=entry(count=2**40, shape=(2**40,)), count=1),
    "a claim that wraps": saved(arrays=entry(count=2**62, shape=(2**62,)), count=1),
    "a shape of another count": saved(arrays=entry(shape=(2,)), count=1),
    "an unknown type": saved(arrays=entry(number=12), count=1),
    "too many axes": saved(arrays=entry(dims=65), count=1),
    "a name that is no text": saved(arrays=entry(name=b"\xff" + bytes(7)), count=1),
    "a name beyond the end": saved(arrays=entry(size=2**31), count=1),
    "an array that is missing": saved(arrays=entry(), count=2),
    "very many arrays": saved(arrays=entry(), count=2**32 - 1),
}


def test_a_folder_is_not_a_state(tmp_path):
    with pytest.raises(FileFormatError, match=r"is not a saved state .*folder"):
        State.load(tmp_path)


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_file_that_is_no_state_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "s.state").write_bytes(content)
    with pytest.raises(
        FileFormatError, match=r"s\.state is not a saved state .*; save one first"
    ) as error:
        State.load(tmp_path / "s.state")
    assert "\n" not in str(error.value)


def test_a_damaged_file_is_refused_whatever_is_wrong_with_it(state, tmp_path):
    state.save(tmp_path / "s.state")
    content = (tmp_path / "s.state").read_bytes()
    damaged = [
        content[:index] + b"\xee" + content[index + 1 :]
        for index in range(0, len(content), 2)
    ]
    damaged += [content[: int(len(content) * share)] for share in (0, 0.2, 0.6, 0.95)]
    refused = 0
    for data in damaged:  # zipfile and numpy raise different errors
        (tmp_path / "s.state").write_bytes(data)
        try:
            State.load(tmp_path / "s.state")
        except FileFormatError as error:
            refused += "\n" not in str(error)
    assert refused > len(damaged) / 2
    for wrong in (tmp_path / ("s" * 300), tmp_path / "a\0b"):
        with pytest.raises(FileFormatError, match="is not a saved state"):
            State.load(wrong)


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "it is empty"), (b"x", "it does not begin as one")]
)
def test_a_short_file_is_no_saved_state(content, reason, tmp_path):
    (tmp_path / "s.state").write_bytes(content)
    with pytest.raises(FileFormatError, match=reason):
        State.load(tmp_path / "s.state")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs in folders")
def test_a_fifo_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for read in (
        State.load,
        load,
        lambda path: read_arrays(path, "can't be read", "save it again"),
    ):
        with pytest.raises(FileFormatError, match="it is not a regular file"):
            read(tmp_path / "fifo")


def test_a_link_stays_a_link(state, tmp_path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "s.state")
    for _ in range(2):  # a link to nothing, then a link to a file
        state.save(tmp_path / "link.npz")
        assert (tmp_path / "link.npz").is_symlink()
        assert same(State.load(tmp_path / "s.state"), state)
    (tmp_path / "ring").symlink_to("ring")
    state.save(tmp_path / "ring")
    assert same(State.load(tmp_path / "ring"), state)
    with pytest.raises(NotFoundError, match="does not exist"):
        State.load(tmp_path / "none.npz")


def test_many_writers_of_one_target_leave_one_whole_file(tmp_path):
    target = tmp_path / "s.state"
    contents = [bytes([index]) * 5000 for index in range(8)]

    def write(content):
        for _ in range(20):
            write_bytes(target, content)
            assert target.read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert target.read_bytes() in contents
    assert list(tmp_path.glob(".*.tmp")) == []


def test_states_are_equal_if_they_continue_alike(model):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    one, other = model.stream(), model.stream()
    one.process(x)
    other.process(x)
    assert one.state == other.state
    other.step(x[0])
    assert one.state != other.state
    assert one.state != dict(one.state)


def test_a_closed_model_is_refused_in_one_line(content):
    with load(content("lstm")) as model:
        pass
    for use in (model.stream, lambda: model.run(np.ones((1, 2, 3)))):
        with pytest.raises(StateError, match="this model is closed; load it again"):
            use()
