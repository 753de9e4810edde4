"""If chunks differ from the full sequence, the report names the node and the
difference."""

import numpy as np
import onnx
import onnxruntime
import pytest

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError


def after(network, operator, **attributes):
    """``operator`` over time, then a GRU."""
    net = network()
    channels = net.add("Transpose", ["x"], perm=[0, 2, 1])
    weights = [net.weight(3, 3, 3)] if operator == "Conv" else []
    seen = net.add(operator, [channels, *weights], name="wide", **attributes)
    net.recurrent(
        "GRU",
        net.add("Transpose", [seen], perm=[2, 0, 1]),
        3,
        4,
        outputs=("Y",),
        name="gru",
    )
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    return net.model({"x": ["N", "L", 3]}, ["y"])


@pytest.mark.parametrize(
    ("operator", "attributes", "kind"),
    [
        (
            "AveragePool",
            {"kernel_shape": [3], "pads": [1, 1]},
            "AveragePool 'wide' does not count its pad",
        ),
        ("Softmax", {"axis": 2}, "Softmax 'wide' reads all time"),
    ],
)
def test_an_operator_that_sees_past_its_chunk_is_named(
    network, operator, attributes, kind
):
    lifted = lift(after(network, operator, **attributes).SerializeToString())
    assert kind in lifted.manifest.unstreamable
    assert not lifted.report.past
    with pytest.raises(ContractError, match="wide"):
        load(lifted.model).stream()


@pytest.mark.parametrize(
    ("operator", "attributes", "ahead"),
    [
        ("Conv", {"pads": [1, 1]}, 1),
        ("MaxPool", {"kernel_shape": [3], "pads": [1, 1]}, 1),
        ("Conv", {"pads": [2, 0]}, 0),
        ("Conv", {"pads": [4, 0], "dilations": [2]}, 0),
        ("MaxPool", {"kernel_shape": [3], "pads": [2, 0]}, 0),
        (
            "AveragePool",
            {"kernel_shape": [3], "pads": [2, 0], "count_include_pad": 1},
            0,
        ),
    ],
)
def test_an_operator_along_time_keeps_its_past_and_streams_behind_by_what_it_looks_ahead(
    network, operator, attributes, ahead
):
    content = after(network, operator, **attributes).SerializeToString()
    need = lift(content).manifest.unstreamable
    assert (
        need.startswith("looks 1 step ahead: --stream writes a file")
        == bool(need)
        == bool(ahead)
    )
    lifted = lift(content, LiftConfig(stream=bool(ahead)))
    assert not lifted.manifest.unstreamable
    onnx.checker.check_model(onnx.load_from_string(lifted.model), full_check=True)
    assert lifted.report.past[0].axes == (
        "N",
        3,
        2 * attributes.get("dilations", [1])[0],
    )
    x = np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    whole = onnxruntime.InferenceSession(content).run(["y"], {"x": x[None]})[0][:, 0, 0]
    stream = load(lifted.model).stream()
    outputs = [stream.step(sample) for sample in x]
    assert [output is None for output in outputs] == [
        index < ahead for index in range(9)
    ]
    np.testing.assert_allclose(
        [output.ravel() for output in outputs[ahead:]], whole[: 9 - ahead], atol=1e-6
    )


def test_a_first_step_that_leaves_a_gru_none_is_no_call_of_it(network):
    """onnxruntime ends the process at an empty sequence (GRU) or batch (GRU, LSTM)."""
    net = network()
    pairs = net.add("Sub", [net.slice("x", 1, 2**40, 0), net.slice("x", 0, -1, 0)])
    net.recurrent("GRU", pairs, 3, 4, outputs=("Y",), name="gru")
    net.add("Identity", [net.nodes[-1].output[0]], ["y"])
    content = net.model({"x": ["L", "N", 3]}, ["y"]).SerializeToString()
    stream = load(lift(content, LiftConfig(stream=True)).model).stream()
    assert stream.step(np.ones(3)) is None
    assert stream.step(np.ones(3)).shape == (1, 4)
