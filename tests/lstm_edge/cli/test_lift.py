"""``lstm-edge lift`` as people call it."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_runtime import load


@pytest.fixture
def gru(tmp_path):
    def write(direction="forward"):
        rng = np.random.default_rng(0)
        directions = 2 if direction == "bidirectional" else 1
        weights = [
            numpy_helper.from_array(rng.standard_normal((directions, 12, width)).astype(np.float32), name)
            for name, width in (("W", 3), ("R", 4))
        ]
        graph = helper.make_graph(
            [helper.make_node("GRU", ["x", "W", "R"], ["y"], "layer", hidden_size=4, direction=direction)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["L", "N", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            weights,
        )
        path = tmp_path / f"{direction}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return write


def lift(*arguments):
    return subprocess.run(
        [sys.executable, "-c", "from lstm_edge.cli import main; main()", "lift", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ORT_DISABLE_TELEMETRY": "1", "COLUMNS": "120"},
    )


def test_a_file_is_lifted_and_the_report_says_what_was_proven(gru, tmp_path):
    out = tmp_path / "out.onnx"
    done = lift(gru(), "-o", out)
    assert done.returncode == 0
    assert done.stderr == ""
    for part in (
        "h_0",
        "h_n",
        "1, N, 4",
        "equal to the original float64: ",
        "streams: one frame per step",
        "next: lstm-edge inspect",
    ):
        assert part in done.stdout
    assert [state.input for state in load(out).states] == ["h_0"]


def test_json_is_one_document(gru, tmp_path):
    done = lift(gru(), "-o", tmp_path / "out.onnx", "--json")
    document = json.loads(done.stdout)
    assert document["states"] == [
        {"input": "h_0", "output": "h_n", "axes": [1, "N", 4], "reset": 0.0, "kind": "lifted"}
    ]
    assert document["equal to the original"]["float64"] == 0
    assert document["unstreamable"] == ""


def test_a_refusal_is_one_line_and_leaves_the_old_file(gru, tmp_path):
    out = tmp_path / "out.onnx"
    out.write_bytes(b"old")
    done = lift(gru("bidirectional"), "-o", out)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert "GRU 'layer' reads time backwards" in done.stderr.splitlines()[-1]
    assert out.read_bytes() == b"old"


def run(*words):
    from click.testing import CliRunner

    from lstm_edge.cli import cli

    return CliRunner().invoke(cli, ["lift", *map(str, words)])


@pytest.mark.parametrize(
    ("output", "message"),
    [("no/out.onnx", "create it first"), (".", "is a folder"), ("/dev/null", "not a regular file")],
)
def test_a_target_that_can_not_be_written_is_refused_before_the_file_is_read(
    gru, tmp_path, monkeypatch, output, message
):
    monkeypatch.chdir(tmp_path)
    gru().write_bytes(b"would be refused if it were read")
    result = run("forward.onnx", "-o", output)
    assert message in str(result.exception)


@pytest.mark.parametrize("target", ["weights.onnx", "link.onnx"])
def test_the_files_that_hold_the_inputs_weights_are_never_the_target(gru, tmp_path, target):
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(gru()), path, save_as_external_data=True, location="weights.onnx", size_threshold=0)
    (tmp_path / "link.onnx").symlink_to("weights.onnx")
    before = (tmp_path / "weights.onnx").read_bytes()
    result = run(path, "-o", tmp_path / target)
    assert "has weights of" in str(result.exception)
    assert (tmp_path / "weights.onnx").read_bytes() == before


def test_a_file_may_be_lifted_onto_itself(gru, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(onnx.load(gru()), path, save_as_external_data=True, location="weights.onnx", size_threshold=0)
    assert run(path, "-o", path).exit_code == 0
    (tmp_path / "weights.onnx").unlink()
    assert [state.input for state in load(path).states] == ["h_0"]


def test_a_branch_is_chosen_by_number_and_a_wrong_one_is_said_in_one_line(gru, tmp_path):
    path = gru()
    model = onnx.load(path)
    branches = {}
    for key, factor in (("then_branch", 1.0), ("else_branch", 2.0)):
        scaled = helper.make_node("Mul", ["y", f"{key}_factor"], [f"{key}_out"])
        factors = [numpy_helper.from_array(np.float32([factor]), f"{key}_factor")]
        outputs = [helper.make_tensor_value_info(f"{key}_out", TensorProto.FLOAT, None)]
        branches[key] = helper.make_graph([scaled], key, [], outputs, factors)
    model.graph.initializer.append(numpy_helper.from_array(np.array(8000), "low"))
    model.graph.node.append(helper.make_node("Equal", ["rate", "low"], ["is_low"]))
    model.graph.node.append(helper.make_node("If", ["is_low"], ["z"], **branches))
    model.graph.input.append(helper.make_tensor_value_info("rate", TensorProto.INT64, []))
    model.graph.output[0].name = "z"
    onnx.save(model, path)
    done = lift(path, "-o", tmp_path / "out.onnx", "--branch", "rate=8000")
    assert done.returncode == 0, done.stderr
    assert [entry.name for entry in onnx.load(tmp_path / "out.onnx").graph.input] == ["x", "h_0"]
    done = lift(path, "-o", tmp_path / "out.onnx", "--branch", "rate=fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: --branch rate=fast: could not convert" in done.stderr.splitlines()[-1]
