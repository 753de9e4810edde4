"""Working on an ONNX graph: names, axes, shapes, new nodes, bytes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnx_ir.passes.common import ShapeInferencePass
from onnx_ir.serde import SerdeError

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import FileFormatError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import KEY, Array, Axes, Manifest, TensorSpec
from lstm_edge_runtime.ort import DIGEST, sealed

_MAX_WEIGHT_BYTES = 2**31 - 2**20
"""Protobuf's limit of 2 GiB, with room for the manifest."""
END = int(np.iinfo(np.int64).max)
"""The end of any axis."""
MOVING_AXES = ("Identity", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move axes and change no number."""
VIEWS = frozenset(
    (*MOVING_AXES, "Cast", "Concat", "Gather", "Reshape", "Slice", "Split")
)
"""Operators whose outputs hold the numbers of their operands in another layout: of all
operands for ``Concat``, else of the first."""
_NARROWED = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT64,
    TensorProto.INT32,
)
_NARROW = (TensorProto.INT32, TensorProto.INT16, TensorProto.INT8, TensorProto.UINT8)
"""Types of whole numbers in which numbers of ``_NARROWED`` wrap."""
_LINE = "lstm_edge.line"
"""Entry of a node's ``meta``."""
KEEPING = (VIEWS - {"Concat"}) | {
    *("Clip", "Expand", "Flatten", "Pad", "ReverseSequence", "Tile", "TopK")
}
"""Operators whose outputs hold numbers of the first operand."""
ELEMENTWISE = (
    *("Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh"),
    *("BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh"),
    *("Div", "Elu", "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater"),
    *("GreaterOrEqual", "HardSigmoid", "HardSwish", "IsInf", "IsNaN", "LeakyRelu"),
    *("Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish", "Mod", "Mul", "Neg"),
    *("Not", "Or", "Pow", "PRelu", "Reciprocal", "Relu", "Round", "Selu", "Shrink"),
    *("Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum"),
    *("Tan", "Tanh", "ThresholdedRelu", "Where", "Xor"),
)
"""Operators whose result has an element for each element of the operands, which
broadcast."""
RANDOM = frozenset(
    (
        *("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"),
        *("RandomUniform", "RandomUniformLike"),
    )
)
"""Operators that draw random numbers."""


def constant(value: ir.Value | None) -> Array | None:
    """Return the array of an initializer or a ``Constant`` node, None for any other
    value.
    """
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def line_of(node: ir.Node) -> str:
    """Return the line of the source that a node comes from; empty if unknown."""
    return str(node.meta.get(_LINE, ""))


def set_line(node: ir.Node, line: str) -> None:
    """Record the line of the source that a node comes from."""
    node.meta[_LINE] = line


def keep_line(value: ir.Value, node: ir.Node) -> None:
    """Record that the node which gives a value is written for another node."""
    producer = value.producer()
    if producer is not None:
        set_line(producer, line_of(node))


def data_inputs(graph: ir.Graph) -> list[ir.Value]:
    """Return the inputs that a caller must feed: those without an initializer of the
    same name.
    """
    return [value for value in graph.inputs if not value.is_initializer()]


def axes_of(value: ir.Value) -> Axes:
    """Return a value's axes: an int if fixed, a name if dynamic (``name.1`` for one
    without a name).
    """
    return tuple(
        axis if isinstance(axis, int) else axis.value or f"{value.name}.{index}"
        for index, axis in enumerate(value.shape or ())
    )


def spec_of(value: ir.Value) -> TensorSpec:
    """Return name, dtype and axes of a value."""
    dtype = "float32" if value.dtype is None else str(value.dtype.numpy().name)
    return TensorSpec(str(value.name), dtype, axes_of(value))


def describe_value(value: ir.Value) -> str:
    """Return name, dtype and axes for a message."""
    spec = spec_of(value)
    return f"{spec.name} {spec.dtype} {describe(spec.axes)}"


def operands(value: ir.Value) -> Iterator[ir.Value]:
    """Yield the values that the node which computes ``value`` reads."""
    node = value.producer()
    if node is not None:
        yield from values_read(node)


def values_read(node: ir.Node) -> Iterator[ir.Value]:
    """Yield the inputs of a node, and the values that its bodies read."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            for graph in (body, *body.subgraphs()):
                for inner in graph:
                    yield from (value for value in inner.inputs if value is not None)
                # a result of a body may be a value from outside
                yield from graph.outputs


def readers(value: ir.Value) -> list[tuple[ir.Node, int]]:
    """Return the nodes that read ``value``, directly or through operators that keep its
    elements.
    """

    def copies(reading: ir.Value) -> Iterator[ir.Value]:
        """Yield outputs that hold the value's elements unchanged."""
        for node, index in reading.uses():
            if index == 0 and node.op_type in KEEPING:
                # the second output of TopK holds indices
                yield from node.outputs[:1] if node.op_type == "TopK" else node.outputs

    uses = []
    for reading in walk([value], copies):
        for node, index in reading.uses():
            if node.op_type not in KEEPING:
                uses.append((node, index))
    return uses


def walk(
    starts: Iterable[ir.Value], following: Callable[[ir.Value], Iterable[ir.Value]]
) -> Iterator[ir.Value]:
    """Return ``starts`` and all values that ``following`` leads to from them, each
    once.
    """
    waiting = list(starts)
    seen = set(waiting)
    while waiting:
        value = waiting.pop()
        yield value
        for next_value in following(value):
            if next_value not in seen:
                seen.add(next_value)
                waiting.append(next_value)


def is_data_free(value: ir.Value) -> bool:
    """Return True if ``value`` is computed from constants and from the sizes of other
    values alone.

    Custom-domain and random operators count as data; ``x * 0`` does not.
    """
    return not any(map(_is_data, walk([value], _numbers_read)))


def _numbers_read(value: ir.Value) -> Iterable[ir.Value]:
    """Return the values whose numbers, not only sizes, ``value`` is computed from."""
    node = value.producer()
    if node is None or node.op_type in ("Shape", "Size") or _is_zero(node):
        return ()
    return values_read(node)


def _is_data(value: ir.Value) -> bool:
    """Return True for an input, and for the result of an unknown or random operator."""
    node = value.producer()
    if node is not None:
        return node.domain != "" or node.op_type in RANDOM
    return value.is_graph_input() and not value.is_initializer()


def _is_zero(node: ir.Node) -> bool:
    """Return True for ``x * 0``, a common way to write zeros of the size of ``x``."""
    if node.op_type != "Mul":
        return False
    arrays = [constant(factor) for factor in node.inputs]
    return any(array is not None and array.size and not array.any() for array in arrays)


def behind_identity(value: ir.Value) -> ir.Value:
    """Return the original of ``value`` if it is a copy, else ``value``."""
    while True:
        node = value.producer()
        if node is None or node.op_type != "Identity" or node.inputs[0] is None:
            return value
        value = node.inputs[0]


def dynamic_axes(graph: ir.Graph) -> list[str]:
    """Return the names of the dynamic axes of the inputs, in order of appearance."""
    names: dict[str, None] = {}
    for value in data_inputs(graph):
        for axis in axes_of(value):
            if isinstance(axis, str):
                names[axis] = None
    return list(names)


def forget_shapes(model: ir.Model) -> None:
    """Drop the declared shapes of values that follow from the inputs."""
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            value.shape = None


def infer_shapes(model: ir.Model) -> None:
    """Infer dtypes and shapes of tensors, in place."""
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=True)(model)


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` as a protobuf message with its weights inside.

    Raises:
        UnsupportedError: the weights do not fit into one file.
        FileFormatError: the graph has parts that no file can contain.
    """
    size = sum(_bytes_of(graph) for graph in (model.graph, *model.graph.subgraphs()))
    if size > _MAX_WEIGHT_BYTES:
        raise UnsupportedError(
            f"the weights are {size:,} bytes, a file has at most {_MAX_WEIGHT_BYTES:,};"
            " split the network"
        )
    try:
        proto = ir.to_proto(model)
    except SerdeError as error:
        raise FileFormatError(
            f"the graph is malformed: {first_line(error.__cause__ or error)}"
        ) from error
    for graph in (proto.graph, *_bodies(proto.graph)):
        _separate_casts(graph)
    return proto


def _bodies(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs inside of nodes, at any depth."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from _bodies(attribute.g)


def _separate_casts(graph: onnx.GraphProto) -> None:
    """Put a ``Max`` of one operand between two casts of which the second can wrap, in
    place: onnxruntime joins them to one cast, which does not wrap alike.
    """
    targets: dict[str, int] = {}
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        for attribute in node.attribute if node.op_type == "Cast" else ():
            if attribute.name == "to" and node.input and node.output:
                before = targets.get(node.input[0])
                targets[node.output[0]] = attribute.i
                if before in _NARROWED and attribute.i in _NARROW:
                    graph.node.append(_separator(node))
        graph.node.append(node)


def _separator(cast: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that changes nothing, from which ``cast`` then reads."""
    name = f"{cast.output[0]}_unjoined"
    separator = helper.make_node("Max", [cast.input[0]], [name], name=name)
    cast.input[0] = name
    return separator


def _bytes_of(graph: ir.Graph | ir.GraphView) -> int:
    """Return the number of bytes of the weights of a graph."""
    tensors = [value.const_value for value in graph.initializers.values()]
    known = [tensor for tensor in tensors if tensor is not None]
    for tensor in known:
        if tensor.dtype == ir.DataType.UNDEFINED:
            raise FileFormatError(
                f"the graph is malformed: constant {tensor.name!r} has no data type"
            )
    return sum(tensor.nbytes for tensor in known)


def to_bytes(model: ir.Model) -> bytes:
    """Return the file's bytes, the same ones for the same content; raises as
    ``to_proto``.
    """
    return bytes(to_proto(model).SerializeToString(deterministic=True))


def with_manifest(proto: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Return the bytes of ``proto`` with ``manifest`` in it, instead of any that it
    has, and sealed.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    del copy.metadata_props[:]
    copy.metadata_props.extend(
        prop for prop in proto.metadata_props if prop.key not in (KEY, DIGEST)
    )
    copy.metadata_props.add(key=KEY, value=manifest.to_json())
    return sealed(bytes(copy.SerializeToString(deterministic=True)))


class UniqueNames:
    """Makes names that are new in a graph and its subgraphs."""

    def __init__(self, graph: ir.Graph) -> None:
        """Collect all names of a graph and of its bodies."""
        self._taken: set[str | None] = set()
        for inner in (graph, *graph.subgraphs()):
            self._add(inner.inputs)
            self._add(inner.initializers.values())
            for node in inner:
                self._taken.add(node.name)
                self._add(node.inputs)
                self._add(node.outputs)

    def _add(self, values: Iterable[ir.Value | None]) -> None:
        """Reserve the names of values."""
        self._taken.update(value.name for value in values if value is not None)

    def unique(self, name: str) -> str:
        """Return ``name``, or ``name_2``, ``name_3`` ... if it is used, and reserve
        it.
        """
        candidate = name
        number = 1
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def copied_node(
    node: ir.Node,
    inputs: Sequence[ir.Value | None],
    name: Callable[[str], str],
    title: str = "",
) -> ir.Node:
    """Return a copy of a node that reads other values, not in a graph yet; its outputs
    have the types and shapes of the old ones.

    Args:
        node: the node.
        inputs: the values that the copy reads.
        name: makes a name unique.
        title: name of the copy; empty for that of the node.
    """
    copy = ir.Node(
        node.domain,
        node.op_type,
        inputs,
        node.attributes.values(),
        num_outputs=len(node.outputs),
        name=name(title or node.name or node.op_type),
    )
    for old, new in zip(node.outputs, copy.outputs, strict=True):
        new.name = name(str(old.name))
        new.type = old.type
        new.shape = old.shape
    set_line(copy, line_of(node))
    return copy


class Builder:
    """Adds nodes to a graph, each with names of its own after ``prefix``."""

    def __init__(
        self, before: ir.Node | ir.Graph, prefix: str, names: UniqueNames | None = None
    ) -> None:
        """Add nodes before another node, or at the end of a graph.

        Args:
            before: the node, or the graph.
            prefix: first part of every name; empty for names without it.
            names: the names in use, from the graph if None.
        """
        self._node = before if isinstance(before, ir.Node) else None
        graph = before.graph if isinstance(before, ir.Node) else before
        assert isinstance(graph, ir.Graph)
        self._graph = graph
        self._prefix = prefix
        self._names = names or UniqueNames(graph)

    def node(
        self,
        op: str,
        inputs: Sequence[ir.Value | Array | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        outputs: int = 1,
        name: str = "",
        like: ir.Value | None = None,
    ) -> Sequence[ir.Value]:
        """Add one node of the ``ai.onnx`` domain and return its outputs; arrays become
        initializers.

        The outputs have the dtype of the first input, or dtype and shape of ``like``.
        """
        name = name or op
        values: list[ir.Value | None] = []
        for value in inputs:
            if isinstance(value, np.ndarray):
                value = self.constant(value, f"{name}_in")
            values.append(value)
        made = ir.node(
            op, values, attributes or {}, num_outputs=outputs, name=self.name(name)
        )
        typed = like
        if typed is None and values:
            typed = values[0]
        for index, output in enumerate(made.outputs):
            stem = f"{name}_{index}" if outputs > 1 else f"{name}_out"
            output.name = self.name(stem)
            if typed is not None and typed.dtype is not None:
                # values that share a type share later changes of their dtype
                output.type = ir.TensorType(typed.dtype)
            if like is not None:
                output.shape = like.shape
        self.insert(made)
        return made.outputs

    def value(
        self,
        op: str,
        inputs: Sequence[ir.Value | Array | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        name: str = "",
        like: ir.Value | None = None,
    ) -> ir.Value:
        """Add one node of one output and return the output; see ``node``."""
        (value,) = self.node(op, inputs, attributes, name=name, like=like)
        return value

    def insert(self, node: ir.Node) -> None:
        """Add an existing node."""
        if self._node is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._node, node)

    def constant(self, array: Array, name: str) -> ir.Value:
        """Add an initializer."""
        title = self.name(name)
        value = ir.val(title, const_value=ir.tensor(array, name=title))
        self._graph.register_initializer(value)
        return value

    def weight(self, array: Array, name: str) -> ir.Value:
        """Add an initializer; a layer that is called again shares it."""
        shared = self._graph.initializers.get(f"{self._prefix}.{name}")
        stored = constant(shared)
        if shared is not None and stored is not None and np.array_equal(stored, array):
            return shared
        return self.constant(array, name)

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Return ``value`` as ``dtype``."""
        out = self.value("Cast", [value], {"to": int(dtype)})
        out.dtype = dtype
        return out

    def replace(self, values: Sequence[ir.Value]) -> None:
        """Replace the outputs of the node that nodes are added before by ``values``,
        and remove it.
        """
        assert self._node is not None
        for old, new in zip(self._node.outputs, values, strict=False):
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        self._graph.remove(self._node, safe=True)

    def name(self, stem: str) -> str:
        """Return an unused name that starts with the prefix."""
        return self._names.unique(f"{self._prefix}.{stem}" if self._prefix else stem)


def put_behind(
    value: ir.Value,
    op: str,
    others: Sequence[ir.Value],
    attributes: Mapping[str, Any],
) -> None:
    """Let the readers of a node's result read ``op(value, *others)``, which takes over
    the name of ``value``.
    """
    node = value.producer()
    assert node is not None
    assert isinstance(node.graph, ir.Graph)
    following = [*node.graph][node.graph.index(node) + 1 :]
    build = Builder(following[0] if following else node.graph, f"{value.name}.behind")
    new = build.value(op, [value, *others], attributes)
    new.shape = None
    name = value.name
    value.name = f"{name}.before"
    ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
    reader = new.producer()
    assert reader is not None
    reader.replace_input_with(0, value)
    new.name = name
