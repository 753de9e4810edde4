"""Batch and time are found where no name tells them, and sizes that the graph holds are
asked for."""

import numpy as np
import onnxruntime
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.lift.running import name_axis
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError


def behind_a_reshape(network, axes, batch_first=True):
    net = network()
    x = net.add("Reshape", ["x", net.const(np.array([0, 0, 6]))])
    x = net.add("Transpose", [x], perm=[1, 0, 2]) if batch_first else x
    net.squeeze(net.recurrent("GRU", x, 6, 4, outputs=("Y",))[0], 1)
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": [*axes, 2, 3]}, ["y"]).SerializeToString()


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_files_own_names_are_told_apart_by_running_it(network, batch_first):
    lifted = lift(behind_a_reshape(network, ["one", "two"], batch_first))
    names = ("one", "two") if batch_first else ("two", "one")
    assert (lifted.manifest.batch, lifted.manifest.sequence) == names
    assert [s.axes for s in lifted.report.lifted] == [(1, names[0], 4)]


@pytest.mark.parametrize("name", ["N", "frames"])
def test_a_sequence_that_is_the_only_free_axis_is_not_taken_for_a_batch(network, name):
    """Frames become the time axis by an Unsqueeze; the batch is 1."""
    net = network()
    frames = net.add("Reshape", ["x", net.const(np.array([-1, 1, 3]))])
    net.recurrent("GRU", frames, 3, 4, outputs=("Y",))
    net.add("Reshape", [net.nodes[-1].output[0], net.const(np.array([-1, 4]))], ["y"])
    lifted = lift(net.model({"x": [name, 3]}, ["y"]).SerializeToString())
    assert (lifted.manifest.batch, lifted.manifest.sequence) == (None, name)


def two_layers(network, lengths):
    """A layer on each of two inputs."""
    net = network()
    for name in "ab":
        net.recurrent("GRU", name, 3, 4, outputs=("Y_h",), name=name)
    net.add("Concat", [node.output[1] for node in net.nodes], ["y"], axis=2)
    axes = {name: [length, 1, 3] for name, length in zip("ab", lengths, strict=True)}
    return net.model(axes, ["y"]).SerializeToString()


def test_fixed_axes_stay_fixed_until_they_get_names(network):
    content = two_layers(network, (5, 5))
    lifted = lift(content)
    assert [spec.axes for spec in lifted.manifest.inputs] == [(5, 1, 3), (5, 1, 3)]
    assert "a call is a whole window, not a step" in lifted.manifest.unstreamable
    assert "--input a=L,N,3 --input b=L,N,3" in lifted.manifest.unstreamable
    freed = lift(content, LiftConfig(inputs=dict.fromkeys("ab", ("L", "N", 3))))
    assert [spec.axes for spec in freed.manifest.inputs] == [("L", "N", 3)] * 2
    assert freed.manifest.unstreamable == ""
    assert freed.verified.cases[0] == "L=5, N=1"


def test_one_name_is_not_given_to_axes_of_different_sizes(network):
    content = two_layers(network, (5, 7))
    with pytest.raises(InputError, match="axis L has size 5 in one input and 7 in b"):
        lift(content, LiftConfig(inputs=dict.fromkeys("ab", ("L", "N", 3))))


def across_and_along(network):
    """A bidirectional layer over 6 frequencies, then one over time."""
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
    features = net.add("Reshape", [bands, net.sizes("x", 0, 1, -48)])
    rows = net.add("Transpose", [features], perm=[1, 0, 2])
    w, *_ = net.recurrent("GRU", rows, 48, 5, name="along", outputs=("Y",))
    net.add("Transpose", [net.squeeze(w, 1)], ["y"], perm=[1, 0, 2])
    return net.model({"x": ["N", "T", 6, 3]}, ["y"]).SerializeToString()


def test_a_layer_that_runs_backwards_over_frequencies_is_no_reason_to_refuse(network):
    model = across_and_along(network)
    lifted = lift(model)
    assert [(s.input, s.axes) for s in lifted.report.lifted] == [("h_0", (1, "N", 5))]
    assert lifted.manifest.unstreamable == ""
    x = np.random.default_rng(0).standard_normal((2, 12, 6, 3)).astype(np.float32)
    whole = onnxruntime.InferenceSession(model).run(["y"], {"x": x})[0]
    stream = load(lifted.model).stream()
    parts = [stream.process(part) for part in np.split(x[0], [5, 6])]
    np.testing.assert_allclose(np.concatenate(parts), whole[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("lengths", "name"), [([2, 5], "N"), ([4, 10], "2*N"), ([4, 9], None), ([6, 6], 6)]
)
def test_an_axis_is_named_by_its_length_at_every_size(lengths, name):
    assert name_axis(lengths, [{"N": 2}, {"N": 5}]) == name


def conv_and_layer(network, axes):
    """A convolution over the frames so far, then a GRU."""
    net = network()
    channels = net.add("Transpose", ["x"], perm=[0, 2, 1])
    frames = net.add("Conv", [channels, net.weight(4, 3, 3)], pads=[2, 0])
    steps = net.add("Transpose", [frames], perm=[2, 0, 1])
    y = net.squeeze(net.recurrent("GRU", steps, 4, 4, outputs=("Y",))[0], 1)
    net.add("Transpose", [y], ["y"], perm=[1, 0, 2])
    return net.model({"x": [*axes, 3]}, ["y"]).SerializeToString()


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        (("batch", "seq_len"), ("batch", "seq_len")),
        (
            ("DynamicDimension.0", "DynamicDimension.1"),
            ("DynamicDimension_0", "DynamicDimension_1"),
        ),
        (("batch-size", "seq-len"), ("batch_size", "seq_len")),
        (("N", "sequence length"), ("N", "sequence_length")),
        (("1", "time.0"), ("axis_1", "time_0")),
        (("?", "?"), ("N", "L")),
        (("a.b", "a-b"), ("a_b_", "a_b")),
    ],
)
def test_the_result_does_not_depend_on_how_axes_are_called(network, axes, names):
    lifted = lift(conv_and_layer(network, axes))
    manifest = lifted.manifest
    assert (manifest.batch, manifest.sequence) == names
    assert [state.input for state in manifest.states] == ["h_0", "past_0"]
    assert manifest.unstreamable == ""
    model = load(lifted.model)
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    whole = model.run(x[None])[0]["y"][0]
    stream = model.stream()
    steps = np.concatenate([stream.process(x[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(steps, whole, rtol=0, atol=1e-6)


def test_an_output_of_whole_strides_alone_has_a_length_of_its_own(network):
    """2*(L//2) frames are L at even lengths only."""
    net = network()
    x = net.add("Transpose", ["x"], perm=[1, 2, 0])
    x = net.add("Conv", [x, net.weight(4, 3, 2)], strides=[2])
    y = net.recurrent("GRU", net.add("Transpose", [x], perm=[2, 0, 1]), 4, 6)[0]
    y = net.add("Transpose", [net.squeeze(y, 1)], perm=[1, 2, 0])
    y = net.add("ConvTranspose", [y, net.weight(6, 2, 2)], strides=[2])
    net.add("Transpose", [y], ["y"], perm=[2, 0, 1])
    content = net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString()
    lifted = lift(content)
    assert lifted.manifest.outputs[0].axes == ("y.0", "N", 2)
    assert load(lifted.model).selftest().ok
    stream = lift(content, LiftConfig(stream=True)).manifest
    assert (stream.unit, stream.outputs[0].axes) == (2, ("L", "N", 2))
