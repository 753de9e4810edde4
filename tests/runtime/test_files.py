import os
import random
import signal
import time
from pathlib import Path

import pytest

from lstm_edge_runtime import files
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_folder, write_bytes, write_folder

OLD = {"a": b"old", "deep/b": b"old", "deep/c": b"old"}
NEW = {"a": b"new", "deep/b": b"new" * 100_000, "d": b"new"}


EXCHANGE = files._exchange


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize("name", ["../a", "deep/../../a", "/tmp/a"])
def test_a_folder_takes_no_file_outside_it(name, tmp_path):
    with pytest.raises(InputError, match=r"expected a relative path without '\.\.'"):
        write_folder(tmp_path / "inner" / "folder", {"b": b"new", name: b"new"})
    assert list(tmp_path.iterdir()) == []


def everything(name):
    return True


@pytest.fixture(params=[True, False], ids=["exchanged", "renamed"])
def folder(request, monkeypatch, tmp_path):
    """A folder with old content, on a system that can exchange two names, and on one that can't."""
    if not request.param:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    return write_folder(tmp_path / "f", OLD)


def test_a_folder_is_replaced_whole_and_nothing_is_left_beside_it(folder):
    write_folder(folder, NEW, everything)
    assert content(folder) == NEW
    assert [path.name for path in folder.parent.iterdir()] == ["f"]


def test_a_folder_with_a_file_of_somebody_else_is_left_alone(folder):
    (folder / "deep" / "thesis.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"contains deep/thesis\.txt, which would be lost"):
        write_folder(folder, NEW, lambda name: "thesis" not in name)
    with pytest.raises(InputError, match="would be lost"):
        check_folder(folder, OLD.__contains__)
    assert content(folder) == {**OLD, "deep/thesis.txt": b""}


def test_a_failed_write_leaves_the_old_folder_and_no_litter(folder):
    with pytest.raises(InputError, match="can't be written"):
        write_folder(folder, {**NEW, "a/b": b"a is a file"}, everything)
    assert content(folder) == OLD
    assert [path.name for path in folder.parent.iterdir()] == ["f"]


@pytest.mark.system
def test_a_writer_that_is_killed_leaves_one_of_the_two_and_the_next_removes_its_litter(folder):
    rng = random.Random(3)
    for _ in range(40):
        pid = os.fork()
        if pid == 0:
            while True:
                write_folder(folder, NEW, everything)
                write_folder(folder, OLD, everything)
        time.sleep(0.002 + 0.03 * rng.random())
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert folder.exists() or files._exchange is not EXCHANGE
        files._settle(folder)
        assert content(folder) in (OLD, NEW)
    write_folder(folder, NEW, everything)
    assert [path.name for path in folder.parent.iterdir()] == ["f"]


@pytest.mark.parametrize("renames", [1, 2])
def test_a_writer_that_is_killed_after_a_rename_leaves_what_the_next_one_ends(monkeypatch, tmp_path, renames):
    folder = write_folder(tmp_path / "f", OLD)
    (tmp_path / ".f.backup.old").mkdir()
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename
    left = [renames]

    def rename_and_end(path, target):
        rename(path, target)
        left[0] -= 1
        if not left[0]:
            os._exit(0)

    if (pid := os.fork()) == 0:
        try:
            Path.rename = rename_and_end
            write_folder(folder, NEW, everything)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert len(list(tmp_path.glob(".f.*.old"))) == 2
    files._settle(folder)
    assert content(folder) == (OLD if renames == 1 else NEW)
    write_folder(folder, NEW, everything)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.backup.old", "f"]


def test_what_another_writer_is_still_at_is_not_taken_for_litter(tmp_path):
    target = tmp_path / "f"
    fresh, lock = files._create_temporary(target, is_folder=True)
    write_folder(target, OLD)
    assert fresh.is_dir()
    os.close(lock)
    write_folder(target, OLD)
    assert not fresh.exists()


def test_a_file_and_a_folder_collect_what_the_other_kind_left(tmp_path):
    (tmp_path / ".f.01234567.tmp").mkdir()
    (tmp_path / ".f.01234567.tmp" / "x").write_bytes(b"")
    (tmp_path / ".f.76543210.tmp").write_bytes(b"")
    write_bytes(tmp_path / "f", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path, mode):
    target = tmp_path / "s.npz"
    target.write_bytes(b"old")
    target.chmod(mode)
    with files.replacing(target) as temporary:
        assert temporary.stat().st_mode & 0o077 == 0, "nobody else may read it meanwhile"
        temporary.write_bytes(b"new")
    assert (target.read_bytes(), target.stat().st_mode & 0o7777) == (b"new", mode)


def test_a_new_file_has_the_permissions_of_any_other(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_replaced_folder_and_its_files_keep_their_permissions(folder):
    folder.chmod(0o700)
    (folder / "deep").chmod(0o750)
    (folder / "deep" / "b").chmod(0o600)
    write_folder(folder, NEW, everything)
    modes = {name: (folder / name).stat().st_mode & 0o7777 for name in (".", "deep", "deep/b", "d")}
    assert modes == {".": 0o700, "deep": 0o750, "deep/b": 0o600, "d": (folder / "d").stat().st_mode & 0o777}


def test_the_new_name_is_on_the_disk_before_the_write_ends(monkeypatch, tmp_path):
    done = []
    monkeypatch.setattr(
        files.os, "fsync", lambda open_: done.append(Path(f"/proc/self/fd/{open_}").readlink())
    )
    write_bytes(tmp_path / "a", b"1")
    assert done[-1] == tmp_path
    write_folder(tmp_path / "f", {"deep/b": b"1"})
    assert done[-1] == tmp_path
    assert [path.name for path in done[-3:-1]] == ["deep", done[-2].name]
