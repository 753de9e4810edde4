"""A small part of what ``make fuzz`` does."""

import contextlib
import subprocess
import sys
from pathlib import Path
from random import Random

import onnx
import pytest
from google.protobuf.message import DecodeError
from mutate import damage, damage_json, damage_protobuf

pytestmark = pytest.mark.system

HARNESS = Path(__file__).with_name("harness.py")
LSTM = Path(__file__).parents[1] / "runtime" / "data" / "lstm.onnx"


def test_damaged_files_of_every_kind_end_in_one_line_or_are_read():
    ran = subprocess.run(
        [sys.executable, str(HARNESS), "--count", "300", "--seed", "20261125", "--jobs", "1", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "300 inputs" in ran.stdout


@pytest.mark.parametrize("change", [damage, damage_protobuf])
def test_damage_is_the_same_for_the_same_seed_and_nearly_always_a_change(change):
    content = LSTM.read_bytes()
    found = [change(Random(seed), content) for seed in range(50)]
    assert found == [change(Random(seed), content) for seed in range(50)]
    assert sum(each != content for each in found) > 40


def test_protobuf_that_is_taken_apart_and_put_together_is_the_same_file():
    """A harness that damages lengths by mistake would only ever test the outermost reader."""
    content = LSTM.read_bytes()
    readable = 0
    for seed in range(60):
        with contextlib.suppress(DecodeError):
            onnx.load_from_string(damage_protobuf(Random(seed), content))
            readable += 1
    assert readable > 20
    assert damage_json(Random(1), '{"a": [1, {"b": "c"}]}') != damage_json(
        Random(2), '{"a": [1, {"b": "c"}]}'
    )
