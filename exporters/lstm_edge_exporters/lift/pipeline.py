"""The stages of a lift: read, set axes, find recurrences, make their states inputs and
outputs, verify.

Axes of fixed size stay fixed, unless the user gives them names.
"""

from dataclasses import dataclass, replace

import onnx_ir as ir

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError
from lstm_edge_runtime.manifest import Manifest, StateSpec

from ..artifact import Artifact
from ..graph import (
    axes_of,
    data_inputs,
    describe_value,
    spec_of,
    to_proto,
    with_manifest,
)
from ..recurrent import is_reversed, label, length_input, why_window
from ..streaming.file import FullSequence, stream_file
from ..streaming.rewrite import NotStreamableError, UndecidedError
from ..streaming.stream import Streamed, stream
from ..verify.compare import Pair
from ..verify.golden import record_golden
from ..verify.verify import Verified
from ..versions import versions
from .axes import NamedAxes, freed_sizes, name_axes, option_to_free, take_given
from .config import LiftConfig
from .read import Source, put_constants, read_graph
from .recognize import recognize
from .recurrences import Recurrence, refuse_nested
from .rewrites import free_sizes
from .running import measure_shapes
from .states import lift_states
from .verification import Cases, find_chunks, lifted_cases, pair_up, verify_lifted


@dataclass(frozen=True)
class LiftReport:
    """The states of a lifted file, by origin."""

    lifted: tuple[StateSpec, ...]
    """States that became inputs and outputs."""
    past: tuple[StateSpec, ...]
    """States that operators along time got: frames of the past, sums."""
    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""


@dataclass(frozen=True, kw_only=True)
class Lifted(Artifact[Verified]):
    """A verified ONNX file with explicit states."""

    report: LiftReport
    """The states that were found, and the verification."""


def lift_file(source: Source, config: LiftConfig) -> Lifted:
    """Return a file with explicit states; see ``lift``."""
    original = read_graph(source)
    model = original.graph.clone()
    constants = put_constants(model, config.constants)
    declared_sizes = _declare_axes(model, config)
    axes = name_axes(model, declared_sizes)
    to_free = option_to_free(model, axes)
    states = _find_states(model, axes, config, to_free=to_free)
    along_time = states.along_time
    manifest = _describe(along_time.model, axes, states.all)
    cases = lifted_cases(
        along_time.model.graph,
        original.graph.graph,
        manifest=manifest,
        axes=axes,
        declared=declared_sizes,
        seed=config.seed,
    )
    both = pair_up(manifest, original, lifted=along_time.model, constants=constants)
    verified = verify_lifted(both, cases)
    pair = both.pair
    unstreamable = along_time.unstreamable or _why_window(axes, to_free)
    if unstreamable:
        manifest = manifest._replace(unstreamable=unstreamable)
    else:
        manifest = find_chunks(
            pair, cases, reach=along_time.reach, cause=along_time.undecided
        )
    cases = replace(cases, held=frozenset())
    manifest = _with_records(manifest, pair, cases, verified=verified, config=config)
    if config.stream:
        content, manifest = _stream_file(along_time, manifest, cases)
    else:
        content = _write(along_time.model, manifest)
    load(content)
    return Lifted(
        model=content,
        manifest=manifest,
        verified=verified,
        notes=(*filter(None, [states.question]), *verified.notes),
        report=states.report(manifest),
    )


@dataclass(frozen=True)
class _States:
    """The states of a file, by origin."""

    recognized: tuple[StateSpec, ...]
    """States that were inputs and outputs already."""
    lifted: tuple[StateSpec, ...]
    """States of recurrences that became inputs and outputs."""
    along_time: "_AlongTime"
    """The graph, and states of operators along time."""
    question: str
    """Question to the user about inputs that may be states; empty if there is none."""

    @property
    def all(self) -> tuple[StateSpec, ...]:
        """All states, in the order of the file's inputs."""
        return (*self.recognized, *self.lifted, *self.along_time.past)

    def report(self, manifest: Manifest) -> LiftReport:
        """Return the report of a file with these states first."""
        past = manifest.states[len(self.recognized) + len(self.lifted) :]
        return LiftReport(lifted=self.lifted, past=past, recognized=self.recognized)


def _find_states(
    model: ir.Model, axes: NamedAxes, config: LiftConfig, *, to_free: str
) -> _States:
    """Return the states of a graph, which become inputs and outputs of it.

    Raises:
        ContractError: there is none.
    """
    refuse_nested(model)
    recognized = recognize(model, config.states, axes.sequence)
    question = recognized.question
    lifted = lift_states(
        model, _forward_layers(axes), axes=axes, recognized=recognized.states
    )
    known = (*recognized.states, *lifted)
    if not known and not axes.sequence:
        raise ContractError(
            f"there is no state to lift: {question or _no_state(model, to_free)}"
        )
    along_time = _stream_operators(model, axes, known)
    states = _States(
        recognized=recognized.states,
        lifted=tuple(lifted),
        along_time=along_time,
        question=question,
    )
    has_stream = config.stream and along_time.has_stream
    if not states.all and not has_stream:
        reason = question or along_time.unstreamable or along_time.undecided
        raise ContractError(
            f"there is no state to lift: {reason or _no_state(model, to_free)}"
        )
    return states


def _stream_file(
    along_time: "_AlongTime", manifest: Manifest, cases: Cases
) -> tuple[bytes, Manifest]:
    """Return the file that streams, and its contract."""
    if manifest.unstreamable and not along_time.unstreamable:
        raise ContractError(f"the network does not stream: {manifest.unstreamable}")
    full = FullSequence(
        model=along_time.full,
        manifest=manifest,
        streamed=along_time.streamed,
        reason=along_time.unstreamable or along_time.undecided,
    )
    return stream_file(full, cases, _write)


def _declare_axes(model: ir.Model, config: LiftConfig) -> dict[str, int]:
    """Set the axes of inputs as the user names them, in place; return the fixed sizes
    of those that become dynamic.
    """
    sizes = freed_sizes(model.graph, config.inputs)
    if sizes:
        free_sizes(model, config.inputs)
    take_given(model.graph, config.inputs)
    return sizes


def _with_records(
    manifest: Manifest,
    pair: Pair,
    cases: Cases,
    *,
    verified: Verified,
    config: LiftConfig,
) -> Manifest:
    """Return the manifest with golden cases, figures and the options of the lift."""
    lifted = replace(pair, manifest=manifest, reference=pair.graph)
    return manifest._replace(
        equivalence=verified.figures(),
        golden=record_golden(lifted, cases),
        provenance={**manifest.provenance, "lift": config.record()},
    )


def _forward_layers(axes: NamedAxes) -> list[Recurrence]:
    """Return the recurrences over time.

    Raises:
        ContractError: one reads time backwards.
    """
    backwards = [layer for layer in axes.over_time if is_reversed(layer.node)]
    forward = [layer for layer in axes.over_time if not is_reversed(layer.node)]
    if backwards and (axes.sequence or not forward):
        names = ", ".join(label(layer.node) for layer in backwards)
        raise ContractError(
            f"{names} reads time backwards, so no state of it can be carried over;"
            " train a network that reads forward only"
        )
    return forward


def _no_state(model: ir.Model, to_free: str) -> str:
    """Return why a file has no state."""
    inputs = ", ".join(map(describe_value, data_inputs(model.graph)))
    return (
        "no recurrence makes more steps along an axis, and no operator looks back along"
        f" one; the inputs are {inputs}; name the axes"
        f" ({to_free or '--input NAME=AXES'}) or the states (--state INPUT=OUTPUT) if"
        " there are any"
    )


def _why_window(axes: NamedAxes, to_free: str) -> str:
    """Return why a call is a whole window; empty if it is not."""
    if axes.steps <= 1:
        return ""
    layer = _forward_layers(axes)[0]
    reason = why_window(layer.node.op_type, axes.steps)
    return f"{reason}; free its axes: {to_free}" if to_free else reason


@dataclass(frozen=True)
class _AlongTime:
    """Result of the streaming rules for a graph."""

    model: ir.Model
    """The graph, with past frames as states if these are all that it needs."""
    full: ir.Model
    """The graph of the full sequence, with its sizes."""
    past: tuple[StateSpec, ...] = ()
    """States that operators along time got."""
    reach: int = 0
    """Number of past steps that these hold."""
    unstreamable: str = ""
    """Why the file can't be fed in chunks; empty if it can, or if rules can't tell."""
    undecided: str = ""
    """The node for which the rules can't tell, if there is one."""
    streamed: Streamed | None = None
    """The graph's stream; None if rules refuse a node."""

    @property
    def has_stream(self) -> bool:
        """True if a file of its own (``--stream``) can be fed in chunks."""
        return self.streamed is not None and bool(self.streamed.need)


def _stream_operators(
    model: ir.Model, axes: NamedAxes, states: tuple[StateSpec, ...]
) -> _AlongTime:
    """Let past frames of operators along time become states."""
    full = measure_shapes(model, axes.batch, axes.sequence)
    leaving = {state.output for state in states}
    outputs = [value for value in model.graph.outputs if value.name not in leaving]
    contract = Manifest(
        inputs=(),
        outputs=tuple(map(spec_of, outputs)),
        states=states,
        batch=axes.batch,
        sequence=axes.sequence,
    )
    try:
        streamed = stream(full, contract)
    except UndecidedError as error:
        return _AlongTime(model, full, undecided=str(error))
    except NotStreamableError as error:
        return _AlongTime(model, full, unstreamable=str(error))
    if streamed.need:
        return _AlongTime(model, full, unstreamable=streamed.need, streamed=streamed)
    past = streamed.manifest.states[len(states) :]
    if not past:
        return _AlongTime(model, full, streamed=streamed)
    return _AlongTime(
        streamed.model, full, past, reach=streamed.reach, streamed=streamed
    )


def _write(model: ir.Model, manifest: Manifest) -> bytes:
    """Return the file of a graph."""
    return with_manifest(to_proto(model), manifest)


def _describe(
    model: ir.Model, axes: NamedAxes, states: tuple[StateSpec, ...]
) -> Manifest:
    """Return the manifest before verification, and declare the outputs in the graph."""
    _declare_shapes(model, states)
    entering = {state.input for state in states}
    leaving = {state.output for state in states}
    inputs = [spec_of(value) for value in data_inputs(model.graph)]
    outputs = [spec_of(value) for value in model.graph.outputs]
    producer = f"{model.producer_name or ''} {model.producer_version or ''}".strip()
    provenance = {
        "opset": model.opset_imports[""],
        "producer": producer,
        "versions": versions("lstm-edge", "onnx", "onnx-ir"),
    }
    return Manifest(
        inputs=tuple(spec for spec in inputs if spec.name not in entering),
        outputs=tuple(spec for spec in outputs if spec.name not in leaving),
        states=states,
        batch=axes.batch,
        sequence=axes.sequence,
        lengths=length_input(model.graph),
        provenance=provenance,
    )


def _declare_shapes(model: ir.Model, states: tuple[StateSpec, ...]) -> None:
    """Declare the axes of outputs, and drop the sizes that an exporter's example left
    in the graph.

    Raises:
        ContractError: states are float16 or float64.
    """
    floats = {state.dtype for state in states if "float" in state.dtype}
    if floats - {"float32"}:
        raise ContractError(
            "its states are not float32; lift the file in float32, then quantize it"
        )
    axes = {state.output: state.axes for state in states}
    for value in model.graph.outputs:
        value.shape = ir.Shape(axes.get(str(value.name), axes_of(value)))
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
