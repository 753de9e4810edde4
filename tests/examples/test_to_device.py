"""The examples from data to a device, with little training."""

import importlib
import sys
from pathlib import Path

import pytest
from PIL import Image

from lstm_edge_runtime import load

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "examples"
LITTLE = {"activity": {"epochs": 1, "count": 4}, "wake_word": {"steps": 3}}
"""Trained by lstm-edge, and by the example's loop on raw samples; `make test-docs` runs
each page whole."""


@pytest.mark.parametrize("name", LITTLE)
def test_an_example_goes_from_data_to_a_device_and_draws_what_came_of_it(
    name, tmp_path, monkeypatch, capsys
):
    monkeypatch.syspath_prepend(EXAMPLES)
    try:
        importlib.import_module(name).main(tmp_path / "out", **LITTLE[name])
    finally:
        for module in (name, "to_device", "listen"):
            sys.modules.pop(module, None)
    verbs = {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()}
    assert verbs >= {"train", "export", "validate", "quantize", "selftest", "stream"}
    for path, precision in (("model.onnx", "fp32"), ("model-int8.onnx", "int8")):
        with load(tmp_path / "out" / path) as model:
            assert model.manifest.precision == precision
            assert model.inputs[0].axes[:2] == ("N", "L")
            assert model.selftest().ok
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert picture.height > picture.width / 2
