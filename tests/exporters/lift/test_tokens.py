"""Files that read tokens: random tokens show which network reads backwards."""

import re

import numpy as np
import pytest
from onnx import TensorProto

from lstm_edge_exporters.lift import lift

WORDS = 30
WIDTH = 4
HIDDEN = 5
DTYPES = {
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}


def reader(network, *, backwards, dtype, steps):
    """A Keras layer with ``mask_zero``, as tf2onnx writes it: a Loop that hands its
    state on over padding."""
    net = network()
    body = network(seed=1)
    body.taken = 100  # names of its own
    tokens = net.add("Cast", ["tokens"], to=TensorProto.INT64)
    net.add(
        "Transpose",
        [net.add("Gather", [net.weight(WORDS, WIDTH), tokens])],
        ["x"],
        perm=[1, 0, 2],
    )
    valid = net.add("Not", [net.add("Equal", [tokens, net.const(np.array(0))])])
    net.add(
        "Unsqueeze",
        [net.add("Transpose", [valid], perm=[1, 0]), net.const(np.array([2]))],
        ["mask"],
    )
    read = ["x", "mask"]
    if backwards:
        ends = [net.const(np.array([n])) for n in (-1, np.iinfo(np.int64).min, 0, -1)]
        read = [net.add("Slice", [value, *ends]) for value in read]
    xt, bit = (body.add("Gather", [value, "i"], axis=0) for value in read)
    left = body.weight(WIDTH, HIDDEN)
    right = body.weight(HIDDEN, HIDDEN)
    new = body.add(
        "Tanh",
        [
            body.add(
                "Add",
                [body.add("MatMul", [xt, left]), body.add("MatMul", ["h", right])],
            )
        ],
    )
    body.add("Where", [bit, new, "h"], ["h_out"])
    body.add("Identity", ["h_out"], ["step"])
    body.add("Identity", ["go"], ["go_out"])
    passes = {
        "n": (TensorProto.INT64, []),
        "go": (TensorProto.BOOL, []),
        "h": [None, HIDDEN],
    }
    graph = body.graph(
        {"i": passes["n"], "go": passes["go"], "h": passes["h"]},
        ["go_out", "h_out", "step"],
    )
    graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    trips = net.squeeze(net.slice(net.add("Shape", ["x"]), 0, 1, 0), 0)
    zeros = net.add("Identity", [net.zeros("x", 1, -HIDDEN)])
    net.add(
        "Loop",
        [trips, net.const(np.array(True)), zeros],
        ["last", "y"],
        name="loop",
        body=graph,
    )
    return net.model(
        {"tokens": (DTYPES[dtype], ["N", "L"])}, ["y" if steps else "last"]
    )


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_network_that_reads_forward_is_streamable(network, dtype, steps):
    forward, backwards = (
        lift(
            reader(
                network, backwards=reverse, dtype=dtype, steps=steps
            ).SerializeToString()
        )
        for reverse in (False, True)
    )
    assert forward.manifest.unstreamable == ""
    assert re.search(
        "selects frames|no rule for streaming", backwards.manifest.unstreamable
    )
    assert len(np.unique(forward.manifest.golden.inputs["tokens"])) > 3
