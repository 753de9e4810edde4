"""Files of any opset and form are lifted in the one form that all stages read."""

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.targets.native.convert import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError

STEPS = 11
SIZES = {"x": ["L", "N", 3]}


def expected(model, x):
    session = ort.InferenceSession(model.SerializeToString())
    return session.run(["y"], {"x": x})[0]


def streamed(content, x):
    stream = load(content).stream()
    results = [stream.process(x[first : first + 4, 0]) for first in range(0, STEPS, 4)]
    return np.concatenate([r["y"] if isinstance(r, dict) else r for r in results])


def check(model, *, compiles=True, streams=True):
    """Lift a file, stream it, and compile it into a program that streams the same."""
    x = np.random.default_rng(3).normal(size=(STEPS, 1, 3)).astype(np.float32)
    want = expected(model, x)[:, 0]
    lifted = lift(model.SerializeToString())
    result, _ = load(lifted.model).run(x)
    np.testing.assert_allclose(result["y"][:, 0], want, atol=2e-6)
    if not streams:
        return
    np.testing.assert_allclose(streamed(lifted.model, x), want, atol=2e-6)
    if compiles:
        program = to_native(lifted.model)
        np.testing.assert_allclose(streamed(program, x), want, atol=2e-6)


def squeezed(net, layer="LSTM", **options):
    """Add a layer whose axis of directions is dropped: ``(L, N, 4)``."""
    y, *_ = net.recurrent(layer, "x", 3, 4, outputs=("Y",), **options)
    return net.squeeze(y, 1)


@pytest.mark.parametrize("opset", [7, 9, 11, 12, 13, 17])
@pytest.mark.parametrize("operator", ["Softmax", "Clip", "Unsqueeze"])
def test_an_operator_means_what_the_opset_of_the_file_says(network, opset, operator):
    net = network(opset)
    value = squeezed(net)
    if operator == "Softmax":
        value = net.add("Softmax", [value], axis=2)
    elif operator == "Clip" and opset < 11:
        value = net.add("Clip", [value], min=-0.1, max=0.2)
    elif operator == "Clip":
        limits = [net.const(np.float32(limit)) for limit in (-0.1, 0.2)]
        value = net.add("Clip", [value, *limits])
    elif opset < 13:
        value = net.add("Unsqueeze", [value], axes=[2])
        value = net.add("Squeeze", [value], axes=[2])
    else:
        axes = net.const(np.array([2]))
        value = net.add("Unsqueeze", [value, axes])
        value = net.add("Squeeze", [value, axes])
    net.add("Identity", [value], ["y"])
    check(net.model(SIZES, ["y"]))


def test_softmax_of_old_opsets_is_over_all_axes_from_its_own(network):
    net = network(11)
    pairs = net.add("Reshape", [squeezed(net), net.const(np.array([0, 0, 2, 2]))])
    flat = net.add("Softmax", [pairs], axis=2)
    net.add("Reshape", [flat, net.const(np.array([0, 0, 4]))], ["y"])
    check(net.model(SIZES, ["y"]), streams=False)


def test_the_long_name_of_the_domain_is_read(network):
    net = network()
    net.add("Identity", [squeezed(net)], ["y"])
    model = net.model(SIZES, ["y"])
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    x = np.zeros((STEPS, 1, 3), np.float32)
    assert streamed(lift(model.SerializeToString()).model, x).shape == (STEPS, 4)


@pytest.mark.parametrize(
    ("layer", "names", "more"),
    [
        ("RNN", ["LeakyRelu"], {}),
        ("RNN", ["HardSigmoid"], {"activation_alpha": [0.3]}),
        ("RNN", ["HardSigmoid"], {"activation_beta": [0.4]}),
        ("RNN", ["ThresholdedRelu"], {"activation_alpha": [0.3]}),
        ("LSTM", ["Sigmoid", "Softplus", "Tanh"], {}),
        ("LSTM", ["Sigmoid", "LeakyRelu", "Elu"], {"activation_alpha": [0.2, 0.5]}),
        (
            "LSTM",
            ["HardSigmoid", "Affine", "ScaledTanh"],
            {"activation_alpha": [0.3, 0.7, 1.2], "activation_beta": [0.4, 0.1, 0.6]},
        ),
        ("GRU", ["HardSigmoid", "Softsign"], {"activation_alpha": [0.3]}),
    ],
)
def test_layers_have_any_activations(network, layer, names, more):
    net = network()
    net.add("Identity", [squeezed(net, layer, activations=names, **more)], ["y"])
    check(net.model(SIZES, ["y"]), compiles=False)


def scanned(network, *, axis, leaky=False):
    """Return a Scan over axis 0 or 1 whose body has constants of its own."""
    body = network()
    product = body.add("MatMul", ["h", body.weight(4, 4)])
    total = body.add("Add", [product, "u"])
    operator = {"alpha": 0.01} if leaky else {}
    new = body.add("LeakyRelu" if leaky else "Tanh", [total], **operator)
    body.add("Identity", [new], ["h_new"])
    body.add("Mul", [new, body.const(np.float32(0.8))], ["v"])
    rows = ["N", 4]
    inner = body.graph({"h": rows, "u": rows}, ["h_new", "v"], name="body")
    net = network(seed=1)
    net.taken = body.taken  # names are those of no other graph
    u = net.add("MatMul", ["x", net.weight(3, 4)])
    h = net.zeros(u, 1, -4)
    axes = {}
    if axis:
        u = net.add("Transpose", [u], perm=[1, 0, 2])
        axes = {"scan_input_axes": [axis], "scan_output_axes": [axis - 3]}
    _, v = net.add(
        "Scan", [h, u], outputs=["h_n", "v_all"], body=inner, num_scan_inputs=1, **axes
    )
    if axis:
        v = net.add("Transpose", [v], perm=[1, 0, 2])
    net.add("Identity", [v], ["y"])
    return net.model(SIZES, ["y"])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("leaky", [False, True])
def test_a_scan_has_constants_of_its_own_and_any_axis(network, axis, leaky):
    check(scanned(network, axis=axis, leaky=leaky))


def test_names_reach_no_terminal_unescaped(network, capfd):
    net = network()
    net.add("Identity", [squeezed(net)], ["y"])
    model = net.model(SIZES, ["y"])
    model.graph.node[0].input[1] = "\x1b]0;owned\x07\x1b[31mall checks passed"
    with pytest.raises(LstmEdgeError) as caught:
        lift(model.SerializeToString())
    assert "\x1b" not in "".join((*capfd.readouterr(), str(caught.value)))


def test_a_form_without_a_conversion_is_refused_in_one_line(network):
    net = network(8)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["u"], ["v"], name="copy")],
        "body",
        [helper.make_tensor_value_info("u", TensorProto.FLOAT, [3])],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, [3])],
    )
    net.add("Scan", ["", "x"], outputs=["v_all"], body=inner, num_scan_inputs=1)
    net.add("Identity", ["v_all"], ["y"])
    with pytest.raises(LstmEdgeError) as caught:
        lift(net.model(SIZES, ["y"]).SerializeToString())
    assert "\n" not in str(caught.value)
