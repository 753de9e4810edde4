"""Valid values of inputs, read off the graph: indices of tables, fractions of a length."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from lstm_edge_exporters.verify.indices import fraction_inputs, index_values

TABLE = np.zeros((7, 2), np.float32)
WIDE = np.zeros((3, 5), np.float32)
GRAPHS = {
    "a table": ("y = Gather(table, i)", {"i": 7}),
    "columns of a table": ("y = Gather<axis = 1>(wide, i)", {"i": 5}),
    "elements": ("y = GatherElements<axis = 1>(wide, i)", {"i": 5}),
    "what is looked up": ("y = Gather(i, two)", {}),
    "codes": ("y = OneHot(i, depth, values)", {"i": 4}),
    "codes by comparison": ("y = Equal(i, codes)", {"i": 10}),
    "one code": ("y = Equal(i, two)", {}),
    "an order": ("y = Less(i, codes)", {}),
    "the smaller of two tables": (
        "a = Gather(table, i) y = Gather<axis = 1>(wide, i)",
        {"i": 5},
    ),
    "a cast": ("a = Cast<to = 6>(i) y = Gather(table, a)", {"i": 7}),
    "an offset": ("a = Add(i, two) y = Gather(table, a)", {"i": 5}),
    "a negative offset": ("a = Sub(i, two) y = Gather(table, a)", {"i": 9}),
    "an offset in front": ("a = Add(two, i) y = Gather(table, a)", {}),
    "a difference in front": ("a = Sub(two, i) y = Gather(table, a)", {}),
    "a product": ("a = Mul(i, two) y = Gather(table, a)", {}),
    "a bound": ("a = Min(i, two) y = Gather(table, a)", {"i": 7}),
    "a bound by an input": ("a = Max(two, i) y = Gather(table, a)", {"i": 7}),
    "chosen where": ("a = Where(m, i, two) y = Gather(table, a)", {"i": 7}),
    "chosen else": ("a = Where(m, two, i) y = Gather(table, a)", {"i": 7}),
    "a mask": (
        "c = Cast<to = 9>(i) a = Where(c, two, two) y = Gather(table, a)",
        {},
    ),
    "moved": (
        "a = Reshape(i, two) b = Transpose<perm = [0]>(a) y = Gather(table, b)",
        {"i": 7},
    ),
    "a new shape": ("y = Reshape(table, i)", {}),
    "used twice": (
        "a = Max(i, i) b = Min(a, i) y = Gather(table, b)",
        {"i": 7},
    ),
    "not an index": ("y = Neg(i)", {}),
}
"""Nodes that read ``i`` and ``m``, and the number of values of each index."""


@pytest.mark.parametrize("name", GRAPHS)
def test_an_index_has_as_many_values_as_its_table(name):
    nodes, expected = GRAPHS[name]
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (int64[K] i, bool[K] m)'
        f" => (float[M] y) {{ {nodes} }}"
    )
    stored = {
        "table": TABLE,
        "wide": WIDE,
        "two": np.array([2]),
        "depth": np.array(4),
        "values": np.zeros(2, np.float32),
        "codes": np.array([3, 9]),
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    assert index_values(ir.from_proto(model).graph) == expected


def test_a_table_of_unknown_size_gives_no_limit():
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (int64[K] i, float[R,2] t)'
        " => (float[K,2] y) { y = Gather(t, i) }"
    )
    assert index_values(ir.from_proto(model).graph) == {}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("n = Size(x) k = Cast<to = 1>(n) y = Mul(f, k)", {"f"}),
        (
            "s = Shape<start = 1, end = 2>(x) k = Cast<to = 1>(s)"
            " g = Unsqueeze(f, axis) y = Mul(k, g)",
            {"f"},
        ),
        ("y = Mul(f, half)", set()),
        ("y = Mul(x, f)", set()),
        ("n = Size(x) k = Cast<to = 1>(n) y = Add(f, k)", set()),
        ("n = Size(f) k = Cast<to = 1>(n) y = Mul(x, k)", set()),
    ],
)
def test_an_input_that_is_multiplied_by_a_size_is_a_fraction(nodes, expected):
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 18]> g (float[N] f, float[N,L] x)'
        f" => (float[M] y) {{ {nodes} }}"
    )
    stored = {"half": np.float32([0.5]), "axis": np.array([1])}
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in stored.items()
    )
    assert fraction_inputs(ir.from_proto(model).graph) == expected
