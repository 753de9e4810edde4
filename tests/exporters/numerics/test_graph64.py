"""An ONNX graph in float64: operators, values that are kept, loops, and perturbed as float32 rounds."""

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper, parser

from lstm_edge_exporters.numerics.compare import expected
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.numerics.noise import Rounding

OPS = {"LSTM": (4, 3), "GRU": (3, 2), "RNN": (1, 2)}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    op=st.sampled_from(sorted(OPS)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    lengths=st.booleans(),
    biased=st.booleans(),
    started=st.booleans(),
    peepholes=st.booleans(),
    clip=st.sampled_from([None, 0.7]),
    linear=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_the_float64_operators_compute_what_onnxruntime_does(
    op, direction, lengths, biased, started, peepholes, clip, linear, seed
):
    rng = np.random.default_rng(seed)
    gates, outputs = OPS[op]
    I, H, N, L = 3, 4, 3, 6  # noqa: E741
    D = 2 if direction == "bidirectional" else 1

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    feeds = {"X": draw(L, N, I), "W": draw(D, gates * H, I), "R": draw(D, gates * H, H)}
    names = ["X", "W", "R", "", "", ""]
    for place, name, array, wanted in (
        (3, "B", draw(D, 2 * gates * H), biased),
        (4, "lens", np.array([L, 2, 1], np.int32), lengths),
        (5, "h", draw(D, N, H), started),
    ):
        if wanted:
            feeds[name], names[place] = array, name
    if op == "LSTM":
        names += ["c" if started else "", "P" if peepholes else ""]
        feeds |= ({"c": draw(D, N, H)} if started else {}) | ({"P": draw(D, 3 * H)} if peepholes else {})
    options = {"hidden_size": H, "direction": direction}
    if clip is not None:
        options["clip"] = clip
    if op == "GRU":
        options["linear_before_reset"] = int(linear)
    outs = ["Y", "Y_h", "Y_c"][:outputs]
    kinds = {np.dtype("float32"): onnx.TensorProto.FLOAT, np.dtype("int32"): onnx.TensorProto.INT32}
    graph = helper.make_graph(
        [helper.make_node(op, names, outs, **options)],
        "g",
        [
            helper.make_tensor_value_info(name, kinds[array.dtype], array.shape)
            for name, array in feeds.items()
        ],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    known = expected(Graph64(model), feeds, {})
    got = dict(zip(outs, session.run(outs, dict(feeds)), strict=True))
    for record in known.compare(got):
        assert record.ok, record
        assert record.floor < 1e-4
        assert known.ref64[record.name].dtype == np.float64


@pytest.mark.parametrize("operator", ["Gelu", "LayerNormalization", "Softmax", "Clip"])
@pytest.mark.parametrize("declared", [True, False])
def test_an_operator_whose_body_depends_on_its_types_is_perturbed(operator, declared):
    scale = {"LayerNormalization": ["scale"]}.get(operator, [])
    graph = helper.make_graph(
        [
            helper.make_node("Exp", ["x"], ["positive"]),
            helper.make_node(operator, ["positive", *scale], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(4, np.float32), "scale")] if scale else [],
    )
    if declared:
        graph.value_info.append(helper.make_tensor_value_info("positive", onnx.TensorProto.FLOAT, [3, 4]))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
    known = expected(Graph64(model), {"x": x}, {})
    assert all(record.ok for record in known.compare({"y": session.run(None, {"x": x})[0]}))
    assert np.all((known.floors["y"] > 0) & (known.floors["y"] < 1e-5))


def parse(text, **weights):
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 20]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items())
    return model


NODES = {
    "LogSoftmax(x)": lambda x: x - x.max(-1, keepdims=True) - np.log(
        np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "Erf(x)": np.vectorize(math.erf),
    "Gelu(x)": np.vectorize(lambda v: v / 2 * (1 + math.erf(v / math.sqrt(2)))),
    "Sigmoid(x)": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus(x)": lambda x: np.log1p(np.exp(x)),
    "HardSwish(x)": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("node", NODES)
def test_operators_are_exact_in_float64_and_their_floors_hold_onnxruntime(node):
    model = parse(f"g (float[N, L, 4] x) => (float[N, L, 4] y) {{ y = {node} }}")
    x = (6 * np.random.default_rng(1).standard_normal((3, 5, 4))).astype(np.float32)
    known = expected(Graph64(model), {"x": x}, {"y": (-1,)})
    np.testing.assert_allclose(known.ref64["y"], NODES[node](x.astype(np.float64)), rtol=1e-14, atol=1e-15)
    got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    (record,) = known.compare({"y": got})
    assert record.ok, record
    assert 0 < record.limit < 1e-4


def test_an_error_that_repeats_itself_adds_up_over_time_in_the_floors():
    model = parse(
        "g (float[1, L, 1] x) => (float[1, L, 1] y) "
        "{ axis = Constant<value: tensor = int64 {1}>() y = CumSum(x, axis) }"
    )
    floors = {}
    for steps in (100, 10_000):
        x = np.full((1, steps, 1), 0.1, np.float32)
        floors[steps] = expected(Graph64(model), {"x": x}, {}).floors["y"].item() / (0.1 * steps)
        got = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        assert expected(Graph64(model), {"x": x}, {}).compare({"y": got})[0].ok
    assert 50 < floors[10_000] / floors[100] < 200


def test_a_loop_that_collects_values_and_a_scan_backwards_are_as_onnxruntime_has_them():
    scan = parse(
        """g (float[2] start, float[L, 2] x) => (float[2] last, float[M, 2] y) {
            last, y = Scan <num_scan_inputs = 1, scan_input_directions = [1], body = step
                (float[2] s, float[2] v) => (float[2] t, float[2] u)
                { h = Tanh(s) t = Add(h, v) u = Mul(t, v) }
            > (start, x)
        }"""
    )
    loop = parse(
        """g (int64 n, float[2] start) => (float[2] last, float[n, 2] y) {
            go = Constant <value: tensor = bool {1}> ()
            last, y = Loop <body = step
                (int64 i, bool c, float[2] s) => (bool d, float[2] t, float[2] u)
                { d = Identity(c) half = Constant<value_float = 0.5>() t = Mul(s, half) u = Tanh(t) }
            > (n, go, start)
        }"""
    )
    rng = np.random.default_rng(2)
    start = rng.standard_normal(2).astype(np.float32)
    x = rng.standard_normal((5, 2)).astype(np.float32)
    for model, feeds in ((scan, {"start": start, "x": x}), (loop, {"n": np.array(4), "start": start})):
        session = onnxruntime.InferenceSession(model.SerializeToString())
        names = [value.name for value in session.get_outputs()]
        got = dict(zip(names, session.run(None, feeds), strict=True))
        known = expected(Graph64(model), feeds, {})
        for record in known.compare(got):
            assert record.ok, record
            assert 0 < record.floor < 1e-5


def test_the_node_at_which_float32_overflows_is_named():
    model = parse(
        "g (float[N] x) => (float[N] y) "
        "{ a = Tanh(x) square = Mul(x, x) root = Sqrt(square) y = Add(root, a) }"
    )
    graph = Graph64(model)
    assert graph.overflow({"x": np.array([3.0], np.float32)}) == ""
    assert graph.overflow({"x": np.array([1e30], np.float32)}) == "Mul 'square'"


def test_sizes_that_a_file_computes_in_float64_are_not_rounded_to_float32():
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (float[N, L] x) => (float[A, B] y)
        <double divisor = {5.0}, int64[1] rest = {-1}, int64[1] one = {1}>
        {
            shape = Shape <start: int = 1> (x)
            steps = Cast <to: int = 11> (shape)
            parts = Div (steps, divisor)
            whole = Floor (parts)
            size = Cast <to: int = 7> (whole)
            sizes = Concat <axis: int = 0> (rest, size)
            doubled = Add (x, x)
            y = Reshape (doubled, sizes)
        }"""
    graph, x = Graph64(parser.parse_model(text)), np.random.default_rng(0).random((2, 60), np.float32)
    for draw in range(8):
        rounded = graph.perturbed({"x": x}, Rounding(draw))["y"]
        assert rounded.shape == (10, 12)
        assert np.any(rounded != graph.run64({"x": x})["y"])


@pytest.mark.parametrize(
    "options",
    [
        "kernel_shape=[2]",
        "kernel_shape=[2], strides=[2]",
        "kernel_shape=[1]",
        "kernel_shape=[3], pads=[1, 1]",
    ],
)
def test_indices_of_a_pooling_count_from_the_tensor_at_any_stride(options):
    model = parse(
        f"g (float[2, 3, 8] x) => (float[2, 3, l] y, int64[2, 3, l] i) {{ y, i = MaxPool <{options}> (x) }}"
    )
    x = np.random.default_rng(3).standard_normal((2, 3, 8)).astype(np.float32)
    known = expected(Graph64(model), {"x": x}, {})
    y, places = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    np.testing.assert_array_equal(known.ref64["i"], places)
    np.testing.assert_array_equal(known.ref64["y"], y)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(
    ("stride", "dilation", "pads", "extra"),
    [(1, 1, (0, 0), 0), (2, 1, (1, 1), 1), (3, 2, (2, 0), 1), (1, 3, (1, 2), 0)],
)
def test_transposed_convolutions_keep_groups_apart(rank, groups, stride, dilation, pads, extra):
    rng = np.random.default_rng(0)
    options = f"group={groups}, strides={[stride] * rank}, dilations={[dilation] * rank}, "
    options += f"pads={[*pads[:1] * rank, *pads[1:] * rank]}, output_padding={[extra] * rank}"
    shapes = [(2, 6, *[5, 4][:rank]), (6, 2, *[3] * rank), (2 * groups,)]
    names = ", ".join(f"float{list(shape)} {name}" for name, shape in zip("xwb", shapes, strict=True))
    sizes = "".join(f", s{axis}" for axis in range(rank))
    model = parse(f"g ({names}) => (float[2, c{sizes}] y) {{ y = ConvTranspose <{options}> (x, w, b) }}")
    feeds = {name: rng.standard_normal(shape).astype("f") for name, shape in zip("xwb", shapes, strict=True)}
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(Graph64(model).run64(feeds)["y"], y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("axis", "shape", "wanted"),
    [(1, (3, 130, 4), (3, 2, 4)), (0, (200, 3), (5, 2)), (-1, (2, 70), (2, 70)), (1, (2, 5), (2, 0))],
)
def test_elements_are_gathered_along_an_axis_of_any_length(axis, shape, wanted):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    places = rng.integers(-shape[axis], shape[axis], wanted)
    types = [f"float{list(shape)} x", f"int64{list(wanted)} i", f"float{list(wanted)} y"]
    model = parse(f"g ({types[0]}, {types[1]}) => ({types[2]}) {{ y = GatherElements <axis={axis}> (x, i) }}")
    feeds = {"x": x, "i": places}
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_array_equal(Graph64(model).run64(feeds)["y"], y)
    if places.size:
        places[(0,) * places.ndim] = shape[axis]
        with pytest.raises((RuntimeError, IndexError)):
            Graph64(model).run64(feeds)


def test_an_output_without_a_name_reaches_no_input_that_is_left_out():
    layer = "GRU <hidden_size=4>"
    sizes = {"x": (5, 2, 3), "w": (1, 12, 3), "r": (1, 12, 4), "v": (1, 12, 4), "h": (1, 2, 4)}
    inputs = ", ".join(f"float{list(shape)} {name}" for name, shape in sizes.items())
    model = parse(
        f"g ({inputs}) => (float[1, 5, 2, 4] y) {{ , a = {layer} (x, w, r) "
        f"s = Constant <value_ints=[5, 1, 1]> () d = Expand (a, s) "
        f"b = {layer} (d, v, r, , , h) y = Transpose <perm=[1, 0, 2, 3]> (b) }}"
    )
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    (y,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)
    np.testing.assert_allclose(Graph64(model).run64(feeds)["y"], y, atol=1e-6)


def test_a_constant_of_shape_without_a_value_is_zeros_in_float64():
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"]) for name in "xy")
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("Sub", ["zeros", "x"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)]
    )
    assert Graph64(model).run64({"x": np.ones(3, np.float32)})["y"].tolist() == [-1.0, -1.0, -1.0]
