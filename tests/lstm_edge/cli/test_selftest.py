import json
import os
import struct
import subprocess
import sys
import zlib

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.native import installed
from lstm_edge_runtime.ort import sealed


@pytest.fixture
def broken(har, tmp_path):
    """The same file with one weight changed, as a bad flash or another kernel would
    have it."""
    model = onnx.load(har.path)
    kernel = next(tensor for tensor in model.graph.initializer if tensor.name == "K")
    values = onnx.numpy_helper.to_array(kernel).copy()
    values[2, 1] += 1e-3
    kernel.raw_data = values.tobytes()
    path = tmp_path / "broken.onnx"
    path.write_bytes(sealed(model.SerializeToString()))
    return path


def test_a_file_that_computes_right_passes(invoke, har):
    code, out, _ = invoke("selftest", har.path, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["ok"]
    assert (document["engine"], document["device"]) == ("onnxruntime", "cpu")
    replayed = [(c["case"], c["output"]) for c in document["comparisons"]]
    assert sorted(replayed) == [(1, "c_n"), (1, "h_n"), (1, "logits")]


def test_a_file_that_computes_something_else_exits_1_and_names_the_worst_element(
    invoke, broken
):
    code, out, err = invoke("selftest", broken)
    assert code == 1
    assert "ok: no" in out
    assert err.startswith("error: the golden case fails")
    assert "logits differs" in err
    assert ", 1]" in err  # the class whose weight was changed
    code, out, _ = invoke("selftest", broken, "--json")
    assert code == 1
    document = json.loads(out)
    assert not document["ok"]
    assert {c["output"] for c in document["comparisons"] if not c["ok"]} == {"logits"}


def test_a_difference_that_is_not_finite_is_still_json(invoke, har, tmp_path):
    model = onnx.load(har.path)
    manifest = read_manifest(model.metadata_props[0].value)
    golden = manifest.golden
    golden.outputs["logits"] = np.full_like(golden.outputs["logits"], np.inf)
    (tmp_path / "m.onnx").write_bytes(with_manifest(model, manifest))
    code, out, _ = invoke("selftest", tmp_path / "m.onnx", "--json")
    assert code == 1
    differences = {c["output"]: c["max_abs"] for c in json.loads(out)["comparisons"]}
    assert differences["logits"] is None
    assert differences["h_n"] < 1e-6


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is missing")
def test_a_trace_names_the_operation_that_is_wrong(invoke, har, tmp_path):
    content = bytearray(to_native(har.path))
    (tmp_path / "har.lep").write_bytes(content)
    arguments = "selftest", tmp_path / "har.lep", "--trace", har.path
    code, out, _ = invoke(*arguments, "--json")
    assert code == 0
    document = json.loads(out)
    assert document["trace"]["first"] is None
    assert document["trace"]["compared"] == document["trace"]["operations"]

    weights = numpy_helper.to_array(onnx.load(har.path).graph.initializer[3])
    at = content.index(np.ascontiguousarray(weights.T).tobytes())
    struct.pack_into("<f", content, at, weights[0, 0] + 1)
    struct.pack_into("<I", content, 12, zlib.crc32(content[16:]))
    (tmp_path / "har.lep").write_bytes(content)
    code, out, err = invoke(*arguments)
    assert code == 1
    assert "trace compared" in out
    assert "(LINEAR) is the first that differs" in err
    code, out, _ = invoke(*arguments, "--json")
    assert code == 1
    assert json.loads(out)["trace"]["first"]["operation"] == "LINEAR"
    code, _, err = invoke("selftest", har.path, "--trace", har.path)
    assert code == 2
    assert "is not a program" in err


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_full_disk_under_the_output_is_one_line(har, buffered):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from lstm_edge.cli import main; main()",
                "selftest",
                har.path,
            ],
            stdout=full,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        2,
        b"error: can't write to standard output: No space left on device\n",
    )
