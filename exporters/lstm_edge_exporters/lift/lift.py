"""``lift``: from any recurrent ONNX file to one with explicit states, proven."""

import os
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from lstm_edge_runtime.errors import CheckFailedError, ContractError, FileFormatError, InputError, first_line
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest, StateSpec

from ..recurrent import label, recurrent_nodes, slots, state_shape
from ._axes import data_inputs
from ._layout import to_layout_0
from ._manifest import declare_outputs, describe_outputs, with_manifest, write_manifest
from ._ort import Session, to_bytes
from ._reshapes import free_reshapes
from ._sample import length_inputs
from ._shapes import infer_shapes
from .axes import AxisNames, fixed_roles, name_axes
from .axis_roles import BATCH
from .config import LiftConfig, LiftReport
from .evaluate import constant
from .existing_states import recognize
from .read import read_proto
from .states import LeftAlone, LiftedStates, lift_states
from .verification import Subject, prove

__all__ = ["Lifted", "lift"]

_QUANTISED = "DynamicQuantizeLSTM"
"""What onnxruntime's dynamic quantizer makes of an LSTM."""


@dataclass(frozen=True)
class Lifted:
    """A proven ONNX file with explicit states; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    report: LiftReport
    """What was lifted, what was left, and what was proven."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)


def lift(onnx_file: str | os.PathLike[str] | bytes, config: LiftConfig | None = None) -> Lifted:
    """Return the same network with its hidden states as explicit inputs and outputs.

    Args:
        onnx_file: the path of an ``.onnx`` file of any framework, or its content; opset 7 or later.
        config: the options.

    Returns:
        The lifted file, which computes the original bit for bit while its states are at reset.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, external data that can't be used, or a file that onnxruntime
            does not run.
        ContractError: there is no state to lift or to recognize; a node reads time backwards, or starts anew
            in every pass of a loop, so that its state can't be carried.
        InputError: an option that does not fit the file.
        CheckFailedError: the lifted file does not compute what the original does.
    """
    config = config or LiftConfig()
    if config.seed < 0:
        raise InputError(f"seed is {config.seed}, expected a whole number from 0")
    proto = read_proto(onnx_file)
    model, proto = _understand(proto)
    fixed = frozenset() if config.inputs else frozenset(fixed_roles(model))
    for free in _attempts(fixed):
        found = _try_freeing(model, proto, config, free)
        if found is not None:
            return found
    return _lift_with(model, proto, config, frozenset())


def _understand(proto: onnx.ModelProto) -> tuple[ir.Model, onnx.ModelProto]:
    """Read the graph, functions inlined, and see that onnxruntime takes it, ``layout=1`` rewritten."""
    batchwise = any(
        entry.name == "layout" and entry.i for node in proto.graph.node for entry in node.attribute
    )
    try:
        content = proto.SerializeToString()
    except Exception as error:  # protobuf raises its own EncodeError past 2 GiB
        raise FileFormatError("with its external data the file passes 2 GiB; lift a smaller part") from error
    if not batchwise:
        Session(content)
    try:
        model = ir.from_proto(proto)
        if model.functions:
            model = InlinePass()(model).model
        order = list(model.graph.all_nodes())
        model.graph.sort()
        infer_shapes(model)
        if to_layout_0(model) or list(model.graph.all_nodes()) != order:
            content = to_bytes(model)
            proto = onnx.load_from_string(content)
    except Exception as error:  # onnx-ir raises many kinds for a malformed graph
        raise FileFormatError(f"the graph is malformed: {first_line(error)}") from error
    if batchwise:
        Session(content)
    return model, proto


def _try_freeing(
    model: ir.Model, proto: onnx.ModelProto, config: LiftConfig, free: frozenset[str]
) -> Lifted | None:
    try:
        return _lift_with(model, proto, config, free)
    except (CheckFailedError, ContractError, FileFormatError):
        return None


def _attempts(fixed: frozenset[str]) -> list[frozenset[str]]:
    """Return what to free, the most first: fixed sizes are often a declaration and no more."""
    single = [frozenset({role}) for role in sorted(fixed, reverse=True)] if len(fixed) > 1 else []
    return [fixed, *single] if fixed else []


def _lift_with(model: ir.Model, proto: onnx.ModelProto, config: LiftConfig, free: frozenset[str]) -> Lifted:
    base = model.clone()
    if free:
        free_reshapes(base)
    names = name_axes(base, config.inputs, free)
    declare_outputs(base)
    known = recognize(base, config.states, names.sequence)
    inputs = {str(value.name) for value in data_inputs(base.graph)}
    declared = {role: size for role, size in fixed_roles(model).items() if role in free}
    result = lift_states(
        base,
        batch=names.batch,
        carry=inputs - {state.input for state in known},
        declared=declared.get(BATCH),
    )
    left = _left(result, known)
    _refuse(base, result, known, left, config, free)
    subject = Subject(
        base=base,
        lifted=result.model,
        states=(*known, *result.states),
        names=names,
        rows=max(_held_at(base, names), result.rows),
        declared=declared,
        lengths=length_inputs(base.graph),
    )
    outputs = describe_outputs(subject, config.seed)
    proof = prove(subject, config.seed)
    manifest = write_manifest(subject, proto, outputs, proof)
    report = LiftReport(
        lifted=result.states,
        recognized=known,
        left=left,
        freed=tuple(sorted(free)),
        equality=proof.equality,
        chunks=proof.chunks,
        unstreamable=proof.unstreamable,
    )
    changed = ir.to_proto(result.model) if result.states else proto
    return Lifted(with_manifest(changed, manifest), manifest, report)


def _left(result: LiftedStates, known: tuple[StateSpec, ...]) -> tuple[LeftAlone, ...]:
    """Return what was left alone, without the states that are recognized as inputs already."""
    inputs = {repr(state.input) for state in known}
    return tuple(
        entry for entry in result.left if entry.cause != "given" or entry.reason.split()[-1] not in inputs
    )


def _refuse(
    model: ir.Model,
    result: LiftedStates,
    known: tuple[StateSpec, ...],
    left: tuple[LeftAlone, ...],
    config: LiftConfig,
    free: frozenset[str],
) -> None:
    backwards = dict.fromkeys(entry.node for entry in left if entry.cause == "reversed")
    if backwards and not config.skip_reverse:
        raise ContractError(
            f"{', '.join(backwards)} reads time backwards, so no state of it can be carried over; "
            "lift the other nodes with --skip-reverse (skip_reverse=True)"
        )
    stuck = next((entry for entry in left if entry.cause == "subgraph"), None)
    if stuck is not None:
        raise ContractError(
            f"{stuck.node}: {stuck.reason}, so no one input can stand for its state; "
            "carry the state through the loop, or move the node out of it"
        )
    if not result.states and not known:
        nodes = [label(node) for node in recurrent_nodes(model)]
        if quantized := [label(node) for node in model.graph.all_nodes() if node.op_type == _QUANTISED]:
            raise ContractError(
                f"{', '.join(quantized)} is quantized, and its states can't be lifted; lift the float file, "
                "then quantize that with lstm-edge quantize"
            )
        reasons = "; ".join(f"{entry.state} of {entry.node}: {entry.reason}" for entry in left)
        raise ContractError(
            f"there is no state to lift: {reasons}"
            if nodes
            else "the file holds no LSTM, GRU or RNN node and no input that is called like a state; "
            "name its states with --state INPUT=OUTPUT if it has any"
        )
    if free and not result.states:
        raise ContractError("a file that has its states already is not changed")


def _held_at(model: ir.Model, names: AxisNames) -> int:
    """Return the batch size that constant initial states hold the graph at, 1 where they don't."""
    if names.batch is None:
        return 1
    sizes = {
        array.shape[state_shape(node)[2]]
        for node in recurrent_nodes(model)
        for slot in slots(node)
        if (array := constant(slot.initial)) is not None and array.ndim == 3
    }
    return max(sizes, default=1)
