import json
from pathlib import Path

import pytest

from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime.native import installed

STRIDED = Path(__file__).parents[2] / "runtime" / "data" / "strided.onnx"
QUICK = ("--seconds", "0.1", "--streams", "8")


def _rows(invoke, *arguments):
    code, out, err = invoke("bench", *arguments, *QUICK, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
def test_a_step_and_a_tick_of_both_kinds_of_files_are_timed(invoke, har, tmp_path):
    (tmp_path / "har.lep").write_bytes(to_native(har.path))
    rows = _rows(invoke, har.path, tmp_path / "har.lep")
    assert [(row["engine"], row["call"]) for row in rows] == [
        (engine, call)
        for engine in ("onnxruntime", "native")
        for call in ("step", "step, 8 streams")
    ]
    assert all(0 < row["p50_us"] <= min(row["p99_us"], 1e5) for row in rows)


def test_a_file_with_a_unit_is_timed_by_units(invoke):
    assert {row["call"] for row in _rows(invoke, STRIDED)} == {
        "unit of 4",
        "unit of 4, 8 streams",
    }


def test_the_table_has_every_row(invoke, har, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a long path would be wrapped
    (tmp_path / "har[bold].onnx").write_bytes(har.path.read_bytes())
    code, out, _ = invoke("bench", "har[bold].onnx", *QUICK)
    assert code == 0
    assert "har[bold].onnx" in out
    for words in ("p50 us", "p99 us", "step, 8 streams", "onnxruntime"):
        assert words in out
