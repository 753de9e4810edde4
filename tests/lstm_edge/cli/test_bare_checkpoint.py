"""A bare checkpoint of the tutorials' class is described by options, and takes raw
values."""

import json

import numpy as np
import pytest
import torch

from lstm_edge import LSTM1
from lstm_edge.checkpoint import with_scales
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, NotFoundError

DESCRIBED = (
    "--features",
    "open,close",
    "--units",
    "USD",
    "--window",
    "20",
    "--rate",
    "1",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = LSTM1(1, 2, 4, 1, 20).eval()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"epoch": 3, "model_state_dict": state}, tmp_path / "lstm1.pth")
    scales = {
        "x_mean": [100.0, 5.0],
        "x_std": [10.0, 0.0],
        "y_min": [50.0],
        "y_max": [250.0],
    }
    (tmp_path / "scale.json").write_text(json.dumps(scales))
    monkeypatch.chdir(tmp_path)
    return network


@pytest.mark.filterwarnings("default:.*took the tensors")
def test_raw_values_go_in_and_come_out_and_the_next_command_passes(folder, invoke):
    code, out, err = invoke(
        "export", "lstm1.pth", *DESCRIBED, "--scale", "scale.json", "-o", "m.onnx"
    )
    assert code == 0, err
    assert "note: lstm1.pth: took the tensors whose names begin with 'module.'" in err
    x = (
        np.random.default_rng(0)
        .normal((100, 5), (10, 1), (3, 20, 2))
        .astype(np.float32)
    )
    with load("m.onnx") as model, torch.no_grad():
        scaled = (torch.from_numpy(x) - torch.tensor([100.0, 5])) / torch.tensor(
            [10.0, 1]
        )
        expected = folder(scaled).numpy() * 200 + 50
        np.testing.assert_allclose(model.run(x)[0]["value"], expected, rtol=1e-5)
        manifest = model.manifest
        assert (manifest.task.kind, manifest.task.units) == ("regression", ("USD",))
        assert (manifest.signal.features, manifest.signal.window) == (
            ("open", "close"),
            20,
        )
    command = out.splitlines()[-1].partition("lstm-edge validate ")[2].split()
    assert "--scale" in command
    assert invoke("validate", *command, "--quick")[0] == 0
    assert invoke("validate", "m.onnx", "--against", "lstm1.pth", "--quick")[0] == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"x_mean": [1.0], "x_std": [2.0]}, {"x_mean": 1, "x_std": 2}),
        ({"y_min": [1.0], "y_max": [1.0]}, {"y_mean": 1, "y_std": 1}),
        ({"x_mean": [1.0]}, None),
        ({"x_mean": [1.0], "x_max": [1.0]}, None),
        ({"mean": [1.0], "std": [3.0]}, {"x_mean": 1, "x_std": 3}),
        ({"min": [1.0], "max": [4.0]}, {"x_mean": 1, "x_std": 3}),
        ({"mean_": [1.0], "scale_": [3.0]}, {"x_mean": 1, "x_std": 3}),
        ({"data_min_": [1.0], "data_max_": [4.0]}, {"x_mean": 1, "x_std": 3}),
        ({"x_mean": [1.0], "x_std": [2.0], "mean": [1.0], "std": [1.0]}, None),
        ({"x_mean": [1.0], "x_std": [2.0], "n_samples_seen_": 7}, None),
        ({"mean": [1.0 + 2.0j], "std": [3.0]}, None),
        ({"mean": ["1.0"], "std": [3.0]}, None),
        ({}, None),
    ],
)
def test_scales_are_read_from_arrays(tmp_path, content, expected):
    np.savez(tmp_path / "s.npz", **content)
    network = LSTM1(1, 1, 4, 1, 1)
    if expected is None:
        with pytest.raises(FileFormatError, match="is not a scale"):
            with_scales(network, tmp_path / "s.npz")
        return
    with_scales(network, tmp_path / "s.npz")
    buffers = {name: tensor.item() for name, tensor in network.named_buffers()}
    assert buffers == expected
    with pytest.raises(NotFoundError):
        with_scales(LSTM1(1, 1, 4, 1, 1), tmp_path / "none.npz")
