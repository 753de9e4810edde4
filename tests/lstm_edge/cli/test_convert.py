"""``lstm-edge convert``: output paths, the folder of C, and the files it accepts."""

import json
import shutil

import pytest

from lstm_edge_runtime import load

NAMES = {
    "CMakeLists.txt", "src/har.h", "src/har.c", "src/har_selftest.c", "src/lstm_edge_core.h",
    "src/lstm_edge_core.c",
}  # fmt: skip


@pytest.fixture
def plain(make, tmp_path, find_program):
    """A file called har.onnx whose labels are identifiers."""
    find_program("cc", "gcc", "clang")
    made = make("c", task="regression")
    return shutil.copy(made.path, tmp_path / "har.onnx")


@pytest.mark.system
def test_convert_writes_the_folder_and_says_what_it_compared(invoke, plain, tmp_path):
    code, out, err = invoke(
        "convert", plain, "--to", "c", "-o", f"{tmp_path / 'har_c'}/", "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    folder = tmp_path / "har_c"
    files = {
        str(path.relative_to(folder)): path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert set(files) == NAMES
    assert document["bytes"] == files
    assert (document["name"], document["state"]) == ("har", 2 * 8 * 4)
    assert document["constants"] > 0
    assert document["largest_difference"] < 1e-5
    code, out, _ = invoke("convert", plain, "--to", "c", "-o", folder)
    assert code == 0
    assert "self-test: passed here" in out


def test_labels_that_c_can_not_take_are_written_as_it_can(invoke, make, tmp_path):
    path = make("labels").path
    code, _, err = invoke(
        "convert", path, "--to", "c", "-o", tmp_path / "c", "--name", "net"
    )
    assert code == 0, err
    assert "NET_LABEL_run_fast = 2" in (tmp_path / "c" / "src" / "net.h").read_text()
    assert '"run, fast"' in (tmp_path / "c" / "src" / "net.c").read_text()


def test_a_file_of_any_name_is_converted_wherever_it_runs(
    invoke, har, tmp_path, monkeypatch
):
    (tmp_path / "random.py").write_text("raise SystemExit('taken')")
    (tmp_path / "har.bin").write_bytes(har.path.read_bytes())
    monkeypatch.chdir(tmp_path)
    code, _, err = invoke("convert", "har.bin", "-o", "har.lep")
    assert code == 0, err
    assert load(tmp_path / "har.lep").selftest().ok
