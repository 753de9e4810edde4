"""Running a foreign graph, or a part of it, at sizes of its axes."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.ort import run_by_name

from ..graph import UniqueNames, data_inputs, readers, spec_of, to_bytes
from ..isolation import open_isolated
from ..recurrent import LENGTHS, is_recurrent, label, recurrent_nodes, slots
from ..verify.cases import CaseGenerator, Feeds
from ..verify.indices import index_values

Sizes = Mapping[str, int]
"""A size for every dynamic axis."""
Runs = Sequence[tuple[Sizes, Mapping[ir.Value, Array]]]
"""Values of a graph at several sizes."""


class Session:
    """An onnxruntime session on a graph, run on arrays by name."""

    def __init__(self, model: ir.Model, name: str) -> None:
        """Open ``model``; raises ``FileFormatError`` if onnxruntime refuses it."""
        self._session = open_isolated(to_bytes(_guard(model.clone())), name=name)
        self.inputs: tuple[str, ...] = tuple(entry.name for entry in self._session.get_inputs())

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run once; inputs that the graph does not take are left out. onnxruntime's exceptions pass."""
        return run_by_name(self._session, {name: feeds[name] for name in self.inputs})


def name_axis(lengths: Sequence[int], cases: Sequence[Sizes]) -> int | str | None:
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
    model: ir.Model, values: Sequence[ir.Value], groups: Iterable[Sequence[Sizes]], *, every: bool = False
) -> Runs:
    """Compute ``values`` on random data at the sizes of the first group whose first runs, or all of them.

    The values are data-free, or only their shapes matter: recurrent nodes before them start from nothing, so
    that no state fixes the batch size. Sizes at which the graph does not run are left out.

    Raises:
        FileFormatError: no group runs.
    """
    part, reason = _part_of(model, values), ""
    session = Session(part, "a part of the file")
    manifest = Manifest(tuple(map(spec_of, data_inputs(part.graph))), (), (), None, None)
    manifest = manifest._replace(lengths=length_input(part.graph))
    for group in groups:
        runs, least = [], min((size for sizes in group for size in sizes.values()), default=1)
        cases = case_generator(part.graph, manifest, least)
        for sizes in group:
            try:
                results = session.run(cases.at(sizes).feeds)
            except Exception as error:  # noqa: BLE001, PERF203  onnxruntime's exceptions share no base class
                reason = reason or f"at {sizes}: {first_line(error)}"
                if every or not runs:
                    break
            else:
                twins = zip(values, part.graph.outputs, strict=True)
                runs.append((sizes, {value: results[str(twin.name)] for value, twin in twins}))
        if len(runs) == len(group) or (runs and not every):
            return runs
    raise FileFormatError(
        f"the file does not run at other sizes: {reason}; "
        "if it runs at certain sizes only, give them with --input NAME=AXES"
    )


def case_generator(graph: ir.Graph, manifest: Manifest, steps: int, seed: int = 0) -> CaseGenerator:
    """Draw data for the inputs of ``manifest``; lengths are at most ``steps`` if no axis is time."""
    values = {spec.name: 2 for spec in manifest.inputs if np.dtype(spec.dtype).kind in "iub"}
    lengths = {} if manifest.lengths is None else {manifest.lengths: np.array([steps])}
    return CaseGenerator.of(manifest, lengths, values | index_values(graph), seed)


def length_input(graph: ir.Graph) -> str | None:
    """Name the first input of one whole number a row that reaches some node's ``sequence_lens``."""
    names = (
        str(value.name)
        for value in data_inputs(graph)
        if value.dtype in (ir.DataType.INT32, ir.DataType.INT64)
        and (value.shape is None or len(value.shape) == 1)
        and any(is_recurrent(node) and place == LENGTHS for node, place in readers(value))
    )
    return next(names, None)


def _part_of(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """Return a graph whose outputs are ``values``, in which no recurrent node starts from a state."""
    graph = ir.convenience.extract(model.graph, model.graph.inputs, values)
    part = ir.Model(graph, ir_version=model.ir_version)
    for slot in (slot for node in recurrent_nodes(part) for slot in slots(node)):
        if slot.initial is not None:
            slot.node.replace_input_with(slot.input, None)
    RemoveUnusedNodesPass()(part)
    return part


def _guard(model: ir.Model) -> ir.Model:
    """Put a Reshape before every recurrent node, in place, that raises an error for an empty X.

    Seen in onnxruntime 1.32: a GRU without a step, and a GRU or an LSTM without a row, end the process, in a
    thread of their own and past any handler. ``[0, 0, -1]`` keeps X as it is; with no step or no row the last
    size can't be told.
    """
    names = UniqueNames(model.graph)
    for node in list(recurrent_nodes(model)):
        name = names.unique(f"no step or row is left for {label(node)}")
        sizes = ir.node("Constant", [], {"value": ir.tensor(np.array([0, 0, -1]))}, name=f"{name}.sizes")
        same = ir.node("Reshape", [node.inputs[0], sizes.outputs[0]], name=name)
        sizes.outputs[0].name, same.outputs[0].name = f"{name}.shape", f"{name}.same"
        node.prepend([sizes, same])
        node.replace_input_with(0, same.outputs[0])
    return model
