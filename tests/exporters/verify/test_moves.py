"""A graph moved by one unit in the last place: no operator turns that into NaN or into
another function."""

import pkgutil
import warnings
from importlib import import_module

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from lstm_edge_exporters.cast import widened
from lstm_edge_exporters.verify.compare import Pair
from lstm_edge_exporters.verify.float64 import DECIDING, Graph64
from lstm_edge_runtime.manifest import Manifest, TensorSpec

ULP = 2.0**-52
JUMPS = {"Bernoulli", "Hardmax", "Mod", "Round", "Unique"}
"""Operators that jump where their data lie on a boundary."""
CLOSE = 1e-6
"""Largest effect, of the largest value: some kernels of the evaluator are float32."""


def node_tests():
    """Yield ONNX's own node tests: the operator, its model and its inputs."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node.__path__):
            import_module(f"{node.__name__}.{module.name}")
    for case in node._NodeTestCases:
        nodes = case.model.graph.node
        inputs = case.data_sets[0][0]
        arrays = all(isinstance(array, np.ndarray) for array in inputs)
        if len(nodes) == 1 and not nodes[0].domain and arrays:
            yield nodes[0].op_type, case.model, inputs


def on_boundaries(array, constants, rng):
    """Return data with negative numbers, zeros, and numbers that equal constants."""
    data = np.round(8 * rng.standard_normal(array.shape)) / 4
    if len(constants):
        ties = rng.choice(constants, array.shape)
        data = np.where(rng.random(array.shape) < 0.5, ties, data)
    return data.astype(np.float32)


def with_constants(model, arrays, data):
    """Return ``model`` with every input but ``data`` as a constant."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (kept,) = (value for value in changed.graph.input if value.name == data)
    del changed.graph.input[:]
    changed.graph.input.append(kept)
    for name, array in arrays.items():
        if name != data:
            changed.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return changed


def wrong_moves(graph, feeds):
    """Yield how a moved graph differs by more than rounding."""
    base = graph(feeds)
    for seed in range(2):
        moved = graph.moved(seed, ULP)(feeds)
        for name, array in base.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
                continue
            finite = np.isfinite(array)
            if moved[name].shape != array.shape:
                yield "another shape"
            elif not np.isfinite(moved[name][finite]).all():
                yield "not finite"
            else:
                away = np.abs(moved[name][finite] - array[finite]).max(initial=0.0)
                if away > CLOSE * np.abs(array[finite]).max(initial=1.0):
                    yield f"moves by {away:.3g}"


@pytest.mark.system
def test_no_operator_makes_a_unit_in_the_last_place_nan_or_a_jump():
    rng = np.random.default_rng(3)
    wrong = set()
    asked = set()
    for operator, model, inputs in node_tests():
        names = [value.name for value in model.graph.input]
        arrays = dict(zip(names, inputs, strict=True))
        floats = [name for name, array in arrays.items() if array.dtype == np.float32]
        deciding = {names[i] for i in DECIDING.get(operator, ()) if i < len(names)}
        for data in floats:
            if data in deciding:
                continue
            others = [arrays[name].ravel() for name in floats if name != data]
            constants = np.concatenate(others) if others else np.zeros(0)
            feeds = {data: on_boundaries(arrays[data], constants, rng)}
            try:
                graph = Graph64(widened(with_constants(model, arrays, data)))
                graph(feeds)
            except Exception:  # noqa: BLE001  what the evaluator can't run
                continue
            asked.add(operator)
            if operator not in JUMPS:
                wrong |= {(operator, about) for about in wrong_moves(graph, feeds)}
    assert wrong == set()
    assert len(asked) > 130
    assert asked >= {"Pow", "Mod", "Resize", "Clip", "LSTM"}


def normed(exponent, tail=""):
    """Return RMS normalization with a power, as ``nn.RMSNorm`` exports it."""
    text = f"""<ir_version: 10, opset_import: ["": 18]> g (double[N, 8] x) => (double[N, 8] y)
        <double two = {{2}}, double tiny = {{1e-6}}, double[1] axis = {{1}}, double gain = {{1.3}}>
        {{ {exponent} squared = Pow(x, e) m = ReduceMean<axes = [-1]>(squared)
           safe = Add(m, tiny) root = Sqrt(safe) scaled = Div(x, root) {tail or "y = Identity(scaled)"} }}"""
    return Graph64(ir.from_proto(onnx.parser.parse_model(text)))


@pytest.mark.parametrize("exponent", ["e = Identity(two)", "r = Neg(two) e = Abs(r)"])
def test_a_wrong_factor_behind_a_power_is_found(exponent):
    right = normed(exponent)
    wrong = normed(exponent, "y = Mul(scaled, gain)")
    axes = ("N", 8)
    manifest = Manifest((), (TensorSpec("y", "float32", axes),), (), "N", None)
    x = np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)
    assert all(c.ok for c in Pair(manifest, right, right, right).equal({"x": x}))
    pair = Pair(manifest, wrong, right, wrong)
    assert not any(c.ok for c in pair.equal({"x": x}))
    assert not any(c.ok for c in pair.rounding({"x": x}, right))


def test_a_move_that_ends_in_nan_allows_nothing():
    text = """<ir_version: 10, opset_import: ["": 18]> g (double[N] x) => (double[N] y)
        <double one = {1}, double edge = {0.99999999999999988}>
        { r = Div(x, x) s = Mul(r, edge) y = Acos(s) }"""
    graph = Graph64(ir.from_proto(onnx.parser.parse_model(text)))
    manifest = Manifest((), (TensorSpec("y", "float32", ("N",)),), (), "N", None)
    feeds = {"x": np.array([0.3, 0.7, 1.1], np.float32)}
    moved = [graph.moved(seed, 2.0**-23)(feeds)["y"] for seed in range(2)]
    assert np.isnan(moved).any()
    other = Pair(manifest, graph, lambda feeds: {"y": graph(feeds)["y"] + 5}, graph)
    assert not all(comparison.ok for comparison in other.equal(feeds))
    limits = Pair(manifest, graph, graph, graph).limits(feeds)["y"]
    assert np.isfinite(limits).all()
