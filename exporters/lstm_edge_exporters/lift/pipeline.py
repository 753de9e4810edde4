"""The way of a lift: read, set axes, find recurrences, make their states inputs and outputs, verify.

A file of fixed sizes is tried with its axes made dynamic, then as declared.
"""

import contextlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import __version__, load
from lstm_edge_runtime.axes import all_ones
from lstm_edge_runtime.errors import CheckFailedError, ContractError, FileFormatError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array, Manifest, StateSpec, TensorSpec

from ..graph import axes_of, data_inputs, dynamic_axes, forget_shapes, spec_of, to_proto, with_manifest
from ..recurrent import label, why_window
from ..streaming.file import stream_file
from ..streaming.flow import NotStreamableError
from ..streaming.stream import stream
from ..verify.golden import record_golden
from ..verify.verify import Verified
from .axes import (
    BATCH,
    SEQUENCE,
    Named,
    name_axes,
    take_given,
)
from .config import LiftConfig
from .fixed import free_sizes
from .read import Source, put_constants, read_graph
from .recurrences import refuse_nested
from .running import case_generator, length_inputs
from .shapes import measure_shapes
from .states import Left, lift_states, recognize
from .verification import Cases, find_chunks, pair_up, verify_lifted

_MOST = 3
"""Nodes that one message names."""


@dataclass(frozen=True)
class LiftReport:
    """What a lift did and what was verified."""

    lifted: tuple[StateSpec, ...]
    """States that became inputs and outputs."""
    past: tuple[StateSpec, ...]
    """States that operators along time got: frames of the past, sums."""
    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    left: tuple[Left, ...]
    """States left in the graph, and why."""
    made_dynamic: tuple[str, ...]
    """Axes (``batch``, ``sequence``) that were fixed and are dynamic now."""
    verified: Verified
    """Every comparison with the original."""
    unstreamable: str
    """Why chunks do not equal the full sequence; empty where they do."""


@dataclass(frozen=True)
class Lifted:
    """A verified ONNX file with explicit states; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    report: LiftReport
    """What was lifted, what was left, and what was verified."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


@dataclass
class _Work:
    """A lift on its way."""

    original: ir.Model
    lifted: ir.Model
    axes: Named
    sized: ir.Model
    """The lifted graph with symbolic sizes, for streaming."""
    given: dict[str, Array]
    """What stands in the place of inputs of the original."""
    known: list[StateSpec] = field(default_factory=list)
    found: list[StateSpec] = field(default_factory=list)
    past: tuple[StateSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    """All of them, those of states too."""
    left: list[Left] = field(default_factory=list)
    reach: int = 0
    need: str = ""
    """Why a file of its own streams."""
    refused: str = ""
    """Why operators along time have no states."""

    @property
    def states(self) -> tuple[StateSpec, ...]:
        return (*self.known, *self.found, *self.past)

    def cases(self, seed: int) -> Cases:
        """Return what draws inputs of the lifted graph, the states that the original lacks at reset."""
        names = {"batch": self.axes.batch, "sequence": self.axes.sequence}
        drawn = case_generator(self.lifted.graph, self.axes.steps, states=self.states, seed=seed, **names)
        own = {value.name for value in self.original.graph.inputs}
        return Cases(
            drawn.inputs,
            self.axes.batch,
            self.axes.sequence,
            seed,
            held=frozenset({state.input for state in self.states} - own),
            rows=self.axes.freed.get(BATCH, 1),
            steps=self.axes.freed.get(SEQUENCE),
        )


def lift_verified(source: Source, config: LiftConfig) -> Lifted:
    """Read, lift, verify; see ``lift``."""
    model = read_graph(source)
    fixed = any(isinstance(axis, int) for value in data_inputs(model.graph) for axis in axes_of(value))
    if fixed and not config.inputs:
        with contextlib.suppress(CheckFailedError, ContractError, FileFormatError):
            return _lift(model, config, (BATCH, SEQUENCE))
    return _lift(model, config, ())


def _lift(model: ir.Model, config: LiftConfig, free: Collection[str]) -> Lifted:
    work = _set_axes(model, config, free)
    work.known = recognize(work.lifted, config.states, work.axes.sequence)
    if backwards := [label(each.node) for each in work.axes.over_time if each.reversed]:
        raise ContractError(
            f"{', '.join(backwards[:_MOST])} reads time backwards, so no state of it can be carried over; "
            "train a network that reads forward only"
        )
    work.found, work.left = lift_states(work.lifted, work.axes.over_time, work.axes, work.known)
    work.outputs = _measure_outputs(work)
    _keep_past(work)
    return _verified(work, config)


def _set_axes(model: ir.Model, config: LiftConfig, free: Collection[str]) -> _Work:
    """Put constants in, name the axes, and take the branches that follow from both."""
    decided = model.clone()
    if free:
        free_sizes(decided)
    given: dict[str, Array] = dict(put_constants(decided, config.constants))
    take_given(decided.graph, config.inputs)
    axes = name_axes(decided, config.inputs, free)
    refuse_nested(decided)
    original = model.clone()
    named = {value.name: axes_of(value) for value in decided.graph.inputs}
    for value in original.graph.inputs:
        for place, axis in enumerate(named.get(value.name, ())):
            if isinstance(axis, str) and value.shape is not None:
                value.shape[place] = axis
    forget_shapes(original)
    kept = {value.name for value in decided.graph.inputs} | set(given)
    given |= {
        str(value.name): np.zeros(all_ones(axes_of(value)), value.dtype.numpy())
        for value in data_inputs(original.graph)
        if value.name not in kept and value.dtype is not None
    }
    return _Work(original, decided, axes, decided, given)


def _keep_past(work: _Work) -> None:
    """Put the past of operators along time into states, where they have any."""
    try:
        found = stream(work.sized, work.states, work.axes.batch, work.axes.sequence)
    except NotStreamableError as error:
        work.refused = str(error)
        return
    if not found.ordinary:
        work.need = found.need
    elif found.added:
        work.lifted, work.past, work.reach = found.model, found.added, found.reach


def _verified(work: _Work, config: LiftConfig) -> Lifted:
    """Verify what was lifted, and write it with its manifest."""
    if not work.states and not (work.need and config.stream):
        raise ContractError(_why_stateless(work))
    forget_shapes(work.lifted)
    _declare(work.lifted.graph, work.outputs)
    cases = work.cases(config.seed)
    pair = pair_up(_describe(work), work.original, work.lifted, work.given, cases)
    verified = verify_lifted(pair, cases)
    manifest = pair.manifest
    if work.need:
        manifest = manifest._replace(unstreamable=work.need)
    elif work.axes.steps > 1:
        layer = work.axes.over_time[0].node.op_type
        manifest = manifest._replace(unstreamable=why_window(layer, work.axes.steps))
    else:
        manifest = find_chunks(pair, cases, work.reach, work.refused)
    free = replace(cases, held=frozenset(), rows=1, steps=None)
    golden = record_golden(replace(pair, manifest=manifest, reference=pair.graph), free)
    manifest = manifest._replace(equivalence=verified.figures(), golden=golden)
    content = with_manifest(to_proto(work.lifted), manifest)
    if config.stream:
        if not work.need and manifest.unstreamable:
            raise ContractError(f"the network does not stream: {manifest.unstreamable}")
        made = stream_file(work.sized, manifest, free, lambda *a: with_manifest(to_proto(a[0]), a[1]))
        content, manifest = made.model, made.manifest
    load(content).close()
    report = LiftReport(
        lifted=tuple(work.found),
        past=manifest.states[len(work.known) + len(work.found) :],
        recognized=tuple(work.known),
        left=tuple(work.left),
        made_dynamic=tuple(sorted(work.axes.freed)),
        verified=verified,
        unstreamable=manifest.unstreamable,
    )
    return Lifted(content, manifest, report)


def _measure_outputs(work: _Work) -> tuple[TensorSpec, ...]:
    """Find the sizes of every value by running the graph, in place; return the outputs."""
    work.lifted, work.sized = measure_shapes(work.lifted, work.axes.batch, work.axes.sequence)
    specs, names = [], dynamic_axes(work.lifted.graph)
    for value in work.lifted.graph.outputs:
        if value.shape is None:
            raise FileFormatError(
                f"output {value.name!r} has not the same number of axes in every run; "
                "decide the branches with --branch INPUT=NUMBER"
            )
        spec = spec_of(value)
        axes = (
            axis if isinstance(axis, int) or str(axis).split("*")[-1] in names else f"{spec.name}.{place}"
            for place, axis in enumerate(spec.axes)
        )
        specs.append(spec._replace(axes=tuple(axes)))
    return tuple(specs)


def _declare(graph: ir.Graph, specs: Sequence[TensorSpec]) -> None:
    """Give outputs their axes, whatever the file or an exporter declared."""
    axes = {spec.name: spec.axes for spec in specs}
    for value in graph.outputs:
        if value.name in axes:
            value.shape = ir.Shape(axes[str(value.name)])


def _describe(work: _Work) -> Manifest:
    """Return the manifest before verification."""
    graph, states = work.lifted.graph, work.states
    entering, leaving = {state.input for state in states}, {state.output for state in states}
    inputs = tuple(spec_of(value) for value in data_inputs(graph) if value.name not in entering)
    if any(state.dtype != "float32" for state in (*work.known, *work.found) if "float" in state.dtype):
        raise ContractError("its states are not float32; lift the file in float32, then quantize it")
    return Manifest(
        inputs=inputs,
        outputs=tuple(spec for spec in work.outputs if spec.name not in leaving),
        states=states,
        batch=work.axes.batch,
        sequence=work.axes.sequence,
        lengths=next(iter(length_inputs(graph)), None),
        provenance={
            "opset": work.lifted.opset_imports[""],
            "producer": f"{work.lifted.producer_name or ''} {work.lifted.producer_version or ''}".strip(),
            "versions": {"lstm-edge": __version__, "onnx": onnx.__version__, "onnx-ir": ir.__version__},
        },
    )


def _why_stateless(work: _Work) -> str:
    left = "; ".join(f"{each.state} of {each.node}: {each.reason}" for each in work.left[:_MOST])
    none = (
        "no recurrence makes more steps along an axis, and no operator looks back along one; "
        "name the axes (--input NAME=AXES) or the states (--state INPUT=OUTPUT) if there are any"
    )
    return f"there is no state to lift: {left or work.refused or work.need or none}"
