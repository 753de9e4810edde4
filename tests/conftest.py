"""What the tests of all packages share."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's & and nohup leave it so, and the programs that the tests interrupt would
    # inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = "LSTM_EDGE_REQUIRE"
"""An environment variable: programs that tests must find, where they would be skipped
else."""


@pytest.fixture(scope="session")
def find_program():
    """A function that gives the first of some programs that is on PATH, or skips the
    test.

    Where ``LSTM_EDGE_REQUIRE`` names one of them, the test fails: CI installed it.
    """

    def find(*names: str) -> str:
        program = next(filter(None, map(shutil.which, names)), None)
        if program is None:
            required = set(names).intersection(os.environ.get(REQUIRED, "").split())
            stop = pytest.fail if required else pytest.skip
            stop(f"no {' or '.join(names)} on PATH")
        return program

    return find


@pytest.fixture(scope="session")
def wasm() -> Path:
    """The C library for browsers and Node, built once where it is missing."""
    native = Path(__file__).parents[1] / "native"
    built = native.parent / "web" / "site" / "lstm-edge" / "lstm_edge.wasm"
    if not built.is_file() and find_spec("ziglang") is None:
        pytest.skip("no ziglang, which builds the library for browsers")
    with (native / "CMakeLists.txt").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not built.is_file():
            subprocess.run(
                [sys.executable, native / "build_wasm.py", built], check=True
            )
    return built


@pytest.fixture(scope="session")
def invoke():
    """Run a verb in this process; gives its exit code, standard output and standard
    error."""
    from click.testing import CliRunner

    from lstm_edge.cli import cli, run

    def call(*arguments):
        with CliRunner().isolation() as (out, err, _):
            try:
                code = run(cli, [str(argument) for argument in arguments])
            except SystemExit as stop:
                code = stop.code
            return code, out.getvalue().decode(), err.getvalue().decode()

    return call
