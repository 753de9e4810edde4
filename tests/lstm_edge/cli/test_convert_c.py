"""``lstm-edge convert --to c``: the folder, what it says, and its refusals."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from lstm_edge_runtime.errors import install_command

NAMES = {
    "README.md", "LICENSE", "CMakeLists.txt", "library.properties", "library.json", "src/har.h",
    "src/har.hpp", "src/har.c", "src/har_kernels.h", "src/har_selftest.c", "idf_component.yml",
    "zephyr/module.yml", "zephyr/CMakeLists.txt", "examples/main.c", "examples/har_serial/har_serial.ino",
}  # fmt: skip


@pytest.fixture
def plain(make, tmp_path, find_program):
    """A file called har.onnx whose labels are identifiers."""
    find_program("cc", "gcc", "clang")
    made = make("c", task="regression")
    return shutil.copy(made.path, tmp_path / "har.onnx")


@pytest.mark.system
def test_convert_writes_the_folder_and_says_what_it_compared(invoke, plain, tmp_path):
    code, out, err = invoke("convert", plain, "--to", "c", "-o", f"{tmp_path / 'har_c'}/", "--json")
    assert (code, err) == (0, "")
    said = json.loads(out)
    folder = tmp_path / "har_c"
    files = {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }
    assert set(files) == NAMES
    assert said["bytes"] == files
    assert (said["name"], said["state"]) == ("har", 2 * 8 * 4)
    assert said["flash"] > said["constants"] > 0
    assert said["ram"] == said["state"] + said["stack"]
    assert said["max_abs"] < 1e-5
    assert "HAR_CHUNK 1 " in (folder / "src/har.h").read_text()

    code, out, _ = invoke("convert", plain, "--to", "c", "-o", folder, "--chunk", 3)
    assert code == 0
    assert "largest difference from onnxruntime" in out
    lines = re.findall(r"^(?:flash|RAM): .*", out, re.MULTILINE)
    assert [line in (folder / "src/har.h").read_text() for line in lines] == [True, True]
    assert "HAR_CHUNK 3 " in (folder / "src/har.h").read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--to", "c", "--name", "for"], "keyword"),
        (["--to", "c", "--name", "stdio"], "stdio.h is taken"),
        (["--to", "c", "--chunk", 0], "--chunk"),
        (["--chunk", 2], "--chunk is not valid with an .lep file"),
        (["--name", "har"], "--name is not valid with an .lep file"),
        (["--to", "c", "--flash-limit", 0], "--flash-limit"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(options, words, invoke, plain, tmp_path):
    code, out, err = invoke("convert", plain, "-o", tmp_path / "out", *options)
    assert (code, out) == (2, "")
    assert words in err
    assert not (tmp_path / "out").exists()


def test_a_network_beyond_a_limit_is_a_failed_check_and_nothing_is_written(invoke, plain, tmp_path):
    for option, words in (("--ram-limit", "RAM: "), ("--flash-limit", "flash: ")):
        code, out, err = invoke("convert", plain, "--to", "c", "-o", tmp_path / "out", option, 100)
        assert (code, out) == (1, "")
        assert words in err
        assert "expected at most 100" in err
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_files_is_refused_before_any_work(invoke, tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    code, out, err = invoke("convert", tmp_path / "absent.onnx", "--to", "c", "-o", tmp_path)
    assert (code, out) == (2, "")
    assert "contains notes.txt" in err


def test_labels_that_c_can_not_take_are_written_as_it_can(invoke, make, tmp_path):
    path = make("labels").path
    code, _, err = invoke("convert", path, "--to", "c", "-o", tmp_path / "c", "--name", "net")
    assert code == 0, err
    assert "NET_LABEL_run_fast = 2" in (tmp_path / "c" / "src" / "net.h").read_text()
    assert '"run, fast"' in (tmp_path / "c" / "src" / "net.c").read_text()


@pytest.mark.system
def test_without_onnx_the_extra_is_named_and_without_torch_it_works(plain, tmp_path):
    script = "import sys\nsys.modules[sys.argv.pop(1)] = None\nfrom lstm_edge.cli import main\nmain()"
    for missing, code in (("onnx", 2), ("torch", 0)):
        command = [
            sys.executable,
            "-c",
            script,
            missing,
            "convert",
            plain,
            "--to",
            "c",
            "-o",
            tmp_path / missing,
        ]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ran.returncode == code, ran.stderr
        assert (tmp_path / missing).exists() == (code == 0)
        if code:
            assert install_command("export") in ran.stderr
