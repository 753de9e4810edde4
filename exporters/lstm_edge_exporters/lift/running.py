"""Runs of a foreign graph, or of a part of it, at chosen sizes of its axes, and the
shapes that they show.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.manifest import LONGEST, Array, Manifest
from lstm_edge_runtime.ort import open_session

from ..graph import (
    Builder,
    UniqueNames,
    axes_of,
    constant,
    data_inputs,
    dynamic_axes,
    forget_shapes,
    is_data_free,
    spec_of,
    to_bytes,
)
from ..recurrent import (
    label,
    length_input,
    recurrent_nodes,
    slots,
)
from ..sizes import TimeAxis, set_input_axes, set_time_axes
from ..verify.cases import CaseGenerator
from ..verify.engine import engine_of
from ..verify.indices import cases_of

Sizes = Mapping[str, int]
"""A size for every dynamic axis."""
Runs = list[tuple[Sizes, Mapping[ir.Value, Array]]]
"""Values of a graph at several sizes."""
Groups = Iterable[Sequence[Sizes]]
_LENGTHS = ((40, 1), (8, 1), (40, 12), (4000, 12))
"""Least numbers of steps to try, and multiples of the strides; a Reshape may join up to
12 frames."""
_FURTHER = (0, 2, 5)
"""Further lengths, in multiples."""
_ROWS = (2, 3)
_LONGEST = (2, 1, 2, 1, 1)
"""Greatest length of a row in each run; no axis of the inputs has these sizes."""
_OTHERS = 5
"""Size of the first axis that is neither batch nor time; the next ones are larger."""
_STEP_INPUTS = {"Range": 2, "Slice": 4, "STFT": 1}
"""Index of the input with the step or stride, by operator."""
_MOST_STRIDES = 1 << 12
_MOST_DRAWN = 1 << 26
"""Numbers of one case, half a gigabyte in float64."""
_MOST_INTEGERS = 8
"""Elements of a small value: starts, ends, axes and pads."""
_MOST_FLOATS = 1 << 18


def runner(model: ir.Model, name: str) -> Runner:
    """Return a function that runs a graph in onnxruntime; inputs that it does not take
    are left out.
    """
    session = open_session(to_bytes(_guard(model.clone())), name=name)
    names = [entry.name for entry in session.get_inputs()]
    run = engine_of(session)
    return lambda feeds: run({name: feeds[name] for name in names})


def name_axis(lengths: Sequence[int], cases: Sequence[Sizes]) -> int | str | None:
    """Name an axis by its length at each of ``cases``: fixed, ``N`` or ``2*N``; None if
    it is neither.
    """
    if len(set(lengths)) == 1:
        return lengths[0]
    for name, size in cases[0].items():
        times = lengths[0] // size
        multiples = [times * case[name] for case in cases]
        if times and multiples == list(lengths):
            return name if times == 1 else f"{times}*{name}"
    return None


def evaluate(
    model: ir.Model,
    values: Sequence[ir.Value],
    groups: Groups,
    *,
    all_sizes: bool = False,
) -> Runs:
    """Compute ``values`` on random data at the sizes of the first group whose first
    runs, or all of them.

    The values are data-free, or only their shapes matter: recurrent nodes before them
    start from nothing, so that no state fixes the batch size. Sizes at which the graph
    does not run are left out. Large floats are zeros of the right shape. Raises
    ``FileFormatError`` if no group runs.
    """
    subgraph = _subgraph(model, values)
    reason = ""
    run = runner(subgraph, "a part of the file")
    manifest = Manifest(
        inputs=tuple(map(spec_of, data_inputs(subgraph.graph))),
        outputs=(),
        batch=None,
        sequence=None,
        lengths=length_input(subgraph.graph),
    )
    for group in groups:
        runs: Runs = []
        least = min((min(sizes.values(), default=1) for sizes in group), default=1)
        for sizes in group:
            longest = sizes.get(LONGEST, least)
            cases = case_generator(subgraph.graph, manifest, longest)
            try:
                _check_count(cases.count(sizes))
                results = run(cases.at(sizes).feeds)
            except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
                reason = reason or f"at {sizes}: {first_line(error)}"
                if all_sizes or not runs:
                    break
            else:
                arrays = {}
                for value, twin in zip(values, subgraph.graph.outputs, strict=True):
                    arrays[value] = _small(results[str(twin.name)])
                runs.append((sizes, arrays))
        if len(runs) == len(group) or (runs and not all_sizes):
            return runs
    raise FileFormatError(
        f"the file does not run at other sizes: {reason}; "
        "if it runs at certain sizes only, give them with --input NAME=AXES"
    )


def _check_count(count: int) -> None:
    """Refuse a case of more numbers than ``_MOST_DRAWN``."""
    if count > _MOST_DRAWN:
        raise InputError(
            f"the inputs have {count:,} numbers, at most {_MOST_DRAWN:,} are drawn"
        )


def _small(array: Array) -> Array:
    """Return large float arrays as zeros that take no memory."""
    large = array.dtype.kind == "f" and array.size > _MOST_FLOATS
    return np.broadcast_to(np.float32(0), array.shape) if large else array


def case_generator(
    graph: ir.Graph, manifest: Manifest, steps: int, seed: int = 0
) -> CaseGenerator:
    """Draw data for the inputs of ``manifest``; lengths are at most ``steps`` if no
    axis is time.
    """
    values = {}
    for spec in manifest.inputs:
        if np.dtype(spec.dtype).kind in "iub":
            values[spec.name] = 2
    lengths = {}
    if manifest.lengths is not None:
        lengths[manifest.lengths] = np.array([steps])
    return cases_of(graph, manifest, lengths, values=values, seed=seed)


def _subgraph(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """Return a graph of ``values`` in which no recurrent node starts from a state."""
    graph = ir.convenience.extract(model.graph, model.graph.inputs, values)
    subgraph = ir.Model(graph, ir_version=model.ir_version)
    for node in recurrent_nodes(subgraph):
        for slot in slots(node):
            if slot.initial is not None:
                node.replace_input_with(slot.input, None)
    RemoveUnusedNodesPass()(subgraph)
    return subgraph


def _guard(model: ir.Model) -> ir.Model:
    """Put a Reshape before every recurrent node, in place, that raises an error for an
    empty X.

    In onnxruntime 1.32 a GRU without a step, and a GRU or LSTM without a row, end the
    process. ``[0, 0, -1]`` keeps X as it is; with no step or no row the last size can't
    be told.
    """
    names = UniqueNames(model.graph)
    for node in list(recurrent_nodes(model)):
        build = Builder(node, "", names)
        operands = [node.inputs[0], np.array([0, 0, -1])]
        name = f"no step or row is left for {label(node)}"
        same = build.value("Reshape", operands, name=name)
        node.replace_input_with(0, same)
    return model


def measure_shapes(
    model: ir.Model, batch: str | None, sequence: str | None
) -> ir.Model:
    """Measure dtype, shape and time axes of every value, in place; return a copy for
    streaming.

    In the copy, small integers that are the same at every size are constants.

    Raises:
        FileFormatError: the graph runs at no size that was tried, or the rank of an
            output depends on the run.
    """
    forget_shapes(model)
    values = _computed_tensors(model)
    if not values:
        raise FileFormatError("no node of the graph computes a tensor")
    groups: Groups = _cases(model, batch, sequence)
    has_lengths = sequence is not None and length_input(model.graph) is not None
    if has_lengths and LONGEST not in dynamic_axes(model.graph):
        groups = (_with_longest(group) for group in groups)
    runs = evaluate(model, values, groups, all_sizes=True)
    names = _Names(batch, sequence, [sizes for sizes, _ in runs])
    set_input_axes(model.graph, sequence)
    for value in values:
        arrays = [run[value] for _, run in runs]
        value.dtype = value.dtype or ir.DataType.from_numpy(arrays[0].dtype)
        names.describe(value, [array.shape for array in arrays])
    for value in model.graph.outputs:
        if value.shape is None:
            raise FileFormatError(
                f"the number of axes of output {value.name!r} differs between runs; "
                "decide the branches with --branch INPUT=NUMBER"
            )
    if sequence is not None:
        _rename_rounded(model, sequence, sizes=runs[0][0])
    return _with_known_integers(model, runs)


def _rename_rounded(model: ir.Model, sequence: str, sizes: Sizes) -> None:
    """Rename axes of outputs whose lengths are rounded, such as ``2*(L//2)``, in place:
    with one step more, they differ from the size that the name gives.
    """
    outputs = list(model.graph.outputs)
    one_more = {**sizes, sequence: sizes[sequence] + 1}
    try:
        ((_, arrays),) = evaluate(model, outputs, [[one_more]])
    except FileFormatError:
        return  # it takes multiples only
    for value in outputs:
        axes = list(axes_of(value))
        for index, size in enumerate(arrays[value].shape):
            if resolve((axes[index],), one_more) not in (None, (size,)):
                axes[index] = f"{value.name}.{index}"
        value.shape = ir.Shape(axes)


def _computed_tensors(model: ir.Model) -> list[ir.Value]:
    """Return the named values that nodes compute, without sequences of tensors."""
    computed = [value for node in model.graph for value in node.outputs if value.name]
    return [value for value in computed if _is_tensor(value)]


def _is_tensor(value: ir.Value) -> bool:
    """Return True if a value is a tensor, not a sequence of tensors."""
    return value.type is None or isinstance(value.type, ir.TensorType)


def _with_known_integers(model: ir.Model, runs: Runs) -> ir.Model:
    """Return a copy in which small integers that are the same in all runs are
    constants.
    """
    copy = model.clone()
    twins = {twin.name: twin for node in copy.graph for twin in node.outputs}
    for value, array in runs[0][1].items():
        is_small = array.dtype.kind in "iu" and array.size <= _MOST_INTEGERS
        if not is_small or constant(value) is not None:
            continue
        is_same = all(np.array_equal(run[value], array) for _, run in runs[1:])
        if is_same and value.uses() and is_data_free(value):
            known = ir.val(f"{value.name}.known", const_value=ir.tensor(array))
            copy.graph.register_initializer(known)
            ir.convenience.replace_all_uses_with(twins[value.name], known)
    return copy


@dataclass(frozen=True)
class _Names:
    """The names of the axes of a graph, and the sizes at which it ran.

    The first runs differ in the number of steps alone, the next one has more rows.
    """

    batch: str | None
    """Name of the batch axis."""
    sequence: str | None
    """Name of the time axis."""
    sizes: Sequence[Sizes]
    """Size of each named axis, per run."""

    @property
    def longest(self) -> tuple[int, ...]:
        """The greatest length of a row in each run; empty without lengths."""
        return tuple(sizes[LONGEST] for sizes in self.sizes if LONGEST in sizes)

    def describe(self, value: ir.Value, shapes: Sequence[tuple[int, ...]]) -> None:
        """Record the shape and the time axes of a value that had ``shapes``.

        Its shape stays unknown if its rank depends on the run.
        """
        set_time_axes(value, ())
        if len({len(shape) for shape in shapes}) > 1:
            return
        names: list[int | str] = []
        time_axes = []
        for index, lengths in enumerate(zip(*shapes, strict=True)):
            if lengths == self.longest:
                names.append(LONGEST)
                continue
            time = self._time_axis(index, lengths)
            if time is None:
                name = self._name(lengths)
            else:
                time_axes.append(time)
                name = time.title(str(self.sequence))
            names.append(f"{value.name}.{index}" if name is None else name)
        value.shape = ir.Shape(names)
        set_time_axes(value, time_axes)

    def _time_axis(self, index: int, lengths: Sequence[int]) -> TimeAxis | None:
        """Return the axis if its length depends on the number of steps."""
        by_steps = lengths[: len(_FURTHER)]
        if self.sequence is None or len({*by_steps}) == 1:
            return None
        more_rows = lengths[len(_FURTHER)]
        is_merged = self.batch is not None and more_rows != lengths[0]
        rows = self.sizes[0][self.batch] if self.batch and is_merged else 1
        points = []
        for sizes, length in zip(self.sizes, by_steps, strict=False):
            points.append((sizes[self.sequence], Fraction(length, rows)))
        return TimeAxis.through(index, points, is_merged=is_merged)

    def _name(self, lengths: Sequence[int]) -> int | str | None:
        """Name an axis whose length does not depend on the number of steps."""
        runs = [0, *range(len(_FURTHER), len(lengths))]
        lengths = [lengths[run] for run in runs]
        return name_axis(lengths, [self.sizes[run] for run in runs])


def _cases(
    model: ir.Model, batch: str | None, sequence: str | None
) -> Iterator[list[dict[str, int]]]:
    """Yield sizes to run at: three lengths, then more rows, then larger other axes."""
    axes = dynamic_axes(model.graph)
    names = [name for name in axes if name not in (batch, sequence)]
    base = {name: _OTHERS + index for index, name in enumerate(names)}
    more_rows = {}
    if batch:
        base[batch] = _ROWS[0]
        more_rows[batch] = _ROWS[1]
    larger_axes = {name: base[name] + len(names) for name in names}
    if sequence is None:
        same = [base] * len(_FURTHER)
        yield [*same, base | more_rows, base | larger_axes]
        return
    strides = _strides(model.graph)
    for least, times in _LENGTHS:
        multiple = lcm(strides, times)
        steps = -(-least // multiple) * multiple
        lengths = [{**base, sequence: steps + more * multiple} for more in _FURTHER]
        yield [*lengths, lengths[0] | more_rows, lengths[0] | larger_axes]


def _with_longest(group: Sequence[Sizes]) -> list[Sizes]:
    """Return the sizes with the greatest length of a row."""
    pairs = zip(group, _LONGEST, strict=True)
    return [{**sizes, LONGEST: longest} for sizes, longest in pairs]


def _strides(graph: ir.Graph) -> int:
    """Return a multiple of the product of all strides, along any axis."""
    products: dict[ir.Value | None, int] = {}
    for node in graph:
        before = lcm(*(products.get(value, 1) for value in node.inputs))
        product = int(before * max([1, *_strides_of(node)]))
        for value in node.outputs:
            products[value] = min(product, _MOST_STRIDES)
    return lcm(1, *set(products.values()))


def _strides_of(node: ir.Node) -> list[float]:
    """Return the strides of a node, or the steps that it takes as an input."""
    index = _STEP_INPUTS.get(node.op_type, len(node.inputs))
    steps = constant(node.inputs[index]) if index < len(node.inputs) else None
    if steps is not None:
        return [*steps.ravel().tolist()]
    return list(node.attributes.get_ints("strides", ()) or ())
