"""A verb imports what it uses: who reads or debugs one has that many of this project's files before him."""

import json
import subprocess
import sys

import pytest
import torch

from lstm_edge import LSTM1, Run, save

PROGRAM = """
import atexit, json, sys

PACKAGES = ("lstm_edge", "lstm_edge_exporters", "lstm_edge_runtime", "lstm_edge_native")

def report():
    names = sorted(name for name in sys.modules if name.split(".")[0] in PACKAGES)
    print("MODULES" + json.dumps(names), file=sys.stderr)

atexit.register(report)
from lstm_edge.cli import main
main()
"""


@pytest.fixture(scope="module")
def touched(tmp_path_factory):
    """A function that runs a verb in a process of its own and gives the modules that it imported."""
    folder = tmp_path_factory.mktemp("modules")
    torch.manual_seed(0)
    save(Run(LSTM1(3, 4, 8, 1, 5).eval()), folder / "run")

    def run(*arguments):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stderr.rpartition("MODULES")[2])

    return run


@pytest.mark.system
def test_export_and_validate_import_few_modules(touched):
    export = touched("export", "run", "-o", "m.onnx", "--json")
    validate = touched("validate", "m.onnx", "--against", "run", "--quick", "--json")
    counts = {"export": len(export), "validate": len(validate)}
    assert counts["export"] <= 66, export
    assert counts["validate"] <= 64, validate
    # neither asks for the other, for other targets, for an engine that is not used, to lift what is given, or
    # why something failed
    for unused in ("targets", "quantization", "native", "lift", "diagnose"):
        assert [name for name in (*export, *validate) if f".{unused}" in name] == []
    assert [name for name in validate if name.endswith("export.pipeline")] == []
