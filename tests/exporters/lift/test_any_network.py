"""Any stack of recurrent nodes, however its states begin, lifts to a file that streams
exactly."""

import numpy as np
import onnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.versions import OPSET
from lstm_edge_runtime import load

STYLES = ("absent", "constant", "zeros", "expand", "tile", "times_zero", "learned")
EXTRAS = {
    "LSTM": [
        {},
        {"clip": 0.7},
        {"input_forget": 1},
        {"peepholes": True},
        {"activations": ["Sigmoid", "Relu", "Tanh"]},
    ],
    "GRU": [
        {},
        {"linear_before_reset": 1},
        {"clip": 0.7},
        {"activations": ["HardSigmoid", "Tanh"]},
    ],
    "RNN": [{}, {"activations": ["Relu"]}],
}


@st.composite
def stacks(draw):
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        operator = draw(st.sampled_from(sorted(EXTRAS)))
        extra = draw(st.sampled_from(EXTRAS[operator]))
        styles = [
            draw(st.sampled_from(STYLES)) for _ in range(2 if operator == "LSTM" else 1)
        ]
        layers.append(
            (operator, draw(st.integers(1, 5)), extra, styles, draw(st.booleans()))
        )
    return (
        draw(st.sampled_from([7, 9, 11, 13, 14, 18, 22])),
        draw(st.booleans()),
        layers,
    )


def initial(net, style, x, hidden):
    if style == "absent":
        return ""
    if style == "constant":
        return net.const(np.zeros((1, 1, hidden), np.float32))
    if style == "learned":
        row = net.const((net.rng.standard_normal((1, 1, hidden))).astype(np.float32))
        if net.opset < 8:  # Expand came with opset 8
            return net.add("Tile", [row, net.sizes(x, -1, 1, -1)])
        return net.add("Expand", [row, net.sizes(x, -1, 1, -hidden)])
    if style == "tile" or (net.opset < 8 and style in ("expand", "zeros")):
        return net.add(
            "Tile",
            [
                net.const(np.full((1, 1, hidden), 0.25, np.float32)),
                net.sizes(x, -1, 1, -1),
            ],
        )
    if style == "times_zero":
        first = net.squeeze(
            (
                net.add(
                    "ReduceSum",
                    [net.slice(x, 0, 1, 0), net.const(np.array([2]))],
                    keepdims=0,
                )
                if net.opset >= 13
                else net.add("ReduceSum", [net.slice(x, 0, 1, 0)], axes=[2], keepdims=0)
            ),
            2,
            operator="Unsqueeze",
        )
        zero = net.add("Mul", [first, net.const(np.zeros((1,), np.float32))])
        return net.add("Concat", [zero] * hidden, axis=2)
    if style == "expand" or net.opset < 9:
        return net.add(
            "Expand",
            [net.const(np.zeros((1,), np.float32)), net.sizes(x, -1, 1, -hidden)],
        )
    return net.zeros(x, -1, 1, -hidden)


def build(network, opset, batch_first, layers, rng_seed=0):
    net = network(opset, rng_seed)
    x = net.add("Transpose", ["x"], perm=[1, 0, 2]) if batch_first else "x"
    width = 3
    for index, (operator, hidden, extra, styles, use_lengths) in enumerate(layers):
        states = [initial(net, style, x, hidden) for style in styles]
        lengths = ""
        if use_lengths:
            steps = net.add("Cast", [net.slice(net.add("Shape", [x]), 0, 1, 0)], to=6)
            rows = net.slice(net.add("Shape", [x]), 1, 2, 0)
            lengths = net.add("Expand" if opset > 7 else "Tile", [steps, rows])
        y, *_ = net.recurrent(
            operator,
            x,
            width,
            hidden,
            lengths=lengths,
            h=states[0],
            c=states[1] if len(states) > 1 else "",
            outputs=("Y",),
            name=f"layer{index}",
            **extra,
        )
        x = net.squeeze(y, 1)
        width = hidden
    out = (
        net.add("Transpose", [x], ["y"], perm=[1, 0, 2])
        if batch_first
        else net.add("Identity", [x], ["y"])
    )
    axes = ["batch", "time", 3] if batch_first else ["time", "batch", 3]
    return net.model({"x": axes}, [out])


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(stacks())
def test_a_stack_is_equal_at_reset_and_in_chunks(network, stack):
    model = build(network, *stack)
    lifted = lift(model.SerializeToString())
    onnx.checker.check_model(onnx.load_from_string(lifted.model), full_check=True)
    count = sum(len(styles) for *_, styles, _ in stack[2])
    assert ["batch" in state.axes for state in lifted.report.lifted] == [True] * count
    assert lifted.manifest.unstreamable == ""
    assert lifted.manifest.provenance["opset"] == max(stack[0], OPSET)
    load(lifted.model).selftest().require()
