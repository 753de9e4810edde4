"""Files of several rates: an If chosen by an input, nested Ifs, and Ifs decided by
sizes."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto

from lstm_edge_exporters.graph import is_data_free, values_read
from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError

INT = TensorProto.INT64


def rate(network, seed, width, name):
    """One rate's network: frames of ``width`` samples, a layer, and an If by the count
    of its frames.

    The If gives the last frame where there is one frame only, as voice activity
    detectors do.
    """
    net = network(seed=seed)
    frames = net.add(
        "Reshape", ["input", net.const(np.array([0, -1, width]), f"{name}_sizes")]
    )
    steps = net.add("Transpose", [frames], perm=[1, 0, 2])
    start = net.add("Identity", ["state"])
    y, h = net.recurrent(
        "GRU", steps, width, 4, h=start, outputs=("Y", "Y_h"), name=f"{name}_gru"
    )[:2]
    count = net.add(
        "Gather", [net.add("Shape", [steps]), net.const(np.array([0]))], axis=0
    )
    single = net.add("Equal", [count, net.const(np.array([1]))])
    branches = {}
    for key, operator in (("then_branch", "Squeeze"), ("else_branch", "ReduceMean")):
        inner = network(seed=seed)
        if operator == "Squeeze":
            inner.add(
                "Squeeze", [h, inner.const(np.array([0]), "axes")], ["inner"]
            )  # of one step, y is h
        else:
            inner.add("ReduceMean", [y], ["inner"], axes=[0, 1], keepdims=0)
        branches[key] = inner.graph({}, ["inner"], "inner")
    out = net.add("If", [single], **branches)
    net.add("Identity", [out], ["out"])
    net.add("Identity", [h], ["last"])
    return net.graph({}, ["out", "last"], name)


def two_rates(network):
    net = network()
    fast = net.add("Equal", ["sr", net.const(np.array(16000))])
    branches = {
        "then_branch": rate(network, 1, 8, "fast"),
        "else_branch": rate(network, 2, 4, "slow"),
    }
    net.add("If", [fast], ["output", "stateN"], **branches)
    inputs = {"input": [None, None], "state": [1, None, 4], "sr": (INT, [])}
    return net.model(inputs, ["output", "stateN"]).SerializeToString()


def test_what_a_branch_reads_from_outside_is_data_of_its_if():
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[N] x) => (float[N] y) <bool go = {1}> {
        y = If (go) <then_branch = a () => (float[N] p) { p = Identity(x) },
                     else_branch = b () => (float[N] q) { q = Neg(x) }> }"""
    assert not is_data_free(
        ir.from_proto(onnx.parser.parse_model(text)).graph.outputs[0]
    )


@pytest.mark.parametrize(("number", "size"), [(16000, 8), (8000, 4)])
def test_a_constant_gives_the_file_of_one_rate_and_it_stays_equal(
    network, number, size
):
    model = two_rates(network)
    lifted = lift(
        model, LiftConfig(inputs={"input": ("N", size)}, constants={"sr": number})
    )
    assert [spec.name for spec in lifted.manifest.inputs] == ["input"]
    assert [(s.input, s.output, s.axes) for s in lifted.manifest.states] == [
        ("state", "stateN", (1, "N", 4))
    ]
    assert not any(
        node.op_type == "If" for node in onnx.load_from_string(lifted.model).graph.node
    )
    rng = np.random.default_rng(0)
    fed = {
        "input": rng.standard_normal((3, size)).astype(np.float32),
        "state": rng.standard_normal((1, 3, 4)).astype(np.float32),
    }
    expected = onnxruntime.InferenceSession(model).run(
        None, fed | {"sr": np.array(number)}
    )
    got = onnxruntime.InferenceSession(lifted.model).run(["output", "stateN"], fed)
    for array, reference in zip(got, expected, strict=True):
        np.testing.assert_allclose(array, reference, rtol=0, atol=1e-6)
    stream = load(lifted.model).stream()
    stream.step(fed["input"][0])
    assert np.any(stream.state["state"] != 0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_frames_that_a_branch_captures_are_read_by_the_rules(seed):
    """With the branch drawn at random, chunks would show it for some seeds only."""
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,L] x, bool flag) => (float[N,3,L] y) {
        a = Conv <pads = [2, 0]> (x, k)
        y = If (flag) <
            then_branch = t () => (float[N,3,L] p) { p = Neg(a) },
            else_branch = e () => (float[N,3,L] q) { q = Softmax <axis = 2> (a) }>
        }"""
    model = onnx.parser.parse_model(text)
    kernel = np.random.default_rng(0).standard_normal((3, 3, 3)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(kernel, "k"))
    with pytest.raises(ContractError, match="If 'y' reads frames in its branches"):
        lift(model.SerializeToString(), LiftConfig(seed=seed))


def test_a_branch_may_pass_frames_on_that_it_does_not_compute():
    text = """<ir_version: 8, opset_import: ["": 17]>
        g (float[N,3,L] x, bool flag) => (float[N,3,L] y) {
        y = If (flag) <then_branch = t () => (x) { },
                       else_branch = e () => (float[N,3,L] q) { q = Neg(x) }> }"""
    graph = ir.from_proto(onnx.parser.parse_model(text)).graph
    node = next(iter(graph))
    assert set(values_read(node)) >= {graph.inputs[0], graph.inputs[1]}
