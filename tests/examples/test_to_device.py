"""The example from data to a device, with little training."""

import importlib
import sys
from pathlib import Path

from PIL import Image

from lstm_edge_runtime import load

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_voice_goes_from_data_to_a_device_and_draws_what_it_heard(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        importlib.import_module("voice").main(tmp_path / "out", steps=3)
    finally:
        for module in ("voice", "to_device"):
            sys.modules.pop(module, None)
    said = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["train", "export", "validate", "quantize", "selftest", "stream"]
    for path, precision in (("model.onnx", "fp32"), ("model-int8.onnx", "int8")):
        with load(tmp_path / "out" / path, device="cpu") as model:
            assert model.interface.task.labels == ("noise", "voice")
            assert model.interface.precision == precision
            assert model.inputs[0].axes == ("N", "L", 12)
            assert model.selftest().ok
    with Image.open(tmp_path / "out" / "voice.png") as picture:
        assert picture.width > 400
