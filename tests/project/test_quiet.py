"""No verb connects to anything, and none writes where nobody asked it to."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

pytestmark = pytest.mark.system

VERBS = (
    "train data.npz -o run --hidden-size 16 --batch-size 4 --epochs 2",
    "export run -o m.onnx",
    "inspect m.onnx",
    "selftest m.onnx",
    "predict m.onnx data.npz -o p.csv",
    "stream m.onnx --state s.npz",
    "validate m.onnx --against run --quick --html v.html --junit v.xml",
    "lift bare.onnx -o lifted.onnx",
    "quantize m.onnx --weights-only --data data.npz -o q.onnx",
    "convert m.onnx --to c -o c",
    "convert m.onnx -o m.lep",
    "bench m.onnx --seconds 0.1 --streams 1",
    "doctor",
)
"""All but demo, which is train, export and predict."""
PROGRAM = """
import json, sys
from lstm_edge.cli import cli
from lstm_edge.cli import run
for arguments in json.loads(sys.argv[1]):
    try:
        code = run(cli, arguments)
    except SystemExit as stop:
        code = stop.code
    print("VERB", arguments[0], code, flush=True)
"""
"""In one process, because each would import torch."""


@pytest.fixture
def folder(tmp_path):
    """A folder with data, and an empty home."""
    work = tmp_path / "work"
    work.mkdir(parents=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "temporary").mkdir()
    x = np.random.default_rng(0).normal(size=(24, 6, 3)).astype(np.float32)
    model = onnx.load(Path(__file__).parents[1] / "runtime" / "data" / "lstm.onnx")
    del model.metadata_props[:]
    onnx.save(model, work / "bare.onnx")
    np.savez(work / "data.npz", x=x, y=np.array(["a", "b"] * 12))
    return tmp_path


def run_verbs(folder: Path, *wrapper: str) -> None:
    arguments = json.dumps([verb.split() for verb in VERBS])
    ran = subprocess.run(
        [*wrapper, sys.executable, "-c", PROGRAM, arguments],
        cwd=folder / "work",
        env={
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "temporary"),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        input="1,2,3\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode and "ptrace" in ran.stderr.lower():
        pytest.skip(f"strace can't trace here: {ran.stderr.strip().splitlines()[-1]}")
    done = re.findall(r"^VERB (\w+) (\d+)$", ran.stdout, re.MULTILINE)
    assert done == [(verb.split()[0], "0") for verb in VERBS], ran.stdout + ran.stderr


def test_no_verb_connects_or_writes_outside_its_folders_and_the_home_stays_empty(
    folder, find_program
):
    trace = folder / "trace"
    calls = "connect,sendto,bind,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat"
    run_verbs(
        folder,
        find_program("strace"),
        "-f",
        "--seccomp-bpf",
        "-o",
        str(trace),
        "-e",
        f"trace={calls}",
    )
    lines = trace.read_text(errors="replace").splitlines()
    assert [line for line in lines if re.search(r"\bsa_family=AF_INET", line)] == []
    changed = [
        match[1]
        for line in lines
        if " = -1 " not in line
        and re.search(
            r"O_WRONLY|O_RDWR|O_CREAT|\b(creat|mkdir|mkdirat|rename\w*|unlink\w*)\(",
            line,
        )
        and (match := re.search(r'"([^"]*)"', line))
    ]
    assert changed
    given = tuple(str(folder / name) for name in ("work", "temporary"))
    allowed = (*given, "/dev/null", "/dev/shm", "/proc/self/")
    assert [
        name
        for name in changed
        if name.startswith("/") and not name.startswith(allowed)
    ] == []
    assert list((folder / "home").iterdir()) == []
    left = [path for path in (folder / "temporary").rglob("*") if path.is_file()]
    assert left == []  # PyTorch makes an empty folder there
