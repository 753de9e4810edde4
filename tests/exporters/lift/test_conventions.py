"""Files whose states another tool's configuration declares, as they lie in that tool's folders."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from lstm_edge.cli import main
from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError

TRITON = """
name: "sums"  # state [ { input_name: "x" output_name: "y" } ]
sequence_batching {
  state [
    { input_name: "past_key_values.3.conv_state" output_name: "present.3.conv_state"
      data_type: TYPE_FP32 dims: [ 4 ]
      initial_state: { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true name: "zero" } },
    { output_name: "q", input_name: "b" },
    { input_name: "gone" output_name: "q" }
  ]
}
"""
DECODER = {"filename": "model.onnx", "inputs": {"rnn_prev_states": "b"}, "outputs": {"rnn_states": "q"}}
GENAI = {
    "model": {
        "decoder": {**DECODER, "state_groups": [{"kind": "fixed_conv", "layer_ids": [3]}]},
        "encoder": {
            "filename": "other.onnx",
            "inputs": {"rnn_prev_states": "x"},
            "outputs": {"rnn_states": "y"},
        },
    }
}
STATES = {"past_key_values.3.conv_state": "present.3.conv_state", "b": "q"}


@pytest.fixture
def path(tmp_path):
    """``y = x + a + b``, ``a' = a + x``, ``b' = b - x`` in a version's folder."""

    def value(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4])

    (a, p), (b, q) = STATES.items()
    nodes = [
        helper.make_node("Add", ["x", a], [p]),
        helper.make_node("Sub", [b, "x"], [q]),
        helper.make_node("Add", [p, b], ["y"]),
    ]
    graph = helper.make_graph(nodes, "g", [*map(value, ("x", a, b))], [*map(value, ("y", p, q))])
    path = tmp_path / "1" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture(params=["config.pbtxt", "1/config.pbtxt", "1/genai_config.json"])
def declared(path, request):
    text = TRITON if request.param.endswith("pbtxt") else json.dumps(GENAI)
    (path.parents[1] / request.param).write_text(text)
    return path


def test_a_foreign_file_streams_without_states_being_named(declared):
    model = load(declared)
    assert {state.input: state.output for state in model.states} == STATES
    stream = model.stream()
    for step in range(1, 4):
        assert stream.step(np.ones(4, np.float32)).tolist() == [1.0] * 4, step
    assert stream.state["b"].tolist() == [[-3.0] * 4]


def test_lift_takes_the_same_pairs(declared):
    manifest = lift(declared, LiftConfig(inputs={"x": ("N", 4)})).manifest
    assert {state.input: state.output for state in manifest.states} == STATES


def test_inspect_shows_them(declared, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["lstm-edge", "inspect", str(declared), "--json"])
    with pytest.raises(SystemExit):
        main()
    assert {state["input"] for state in json.loads(capsys.readouterr().out)["states"]} == {*STATES}


def test_named_states_have_the_last_word(declared):
    model = load(declared, states={"b": "q"})
    assert [state.input for state in model.states] == ["b"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("genai_config.json", b"{"),
        ("genai_config.json", b"[" * 100_000),
        ("genai_config.json", b"[1]"),
        ("genai_config.json", b'{"model": [1]}'),
        ("genai_config.json", b'{"model": {"decoder": 3, "type": "x"}}'),
        ("genai_config.json", json.dumps({"model": {"decoder": DECODER | {"inputs": [1]}}}).encode()),
        (
            "genai_config.json",
            json.dumps({"model": {"decoder": DECODER | {"inputs": {"rnn_prev_states": 3}}}}).encode(),
        ),
        ("config.pbtxt", b"\xff\xfe input_name output_name"),
        ("config.pbtxt", b'input_name: "x" input_name: "b" output_name: "q"'),
    ],
)
def test_a_configuration_that_says_nothing_is_passed_over(path, name, content):
    (path.parent / name).write_bytes(content)
    with pytest.raises(ContractError, match="which output continues past_key_values"):
        load(path)


def test_a_cache_that_grows_is_no_state(tmp_path):
    grown = helper.make_node("Concat", ["past_key_values.0.key", "x"], ["present.0.key"], axis=1)
    graph = helper.make_graph(
        [grown, helper.make_node("ReduceSum", ["present.0.key"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4]),
            helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["N", "past", 4]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 1]),
            helper.make_tensor_value_info("present.0.key", TensorProto.FLOAT, ["N", "total", 4]),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    inputs = {"past_key_names": "past_key_values.%d.key"}
    outputs = {"present_key_names": "present.%d.key"}
    config = {"model": {"decoder": {"filename": "model.onnx", "inputs": inputs, "outputs": outputs}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    assert load(path).states == ()
