"""The first days of four new users, with this environment's own lstm-edge."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .first_day import PEOPLE


@pytest.mark.slow
@pytest.mark.parametrize("name", PEOPLE)
def test_the_first_day_goes_as_the_manual_says(name):
    script = Path(__file__).with_name("first_day.py")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, script, "--here", name],
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
