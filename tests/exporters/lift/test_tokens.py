"""Files that read tokens: what is drawn for them tells which network reads backwards."""

import re

import numpy as np
import pytest
from onnx import TensorProto

from lstm_edge_exporters.lift import lift

WORDS, WIDTH, HIDDEN = 30, 4, 5
DTYPES = {"int32": TensorProto.INT32, "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


def embedded(net, tokens, way):
    """Look ``tokens (N, L)`` up, int64, in one of the ways that frameworks write."""
    table = net.weight(WORDS, WIDTH)
    if way == "one-hot":
        codes = net.add(
            "OneHot", [tokens, net.const(np.array(WORDS)), net.const(np.array([0, 1], np.float32))]
        )
        return net.add("MatMul", [codes, table])
    if way == "compared":
        wide = net.add("Unsqueeze", [tokens, net.const(np.array([2]))])
        same = net.add("Equal", [wide, net.const(np.arange(WORDS))])
        return net.add("MatMul", [net.add("Cast", [same], to=TensorProto.FLOAT), table])
    if way == "replaced":  # -1 stands for padding
        missing = net.add("Equal", [tokens, net.const(np.array(-1))])
        tokens = net.add("Where", [missing, net.const(np.array(0)), tokens])
    if way == "masked":
        kept = net.add("Not", [net.add("Equal", [tokens, net.const(np.array(0))])])
        tokens = net.add("Mul", [tokens, net.add("Cast", [kept], to=TensorProto.INT64)])
    return net.add("Gather", [table, tokens])


def reader(network, *, backwards, dtype="int64", way="plain", steps=False):
    """A Keras layer with ``mask_zero``, as tf2onnx writes it: a Loop that hands its state on over padding."""
    net, body = network(), network(seed=1)
    body.taken = 100  # names of its own
    tokens = net.add("Cast", ["tokens"], to=TensorProto.INT64)
    net.add("Transpose", [embedded(net, tokens, way)], ["x"], perm=[1, 0, 2])
    valid = net.add("Not", [net.add("Equal", [tokens, net.const(np.array(0))])])
    net.add("Unsqueeze", [net.add("Transpose", [valid], perm=[1, 0]), net.const(np.array([2]))], ["mask"])
    read = ["x", "mask"]
    if backwards:
        ends = [net.const(np.array([n])) for n in (-1, np.iinfo(np.int64).min, 0, -1)]
        read = [net.add("Slice", [each, *ends]) for each in read]
    xt, bit = (body.add("Gather", [each, "i"], axis=0) for each in read)
    left, right = body.weight(WIDTH, HIDDEN), body.weight(HIDDEN, HIDDEN)
    new = body.add(
        "Tanh", [body.add("Add", [body.add("MatMul", [xt, left]), body.add("MatMul", ["h", right])])]
    )
    body.add("Where", [bit, new, "h"], ["h_out"])
    body.add("Identity", ["h_out"], ["step"])
    body.add("Identity", ["go"], ["go_out"])
    passes = {"n": (TensorProto.INT64, []), "go": (TensorProto.BOOL, []), "h": [None, HIDDEN]}
    graph = body.graph({"i": passes["n"], "go": passes["go"], "h": passes["h"]}, ["go_out", "h_out", "step"])
    graph.output[0].type.tensor_type.elem_type = TensorProto.BOOL
    trips = net.squeeze(net.slice(net.add("Shape", ["x"]), 0, 1, 0), 0)
    zeros = net.add("Identity", [net.zeros("x", 1, -HIDDEN)])
    net.add("Loop", [trips, net.const(np.array(True)), zeros], ["last", "y"], name="loop", body=graph)
    return net.model({"tokens": (DTYPES[dtype], ["N", "L"])}, ["y" if steps else "last"])


@pytest.mark.parametrize("steps", [False, True])
@pytest.mark.parametrize(
    ("dtype", "way"),
    [
        *((dtype, "plain") for dtype in DTYPES),
        *(("int64", way) for way in ("one-hot", "compared", "replaced", "masked")),
    ],
)
def test_only_the_network_that_reads_forward_is_streamable(network, dtype, way, steps):
    forward, backwards = (
        lift(reader(network, backwards=each, dtype=dtype, way=way, steps=steps).SerializeToString())
        for each in (False, True)
    )
    assert forward.report.unstreamable == ""
    assert re.search("selects frames|no rule for streaming", backwards.report.unstreamable)
    assert len(np.unique(forward.manifest.golden.inputs["tokens"])) > 3
