"""From the graph to C: pin its axes, give it names that C can take, and let emx-onnx-cgen translate it."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import onnx
from emx_onnx_cgen import Compiler
from emx_onnx_cgen.compiler import CompilerOptions
from onnx import inliner

from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Axes

from ._indices import check_indices
from ._interface import Interface

__all__ = ["translate"]

_NOT_C99 = re.compile(r"\b(_Float16|__bf16|_BitInt)\b")


def translate(model: onnx.ModelProto, interface: Interface) -> tuple[str, bool]:
    """Return the C code of one call, everything in it ``static``, and whether it checks indices.

    The function is called ``<name>_call``. Its parameters are the graph's inputs and then its outputs, in
    the file's order; where it checks indices, the last is ``int32_t wrong[1]``.

    Raises:
        UnsupportedError: the generator can't translate a node, or needs types that C99 has not.
    """
    entry = f"{interface.name}_call"
    # both thresholds at 0: no weights in a file, no temporaries from malloc
    options = CompilerOptions(model_name=entry, large_weight_threshold=0, large_temp_threshold_bytes=0)
    pinned = _pinned(model, interface)
    checked = check_indices(pinned, interface.lengths.name if interface.lengths else None)
    _rename(pinned.graph, _Renamer())
    try:
        code = Compiler(options).compile(pinned)
    except Exception as error:  # the generator raises nearly anything on graphs that it does not know
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UnsupportedError(
            f"the file can't be translated to C: {reason:.300}; give it another form, or use onnxruntime"
        ) from error
    if wide := _NOT_C99.search(code):
        raise UnsupportedError(f"the file needs {wide[1]}, which C99 has not; convert the float32 file")
    return _enclosed(code, entry), checked


def _enclosed(code: str, entry: str) -> str:
    """Make all that the linker would see ``static``, and mark helpers that a graph may leave unused."""
    code = re.sub(r"^extern const .*;\n", "", code, flags=re.MULTILINE)
    code = re.sub(r"^const EMX_UNUSED ", "static const EMX_UNUSED ", code, flags=re.MULTILINE)
    code = re.sub(r"^static inline ", "static inline EMX_UNUSED ", code, flags=re.MULTILINE)
    code, loaders = re.subn(rf"^_Bool {entry}_load\(.*?^}}\n+", "", code, flags=re.MULTILINE | re.DOTALL)
    code, entries = re.subn(rf"^void {entry}\(", f"static void {entry}(", code, flags=re.MULTILINE)
    assert (loaders, entries) == (1, 1)
    return code


def _pinned(given: onnx.ModelProto, interface: Interface) -> onnx.ModelProto:
    """Return a copy with fixed shapes, and with nothing of the file's own words in it but names.

    The generator copies names and descriptions into comments: a file could end one and go on in code.
    """
    model = inliner.inline_local_functions(given)
    graph = model.graph
    del model.metadata_props[:]
    for holder, texts in (
        (model, ("producer_name", "producer_version", "domain", "doc_string")),
        (graph, ("doc_string",)),
    ):
        for text in texts:
            holder.ClearField(text)
    graph.name = interface.name
    del graph.metadata_props[:], graph.quantization_annotation[:]

    ports = {port.name: port for port in (*interface.inputs, *interface.outputs)}
    if interface.lengths is not None:
        ports[interface.lengths.name] = interface.lengths
    for state in interface.states:
        ports |= {state.name: state, state.output: state}
    for value in (*graph.input, *graph.output):
        if value.name in ports:  # the rest are initializers that older files list as inputs
            _fix_shape(value, ports[value.name].shape)
    for value in graph.value_info:
        _fix_shape(value, resolve(_axes(value), interface.sizes))
    for node in graph.node:
        for attribute in list(node.attribute):
            if (attribute.name, attribute.s) == ("direction", b"forward"):
                node.attribute.remove(attribute)  # the default, which the generator knows only unwritten
    return model


def _axes(value: onnx.ValueInfoProto) -> Axes:
    dimensions = value.type.tensor_type.shape.dim
    return tuple(each.dim_value if each.HasField("dim_value") else each.dim_param for each in dimensions)


def _fix_shape(value: onnx.ValueInfoProto, shape: Sequence[int] | None) -> None:
    """Declare ``shape``, or none at all: one that is known in part leads the generator astray."""
    tensor = value.type.tensor_type
    stated = tensor.HasField("shape")
    tensor.ClearField("shape")
    if stated and shape is not None:
        tensor.shape.SetInParent()
        for size in shape:
            tensor.shape.dim.add().dim_value = size


class _Renamer:
    """Gives every name one of plain characters, equal for equal names and different for different ones."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}
        self._used: set[str] = set()

    def __call__(self, name: str) -> str:
        if not name:  # an optional input that is left out
            return name
        if name not in self._given:
            stem = plain = re.sub(r"[^A-Za-z0-9_.]", "_", name, flags=re.ASCII)
            number = 1
            while plain in self._used:
                number += 1
                plain = f"{stem}.{number}"
            self._used.add(plain)
            self._given[name] = plain
        return self._given[name]


def _rename(graph: onnx.GraphProto, rename: Callable[[str], str]) -> None:
    for value in chain(graph.input, graph.output, graph.value_info, graph.initializer):
        value.name = rename(value.name)
        value.ClearField("doc_string")
    for sparse in graph.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
    for node in graph.node:
        node.name = rename(node.name)
        node.ClearField("doc_string")
        del node.metadata_props[:]
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for text in _texts(attribute):
                if not re.fullmatch(rb"[A-Za-z0-9_ ,.>-]*", text):
                    raise UnsupportedError(
                        f"a {node.op_type} node has the attribute {attribute.name} = {text[:40]!r}, "
                        "which can't stand in C code"
                    )
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                inner.ClearField("doc_string")
                _rename(inner, rename)


def _texts(attribute: onnx.AttributeProto) -> Iterator[bytes]:
    yield attribute.s
    yield from attribute.strings
