"""The last passes over a graph: names, what a machine left in it, opset, the manifest, the bytes."""

from collections.abc import Collection, Sequence

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from lstm_edge_runtime._version import __version__
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import KEY, Manifest

__all__ = ["rename_outputs", "serialize", "tidy"]


_LARGEST = 2**31 - 2**20
"""Protobuf's limit, with room for the manifest."""


def rename_outputs(model: ir.Model, names: Sequence[str], states: Collection[str]) -> None:
    """Name the graph's outputs.

    One that is an input, a constant or another output gets an Identity node first; so does every one that is
    not named in ``states``, lest a lifted state takes it for its own. ``tidy`` removes what was not needed.
    """
    seen: set[ir.Value] = set()
    for place, name in enumerate(names):
        value = model.graph.outputs[place]
        if name not in states or value.is_graph_input() or value.is_initializer() or value in seen:
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[place] = node.outputs[0]
        seen.add(model.graph.outputs[place])
    for place, name in enumerate(names):
        model.graph.outputs[place].name = name


def tidy(model: ir.Model) -> None:
    """Remove what nothing uses, and every trace of the machine that exported: stacks, paths, notes."""
    _drop_identities(model.graph)
    for clean in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.ClearMetadataAndDocStringPass(),
        common.NameFixPass(),
    ):
        clean(model)
    model.producer_name, model.producer_version = "lstm-edge", __version__
    model.graph.name = "main"


def _drop_identities(graph: ir.Graph) -> None:
    """Remove Identity nodes but those that give a value a second name at the graph's border."""
    for node in list(graph):
        source, value = (node.inputs or [None])[0], node.outputs[0]
        if node.op_type != "Identity" or source is None:
            continue
        if value.is_graph_output():
            if source.is_graph_input() or source.is_initializer() or source.is_graph_output():
                continue
            name, value.name = value.name, None
            source.name, source.shape = name, value.shape
        ir.convenience.replace_all_uses_with(value, source, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def serialize(model: ir.Model, manifest: Manifest, opset: int, ir_version: int) -> bytes:
    """Return the file's bytes, the same ones for the same content.

    Raises:
        UnsupportedError: the weights do not fit into one file, or the graph can't be written for ``opset``.
    """
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if size > _LARGEST:
        raise UnsupportedError(
            f"the weights are {size:,} bytes, one ONNX file holds {_LARGEST:,}; export a part"
        )
    proto = ir.to_proto(model)
    if opset != model.opset_imports[""]:
        try:
            proto = onnx.version_converter.convert_version(proto, opset)
        except Exception as error:
            raise UnsupportedError(f"the graph can't be written for opset {opset}: {error}") from error
    proto.ir_version = ir_version
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=manifest.to_json())
    return bytes(proto.SerializeToString(deterministic=True))
