import os
import pickle
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.files import read_arrays, write_bytes


@pytest.fixture
def state() -> State:
    rng = np.random.default_rng(2)
    return State(
        {"h_0": rng.normal(size=(2, 1, 8)).astype(np.float32), "odd/name": np.arange(3, dtype=np.float64)},
        "ab" * 32,
    )


def same(left: State, right: State) -> bool:
    return (
        list(left) == list(right)
        and left.identity == right.identity
        and all(
            left[name].dtype == right[name].dtype and np.array_equal(left[name], right[name]) for name in left
        )
    )


def test_a_state_survives_pickle_and_file(state, tmp_path):
    assert same(pickle.loads(pickle.dumps(state)), state)
    state.save(tmp_path / "s.npz")
    assert same(State.load(tmp_path / "s.npz"), state)
    assert [path.name for path in tmp_path.iterdir()] == ["s.npz"]


def test_a_state_can_not_be_written_to_and_does_not_follow_the_array_it_came_from():
    array = np.zeros(3, np.float32)
    state = State({"h": array}, "x")
    array[:] = 1
    np.testing.assert_array_equal(state["h"], 0)
    with pytest.raises(ValueError, match="read-only"):
        state["h"][0] = 1
    with pytest.raises(ValueError, match="read-only"):
        pickle.loads(pickle.dumps(state))["h"][0] = 1


@pytest.mark.parametrize("share", [0, 0.2, 0.6, 0.95])
def test_a_truncated_file_is_refused(state, tmp_path, share):
    state.save(tmp_path / "s.npz")
    content = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(FileFormatError, match="is not a saved state"):
        State.load(tmp_path / "s.npz")


def test_a_damaged_file_is_refused_whatever_is_wrong_with_it(state, tmp_path):
    state.save(tmp_path / "s.npz")
    content = (tmp_path / "s.npz").read_bytes()
    refused = 0
    for place in range(len(content)):  # zipfile and numpy each have errors of their own
        (tmp_path / "s.npz").write_bytes(content[:place] + b"\xee" + content[place + 1 :])
        try:
            State.load(tmp_path / "s.npz")
        except FileFormatError as error:
            refused += "\n" not in str(error)
    assert refused > len(content) / 2
    (tmp_path / "s.npy").mkdir()
    for wrong in (tmp_path / "s.npy", tmp_path / ("s" * 300), tmp_path / "a\0b"):
        with pytest.raises(FileFormatError, match="is not a saved state"):
            State.load(wrong)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs in folders")
def test_a_fifo_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(FileFormatError, match="it is not a regular file"):
        State.load(tmp_path / "fifo")
    with pytest.raises(FileFormatError, match="it is not a regular file"):
        load(tmp_path / "fifo")
    with pytest.raises(FileFormatError, match="it is not a regular file"):
        read_arrays(tmp_path / "fifo", "can't be read", "save it again")


@pytest.mark.parametrize("order", ["<", ">"])
def test_text_that_is_no_unicode_is_refused(state, tmp_path, order):
    codes = np.array([0x110000, *b"abc"], order + "u4")
    np.savez(tmp_path / "s.npz", identity=codes.view(order + "U4")[0], age=np.array(0))
    with pytest.raises(FileFormatError, match="is not a saved state"):
        State.load(tmp_path / "s.npz")


def test_a_file_is_written_with_the_rights_of_any_new_file(state, tmp_path):
    state.save(tmp_path / "s.npz")
    (tmp_path / "plain").touch()
    assert (tmp_path / "s.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link_and_what_is_no_plain_file_stays_what_it_is(state, tmp_path):
    (tmp_path / "link.npz").symlink_to(tmp_path / "s.npz")
    for _ in range(2):  # where it leads nowhere, and where it leads to a file
        state.save(tmp_path / "link.npz")
        assert (tmp_path / "link.npz").is_symlink()
        assert same(State.load(tmp_path / "s.npz"), state)
    (tmp_path / "ring").symlink_to("ring")
    state.save(tmp_path / "ring")
    assert same(State.load(tmp_path / "ring"), state)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match="is not a regular file and would be replaced"):
            state.save(tmp_path / name)
    assert (tmp_path / "pipe").is_fifo()


def test_a_file_that_would_run_code_is_refused(tmp_path):
    np.savez(tmp_path / "s.npz", identity=np.array([object()], dtype=object))
    with pytest.raises(FileFormatError, match="is not a saved state"):
        State.load(tmp_path / "s.npz")


def test_another_npz_a_missing_file_and_a_missing_folder_are_named(state, tmp_path):
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(FileFormatError, match=r"other\.npz is not a saved state"):
        State.load(tmp_path / "other.npz")
    with pytest.raises(NotFoundError, match="does not exist"):
        State.load(tmp_path / "none.npz")
    with pytest.raises(NotFoundError, match="does not exist"):
        state.save(tmp_path / "no" / "s.npz")


def test_a_save_that_fails_keeps_the_old_file(state, tmp_path):
    (tmp_path / "s.npz").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        state.save(tmp_path / "s.npz")


def test_a_state_says_what_it_holds(state):
    assert "h_0: float32 (2, 1, 8)" in repr(state)


def test_a_member_that_is_no_array_is_refused_in_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as file:
        file.writestr("identity", b"plain bytes")
        file.writestr("state/h_0.npy", b"no array either")
    with pytest.raises(FileFormatError, match=r"s\.npz is not a saved state .*; save one first"):
        State.load(tmp_path / "s.npz")


def test_many_writers_of_one_target_leave_one_whole_file(tmp_path):
    target = tmp_path / "s.npz"
    contents = [bytes([index]) * 5000 for index in range(8)]

    def write(content):
        for _ in range(20):
            write_bytes(target, content)
            assert target.read_bytes() in contents

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, contents))
    assert target.read_bytes() in contents
    assert list(tmp_path.glob(".*.tmp")) == []
