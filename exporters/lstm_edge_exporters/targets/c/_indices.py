"""Indices that come from inputs, checked by the graph itself: generated C reads memory wherever they say."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

__all__ = ["check_indices"]

_ONE_AXIS = ("Gather", "GatherElements", "ScatterElements")
_POINTS = ("GatherND", "ScatterND")
_UNCHECKED = {
    "ArrayFeatureExtractor": 1,
    "EmbedLayerNormalization": 0,
    "GatherBlockQuantized": 1,
    "MaxUnpool": 1,
    "NegativeLogLikelihoodLoss": 1,
    "RoiAlign": 2,
    "Scatter": 1,
    "SequenceAt": 1,
    "SoftmaxCrossEntropyLoss": 1,
    "TensorScatter": 2,
}
"""Operators that index too, and which input their indices are; no network needs them here."""
_INDICES = {**dict.fromkeys((*_ONE_AXIS, *_POINTS), 1), **_UNCHECKED}


def check_indices(model: onnx.ModelProto, valid: str | None) -> bool:
    """Put a check before each operator that takes indices from inputs, in place.

    An index out of range becomes 0 there, and one output more, ``int32 (1,)``, is then 1 and not 0.

    Args:
        model: a graph with fixed shapes.
        valid: an input that is never out of range.

    Returns:
        Whether there is anything to check.

    Raises:
        UnsupportedError: an operator whose indices can't be checked.
    """
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer} | {valid}
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    prefix = "index_check"
    while any(name.startswith(prefix) for name in used):
        prefix += "_"
    shapes = _shapes(model)
    nodes: list[onnx.NodeProto] = []
    flags: list[str] = []
    for node in graph.node:
        inner = [each for subgraph in _subgraphs(node) for each in _all_nodes(subgraph)]
        if unchecked := next((each.op_type for each in inner if each.op_type in _INDICES), None):
            raise UnsupportedError(f"{unchecked} in a {node.op_type} takes indices that C can't check")
        # what depends on shapes alone is as constant as they are
        if node.op_type in ("Shape", "Size") or (known.issuperset(filter(None, node.input)) and not inner):
            known.update(node.output)
        place = _INDICES.get(node.op_type)
        if place is not None and node.input[place] not in known:
            flag = f"{prefix}.{len(flags)}"
            nodes += _check(node.input[place], np.array(_sizes(node, shapes)), flag)
            node.input[place] = f"{flag}.safe"
            flags.append(flag)
        nodes.append(node)
    if flags:
        nodes.append(helper.make_node("Concat", flags, [f"{prefix}.all"], axis=0))
        nodes.append(helper.make_node("ReduceMax", [f"{prefix}.all"], [prefix], keepdims=1))
        del graph.node[:]
        graph.node.extend(nodes)
        graph.output.append(helper.make_tensor_value_info(prefix, onnx.TensorProto.INT32, [1]))
    return bool(flags)


def _check(indices: str, sizes: Array, flag: str) -> Iterator[onnx.NodeProto]:
    """Yield nodes that make ``flag``, ``int32 (1,)``, and the indices in range, ``<flag>.safe``."""

    def name(what: str) -> str:
        return f"{flag}.{what}"

    constants = {"least": -sizes, "most": sizes - 1, "zero": np.array(0), "flat": np.array([-1])}
    for what, array in constants.items():
        value = numpy_helper.from_array(np.asarray(array, np.int64))
        yield helper.make_node("Constant", [], [name(what)], value=value)
    yield helper.make_node("Cast", [indices], [name("wide")], to=onnx.TensorProto.INT64)
    yield helper.make_node("Less", [name("wide"), name("least")], [name("below")])
    yield helper.make_node("Greater", [name("wide"), name("most")], [name("above")])
    yield helper.make_node("Or", [name("below"), name("above")], [name("wrong")])
    yield helper.make_node("Where", [name("wrong"), name("zero"), name("wide")], [name("safe")])
    yield helper.make_node("Cast", [name("wrong")], [name("number")], to=onnx.TensorProto.INT32)
    yield helper.make_node("Reshape", [name("number"), name("flat")], [name("row")])
    yield helper.make_node("ReduceMax", [name("row")], [flag], keepdims=1)


def _sizes(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int | list[int]:
    """Return how many there are of what each index of a node picks from; of points for each of their axes."""
    data, indices = shapes.get(node.input[0]), shapes.get(node.input[1])
    attributes: dict[str, int] = {each.name: each.i for each in node.attribute}
    if node.op_type in _ONE_AXIS and data is not None:
        return data[attributes.get("axis", 0)]
    if node.op_type in _POINTS and data is not None and indices is not None:
        first = attributes.get("batch_dims", 0)
        return data[first : first + indices[-1]]
    raise UnsupportedError(
        f"{node.op_type} takes its indices from an input, and C can't check them; give the file another "
        "form, or use onnxruntime"
    )


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return every shape that is known whole."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(each.HasField("dim_value") for each in dims):
            found[value.name] = [each.dim_value for each in dims]
    return found


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [
        inner
        for attribute in node.attribute
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)
    ]


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for inner in _subgraphs(node):
            yield from _all_nodes(inner)
