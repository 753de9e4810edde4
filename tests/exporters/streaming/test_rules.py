"""Each operator alone: a stream of its graph gives the frames of the full sequence, in
float64."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from lstm_edge_exporters.cast import widened
from lstm_edge_exporters.graph import END
from lstm_edge_exporters.lift.running import measure_shapes
from lstm_edge_exporters.streaming.rewrite import NotStreamableError
from lstm_edge_exporters.streaming.stream import stream
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_runtime.chunks import join_chunks, run_chunks
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

LAST = ("N", 4, "L")
MIDDLE = ("N", "L", 4)
FIRST = ("L", "N", 4)
"""Axes of ``x`` by where time is."""


class Constants:
    """Collects constants; each call gives a name."""

    def __init__(self):
        self.tensors = []
        self._rng = np.random.default_rng(0)

    def i(self, *numbers):
        return self._add(np.array(numbers, np.int64))

    def i0(self, number):
        return self._add(np.array(number, np.int64))

    def i2(self, *rows):
        return self._add(np.array(rows, np.int64))

    def f(self, *numbers):
        return self._add(np.array(numbers, np.float32))

    def w(self, *shape):
        return self._add(self._rng.standard_normal(shape).astype(np.float32))

    def _add(self, array):
        self.tensors.append(numpy_helper.from_array(array, f"k{len(self.tensors)}"))
        return self.tensors[-1].name


def ahead(k, x="x"):
    """A convolution that looks a frame ahead."""
    return f"Conv<pads = [1, 1]>({x}, {k.w(4, 4, 3)}, {k.w(4)})"


def layer(k, operator, gates, *states, options=""):
    """A layer of 3 units behind a convolution that looks ahead."""
    given = (
        f"{k.w(1, 3 * gates, 4)}, {k.w(1, 3 * gates, 3)}, {k.w(1, 6 * gates)}, ,"
        f" {', '.join(states)}"
    )
    return (
        f"i = Transpose<perm = [1, 2, 0]>(x) j = {ahead(k, 'i')} k = Transpose<perm ="
        f" [2, 0, 1]>(j)y, {', '.join(f'{state}_n' for state in states)} ="
        f" {operator}<hidden_size = 3{options}>(k, {given})"
    )


SIZE = "s = Shape<start = 0, end = 1>(x) "
FLOOR = 'coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
STREAMS = {
    "stride": (LAST, lambda k: f"y = Conv<pads=[1, 1], strides=[2], dilations=[2]>(x, {k.w(2, 4, 3)})", 2, 1),
    "maximum": (LAST, lambda k: "y = MaxPool<kernel_shape = [3], pads = [2, 0]>(x)", 1, 0),
    "mean": (LAST, lambda k: "y = AveragePool<kernel_shape=[3], pads=[2, 0], count_include_pad=1>(x)", 1, 0),
    "frames in front": (LAST, lambda k: f"y = Pad(x, {k.i(0, 0, 3, 0, 0, 2)}, {k.w()})", 1, 0),
    "padded channels": (LAST, lambda k: f"y = Pad(x, {k.i(2, 1)}, {k.w()}, {k.i(-2)})", 1, 0),
    "padded again": (LAST, lambda k: f"a = {ahead(k)} b = {ahead(k, 'a')} c = Pad(b, {k.i(1, 0)}, , {k.i(2)})"
                    f"d = Add(c, {k.w(1)}) y = Conv<pads = [2, 0]>(d, {k.w(4, 4, 3)})", 1, 1),
    "ones in front": (LAST, lambda k: f"{SIZE}t = Concat<axis = 0>(s, {k.i(4, 3)})"
                     "f = ConstantOfShape<value = float[1] {1.0}>(t) y = Concat<axis = 2>(f, x)", 1, 0),
    "later frames": (LAST, lambda k: f"a = Slice(x, {k.i(2)}, {k.i(END)}, {k.i(2)}) y = Reciprocal(a)", 1, 2),
    "computed start": (LAST, lambda k: f"s = Shape<start = 1, end = 2>(x) t = Sub(s, {k.i(2)})"
                      f"y = Slice(x, t, {k.i(END)}, {k.i(2)})", 1, 2),
    "every other": (LAST, lambda k: f"y = Slice(x, {k.i(1)}, {k.i(END)}, {k.i(2)}, {k.i(2)})", 2, 0),
    "last frames": (LAST, lambda k: f"y = Slice(x, {k.i(-3)}, {k.i(END)}, {k.i(2)})", 1, 2),
    "last frame": (LAST, lambda k: f"y = Gather<axis = 2>(x, {k.i(-1)})", 1, 0),
    "transposed": (LAST, lambda k: f"a = {ahead(k)} y = ConvTranspose"
                  f"<strides = [2], pads = [1, 1], dilations = [2]>(a, {k.w(4, 2, 4)}, {k.w(2)})", 1, 3),
    "gaps": (LAST, lambda k: f"y = ConvTranspose<strides=[3], output_padding=[1]>(x, {k.w(4, 2, 2)})", 1, 0),
    "repeated": (LAST, lambda k: f"a = {ahead(k)} "
                f'y = Resize<mode = "nearest", {FLOOR}>(a, , {k.f(1, 1, 2)})', 1, 2),
    "sum": (LAST, lambda k: f"a = {ahead(k)} y = CumSum(a, {k.i(2)})", 1, 1),
    "branches": (LAST, lambda k: f"a = {ahead(k)} b = {ahead(k, 'a')} c = Add(a, b) y = Sub(x, c)", 1, 2),
    "expanded": (LAST, lambda k: f"y = Expand(x, {k.i(2, 1, 1, 1)})", 1, 0),
    "left product": (LAST, lambda k: f"y = MatMul({k.w(3, 4)}, x)", 1, 0),
    "rows of a product": ((4, "L"), lambda k: f"y = Gemm<transA = 1>(x, {k.w(4, 3)})", 1, 0),
    "split": (MIDDLE, lambda k: f"a = Reshape(x, {k.i(0, -1, 2)}) y = Mul(a, {k.w(2)})", 1, 0),
    "joined": (MIDDLE, lambda k: f"a = Transpose<perm = [0, 2, 1]>(x) b = {ahead(k, 'a')}"
              f"c = Transpose<perm = [0, 2, 1]>(b) y = Reshape(c, {k.i(0, -1, 12)})", 3, 1),
    "reshaped": (MIDDLE, lambda k: f"y = Reshape(x, {k.i(0, 0, 2, 2)})", 1, 0),
    "rows as frames": (MIDDLE, lambda k: f"s = Shape<end = 2>(x) a = Reshape(x, {k.i(-1, 4)})"
                      f"b = MatMul(a, {k.w(4, 3)}) t = Concat<axis=0>(s, {k.i(3)}) y = Reshape(b, t)", 1, 0),
    "tiled": (LAST, lambda k: f"a = {ahead(k)} b = Tile(a, {k.i(1, 2, 1)}) y = Add(b, {k.w(8, 1)})", 1, 1),
    "selected": (LAST, lambda k: f"a = {ahead(k)} b = Transpose<perm = [1, 0, 2]>(a)"
                 f"c = GatherND(b, {k.i2([2], [0])}) y = Transpose<perm = [1, 0, 2]>(c)", 1, 1),
    "einsum": (MIDDLE, lambda k: f'y = Einsum<equation = "nlc,cd->nld">(x, {k.w(4, 3)})', 1, 0),
    "einsum of frames": (LAST, lambda k: f"a = {ahead(k)} "
                         'y = Einsum<equation = "ncl,ndl->nlcd">(x, a)', 1, 1),
    "second factor": ((4, "L"), lambda k: f"y = Gemm({k.w(3, 4)}, x)", 1, 0),
    "labels": (LAST, lambda k: f"a = {ahead(k)} b = ArgMax<axis = 1>(a) y = Cast<to = 1>(b)", 1, 1),
    "largest": (LAST, lambda k: f"a = {ahead(k)} y, i = TopK<axis = 1>(a, {k.i(2)})", 1, 1),
    "by label": (LAST, lambda k: f"a = {ahead(k)} i = ArgMax<axis = 1>(a)"
                 "y = GatherElements<axis = 1>(a, i)", 1, 1),
    "log of sums": (LAST, lambda k: f"a = {ahead(k)} y = ReduceLogSumExp(a, {k.i(1)})", 1, 1),
    "a vector in all frames": (MIDDLE, lambda k: f"s = Shape<end = 2>(x) t = Concat<axis = 0>(s, {k.i(3)})"
                               f"v = Expand({k.w(3)}, t) y = Concat<axis = 2>(x, v)", 1, 0),
    "a vector in frames that lag": (LAST, lambda k: f"a = {ahead(k)} s = Shape<start = 2>(x)"
                                    f"t = Concat<axis = 0>({k.i(1, 1)}, s) v = Tile({k.w(1, 3, 1)}, t)"
                                    f"n = Shape<end = 1>(x) u = Concat<axis = 0>(n, {k.i(3)}, s)"
                                    "w = Expand(v, u) y = Concat<axis = 1>(a, w)", 1, 1),
    "counted features": (MIDDLE, lambda k: f"s = Shape<start = 1, end = 2>(x) l = Squeeze(s)"
                         f"r = Range({k.i0(0)}, l, {k.i0(1)}) f = Cast<to = 1>(r) u = Unsqueeze(f, {k.i(1)})"
                         f"n = Shape<end = 2>(x) t = Concat<axis = 0>(n, {k.i(2)}) v = Expand(u, t)"
                         "y = Concat<axis = 2>(x, v)", 1, 0),
    "differences": (LAST, lambda k: f"f = Slice(x, {k.i(0)}, {k.i(1)}, {k.i(2)}) c = Concat<axis = 2>(f, x)"
                    f"a = Slice(c, {k.i(1)}, {k.i(END)}, {k.i(2)})"
                    f"b = Slice(c, {k.i(0)}, {k.i(-1)}, {k.i(2)}) y = Sub(a, b)", 1, 0),
    "first frame in front": (LAST, lambda k: f'a = Pad<mode = "edge">(x, {k.i(0, 0, 4, 0, 0, 0)})'
                             f"y = Conv<dilations = [2]>(a, {k.w(4, 4, 3)})", 1, 0),
    "first frame, then zeros": (LAST, lambda k: f'a = Pad<mode = "edge">(x, {k.i(0, 0, 1, 0, 0, 0)})'
                                f"y = Conv<pads = [3, 0]>(a, {k.w(4, 4, 3)})", 1, 0),
    "LSTM": (FIRST, lambda k: layer(k, "LSTM", 4, "h", "c"), 1, 1),
    "GRU": (FIRST, lambda k: layer(k, "GRU", 3, "h"), 1, 1),
    "GRU, reset last": (FIRST, lambda k: layer(k, "GRU", 3, "h", options=", linear_before_reset = 1"), 1, 1),
    "RNN": (FIRST, lambda k: layer(k, "RNN", 1, "h"), 1, 1),
    "over features": ((5, "L", 4), lambda k: f"y = RNN<hidden_size = 3, direction = "
                      f"\"reverse\">(x, {k.w(1, 3, 4)}, {k.w(1, 3, 3)})", 1, 0),
}  # fmt: skip
"""Axes of ``x``, the nodes of a graph, and unit and delay of its stream."""


def streamed(axes, nodes):
    """Return a graph in float64, its stream's graph in float64, and the result of
    ``stream``."""
    constants = Constants()
    body = nodes(constants)
    resets = {
        name: reset
        for name, reset in {"h": 0.0, "c": 0.0, "one": 1.0}.items()
        if f" {name}_n" in body
    }
    states = [
        StateSpec(name, f"{name}_n", "float32", (1, "N", 3), value)
        for name, value in resets.items()
    ]
    inputs = ["x", *(state.input for state in states)]
    sizes = [axes, *(state.axes for state in states)]
    given = (
        f"float[{', '.join(map(str, size))}] {name}"
        for name, size in zip(inputs, sizes, strict=True)
    )
    results = ", ".join(
        f"float[] {name}" for name in ("y", *(state.output for state in states))
    )
    head = (
        f'<ir_version: 10, opset_import: ["": 18]> g ({", ".join(given)}) =>'
        f" ({results})"
    )
    proto = onnx.parser.parse_model(f"{head} {{ {body} }}")
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    proto.graph.initializer.extend(constants.tensors)
    sized = measure_shapes(ir.from_proto(proto), "N", "L")
    outputs = (
        TensorSpec("y", "float32", tuple(map(str, sized.graph.outputs[0].shape))),
    )
    result = stream(
        sized, Manifest((TensorSpec("x", "float32", axes),), outputs, tuple(states))
    )
    return Graph64(widened(proto)), Graph64(widened(ir.to_proto(result.model))), result


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_gives_the_frames_of_the_full_sequence(name):
    axes, nodes, unit, delay = STREAMS[name]
    full, graph, result = streamed(axes, nodes)
    manifest = result.manifest
    assert (manifest.unit, manifest.delays.get("y", 0)) == (unit, delay)
    size = {"N": 2, "L": 12}
    x = np.random.default_rng(1).standard_normal(
        [size.get(axis, axis) for axis in axes]
    )
    x[tuple(slice(0, 1) if axis == "L" else slice(None) for axis in axes)] = 0
    shapes = {
        state.input: [size.get(axis, axis) for axis in state.axes]
        for state in manifest.states
    }
    feeds = {"x": x} | {
        s.input: np.full(shapes[s.input], s.reset).astype(s.dtype)
        for s in manifest.states
    }
    want = full(feeds)["y"]
    time = manifest.time_axes.get("y")
    assert bool(result.need) == (
        unit > 1 or delay > 0 or (time is not None and want.shape[time] != 12)
    )
    for sizes in [12], [unit] * (12 // unit), [unit, 12 - 2 * unit, unit]:
        got = join_chunks(manifest, list(run_chunks(graph, manifest, feeds, sizes)))[
            "y"
        ]
        assert np.isfinite(got).all()
        if time is not None:
            frames = min(got.shape[time] - delay, want.shape[time])
            got = got.take(range(delay, delay + frames), time)
            want = want.take(range(frames), time)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


REFUSED = {
    "channels": (MIDDLE, lambda k: "y = MaxPool<kernel_shape = [2]>(x)", "time for channels"),
    "places": (LAST, lambda k: "a, b = MaxPool<kernel_shape=[3]>(x) y = Cast<to = 1>(b)", "places of maxima"),
    "mean": (LAST, lambda k: "y = AveragePool<kernel_shape = [3], pads = [1, 1]>(x)", "count its padding"),
    "length": (LAST, lambda k: f'y = Conv<auto_pad = "SAME_UPPER">(x, {k.w(4, 4, 3)})', "pads by its length"),
    "reflect": (LAST, lambda k: f'y = Pad<mode = "reflect">(x, {k.i(0, 0, 1, 0, 0, 0)})', "pads by reflect"),
    "first of others": (LAST, lambda k: f"f = Slice(x, {k.i(0)}, {k.i(1)}, {k.i(2)}) a = Neg(x)"
                        "y = Concat<axis = 2>(f, a)", "puts a first frame in front of other frames"),
    "first again": (LAST, lambda k: f"f = Slice(x, {k.i(0)}, {k.i(1)}, {k.i(2)}) y = Sub(x, f)",
                    "reads the first frame alone"),
    "first": (LAST, lambda k: f"y = Slice(x, {k.i(0)}, {k.i(1)}, {k.i(2)})", "is the first frame alone"),
    "first that lags": (LAST, lambda k: f"a = {ahead(k)} b = Add(x, a)"
                        f'y = Pad<mode = "edge">(b, {k.i(0, 0, 1, 0, 0, 0)})', "first of frames that lag"),
    "repeated": (LAST, lambda k: f"y = Tile(x, {k.i(1, 1, 2)})", "repeats the sequence"),
    "outer product": (LAST, lambda k: 'y = Einsum<equation = "ncl,ncm->nlm">(x, x)', "frames with frames"),
    "sum by einsum": (LAST, lambda k: 'y = Einsum<equation = "ncl->nc">(x)', "reads all time"),
    "labels of time": (LAST, lambda k: "a = ArgMax<axis = 2>(x) y = Cast<to = 1>(a)", "reads all time"),
    "no rule": (LAST, lambda k: "y = MeanVarianceNormalization<axes = [2]>(x)", "has no rule for streaming"),
    "a state in all frames": (MIDDLE, lambda k: f"s = Shape<end = 2>(x) t = Concat<axis = 0>(s, {k.i(3)})"
                              f"g = Squeeze(h, {k.i(0)}) u = Unsqueeze(g, {k.i(1)}) v = Expand(u, t)"
                              "y = Concat<axis = 2>(x, v) h_n = Neg(h)", "restarts with every call"),
    "two sequences": (LAST, lambda k: "y = Concat<axis = 2>(x, x)", "joins several sequences"),
    "inner frames": (LAST, lambda k: f"y = Slice(x, {k.i(-3)}, {k.i(-1)}, {k.i(2)})", "from the end"),
    "first frame": (LAST, lambda k: f"y = Gather<axis = 2>(x, {k.i(0)})", "selects frames"),
    "sum before": (LAST, lambda k: f"y = CumSum<exclusive = 1>(x, {k.i(2)})", "without the frame itself"),
    "sum behind": (LAST, lambda k: f"y = CumSum<reverse = 1>(x, {k.i(2)})", "sums backwards"),
    "other axes": (LAST, lambda k: f"y = Reshape(x, {k.i(0, 2, -1)})", "joins frames with other axes"),
    "linear": (LAST, lambda k: f'y = Resize<mode = "linear">(x, , {k.f(1, 1, 2)})', "interpolates"),
    "softmax": (LAST, lambda k: "y = Softmax<axis = 2>(x)", "reads all time"),
    "products": (LAST, lambda k: "a = Transpose<perm = [0, 2, 1]>(x) y = MatMul(x, a)", "reads all time"),
    "sums of time": (LAST, lambda k: f"y = ReduceSum(x, {k.i(2)})", "reads all time"),
    "norm": (LAST, lambda k: f"y = LayerNormalization<axis = 1>(x, {k.w(1)})", "reads all time"),
    "clip": (FIRST, lambda k: layer(k, "GRU", 3, "h", options=", clip = 1.0"), "lags, and has"),
    "reset to one": (FIRST, lambda k: layer(k, "GRU", 3, "one"), "not zero at the start"),
}  # fmt: skip
"""Axes of ``x``, nodes, and why they can't be fed in chunks."""


@pytest.mark.parametrize("name", REFUSED)
def test_an_operator_that_needs_other_frames_is_refused(name):
    axes, nodes, reason = REFUSED[name]
    with pytest.raises(NotStreamableError, match=reason):
        streamed(axes, nodes)
