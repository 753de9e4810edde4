"""``rest``: a lifted file starts from the state that it settles into on silence."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_exporters.validate import ValidateConfig, validate
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, UnsupportedError

REST = LiftConfig(rest=True)
DATA = Path(__file__).parents[2] / "runtime" / "data"


def without_manifest(content):
    model = onnx.load_from_string(content)
    del model.metadata_props[:]
    return model.SerializeToString()


def recurrent(network, operator, *, before=None, dtype=TensorProto.FLOAT):
    """A layer with biases over time, behind what ``before`` adds."""
    net = network()
    x = before(net) if before else net.add("Transpose", ["x"], perm=[1, 0, 2])
    y = net.recurrent(operator, x, 3, 4, outputs=("Y",))[0]
    net.add("Identity", [y], ["y"])
    axes = ["N", "L"] if dtype == TensorProto.INT64 else ["N", "L", 3]
    return net.model({"x": (dtype, axes)}, ["y"]).SerializeToString()


@pytest.mark.parametrize("operator", ["LSTM", "GRU", "RNN"])
def test_from_reset_a_stream_gives_what_the_original_gives_after_silence(network, operator):
    content = recurrent(network, operator)
    lifted, x = lift(content, REST), np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32)
    states = (*lifted.report.lifted, *lifted.report.recognized)
    assert states == lifted.manifest.states
    assert all(np.ptp(state.reset) > 0.01 for state in states)
    after = np.concatenate([np.zeros((300, 3), np.float32), x])[None]
    expected = load(content).run(after)[0]["y"][300:].reshape(9, 4)
    with load(lifted.model) as model:
        stream = model.stream()
        for _ in range(2):
            np.testing.assert_allclose(stream.process(x).reshape(9, 4), expected, rtol=0, atol=1e-6)
            stream.reset()
        assert model.selftest().ok
    again = lift(without_manifest(lifted.model), REST)  # its states are inputs and outputs
    assert [state.input for state in again.report.recognized] == [state.input for state in states]
    for one, other in zip(states, again.manifest.states, strict=True):
        np.testing.assert_allclose(one.reset, other.reset, rtol=0, atol=1e-6)


@pytest.mark.system
def test_validate_computes_the_rest_of_a_lifted_file_again(network, tmp_path):
    lift(recurrent(network, "LSTM"), REST).save(tmp_path / "rest.onnx")
    report = validate(tmp_path / "rest.onnx", config=ValidateConfig(quick=True))
    assert report.ok
    names = [check.name for group in report.groups for check in group.checks]
    assert "reset values are the states at rest" in names


def convolution(net):
    channels = net.add("Transpose", ["x"], perm=[0, 2, 1])
    seen = net.add("Conv", [channels, net.weight(3, 3, 3)], pads=[2, 0])
    return net.add("Transpose", [seen], perm=[2, 0, 1])


def softmax(net):
    return net.add("Transpose", [net.add("Softmax", ["x"], axis=1)], perm=[1, 0, 2])


def embedding(net):
    return net.add("Transpose", [net.add("Gather", [net.weight(100, 3), "x"])], perm=[1, 0, 2])


@pytest.mark.parametrize(
    ("before", "dtype", "message"),
    [
        (convolution, TensorProto.FLOAT, "holds past steps"),
        (softmax, TensorProto.FLOAT, "sees more than its chunk"),
        (embedding, TensorProto.INT64, "input x is int64"),
    ],
)
def test_what_has_no_rest_is_refused_in_one_line(network, before, dtype, message):
    with pytest.raises((ContractError, UnsupportedError), match=message) as error:
        lift(recurrent(network, "GRU", before=before, dtype=dtype), REST)
    assert str(error.value).endswith("leave rest out")
    assert "\n" not in str(error.value)


def test_int8_has_no_rest_that_float64_can_follow():
    with pytest.raises(UnsupportedError, match="can't be followed; leave rest out"):
        lift(without_manifest((DATA / "motions-int8.onnx").read_bytes()), REST)
