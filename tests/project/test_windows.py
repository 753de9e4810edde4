"""What Python on Windows lacks is taken away, and the runtime and the verbs do their
work without it."""

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

pytestmark = pytest.mark.system

PROGRAM = """
import importlib, os, pkgutil, signal, sys
import click, numpy, onnxruntime, pyarrow.parquet, rich.console, rich.progress  # their own affair

for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty"):
    sys.modules[name] = None
POSIX = {
    os: "O_DIRECTORY O_NOFOLLOW O_NONBLOCK fork getuid geteuid killpg mkfifo sched_getaffinity setsid "
    "statvfs sysconf uname",
    signal: "SIGALRM SIGHUP SIGKILL SIGPIPE SIGUSR1 alarm pthread_kill pthread_sigmask setitimer sigwait",
}
for module, names in POSIX.items():
    for name in names.split():
        vars(module).pop(name, None)

import lstm_edge.cli
import lstm_edge_runtime
for package in (lstm_edge_runtime, lstm_edge.cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
lstm_edge.cli.main()
"""


@pytest.fixture
def verb(root, tmp_path):
    def run(*arguments, text=""):
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            input=text,
            cwd=tmp_path,
            env={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def test_a_stream_answers_and_keeps_its_state_without_what_only_posix_has(
    root, tmp_path, verb
):
    model = root / "tests" / "runtime" / "data" / "lstm.onnx"
    first = verb("stream", model, "--state", "s.npz", text="1,2,3\n4,5,6\n")
    after = verb("stream", model, "--state", "s.npz", text="7,8,9\n")
    at_once = verb("stream", model, text="1,2,3\n4,5,6\n7,8,9\n")
    assert len(first.splitlines()) == 3
    assert (
        after.splitlines()[1].split(",")[1:] == at_once.splitlines()[3].split(",")[1:]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.npz"]


def test_a_table_is_scored_and_leaves_no_work_folder_without_what_only_posix_has(
    root, tmp_path, verb
):
    x = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    columns = {"series": ["a"] * 5 + ["b"] * 3, "order": range(8)}
    table = pa.table(
        columns | {name: x[:, axis] for axis, name in enumerate(("ax", "ay", "az"))}
    )
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data" / "rows.parquet")
    model = root / "tests" / "runtime" / "data" / "lstm.onnx"
    verb("score", "data", "-m", model, "-o", "out")
    assert (
        sum(
            parquet.ParquetFile(path).metadata.num_rows
            for path in (tmp_path / "out").glob("run=*/[!_]*.parquet")
        )
        == 8
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
