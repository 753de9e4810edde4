"""The way of an export: record, trace, lower, lift states, verify, finalize.

A new graph pass is called in ``convert_module``, between ``trace`` and ``tidy``.
"""

import copy
import os
import warnings
from collections import Counter
from collections.abc import Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lstm_edge_runtime import load
from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Axes, AxisRange, Manifest, StateSpec
from lstm_edge_runtime.ort import open_session, run_by_name
from lstm_edge_runtime.state import Runner

from ..numerics.cases import CaseGenerator, closed_loop
from ..numerics.floats import OTHER_FLOATS, copy_as
from ..numerics.function import Function, GraphError, fixed_axes
from ..numerics.graph64 import MeasuredGraph, open_graph
from ..numerics.indices import index_values
from ..numerics.reference import Injection, Signature, TorchReference, weights_sha256
from ..numerics.verify import (
    Candidate,
    ChunkedFile,
    Equivalence,
    StatesRefusedError,
    find_counts,
    measured_limits,
    record_golden,
    run_in_chunks,
    same_limits,
    states_stop_at_lengths,
    verify,
)
from ..progress import Progress, ignore, in_turn
from .config import ExportConfig
from .finalize import build_manifest, rename_outputs, serialize, tidy
from .lower import check_recurrent_nodes, lower, lower_sums
from .ranges import FewSizesError, Guard, settle_ranges
from .refusals import LoopError, check_module, check_starts
from .roles import find_roles
from .trace import TURNS, Traced, trace

if TYPE_CHECKING:
    from ..pairing import Names

__all__ = ["Artifact", "ConvertedModule", "convert_module", "export_verified", "own_copy"]


@dataclass(frozen=True)
class Artifact:
    """A verified ONNX file; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    equivalence: Equivalence
    """Every comparison with PyTorch."""
    nodes: Mapping[str, int]
    """Operator to count."""
    notes: tuple[str, ...] = ()
    """What a reader should know: states left in the graph, sizes that PyTorch itself refuses."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all, beside its place and then renamed.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def export_verified(
    module: nn.Module, example: Any, config: ExportConfig, show: Progress = ignore
) -> Artifact:
    """Trace, lower, verify and finalize; see ``export``. Threads take turns."""
    with TURNS:
        try:
            return _export_verified(module, example, config, show)
        except StatesRefusedError as error:
            if config.stateless:
                raise
            made = _export_verified(module, example, replace(config, stateless=True), ignore)
            note = f"states that are no arguments stay in the graph: {error}"
            return replace(made, notes=(*made.notes, note))
        except FewSizesError as error:
            made = _export_nearby(module, example, config, error)
            return replace(made, notes=(*made.notes, f"the example itself is out of range: {error}"))


def _export_nearby(module: nn.Module, example: Any, config: ExportConfig, error: FewSizesError) -> Artifact:
    """Export at one step or row less or more than the example; raise ``error`` where neither works."""
    signature = Signature.of(own_copy(module), example)
    for feeds in error.nearby:
        tensors = tuple(torch.from_numpy(feeds[name]) for name in signature.names)
        with suppress(InputError, UnsupportedError, CheckFailedError):
            return _export_verified(module, replace(signature, example=tensors), config, ignore)
    raise error


def _export_verified(module: nn.Module, example: Any, config: ExportConfig, show: Progress) -> Artifact:
    show(0.0, "tracing the module")
    made = convert_module(module, example, config)
    model = made.model
    bare = serialize(model, made.manifest, config.opset, config.ir_version)
    if any(node.op_type == "LayerNormalization" for node in model.graph):
        from .centering import center_norms

        if center_norms(model, bare, made.cases.cases()):
            bare = serialize(model, made.manifest, config.opset, config.ir_version)
    _check(bare)
    candidate = _candidate(bare)
    ranges, narrowed = settle_ranges(
        made.guards, made.sizes, made.cases, made.reference, candidate, config.ranges, made.dropped
    )
    manifest = made.manifest._replace(ranges=ranges)
    made = replace(made, manifest=manifest, cases=replace(made.cases, ranges=ranges))
    cases = in_turn(list(made.cases.cases()), show, "verifying", 0.3, 0.7)
    file = Candidate(open_graph(bare, candidate), made.reference, candidate, fixed_axes(manifest))
    try:
        equivalence = verify(file, cases, made.reference.run_plain)
    except GraphError as error:
        show(0.3, f"verifying in float32 alone ({error})")
        file = replace(file, graph=MeasuredGraph(onnx.load_from_string(bare), candidate))
        equivalence = verify(file, made.cases.cases(), made.reference.run_plain)
    if file.function:
        _check_loop(made, file.function)
    show(0.7, "feeding chunks")
    manifest = _try_chunks(made, file)
    show(0.8, "recording golden cases")
    manifest = manifest._replace(
        equivalence=equivalence.to_dict(),
        golden=record_golden(file.graph, manifest, made.cases, equivalence.cases),
    )
    content = serialize(model, manifest, config.opset, config.ir_version)
    load(content, device="cpu", engine="onnxruntime").close()
    skipped = (f"not compared at {each}" for each in manifest.equivalence["skipped"])
    return Artifact(
        content,
        manifest,
        equivalence,
        dict(Counter(node.op_type for node in model.graph)),
        (*made.notes, *narrowed, *skipped),
    )


@dataclass(frozen=True)
class ConvertedModule:
    """A module's graph before its verification, and the module itself as the reference."""

    model: ir.Model
    manifest: Manifest
    """Without golden case and figures."""
    reference: TorchReference
    cases: CaseGenerator
    bidirectional: tuple[str, ...]
    """Paths of layers that read time backwards."""
    fractions: tuple[str, ...]
    """Inputs that layers take lengths from and that are fractions of the steps."""
    guards: tuple[Guard, ...]
    """What holds at the sizes that were traced."""
    sizes: Mapping[str, int]
    """The size of each dynamic axis that was traced."""
    dropped: Container[str]
    """The axes that the module drops where they are 1."""
    notes: tuple[str, ...]


def convert_module(module: nn.Module, example: Any, config: ExportConfig) -> ConvertedModule:
    """Trace and lower ``module``, lift its states, and make it the reference for a file with such states.

    Raises:
        InputError, UnsupportedError: as ``export``.
    """
    check_module(module)
    own = own_copy(module)
    signature = example if isinstance(example, Signature) else Signature.of(own, example)
    _try_example(copy.deepcopy(own), signature)
    signature = signature.as_float32()
    try:
        axes = config.told_axes(signature.shapes)
        if len(axes) < len(signature.names):
            from .axes import find_missing_axes

            axes = find_missing_axes(copy_as(own, torch.float32), signature, config)
        traced = trace(copy_as(own, torch.float32), signature, axes, config.ranges)
        single = _single(traced, signature, axes)
        if single:
            axes = {name: tuple(1 if axis in single else axis for axis in axes[name]) for name in axes}
            told = [_squeezes(traced.squeezed, each, signature, axes, single=True) for each in single]
            traced = trace(copy_as(own, torch.float32), signature, axes, config.ranges)
        else:
            told = [_squeezes(traced.squeezed, each, signature, axes) for each in traced.squeezed]
        told += [
            f"the file does not check what {line} does, which was taken to hold" for line in traced.checked
        ]
    except (InputError, UnsupportedError) as error:
        raise _explained(error, own, signature) from error
    roles = find_roles(
        traced.model,
        traced.outputs,
        config,
        signature.positional,
        lambda: _find_names(own, signature),
    )
    window = traced.window() if roles.sequence is None else ""
    if window and config.states is None:
        roles = replace(roles, states={})
    lower_sums(traced.model)
    lower(traced.model)
    rename_outputs(traced.model, roles.outputs, roles.states.values())
    unused = check_recurrent_nodes(traced.model, traced.calls)
    model = traced.model
    lifted: tuple[StateSpec, ...] = ()
    injections: tuple[Injection, ...] = ()
    left: tuple[str, ...] = ()
    if not config.stateless and not roles.starts_given and not window:
        from .lift_states import lift_absent

        model, lifted, injections, left = lift_absent(model, traced.calls, roles.batch)
    check_starts(own, injections)
    tidy(model)
    manifest = build_manifest(model, roles, lifted, config)
    manifest = manifest._replace(ranges=config.ranges, unstreamable=window)
    manifest = manifest._replace(provenance={**manifest.provenance, "weights_sha256": weights_sha256(own)})
    reference = TorchReference(own, signature, roles.outputs, injections)
    examples = {
        name: tensor.detach().cpu().numpy()
        for name, tensor in zip(signature.names, signature.example, strict=True)
    }
    values = index_values(model.graph)
    cases = CaseGenerator.of(manifest, examples, values, config.seed)
    _check_repeatable(own, signature, reference, cases)  # before other batches: a kept state has one size
    cases = cases.fitted_to(reference.run)
    notes = (*told, *_narrowed(own), *unused, *left, *roles.notes, *([_windows(window)] if window else []))
    return ConvertedModule(
        model,
        manifest,
        reference,
        cases,
        roles.bidirectional,
        roles.fractions,
        traced.guards,
        traced.sizes,
        traced.squeezed,
        notes,
    )


def _find_names(module: nn.Module, signature: Signature) -> list["Names"]:
    """Return what the module's code calls its inputs and outputs; asked for only where nothing else tells."""
    from .variables import find_names

    return find_names(copy_as(module, torch.float32), signature)


def own_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` in eval mode, without a wrapper for several devices or of ``torch.compile``.

    A tensor that the module has computed and keeps, as ``torch.nn.utils.weight_norm`` does, is copied without
    its graph.

    Raises:
        InputError: it can't be copied.
    """
    while isinstance(module, DataParallel | DistributedDataParallel | OptimizedModule):
        module = module._orig_mod if isinstance(module, OptimizedModule) else module.module
    computed = [
        value
        for layer in module.modules()
        for value in vars(layer).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        own = copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise InputError(
            f"{type(module).__name__} can't be copied ({text}); keep no tensors with gradients or open "
            "files in its attributes"
        ) from error
    own.eval()  # which may give None where a module has a train() of its own
    return own


def _check_loop(made: ConvertedModule, function: Function) -> None:
    """Feed module and graph their own states as the manifest pairs them.

    Raises:
        CheckFailedError: they part.
    """
    states = {state.input: state.output for state in made.manifest.states}
    if not states:
        return
    feeds = made.cases.case(2, 3, at_reset=False, offset=51, full=True).feeds
    try:
        found = function.compare(feeds, closed_loop(states))
    except (RuntimeError, ValueError, IndexError):  # the module refuses the case, as it may any that is drawn
        return
    if not found.undefined and not found.ok:
        raise CheckFailedError(f"called again and again from its own states: {found.worst}")


def _try_chunks(made: ConvertedModule, verified: Candidate) -> Manifest:
    """Return the manifest with why chunks do not equal the whole, and what else they show."""
    manifest = made.manifest
    if manifest.unstreamable:
        return manifest
    steps = manifest.ranges.get(manifest.sequence or "", AxisRange())
    if steps.nearest(1) > 1:
        reason = f"a call takes {steps} steps ({manifest.sequence}), and so can't take a single one"
        return manifest._replace(unstreamable=reason)
    if manifest.ranges.get(manifest.batch or "", AxisRange()).nearest(1) > 1:
        reason = f"a call takes {manifest.ranges[manifest.batch or '']} rows ({manifest.batch}), not one"
        return manifest._replace(unstreamable=reason)
    if made.bidirectional and manifest.sequence is not None:
        return manifest._replace(unstreamable=f"layer {made.bidirectional[0] or 'rnn'} is bidirectional")
    for name, axis in ((spec.name, axis) for spec in manifest.inputs for axis in spec.axes):
        if axis != manifest.sequence and manifest.sequence in (parse_sum(str(axis)) or ({}, 0))[0]:
            reason = (
                f"axis {axis} of {name} follows the time axis {manifest.sequence}, and chunks cut that alone"
            )
            return manifest._replace(unstreamable=reason)
    lengths = (manifest.lengths,) if manifest.lengths else ()
    function = verified.function
    limits = same_limits(manifest) if function else measured_limits(verified.graph, manifest)
    file = ChunkedFile(manifest, verified.engine, lengths, limits)
    if not manifest.time_axes or not manifest.states:
        return manifest
    if made.fractions:
        reason = (
            f"{', '.join(made.fractions)} gives lengths as fractions of a call's steps, of which chunks have "
            "fewer; take whole numbers of steps instead"
        )
        return manifest._replace(unstreamable=reason)
    feeds = made.cases.case(2, 24, at_reset=True, full=True).feeds
    feeds = {**feeds, **file.with_lengths(feeds, manifest.steps(feeds))}
    manifest = manifest._replace(counts=find_counts(file, feeds))
    file = replace(file, manifest=manifest)
    found, reason = run_in_chunks(file, feeds, np.random.default_rng(0), function), ""
    if not found.ok:
        from ..lift.divergence import explain_divergence

        reason = explain_divergence(made.model, file, feeds, found)
    exact = replace(file, run=function.graph.run64) if function else file
    padded = bool(reason) or states_stop_at_lengths(exact, feeds)
    return manifest._replace(unstreamable=reason, padded_states=padded)


def _single(traced: Traced, signature: Signature, axes: Mapping[str, Axes]) -> list[str]:
    """Return the axes that the code drops where they are 1 and that are 1 in the example."""
    return [
        each
        for each in traced.squeezed
        if all(
            size == 1
            for name, shape in signature.shapes.items()
            for axis, size in zip(axes[name], shape, strict=True)
            if axis == each
        )
    ]


def _squeezes(
    squeezed: Mapping[str, str],
    axis: str,
    signature: Signature,
    axes: Mapping[str, Axes],
    *,
    single: bool = False,
) -> str:
    """Return the note for an axis that the code drops where it is 1."""
    if single:
        return (
            f"axis {axis} is fixed at 1, as in the example: {squeezed[axis]} drops it; give squeeze an axis"
        )
    options = " ".join(
        f"--input {name}={','.join('1' if each == axis else str(each) for each in axes[name])}"
        for name in signature.names
    )
    return (
        f"{squeezed[axis]} drops axis {axis} where it is 1, so that the file takes no {axis} of 1; give "
        f"squeeze the axis that it is to drop, or export for one alone: {options}"
    )


def _windows(reason: str) -> str:
    return (
        f"no states are carried from call to call: {reason}; to stream, let the layers run over an axis with "
        "a name, such as L in --input x=N,L,3"
    )


def _explained(
    error: InputError | UnsupportedError, module: nn.Module, signature: Signature
) -> InputError | UnsupportedError:
    """Return a refusal of ``module`` with what it keeps between calls, and how to export a single step."""
    from .repeatability import why_unrepeatable

    text = str(error)
    if isinstance(error, LoopError):
        from .axes import suggest_step

        text += suggest_step(copy_as(module, torch.float32), signature, error.steps)
    if reason := why_unrepeatable(module, signature):
        return UnsupportedError(f"{reason} ({text})")
    return InputError(text) if isinstance(error, InputError) else UnsupportedError(text)


def _narrowed(module: nn.Module) -> list[str]:
    found = {tensor.dtype for tensor in (*module.parameters(), *module.buffers())} & OTHER_FLOATS
    names = sorted(str(dtype).rpartition(".")[2] for dtype in found)
    return [f"the module is {name}, the file is float32 throughout" for name in names]


def _try_example(module: nn.Module, signature: Signature) -> None:
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            signature.call(module, signature.example)
    except Exception as error:
        given = ", ".join(
            f"{name} {list(tensor.shape)}"
            for name, tensor in zip(signature.names, signature.example, strict=True)
        )
        text = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(f"{type(module).__name__} does not run on the example ({given}): {text}") from error


def _check_repeatable(
    module: nn.Module, signature: Signature, reference: TorchReference, cases: CaseGenerator
) -> None:
    """Refuse a module that gives something else on every call.

    Raises:
        UnsupportedError: two runs on the same inputs differ.
    """
    case = cases.example() or cases.case(2, 9, at_reset=True, full=True)
    try:
        first, again = reference.run(case.feeds), reference.run(case.feeds)
    except Exception:  # noqa: BLE001  a size that the module refuses tells nothing; verification will say so
        return
    for name, array in first.items():
        if not np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f"):
            from .repeatability import why_unrepeatable

            reason = why_unrepeatable(module, signature)
            raise UnsupportedError(reason or f"forward gives another {name} on every call")


def _check(content: bytes) -> None:
    try:
        onnx.checker.check_model(content, full_check=True)
    except Exception as error:
        raise CheckFailedError(f"onnx.checker refuses the file: {first_line(error)}") from error


def _candidate(content: bytes) -> Runner:
    return partial(run_by_name, open_session(content))
