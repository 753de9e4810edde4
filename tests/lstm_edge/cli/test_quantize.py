"""``lstm-edge quantize`` in this process and in its own: reports, refusals, exit codes."""

import json

import numpy as np
import pytest

from lstm_edge_runtime import load

LOOSE = ("--min-agreement", 0, "--max-drift", 9, "--max-change", 9)


@pytest.fixture(scope="module")
def wide(make):
    """An LSTM for which weights matter more than the rest of the file."""
    return make("wide", hidden=64)


@pytest.fixture
def data(wide, tmp_path):
    """Twelve labeled samples, the last four of which are the test part."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 30, wide.features)).astype(np.float32)
    split = np.array(["train"] * 8 + ["test"] * 4)
    model, state, labels = load(wide.path), None, ["rest"] * 8
    for sample in x[8:]:  # one stream runs through them
        outputs, state = model.run(sample[None], state)
        labels.append(model.manifest.task.labels[outputs["logits"][-1].argmax()])
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=np.array(labels), split=split, features=np.array(["ax", "ay", "az"]))
    return path


def test_a_smaller_file_is_written_and_passes_its_own_self_test(invoke, wide, data, tmp_path):
    output = tmp_path / "small.onnx"
    code, out, _ = invoke("quantize", wide.path, "-o", output, "--weights-only", "--data", data, *LOOSE)
    assert code == 0
    assert output.stat().st_size < 0.45 * wide.path.stat().st_size
    assert "judgement agreement: 1" in out
    assert "accuracy" in out
    model = load(output)
    assert model.manifest.precision == "int8"
    assert model.selftest().ok


def test_a_file_that_loses_too_much_exits_1_and_keeps_the_old_one(invoke, wide, tmp_path):
    output = tmp_path / "small.onnx"
    output.write_bytes(b"old")
    code, out, err = invoke("quantize", wide.path, "-o", output, "--max-drift", 1e-5)
    assert code == 1
    assert out == ""
    assert "drifts by" in err
    assert output.read_bytes() == b"old"


def test_unlabeled_data_of_unequal_length_is_judged_without_accuracy(invoke, wide, tmp_path):
    rng = np.random.default_rng(1)
    data, output = tmp_path / "data.npz", tmp_path / "small.onnx"
    np.savez(data, x=rng.normal(size=(6, 30, 3)), lengths=np.array([30, 4, 30, 17, 1, 2]))
    code, out, _ = invoke("quantize", wide.path, "-o", output, "--data", data, *LOOSE, "--json")
    judgement = json.loads(out)["judgement"]
    assert code == 0
    assert judgement["cases"] == 6
    assert judgement["accuracy"] is None
    assert judgement["agreement"] is not None


def test_columns_are_picked_by_the_names_of_the_features(invoke, wide, data, tmp_path):
    with np.load(data) as arrays:
        test = arrays["split"] == "test"
        x, labels = arrays["x"][test], arrays["y"][test]
    rows = ["label,az,junk,ax,ay,series"]
    for series, label in enumerate(labels):
        rows += [f'"{label}",{z!r},1e9,{x!r},{y!r},{series}' for x, y, z in x[series].astype(float).tolist()]
    table = tmp_path / "data.csv"
    table.write_text("\n".join(rows))
    found = [
        json.loads(
            invoke("quantize", wide.path, "-o", tmp_path / "q.onnx", "--data", file, *LOOSE, "--json")[1]
        )["judgement"]
        for file in (data, table)
    ]
    assert found[1]["accuracy"] == [1.0, 1.0]
    assert found[1] == found[0]
