"""Nodes inside If, Loop and Scan bodies: the state is passed through, or the node is refused by name."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, FileFormatError

INT, BOOL = TensorProto.INT64, TensorProto.BOOL


def branch(network, operator, name, seed, output):
    net = network(seed=seed)
    zeros = net.zeros("x", -1, 1, -4)
    y, *_ = net.recurrent(operator, "x", 3, 4, h=zeros, outputs=("Y",), name=name)
    net.add("Identity", [y], [output])
    return net.graph({}, [output], name)


def gated(network):
    net = network()
    net.add(
        "If",
        ["flag"],
        ["y"],
        name="gate",
        then_branch=branch(network, "LSTM", "inner", 1, "t"),
        else_branch=branch(network, "GRU", "other", 2, "e"),
    )
    return net.model({"x": ["L", "N", 3], "flag": (BOOL, [])}, ["y"])


def test_each_branch_of_an_if_keeps_its_own_state_and_leaves_the_others_alone(network):
    model = gated(network)
    lifted = lift(model.SerializeToString())
    assert {state.input for state in lifted.report.lifted} == {"inner_h_0", "inner_c_0", "other_h_0"}
    session = onnxruntime.InferenceSession(lifted.model)
    original = onnxruntime.InferenceSession(model.SerializeToString())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2, 3)).astype(np.float32)
    start = {s.input: rng.standard_normal((1, 2, 4)).astype(np.float32) for s in lifted.report.lifted}
    for flag in (True, False):
        fed = {"x": x, "flag": np.array(flag)}
        names = [entry.name for entry in session.get_outputs()]
        got = dict(zip(names, session.run(None, {**fed, **start}), strict=True))
        taken = {"inner_h_0", "inner_c_0"} if flag else {"other_h_0"}
        for state in lifted.report.lifted:
            unchanged = np.array_equal(got[state.output], start[state.input])
            assert unchanged == (state.input not in taken)
        whole = original.run(None, fed)[0]
        state, parts = {name: np.zeros_like(array) for name, array in start.items()}, []
        for first, last in ((0, 5), (5, 6), (6, 12)):
            got = dict(zip(names, session.run(None, {**fed, "x": x[first:last], **state}), strict=True))
            parts.append(got["y"])
            state = {s.input: got[s.output] for s in lifted.report.lifted}
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6)


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


def masked(network, straight=True):
    """One step a pass, taken where the flag says so; else the state stays, or another cell moves it."""
    taken = network(seed=1)
    x1 = taken.add("Unsqueeze", ["xt", taken.const(np.array([0]))])
    h = taken.recurrent("GRU", x1, 3, 4, h="h", outputs=("Y_h",), name="cell")[1]
    other = network(seed=2)
    x2 = other.add("Unsqueeze", ["xt", other.const(np.array([0]), "other_axes")], ["other_x"])
    h2 = other.recurrent("RNN", x2, 3, 4, h="h", outputs=("Y_h",), name="other")[1]
    body = network(seed=3)
    if not straight:
        body.add("Mul", ["before", body.const(np.float32(0.5), "half")], ["h"])
    body.add(
        "If",
        ["flag"],
        ["moved"],
        name="gate",
        then_branch=taken.graph({}, [h], "a"),
        else_branch=other.graph({}, [h2], "b"),
    )
    body.add("Identity", ["moved"], ["h_out"])
    body.add("Squeeze", ["moved", body.const(np.array([0]), "axes_out")], ["step"])
    net = network()
    zeros = net.zeros("x", -1, 1, -4)
    names = {"h" if straight else "before": [1, None, 4], "xt": [None, 3]}
    graph = body.graph(names, ["h_out", "step"])
    net.add("Scan", [zeros, "x"], ["hl", "y"], name="time", body=graph, num_scan_inputs=1)
    return net.model({"x": ["L", "N", 3], "flag": (BOOL, [])}, ["y"]).SerializeToString()


def test_a_state_that_a_loop_carries_through_a_branch_is_one_state(network):
    model = masked(network)
    lifted = lift(model)
    assert [(s.input, s.output, s.axes) for s in lifted.report.lifted] == [("h_0", "h_n", (1, "N", 4))]
    original, whole = onnxruntime.InferenceSession(model), load(lifted.model)
    x = np.random.default_rng(0).standard_normal((12, 2, 3)).astype(np.float32)
    for flag in (True, False):
        state, parts = None, []
        for first, last in ((0, 5), (5, 6), (6, 12)):
            got, state = whole.run({"x": x[first:last], "flag": np.array(flag)}, state)
            parts.append(got["y"])
        expected = original.run(None, {"x": x, "flag": np.array(flag)})[0]
        np.testing.assert_allclose(np.concatenate(parts), expected, rtol=0, atol=1e-6)


def test_a_state_that_is_changed_between_passes_is_not_said_to_start_anew(network):
    with pytest.raises(ContractError, match="not handed straight on from pass to pass of Scan 'time'"):
        lift(masked(network, straight=False))


@pytest.mark.parametrize("within", [False, True])
def test_sequences_of_tensors_pass_through(network, within):
    """PyTorch's lists; onnx-ir's shape inference takes an undeclared one for a tensor."""
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    inner = network(seed=1) if within else net
    parts = inner.add("Identity", [inner.add("SplitToSequence", [y], axis=0)])
    joined = inner.add("ConcatFromSequence", [parts], axis=0)
    if within:
        other = network(seed=2)
        same = other.add("Identity", [y], ["same"])
        bodies = {
            "then_branch": inner.graph({}, [joined], "a"),
            "else_branch": other.graph({}, [same], "b"),
        }
        joined = net.add("If", ["flag"], **bodies)
    net.add("Identity", [joined], ["y"])
    inputs = {"x": ["L", "N", 3]} | ({"flag": (BOOL, [])} if within else {})
    lifted = lift(net.model(inputs, ["y"]).SerializeToString())
    assert lifted.report.unstreamable == ""


def test_branches_of_unequal_ranks_are_refused(network):
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    squeezed, whole = network(seed=1), network(seed=2)
    squeezed.add("Squeeze", [y, squeezed.const(np.array([1]))], ["t"])
    whole.add("Identity", [y], ["e"])
    bodies = {"then_branch": squeezed.graph({}, ["t"], "a"), "else_branch": whole.graph({}, ["e"], "b")}
    net.add("If", ["flag"], ["y"], **bodies)
    model = net.model({"x": ["L", "N", 3], "flag": (BOOL, [])}, ["y"]).SerializeToString()
    with pytest.raises(FileFormatError, match="let every branch give the same number of axes"):
        lift(model)


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
