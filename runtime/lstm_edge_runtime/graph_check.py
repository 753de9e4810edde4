"""A session's manifest: read and checked against the graph, or inferred from it where there is none."""

import re
from collections.abc import Collection, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from .axes import all_ones, describe, fits, parse_sum, row_factor
from .errors import ContractError, FileFormatError, InputError, ManifestError
from .manifest import KEY, Axes, Manifest, StateSpec, Task, TensorSpec, channel_axis
from .onnx_reader import OnnxFile

OPERATORS = ("LSTM", "GRU", "RNN")
"""The standard recurrent operators."""
QUANTIZED = "DynamicQuantizeLSTM"
"""The operator that onnxruntime's dynamic quantizer replaces LSTM by; states and X have the same indices."""
_MOST_VALUES = 1 << 27
"""Values of one stream's state, half a GB; a manifest with more would only fill the memory."""
_MOST_STEPS = 1 << 20
"""Steps of a unit, which every source keeps; frames of a unit."""
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_STATE_WORD = (
    r"(^|[_./])(h|c|hx|cx|hidden|cell|state|states|cache|memory|mem|buffer|rnn|gru|lstm|carry)"
    r"([_./]?(\d+|n|t|in|out|init|prev|state|states))*$"
)
_BEFORE = (
    r"^(initial|init|prev|previous|past|old|in|input)[_./]",
    r"([_./](in|init|past|prev|previous|old)|[_./]?0)$",
)
_AFTER = (
    r"^(new|next|present|final|last|updated|out|output|y)[_./]",
    r"([_./](out|new|next|present|updated)|[_./]?[n1])$",
)
_RENAMED = (
    r"^(past|prev|previous|old)[_./]|[_./](past|prev|previous|old)$",
    r"^(new|next|present|updated)[_./]|[_./](new|next|present|updated)$",
)
"""What in the name of an input, or of an output, says that the one comes before the other."""


def read_manifest(session: Any) -> Manifest | None:
    """Return the manifest in the session's metadata, or None where the file carries none.

    Raises:
        ManifestError: there is one and it can't be read.
    """
    try:
        text = session.get_modelmeta().custom_metadata_map.get(KEY)
    except UnicodeDecodeError as error:
        raise ManifestError("its metadata are not UTF-8 text; export the model again") from error
    return None if text is None else Manifest.from_json(text)


def graph_specs(args: Sequence[Any]) -> tuple[TensorSpec, ...]:
    """Return the specs of a session's inputs or outputs; an axis without a name becomes ``name.index``.

    Raises:
        ContractError: one is not a tensor of numbers.
        FileFormatError: a name is not UTF-8 text.
    """
    try:
        described = [(arg.name, arg.type, arg.shape) for arg in args]
    except UnicodeDecodeError as error:
        raise FileFormatError("the names in its graph are not UTF-8 text; export it again") from error
    for name, kind, _ in described:
        if kind not in _DTYPES:
            raise ContractError(f"{name} is {kind}, expected a tensor of numbers; export it as one")
    return tuple(TensorSpec(name, _DTYPES[kind], _name_axes(name, shape)) for name, kind, shape in described)


def _name_axes(name: str, shape: Sequence[int | str | None]) -> Axes:
    return tuple(
        axis if isinstance(axis, str) or (isinstance(axis, int) and axis >= 0) else f"{name}.{place}"
        for place, axis in enumerate(shape)
    )


def check_manifest(manifest: Manifest, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Check a manifest against the graph that carries it.

    Raises:
        ContractError: a declared tensor is missing or has another dtype or shape, a graph input is not
            declared, or as ``check_contract``.
        ManifestError: as ``check_contract``.
    """
    entering, leaving = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    for spec in manifest.inputs:
        _check_tensor("input", spec, entering)
    for spec in manifest.outputs:
        _check_tensor("output", spec, leaving)
    for state in manifest.states:
        _check_tensor("state input", TensorSpec(state.input, state.dtype, state.axes), entering)
        _check_tensor("state output", TensorSpec(state.output, state.dtype, state.axes), leaving)
    check_contract(manifest)
    if missing := set(entering) - set(manifest.input_names):
        raise ContractError(f"inputs {sorted(missing)} are not in the manifest; export the model again")


def check_contract(manifest: Manifest) -> None:
    """Check what a manifest says of itself, whatever it is the manifest of.

    Raises:
        ContractError: a state is larger than any is.
        ManifestError: the batch and time axes, ``lengths``, the task, counts, a reset value or a state's axes
            can't be meant, or a tensor is declared twice.
    """
    _check_axis_names(manifest)
    _check_unit(manifest)
    for state in manifest.states:
        _check_state_axes(state, manifest)
        _check_reset(state)
        if prod(axis for axis in state.axes if isinstance(axis, int)) > _MOST_VALUES:
            raise ContractError(
                f"the state {state.input!r} is ({', '.join(map(str, state.axes))}), which is too large; "
                "export the model again"
            )
    _check_lengths(manifest)
    _check_task(manifest.task, manifest.outputs)
    if unknown := sorted({*manifest.counts} - {spec.name for spec in manifest.outputs}):
        raise ManifestError(f"counts of steps are {unknown}, which are no outputs; export the model again")
    for names in (manifest.input_names, manifest.output_names):
        if len(set(names)) < len(names):
            raise ManifestError(f"one of {sorted(names)} is declared twice; export the model again")


def _check_unit(manifest: Manifest) -> None:
    """Raise ``ManifestError`` for a unit, delays or rates that no stream has."""
    outputs = {spec.name for spec in manifest.outputs}
    if not set(manifest.delays) <= outputs or (manifest.is_buffered and manifest.sequence is None):
        raise ManifestError(
            "the manifest has delays of other outputs, or no time axis; export the model again"
        )
    if manifest.is_buffered and manifest.lengths is not None:
        raise ManifestError("the manifest has a delay or a unit, and lengths; export the model again")
    if not 0 < manifest.unit <= _MOST_STEPS or max(manifest.delays.values(), default=0) > _MOST_STEPS:
        raise ManifestError(f"the manifest has a unit of {manifest.unit} steps; export the model again")
    for name, frames in manifest.frames_a_unit.items():
        if not 0 < frames <= _MOST_STEPS:
            raise ManifestError(f"output {name!r} has {frames} frames per unit; export the model again")


def infer_manifest(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    states: Mapping[str, str] | None,
    file: OnnxFile,
) -> Manifest:
    """Return the manifest of a file made elsewhere: ``states`` as named, else paired by name and shape.

    ``file`` shows the layers that can't be streamed.

    The batch axis is the one name that every state shares with an input; the sequence axis is the one
    other name of the inputs. Where there is no such single name, the manifest has none.

    Raises:
        ContractError: states can't be paired, or a named pair does not fit.
        InputError: ``states`` names what the graph does not have.
    """
    pairs = _named_pairs(inputs, outputs, states or {})
    if states is None:
        pairs += pair_states(inputs, outputs)
    specs = tuple(
        StateSpec(entering.name, leaving.name, entering.dtype, entering.axes) for entering, leaving in pairs
    )
    data = tuple(spec for spec in inputs if spec.name not in {state.input for state in specs})
    in_data = {axis for spec in data for axis in spec.axes if _named(axis)}
    batch = _only(in_data.intersection(*(state.axes for state in specs)) if specs else ())
    return refuse_windows(
        Manifest(
            inputs=data,
            outputs=tuple(spec for spec in outputs if spec.name not in {state.output for state in specs}),
            states=specs,
            batch=batch,
            sequence=_only(in_data - {batch}),
            unstreamable=_why_backwards(file),
        ),
        file,
    )


def _only(axes: Collection[int | str]) -> str | None:
    """Return the name of the only axis; None if there are several or none."""
    return str(next(iter(axes))) if len(axes) == 1 else None


def refuse_windows(manifest: Manifest, file: OnnxFile) -> Manifest:
    """Return the manifest with why a file without a time axis can't be streamed, where its calls are windows.

    Files that were made before their exporter knew say nothing of it.

    Args:
        manifest: what the file says, or what was inferred from it.
        file: its graph.
    """
    if manifest.sequence is not None or not manifest.streamable:
        return manifest
    axes, named = file.graph.axes(), {axis for spec in manifest.inputs for axis in spec.axes}
    for node in file.graph.nodes:
        if node.op_type in (*OPERATORS, QUANTIZED) and (x := axes.get(node.inputs[0])):
            steps = x[1 if node.attributes.get("layout", 0) == 1 else 0]
            if steps is not None and steps != 1 and (isinstance(steps, int) or steps not in named):
                return manifest._replace(unstreamable=why_window(node.op_type, steps))
    return manifest


def why_window(layer: str, steps: int | str) -> str:
    """Return why a file whose ``layer`` takes several steps a call can't be streamed if no axis is time."""
    count = f"{steps} steps" if isinstance(steps, int) else "several steps"
    return f"{layer} takes {count} per call and no axis is time, so a call is a whole window, not a step"


def _why_backwards(file: OnnxFile) -> str:
    """Return which layer also runs backwards, and so needs the end of a sequence first; empty for none."""
    for node in file.every_node():
        if (
            node.op_type in (*OPERATORS, QUANTIZED)
            and node.attributes.get("direction", "forward") != "forward"
        ):
            return f"it has a backward or bidirectional {node.op_type}"
    return ""


def is_called_like_a_state(name: str) -> bool:
    """Return whether an input's name says that it is a state: ``h``, ``hx_0``, ``cell_in``."""
    return re.search(_STATE_WORD, name, re.IGNORECASE) is not None


def pair_states(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> list[tuple[TensorSpec, TensorSpec]]:
    """Pair each input that is called like a state with the output that continues it.

    ``h``/``hn``, ``h_0``/``h_n``, ``state``/``stateN``, ``state0``/``new_state0``, ``h_in``/``h_out``,
    ``past_c``/``present_c``, ``initial_h``/``Y_h``, ``cached_key_0``/``new_cached_key_0`` and their like are
    known. Where names do not decide, the only output of the same dtype and shape does. An input whose like no
    output has is not a state.

    Raises:
        ContractError: several outputs could continue a state, or one could continue several.
    """
    states = [spec for spec in inputs if is_called_like_a_state(spec.name) or _is_renewed(spec, outputs)]
    named: dict[str, TensorSpec] = {}
    for entering in states:
        matches = _best_named(entering, outputs)
        if len(matches) == 1 and matches[0] not in named.values():
            named[entering.name] = matches[0]
    left = [spec for spec in outputs if spec not in named.values()]
    named |= _pair_by_shape([spec for spec in states if spec.name not in named], left)
    return [(spec, named[spec.name]) for spec in inputs if spec.name in named]


def _pair_by_shape(open_inputs: Sequence[TensorSpec], left: Sequence[TensorSpec]) -> dict[str, TensorSpec]:
    """Pair each state that names do not decide with the only output of its dtype and shape."""
    named = {}
    for entering in open_inputs:
        matches = [leaving for leaving in left if could_continue(entering, leaving)]
        rivals = [
            other.name for other in open_inputs if any(could_continue(other, leaving) for leaving in matches)
        ]
        if matches and (len(matches) > 1 or len(rivals) > 1):
            raise ContractError(
                f"which output continues {', '.join(rivals)} {entering.dtype} {describe(entering.axes)}? "
                f"candidates: {', '.join(spec.name for spec in matches)}; "
                f"name them: load(..., states={{{entering.name!r}: {matches[0].name!r}}})"
            )
        if matches:
            named[entering.name] = matches[0]
    return named


def _best_named(entering: TensorSpec, outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the outputs that share the longest stem of their names with ``entering``'s."""
    shared = {
        leaving.name: shared_stem(entering.name, leaving.name)
        for leaving in outputs
        if entering.dtype == leaving.dtype and fits(entering.axes, leaving.axes)
    }
    longest = max(shared.values(), default=0)
    return [leaving for leaving in outputs if longest and shared.get(leaving.name) == longest]


def shared_stem(before: str, after: str) -> int:
    """Return how much of their names an input and an output share: 1 for ``h_0`` and ``h_n``, 0 for none."""
    return max(map(len, _stems(before, _BEFORE) & _stems(after, _AFTER)), default=0)


def is_renamed(before: str, after: str) -> bool:
    """Return whether names alone say that an output continues an input: ``past_k`` and ``k``."""
    marked = re.search(_RENAMED[0], before, re.IGNORECASE) or re.search(_RENAMED[1], after, re.IGNORECASE)
    return marked is not None and shared_stem(before, after) > 0


def _is_renewed(entering: TensorSpec, outputs: Sequence[TensorSpec]) -> bool:
    """Return whether an output of the same shape is called the new one: ``lens`` and ``new_lens``."""
    return any(
        is_renamed(entering.name, leaving.name) and could_continue(entering, leaving) for leaving in outputs
    )


def _stems(name: str, marks: tuple[str, str]) -> set[str]:
    """Return ``name`` with and without its prefix and its suffix."""
    stems = {name.lower()}
    for mark in marks:
        stems |= {re.sub(mark, "", stem) for stem in stems}
    return stems - {""}


def could_continue(entering: TensorSpec, leaving: TensorSpec) -> bool:
    """Return whether shapes alone make a pair: equal axes, or ones that the output leaves without a name."""
    axes = zip(entering.axes, leaving.axes, strict=False)
    return (
        entering.dtype == leaving.dtype
        and len(entering.axes) == len(leaving.axes)
        and all(a == b or str(b).startswith(f"{leaving.name}.") for a, b in axes)
    )


def _named_pairs(
    inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], states: Mapping[str, str]
) -> list[tuple[TensorSpec, TensorSpec]]:
    entering, leaving = {spec.name: spec for spec in inputs}, {spec.name: spec for spec in outputs}
    if len(set(states.values())) < len(states):
        raise InputError(f"states is {dict(states)}; give each state a different output")
    pairs = []
    for name, output in states.items():
        if name not in entering or output not in leaving:
            raise InputError(
                f"states pairs {name!r} with {output!r}; the inputs are {sorted(entering)}, "
                f"the outputs {sorted(leaving)}"
            )
        _check_tensor("state output", TensorSpec(output, entering[name].dtype, entering[name].axes), leaving)
        pairs.append((entering[name], leaving[output]))
    return pairs


def _check_tensor(role: str, declared: TensorSpec, actual: Mapping[str, TensorSpec]) -> None:
    found = actual.get(declared.name)
    if found is None:
        raise ContractError(
            f"{role} {declared.name!r} is not in the graph, which has {sorted(actual)}; export it again"
        )
    if found.dtype != declared.dtype or not fits(found.axes, declared.axes):
        raise ContractError(
            f"{role} {declared.name} is {found.dtype} {describe(found.axes)} in the graph, "
            f"expected {declared.dtype} {describe(declared.axes)}; export it again"
        )


def _check_task(task: Task | None, outputs: Sequence[TensorSpec]) -> None:
    if task is None:
        return
    axes = next((spec.axes for spec in outputs if spec.name == task.output), None)
    if axes is None:
        raise ManifestError(
            f"the task's output is {task.output!r}, which is not an output; export the model again"
        )
    width = axes[channel_axis(axes)] if axes else 1
    if task.labels and isinstance(width, int) and len(task.labels) != width:
        raise ManifestError(
            f"got {len(task.labels)} labels for the {width} values of {task.output}; export the model again"
        )


def _check_axis_names(manifest: Manifest) -> None:
    named = [name for name in (manifest.batch, manifest.sequence) if name is not None]
    plain = all(parse_sum(name) == ({name: 1}, 0) and name for name in named)
    if not plain or len(set(named)) < len(named):
        raise ManifestError(
            f"the batch and time axes are {named}, expected two names; export the model again"
        )
    for tensor, axes in manifest.axes.items():
        if twice := [name for name in named if axes.count(name) > 1]:
            raise ManifestError(
                f"{tensor!r} {describe(axes)} has axis {twice[0]} twice, as attention weights have, which no "
                "manifest describes; return it without one of them"
            )


def _check_state_axes(state: StateSpec, manifest: Manifest) -> None:
    """Refuse axes that follow from others: only batch and ``k*N`` do not change within a stream."""
    for axis in state.axes:
        follows = isinstance(axis, str) and parse_sum(axis) != ({axis: 1}, 0)
        if axis == manifest.sequence or (follows and row_factor(axis, manifest.batch) is None):
            raise ManifestError(
                f"state {state.input} {describe(state.axes)} has axis {axis}, expected sizes and "
                f"{manifest.batch or 'no names'}; export the model again"
            )


def _check_lengths(manifest: Manifest) -> None:
    spec = manifest.lengths_input
    if manifest.lengths is None:
        return
    if spec is None:
        raise ManifestError(f"lengths is {manifest.lengths!r}, which is not an input; export the model again")
    per_row = len(spec.axes) == 1 and (isinstance(spec.axes[0], int) or spec.axes[0] == manifest.batch)
    if not per_row or spec.dtype not in ("int32", "int64"):
        raise ManifestError(
            f"{spec.name} is {spec.dtype} {describe(spec.axes)}, expected lengths int64 "
            f"({manifest.batch or 1},); export the model again"
        )


def _check_reset(state: StateSpec) -> None:
    reset, dtype = np.asarray(state.reset), np.dtype(state.dtype)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        held = bool(((reset >= limits.min) & (reset <= limits.max)).all())
    else:
        with np.errstate(over="ignore"):
            held = bool(np.isfinite(reset.astype(dtype)).all())
    if not held:
        raise ManifestError(f"state {state.input} has a reset value beyond {state.dtype}; export it again")
    if not isinstance(state.reset, np.ndarray):
        return
    if state.reset.shape != all_ones(state.axes):
        raise ManifestError(
            f"state {state.input} {describe(state.axes)} has a reset value of shape {state.reset.shape}; "
            "export it again"
        )


def _named(axis: int | str) -> bool:
    return isinstance(axis, str) and "*" not in axis
