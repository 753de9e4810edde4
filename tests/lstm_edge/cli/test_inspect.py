import json
import subprocess
import sys

import onnx
import pytest
import torch

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.manifest import Trained
from lstm_edge_runtime.native.library import installed

H, WIDTH, C = 8, 3, 3
CELL = 2 * 4 * H * (WIDTH + H) + 2 * 4 * H + 9 * H
DENSE = 2 * H * C


def test_json_gives_contract_cost_and_origin(invoke, har):
    code, out, _ = invoke("inspect", har.path, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["inputs"] == [{"name": "x", "dtype": "float32", "axes": ["N", "L", 3]}]
    assert [(s["input"], s["output"], s["axes"]) for s in document["states"]] == [
        ("h_0", "h_n", [1, "N", H]),
        ("c_0", "c_n", [1, "N", H]),
    ]
    cost = document["cost"]
    assert cost["parameters"] == 4 * H * (WIDTH + H) + 8 * H + H * C
    assert cost["flops_per_step"] == CELL + DENSE
    assert cost["state_bytes_per_stream"] == 2 * H * 4
    assert cost["not_counted"] == []
    assert document["task"]["labels"] == ["rest", "walk", "run, fast"]
    assert document["golden"]["x"] == [2, 6, 3]
    assert document["engine"] == ("native" if installed() else "onnxruntime")
    assert cost["not_native"] is None
    assert document["provenance"]["versions"] == {"torch": "2.13"}
    assert document["file"]["bytes"] == har.path.stat().st_size


def test_the_table_says_the_same_to_people(invoke, har):
    code, out, _ = invoke("inspect", har.path)
    assert code == 0
    for words in ("h_0 -> h_n", "(1, N, 8)", f"{CELL + DENSE:,}", "64 bytes of states", "run, fast", "50 Hz"):
        assert words in out


def test_how_it_was_trained_is_shown(invoke, make):
    path = make("carried", trained=Trained(True, 40, 0.5)).path
    assert json.loads(invoke("inspect", path, "--json")[1])["trained"] == {
        "carry": True,
        "window": 40,
        "reset": 0.5,
    }
    assert "windows of 40 steps" in invoke("inspect", path)[1]


def test_a_label_can_not_write_to_the_terminal(invoke, har, tmp_path):
    model = onnx.load(har.path)
    entry = next(each for each in model.metadata_props if each.key == "lstm_edge")
    entry.value = entry.value.replace('"walk"', '"\\u001b]0;title\\u0007"')
    onnx.save(model, tmp_path / "hostile.onnx")
    code, out, _ = invoke("inspect", tmp_path / "hostile.onnx")
    assert code == 0
    assert "\\x1b]0;title\\x07" in out
    assert "\x1b]0" not in out


def test_a_file_made_elsewhere_is_shown_with_its_paired_states(invoke, make):
    code, out, _ = invoke("inspect", make("elsewhere", manifest=False).path, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["manifest"] is False
    assert [state["output"] for state in document["states"]] == ["h_n", "c_n"]
    assert document["cost"]["flops_per_step"] == CELL + DENSE


def test_a_fixed_time_axis_is_counted_by_the_call(invoke, make):
    made = make("fixed", length=5, golden=False)
    _, out, _ = invoke("inspect", made.path, "--json")
    cost = json.loads(out)["cost"]
    assert cost["flops_per_step"] is None
    assert cost["flops_per_call"] == 5 * CELL + DENSE
    assert f"{5 * CELL + DENSE:,}" in invoke("inspect", made.path)[1]


def test_a_file_that_streams_by_units_is_counted_by_the_unit(invoke, tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = torch.nn.Conv1d(1, 4, 4, 2), torch.nn.ConvTranspose1d(4, 1, 4, 2, bias=False)

        def forward(self, x):
            y = torch.nn.functional.max_pool1d(self.down(torch.nn.functional.pad(x, (2, 0))), 3, 1, 1)
            return self.up(y)[:, :, :-2]

    path = tmp_path / "net.onnx"
    export(Net(), torch.randn(1, 1, 16), ExportConfig(inputs={"x": ("N", 1, "L")})).save(path)
    conv, pool, up, overlap = 2 * 4 * 4 + 4, 4 * 3, 2 * 4 * 4, 2
    document = json.loads(invoke("inspect", path, "--json")[1])
    assert document["unit"] == 2
    assert document["cost"]["flops_per_call"] == conv + pool + up + overlap
    assert document["cost"]["flops_per_step"] == (conv + pool + up + overlap) / 2
    assert document["cost"]["parameters"] == 4 * 4 + 4 + 4 * 4
    out = invoke("inspect", path)[1]
    assert "FLOPs per unit of 2 steps" in out
    assert "(41 per step)" in out
    assert "one frame a step, 2 at a time" in out


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x09"])
def test_what_is_no_model_exits_2(invoke, tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    code, out, err = invoke("inspect", path)
    assert (code, out) == (2, "")
    assert "m.onnx" in err


def test_a_broken_contract_exits_2(invoke, har, tmp_path):
    model = onnx.load(har.path)
    model.graph.output.pop()
    onnx.save(model, tmp_path / "m.onnx")
    code, _, err = invoke("inspect", tmp_path / "m.onnx")
    assert code == 2
    assert "c_n" in err


def test_it_works_without_onnx_and_torch(har):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxscript', 'onnx_ir']))\n"
        "from lstm_edge.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(har.path), "--json"], capture_output=True, text=True
    )
    assert ran.stderr == ""
    assert json.loads(ran.stdout)["cost"]["flops_per_step"] == CELL + DENSE
