import json
import subprocess
import sys
from pathlib import Path

import pytest

from lstm_edge_runtime.native import installed

H = 8


def test_json_gives_contract_cost_and_origin(invoke, har):
    code, out, _ = invoke("inspect", har.path, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["inputs"] == [
        {"name": "x", "dtype": "float32", "axes": ["N", "L", 3]}
    ]
    assert [(s["input"], s["output"], s["axes"]) for s in document["states"]] == [
        ("h_0", "h_n", [1, "N", H]),
        ("c_0", "c_n", [1, "N", H]),
    ]
    assert document["state_bytes_per_stream"] == 2 * H * 4
    assert document["task"]["labels"] == ["rest", "walk", "run, fast"]
    assert document["golden"]["x"] == [2, 6, 3]
    assert document["engine"] == "onnxruntime"
    assert document["provenance"]["versions"] == {"torch": "2.13"}
    assert document["file"]["bytes"] == har.path.stat().st_size
    out = invoke("inspect", har.path)[1]
    for words in (
        "h_0",
        "1, N, 8",
        "state bytes per stream",
        "run, fast",
        "sampling_rate",
    ):
        assert words in out


def test_a_stream_with_a_unit_shows_it_and_its_delay(invoke):
    path = Path(__file__).parents[2] / "runtime" / "data" / "strided.onnx"
    document = json.loads(invoke("inspect", path, "--json")[1])
    assert (document["unit"], document["delays"]) == (4, {"logits": 1, "last": 1})


def test_it_works_without_onnx_and_torch(har):
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'onnxscript',"
        " 'onnx_ir']))\nfrom lstm_edge.cli import main; main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "inspect", str(har.path), "--json"],
        capture_output=True,
        text=True,
    )
    assert ran.stderr == ""
    assert json.loads(ran.stdout)["states"][0]["input"] == "h_0"


@pytest.fixture
def program(har, tmp_path):
    """The file as a program."""
    to_native = pytest.importorskip("lstm_edge_exporters.targets.native").to_native
    path = tmp_path / "har.lep"
    path.write_bytes(to_native(har.path))
    return path


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is missing")
def test_operations_of_a_program_are_listed(invoke, har, program):
    document = json.loads(invoke("inspect", program, "--operations", "--json")[1])
    layer, head = (row for row in document["operations"] if row["weights"])
    assert layer["operation"] == "LSTM"
    assert layer["weights"] == ["w (32, 3) float32", "r (32, 8) float32"]
    assert layer["macs"] == 4 * H * (3 + H)
    assert head["share"] == 24 / (24 + layer["macs"])
    assert document["engine"] == "native"
    out = invoke("inspect", program, "--operations")[1]
    assert "share" in out
    assert "x (3), h_0 (8), c_0 (8)" in out
    code, _, err = invoke("inspect", har.path, "--operations")
    assert code == 2
    assert "convert it first: lstm-edge convert" in err
