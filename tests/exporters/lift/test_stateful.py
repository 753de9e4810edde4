"""Files that have their states already get the contract and nothing else."""

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import KEY


def stateful(network, names, outputs):
    net = network()
    net.recurrent("LSTM", "x", 3, 4, h=names[0], c=names[1], outputs=("Y", "Y_h", "Y_c"))
    y, h, c = net.nodes[-1].output
    for value, name in ((y, "y"), (h, outputs[0]), (c, outputs[1])):
        net.add("Identity", [value], [name])
    state = [1, "N", 4]
    return net.model({"x": ["L", "N", 3], names[0]: state, names[1]: state}, ["y", *outputs])


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        (("h", "c"), ("hn", "cn")),
        (("state0", "state1"), ("new_state0", "new_state1")),
        (("hidden_in", "cell_in"), ("hidden_out", "cell_out")),
        (("foo", "bar"), ("quux", "baz")),
    ],
)
def test_the_contract_is_added_and_nothing_else_changed(network, names, outputs):
    model = stateful(network, names, outputs)
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output) for s in lifted.report.recognised] == list(zip(names, outputs, strict=True))
    assert lifted.report.lifted == ()
    written = onnx.load_from_string(lifted.model)
    assert [entry.key for entry in written.metadata_props] == [KEY]
    del written.metadata_props[:]
    assert written == model
    assert lifted.report.unstreamable == ""


def test_one_tensor_with_h_and_c_in_it_is_one_state(network):
    """Silero's form: state (2, N, H) in, stateN out."""
    net = network()
    h, c = net.slice("state", 0, 1, 0), net.slice("state", 1, 2, 0)
    net.recurrent("LSTM", "x", 3, 4, h=h, c=c, outputs=("Y", "Y_h", "Y_c"))
    y, *last = net.nodes[-1].output
    net.add("Concat", last, ["stateN"], axis=0)
    net.add("Identity", [y], ["y"])
    model = net.model({"x": ["L", "N", 3], "state": [2, "N", 4]}, ["y", "stateN"])
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output, s.axes) for s in lifted.report.recognised] == [
        ("state", "stateN", (2, "N", 4))
    ]
    stream = load(lifted.model).stream()
    stream.step(np.ones(3, np.float32))
    assert stream.state["state"].any()


def test_an_input_that_no_output_continues_gets_one(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 4, h="first_h", c="first_c", outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    state = [1, "N", 4]
    lifted = lift(
        net.model({"x": ["L", "N", 3], "first_h": state, "first_c": state}, ["y"]).SerializeToString()
    )
    assert [(s.input, s.output) for s in lifted.report.lifted] == [("first_h", "h_n"), ("first_c", "c_n")]
    assert lifted.report.unstreamable == ""


def test_states_named_by_the_caller_are_taken(network):
    net = network()
    total = net.add(
        "Add", ["sum", net.add("ReduceSum", ["x", net.const(np.array([0]))], keepdims=0)], ["total"]
    )
    net.add("Identity", [total], ["y"])
    model = net.model({"x": ["L", "N", 3], "sum": ["N", 3]}, ["y", "total"]).SerializeToString()
    with pytest.raises(ContractError, match="no LSTM, GRU or RNN node"):
        lift(model)
    lifted = lift(model, LiftConfig(states={"sum": "total"}))
    assert [(s.input, s.output) for s in lifted.report.recognised] == [("sum", "total")]
    with pytest.raises(InputError, match="the inputs are x, sum"):
        lift(model, LiftConfig(states={"summ": "total"}))


def test_an_artefact_is_not_lifted_twice(network):
    model = lift(stateful(network, ("h", "c"), ("hn", "cn")).SerializeToString()).model
    with pytest.raises(InputError, match="manifest already"):
        lift(model)
