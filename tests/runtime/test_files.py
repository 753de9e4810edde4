"""A file is written whole or not at all."""

import os
import random
import signal
import time

import pytest

from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.files import replacing, write_bytes


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("no/f", NotFoundError),
        ("folder", InputError),
        ("pipe", InputError),
        ("link", InputError),
    ],
)
def test_a_target_that_can_not_be_replaced_is_refused(tmp_path, target, error):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(error):
        write_bytes(tmp_path / target, b"")
    assert (tmp_path / "pipe").is_fifo()


def fail(target, error):
    with replacing(target) as temporary:
        temporary.write_bytes(b"ne")
        raise error


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    write_bytes(tmp_path / "f", b"old")
    for error in (
        OSError(28, "No space left on device"),
        KeyboardInterrupt(),
        InputError("no"),
    ):
        with pytest.raises((InputError, KeyboardInterrupt)):
            fail(tmp_path / "f", error)
        assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"old"


@pytest.mark.system
def test_a_writer_that_is_killed_leaves_the_old_or_the_new_file(tmp_path):
    target = tmp_path / "f"
    rng = random.Random(3)
    write_bytes(target, b"0" * 10_000)
    for _ in range(40):
        pid = os.fork()
        if pid == 0:
            while True:
                write_bytes(target, b"1" * 10_000)
                write_bytes(target, b"0" * 10_000)
        time.sleep(0.002 + 0.01 * rng.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert target.read_bytes() in (b"0" * 10_000, b"1" * 10_000)
    write_bytes(target, b"end")
    assert target.read_bytes() == b"end"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_replaced_file_keeps_its_permissions_and_a_link_stays_one(tmp_path, mode):
    target = tmp_path / "s.npz"
    link = tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(mode)
    link.symlink_to(target)
    with replacing(link) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0, (
            "nobody else may read it meanwhile"
        )
        temporary.write_bytes(b"new")
    assert (target.read_bytes(), target.stat().st_mode & 0o7777) == (b"new", mode)
    assert link.is_symlink()


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
