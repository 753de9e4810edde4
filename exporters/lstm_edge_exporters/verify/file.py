"""The file under test: opened by the runtime's own rules, then run on plain named
arrays.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import (
    ContractError,
    FileFormatError,
    ManifestError,
)
from lstm_edge_runtime.files import read_content, refuse_program
from lstm_edge_runtime.manifest import KEY, Axes, Manifest
from lstm_edge_runtime.ort import CPU, open_session

from ..graph import data_inputs
from .engine import engine_of

_INT8_ARITHMETIC = re.compile(
    r"DynamicQuantize|(MatMul|Conv)Integer|Q(Linear|Gemm)|QuantizeLinear"
)
"""Operators that compute in 8 bits."""
_INT8_STORED = re.compile(r"DequantizeLinear|MatMulNBits")
"""Operators that decode weights of 8 bits or fewer."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file and the manifest it keeps, or why it keeps none."""

    path: Path
    """Path of the file."""
    sha256: str
    """Hex digest of its bytes."""
    model: Model | None
    """None if the manifest is missing or contradicts the graph."""
    broken: str
    """Why the manifest contradicts the graph; empty if it does not."""

    @property
    def manifest(self) -> Manifest:
        """The file's manifest; only if there is a model."""
        assert self.model is not None
        return self.model.manifest

    @cached_property
    def inlined(self) -> ir.Model:
        """The graph without functions."""
        model = ir.from_proto(self.proto)
        ir.passes.Sequential(InlinePass(), RemoveUnusedNodesPass())(model)
        return model

    @property
    def has_manifest(self) -> bool:
        """True if the file has a manifest, if only a broken one."""
        return any(entry.key == KEY for entry in self.proto.metadata_props)

    @property
    def operators(self) -> set[str]:
        """The operators of every node, those in bodies included."""
        return {node.op_type for node in self.inlined.graph.all_nodes()}

    @property
    def graph_axes(self) -> dict[str, Axes]:
        """The axes of every input and output as the graph declares them; ``?`` for one
        without a name.
        """
        values = (*data_inputs(self.inlined.graph), *self.inlined.graph.outputs)
        return {str(value.name): _declared_axes(value) for value in values}

    @cached_property
    def precision(self) -> str:
        """Precision of the outputs: ``fp32``, ``fp64``, ``fp16`` or ``int8``."""
        graph = self.inlined.graph
        is_int8 = self.arithmetic == "int8" or any(
            map(_INT8_STORED.match, self.operators)
        )
        if is_int8 or any(map(_decodes_int8, graph.all_nodes())):
            return "int8"
        graphs = (graph, *graph.subgraphs())
        values = [
            value for one_graph in graphs for value in one_graph.initializers.values()
        ]
        passed = [*graph.inputs, *graph.outputs]
        if any(value.dtype == ir.DataType.FLOAT16 for value in (*values, *passed)):
            return "fp16"
        if any(value.dtype == ir.DataType.DOUBLE for value in passed):
            return "fp64"
        return "fp32"

    @property
    def arithmetic(self) -> str:
        """How onnxruntime computes this graph, as a manifest has it."""
        if any(map(_INT8_ARITHMETIC.match, self.operators)):
            return "int8"
        constants = self.inlined.graph.initializers.values()
        return "float16" if any(map(_is_half_operand, constants)) else "float32"

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The graph with its weights; raises ``FileFormatError`` if it can't be
        read.
        """
        try:
            return onnx.load(str(self.path))
        except Exception as error:  # protobuf's DecodeError has no base class of ours
            raise FileFormatError(
                f"{self.path} is truncated, or not an ONNX file; copy it again"
            ) from error

    def runner(self, threads: int = 1, providers: tuple[str, ...] = (CPU,)) -> Runner:
        """Open a new session.

        Raises:
            ProviderError: a provider is not really in use.
            FileFormatError: onnxruntime can't read the file.
        """
        return engine_of(open_session(str(self.path), providers, threads))


def _is_half_operand(value: ir.Value) -> bool:
    """Return True if nodes compute with a float16 constant; casts only decode it."""
    operators = {use.node.op_type for use in value.uses()}
    return value.dtype == ir.DataType.FLOAT16 and operators != {"Cast"}


def _declared_axes(value: ir.Value) -> Axes:
    """Return the axes of a value; ``?`` for one without a name."""
    return tuple(
        axis if isinstance(axis, int) else axis.value or "?"
        for axis in value.shape or ()
    )


def _decodes_int8(node: ir.Node) -> bool:
    """Return True if a node casts an int8 weight that is then scaled; a table of codes
    is not.
    """
    value = node.inputs[0] if node.op_type == "Cast" else None
    if value is None or not value.is_initializer() or value.dtype != ir.DataType.INT8:
        return False
    return [use.node.op_type for use in node.outputs[0].uses()] == ["Mul"]


def open_file(path: str | os.PathLike[str]) -> ModelFile:
    """Open the file under test.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or unsafe.
        InputError: a native program.
    """
    path = Path(path)
    name, content = read_content(path)
    refuse_program(name, content)
    model = None
    broken = ""
    try:
        model = load(path)
    except (ContractError, ManifestError) as error:
        broken = str(error)
    return ModelFile(
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        model=model,
        broken=broken,
    )
