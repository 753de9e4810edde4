"""Recurrences written out in plain operators, as tf2onnx writes Keras layers: a Loop
with its states."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from loop_networks import NETWORKS
from onnx import TensorProto

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.lift import LiftConfig, lift
from lstm_edge_runtime import load

INT = TensorProto.INT64
BOOL = TensorProto.BOOL


def simple_cell(body, x, h, hidden=4, width=3):
    """``tanh(x @ W + h @ U)``."""
    left, right = (
        body.add("MatMul", [value, body.weight(rows, hidden)])
        for value, rows in ((x, width), (h, hidden))
    )
    return body.add("Tanh", [body.add("Add", [left, right])])


def looped(network, *, steps=None, masked=False, rows=None, twice=False):
    """A SimpleRNN over ``x (L, N, 3)``; with ``steps``, its length is written into the
    graph."""
    body = network(seed=1)
    for name in ("one", "end"):
        body.const(np.array(steps if name == "end" and steps else 1), name)
    xt = body.add("Gather", ["x", "i"], ["xt"], axis=0)
    h = simple_cell(body, xt, "h")
    if masked:
        bit = body.add("Gather", ["mask", "i"], axis=0)
        h = body.add("Where", [bit, h, "h"])
        last = body.add("Where", [bit, h, "last"])
    body.add("Identity", [h], ["h_out"])
    body.add("Identity", [last if masked else h], ["step"])
    body.add("Add", ["i", "one"], ["i_out"])
    if steps:
        body.add("Less", ["i_out", "end"], ["go_out"])
    else:
        body.add("Identity", ["go"], ["go_out"])
    state = {"h": [rows, 4]} | ({"last": [rows, 4]} if masked else {})
    if masked:
        body.add("Identity", [last], ["last_out"])
    leaving = ["go_out", "i_out", "h_out", *(["last_out"] if masked else []), "step"]
    graph = body.graph(
        {"n": (INT, []), "go": (BOOL, []), "i": (INT, []), **state}, leaving
    )
    graph.output[0].type.tensor_type.elem_type = BOOL
    graph.output[1].type.tensor_type.elem_type = INT
    net = network()
    net.taken = 100  # names of its own
    trips = (
        net.const(np.array(steps))
        if steps
        else net.squeeze(net.slice(net.add("Shape", ["x"]), 0, 1, 0), 0)
    )
    zeros = (
        net.const(np.zeros((rows, 4), np.float32)) if rows else net.zeros("x", 1, -4)
    )
    if not rows:
        zeros = net.add("Identity", [zeros])
    count = ["count", "last_h", *(["last_last"] if masked else []), "y"]
    starts = [zeros, zeros] if masked else [zeros]
    net.add(
        "Loop",
        [trips, net.const(np.array(True)), net.const(np.array(0)), *starts],
        count,
        name="model/rnn_1/while_loop",
        body=graph,
    )
    axes = [steps or "L", rows or "N", 3]
    inputs = {"x": axes} | ({"mask": (BOOL, ["L", "N", 1])} if masked else {})
    return net.model(inputs, ["y"])


def chunked(lifted, x, cuts, **others):
    model = load(lifted.model)
    state = None
    parts = []
    for first, last in zip((0, *cuts), (*cuts, len(x)), strict=True):
        got, state = model.run(
            {"x": x[first:last]} | {k: v[first:last] for k, v in others.items()}, state
        )
        parts.append(got["y"])
    return np.concatenate(parts)


@pytest.mark.parametrize("masked", [False, True])
def test_floats_that_a_loop_carries_from_zeros_are_states(network, masked):
    """The output that a masked layer repeats is a state too."""
    model = looped(network, masked=masked).SerializeToString()
    lifted = lift(model)
    names = ("state1", "state2") if masked else ("h",)
    expected = [(f"{name}_0", f"{name}_n", ("N", 4), 0.0) for name in names]
    assert [
        (s.input, s.output, s.axes, s.reset) for s in lifted.report.lifted
    ] == expected
    assert lifted.manifest.unstreamable == ""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 2, 3)).astype(np.float32)
    mask = rng.random((12, 2, 1)) < 0.5
    mask[5] = False  # the first step of a chunk repeats what stands in the one before
    others = {"mask": mask} if masked else {}
    whole = onnxruntime.InferenceSession(model).run(["y"], {"x": x, **others})[0]
    np.testing.assert_allclose(
        chunked(lifted, x, (5, 6), **others), whole, rtol=0, atol=1e-6
    )


def test_a_loop_that_counts_to_a_declared_length_takes_every_length(network):
    content = looped(network, steps=20, rows=1).SerializeToString()
    lifted = lift(content, LiftConfig(inputs={"x": ("L", 1, 3)}))
    assert lifted.manifest.unstreamable == ""
    free = lift(looped(network).SerializeToString())
    x = np.random.default_rng(0).standard_normal((33, 1, 3)).astype(np.float32)
    np.testing.assert_array_equal(chunked(lifted, x, ()), chunked(free, x, ()))


@pytest.mark.system
def test_the_states_of_an_exported_loop_without_states_are_found():
    torch.manual_seed(0)
    network = NETWORKS["Peephole"]
    module = network.kind().eval()
    config = ExportConfig(inputs=network.inputs, stateless=True)
    model = onnx.load_from_string(export(module, network.example(), config).model)
    del model.metadata_props[:]
    lifted = lift(model.SerializeToString())
    assert [state.reset for state in lifted.report.lifted] == [0.0, 0.0]
    x = torch.randn(12, 1, 3)
    stream = load(lifted.model).stream()
    steps = np.stack([stream.step(sample) for sample in x[:, 0].numpy()])
    expected = module(x)[:, 0].detach().numpy()
    np.testing.assert_allclose(steps, expected, rtol=0, atol=1e-5)
