"""Files that have their states already get the contract and nothing else."""

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.onnx_file import DIGEST


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
    assert [(s.input, s.output) for s in lifted.report.recognized] == list(zip(names, outputs, strict=True))
    assert lifted.report.lifted == ()
    written = onnx.load_from_string(lifted.model)
    assert [entry.key for entry in written.metadata_props] == [KEY, DIGEST]
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
    assert [(s.input, s.output, s.axes) for s in lifted.report.recognized] == [
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
    with pytest.raises(ContractError, match="reads all time"):
        lift(model)
    lifted = lift(model, LiftConfig(states={"sum": "total"}))
    assert [(s.input, s.output) for s in lifted.report.recognized] == [("sum", "total")]
    with pytest.raises(InputError, match="the inputs are x, sum"):
        lift(model, LiftConfig(states={"summ": "total"}))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ({"h": "hn", "c": "hn"}, "several inputs with 'hn'"),
        ({"h": "y"}, r"h float32 \(1, N, 4\) with y float32 \(L, 1, N, 4\); a state leaves as it enters"),
    ],
)
def test_states_that_the_caller_pairs_wrongly_are_refused(network, states, message):
    model = stateful(network, ("h", "c"), ("hn", "cn")).SerializeToString()
    with pytest.raises(InputError, match=message):
        lift(model, LiftConfig(states=states))


def test_a_sequence_that_is_called_like_a_state_is_none(network):
    """A decoder's input is often another network's ``hidden``."""
    net = network()
    net.recurrent("GRU", "hidden", 4, 4, outputs=("Y",))
    net.add("Squeeze", [net.nodes[-1].output[0], net.const(np.array([1]))], ["hidden_out"])
    lifted = lift(net.model({"hidden": ["L", "N", 4]}, ["hidden_out"]).SerializeToString())
    assert lifted.report.recognized == ()
    assert [spec.name for spec in lifted.manifest.inputs] == ["hidden"]


def test_states_of_a_batch_first_node_are_recognized(network):
    """onnxruntime does not run ``layout=1``, so the file is written with it rewritten."""
    net = network()
    net.recurrent("LSTM", "x", 3, 4, h="h", c="c", outputs=("Y", "Y_h", "Y_c"), layout=1)
    y, h, c = net.nodes[-1].output
    for value, name in ((y, "y"), (h, "hn"), (c, "cn")):
        net.add("Identity", [value], [name])
    state = ["N", 1, 4]
    model = net.model({"x": ["N", "L", 3], "h": state, "c": state}, ["y", "hn", "cn"], producer_name="theirs")
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output) for s in lifted.report.recognized] == [("h", "hn"), ("c", "cn")]
    assert lifted.manifest.provenance["producer"] == "theirs"
    stream = load(lifted.model).stream()
    stream.step(np.ones(3, np.float32))
    assert stream.state["h"].any()


def test_the_cache_of_a_causal_convolution_is_recognized_beside_a_hidden_state(network):
    """Shape inference does not tell the cache's width behind a Slice of a free axis."""
    net = network()
    seen = net.add("Concat", ["in_cache", "x"], axis=2)
    net.add("Slice", [seen, *(net.const(np.array([n])) for n in (-2, 2**40, 2))], ["out_cache"])
    steps = net.add("Transpose", [net.add("Conv", [seen, net.weight(3, 3, 3)])], perm=[2, 0, 1])
    net.recurrent("GRU", steps, 3, 4, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    model = net.model({"x": ["N", 3, "L"], "in_cache": ["N", 3, 2]}, ["y", "out_cache"])
    lifted = lift(model.SerializeToString())
    assert [(s.input, s.output) for s in lifted.report.recognized] == [("in_cache", "out_cache")]
    assert [(s.input, s.output) for s in lifted.report.lifted] == [("h_0", "h_n")]
    assert lifted.report.unstreamable == ""


def test_ambiguous_states_are_listed_with_the_option_that_names_them(network):
    net = network()
    for name in ("first", "second"):
        net.add("Add", ["state", net.weight(1, 1, 4)], [name])
    net.add("Identity", ["x"], ["y"])
    model = net.model({"x": ["L", "N", 3], "state": [1, "N", 4]}, ["y", "first", "second"])
    with pytest.raises(ContractError, match=r"candidates: first, second; name them: --state state=first"):
        lift(model.SerializeToString())


def test_an_artifact_is_not_lifted_twice(network):
    model = lift(stateful(network, ("h", "c"), ("hn", "cn")).SerializeToString()).model
    with pytest.raises(InputError, match="manifest already"):
        lift(model)
