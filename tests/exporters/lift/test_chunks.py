"""Where chunks do not equal the whole, the report says which node is to blame and by how much."""

import numpy as np
import onnxruntime
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, ContractError


def run(content, x):
    """The outputs of a file without a manifest, by name."""
    session = onnxruntime.InferenceSession(content)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def after(network, operator, **attributes):
    """``operator`` over time, then a GRU."""
    net = network()
    channels = net.add("Transpose", ["x"], perm=[0, 2, 1])
    weights = [net.weight(3, 3, 3)] if operator == "Conv" else []
    seen = net.add(operator, [channels, *weights], name="wide", **attributes)
    net.recurrent("GRU", net.add("Transpose", [seen], perm=[2, 0, 1]), 3, 4, outputs=("Y",), name="gru")
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["N", "L", 3]}, ["y"])


@pytest.mark.parametrize(
    ("operator", "attributes", "kind"),
    [
        (
            "AveragePool",
            {"kernel_shape": [3], "pads": [1, 1]},
            "AveragePool 'wide' does not count its padding",
        ),
        ("Softmax", {"axis": 2}, "Softmax 'wide' reads all time"),
    ],
)
def test_an_operator_that_sees_past_its_chunk_is_named(network, operator, attributes, kind):
    lifted = lift(after(network, operator, **attributes).SerializeToString())
    assert kind in lifted.report.unstreamable
    assert lifted.report.chunks.worst.max_abs > 1e-3
    assert not lifted.report.past
    assert lifted.manifest.unstreamable == lifted.report.unstreamable
    with pytest.raises(ContractError, match="wide"):
        load(lifted.model).stream()


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Conv", {"pads": [1, 1]}), ("MaxPool", {"kernel_shape": [3], "pads": [1, 1]})],
)
def test_an_operator_that_looks_ahead_streams_a_step_behind(network, operator, attributes):
    content = after(network, operator, **attributes).SerializeToString()
    assert lift(content).report.unstreamable.startswith("looks 1 step ahead: --stream writes a file")
    lifted = lift(content, LiftConfig(stream=True))
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    assert not lifted.report.unstreamable
    assert lifted.report.past[0].axes == ("N", 3, 2)
    whole, stream = run(content, x[None])["y"][:, 0, 0], load(lifted.model).stream()
    first, *others = [stream.step(each) for each in x]
    assert first is None
    np.testing.assert_allclose([each.ravel() for each in others], whole[:-1], atol=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_a_last_step_that_looks_back_is_never_taken_for_one_that_does_not(network, seed):
    net = network()
    y = net.squeeze(net.recurrent("GRU", "x", 3, 4, outputs=("Y",))[0], 1)
    channels = net.add("Transpose", [y], perm=[1, 2, 0])
    seen = net.add("Conv", [channels, net.weight(4, 4, 2)], name="wide", pads=[1, 0])
    net.add("Gather", [seen, net.const(np.array(-1))], ["y"], axis=2)
    lifted = lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString(), LiftConfig(seed=seed))
    assert [state.axes for state in lifted.report.past] == [("N", 4, 1)]
    assert not lifted.report.unstreamable


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Conv", {"pads": [2, 0]}),
        ("Conv", {"pads": [4, 0], "dilations": [2]}),
        ("MaxPool", {"kernel_shape": [3], "pads": [2, 0]}),
        ("AveragePool", {"kernel_shape": [3], "pads": [2, 0], "count_include_pad": 1}),
    ],
)
def test_an_operator_that_looks_back_alone_keeps_its_past(network, operator, attributes):
    content = after(network, operator, **attributes).SerializeToString()
    lifted, x = lift(content), np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    assert not lifted.report.unstreamable
    (past,) = lifted.report.past
    assert past.axes == ("N", 3, 2 * attributes.get("dilations", [1])[0])
    whole = run(content, x[None])["y"][:, 0, 0]
    stream = load(lifted.model).stream()
    np.testing.assert_allclose([stream.step(each).ravel() for each in x], whole, atol=1e-6)


def test_convolutions_alone_are_enough_of_a_state(network):
    net = network()
    net.add("Conv", ["x", net.weight(3, 3, 3)], ["y"], pads=[2, 0])
    lifted = lift(
        net.model({"x": ["N", 3, "L"]}, ["y"]).SerializeToString(), LiftConfig(inputs={"x": ("N", 3, "L")})
    )
    assert [state.input for state in lifted.manifest.states] == ["past_0"]
    assert not lifted.manifest.unstreamable


def test_an_operator_of_one_step_is_not_blamed(network):
    lifted = lift(after(network, "Softmax", axis=1).SerializeToString())
    assert lifted.report.unstreamable == ""
    assert lifted.report.chunks.worst.ok


def test_a_chunk_too_short_for_a_convolution_waits_for_the_next(network):
    content = after(network, "Conv", pads=[0, 0], strides=[2]).SerializeToString()
    model = load(lift(content, LiftConfig(stream=True)).model)
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    stream = model.stream()
    assert stream.process(x[:1]).shape[0] == 0
    got = np.concatenate([stream.process(x[at:end]) for at, end in ((1, 2), (2, 8), (8, 9))])
    whole = run(content, x[None])["y"]
    np.testing.assert_allclose(got, whole[: len(got), :, 0], atol=1e-6)
    assert len(got) >= 3


def test_a_first_step_that_leaves_a_gru_none_is_no_call_of_it(network):
    """onnxruntime ends the process at an empty sequence (GRU) or batch (GRU, LSTM)."""
    net = network()
    pairs = net.add("Sub", [net.slice("x", 1, 2**40, 0), net.slice("x", 0, -1, 0)])
    net.recurrent("GRU", pairs, 3, 4, outputs=("Y",), name="gru")
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    content = net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString()
    assert "L=1, N=1" not in lift(content).report.sizes
    stream = load(lift(content, LiftConfig(stream=True)).model).stream()
    assert stream.step(np.ones(3)) is None
    assert stream.step(np.ones(3)).shape == (1, 4)


@pytest.mark.parametrize("operator", ["LSTM", "GRU"])
def test_a_declared_batch_of_nothing_becomes_dynamic(network, operator):
    net = network()
    net.recurrent(operator, "x", 3, 4, outputs=("Y",))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    lifted = lift(net.model({"x": [5, 0, 3]}, ["y"]).SerializeToString())
    assert lifted.manifest.inputs[0].axes == ("L", "N", 3)


def test_a_mean_over_all_steps_after_the_layer_is_named(network):
    net = network()
    net.recurrent("GRU", "x", 3, 4, outputs=("Y",))
    y = net.squeeze(net.nodes[-1].output[0], 1)
    net.add("ReduceMean", [y], ["y"], name="mean", axes=[0], keepdims=0)
    lifted = lift(net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString())
    assert lifted.report.unstreamable == "ReduceMean 'mean' reads all time"


def two_layers(network):
    """PyTorch's two layers, whose states are the rows of one tensor; gives the last layer's sequence."""
    net = network()
    y, root = "x", net.zeros("x", -2, 1, -4)
    for layer in range(2):
        row = net.slice(root, layer, layer + 1, 0)
        y = net.squeeze(net.recurrent("GRU", y, 4, 4, h=row, outputs=("Y",))[0], 1)
    return net, y


def test_the_rows_of_a_carried_state_are_not_blamed(network):
    net, y = two_layers(network)
    net.add("ReduceMax", [y], ["y"], name="max", axes=[0], keepdims=0)
    lifted = lift(net.model({"x": ["L", "N", 4]}, ["y"]).SerializeToString())
    assert [s.axes for s in lifted.report.lifted] == [(2, "N", 4)]
    assert lifted.report.unstreamable == "ReduceMax 'max' reads all time"


def test_an_output_of_another_length_has_no_difference_of_infinity(network):
    net, y = two_layers(network)
    numbers = ([0, 0], [2**40, 2**40], [0, 2], [2, 1])
    net.add("Slice", [y, *(net.const(np.array(each)) for each in numbers)], ["y"], name="half")
    lifted = lift(net.model({"x": ["L", "N", 4]}, ["y"]).SerializeToString())
    assert lifted.report.unstreamable == ("Slice 'half' cuts time and another axis at once")


def bidirectional_then_forward(network):
    net = network()
    net.recurrent("LSTM", "x", 3, 4, outputs=("Y",), name="both", direction="bidirectional")
    y = net.add("Transpose", [net.nodes[-1].output[0]], perm=[0, 2, 1, 3])
    wide = net.add("Reshape", [y, net.const(np.array([0, 0, -1]))])
    net.recurrent("GRU", wide, 8, 4, outputs=("Y",), name="top")
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString()


def test_a_bidirectional_layer_is_refused_by_name_or_skipped(network):
    model = bidirectional_then_forward(network)
    with pytest.raises(ContractError, match=r"LSTM 'both' reads time backwards.*--skip-reverse"):
        lift(model)
    lifted = lift(model, LiftConfig(skip_reverse=True))
    assert [state.input for state in lifted.report.lifted] == ["h_0"]
    assert {entry.cause for entry in lifted.report.left} == {"reversed"}
    assert "LSTM 'both'" in lifted.report.unstreamable


def test_tokens_and_lengths_are_drawn_as_the_graph_needs_them(network):
    net = network()
    x = net.add("Transpose", [net.add("Gather", [net.weight(7, 3), "tokens"])], perm=[1, 0, 2])
    lengths = net.add("Cast", ["lengths"], to=6)
    net.recurrent("LSTM", x, 3, 4, lengths=lengths, outputs=("Y", "Y_h"))
    net.add("Identity", [net.nodes[-1].output[1]], ["last"])
    model = net.model({"tokens": (7, ["N", "L"]), "lengths": (7, ["N"])}, ["last"])
    lifted = lift(model.SerializeToString())
    assert lifted.manifest.lengths == "lengths"
    assert lifted.manifest.golden.inputs["tokens"].max() < 7
    assert lifted.report.unstreamable == ""


def test_lengths_of_the_nodes_own_type_serve_the_runtime(network):
    """ONNX's sequence_lens is int32, and so are the inputs of files that hand it on."""
    net = network()
    net.recurrent("LSTM", "x", 3, 4, lengths="steps", outputs=("Y", "Y_h"))
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    lifted = lift(net.model({"x": ["L", "N", 3], "steps": (6, ["N"])}, ["y"]).SerializeToString())
    assert lifted.manifest.lengths == "steps"
    model = load(lifted.model)
    model.selftest().require()
    x = np.ones((6, 2, 3), np.float32)
    outputs, _ = model.run(x, lengths=[6, 2])
    assert outputs["y"][2:, 0, 0].any()
    assert not outputs["y"][2:, 0, 1].any()
    batch, stream = model.streams(2), model.stream()
    ids = [batch.add(), batch.add()]
    np.testing.assert_allclose(batch.step(x[0], ids)[0], stream.step(x[0, 0]), rtol=0, atol=1e-6)
    parts = batch.process(x[1:].swapaxes(0, 1), ids, [5, 2])
    np.testing.assert_allclose(parts[0], stream.process(x[1:, 0]), rtol=0, atol=1e-6)


def test_a_lifted_file_that_computes_something_else_is_not_given(network, monkeypatch):
    """The proof can fail: a wiring that swaps two weights is found out."""
    from lstm_edge_exporters.lift import states

    real = states.wire

    def wrong(graph, group, state, names):
        last = real(graph, group, state, names)
        node = group.node
        node.replace_input_with(2, node.inputs[1])
        return last

    monkeypatch.setattr(states, "wire", wrong)
    net = network()
    net.recurrent("RNN", "x", 4, 4, outputs=("Y",))
    with pytest.raises(CheckFailedError, match="states at reset"):
        lift(net.model({"x": ["L", "N", 4]}, [net.nodes[-1].output[0]]).SerializeToString())
