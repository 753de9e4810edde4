"""The stages of a lift: read, set axes, find recurrences, make their states inputs and
outputs, verify.

A file of fixed sizes is tried with its axes made dynamic, then as declared.
"""

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx
import onnx_ir as ir

from lstm_edge_runtime import __version__, load
from lstm_edge_runtime.errors import CheckFailedError, ContractError, FileFormatError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

from ..graph import (
    axes_of,
    data_inputs,
    forget_shapes,
    spec_of,
    to_proto,
    with_manifest,
)
from ..recurrent import is_reversed, label, why_window
from ..streaming.file import stream_file
from ..streaming.rewrite import NotStreamableError, UndecidedError
from ..streaming.stream import stream
from ..verify.cases import Feeds
from ..verify.golden import record_golden
from ..verify.verify import Verified
from .axes import NamedAxes, name_axes, take_given
from .config import LiftConfig
from .read import Source, put_constants, read_graph
from .recurrences import refuse_nested
from .rewrites import free_sizes, holds_rows
from .running import length_input, measure_shapes
from .states import lift_states, recognize
from .verification import Cases, find_chunks, pair_up, verify_lifted

_NO_STATE = (
    "no recurrence makes more steps along an axis, and no operator looks back along"
    " one; name the axes (--input NAME=AXES) or the states (--state INPUT=OUTPUT) if"
    " there are any"
)


@dataclass(frozen=True)
class LiftReport:
    """Result of a lift and its verification."""

    lifted: tuple[StateSpec, ...]
    """States that became inputs and outputs."""
    past: tuple[StateSpec, ...]
    """States that operators along time got: frames of the past, sums."""
    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    made_dynamic: tuple[str, ...]
    """Axes (``batch``, ``sequence``) that were fixed and are dynamic now."""
    verified: Verified
    """Every comparison with the original."""


@dataclass(frozen=True)
class Lifted:
    """A verified ONNX file with explicit states; it exists only if every check
    passed.
    """

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract inside the file; its ``unstreamable`` says why chunks do not equal
    the full sequence."""
    report: LiftReport

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def lift_file(source: Source, config: LiftConfig) -> Lifted:
    """Return a file with explicit states; see ``lift``."""
    model = read_graph(source)
    fixed = any(
        isinstance(axis, int)
        for value in data_inputs(model.graph)
        for axis in axes_of(value)
    )
    named = None
    if fixed and not config.inputs and not holds_rows(model.graph):
        with contextlib.suppress(CheckFailedError, ContractError, FileFormatError):
            freed = _name(model, config, free=True)
            if not freed[2].conclusive:
                return _lift(model, config, *freed)
            named = freed
    return _lift(model, config, *(named or _name(model, config, free=False)))


def _name(
    original: ir.Model, config: LiftConfig, *, free: bool
) -> tuple[ir.Model, Feeds, NamedAxes]:
    model = original.clone()
    given = put_constants(model, config.constants)
    if free:
        free_sizes(model)
    take_given(model.graph, config.inputs)
    return model, given, name_axes(model, free=free)


def _lift(
    original: ir.Model,
    config: LiftConfig,
    model: ir.Model,
    given: Feeds,
    axes: NamedAxes,
) -> Lifted:
    refuse_nested(model)
    declared = recognize(model, config.states, axes.sequence)
    forward = [layer for layer in axes.over_time if not is_reversed(layer.node)]
    if len(forward) < len(axes.over_time) and (axes.sequence or not forward):
        backwards = (
            label(layer.node) for layer in axes.over_time if is_reversed(layer.node)
        )
        raise ContractError(
            f"{', '.join(backwards)} reads time backwards, so no state of it can be"
            " carried over; train a network that reads forward only"
        )
    lifted = lift_states(model, forward, axes, declared)
    if not (declared or lifted or axes.sequence):
        raise ContractError(f"there is no state to lift: {_NO_STATE}")
    sized = measure_shapes(model, axes.batch, axes.sequence)
    outputs = [spec_of(value) for value in model.graph.outputs]
    past = tuple[StateSpec, ...]()
    need = ""
    reach = 0
    refused = ""
    try:
        states = (*declared, *lifted)
        streamed = stream(
            sized, Manifest((), tuple(outputs), states, axes.batch, axes.sequence)
        )
        need = streamed.need
        past = () if streamed.need else streamed.manifest.states[len(states) :]
        if past:
            model = streamed.model
            reach = streamed.reach
    except UndecidedError as error:
        refused = str(error)
    except NotStreamableError as error:
        need = str(error)
    states = (*declared, *lifted, *past)
    if not states and not (need and config.stream):
        raise ContractError(
            f"there is no state to lift: {refused or need or _NO_STATE}"
        )
    manifest = _describe(model, axes, outputs, states)
    cases = Cases.of_lifted(model.graph, manifest, axes, config.seed, original.graph)
    pair = pair_up(manifest, original.clone(), model, given, cases)
    verified = verify_lifted(pair, cases)
    window = why_window(forward[0].node.op_type, axes.steps) if axes.steps > 1 else ""
    if need or window:
        manifest = manifest._replace(unstreamable=need or window)
    else:
        manifest = find_chunks(pair, cases, reach, refused)
    cases = replace(cases, held=frozenset(), rows=1, steps=None)
    golden = record_golden(
        replace(pair, manifest=manifest, reference=pair.graph), cases
    )
    manifest = manifest._replace(
        equivalence=verified.figures(),
        golden=golden,
        provenance={**manifest.provenance, "lift": config.record()},
    )
    content = with_manifest(to_proto(model), manifest)
    if config.stream:
        if not need and manifest.unstreamable:
            raise ContractError(f"the network does not stream: {manifest.unstreamable}")
        content, manifest = stream_file(
            sized,
            manifest,
            cases,
            lambda *parts: with_manifest(to_proto(parts[0]), parts[1]),
        )
    load(content)
    past = manifest.states[len(declared) + len(lifted) :]
    report = LiftReport(
        tuple(lifted), past, tuple(declared), tuple(sorted(axes.freed)), verified
    )
    return Lifted(content, manifest, report)


def _describe(
    model: ir.Model,
    axes: NamedAxes,
    outputs: Sequence[TensorSpec],
    states: tuple[StateSpec, ...],
) -> Manifest:
    """Return the manifest before verification, and declare the outputs in the graph."""
    if any(state.dtype != "float32" for state in states if "float" in state.dtype):
        raise ContractError(
            "its states are not float32; lift the file in float32, then quantize it"
        )
    entering = {state.input for state in states}
    leaving = {state.output for state in states}
    declared = {spec.name: spec.axes for spec in outputs}
    declared |= {state.output: state.axes for state in states}
    forget_shapes(model)  # an exporter's example sizes may be among them
    for value in model.graph.outputs:
        value.shape = ir.Shape(declared[str(value.name)])
    return Manifest(
        inputs=tuple(
            spec_of(value)
            for value in data_inputs(model.graph)
            if value.name not in entering
        ),
        outputs=tuple(spec for spec in outputs if spec.name not in leaving),
        states=states,
        batch=axes.batch,
        sequence=axes.sequence,
        lengths=length_input(model.graph),
        provenance={
            "opset": model.opset_imports[""],
            "producer": (
                f"{model.producer_name or ''} {model.producer_version or ''}".strip()
            ),
            "versions": {
                "lstm-edge": __version__,
                "onnx": onnx.__version__,
                "onnx-ir": ir.__version__,
            },
        },
    )
