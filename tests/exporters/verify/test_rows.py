"""Rows that an output depends on are found at values that no case has."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.progress import ignore
from lstm_edge_exporters.verify.cases import CaseGenerator
from lstm_edge_exporters.verify.compare import Pair
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_exporters.verify.rows import UndecidedRowsError, mixed_rows
from lstm_edge_exporters.verify.verify import verify
from lstm_edge_runtime.manifest import Manifest, TensorSpec

MANIFEST = Manifest(
    (TensorSpec("x", "float32", ("N", "L", 2)), TensorSpec("k", "int64", ("N",))),
    (TensorSpec("y", "float32", ("N", "L", 2)),),
)
X = 0.1 * np.random.default_rng(0).standard_normal((3, 4, 2))
CONSTANTS = """double far = {1e9}, double one_ = {1.0}, int64[1] rows = {0}, int64[1] steps = {1},
    int64[1] all = {-1},
    int64[2] rest = {1, 2}, int64 row = {0},
    int64[2] flat = {-1, 2}, int64[3] back = {-1, 4, 2}, int64[1] three = {3},
    int64 depth = {3}, double[2] codes = {0, 1},
    int64[1] two = {2}, int64[1] least = {-9},
    int64[1] far_ = {9}"""


def graph(nodes):
    head = f"""<ir_version: 10, opset_import: ["": 18]>
        g (double[N, L, 2] x, int64[N] k) => (double[N, L, 2] y) <{CONSTANTS}>"""
    return Graph64(ir.from_proto(onnx.parser.parse_model(f"{head} {{ {nodes} }}")))


def find(nodes):
    feeds = {"x": X, "k": np.array([2, 0, 1])}
    return mixed_rows(graph(nodes), MANIFEST, feeds, 1)


def gate(nodes):
    """Return nodes that add to ``x`` what ``nodes`` give beyond a threshold that no
    value of ``x`` reaches."""
    return f"{nodes} over = Greater(z, far) added = CastLike(over, x) y = Add(x, added)"


ACROSS = {
    "any": (
        "big = Greater(x, far) bits = Cast<to=6>(big) any = ReduceMax<keepdims=0>(bits)"
        " added = CastLike(any, x) y = Add(x, added)",
        "ReduceMax",
    ),
    "all": (
        "big = Greater(x, far) bits = Cast<to=6>(big) any = ReduceMin(bits, rows)"
        " added = CastLike(any, x) y = Add(x, added)",
        "ReduceMin",
    ),
    "mean": (gate("z = ReduceMean(x, rows)"), "ReduceMean"),
    "mean of all": (gate("z = ReduceMean<keepdims=0>(x)"), "ReduceMean"),
    "product": (gate("z = ReduceProd<keepdims=0>(x)"), "ReduceProd"),
    "softmax": (gate("z = Softmax<axis=0>(x)"), "Softmax"),
    "running sum": (gate("z = CumSum(x, row)"), "CumSum"),
    "first row": (gate("z = Slice(x, rows, steps, rows)"), "Add"),
    "row by number": (gate("z = Gather<axis=0>(x, row)"), "Add"),
    "merged axes": (
        gate("f = Reshape(x, flat) z = ReduceMax(f, rows)"),
        "ReduceMax",
    ),
    "similarity": (
        gate(
            "f = ReduceSum<keepdims=0>(x, rest) c = Unsqueeze(f, steps) r = Unsqueeze(f, rows)"
            " p = MatMul(c, r) s = ReduceMax(p, steps) z = Unsqueeze(s, two)"
        ),
        "MatMul",
    ),
    "last rows alone": (
        gate(
            "f = Slice(x, rows, steps, rows) r = Slice(x, steps, far_, rows)"
            " m = ReduceMean(r, rows) d = Add(r, m) z = Concat<axis=0>(f, d)"
        ),
        "ReduceMean",
    ),
    "index of the largest": (
        gate("i = ArgMax<axis=0>(x) z = CastLike(i, x)"),
        "ArgMax",
    ),
    "largest": (gate("z, i = TopK<axis=0>(x, steps)"), "TopK"),
    "median": (gate("s, i = TopK<axis=0>(x, three) z = Gather<axis=0>(s, row)"), "Add"),
    "rows chosen by numbers": (
        "z = Gather<axis=0>(x, k) y = Add(x, z)",
        "Gather",
    ),
    "codes of rows": (
        "c = OneHot(k, depth, codes) s = ReduceSum(c, rows) m = ReduceMax(s) f = CastLike(m, x)"
        " o = Greater(f, far) a = CastLike(o, x) y = Add(x, a)",
        "ReduceSum",
    ),
    "normalized over rows": (
        gate(
            "t = Transpose<perm=[1, 2, 0]>(x) n = LpNormalization<axis=2>(t) z = Transpose<perm=[2, 0, 1]>(n)"
        ),
        "LpNormalization",
    ),
    "branch": (
        "big = Greater(x, far) bits = Cast<to=6>(big) any = ReduceMax<keepdims=0>(bits) go = Cast<to=9>(any)"
        " y = If (go) <then_branch = a () => (double[N, L, 2] u) { u = Neg(x) },"
        " else_branch = b () => (double[N, L, 2] v) { v = Identity(x) }>",
        "ReduceMax",
    ),
    "loop": (
        "t = Transpose<perm=[1, 0, 2]>(x) h = ReduceSum<keepdims=0>(x, steps)"
        " last, o = Scan<num_scan_inputs=1, body = step (double[N, 2] a, double[N, 2] b)"
        " => (double[N, 2] c, double[N, 2] d) { s = Add(a, b) m = ReduceMax(s) r = Greater(m, far)"
        " q = CastLike(r, s) c = Add(s, q) d = Identity(c) }>(h, t)"
        " y = Transpose<perm=[1, 0, 2]>(o)",
        "ReduceMax",
    ),
}


@pytest.mark.parametrize("name", ACROSS)
def test_rows_that_meet_beyond_a_threshold_are_found_at_the_node(name):
    nodes, operator = ACROSS[name]
    mixed = find(nodes)
    assert (mixed.output, mixed.node.op_type) == ("y", operator)


ALONE = {
    "own decision": gate("z = ReduceMax(x, rest)"),
    "own softmax": gate("z = Softmax<axis=1>(x)"),
    "sizes": "s = Shape(x) n = Gather(s, row) f = CastLike(n, x) y = Mul(x, f)",
    "sum times zero": "s = ReduceSum(x) n = Sub(one_, one_) z = Mul(s, n) y = Add(x, z)",
    "merged and back": "f = Reshape(x, flat) g = Relu(f) y = Reshape(g, back)",
    "both halves": (
        "n = Neg(x) c = Concat<axis=0>(x, n) a, b = Split<axis=0, num_outputs=2>(c) y = Mul(a, b)"
    ),
    "sorted and back": (
        "o, i = TopK<axis=0>(k, three) z = Gather<axis=0>(x, i) r = Relu(z)"
        " b, j = TopK<axis=0, largest=0>(i, three) y = Gather<axis=0>(r, j)"
    ),
    "scattered back": (
        "o, i = TopK<axis=0>(k, three) z = Gather<axis=0>(x, i) u = Unsqueeze(i, steps)"
        " y = ScatterND(x, u, z)"
    ),
    "own rows by a mask": (
        "s = Shape(x) n = Gather(s, rows) m = Concat<axis=0>(n, n) z = ConstantOfShape(m) e = EyeLike(z)"
        " f = Cast<to=11>(e) a = ReduceSum<keepdims=0>(x, rest) r = Unsqueeze(a, rows) p = Mul(f, r)"
        " q = ReduceSum<keepdims=0>(p, steps) v = Unsqueeze(q, rest) y = Add(x, v)"
    ),
    "loop": ACROSS["loop"][0].replace("ReduceMax(s)", "ReduceMax(s, steps)"),
}


@pytest.mark.parametrize("name", ALONE)
def test_rows_that_never_meet_are_accepted(name):
    assert find(ALONE[name]) is None


def test_rows_that_change_places_have_no_node():
    mixed = find("y = Slice(x, all, least, rows, all)")
    assert (mixed.output, mixed.node) == ("y", None)


def test_an_operator_that_selects_by_value_is_noted():
    count = "b = NonZero(x) f = CastLike(b, x) s = ReduceMin(f) y = Add(x, s)"
    with pytest.raises(UndecidedRowsError, match="NonZero"):
        find(count)
    pair = Pair(MANIFEST, *[graph(count)] * 3)
    cases = CaseGenerator.of(MANIFEST, values={"k": 3})
    verified = verify(pair, cases, None, ignore)
    assert verified.notes == (
        "row by row: compared on samples alone, as rows are unknown in NonZero ''",
    )
