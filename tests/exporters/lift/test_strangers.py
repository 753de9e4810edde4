"""Small files of the kinds that other people's converters and packages give."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, FileFormatError


def concatenated(network, first, second):
    """An LSTM over two inputs side by side, batch first."""
    net = network()
    x = net.add("Transpose", [net.add("Concat", ["a", "b"], axis=2)], perm=[1, 0, 2])
    y, *_ = net.recurrent("LSTM", x, 8, 4, outputs=("Y",))
    net.add("Transpose", [net.squeeze(y, 1)], ["y"], perm=[1, 0, 2])
    return net.model({"a": [*first, 5], "b": [*second, 3]}, ["y"]).SerializeToString()


@pytest.mark.parametrize(
    ("first", "second"),
    [(["unk__1", "unk__2"], ["unk__3", "unk__4"]), (["rows", "L"], ["others", "L"])],
)
def test_first_axes_that_are_named_apart_are_one_batch(network, first, second):
    lifted = lift(concatenated(network, first, second))
    batches = {spec.axes[0] for spec in lifted.manifest.inputs}
    assert batches == {lifted.manifest.batch}
    assert lifted.report.unstreamable == ""


def across_and_along(network, frames):
    """A bidirectional layer over 6 frequencies, then one over time; ``frames`` None is a dynamic length."""
    net = network()
    rows = net.add("Reshape", ["x", net.const(np.array([-1, 6, 3]))])
    y, *_ = net.recurrent(
        "GRU",
        net.add("Transpose", [rows], perm=[1, 0, 2]),
        3,
        4,
        direction="bidirectional",
        outputs=("Y",),
        name="across",
    )
    bands = net.add("Transpose", [y], perm=[2, 0, 1, 3])
    features = net.add(
        "Reshape", [bands, net.sizes("x", 0, 1, -48) if frames is None else net.const([1, 1, 48])]
    )
    states = {} if frames is None else {"h": "cache"}
    w, h = net.recurrent(
        "GRU",
        net.add("Transpose", [features], perm=[1, 0, 2]),
        48,
        5,
        name="along",
        outputs=("Y", "Y_h"),
        **states,
    )[:2]
    net.add("Transpose", [net.squeeze(w, 1)], ["y"], perm=[1, 0, 2])
    if frames is None:
        return net.model({"x": ["N", "T", 6, 3]}, ["y"]).SerializeToString()
    net.add("Identity", [h], ["cache_out"])
    inputs = {"x": [1, frames, 6, 3], "cache": [1, 1, 5]}
    return net.model(inputs, ["y", "cache_out"]).SerializeToString()


def test_a_layer_that_runs_backwards_over_frequencies_is_no_reason_to_refuse(network):
    model = across_and_along(network, None)
    lifted = lift(model)
    assert [(s.input, s.axes) for s in lifted.report.lifted] == [("h_0", (1, "N", 5))]
    assert (lifted.report.unstreamable, lifted.report.left) == ("", ())
    x = np.random.default_rng(0).standard_normal((2, 12, 6, 3)).astype(np.float32)
    whole = onnxruntime.InferenceSession(model).run(["y"], {"x": x})[0]
    state, parts = None, []
    for first, last in ((0, 5), (5, 6), (6, 12)):
        got, state = load(lifted.model).run({"x": x[:, first:last]}, state)
        parts.append(got["y"])
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=1e-6)


def test_one_frame_a_call_with_a_layer_backwards_over_frequencies_streams(network):
    lifted = lift(across_and_along(network, 1))
    assert [s.input for s in lifted.report.recognized] == ["cache"]
    assert lifted.report.unstreamable == ""


def test_skip_reverse_is_advised_only_where_it_helps(network):
    net = network()
    y, *_ = net.recurrent("LSTM", "x", 3, 4, direction="bidirectional", outputs=("Y",), name="both")
    net.add("Identity", [y], ["y"])
    with pytest.raises(
        ContractError, match=r"LSTM 'both' reads time backwards.*reads forward only"
    ) as refused:
        lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString())
    assert "skip-reverse" not in str(refused.value)


def test_a_transposition_that_was_written_as_a_reshape_serves_every_length(network):
    """tf2onnx at batch 1: both transpositions are a Reshape to constants."""
    net = network()
    x = net.add("Reshape", ["x", net.const(np.array([20, 1, 3]))])
    y, *_ = net.recurrent("GRU", x, 3, 4, outputs=("Y",))
    net.add("Reshape", [net.squeeze(y, 1), net.const(np.array([1, 20, 4]))], ["y"])
    lifted = lift(net.model({"x": [1, 20, 3]}, ["y"]).SerializeToString())
    assert "sequence" in lifted.report.made_dynamic
    assert lifted.report.unstreamable == ""


def test_caches_that_are_recognized_are_not_said_to_be_left_alone(network):
    """The state reaches its node through a product, which names no input."""
    net = network()
    started = net.add("Mul", ["state0", net.const(np.float32([1.0]))])
    y, h = net.recurrent("GRU", "x", 3, 4, h=started, outputs=("Y", "Y_h"))[:2]
    net.add("Identity", [y], ["y"])
    net.add("Add", [h, net.const(np.float32([0.0]))], ["new_state0"])
    lifted = lift(
        net.model({"x": ["L", "N", 3], "state0": [1, "N", 4]}, ["y", "new_state0"]).SerializeToString()
    )
    assert [s.input for s in lifted.report.recognized] == ["state0"]
    assert lifted.report.left == ()


def test_float64_is_said_to_be_what_does_not_run(network):
    net = network()
    net.weight = lambda *shape: net.const(net.rng.standard_normal(shape))
    y, *_ = net.recurrent("LSTM", "x", 3, 4, outputs=("Y",))
    net.add("Identity", [y], ["y"])
    model = net.model({"x": (TensorProto.DOUBLE, ["L", "N", 3])}, ["y"])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    with pytest.raises(
        FileFormatError, match=r"does not support double.*in float32: export the network in that"
    ):
        lift(model.SerializeToString())


def test_a_sum_over_time_is_named_and_not_the_reshape_before_it(network):
    net = network()
    y, *_ = net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    rows = net.add("Transpose", [net.squeeze(y, 1)], perm=[1, 2, 0])
    flat = net.add("Reshape", [rows, net.const(np.array([0, -1]))], name="flat")
    net.add("ReduceSum", [flat, net.const(np.array([1]))], ["y"], name="total", keepdims=0)
    reason = lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString()).report.unstreamable
    assert reason


def test_a_decoder_whose_state_is_carried_is_not_said_to_lose_it(network):
    """It takes four steps a call, however many the sequence has."""
    net = network()
    _, h = net.recurrent("GRU", "x", 3, 4, outputs=("Y_h",), name="encoder")[:2]
    steps = net.add("Expand", [h, net.const(np.array([4, 1, 1]))])
    y, last = net.recurrent("GRU", steps, 4, 4, h="hidden", outputs=("Y", "Y_h"), name="decoder")[:2]
    net.add("Identity", [last], ["hidden_n"])
    net.add("Identity", [net.squeeze(y, 1)], ["y"])
    model = net.model({"x": ["L", "N", 3], "hidden": [1, "N", 4]}, ["y", "hidden_n"])
    reason = lift(model.SerializeToString()).report.unstreamable
    assert reason.startswith("a layer that takes other steps than the sequence's, GRU 'decoder'")
