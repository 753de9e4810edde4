"""What ``train`` and ``bench`` of 0.1.0 wrote; ``tests/data/0.1.0/make.sh`` wrote it."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lstm_edge import train
from lstm_edge.checkpoint import load
from lstm_edge.deploy import deployable
from lstm_edge.host import describe_host
from lstm_edge.timing.compare import read_baseline
from lstm_edge_exporters import export
from lstm_edge_runtime import load as load_model
from lstm_edge_runtime.errors import FileFormatError

OLD = Path(__file__).parents[1] / "data" / "0.1.0"


def test_a_run_exports_to_a_file_that_predicts_what_the_old_one_did():
    run = load(OLD / "run")
    artifact = export(*deployable(run))
    x = np.load(OLD / "data.npz")["x"]
    with load_model(artifact.model, device="cpu", threads=1) as model:
        found = model.predict(x)
    with (OLD / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(found.labels) == [row["label"] for row in rows]
    expected = [[float(row[f"p_{name}"]) for name in run.task.labels] for row in rows]
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-5)


def test_the_weights_alone_load_as_a_checkpoint():
    (path,) = (OLD / "run").glob("*.safetensors")
    weights, run = load(path).model.state_dict(), load(OLD / "run").model.state_dict()
    assert weights.keys() == run.keys()
    assert all(torch.equal(weights[name], run[name]) for name in run)


def test_training_does_not_go_on_from_another_version_and_says_so(tmp_path):
    shutil.copytree(OLD / "run", tmp_path / "run")
    with pytest.raises(FileFormatError, match=r"lstm-edge 0\.1 .*0\.\d+; train again with --overwrite"):
        train(OLD / "data.npz", tmp_path / "run", resume=True)


def test_a_stored_measurement_is_a_baseline(tmp_path):
    stored = json.loads((OLD / "baseline.json").read_text())
    stored["host"] |= describe_host()  # one of another machine is refused
    (tmp_path / "baseline.json").write_text(json.dumps(stored))
    baseline = read_baseline(tmp_path / "baseline.json", ["model.onnx"], 256)
    assert baseline["software"]["lstm-edge"] == "0.1.0"
