"""``lstm-edge lift`` as people call it."""

import json

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
            numpy_helper.from_array(
                rng.standard_normal((directions, 12, width)).astype(np.float32), name
            )
            for name, width in (("W", 3), ("R", 4))
        ]
        graph = helper.make_graph(
            [
                helper.make_node(
                    "GRU",
                    ["x", "W", "R"],
                    ["y"],
                    "layer",
                    hidden_size=4,
                    direction=direction,
                )
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["L", "N", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            weights,
        )
        path = tmp_path / f"{direction}.onnx"
        onnx.save(
            helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
            ),
            path,
        )
        return path

    return write


def test_a_file_is_lifted_and_the_report_says_what_was_verified(invoke, gru, tmp_path):
    out = tmp_path / "out.onnx"
    code, text, err = invoke("lift", gru(), "-o", out)
    assert (code, err) == (0, "")
    for part in (
        "1, N, 4",
        "equal to the original: at ",
        "streams: one frame per step",
        "next: lstm-edge stream",
    ):
        assert part in text
    assert [state.input for state in load(out).states] == ["h_0"]
    document = json.loads(invoke("lift", gru(), "-o", out, "--json")[1])
    (state,) = document["states"]
    assert [state[key] for key in ("input", "output", "axes", "kind")] == [
        "h_0",
        "h_n",
        [1, "N", 4],
        "lifted",
    ]
    assert (document["verification"]["float64"], document["unstreamable"]) == (
        0,
        "",
    )


def test_an_input_that_selects_a_branch_gets_its_number(invoke, tmp_path):
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N, 3] x, float[N, 3] h, int64 sr) => (float[N, 3] y, float[N, 3] h_n)
        <int64 fast = {16000}> {
        go = Equal(sr, fast)
        y = Add(x, h)
        h_n = If (go) <then_branch = a () => (float[N, 3] p) { p = Tanh(y) },
                       else_branch = b () => (float[N, 3] q) { q = Neg(y) }> }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "two.onnx")
    lifted = tmp_path / "lifted.onnx"
    arguments = ("lift", tmp_path / "two.onnx", "--state", "h=h_n", "-o", lifted)
    assert invoke(*arguments, "--branch", "sr=16000")[0] == 0
    assert [spec.name for spec in load(lifted).manifest.inputs] == ["x"]
    code, _, err = invoke(*arguments, "--branch", "sr=fast")
    assert (code, "sr=fast" in err.splitlines()[-1]) == (2, True)


def test_a_refusal_is_one_line_and_leaves_the_old_file(invoke, gru, tmp_path):
    (tmp_path / "out.onnx").write_bytes(b"old")
    code, _, err = invoke("lift", gru("bidirectional"), "-o", tmp_path / "out.onnx")
    assert (code, "GRU 'layer' reads time backwards" in err.splitlines()[-1]) == (
        2,
        True,
    )
    assert (tmp_path / "out.onnx").read_bytes() == b"old"


def test_neither_a_file_nor_its_weights_are_replaced(invoke, gru, tmp_path):
    path = tmp_path / "split.onnx"
    onnx.save(
        onnx.load(gru()),
        path,
        save_as_external_data=True,
        location="weights.onnx",
        size_threshold=0,
    )
    before = (tmp_path / "weights.onnx").read_bytes()
    code, _, err = invoke("lift", path, "-o", tmp_path / "weights.onnx")
    assert (code, "has the weights of" in err) == (2, True)
    assert (tmp_path / "weights.onnx").read_bytes() == before
    content = path.read_bytes()
    (tmp_path / "link.onnx").symlink_to(path)
    for output in (path, tmp_path / "link.onnx"):
        code, _, err = invoke("lift", path, "-o", output)
        assert (code, "is read by this command and would be replaced" in err) == (
            2,
            True,
        )
    assert path.read_bytes() == content
    assert invoke("lift", path, "-o", tmp_path / "out.onnx")[0] == 0
    (tmp_path / "weights.onnx").unlink()
    states = load(tmp_path / "out.onnx").states
    assert [state.input for state in states] == ["h_0"]
