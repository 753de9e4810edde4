"""The examples from data to a device, with little training."""

import importlib
import sys
import wave
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Signal, Task

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
LITTLE = {"activity": {"epochs": 1, "count": 4}, "wake_word": {"steps": 3}}
"""Trained by lstm-edge, and by a loop of its own on raw samples; `make test-docs` runs each page whole."""


@pytest.mark.parametrize("name", LITTLE)
def test_an_example_goes_from_data_to_a_device_and_draws_what_came_of_it(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        importlib.import_module(name).main(tmp_path / "out", **LITTLE[name])
    finally:
        for module in (name, "to_device", "listen"):
            sys.modules.pop(module, None)
    said = {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert said >= {"train", "export", "validate", "quantize", "selftest", "stream"}
    for path, precision in (("model.onnx", "fp32"), ("model-int8.onnx", "int8")):
        with load(tmp_path / "out" / path) as model:
            assert model.manifest.precision == precision
            assert model.inputs[0].axes[:2] == ("N", "L")
            assert model.selftest().ok
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert picture.height > picture.width / 2


def test_a_recording_of_another_kind_is_refused_in_one_line(tmp_path, monkeypatch):
    class Means(nn.Module):
        def forward(self, x):
            return nn.functional.avg_pool1d(x.unsqueeze(1), 80, 40).squeeze(1).unsqueeze(2) * torch.ones(2)

    task, signal = Task("classification", "output", ("no", "yes")), Signal(("sound",), 8000.0)
    config = ExportConfig(
        inputs={"x": ("N", "L")}, outputs=("output",), task=task, signal=signal, stream=True
    )
    model = load(export(Means(), torch.randn(1, 800), config).model)
    monkeypatch.syspath_prepend(EXAMPLES)
    listen = importlib.import_module("listen").listen
    sys.modules.pop("listen")

    def write(channels=1, width=2, rate=8000, samples=1000):
        with wave.open(str(tmp_path / "some.wav"), "wb") as file:
            file.setparams((channels, width, rate, 0, "NONE", ""))
            file.writeframes(bytes(samples * width * channels))
        return tmp_path / "some.wav"

    assert listen(model, write()) == [0.5] * 24
    for wrong, words in (
        ({"rate": 44100}, "44100 samples a second"), ({"channels": 2}, "2 channels"),
        ({"width": 3}, "24 bits"), ({"samples": 0}, "no samples"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            listen(model, write(**wrong))
    (tmp_path / "some.wav").write_bytes(b"ID3 no sound")
    with pytest.raises(ValueError, match="is not a WAV file"):
        listen(model, tmp_path / "some.wav")
    with pytest.raises(OSError, match=r"no\.wav"):
        listen(model, tmp_path / "no.wav")
    with pytest.raises(ValueError, match="labels and a sampling rate"):
        listen(
            load(export(Means(), torch.randn(1, 800), ExportConfig(inputs={"x": ("N", "L")})).model), write()
        )
