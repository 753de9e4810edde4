"""The axes of a graph's inputs: which one is batch or time is found by running the graph at several sizes.

An axis is *time* if a recurrence makes more steps where the axis is longer, and the *batch* if its rows grow.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError, FileFormatError, InputError
from lstm_edge_runtime.manifest import Array, Axes

from ..graph import axes_of, constant, data_inputs, dynamic_axes, forget_shapes, is_data_free
from ..recurrent import LENGTHS, is_reversed
from .read import decide_branches
from .recurrences import Axis, Recurrence, recurrences, top_of
from .rewrites import restore_order
from .running import Runs, Sizes, evaluate, name_axis

BATCH, SEQUENCE = "batch", "sequence"
_SIZES = ((40, 7), (8, 3), (4, 1))
"""Least size of a dynamic axis, and how far apart others are; a graph may run at some of them only."""
_USUAL = {BATCH: re.compile("n|b|batch.*"), SEQUENCE: re.compile("l|t|time.*|seq.*|frames?")}
_NEW = "#"
"""Begins the labels of axes that the file gives no name."""
_MADE_UP = re.compile(r"unk__\d+|\?|")
"""Names that exporters give to axes that they know nothing of."""


@dataclass(frozen=True)
class Named:
    """Result of ``name_axes``."""

    batch: str | None
    sequence: str | None
    freed: Mapping[str, int]
    """Declared sizes, by role, of the axes of fixed size that are dynamic now."""
    runs: "Measured"
    """Values that recurrences read and start from."""
    over_time: Sequence[Recurrence]
    """The recurrences whose steps are time."""
    steps: int
    """Steps that these make in a call, where no axis is time."""
    final: bool
    """True if the declared sizes lead to the same states, or the same refusal."""


def take_given(graph: ir.Graph, given: Mapping[str, Axes]) -> None:
    """Declare the inputs as given, in place; another input's axis of the same old name takes the new one."""
    inputs = {str(value.name): value for value in data_inputs(graph)}
    renamed: dict[int | str, int | str] = {}
    for name, axes in given.items():
        if name not in inputs:
            raise InputError(f"no input {name!r}; the inputs are {', '.join(inputs)}")
        old = axes_of(inputs[name])
        if inputs[name].shape is not None and len(old) != len(axes):
            raise InputError(f"input {name} has {len(old)} axes, {len(axes)} were given: {axes}")
        if any(axis < 1 if isinstance(axis, int) else axes.count(axis) > 1 for axis in axes):
            raise InputError(
                f"input {name} was given {axes}: sizes are from 1, and no two names are the same"
            )
        renamed |= {was: axis for was, axis in zip(old, axes, strict=False) if isinstance(was, str)}
        inputs[name].shape = ir.Shape(axes)
    _rename((value for name, value in inputs.items() if name not in given), renamed)
    for name, value in inputs.items():
        if value.shape is None:
            raise InputError(f"input {name!r} declares no shape; give its axes: --input {name}=N,L,8")
        if value.dtype is None or value.dtype.numpy().kind not in "fiub":
            raise InputError(f"input {name!r} is {value.dtype}; only numbers can be drawn at random")


def name_axes(model: ir.Model, given: Collection[str], *, free: bool) -> Named:
    """Name every dynamic axis of the inputs, and take the branches that the others decide, in place.

    Names in the file are kept. ``free`` lets a batch and a time axis of fixed size become dynamic where
    the graph runs at other sizes; not those of inputs whose axes are ``given``.
    """
    fixed = _label_axes(model, lambda name: free and name not in given)
    forget_shapes(model)
    decide_branches(model)
    if free and _holds_sizes(model.graph, fixed):
        raise ContractError("a Reshape to numbers fixes the sizes of the inputs")
    restore_order(model, fixed)
    layers = recurrences(model)
    runs = Measured(model, layers, fixed)
    roles = _measure_roles(model.graph, layers, runs, fixed)
    nodes = [cell.node for cell in layers if not cell.looped]
    held = any(constant(value) is not None for node in nodes for value in node.inputs[LENGTHS : LENGTHS + 1])
    for role in (BATCH, SEQUENCE):  # becomes dynamic if all axes of fixed size agree, and no constant lengths
        alike = [name for name in fixed if roles.get(name) == role]
        if held or len({fixed[name] for name in alike}) > 1:
            roles = {name: role for name, role in roles.items() if name not in alike}
    titles = _titles(model.graph, roles, fixed)
    _rename((*data_inputs(model.graph), *(value for node in model.graph for value in node.outputs)), titles)
    batch, sequence = (
        next((str(titles[name]) for name in titles if roles.get(str(name)) == role), None)
        for role in (BATCH, SEQUENCE)
    )
    freed = {roles[name]: size for name, size in fixed.items() if name in roles}
    if len(dynamic_axes(model.graph)) < sum(isinstance(title, str) for title in titles.values()):  # joined
        names = {BATCH: batch, SEQUENCE: sequence}
        runs = Measured(model, layers, {str(names[role]): size for role, size in freed.items()})
    else:
        runs.rename(titles, fixed)
    forward = [axis for cell in layers if not is_reversed(cell.node) for axis in cell.time_axes()]
    steps = max((size for axis in forward for _, size in runs.lengths(axis)[:1]), default=1)
    backwards = all(is_reversed(cell.node) for cell in layers)
    if sequence is not None:
        layers = [cell for cell in layers if any(runs.may_grow(axis, batch) for axis in cell.time_axes())]
    final = (runs.complete and not freed) or (backwards and bool(layers))
    return Named(batch, sequence, freed, runs, layers, 1 if sequence else steps, final)


class Measured:
    """Values that recurrences read and start from, at several sizes."""

    def __init__(self, model: ir.Model, layers: Sequence[Recurrence], fixed: Sizes) -> None:
        """Run the graph at the first sizes at which it runs; ``fixed`` has sizes of some axes."""
        self._runs: dict[ir.Value, Runs] = {}
        self.complete = True
        """False if the graph ran at no sizes that were tried."""
        starts = {slot.initial for layer in layers for slot in layer.slots if slot.initial is not None}
        reads = {value for layer in layers for value, _ in (*layer.time_axes(), *layer.row_axes())}
        names = dynamic_axes(model.graph)
        for group in (reads - starts, starts):
            values = [value for value in group if constant(value) is None]
            try:
                runs = evaluate(model, values, _sizes_apart(names, fixed)) if values else []
                self._runs |= dict.fromkeys(values, runs)
            except FileFormatError:
                self.complete = False

    def rename(self, titles: Mapping[int | str, int | str], fixed: Sizes) -> None:
        """Give every axis another name; keep the runs at the sizes that stay ``fixed``."""
        names = {str(name): title for name, title in titles.items() if isinstance(title, str)}
        held = {name: size for name, size in fixed.items() if name not in names}.items()
        for value, runs in self._runs.items():
            kept = [(sizes, run) for sizes, run in runs if held <= sizes.items()]
            self._runs[value] = [({names[name]: sizes[name] for name in names}, run) for sizes, run in kept]

    def arrays(self, value: ir.Value) -> list[Array]:
        """Return the value in each run that did not fail."""
        stored = constant(value)
        return [run[value] for _, run in self._runs.get(value, [])] if stored is None else [stored]

    def lengths(self, axis: Axis) -> list[tuple[Sizes, int]]:
        """Return the sizes and an axis's length in each run that did not fail."""
        value, index = axis
        runs = [(sizes, run[value]) for sizes, run in self._runs.get(value, [])]
        if index is None:
            return [(sizes, int(array.flat[0])) for sizes, array in runs]
        return [(sizes, array.shape[index]) for sizes, array in runs if array.ndim > index]

    def name(self, axis: Axis) -> int | str | None:
        """Name an axis by its lengths; None if these are unknown, or no multiple of an input's axis."""
        runs = self.lengths(axis)
        return name_axis([length for _, length in runs], [sizes for sizes, _ in runs]) if runs else None

    def growing_with(self, axis: Axis) -> set[str]:
        """Return the names of the input axes that lengthen ``axis``."""
        (base, first), *longer = self.lengths(axis) or [({}, 0)]
        return {
            name for sizes, length in longer if length != first for name in sizes if sizes[name] != base[name]
        }

    def may_grow(self, axis: Axis, batch: str | None) -> bool:
        """Return True if an input axis other than the batch lengthens ``axis``; if unknown, chunks decide."""
        return not self.lengths(axis) or bool(self.growing_with(axis) - {batch})


def _sizes_apart(names: Sequence[str], fixed: Sizes) -> Iterator[tuple[Sizes, ...]]:
    """Yield sets of sizes: one for all axes, then for each axis that one with this axis longer."""
    for least, apart in _SIZES:
        base = {name: least + apart * index for index, name in enumerate(names)} | dict(fixed)
        longer = ({name: base[name] + apart * len(names) + index} for index, name in enumerate(names))
        yield base, *(base | sizes for sizes in longer)


def _label_axes(model: ir.Model, takes: Callable[[str], bool]) -> dict[str, int]:
    """Label axes without a name, and fixed ones of inputs that ``takes`` accepts; return their sizes."""
    slots = (slot for recurrence in recurrences(model) for slot in recurrence.slots)
    starts = [slot.initial for slot in slots if slot.initial is not None]
    states = {top_of(initial).name for initial in starts if not is_data_free(initial)}
    fixed: dict[str, int] = {}
    for value in data_inputs(model.graph):
        shape: list[int | str] = []
        for index, axis in enumerate(value.shape or ()):
            name = axis if isinstance(axis, int) else str(axis.value or "")
            separate = value.name in states or index > 1
            label: int | str = f"{_NEW}{value.name}_{index}" if separate else f"{_NEW}{index}"
            if isinstance(name, int) and name and takes(str(value.name)):
                fixed[f"{label}:{name}"] = name
                label = f"{label}:{name}"
            elif name and not _MADE_UP.fullmatch(str(name)):
                label = name
            shape.append(label)
        value.shape = ir.Shape(shape)
    return fixed


def _holds_sizes(graph: ir.Graph, fixed: Sizes) -> bool:
    """Return True where every axis is ``fixed``, and a Reshape to numbers reads a first or second one."""
    shared = {name for name in fixed if name.startswith((f"{_NEW}0:", f"{_NEW}1:"))}
    for node in graph if len(dynamic_axes(graph)) == len(fixed) else ():
        target = constant(node.inputs[1]) if node.op_type == "Reshape" else None
        read = shared.intersection(*(axes_of(value) for value in node.inputs[:1] if value is not None))
        if read and target is not None and target.min(initial=1) > 0:
            return True
    return False


def _measure_roles(
    graph: ir.Graph, layers: Sequence[Recurrence], runs: Measured, fixed: Sizes
) -> dict[str, str]:
    """Return the role of each axis that has one."""
    roles: dict[str, str] = {}
    for layer in layers:
        time = set().union(*map(runs.growing_with, layer.time_axes()))
        grown = (runs.growing_with(axis) for axis in layer.row_axes())
        single = (axes - set(fixed) or axes for axes in grown)
        rows = set().union(*(axes for axes in single if len(axes) == 1))
        time = time - set(fixed) or time  # a batch of fixed size may be folded into time
        if len(time) == 1:
            roles.update((name, SEQUENCE) for name in time - rows if name not in roles)
        roles.update((name, BATCH) for name in rows - time if name not in roles)
    return roles or _by_place(graph, fixed)


def _by_place(graph: ir.Graph, fixed: Sizes) -> dict[str, str]:
    """Return roles where no recurrence shows them: by usual names, else the first axis is the batch."""
    names = [name for name in dynamic_axes(graph) if name not in fixed]
    roles = {name: role for name in names for role, usual in _USUAL.items() if usual.fullmatch(name.lower())}
    if len({*roles.values()}) == len(roles) > 0:
        return roles
    firsts = [axes[0] for value in data_inputs(graph) if (axes := axes_of(value))]
    others = [name for name in names if name not in firsts]
    return {str(name): BATCH for name in firsts} | dict.fromkeys(others if len(others) == 1 else (), SEQUENCE)


def _titles(graph: ir.Graph, roles: Mapping[str, str], fixed: Sizes) -> dict[int | str, int | str]:
    """Return the new name of every dynamic axis; the size of one that stays fixed.

    All batch axes take the file's name of one of them, or N; time axes without a name likewise, or L.
    """
    labels, titles = dynamic_axes(graph), dict[int | str, int | str]()
    for label in labels:
        role, made_up = roles.get(label, ""), label.startswith(_NEW)
        titles[label] = fixed.get(label, label.removeprefix(_NEW)) if made_up else label
        if role == BATCH or (role == SEQUENCE and made_up):
            usual = {BATCH: "N", SEQUENCE: "L"}[role]
            given = (name for name in labels if roles.get(name) == role and not name.startswith(_NEW))
            titles[label] = next(given, usual if usual not in labels else role)
    return titles


def _rename(values: Iterable[ir.Value], names: Mapping[int | str, int | str]) -> None:
    for value in values:
        axes = axes_of(value)
        if value.shape is not None and names.keys() & set(axes):
            pairs = zip(axes, value.shape, strict=True)
            value.shape = ir.Shape([names.get(axis, size) for axis, size in pairs])
