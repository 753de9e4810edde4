"""The manifest of a traced graph, before anything was measured."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

from ..versions import versions
from .config import ExportConfig
from .roles import Roles, axes_of

__all__ = ["describe"]

_MAKERS = ("lstm-edge", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


def describe(model: ir.Model, roles: Roles, lifted: Sequence[StateSpec], config: ExportConfig) -> Manifest:
    """Return the manifest.

    Raises:
        InputError: the config gives a reset value, a task output or a state that the file does not have.
    """
    values = {str(value.name): value for value in model.graph.inputs}
    own = [
        StateSpec(name, output, _dtype(values[name]), axes_of(values[name]), config.reset.get(name, 0.0))
        for name, output in roles.states.items()
    ]
    states = sorted([*own, *lifted], key=lambda state: list(values).index(state.input))
    inputs = {state.input for state in states}
    outputs = {state.output for state in states}
    for name in config.reset:
        if name not in roles.states:
            raise InputError(f"reset of {name}: the states are {', '.join(roles.states) or 'none'}")
    plain = tuple(_tensor(value) for value in model.graph.outputs if value.name not in outputs)
    if config.task is not None and config.task.output not in [spec.name for spec in plain]:
        raise InputError(
            f"task output {config.task.output!r}: the outputs are {', '.join(spec.name for spec in plain)}"
        )
    return Manifest(
        inputs=tuple(_tensor(value) for name, value in values.items() if name not in inputs),
        outputs=plain,
        states=tuple(state._replace(reset=_every_row(state)) for state in states),
        batch=roles.batch,
        sequence=roles.sequence,
        lengths=roles.lengths,
        task=config.task,
        signal=config.signal,
        provenance=_provenance(config),
    )


def _provenance(config: ExportConfig) -> dict[str, Any]:
    return {
        "checkpoint_sha256": config.checkpoint_sha256,
        "opset": config.opset,
        "ir_version": config.ir_version,
        "versions": versions(*_MAKERS),
    }


def _every_row(state: StateSpec) -> float | npt.NDArray[Any]:
    """Return the reset value with each fixed axis in full: one row may stand for a batch of fixed size."""
    shape = [axis if isinstance(axis, int) else 1 for axis in state.axes]
    try:
        return np.broadcast_to(state.reset, shape) if isinstance(state.reset, np.ndarray) else state.reset
    except ValueError as error:
        raise InputError(
            f"reset of {state.input} has shape {list(np.shape(state.reset))}, expected {shape}"
        ) from error


def _tensor(value: ir.Value) -> TensorSpec:
    return TensorSpec(str(value.name), _dtype(value), axes_of(value))


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(value.dtype.numpy().name)
