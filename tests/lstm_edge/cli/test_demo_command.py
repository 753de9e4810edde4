import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from lstm_edge.checkpoint import deployable, load
from lstm_edge.data.series import Data, Series
from lstm_edge.demo import measure
from lstm_edge_exporters import export
from lstm_edge_runtime import load as load_model
from lstm_edge_runtime.errors import CheckFailedError

pytestmark = pytest.mark.system

RECORDINGS = "lstm_edge/data/basic_motions.npz"


def demo(*arguments, **environment):
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from lstm_edge.cli import main; main()",
            "demo",
            *map(str, arguments),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=240,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def document(folder):
    ran = demo("-o", folder, "--json")
    assert (ran.returncode, ran.stderr) == (0, "")
    return json.loads(ran.stdout)


def test_the_demo_recognizes_what_it_never_saw_and_equals_pytorch(document):
    assert document["accuracy"] >= 0.95
    assert document["recordings"] == 40
    assert document["steps"] == 4000
    assert 0 < document["largest_difference"] <= 1e-5
    assert 0 < document["microseconds_per_step"] < 10_000
    assert document["stream_accuracy"] >= 0.75


def test_the_demo_leaves_a_run_and_a_model_that_work(document, folder):
    run = load(folder / "run")
    model = load_model(folder / "basic_motions.onnx")
    assert model.manifest.provenance["checkpoint_sha256"] == run.sha256
    with np.load(folder / "basic_motions.npz", allow_pickle=False) as arrays:
        test = arrays["split"] == "test"
        labels = model.predict(arrays["x"][test]).labels
        assert np.mean(np.array(labels) == arrays["y"][test]) == document["accuracy"]


def test_a_pipe_gets_plain_lines_and_a_second_demo_replaces_the_first(document, folder):
    ran = demo("-o", folder, PYTHONIOENCODING="ascii")
    assert ran.returncode == 0
    assert ran.stdout.isascii()
    assert re.search(
        r"^        [SWRB]{48}  (after \d\.\d s|classified as)", ran.stdout, re.MULTILINE
    )
    assert "\x1b" not in ran.stdout
    assert f"accuracy: {document['accuracy']:.3g}" in ran.stdout
    assert f"lstm-edge inspect {folder / 'basic_motions.onnx'}" in ran.stdout
    again = load(folder / "run").sha256
    assert (
        hashlib.sha256((folder / "run" / "model.safetensors").read_bytes()).hexdigest()
        == again
    )


def test_the_proof_sees_a_file_that_computes_something_else(document, folder):
    run = load(folder / "run")
    other = load(folder / "run")
    other.model.fc.bias.data[0] += 1e-3
    series = Series(
        "0", "0", "test", np.zeros((5, 6), np.float32), np.zeros(5, np.int64)
    )
    held_out = Data((series, series), run.task, run.signal)
    stream = load_model(export(*deployable(other)).model).stream()
    result = measure(run, stream, held_out)
    assert result.largest_difference == pytest.approx(1e-3, rel=0.01)
    good = replace(
        result, recognized=2, recordings=2, stream_accuracy=1.0, largest_difference=1e-6
    )
    good.check()
    for changed in (
        {"largest_difference": np.nan},
        {"recognized": 1},
        {"stream_accuracy": 0.7},
    ):
        with pytest.raises(CheckFailedError, match=f"{next(iter(changed))}="):
            replace(good, **changed).check()
