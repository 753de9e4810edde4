"""``export``: a module in, a proven file out."""

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import torch
from torch import nn

from lstm_edge_runtime._session import SessionOptions, open_session
from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import Axes, Golden, Manifest, StateSpec, TensorSpec

from .artefact import Artefact
from .cases import Source, draw_cases
from .config import ExportConfig
from .contract import Roles, find_roles
from .finish import rename_outputs, serialise, tidy
from .lower import lower
from .reference import TorchReference
from .refusals import check_module
from .signature import Signature
from .trace import trace
from .verify import Candidate, verify

__all__ = ["export"]

Array = npt.NDArray[Any]


def export(module: nn.Module, example: Any, config: ExportConfig | None = None) -> Artefact:
    """Turn ``module`` into one ONNX file and prove that it computes what PyTorch does.

    The module is copied and the copy is traced in eval mode; the given one is not changed.

    Args:
        module: any module with recurrent layers.
        example: one tensor, a tuple of positional arguments or a dict of keyword arguments that ``forward``
            takes; integer inputs show the range of valid values.
        config: see ``ExportConfig``.

    Raises:
        InputError: the example or the config does not fit the module.
        UnsupportedError: the module does what can't be exported right.
        CheckFailedError: the file would not compute what the module does; says where and by how much.
    """
    config = config or ExportConfig()
    check_module(module)
    signature = Signature.of(module, example)
    own = _copy(module)
    _try_example(own, signature)
    axes = _axes(signature, config)
    traced = trace(_copy(module), signature, axes)
    model = traced.model
    roles = find_roles(model, traced.outputs, config)
    lower(model)
    rename_outputs(model, roles.outputs)
    tidy(model)
    manifest = _manifest(model, roles, config)
    reference = TorchReference(own, signature, roles.outputs)
    sources = _sources(manifest, signature)
    bare = serialise(model, manifest, config.opset, config.ir_version)
    _check(bare)
    candidate = _candidate(bare)
    draw: dict[str, Any] = {"batch": config.batch, "sequence": config.sequence, "seed": config.seed}
    equivalence = verify(candidate, reference, draw_cases(sources, **draw))
    manifest = replace(
        manifest,
        equivalence=equivalence.to_dict(),
        golden=_golden(reference, sources, draw),
    )
    content = serialise(model, manifest, config.opset, config.ir_version)
    nodes = Counter(node.op_type for node in onnx.load_model_from_string(content).graph.node)
    return Artefact(content, manifest, equivalence, dict(nodes))


def _copy(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module).eval()
    except Exception as error:
        raise InputError(
            f"{type(module).__name__} can't be copied ({error}); keep no tensors with gradients or open "
            "files as attributes"
        ) from error


def _try_example(module: nn.Module, signature: Signature) -> None:
    try:
        with torch.no_grad():
            signature.call(module, signature.example)
    except Exception as error:
        raise InputError(f"{type(module).__name__} does not run on the example: {error}") from error


def _axes(signature: Signature, config: ExportConfig) -> dict[str, Axes]:
    unknown = [name for name in config.inputs if name not in signature.names]
    if unknown:
        raise InputError(f"input {unknown[0]!r} is not one of {', '.join(signature.names)}")
    axes: dict[str, Axes] = {}
    for name, tensor in zip(signature.names, signature.example, strict=True):
        if name not in config.inputs:
            raise InputError(f"the axes of input {name!r} are not given")
        given = tuple(config.inputs[name])
        fits = len(given) == tensor.dim() and all(
            isinstance(axis, str) or axis == size for axis, size in zip(given, tensor.shape, strict=True)
        )
        if not fits:
            raise InputError(
                f"input {name}: axes {given} do not fit the example's shape {list(tensor.shape)}"
            )
        axes[name] = given
    return axes


def _manifest(model: ir.Model, roles: Roles, config: ExportConfig) -> Manifest:
    names = {axis for value in model.graph.inputs for axis in _value_axes(value) if isinstance(axis, str)}
    states = tuple(
        StateSpec(name, roles.states[name], _dtype(value), _value_axes(value), config.reset.get(name, 0.0))
        for value in model.graph.inputs
        if (name := str(value.name)) in roles.states
    )
    partners = {state.output for state in states}
    return Manifest(
        inputs=tuple(_tensor(v) for v in model.graph.inputs if v.name not in roles.states),
        outputs=tuple(_tensor(v) for v in model.graph.outputs if v.name not in partners),
        states=states,
        batch=config.batch if config.batch in names else None,
        sequence=config.sequence if config.sequence in names else None,
        lengths=roles.lengths,
        unstreamable=f"layer {roles.bidirectional[0] or 'rnn'} is bidirectional"
        if roles.bidirectional
        else "",
        task=config.task,
        signal=config.signal,
        provenance={
            "checkpoint_sha256": config.checkpoint_sha256,
            "opset": config.opset,
            "ir_version": config.ir_version,
            "versions": {
                name: version(name)
                for name in ("lstm-edge", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")
            },
        },
    )


def _tensor(value: ir.Value) -> TensorSpec:
    return TensorSpec(str(value.name), _dtype(value), _value_axes(value))


def _dtype(value: ir.Value) -> str:
    assert value.dtype is not None
    return str(value.dtype.numpy().name)


def _value_axes(value: ir.Value) -> Axes:
    assert value.shape is not None
    return tuple(axis if isinstance(axis, int) else str(axis) for axis in value.shape)


def _sources(manifest: Manifest, signature: Signature) -> list[Source]:
    examples = {n: t.detach().cpu().numpy() for n, t in zip(signature.names, signature.example, strict=True)}
    plain = [
        Source(
            spec.name,
            spec.dtype,
            spec.axes,
            "lengths" if spec.name == manifest.lengths else "signal",
            examples.get(spec.name),
        )
        for spec in manifest.inputs
    ]
    return plain + [
        Source(state.input, state.dtype, state.axes, "state", reset=state.reset) for state in manifest.states
    ]


def _check(content: bytes) -> None:
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:
        raise CheckFailedError(f"onnx.checker refuses the file: {str(error).splitlines()[0]}") from error


def _candidate(content: bytes) -> Candidate:
    session = open_session(content, SessionOptions())
    names = [output.name for output in session.get_outputs()]

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return run


def _golden(reference: TorchReference, sources: list[Source], draw: dict[str, Any]) -> Golden:
    case = list(draw_cases(sources, grid=((2, 12), (2, 12)), **draw))[1]
    own, wide = reference.run(case.feeds), reference.run64(case.feeds)
    floor = {name: float(np.abs(own[name] - wide[name]).max()) for name in own}
    return Golden(dict(case.feeds), own, floor)
