"""What 0.1.0 wrote still loads, computes the same and goes on; ``tests/data/0.1.0/make.sh`` wrote it."""

import csv
from pathlib import Path

import numpy as np
import pytest

from lstm_edge_runtime import State, load
from lstm_edge_runtime.golden import read_golden, replay

OLD = Path(__file__).parents[1] / "data" / "0.1.0"
X = np.load(OLD / "data.npz")["x"]


def _rows(name):
    with (OLD / name).open(newline="") as file:
        return [(row["label"], float(row["p_walk"])) for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", ["model.onnx", "int8.onnx", "fp16.onnx"])
def test_each_kind_of_file_passes_its_own_golden_case(name):
    with load(OLD / name, device="cpu", threads=1) as model:
        assert model.selftest().ok
        assert model.interface.task.labels == ("rest", "run", "walk")
        assert model.interface.signal == (("ax", "ay", "az"), 50.0, 20, "")
        assert model.interface.lengths == "lengths"


@pytest.mark.parametrize("name", ["model.onnx"])
def test_predictions_are_those_of_the_old_version(name):
    with load(OLD / name, device="cpu", threads=1) as model:
        found = model.predict(X)
    for label, row, (old_label, old) in zip(
        found.labels, found.probabilities, _rows("predictions.csv"), strict=True
    ):
        assert label == old_label
        assert row[2] == pytest.approx(old, abs=1e-5)


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_a_saved_state_goes_on_where_the_old_version_stopped(engine):
    old = _rows("stream.csv")
    with load(OLD / "model.onnx", device="cpu", threads=1, engine=engine) as model:
        stream = model.stream(reset_every="never")
        stream.restore(State.load(OLD / "stream.state.npz"))
        for sample, (label, probability) in zip(X[0][12:], old[12:], strict=True):
            logits = stream.step(sample)
            shares = np.exp(logits) / np.exp(logits).sum()
            assert model.interface.task.labels[int(shares.argmax())] == label
            assert shares[2] == pytest.approx(probability, abs=1e-5)


def test_a_saved_state_of_two_rows_is_what_the_model_gives():
    with load(OLD / "model.onnx", device="cpu", threads=1) as model:
        _, expected = model.run(X[:2])
        state = State.load(OLD / "batch.state.npz")
        for name in ("h_0", "c_0"):
            np.testing.assert_allclose(state[name], expected[name], atol=1e-5)
        model.run(X[:2], state)


def test_golden_vectors_replay_with_their_own_limits():
    with load(OLD / "model.onnx", device="cpu", threads=1) as model:
        found = replay(model, read_golden(OLD / "golden"))
    assert len({each.set_name for each in found}) == 7
    assert all(each.comparison.ok for each in found)


def test_a_profile_is_accepted_and_ignored_with_the_way_on():
    with pytest.warns(DeprecationWarning, match="lstm-edge bench"):
        model = load(OLD / "model.onnx", profile=OLD / "profile.json", threads=1)
    with model:
        assert model.selftest().ok
