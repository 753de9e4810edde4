"""A folder is written whole or not at all, and no file of someone else's is lost."""

from pathlib import Path

import pytest

from lstm_edge_exporters.targets.folders import check_folder, write_folder
from lstm_edge_runtime.errors import InputError, NotFoundError

OLD = {"a": b"1", "deep/b": b"2"}
NEW = {"a": b"3", "deep/b": b"4", "d": b"5"}


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_an_old_folder_is_replaced_and_folders_beside_it_are_not_touched(tmp_path):
    write_folder(tmp_path / "f", OLD)
    for name in (".f.old", ".f.tmp", ".f.partial"):
        write_folder(tmp_path / name, {"thesis": b"precious"})
    assert content(write_folder(tmp_path / "f", NEW)) == NEW
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"f", ".f.old", ".f.tmp", ".f.partial"}
    for name in names - {"f"}:
        assert content(tmp_path / name) == {"thesis": b"precious"}


def test_a_folder_of_another_name_is_never_taken_over(tmp_path):
    write_folder(tmp_path / ".f.old", OLD)
    assert content(write_folder(tmp_path / "f", NEW)) == NEW
    assert content(tmp_path / ".f.old") == OLD


def test_an_old_folder_is_back_if_the_new_one_can_not_take_its_place(
    tmp_path, monkeypatch
):
    write_folder(tmp_path / "f", OLD)
    rename = Path.rename

    def fail(path, target):
        if path.name == "new":
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(InputError, match="can't be written: No space left"):
        write_folder(tmp_path / "f", NEW)
    assert content(tmp_path / "f") == OLD
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize("name", ["../out", "/out", "x/../../out"])
def test_a_file_outside_the_folder_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="is not a file in"):
        write_folder(tmp_path / "f", {name: b""})


def test_what_would_be_lost_or_can_not_be_written_is_refused(tmp_path):
    folder = write_folder(tmp_path / "f", OLD)
    (folder / "thesis").write_bytes(b"")
    with pytest.raises(InputError, match="contains thesis, which would be lost"):
        write_folder(folder, OLD)
    with pytest.raises(InputError, match="can't be written"):
        write_folder(tmp_path / "g", {"a": b"", "a/b": b""})
    with pytest.raises(NotFoundError, match="does not exist"):
        check_folder(tmp_path / "no" / "f", OLD.__contains__)
    with pytest.raises(InputError, match="is not a folder"):
        check_folder(folder / "a", OLD.__contains__)
    assert content(folder) == {**OLD, "thesis": b""}
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
