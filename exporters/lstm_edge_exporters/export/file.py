"""The file: what a machine left in the graph is removed, the manifest is written, and the bytes.

``File`` also holds what the verification needs: the module as a reference, and cases.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common
from torch import nn

from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import all_ones
from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Manifest, StateSpec, Task, TensorSpec

from ..graph import spec_of, to_proto, with_manifest
from ..numerics.cases import CaseGenerator
from ..numerics.indices import index_values
from ..numerics.reference import Injection, TorchReference
from ..versions import IR_VERSION, MAKERS, versions
from .config import ExportConfig
from .lower import Lowered
from .request import Request
from .roles import Roles
from .states import Lifted
from .trace import Traced


@dataclass(frozen=True)
class File:
    """A file before its verification, and what it is verified with."""

    model: ir.Model
    manifest: Manifest
    """Without golden case and figures."""
    reference: TorchReference
    cases: CaseGenerator
    roles: Roles
    traced: Traced
    lifted: Lifted
    notes: tuple[str, ...]


def make_file(request: Request, traced: Traced, lowered: Lowered, lifted: Lifted) -> File:
    """Write the manifest, and make the module the reference for a file with such states.

    Raises:
        InputError: the config gives a reset value, a task output or a state that the file does not have.
        UnsupportedError: a state was lifted out of a call of ``torch.lstm`` and the like outside of a layer.
    """
    _check_starts(request.module, lifted.injections)
    model = lifted.model
    roles = lowered.roles
    config, signature = request.config, request.signature
    _tidy(model)
    manifest = _build_manifest(model, roles, (*lifted.states, *lifted.past), config)._replace(
        ranges=config.ranges,
        unstreamable=lowered.window,
        provenance={**_provenance(config), "weights_sha256": request.weights_sha256},
    )
    window = (
        f"no states are carried from call to call: {lowered.window}; to stream, let the layers run over an "
        "axis with a name, such as L in --input x=N,L,3"
    )
    notes = (*traced.notes, *request.notes, *lowered.notes, *lifted.notes, *roles.notes)
    return File(
        model,
        manifest,
        TorchReference(request.module, signature, roles.outputs, lifted.injections),
        replace(
            CaseGenerator.of(manifest, signature.arrays, index_values(model.graph), config.seed),
            held=frozenset(state.input for state in lifted.past),
        ),
        roles,
        traced,
        lifted,
        (*notes, window) if lowered.window else notes,
    )


def _check_starts(module: nn.Module, injections: Sequence[Injection]) -> None:
    """Refuse a state that verification could not start the module from."""
    for each in injections:
        if not isinstance(module.get_submodule(each.path), nn.RNNBase | nn.RNNCellBase):
            raise UnsupportedError(
                f"forward calls torch.lstm, torch.gru or torch.rnn itself and makes {each.input} inside; "
                "make it an argument, use nn.LSTM, nn.GRU or nn.RNN, or export without states (stateless)"
            )


def _tidy(model: ir.Model) -> None:
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
    model.metadata_props.clear()


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


def _build_manifest(
    model: ir.Model, roles: Roles, lifted: Sequence[StateSpec], config: ExportConfig
) -> Manifest:
    values = {spec.name: spec for spec in map(spec_of, model.graph.inputs)}
    own = [
        StateSpec(name, output, values[name].dtype, values[name].axes, config.reset.get(name, 0.0))
        for name, output in roles.states.items()
    ]
    states = sorted([*own, *lifted], key=lambda state: list(values).index(state.input))
    inputs = {state.input for state in states}
    outputs = {state.output for state in states}
    for name in config.reset:
        if name not in roles.states:
            raise InputError(f"reset of {name}: the states are {', '.join(roles.states) or 'none'}")
    plain = tuple(spec_of(value) for value in model.graph.outputs if value.name not in outputs)
    taken = tuple(spec for name, spec in values.items() if name not in inputs)
    task = None if config.task is None else _described(config.task, plain)
    features = config.signal.features
    width = next((spec.width for spec in taken if len(spec.axes) > 1), None)
    if features and isinstance(width, int) and len(features) != width:
        raise InputError(f"got {len(features)} names of features, expected {width}, the width of the input")
    return Manifest(
        inputs=taken,
        outputs=plain,
        states=tuple(state._replace(reset=_every_row(state)) for state in states),
        batch=roles.batch,
        sequence=roles.sequence,
        lengths=roles.lengths,
        task=task,
        signal=config.signal,
        trained=config.trained,
    )


def _described(task: Task, outputs: Sequence[TensorSpec]) -> Task:
    """Return ``task`` with its output, which is there and as wide as there are names for it."""
    found = {spec.name: spec for spec in outputs}
    output = found.get(task.output) if task.output else next(iter(outputs), None)
    if output is None:
        raise InputError(f"task output {task.output!r}: the outputs are {', '.join(found) or 'states only'}")
    width = output.width
    for what, names in (("labels", task.labels), ("units", task.units)):
        if names and isinstance(width, int) and len(names) != width:
            raise InputError(
                f"got {len(names)} {what}, expected {width}, the width of output {output.name!r}"
            )
    return task._replace(output=output.name)


def serialize(model: ir.Model, manifest: Manifest, opset: int) -> bytes:
    """Return the file's bytes, the same ones for the same content.

    Raises:
        UnsupportedError: the weights do not fit into one file, or the graph can't be written for ``opset``.
    """
    proto = to_proto(model)
    if opset != model.opset_imports[""]:
        try:
            proto = onnx.version_converter.convert_version(proto, opset)
        except Exception as error:
            raise UnsupportedError(
                f"the graph can't be written for opset {opset}: {first_line(error)}"
            ) from error
    proto.ir_version = IR_VERSION
    return with_manifest(proto, manifest)


def _provenance(config: ExportConfig) -> dict[str, Any]:
    return {
        "checkpoint_sha256": config.checkpoint_sha256,
        "opset": config.opset,
        "ir_version": IR_VERSION,
        "versions": versions(*MAKERS),
    }


def _every_row(state: StateSpec) -> float | npt.NDArray[Any]:
    """Return the reset value with each fixed axis in full: one row may be given for a batch of fixed size."""
    shape = all_ones(state.axes)
    try:
        return np.broadcast_to(state.reset, shape) if isinstance(state.reset, np.ndarray) else state.reset
    except ValueError as error:
        raise InputError(
            f"reset of {state.input} has shape {list(np.shape(state.reset))}, expected {list(shape)}"
        ) from error
