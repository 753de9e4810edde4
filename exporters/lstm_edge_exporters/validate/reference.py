"""What is compared: the file under test, and what it must equal.

The file is opened by the runtime's own rules, then run on plain named arrays. Its reference is another ONNX
file here; ``module`` has PyTorch modules.
"""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import (
    ContractError,
    InputError,
    ManifestError,
    UnsupportedError,
)
from lstm_edge_runtime.graph_check import graph_specs
from lstm_edge_runtime.manifest import KEY, Array, Axes, Manifest, TensorSpec
from lstm_edge_runtime.model import read_model, runner
from lstm_edge_runtime.onnx_reader import OnnxFile, ValueInfo
from lstm_edge_runtime.ort import CPU, Provider, SessionOptions, run_by_name

from ..isolation import open_isolated
from ..numerics.compare import Reference
from ..numerics.graph64 import Graph64
from ..numerics.indices import index_values

_INT8 = frozenset(
    """DynamicQuantizeLSTM DynamicQuantizeMatMul MatMulInteger MatMulIntegerToFloat MatMulNBits ConvInteger
    QLinearMatMul QLinearConv QGemm QuantizeLinear DynamicQuantizeLinear DequantizeLinear""".split()  # noqa: SIM905
)
"""Operators that compute with, or decode, 8 bits or fewer."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file and the manifest it keeps, or why it keeps none."""

    path: Path
    sha256: str
    model: Model | None
    """None where the manifest and the graph contradict one another."""
    broken: str
    """In what they do; empty where they agree."""
    given: Manifest | None = None
    """What a lifted file says of its original, which has no manifest."""

    @property
    def manifest(self) -> Manifest:
        """The file's own, or ``given``."""
        if self.given is not None:
            return self.given
        assert self.model is not None
        return self.model.manifest

    @property
    def has_manifest(self) -> bool:
        """True if the file has a manifest of its own that its graph keeps."""
        return self.model is not None

    @cached_property
    def content(self) -> OnnxFile:
        """The graph and what stands beside it."""
        return read_model(self.path)[1]

    @property
    def graph_axes(self) -> dict[str, Axes]:
        """The axes of every input and output as the graph declares them; ``?`` where it gives no name."""
        graph = self.content.graph
        values = (*graph.inputs, *graph.outputs)
        return {each.name: tuple("?" if axis is None else axis for axis in each.axes) for each in values}

    @cached_property
    def precision(self) -> str:
        """What the outputs are computed in: ``fp32``, ``fp64``, ``fp16`` or ``int8``."""
        model = ir.from_proto(self.proto)
        ir.passes.Sequential(InlinePass(), RemoveUnusedNodesPass())(model)
        operators = {node.op_type for node in model.graph.all_nodes()}
        graphs = (model.graph, *model.graph.subgraphs())
        stored = {value.dtype for graph in graphs for value in graph.initializers.values()}
        passed = {value.dtype for value in (*model.graph.inputs, *model.graph.outputs)}
        if stored & {ir.DataType.INT8, ir.DataType.UINT8} or operators & _INT8:
            return "int8"
        if ir.DataType.FLOAT16 in stored | passed:
            return "fp16"
        return "fp64" if ir.DataType.DOUBLE in passed else "fp32"

    @cached_property
    def proto(self) -> onnx.ModelProto:
        """The graph with its weights."""
        return onnx.load(str(self.path))

    @cached_property
    def graph64(self) -> tuple[Graph64 | None, str]:
        """The graph in float64; where it has no such run None and why."""
        try:
            return Graph64(self.proto, self.path.name), ""
        except UnsupportedError as error:
            return None, str(error)

    def runner(self, threads: int = 1, providers: tuple[Provider, ...] = (CPU,)) -> Runner:
        """Open a session of its own.

        Raises:
            ProviderError: a provider is not really in use.
            FileFormatError: onnxruntime can't read the file.
        """
        session = open_isolated(str(self.path), SessionOptions(providers=providers, threads=threads))
        floats = {
            spec.name: spec.dtype for spec in graph_specs(session.get_inputs()) if "float" in spec.dtype
        }

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            # floats may be wider or narrower than the file's
            own = {name: array.astype(floats.get(name, array.dtype)) for name, array in feeds.items()}
            return run_by_name(session, own)

        return run

    def native_runner(self) -> Runner:
        """Make the native engine of the file.

        Raises:
            UnsupportedError: a part of it is not covered.
            MissingDependencyError: ``lstm-edge-native`` is not installed.
        """
        from ..targets.native import to_native

        return runner(load(to_native(self.path)))


def open_file(path: str | os.PathLike[str]) -> ModelFile:
    """Open the file under test.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or unsafe.
    """
    path = Path(path)
    model, broken = None, ""
    try:
        model = load(path)
    except (ContractError, ManifestError) as error:
        broken = str(error)
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), model, broken)


@dataclass(frozen=True)
class ReferenceModel:
    """What a file is compared with."""

    computation: Reference
    about: str
    """What it is, in words."""
    manifest: Manifest
    """What the file's manifest should say: names, axes, states and their reset values, lengths; and of what
    the numbers mean as much as the reference knows."""
    examples: Mapping[str, Array] = field(default_factory=dict)
    """Values as they really come, by input name."""
    values: Mapping[str, int] = field(default_factory=dict)
    """How many values are valid, by the name of an input of indices."""
    sha256: str = ""
    """Of the checkpoint, where there is one."""
    weights: str = ""
    """``weights_sha256`` of a module."""
    stateless: bool = False
    """Whether it takes none of the file's states, as what was lifted does not: at reset alone it is asked."""
    past: tuple[str, ...] = ()
    """States of past steps, from which a module can't be started."""
    graph: Callable[[], Graph64 | None] = lambda: None
    """Gives the graph that the file should hold, where there is one: at the cost of a trace."""
    asks_ranges: bool = True
    """Whether the manifest's ranges are what was asked for; where not, they are the widest that hold."""
    regenerates: bool = True
    """Whether the golden cases of its export can be generated again; not those of a file made elsewhere."""


def against_file(path: str | os.PathLike[str], file: ModelFile | None = None) -> ReferenceModel:
    """Compare ``file`` with another ONNX file.

    States that the reference lacks, as the original of a lifted file does, are compared with the file's own
    float64 run, and at reset everything else with the reference.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
        InputError: its manifest contradicts its graph.
        UnsupportedError: it can't be run in float64.
    """
    other = open_file(path)
    if file is not None and file.model is not None and KEY not in other.content.metadata:
        other = replace(other, given=_interface_like(other, file.manifest))
    if other.model is None and other.given is None:
        raise InputError(f"{path} can't be a reference: {other.broken}")
    found = _of_file(other, f"{other.path.name} (ONNX)")
    if file is None or file.model is None or not file.manifest.states or other.manifest.states:
        return found
    computation = _AtReset(found.computation, file.manifest)
    freed = _freed(file.manifest, other.manifest)
    return replace(found, computation=computation, manifest=freed, stateless=True)


def _of_file(file: ModelFile, about: str) -> ReferenceModel:
    graph, reason = file.graph64
    if graph is None or file.precision == "int8":
        raise UnsupportedError(
            f"{reason or f'{file.path} is int8 and has no float64 run'}; "
            "compare with the float file or the PyTorch module that it was made from"
        )
    manifest = file.manifest
    return ReferenceModel(
        computation=graph,
        about=about,
        manifest=manifest,
        examples=dict(manifest.golden.inputs) if manifest.golden else {},
        values=index_values(ir.from_proto(file.proto).graph),
        sha256=str(manifest.provenance.get("checkpoint_sha256") or ""),
        asks_ranges=file.has_manifest,
        regenerates=file.has_manifest,
        graph=lambda: graph,
    )


def _interface_like(file: ModelFile, lifted: Manifest) -> Manifest:
    """Return the interface of a file without a manifest, with the names that a lifted file has for it."""
    graph = file.content.graph
    entering, leaving = (
        {
            each.name: TensorSpec(each.name, each.dtype, _merged(each.name, _named(each), lifted))
            for each in values
        }
        for values in (graph.inputs, graph.outputs)
    )
    states = [spec for spec in lifted.states if spec.input in entering and spec.output in leaving]
    for spec in states:
        del entering[spec.input], leaving[spec.output]
    return Manifest(
        tuple(entering.values()), tuple(leaving.values()), tuple(states), lifted.batch, lifted.sequence
    )


def _named(value: ValueInfo) -> Axes:
    return tuple(f"{value.name}.{i}" if axis is None else axis for i, axis in enumerate(value.axes))


def _merged(name: str, theirs: Axes, lifted: Manifest) -> Axes:
    """Return the axes of a tensor of the original; an axis is free that either file has free."""
    mine = lifted.axes.get(name, ())
    if len(mine) != len(theirs):
        return theirs
    return tuple(one if isinstance(one, str) else other for one, other in zip(mine, theirs, strict=True))


def _freed(lifted: Manifest, original: Manifest) -> Manifest:
    """Return the lifted file's manifest with the original's names; an axis is free that either has free."""
    inputs, outputs = (
        tuple(spec._replace(axes=_merged(spec.name, spec.axes, lifted)) for spec in specs)
        for specs in (original.inputs, original.outputs)
    )
    return lifted._replace(golden=original.golden, ranges=original.ranges, inputs=inputs, outputs=outputs)


class _AtReset:
    """A file without states as the reference of one with: it tells what is right from reset alone."""

    def __init__(self, original: Reference, manifest: Manifest) -> None:
        self._original, self._states, self.tensors = original, manifest.states, original.tensors

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        if any(np.any(feeds[state.input] != state.reset) for state in self._states):
            raise RuntimeError("it takes no states, and gives what is right from the reset states alone")
        inputs = {state.input for state in self._states}
        return self._original.run64({name: array for name, array in feeds.items() if name not in inputs})
