"""Every verb ends with one line and an exit code, whatever the cause."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import click
import onnx
import pytest

from lstm_edge.cli import run
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.ort import sealed

LSTM_EDGE = [sys.executable, "-c", "from lstm_edge.cli import main; main()"]
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e"


def group(work) -> click.Group:
    commands = click.Group()
    commands.add_command(click.Command("work", callback=work))
    return commands


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "stopped by Ctrl-C\n"),
        (signal.SIGTERM, 143, "stopped by SIGTERM\n"),
    ],
)
def test_a_signal_ends_a_verb_in_one_line_even_where_a_library_made_something_else_of_it(
    capsys, number, code, line
):
    def plain():
        os.kill(os.getpid(), number)
        time.sleep(10)

    def translated():
        try:
            plain()
        except KeyboardInterrupt as error:
            raise InputError("the file can't be read") from error

    def swallowed():
        with contextlib.suppress(KeyboardInterrupt):
            plain()

    before = signal.getsignal(signal.SIGINT)
    for work in (plain, translated, swallowed):
        assert run(group(work), ["work"]) == code
        assert capsys.readouterr().err == line
    assert signal.getsignal(signal.SIGINT) == before


def test_warnings_and_a_lack_of_memory_are_one_line_and_other_errors_a_traceback(
    capsys,
):
    def work():
        warnings.simplefilter("always")
        warnings.warn("first\nsecond \x1b[2J", RuntimeWarning, stacklevel=1)
        raise MemoryError

    assert run(group(work), ["work"]) == 2
    assert (
        capsys.readouterr().err
        == "note: first second \\x1b[2J\nerror: not enough memory; free some, or use"
        " smaller inputs\n"
    )
    with pytest.raises(ZeroDivisionError):
        run(group(lambda: 1 / 0), ["work"])


@pytest.mark.parametrize(
    "arguments", [["--help"], ["inspect", "{har}"], ["predict", "{har}", "{data}"]]
)
def test_a_reader_that_left_is_no_failed_check(har, tmp_path, arguments):
    data = tmp_path / "data.csv"
    data.write_text("ax,ay,az\n" + "1,2,3\n" * 9)
    reading, writing = os.pipe()
    os.close(reading)
    arguments = [argument.format(har=har.path, data=data) for argument in arguments]
    command = [*LSTM_EDGE, *arguments]
    buffered = os.environ | {"PYTHONUNBUFFERED": ""}
    ran = subprocess.run(
        command,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=buffered,
    )
    os.close(writing)
    assert ran.returncode == 141
    assert all(line.startswith("note: ") for line in ran.stderr.splitlines())


def test_ctrl_c_ends_a_real_process_with_130_and_one_line(har):
    ran = subprocess.Popen(
        [*LSTM_EDGE, "bench", str(har.path), "--seconds", "600"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    with ran:
        status = Path(f"/proc/{ran.pid}/status")
        while not _catches(status, signal.SIGTERM):
            assert ran.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=60)
    assert (ran.returncode, out, err) == (130, "", "stopped by Ctrl-C\n")


def _catches(status: Path, number: int) -> bool:
    caught = next(
        line for line in status.read_text().splitlines() if line.startswith("SigCgt")
    )
    return bool(int(caught.split()[1], 16) >> number - 1 & 1)


def test_labels_features_and_file_names_can_not_write_to_the_terminal(
    invoke, har, tmp_path
):
    model = onnx.load(har.path)
    entry = next(prop for prop in model.metadata_props if prop.key == KEY)
    manifest = read_manifest(entry.value)
    assert manifest.task is not None
    entry.value = manifest._replace(
        task=manifest.task._replace(
            labels=tuple(f"{HOSTILE}{index}" for index in range(3))
        ),
        signal=manifest.signal._replace(features=("ax", "ay", HOSTILE)),
        provenance={**manifest.provenance, "note": HOSTILE},
    ).to_json()
    path = tmp_path / f"{HOSTILE}.onnx"
    path.write_bytes(sealed(model.SerializeToString()))
    data = tmp_path / f"{HOSTILE}.csv"
    data.write_text(
        f"series,ax,ay,{HOSTILE}\n"
        + "".join(f"{HOSTILE}{row % 2},1,2,3\n" for row in range(8))
    )
    for arguments in (
        ("inspect", path),
        ("selftest", path),
        ("predict", path, data),
        ("lift", path, "-o", tmp_path / f"{HOSTILE}-lifted.onnx"),
        ("validate", path, "--quick"),
        ("convert", path, "--to", "web", "-o", tmp_path / HOSTILE),
        ("train", data, "-o", path),
        ("export", path, "-o", path),
        ("report", tmp_path / HOSTILE),
        ("bench", tmp_path / f"{HOSTILE}.lep"),
    ):
        _, out, err = invoke(*arguments)
        assert out + err, arguments
        assert all(
            character.isprintable() or character == "\n" for character in out + err
        ), arguments
    code, _, _ = invoke("predict", path, data, "-o", tmp_path / "p.csv")
    assert code == 0
    assert HOSTILE in (tmp_path / "p.csv").read_text()
