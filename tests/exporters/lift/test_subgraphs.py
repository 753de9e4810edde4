"""Nodes inside If, Loop and Scan bodies: the state is passed through, or the node is refused by name."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError

INT, BOOL = TensorProto.INT64, TensorProto.BOOL


def stepwise(network, kind, carried=True):
    """One LSTM step a pass over the time axis, as frameworks write it that unroll by a loop."""
    body = network(seed=1)
    body.squeeze("xt", 0, operator="Unsqueeze")
    x1 = body.nodes[-1].output[0]
    _, h, c = body.recurrent(
        "LSTM",
        x1,
        3,
        4,
        h="h" if carried else "",
        c="c" if carried else "",
        outputs=("Y_h", "Y_c"),
        name="cell",
    )
    body.add("Identity", [h], ["h_out"])
    body.add("Identity", [c], ["c_out"])
    body.add("Squeeze", [h, body.const(np.array([0]))], ["step"])
    net = network()
    zeros = net.zeros("x", -1, 1, -4)
    state = {"h": [1, None, 4], "c": [1, None, 4]}
    if kind == "Scan":
        graph = body.graph({**state, "xt": [None, 3]}, ["h_out", "c_out", "step"])
        net.add("Scan", [zeros, zeros, "x"], ["hl", "cl", "y"], name="time", body=graph, num_scan_inputs=1)
    else:
        body.nodes.insert(0, helper.make_node("Gather", ["x", "i"], ["xt"], axis=0))
        body.add("Identity", ["go"], ["go_out"])
        graph = body.graph({"i": (INT, []), "go": (BOOL, []), **state}, ["go_out", "h_out", "c_out", "step"])
        graph.output[0].type.tensor_type.elem_type = BOOL
        trips = net.squeeze(net.slice(net.add("Shape", ["x"]), 0, 1, 0), 0)
        net.add(
            "Loop",
            [trips, net.const(np.array(True)), zeros, zeros],
            ["hl", "cl", "y"],
            name="time",
            body=graph,
        )
    return net.model({"x": ["L", "N", 3]}, ["y"])


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_a_state_carried_by_a_loop_is_lifted_at_the_loop(network, kind):
    lifted = lift(stepwise(network, kind).SerializeToString())
    assert [(s.input, s.output, s.axes) for s in lifted.report.lifted] == [
        ("h_0", "h_n", (1, "N", 4)),
        ("c_0", "c_n", (1, "N", 4)),
    ]
    assert lifted.report.unstreamable == ""
    stream = load(lifted.model).stream()
    stream.process(np.zeros((3, 3), np.float32))
    assert np.any(stream.state["h_0"] != 0)


@pytest.mark.parametrize("kind", ["Loop", "Scan"])
def test_a_node_that_starts_anew_in_every_pass_is_refused_by_name(network, kind):
    with pytest.raises(ContractError, match=rf"LSTM 'cell': it starts over in every pass of {kind} 'time'"):
        lift(stepwise(network, kind, carried=False).SerializeToString())


def test_a_node_inside_a_function_is_lifted(network):
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",), name="inner")
    net.add("Identity", [y], ["y"])
    model = net.model({"x": ["L", "N", 3]}, ["y"])
    inner = net.nodes[0]
    weights = list(inner.input[1:4])
    function = helper.make_function(
        "local", "layer", ["x", *weights], [y], [inner], [helper.make_opsetid("", 17)]
    )
    model.functions.append(function)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].CopyFrom(helper.make_node("layer", ["x", *weights], [y], domain="local"))
    lifted = lift(model.SerializeToString())
    assert [state.input for state in lifted.report.lifted] == ["h_0"]
    assert ir.from_proto(model).functions
