import json
import subprocess
import sys
from pathlib import Path

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
