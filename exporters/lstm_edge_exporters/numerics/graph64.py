"""An ONNX graph in float64: evaluated once for each case, every value kept, and perturbed node by node."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import open_session, run_by_name

from ..verify.cases import Feeds, remember
from .noise import EXACT, UNIT, Rounding, Weights
from .operators import operators, round_results

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_LARGEST = float(np.finfo(np.float32).max)
_MOVE = 2.0**-23
"""A unit in the last place, relatively: twice as far as a number may be from its float32."""
_TOGETHER = 4
"""Of so many draws one moves all numbers of a constant the same way."""
_SHORT = 2.0**12
"""A float that is a whole number of such parts was not rounded: 0.5, 3, -inf, the least float32."""
_ALIKE = 1e-6
"""A tensor within this fraction of one of the reference's is a wrong copy, and not one that was introduced.
Batch norm folded into a convolution moves weights by 5e-6 or more, its epsilon."""
_OF_DIRECTIONS = 3
"""Axes of the weights of a recurrent node, the first of which counts directions."""
_FEW = 0.05
"""Largest fraction of numbers that a wrong copy has of its own."""
_COPIED = 3
"""Numbers at the least that a wrong copy shares with its reference, unless all are nearly the same."""
_ROUNDED_PRODUCT = 1e-4
"""How far the product of a matrix and its inverse, both in float32, is from the identity at most: rounding,
amplified by a condition number. Of any other pair it is farther."""


class Graph64:
    """A graph under evaluation."""

    def __init__(self, model: onnx.ModelProto, name: str = "the file", exact: set[str] | None = None) -> None:
        """Prepare the evaluation; ``exact`` are values that float32 does not round, where they are known.

        Raises:
            UnsupportedError: a node that can't be evaluated in float64; it is named.
        """
        self._model, self._name, self.unit = model, name, _unit(model)
        self._rounding: Rounding = EXACT
        self._kept = remember(self._evaluate)
        self._weights: Weights = {}
        kinds = {(node.domain, node.op_type) for graph in _graphs(model.graph) for node in graph.node}
        kinds -= {(function.domain, function.name) for function in model.functions}
        if foreign := sorted("::".join(kind) for kind in kinds if kind[0] not in ("", "ai.onnx")):
            raise UnsupportedError(f"{', '.join(foreign)} of {name} can't be evaluated in float64")
        try:
            self._evaluator = ReferenceEvaluator(
                _as_float64(model), new_ops=operators(lambda: self._rounding)
            )
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise UnsupportedError(f"{name} can't be evaluated in float64: {first_line(error)}") from error
        self._exact = _double_values(model) if exact is None else exact
        round_results(self._evaluator, lambda: self._rounding, self._exact)
        self._outputs = [output.name for output in model.graph.output]

    @property
    def tensors(self) -> Iterable[Array]:
        """Every float that the graph holds."""
        return self.constants.values()

    def run64(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output in float64; raises RuntimeError where the graph does not run on ``feeds``."""
        values = self.values(feeds)
        return {name: values[name] for name in self._outputs}

    def values(self, feeds: Feeds) -> Mapping[str, Any]:
        """Return every value of the graph, those in the bodies of loops aside; raises as ``run64``."""
        return self._kept(feeds)

    def perturbed(self, feeds: Feeds, rounding: Rounding) -> dict[str, Array]:
        """Return every output in float64 as another precision may give it; raises as ``run64``."""
        rounding.weights = self._weights
        self._rounding = rounding
        try:
            values = self._evaluate(feeds)
        finally:
            self._rounding = EXACT
        return {name: values[name] for name in self._outputs}

    def overflow(self, feeds: Feeds) -> str:
        """Return the first node whose result is beyond float32's range and its operands are not."""
        beyond = {name for name, value in self.values(feeds).items() if _beyond(value)}
        for node in self._model.graph.node:
            if beyond.intersection(node.output) and beyond.isdisjoint(node.input):
                return describe_node(node)
        return ""

    def first_difference(self, feeds: Feeds, other: "Graph64", limit: float) -> str:
        """Return the first node whose values ``differs`` from those of the same names in another graph."""
        mine, theirs = self.values(feeds), other.values(feeds)
        for node in self._model.graph.node:
            for name in node.output:
                one, two = mine.get(name), theirs.get(name)
                if isinstance(one, np.ndarray) and isinstance(two, np.ndarray) and differs(one, two, limit):
                    return describe_node(node)
        return ""

    @cached_property
    def constants(self) -> dict[str, Array]:
        """Every float that the graph holds, by the name of its tensor or ``attribute of node``."""
        return {name: array for name, array, _ in _constants(self._model.graph)}

    def moved(self, names: Iterable[str], seed: int) -> "Graph64":
        """Return the graph with the constants of these names off by one unit in the last place.

        Numbers move independently, but for every fourth seed: a product with a scale near 1 that was rounded
        leaves all of a tensor off the same way.
        """
        rng, names, wide = np.random.default_rng(seed), set(names), onnx.ModelProto()
        wide.CopyFrom(self._model)
        for name, array, replace in list(_constants(wide.graph)):
            if name in names:
                signs = rng.choice([-1.0, 1.0], array.shape if (seed + 1) % _TOGETHER else ())
                replace(array.astype(np.float64) * (1.0 + _MOVE * signs))
        return Graph64(wide, self._name, self._exact)

    def _evaluate(self, feeds: Feeds) -> dict[str, Any]:
        wide = {name: x.astype(np.float64) if x.dtype.kind == "f" else x for name, x in feeds.items()}
        self._rounding.go_back(0)
        try:
            with np.errstate(all="ignore"):
                return dict(self._evaluator.run(None, wide, intermediate=True))
        except Exception as error:
            raise RuntimeError(first_line(error)) from error


def describe_node(node: onnx.NodeProto) -> str:
    """Return a node's operator and its name, or its first output's."""
    return f"{node.op_type} {node.name or next(iter(node.output), '')!r}"


def _double_values(model: onnx.ModelProto) -> set[str]:
    """Return the values that a float32 file computes in float64, as sizes are; no float32 rounds them."""
    double = onnx.TensorProto.DOUBLE
    if any(output.type.tensor_type.elem_type == double for output in model.graph.output):
        return set()
    casts = (node for node in model.graph.node if node.op_type == "Cast")
    if not any(attribute.i == double for node in casts for attribute in node.attribute):
        return set()
    typed = onnx.shape_inference.infer_shapes(model).graph.value_info
    return {value.name for value in typed if value.type.tensor_type.elem_type == double}


def _graphs(graph: Any) -> Iterator[Any]:
    """Yield a graph or a function, and the bodies in it."""
    yield graph
    for attribute in (each for node in graph.node for each in node.attribute):
        for inner in (attribute.g, *attribute.graphs):
            yield from _graphs(inner)


def _unit(model: onnx.ModelProto) -> float:
    """Return the unit roundoff of what a file computes in."""
    half = any(each.data_type == onnx.TensorProto.FLOAT16 for each in model.graph.initializer)
    return float(np.finfo(np.float16).eps) / 2 if half else UNIT


def _beyond(value: Any) -> bool:
    return (
        isinstance(value, np.ndarray) and value.dtype.kind == "f" and bool((np.abs(value) > _LARGEST).any())
    )


def differs(one: Array, two: Array, limit: float) -> bool:
    """Return whether two values differ by more than ``limit`` of the largest element of the first."""
    if one.shape != two.shape:
        return True
    if one.dtype.kind != "f" or not one.size:
        return not np.array_equal(one, two)
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    return not np.allclose(one, two, rtol=0.0, atol=limit * scale, equal_nan=True)


class Constants:
    """The constants of a graph beside the tensors of its reference."""

    def __init__(self, graph: Graph64, tensors: Iterable[Array]) -> None:
        arrays = (np.zeros(1), *tensors)
        self._numbers = np.unique(np.concatenate([np.asarray(each, np.float32).ravel() for each in arrays]))
        self._held: list[Array] = []
        """The reference's tensors in order,"""
        self._computed: list[Array] = []
        """and those that have more digits than the weights of a file."""
        for array in arrays:
            exact = np.array_equal(array, np.asarray(array, np.float32), equal_nan=True)
            (self._held if exact else self._computed).append(np.sort(array, axis=None))
        self._constants = [
            (name, array, rounded, self._lacking(rounded))
            for name, array in graph.constants.items()
            for rounded in [array[~_is_short(array)]]
        ]
        """By name: the numbers, those that were rounded, and of these those that no tensor has."""

    def introduced(self) -> Iterator[str]:
        """Return those that hold rounded numbers which the reference's tensors do not.

        One that is the reference's but for some elements is a wrong copy, and none that was introduced. One
        that the reference computes from its weights, as weight norm does, is rounded to float32 in the file.
        """
        for name, array, rounded, strange in self._constants:
            new = 2 * strange.size > rounded.size and not _in(array, self._held)
            parts = (array, *array) if array.ndim == _OF_DIRECTIONS else (array,)
            if new or any(_in(part, self._computed) for part in parts):
                yield name

    def short(self) -> Iterator[str]:
        """Return those of several short numbers that are not all the reference's.

        The translation may have computed them, and rounded: ``exp`` of ``log(3)`` is 3 in float32 alone.
        """
        for name, array, rounded, _ in self._constants:
            if array.size > 1 and not rounded.size and self._lacking(array.ravel()).size:
                yield name

    def wrong(self) -> Iterator[str]:
        """Return those in which a few numbers are none of the reference's, and these numbers.

        What is computed from weights is new throughout; a copy that is off in some places is wrong. No case
        may show it: a unit behind a ReLU may be off on all of them.
        """
        for name, array, rounded, strange in self._constants:
            few = 0 < strange.size <= max(1, int(_FEW * rounded.size))
            if few and (rounded.size - strange.size >= _COPIED or _in(array, self._held)):
                yield f"{name} has {', '.join(f'{value:.9g}' for value in strange[:3])}"

    def _lacking(self, numbers: Array) -> Array:
        """Return those of some numbers that no tensor has."""
        place = np.minimum(np.searchsorted(self._numbers, numbers), len(self._numbers) - 1)
        return np.asarray(numbers[self._numbers[place] != numbers])


def _in(array: Array, others: Iterable[Array]) -> bool:
    """Tell whether an array is one of others, which are in order, or nearly, in whatever order."""
    alike = [each for each in others if each.size == array.size]
    mine = np.sort(array, axis=None) if alike else array
    return any(np.allclose(mine, each, rtol=_ALIKE, atol=0) for each in alike)


def rounded_inverses(graph: Graph64) -> Iterator[str]:
    """Return the constants M that another one, K, undoes to rounding, and those that read what M gives alone.

    They surround a projected state, which comes back rounded: chunks differ from the whole by that much.
    """
    matrices = {name: array.astype(np.float64) for name, array in graph.constants.items() if array.ndim >= 2}
    for entering in matrices.values():
        *outer, rows, columns = entering.shape
        for leaving in matrices.values():
            if rows >= columns or leaving.shape != (*outer, columns, rows):
                continue
            if not nearly_equal(entering @ leaving, np.eye(rows)):
                continue
            for name, array in matrices.items():
                fits = array.shape[-1] == columns and (not outer or array.shape[:-2] == tuple(outer))
                if fits and nearly_equal(array @ leaving @ entering, array):
                    yield name


def nearly_equal(product: Array, expected: Array) -> bool:
    """Return whether a product of a matrix and its inverse in float32 may be ``expected``."""
    limit = _ROUNDED_PRODUCT * np.abs(expected).max(initial=0.0)
    return bool((np.abs(product - expected) <= limit).all())


def _is_short(values: Array) -> Array:
    with np.errstate(all="ignore"):
        parts = values.astype(np.float64) * _SHORT
        return np.asarray((parts == np.round(parts)) | ~np.isfinite(values))


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Array, Callable[[Array], None]]]:
    """Return the name, the values and what replaces the values of every float constant of a graph."""
    nodes: list[onnx.NodeProto] = []
    tensors: list[tuple[str, onnx.TensorProto]] = []
    for each in _graphs(graph):
        tensors += ((tensor.name, tensor) for tensor in each.initializer)
        nodes += each.node
    for node in nodes:
        for attribute in node.attribute:
            name = f"{attribute.name} of {describe_node(node)}"
            if attribute.type == onnx.AttributeProto.FLOAT:
                yield name, np.array([attribute.f], np.float32), partial(_set_float, attribute)
            tensors.append((node.output[0] if node.op_type == "Constant" else name, attribute.t))
    for name, tensor in tensors:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            yield name, onnx.numpy_helper.to_array(tensor), partial(_replace, tensor)


def _set_float(attribute: onnx.AttributeProto, array: Array) -> None:
    attribute.f = float(array[0])


class MeasuredGraph:
    """A file without a float64 run: its floats and its inputs are moved by one unit in the last place."""

    tensors: tuple[Array, ...] = ()

    def __init__(self, model: onnx.ModelProto, run: Runner) -> None:
        """Take the graph, and what runs it in float32."""
        self._model, self.run64 = model, run
        self.unit = 2 * _unit(model)
        """Sigmoid and tanh near 1 are off by a unit in the last place, which no moved input shows."""

    def perturbed(self, feeds: Feeds, rounding: Rounding) -> dict[str, Array]:
        """Return every output of the moved file; raises as ``Graph64.run64``."""
        moved = onnx.ModelProto()
        moved.CopyFrom(self._model)
        for _, array, replace in list(_constants(moved.graph)):
            replace(_nextafter(array, rounding))
        try:
            session = open_session(moved.SerializeToString())
            return run_by_name(session, {name: _nextafter(array, rounding) for name, array in feeds.items()})
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RuntimeError(first_line(error)) from error

    def overflow(self, feeds: Feeds) -> str:  # noqa: ARG002
        """Return ``""``: nothing is known of the values inside."""
        return ""


def open_graph(content: bytes, run: Runner) -> Graph64 | MeasuredGraph:
    """Return a file's graph in float64, or measured where it has no such run; ``run`` is its in float32."""
    model = onnx.load_from_string(content)
    try:
        return Graph64(model)
    except UnsupportedError:
        return MeasuredGraph(model, run)


def _nextafter(array: Array, rounding: Rounding) -> Array:
    """Return floats moved by one unit in the last place, up or down at random."""
    if array.dtype.kind != "f":
        return array
    direction = np.where(rounding.signs(array.shape) > 0, np.inf, -np.inf).astype(array.dtype)
    return np.asarray(np.where(array == 0, array, np.nextafter(array, direction)))


def _as_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose every float tensor, input, output and cast is float64, and every output named.

    onnx's evaluator gives what has no name to every later input that is left out.
    """
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    graphs = [graph for top in (wide.graph, *wide.functions) for graph in _graphs(top)]
    for number, node in enumerate(node for graph in graphs for node in graph.node):
        node.output[:] = [name or f"unnamed {number} {place}" for place, name in enumerate(node.output)]
        if node.op_type == "ConstantOfShape" and not node.attribute:  # zeros of float32
            node.attribute.append(
                onnx.helper.make_attribute("value", onnx.numpy_helper.from_array(np.zeros(1)))
            )
        for attribute in node.attribute:
            _widen(attribute)
    for tensor in (tensor for graph in graphs for tensor in getattr(graph, "initializer", ())):
        _widen_tensor(tensor)
    return wide


def _widen(attribute: onnx.AttributeProto) -> None:
    """Make every float of an attribute float64, in place."""
    if attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
        attribute.i = onnx.TensorProto.DOUBLE
    elif attribute.name in ("value_float", "value_floats"):
        floats = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        values = onnx.numpy_helper.from_array(np.array(floats, np.float64))
        attribute.CopyFrom(onnx.helper.make_attribute("value", values))
    elif attribute.type == onnx.AttributeProto.TENSOR:
        _widen_tensor(attribute.t)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        _replace(tensor, onnx.numpy_helper.to_array(tensor).astype(np.float64))


def _replace(tensor: onnx.TensorProto, array: Array) -> None:
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
