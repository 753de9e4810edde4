"""Files that have their states already get the contract and nothing else."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.pairing import pair_states
from lstm_edge_runtime.errors import ContractError, InputError


def stateful(network, names, outputs):
    net = network()
    net.recurrent(
        "LSTM", "x", 3, 4, h=names[0], c=names[1], outputs=("Y", "Y_h", "Y_c")
    )
    y, h, c = net.nodes[-1].output
    for value, name in ((y, "y"), (h, outputs[0]), (c, outputs[1])):
        net.add("Identity", [value], [name])
    state = [1, "N", 4]
    return net.model(
        {"x": ["L", "N", 3], names[0]: state, names[1]: state}, ["y", *outputs]
    )


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (("h", "c"), ("hn", "cn")),
        (("h0", "c0"), ("hn", "cn")),
        (("foo", "bar"), ("quux", "baz")),
        (("h", "c"), ("next_h", "next_c")),
        (("state0", "state1"), ("new_state0", "new_state1")),
        (("hidden_in", "cell_in"), ("hidden_out", "cell_out")),
    ],
)
def test_states_that_the_file_has_are_recognized(network, names, outputs):
    model = stateful(network, names, outputs)
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output) for s in lifted.report.recognized] == list(
        zip(names, outputs, strict=True)
    )
    assert lifted.report.lifted == ()
    assert lifted.manifest.unstreamable == ""


def test_an_input_that_no_output_continues_gets_one(network):
    model = stateful(network, ("first_h", "first_c"), ("hn", "cn"))
    del model.graph.output[1:]
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output) for s in lifted.report.lifted] == [
        ("first_h", "h_n"),
        ("first_c", "c_n"),
    ]
    assert lifted.manifest.unstreamable == ""


def test_an_output_of_the_same_shape_that_does_not_read_a_state_does_not_continue_it():
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[L, N, 4] x, float[1, N, 4] h) => (float[L, N, 4] y, float[1, N, 4] top)
        { y = Add(x, h) top = ReduceMax(x) }"""
    assert pair_states(ir.from_proto(onnx.parser.parse_model(text)).graph, {}, "L") == (
        {},
        {},
    )


def test_states_named_by_the_caller_are_taken(network):
    net = network()
    total = net.add(
        "Add",
        ["sum", net.add("ReduceSum", ["x", net.const(np.array([0]))], keepdims=0)],
        ["total"],
    )
    net.add("Identity", [total], ["y"])
    model = net.model(
        {"x": ["L", "N", 3], "sum": ["N", 3]}, ["y", "total"]
    ).SerializeToString()
    with pytest.raises(ContractError, match=r"reads all time|no state"):
        lift(model)
    lifted = lift(model, LiftConfig(states={"sum": "total"}))
    assert [(s.input, s.output) for s in lifted.report.recognized] == [("sum", "total")]


def test_an_output_continues_one_state_only(network):
    model = stateful(network, ("h", "c"), ("hn", "cn")).SerializeToString()
    with pytest.raises(InputError, match="expected each an input"):
        lift(model, LiftConfig(states={"h": "hn", "c": "hn"}))


def test_ambiguous_states_are_listed_with_the_option_that_names_them(network):
    net = network()
    for name in ("first", "second"):
        net.add("Add", ["state", net.weight(1, 1, 4)], [name])
    net.add("Identity", ["x"], ["y"])
    model = net.model(
        {"x": ["L", "N", 3], "state": [1, "N", 4]}, ["y", "first", "second"]
    )
    with pytest.raises(
        ContractError,
        match=r"state \(first or second\); if they are states: --state state=first",
    ):
        lift(model.SerializeToString())


@pytest.mark.parametrize("name", ["c", "h", "memory", "cell", "condition"])
def test_a_condition_is_not_taken_for_a_state_by_its_name(network, name):
    net = network()
    net.recurrent("LSTM", "x", 3, 4, outputs=("Y", "", ""))
    last = net.add("Gather", [net.nodes[-1].output[0], net.const(np.array(-1))], axis=0)
    row = net.add("Squeeze", [last, net.const(np.array([0]))])
    net.add("Add", [row, name], ["y"])
    model = net.model({"x": ["L", "N", 3], name: ["N", 4]}, ["y"])
    lifted = lift(model.SerializeToString())
    assert [spec.name for spec in lifted.manifest.inputs] == ["x", name]
    assert [spec.name for spec in lifted.manifest.outputs] == ["y"]
    assert lifted.report.recognized == ()
    asked = [note for note in lifted.notes if f"--state {name}=y" in note]
    assert bool(asked) == (name != "condition")


def test_a_result_is_not_fed_back_into_the_only_input_of_its_shape(network):
    net = network()
    product = net.add("MatMul", ["x", net.weight(3, 4)])
    net.add("Tanh", [net.add("Add", [product, "c"])], ["y"])
    model = net.model({"x": ["N", 3], "c": ["N", 4]}, ["y"])
    with pytest.raises(
        ContractError, match=r"c \(y\); if they are states: --state c=y"
    ):
        lift(model.SerializeToString())
