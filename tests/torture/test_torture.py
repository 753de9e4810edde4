"""A small part of what ``make torture`` does."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

HARNESS = Path(__file__).with_name("torture.py")


def test_verbs_that_are_killed_interrupted_or_starved_leave_whole_files():
    verbs = ("convert --to c", "convert", "stream --state", "predict")
    ran = subprocess.run(
        [sys.executable, str(HARNESS), "--kills", "8", "--seed", "3", *(f"--verb={verb}" for verb in verbs)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ", 0 faults" in ran.stdout
