"""What the tests of all packages share."""

import os
import shutil
import sys
from pathlib import Path

import pytest

HERE = str(Path(__file__).parent)
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


@pytest.fixture(scope="session", autouse=True)
def _files_run_beside_their_modules():
    """Run every file that a test makes with ``export`` beside its module, as ``beside.py`` says."""
    product = getattr(sys.modules.get("lstm_edge_exporters"), "export", None)
    makers = [
        module
        for module in list(sys.modules.values())
        if str(getattr(module, "__file__", "")).startswith(HERE) and vars(module).get("export") is product
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module in makers if product else ():
            from beside import export_beside

            patch.setattr(module, "export", export_beside)
        yield
