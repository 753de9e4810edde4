"""What the manifest of a module's file should say, found by tracing the module as ``export`` does."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import Manifest

from ..export.config import ExportConfig
from ..export.pipeline import convert_module, own_copy
from ..numerics.noise import Layout
from ..numerics.reference import Signature, TorchReference, flatten_output
from .file import ModelFile

__all__ = ["trace_manifest"]


def trace_manifest(
    module: nn.Module,
    signature: Signature,
    example: Any,
    file: ModelFile,
    config: ExportConfig | None,
) -> tuple[TorchReference, Manifest]:
    """Trace the module with the names, and the fixed sizes, that the file's graph has."""
    own = own_copy(module)
    with torch.no_grad():
        made = flatten_output(signature.call(copy.deepcopy(own), signature.example))
    graph = file.graph_axes
    outputs = tuple(output.name for output in file.proto.graph.output)[: len(made)]
    plain = config or ExportConfig(outputs=outputs)
    named = {name: graph[name] for name in signature.names if "?" not in graph.get(name, ("?",))}
    known = {axis for axes in named.values() for axis in axes}
    try:
        prepared = convert_module(
            module,
            example,
            replace(
                plain,
                inputs={**named, **plain.inputs},
                stateless={value.name for value in file.proto.graph.input} <= {*signature.names},
                batch=next((axis for axis in (file.manifest.batch,) if axis in known), plain.batch),
                sequence=next((axis for axis in (file.manifest.sequence,) if axis in known), plain.sequence),
            ),
        )
    except LstmEdgeError:
        if not {state.input for state in file.manifest.states} <= {*signature.names}:
            prepared = convert_module(module, example, plain)
        else:
            layout = Layout.of(file.manifest)
            return TorchReference(own, signature, outputs, layout=layout), file.manifest
    return prepared.reference, prepared.manifest
