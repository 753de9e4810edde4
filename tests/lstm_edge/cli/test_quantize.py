"""``lstm-edge quantize`` in this process and in its own: reports, refusals, exit
codes."""

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
    model = load(wide.path)
    state = None
    labels = ["rest"] * 8
    for sample in x[8:]:  # one stream runs through them
        outputs, state = model.run(sample[None], state)
        labels.append(model.manifest.task.labels[outputs["logits"][-1].argmax()])
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x=x,
        y=np.array(labels),
        split=split,
        features=np.array(["ax", "ay", "az"]),
    )
    return path


def test_a_smaller_file_is_written_and_passes_its_own_self_test(
    invoke, wide, data, tmp_path
):
    output = tmp_path / "small.onnx"
    code, out, _ = invoke(
        "quantize", wide.path, "-o", output, "--weights-only", "--data", data, *LOOSE
    )
    assert code == 0
    assert output.stat().st_size < 0.45 * wide.path.stat().st_size
    assert "judgement agreement: 1" in out
    assert "accuracy" in out
    model = load(output)
    assert model.manifest.precision == "int8"
    assert model.selftest().ok


def test_a_file_that_loses_too_much_exits_1_and_keeps_the_old_one(
    invoke, wide, tmp_path
):
    output = tmp_path / "small.onnx"
    output.write_bytes(b"old")
    code, out, err = invoke("quantize", wide.path, "-o", output, "--max-drift", 1e-5)
    assert code == 1
    assert out == ""
    assert "drifts by" in err
    assert output.read_bytes() == b"old"


def test_a_file_is_not_replaced_by_its_quantized_form(invoke, wide):
    content = wide.path.read_bytes()
    code, _, err = invoke("quantize", wide.path, "-o", wide.path)
    assert (code, "is read by this command and would be replaced" in err) == (2, True)
    assert wide.path.read_bytes() == content
