"""What the tests of all packages share."""

import os
import shutil
import signal

import pytest

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's & and nohup leave it so, and the programs that the tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

REQUIRED = "LSTM_EDGE_REQUIRE"
"""An environment variable: programs that tests must find, where they would be skipped else."""


@pytest.fixture(scope="session")
def find_program():
    """A function that gives the first of some programs that is on PATH, or skips the test.

    Where ``LSTM_EDGE_REQUIRE`` names one of them, the test fails: CI installed it.
    """

    def find(*names: str) -> str:
        found = next(filter(None, map(shutil.which, names)), None)
        if found is None:
            required = set(names).intersection(os.environ.get(REQUIRED, "").split())
            stop = pytest.fail if required else pytest.skip
            stop(f"no {' or '.join(names)} on PATH")
        return found

    return find
