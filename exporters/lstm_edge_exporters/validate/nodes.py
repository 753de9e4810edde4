"""Two graphs compared node by node, in any order of nodes and under any names.

Values are paired from the outputs on, which have names, to what computes them: the same
operator with the same attributes, and operands that are paired likewise. If nothing
differs, both graphs are the same function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import constant


@dataclass(frozen=True)
class GraphDifferences:
    """Where a graph is not the expected one, nearest to the inputs first."""

    nodes: Sequence[str]
    """Operators, attributes and wiring."""
    constants: Sequence[str]
    """Constants that are not equal bit for bit."""

    def __bool__(self) -> bool:
        """Return True if there is any difference."""
        return bool(self.nodes or self.constants)


def compare_graphs(model: ir.Model, expected: ir.Model) -> GraphDifferences:
    """Compare two models without functions; nodes that no output needs are left out."""
    return _Comparison(model, expected).differences()


@dataclass(frozen=True)
class _Pair:
    """Two values that should be the same one."""

    value: ir.Value | None
    """Value of the file."""
    expected: ir.Value | None
    """Value of the expected graph."""
    role: str
    """The output or operand that they are."""
    reader: ir.Node | None = None
    """The node of the compared graph that reads ``value``."""


@dataclass
class _Comparison:
    """The pairs of values of two graphs that are still to be compared."""

    model: ir.Model
    """The file's graph."""
    expected: ir.Model
    """The graph that it must be."""
    _waiting: list[_Pair] = field(default_factory=list)
    """Pairs that were found but not compared yet."""
    _seen: set[tuple[ir.Value, ir.Value]] = field(default_factory=set)
    """Pairs that were compared."""
    _formal: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """Inputs of bodies, and the expected ones."""
    _nodes: list[tuple[int, str]] = field(default_factory=list)
    """Differences of nodes, with the position of the node."""
    _constants: dict[str, int] = field(default_factory=dict)
    """Differences with the position of the node that has, or reads, them."""

    def differences(self) -> GraphDifferences:
        """Compare all pairs."""
        nodes = self.model.graph.all_nodes()
        self._position = {node: index for index, node in enumerate(nodes)}
        self._compare_opsets()
        outputs = {str(value.name): value for value in self.expected.graph.outputs}
        for value in self.model.graph.outputs:
            if value.name in outputs:
                wanted_value = outputs[str(value.name)]
                where = f"output {value.name!r}"
                self._waiting.append(_Pair(value, wanted_value, where))
        while self._waiting:
            self._compare(self._waiting.pop())
        by_position = sorted(self._nodes, key=lambda entry: entry[0])
        texts = dict.fromkeys(text for _, text in by_position)
        constants = sorted(self._constants, key=lambda text: self._constants[text])
        return GraphDifferences(tuple(texts), tuple(constants))

    def _compare_opsets(self) -> None:
        """Report the domains whose operators have another version."""
        imports = self.model.opset_imports
        expected = self.expected.opset_imports
        for domain in sorted({*imports, *expected}):
            version = imports.get(domain)
            expected_version = expected.get(domain)
            if version != expected_version:
                name = domain or "ai.onnx"
                text = f"opset {version} of {name}, expected {expected_version}"
                self._nodes.append((-1, text))

    def _compare(self, pair: _Pair) -> None:
        """Compare two values, and what computes them."""
        value = pair.value
        expected = pair.expected
        if value is None or expected is None:
            if value is not expected:
                self._report(pair, _origin(value), _origin(expected))
            return
        if (value, expected) in self._seen:
            return
        self._seen.add((value, expected))
        if value in self._formal:
            if self._formal[value] is not expected:
                self._report(pair, _origin(value), _origin(expected))
            return
        node = value.producer()
        expected_node = expected.producer()
        if node is not None and expected_node is not None:
            self._compare_nodes(pair, node, expected_node)
        elif node is not None or expected_node is not None:
            self._report(pair, _origin(value), _origin(expected))
        elif value.is_initializer() and expected.is_initializer():
            self._compare_constants(pair, value, expected)
        elif _origin(value) != _origin(expected):
            self._report(pair, _origin(value), _origin(expected))

    def _compare_nodes(
        self, pair: _Pair, node: ir.Node, expected_node: ir.Node
    ) -> None:
        """Compare two nodes that compute values of one role."""
        assert pair.value is not None
        assert pair.expected is not None
        same_operator = node.op_identifier() == expected_node.op_identifier()
        if not same_operator or pair.value.index() != pair.expected.index():
            self._report(pair, _origin(pair.value), _origin(pair.expected))
            return
        position = self._position[node]
        title = _title(node)
        for name in dict.fromkeys([*expected_node.attributes, *node.attributes]):
            attribute = node.attributes.get(name)
            wanted_attribute = expected_node.attributes.get(name)
            bodies = _bodies(attribute)
            wanted_bodies = _bodies(wanted_attribute)
            if bodies and len(bodies) == len(wanted_bodies):
                for body, wanted_body in zip(bodies, wanted_bodies, strict=True):
                    self._enter(
                        body, wanted_body, where=f"{name} of {title}", node=node
                    )
            elif _written(attribute) != _written(wanted_attribute):
                shown = f"{_shown(attribute)}, expected {_shown(wanted_attribute)}"
                self._nodes.append((position, f"{title}: {name} is {shown}"))
        inputs = _trimmed(node.inputs)
        wanted_inputs = _trimmed(expected_node.inputs)
        for index in range(max(len(inputs), len(wanted_inputs))):
            value = inputs[index] if index < len(inputs) else None
            expected = wanted_inputs[index] if index < len(wanted_inputs) else None
            where = f"{title}: operand {index}"
            self._waiting.append(
                _Pair(value=value, expected=expected, role=where, reader=node)
            )

    def _enter(
        self, body: ir.Graph, expected: ir.Graph, where: str, node: ir.Node
    ) -> None:
        """Pair inputs and outputs of a body by their position."""
        sizes = (len(body.inputs), len(body.outputs))
        expected_sizes = (len(expected.inputs), len(expected.outputs))
        if sizes != expected_sizes:
            text = f"{where}: {sizes} inputs and outputs, expected {expected_sizes}"
            self._nodes.append((self._position[node], text))
            return
        self._formal |= dict(zip(body.inputs, expected.inputs, strict=True))
        for value, wanted_value in zip(body.outputs, expected.outputs, strict=True):
            self._waiting.append(
                _Pair(value=value, expected=wanted_value, role=where, reader=node)
            )

    def _compare_constants(
        self, pair: _Pair, value: ir.Value, expected: ir.Value
    ) -> None:
        """Report two constants that differ."""
        array = constant(value)
        expected_array = constant(expected)
        about = _unequal(array, expected_array)
        if about:
            position = -1 if pair.reader is None else self._position[pair.reader]
            self._constants.setdefault(f"{value.name} {about}", position)

    def _report(self, pair: _Pair, got: str, expected: str) -> None:
        """Report a difference at its node."""
        node = None if pair.value is None else pair.value.producer()
        known = node or pair.reader
        position = -1 if known is None else self._position[known]
        self._nodes.append((position, f"{pair.role} is {got}, expected {expected}"))


def _title(node: ir.Node) -> str:
    """Return a node's name and operator."""
    name = node.name or node.outputs[0].name
    return f"node {name!r} ({node.op_type})"


def _origin(value: ir.Value | None) -> str:
    """Return the origin of a value."""
    if value is None:
        return "left out"
    node = value.producer()
    if node is None:
        role = "constant" if value.is_initializer() else "input"
        return f"{role} {value.name!r}"
    index = value.index()
    return f"output {index} of {_title(node)}" if index else _title(node)


def _bodies(attribute: ir.Attr | None) -> Sequence[ir.Graph]:
    """Return the graphs in an attribute."""
    if attribute is None:
        return ()
    if attribute.type is ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    if attribute.type is ir.AttributeType.GRAPHS:
        return tuple(attribute.as_graphs())
    return ()


def _written(attribute: ir.Attr | None) -> bytes:
    """Return the bytes of an attribute, without its name."""
    if attribute is None:
        return b""
    if attribute.type is ir.AttributeType.TENSOR:
        array = attribute.as_tensor().numpy()
        return repr((array.dtype, array.shape)).encode() + array.tobytes()
    proto = ir.to_proto(attribute)
    proto.doc_string = ""
    return bytes(proto.SerializeToString(deterministic=True))


def _shown(attribute: ir.Attr | None) -> str:
    """Return an attribute as a short text."""
    if attribute is None:
        return "none"
    is_tensor = attribute.type is ir.AttributeType.TENSOR
    value = attribute.as_tensor().numpy() if is_tensor else attribute.value
    return " ".join(str(value).split())[:60]


def _trimmed(values: Sequence[ir.Value | None]) -> list[ir.Value | None]:
    """Return operands without those that are left out at the end."""
    trimmed = list(values)
    while trimmed and trimmed[-1] is None:
        trimmed.pop()
    return trimmed


def _bytes_of(array: Array) -> npt.NDArray[np.uint8]:
    """Return the bytes of each element, on a last axis."""
    flat = np.frombuffer(array.tobytes(), np.uint8)
    return flat.reshape(*array.shape, array.dtype.itemsize)


def _unequal(array: Array | None, expected: Array | None) -> str:
    """Return how a constant differs from the expected one; empty if it does not."""
    if array is None or expected is None:
        return "" if array is expected else "has no values"
    if array.dtype != expected.dtype or array.shape != expected.shape:
        return (
            f"is {array.dtype} {array.shape}, expected {expected.dtype}"
            f" {expected.shape}"
        )
    if array.tobytes() == expected.tobytes():
        return ""
    is_different = _bytes_of(array) != _bytes_of(expected)
    differing = np.argwhere(is_different.any(-1))
    index = tuple(map(int, differing[0]))
    more = f" and at {len(differing) - 1} more" if len(differing) > 1 else ""
    return f"is {array[index]!s} at {list(index)}{more}, expected {expected[index]!s}"
