"""Running a graph, or a part of it: guarded sessions, inputs for them, and values that no data decides.

A value is *data-free* when it is computed from constants and from the shapes of other values alone:
``ConstantOfShape``, ``Expand``, ``Tile`` and ``Concat`` chains and whatever else a framework writes. What
it is, is found by running that part of the graph.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.manifest import Array, Axes, StateSpec
from lstm_edge_runtime.ort import run_by_name

from ..graph import (
    RANDOM,
    UniqueNames,
    axes_of,
    constant,
    data_inputs,
    operands,
    readers,
    to_bytes,
    walk,
)
from ..isolation import open_isolated
from ..recurrent import LENGTHS, is_recurrent, label, recurrent_nodes, slots
from ..verify.cases import CaseGenerator, InputSpec
from ..verify.indices import index_values

EMPTY = "no step or row is left for "
"""Prefix of the name of a guarding operator, before the label of the recurrent node."""
_SHAPE_READERS = ("Shape", "Size")


class Session:
    """An onnxruntime session on a graph, run on arrays by name."""

    def __init__(self, model: ir.Model, name: str) -> None:
        """Open ``model``; what onnxruntime raises in ``run`` passes through.

        Raises:
            FileFormatError: onnxruntime refuses it; the message carries its first line.
        """
        self._session = open_isolated(to_bytes(_guard(model.clone())), name=name)
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; entries of ``feeds`` that the graph does not take are left out."""
        return run_by_name(self._session, {name: feeds[name] for name in self.inputs})


def name_axis(rows: Sequence[int], cases: Sequence[Mapping[str, int]]) -> int | str | None:
    """Name an axis by its length at each of ``cases``, the sizes of dynamic axes: fixed, ``N`` or ``2*N``.

    None if it follows no single dynamic axis.
    """
    if len(set(rows)) == 1:
        return rows[0]
    for name, size in cases[0].items():
        times, rest = divmod(rows[0], size)
        if (
            times
            and not rest
            and all(row == times * case[name] for row, case in zip(rows, cases, strict=True))
        ):
            return name if times == 1 else f"{times}*{name}"
    return None


def axes_in(name: str, shapes: Sequence[tuple[int, ...]], cases: Sequence[Mapping[str, int]]) -> Axes | None:
    """Name a value's axes by its shape at each of ``cases``; None if their number is not always the same.

    One that follows no single dynamic axis is called ``name.1`` by its place.
    """
    if len(set(map(len, shapes))) > 1:
        return None
    known = (name_axis(lengths, cases) for lengths in zip(*shapes, strict=True))
    return tuple(f"{name}.{place}" if axis is None else axis for place, axis in enumerate(known))


def is_data_free(value: ir.Value) -> bool:
    """Return whether ``value`` depends on constants and sizes alone.

    A product with a constant zero counts as free of the other factor (``x * 0``, a common way to write
    zeros of the right size).
    """
    return all(map(_possible, walk([value], _needs)))


def inputs_above(value: ir.Value) -> frozenset[str]:
    """Name the graph inputs that ``value`` depends on."""
    return frozenset(str(each.name) for each in walk([value], operands) if each.is_graph_input())


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
        case = case_generator(part.graph, min(sizes.values(), default=1)).at(sizes)
        try:
            results = session.run(case.feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            reasons.append(f"at {sizes}: {first_line(error)}")
            found.append(None)
            continue
        pairs = zip(values, part.graph.outputs, strict=True)
        found.append({value: results[str(twin.name)] for value, twin in pairs})
    return found


def _part_of(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """Return a graph whose outputs are ``values``, in which no recurrent node starts from a state."""
    copy = model.clone()
    graphs = (ir.traversal.RecursiveGraphIterator(each.graph) for each in (model, copy))
    twins = dict(zip(model.graph.inputs, copy.graph.inputs, strict=True))
    for mine, its in zip(*graphs, strict=True):
        twins.update(zip(mine.outputs, its.outputs, strict=True))
    copy.graph.outputs[:] = [twins[value] for value in values]
    for slot in (slot for node in recurrent_nodes(copy) for slot in slots(node)):
        if slot.initial is not None:
            slot.node.replace_input_with(slot.input, None)
    RemoveUnusedNodesPass()(copy)
    return copy


def case_generator(
    graph: ir.Graph,
    steps: int,
    *,
    states: Sequence[StateSpec] = (),
    sequence: str | None = None,
    seed: int = 0,
) -> CaseGenerator:
    """Generate data for every input that must be fed.

    Floats are standard normal; indices are tokens below the size of their table, see ``index_values``; other
    integers are 0 or 1; an input that reaches a node's ``sequence_lens`` is between 1 and ``steps``, and
    ``steps`` for one row; ``states`` are at reset.

    Args:
        graph: the inputs; one of the name of a state is that state.
        steps: maximum of lengths if ``sequence`` has no size.
        states: the states.
        sequence: the name of the time axis.
        seed: of everything that is drawn.

    Raises:
        InputError: an input is no tensor of numbers, or its rank is unknown.
    """
    known, lengths, tables = {state.input for state in states}, length_inputs(graph), index_values(graph)
    specs = []
    for value in data_inputs(graph):
        if value.name in known:
            continue
        if value.dtype is None or value.shape is None:
            raise InputError(
                f"input {value.name!r} declares no shape; give its axes: --input {value.name}=N,L,8"
                if value.shape is None
                else f"input {value.name!r} declares no dtype; declare it in the file"
            )
        dtype, values = value.dtype.numpy(), tables.get(str(value.name))
        if not value.dtype.is_floating_point():
            if dtype != np.bool_ and not value.dtype.is_integer():
                raise InputError(
                    f"input {value.name!r} is {value.dtype.name}; only numbers can be drawn at random"
                )
            values = 2 if dtype == np.bool_ else tables.get(str(value.name), 2)
        role = "lengths" if value.name in lengths else "signal"
        longest = np.array([steps]) if role == "lengths" else None
        specs.append(InputSpec(str(value.name), dtype.name, axes_of(value), role, longest, values=values))
    specs += [InputSpec(each.input, each.dtype, each.axes, "state", reset=each.reset) for each in states]
    return CaseGenerator(tuple(specs), None, sequence, seed)


def length_inputs(graph: ir.Graph) -> tuple[str, ...]:
    """Name the inputs that reach some node's ``sequence_lens``."""
    return tuple(
        str(value.name)
        for value in data_inputs(graph)
        if value.dtype is not None
        and value.dtype.is_integer()
        and any(is_recurrent(node) and place == LENGTHS for node, place in readers(value))
    )


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


def _needs(value: ir.Value) -> list[ir.Value]:
    """Return the values whose numbers decide this one's."""
    node = value.producer()
    if node is None or node.op_type in _SHAPE_READERS or constant(value) is not None:
        return []
    inputs = [entry for entry in node.inputs if entry is not None]
    if node.op_type == "Mul" and any(_is_zero(entry) for entry in inputs):
        return []
    return inputs


def _possible(value: ir.Value) -> bool:
    """Return whether the value can be data-free at all, whatever its operands are."""
    if constant(value) is not None:
        return True
    node = value.producer()
    return (
        node is not None
        and node.op_type not in RANDOM
        and not any(
            entry.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
            for entry in node.attributes.values()
        )
    )


def _is_zero(value: ir.Value) -> bool:
    array = constant(value)
    return array is not None and array.size > 0 and not array.any()
