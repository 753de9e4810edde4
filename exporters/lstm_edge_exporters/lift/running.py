"""Running a foreign graph, or a part of it, at sizes of its axes."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.manifest import Array, Manifest, StateSpec
from lstm_edge_runtime.ort import open_session, run_by_name

from ..graph import UniqueNames, data_inputs, readers, spec_of, to_bytes
from ..recurrent import LENGTHS, is_recurrent, label, recurrent_nodes, slots
from ..verify.cases import CaseGenerator, Feeds
from ..verify.indices import index_values

EMPTY = "no step or row is left for "
"""Prefix of the name of a guarding operator, before the label of the recurrent node."""


class Session:
    """An onnxruntime session on a graph, run on arrays by name."""

    def __init__(self, model: ir.Model, name: str) -> None:
        """Open ``model``; raises ``FileFormatError`` if onnxruntime refuses it."""
        self._session = open_session(to_bytes(_guard(model.clone())), name=name)
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; inputs that the graph does not take are left out. onnxruntime's exceptions pass."""
        return run_by_name(self._session, {name: feeds[name] for name in self.inputs})


def name_axis(lengths: Sequence[int], cases: Sequence[Mapping[str, int]]) -> int | str | None:
    """Name an axis by its length at each of ``cases``: fixed, ``N`` or ``2*N``; None if it is neither."""
    if len(set(lengths)) == 1:
        return lengths[0]
    for name, size in cases[0].items():
        times, rest = divmod(lengths[0], size)
        pairs = zip(lengths, cases, strict=True)
        if times and not rest and all(length == times * case[name] for length, case in pairs):
            return name if times == 1 else f"{times}*{name}"
    return None


def evaluate(
    model: ir.Model,
    values: Sequence[ir.Value],
    cases: Sequence[Mapping[str, int]],
    reasons: list[str] | None = None,
) -> list[dict[ir.Value, Array] | None]:
    """Compute ``values`` on random data, once for each of ``cases``: a size for every dynamic axis.

    The values are data-free, or only their shapes matter: recurrent nodes before them start from nothing, so
    that no state fixes the batch size. None where the graph does not run; ``reasons`` gets why.
    """
    part, reasons = _part_of(model, values), [] if reasons is None else reasons
    try:
        session = Session(part, "a part of the file")
    except FileFormatError as error:
        reasons.append(str(error))
        return [None for _ in cases]
    found: list[dict[ir.Value, Array] | None] = []
    for sizes in cases:
        feeds = case_generator(part.graph, min(sizes.values(), default=1)).at(sizes).feeds
        try:
            results = session.run(feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            reasons.append(f"at {sizes}: {first_line(error)}")
            found.append(None)
            continue
        pairs = zip(values, part.graph.outputs, strict=True)
        found.append({value: results[str(twin.name)] for value, twin in pairs})
    return found


def case_generator(
    graph: ir.Graph,
    steps: int,
    *,
    states: Sequence[StateSpec] = (),
    batch: str | None = None,
    sequence: str | None = None,
    seed: int = 0,
) -> CaseGenerator:
    """Draw data for every input that must be fed; lengths are at most ``steps`` if no axis is time.

    Raises:
        InputError: an input is no tensor of numbers, or its rank is unknown.
    """
    values, numbers = [], index_values(graph)
    for value in data_inputs(graph):
        if value.shape is None or value.dtype is None:
            what = "shape; give its axes" if value.shape is None else "dtype; declare it in the file"
            raise InputError(f"input {value.name!r} declares no {what}: --input {value.name}=N,L,8")
        if not (
            value.dtype.is_floating_point() or value.dtype.is_integer() or value.dtype == ir.DataType.BOOL
        ):
            raise InputError(
                f"input {value.name!r} is {value.dtype.name}; only numbers can be drawn at random"
            )
        if not value.dtype.is_floating_point():
            numbers.setdefault(str(value.name), 2)
        values.append(spec_of(value))
    entering, lengths = {state.input for state in states}, next(iter(length_inputs(graph)), None)
    inputs = tuple(spec for spec in values if spec.name not in entering)
    manifest = Manifest(inputs, (), tuple(states), batch, sequence, lengths=lengths)
    return CaseGenerator.of(manifest, {} if lengths is None else {lengths: np.array([steps])}, numbers, seed)


def length_inputs(graph: ir.Graph) -> tuple[str, ...]:
    """Name the inputs of one whole number a row that reach some node's ``sequence_lens``."""
    return tuple(
        str(value.name)
        for value in data_inputs(graph)
        if value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        and (value.shape is None or len(value.shape) == 1)
        and any(is_recurrent(node) and place == LENGTHS for node, place in readers(value))
    )


def _part_of(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """Return a graph whose outputs are ``values``, in which no recurrent node starts from a state."""
    copy = model.clone()
    twins = dict(zip(model.graph.inputs, copy.graph.inputs, strict=True))
    for mine, its in zip(model.graph, copy.graph, strict=True):
        twins.update(zip(mine.outputs, its.outputs, strict=True))
    copy.graph.outputs[:] = [twins[value] for value in values]
    for slot in (slot for node in recurrent_nodes(copy) for slot in slots(node)):
        if slot.initial is not None:
            slot.node.replace_input_with(slot.input, None)
    RemoveUnusedNodesPass()(copy)
    return copy


def _guard(model: ir.Model) -> ir.Model:
    """Put a Reshape before every recurrent node, in place, that raises an error for an empty X.

    Seen in onnxruntime 1.32: a GRU without a step, and a GRU or an LSTM without a row, end the process, in a
    thread of their own and past any handler. ``[0, 0, -1]`` keeps X as it is; with no step or no row the last
    size can't be told.
    """
    names = UniqueNames(model.graph)
    for node in list(recurrent_nodes(model)):
        name = names.unique(f"{EMPTY}{label(node)}")
        sizes = ir.node("Constant", [], {"value": ir.tensor(np.array([0, 0, -1]))}, name=f"{name}.sizes")
        same = ir.node("Reshape", [node.inputs[0], sizes.outputs[0]], name=name)
        sizes.outputs[0].name, same.outputs[0].name = f"{name}.shape", f"{name}.same"
        node.prepend([sizes, same])
        node.replace_input_with(0, same.outputs[0])
    return model
