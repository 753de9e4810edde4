"""Small files of the kinds that other people's converters and packages give."""

import numpy as np
import onnxruntime
import pytest

from lstm_edge_exporters.lift import lift
from lstm_edge_runtime import load


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
    assert (lifted.report.unstreamable, lifted.report.left) == ("", ())
    x = np.random.default_rng(0).standard_normal((2, 12, 6, 3)).astype(np.float32)
    whole = onnxruntime.InferenceSession(model).run(["y"], {"x": x})[0]
    state, parts = None, []
    for first, last in ((0, 5), (5, 6), (6, 12)):
        got, state = load(lifted.model).run({"x": x[:, first:last]}, state)
        parts.append(got["y"])
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=0, atol=1e-6)
