"""Kill, interrupt and starve verbs that write; the target is then whole, the older
result or the new one.

``TORTURE=50`` in the environment kills every verb that often, at other moments at each
run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest

from lstm_edge.checkpoint import load as load_run
from lstm_edge.training.training import read_state
from lstm_edge_runtime import State, load

resource = pytest.importorskip("resource")  # of POSIX
pytestmark = pytest.mark.system
KILLS = int(os.environ.get("TORTURE", "1"))
DATA = Path(__file__).parents[1] / "runtime" / "data"
COMMAND = Path(sys.executable).with_name("lstm-edge")
MODEL = str(DATA / "lstm.onnx")


Child = subprocess.Popen[str]


class Verb(NamedTuple):
    """Arguments, what is written into ``out``, what reads it, and what comes on
    standard input."""

    arguments: tuple[str, ...]
    target: str
    check: Callable[[Path], Any]
    stdin: bytes = b""


def _model(path: Path) -> None:
    with load(path) as model:
        if path.suffix == ".onnx":
            model.selftest().require()


def _run_folder(path: Path) -> None:
    if (path / "resume.safetensors").exists():
        read_state(path)
    if (path / "model.safetensors").exists():
        load_run(path)
    if (path / "metrics.json").exists():
        json.loads((path / "metrics.json").read_text())
    _page(path / "report.html")


def _page(path: Path) -> None:
    """Check a page, if there is one."""
    assert not path.exists() or path.read_text().rstrip().endswith("</html>")


def _c_folder(path: Path) -> None:
    assert (path / "CMakeLists.txt").exists()


def _site(path: Path) -> None:
    _page(path / "index.html")
    assert (path / "index.html").exists()


def _table(path: Path) -> None:
    assert path.read_text().count("\n") == 25


_TRAIN = (
    "train",
    "data.npz",
    "--hidden-size",
    "16",
    "--batch-size",
    "8",
    "-o",
    "out/run",
    "--overwrite",
)
VERBS = {
    "convert": Verb(("convert", MODEL, "-o", "out/m.lep"), "m.lep", _model),
    "convert --to c": Verb(
        ("convert", MODEL, "--to", "c", "-o", "out/c", "--name", "har"), "c", _c_folder
    ),
    "predict": Verb(("predict", MODEL, "data.npz", "-o", "out/p.csv"), "p.csv", _table),
    "stream": Verb(
        ("stream", MODEL, "--state", "out/s.npz"), "s.npz", State.load, b"1,2,3\n" * 300
    ),
}
SLOW = {
    "train": Verb((*_TRAIN, "--epochs", "40"), "run", _run_folder),
    "export": Verb(("export", "run", "-o", "out/m.onnx"), "m.onnx", _model),
    "quantize": Verb(
        ("quantize", MODEL, "--data", "data.npz", "-o", "out/m.onnx"), "m.onnx", _model
    ),
    "lift": Verb(("lift", "foreign.onnx", "-o", "out/m.onnx"), "m.onnx", _model),
    "convert --to web": Verb(
        ("convert", MODEL, "--to", "web", "-o", "out/site"), "site", _site
    ),
    "validate": Verb(
        ("validate", MODEL, "--quick", "--html", "out/v.html"), "v.html", _page
    ),
}
FULL = 700, 3000, 20_000
"""Sizes of files at which a disk is full."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    x = np.random.default_rng(0).normal(size=(24, 12, 3)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.array(["rest", "walk", "run"] * 8))
    if KILLS > 1:
        foreign = onnx.load(MODEL)
        del foreign.metadata_props[:]
        onnx.save(foreign, folder / "foreign.onnx")
        train = ("train", "data.npz", "-o", "run", "--epochs", "2")
        subprocess.run([COMMAND, *train], cwd=folder, check=True)
    return folder


@pytest.mark.parametrize("name", [*VERBS, *(SLOW if KILLS > 1 else ())])
def test_what_a_killed_or_starved_verb_leaves_is_whole(inputs, tmp_path, name):
    folder = shutil.copytree(inputs, tmp_path / "folder")
    (folder / "out").mkdir()
    verb = (VERBS | SLOW)[name]
    begun = time.monotonic()
    code, _, err = _end(_start(verb, folder))
    assert code == 0, err
    seconds = time.monotonic() - begun
    rng = Random(None if KILLS > 1 else 1)
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM) * KILLS:
        child = _start(verb, folder)
        time.sleep(rng.uniform(0.3, 1.0) * seconds)
        child.send_signal(number)
        code, _, err = _end(child)
        assert code in {0, -number, 128 + number}, err
        assert "Traceback" not in err
        assert code <= 128 or err.count("stopped by ") == 1, err
        assert not _left(child.pid)
        verb.check(folder / "out" / verb.target)
        if number == signal.SIGKILL:
            for path in list(folder.rglob("*.tmp")):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for size in FULL:
        code, _, err = _end(_start(verb, folder, size=size))
        assert code in (0, 1, 2), err
        assert "Traceback" not in err
        assert not code or err.count("error: ") == 1, err
        assert not list((folder / "out").rglob("*.tmp"))
        verb.check(folder / "out" / verb.target)
    reading, writing = os.pipe()
    os.close(reading)
    code, _, err = _end(_start(verb, folder, stdout=writing))
    os.close(writing)
    assert code in (0, 141), err
    verb.check(folder / "out" / verb.target)
    assert _end(_start(verb, folder))[0] == 0
    assert (folder / "out" / verb.target).exists()
    verb.check(folder / "out" / verb.target)
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def _start(
    verb: Verb, folder: Path, *, stdout: Any = subprocess.PIPE, size: int = 0
) -> Child:
    """Start a verb in a session of its own; ``size`` is the most that a file may
    have."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    (folder / "stdin").write_bytes(verb.stdin)
    with (folder / "stdin").open() as stdin:
        return subprocess.Popen(
            [COMMAND, *verb.arguments],
            cwd=folder,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=limit if size else None,
        )


def _end(child: Child) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=300)
    return child.returncode, out, err


def _left(session: int) -> list[str]:
    """Return the processes that are left of a session; they may take a moment to
    end."""
    for _ in range(100):
        listed = subprocess.run(
            ["ps", "-eo", "sid=,stat="], capture_output=True, text=True, check=True
        )
        lines = [line for line in listed.stdout.splitlines() if "Z" not in line]
        left = [line for line in lines if line.split()[0] == str(session)]
        if not left:
            break
        time.sleep(0.05)
    return left
