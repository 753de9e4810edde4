"""A PyTorch module as what a file is compared with."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime.errors import InputError, LstmEdgeError, first_line
from lstm_edge_runtime.manifest import Array, Manifest, StateSpec, TensorSpec

from ..export.config import ExportConfig
from ..graph import to_proto
from ..numerics.compare import Reference
from ..numerics.graph64 import Graph64
from ..numerics.indices import index_values
from ..numerics.reference import Signature, TorchReference, flatten_output, weights_sha256
from .reference import ModelFile, ReferenceModel

if TYPE_CHECKING:
    from ..export.file import File
    from ..export.request import Request


def against_module(
    module: nn.Module,
    file: ModelFile,
    example: Any = None,
    *,
    config: ExportConfig | None = None,
    about: str = "",
    sha256: str = "",
) -> ReferenceModel:
    """Compare with ``module``, called as the file's inputs are named.

    What the file's manifest should say is read off the module by tracing it, or off ``config``.

    Args:
        module: the trained network; copied, never changed.
        file: the file under test.
        example: what ``forward`` takes, as for ``export``; the file's golden inputs by default.
        config: what the module is exported with, where that is known: labels, units, features, rate, reset
            values other than 0 and axes are then compared as well.
        about: what to call the module in the report.
        sha256: of the checkpoint that the module's weights come from; ``config``'s by default.

    Raises:
        InputError: the file's manifest contradicts its graph, or the example does not fit.
        UnsupportedError: the file's states are not arguments of ``forward``, and the module can't be traced
            to find them in it.
    """
    if file.model is None:
        raise InputError(f"{file.path} can't be compared: {file.broken}")
    given = example is not None
    example = example if given else _example(module, file)
    signature = Signature.of(module, example)
    if given and config is None:
        _check_example(signature, file)
    if file.manifest.is_buffered:
        return _streamed(module, example, signature, file, config, about, sha256)
    if (
        config is not None
        and config.states is not None
        and {*signature.names} == {*config.inputs}
        and {state.input for state in file.manifest.states} <= {*config.states}
        and file.manifest.ranges == config.ranges
    ):
        manifest = _declared(file, signature.arrays, config)
        reference: Reference = TorchReference(module, signature, config.outputs)
        graph = None
    else:
        reference, manifest, graph = _trace_manifest(module, signature, example, file, config)
    return ReferenceModel(
        computation=reference,
        about=about or type(module).__name__,
        manifest=manifest,
        examples=signature.arrays,
        values=index_values((graph or ir.from_proto(file.proto)).graph),
        graph=cache(lambda: _translated(module, example, config) if graph is None else _evaluated(graph)),
        sha256=sha256 or (config.checkpoint_sha256 if config else None) or "",
        weights=weights_sha256(module),
        asks_ranges=config is not None,
        past=reference.past if isinstance(reference, _WithPast) else (),
    )


def _streamed(
    module: nn.Module,
    example: Any,
    signature: Signature,
    file: ModelFile,
    config: ExportConfig | None,
    about: str,
    sha256: str,
) -> ReferenceModel:
    """Compare with the stream that ``module`` is exported to, which is verified on the way."""
    from ..export import export

    axes = {spec.name: spec.axes for spec in file.manifest.inputs}
    plain = config or ExportConfig(outputs=tuple(spec.name for spec in file.manifest.outputs))
    made = export(module, example, replace(plain, stream=True, inputs={**axes, **plain.inputs}))
    graph = Graph64(onnx.load_from_string(made.model), "the module's stream")
    return ReferenceModel(
        computation=graph,
        about=about or type(module).__name__,
        manifest=made.manifest,
        examples=signature.arrays,
        values=index_values(ir.from_proto(file.proto).graph),
        graph=lambda: graph,
        sha256=sha256 or (config.checkpoint_sha256 if config else None) or "",
        weights=weights_sha256(module),
        asks_ranges=config is not None,
    )


def _translated(module: nn.Module, example: Any, config: ExportConfig | None) -> Graph64 | None:
    """Return what the module is translated to; None where it can't be traced with what is known of it."""
    from ..export.pipeline import convert
    from ..export.request import make_request

    try:
        return _evaluated(next(convert(make_request(module, example, config or ExportConfig()))).model)
    except LstmEdgeError:
        return None


def _evaluated(graph: ir.Model) -> Graph64:
    return Graph64(to_proto(graph), "the module's graph")


def _check_example(signature: Signature, file: ModelFile) -> None:
    for name, shape in signature.shapes.items():
        axes = file.graph_axes.get(name, ())
        fixed = zip(axes, shape, strict=False)
        if axes and (len(axes) != len(shape) or any(isinstance(a, int) and a != s for a, s in fixed)):
            raise InputError(
                f"the example's {name} is {list(shape)}, {file.path.name} takes "
                f"({', '.join(map(str, axes))}); compare the file with the module that it was exported from"
            )


def _trace_manifest(
    module: nn.Module, signature: Signature, example: Any, file: ModelFile, config: ExportConfig | None
) -> tuple[Reference, Manifest, ir.Model | None]:
    """Trace the module as ``export`` does, with the names and the fixed sizes that the file's graph has."""
    from ..export.ranges import settle_ranges  # as long to import as a quick validation takes
    from ..export.request import make_request, own_copy

    own = own_copy(module)
    try:
        with torch.no_grad():
            made = flatten_output(signature.call(copy.deepcopy(own), signature.example))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in signature.shapes.items())
        raise InputError(
            f"{type(module).__name__} does not take what {file.path.name} does ({shapes}): "
            f"{first_line(error)}; compare the file with the module that it was exported from"
        ) from error
    graph = file.graph_axes
    outputs = tuple(output.name for output in file.content.graph.outputs)[: len(made)]
    plain = config or ExportConfig(outputs=outputs)
    named = {name: graph[name] for name in signature.names if "?" not in graph.get(name, ("?",))}
    known = {axis for axes in named.values() for axis in axes}
    try:
        told = replace(
            plain,
            inputs={**named, **plain.inputs},
            stateless={value.name for value in file.content.graph.inputs} <= {*signature.names},
            batch=next((axis for axis in (file.manifest.batch,) if axis in known), plain.batch),
            sequence=next((axis for axis in (file.manifest.sequence,) if axis in known), plain.sequence),
        )
        prepared = _convert(make_request(module, example, told), file)
    except LstmEdgeError:
        if not {state.input for state in file.manifest.states} <= {*signature.names}:
            prepared = _convert(make_request(module, example, plain), file)
        else:
            manifest = file.manifest._replace(golden=None)
            return TorchReference(own, signature, outputs), manifest, None
    run, (exact, _) = file.runner(), file.graph64
    ranges, _ = settle_ranges(prepared, run, exact.run64 if exact else run, plain.ranges)
    reference: Reference = prepared.reference
    if prepared.lifted.past:
        reference = _WithPast(prepared.reference, _evaluated(prepared.model), prepared.lifted.past)
    return reference, prepared.manifest._replace(ranges=ranges), prepared.model


def _convert(request: "Request", file: ModelFile) -> "File":
    """Convert as ``export`` does; without states of the past that the file does not have."""
    from ..export.pipeline import convert

    own = {state.input for state in file.manifest.states}
    return next(each for each in convert(request) if {state.input for state in each.lifted.past} <= own)


class _WithPast:
    """A module as the reference of a file that keeps frames of the past in states.

    No module can be started from these: away from reset, what it is translated to tells what is right.
    """

    def __init__(self, module: TorchReference, graph: Graph64, past: Sequence[StateSpec]) -> None:
        self._module, self._graph, self._past, self.tensors = module, graph, past, module.tensors
        self.past = tuple(state.input for state in past)

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        found = self._graph.run64(feeds)
        if all((feeds[state.input] == state.reset).all() for state in self._past):
            return {**found, **self._module.run64(feeds)}
        return found


def _declared(file: ModelFile, example: Mapping[str, Array], config: ExportConfig) -> Manifest:
    """Return the manifest that ``config`` gives, without tracing; shapes of outputs are seen when it runs."""
    assert config.states is not None
    own = {spec.name: spec for spec in file.manifest.outputs}
    return Manifest(
        inputs=tuple(
            TensorSpec(name, example[name].dtype.name, tuple(axes))
            for name, axes in config.inputs.items()
            if name not in config.states
        ),
        outputs=tuple(
            own.get(name, TensorSpec(name, "float32", ()))
            for name in config.outputs
            if name not in config.states.values()
        ),
        states=tuple(
            StateSpec(name, output, "float32", tuple(config.inputs[name]), config.reset.get(name, 0.0))
            for name, output in config.states.items()
        ),
        batch=config.batch,
        sequence=config.sequence,
        ranges=config.ranges,
        lengths=config.lengths,
        task=config.task,
        signal=config.signal,
        trained=config.trained,
    )


def _example(module: nn.Module, file: ModelFile) -> dict[str, torch.Tensor]:
    arrays = file.manifest.golden.inputs if file.manifest.golden else {}
    parameters = inspect.signature(module.forward).parameters
    found = {name: torch.from_numpy(np.array(arrays[name])) for name in arrays if name in parameters}
    if not found:
        raise InputError(
            f"{file.path} carries no golden inputs named as the parameters of {type(module).__name__}."
            f"forward ({', '.join(parameters)}); give an example"
        )
    dtypes = (each.dtype for each in module.parameters() if each.is_floating_point())
    own = next(dtypes, torch.float32)  # a file is float32 whatever its module is
    return {name: each.to(own) if each.is_floating_point() else each for name, each in found.items()}
