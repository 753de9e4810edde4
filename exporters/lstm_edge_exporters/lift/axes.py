"""The axes of a graph's inputs: which one is batch or time is found by running the graph at several sizes.

An axis is *time* if a recurrence makes more steps where the axis is longer, and the *batch* if its rows grow.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Array, Axes

from ..graph import axes_of, constant, data_inputs, dynamic_axes, forget_shapes, is_data_free
from ..recurrent import LENGTHS
from .read import decide_branches
from .recurrences import Axis, Recurrence, count_passes, drop_counters, recurrences, top_of
from .rows import restore_order
from .running import Sizes, evaluate

BATCH, SEQUENCE = "batch", "sequence"
_SIZES = ((40, 7), (8, 3), (4, 1))
"""Least size of a dynamic axis, and how far apart others are; a graph may run at some of them only."""
_NEW = "#"
"""Begins the labels of axes that the file gives no name."""
_MADE_UP = re.compile(r"unk__\d+|\?|")
"""Names that exporters give to axes that they know nothing of."""

_USUAL = {BATCH: re.compile("n|b|batch.*"), SEQUENCE: re.compile("l|t|time.*|seq.*|frames?")}


@dataclass(frozen=True)
class Named:
    """What ``name_axes`` found."""

    batch: str | None
    sequence: str | None
    freed: Mapping[str, int]
    """Declared sizes, by role, of the axes of fixed size that are dynamic now."""
    runs: "Measured"
    """What recurrences read and start from."""
    over_time: Sequence[Recurrence]
    """The recurrences whose steps are time."""
    steps: int
    """Steps that these make in a call, where no axis is time."""


def take_given(graph: ir.Graph, given: Mapping[str, Axes]) -> None:
    """Declare the inputs as given, in place; another input's axis of the same old name takes the new one.

    Raises:
        InputError: ``given`` names an input that is not there, or has another rank.
    """
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


def name_axes(model: ir.Model, given: Collection[str], *, free: bool) -> Named:
    """Name every dynamic axis of the inputs, and take the branches that the others decide, in place.

    Names in the file are kept. ``free`` lets a batch and a time axis of fixed size become dynamic where
    the graph runs at other sizes; not those of inputs whose axes are ``given``.
    """
    fixed = _label_axes(model, lambda name: free and name not in given)
    forget_shapes(model)
    decide_branches(model)
    restore_order(model, fixed)
    count_passes(model)
    found = recurrences(model)
    runs = Measured(model, found, fixed)
    roles = _measure_roles(model.graph, found, runs, fixed)
    kept = set[str]()
    for role in () if any(map(_fixed_lengths, found)) else (BATCH, SEQUENCE):
        own = [text for text in fixed if roles.get(text) == role]
        kept |= {*own} if len({fixed[text] for text in own}) == 1 else set()
    roles = {text: role for text, role in roles.items() if text not in fixed or text in kept}
    names, titles = _names(model, roles), dict[int | str, int | str]()
    for text in dynamic_axes(model.graph):
        role, made_up = roles.get(text), text.startswith(_NEW)
        titles[text] = fixed.get(text, text.removeprefix(_NEW)) if made_up else text
        if role == BATCH or (role == SEQUENCE and made_up):
            titles[text] = names[role]
    _rename((*data_inputs(model.graph), *(value for node in model.graph for value in node.outputs)), titles)
    dynamic = dynamic_axes(model.graph)
    batch, sequence = (names[role] if role in roles.values() else None for role in (BATCH, SEQUENCE))
    freed = {roles[text]: size for text, size in fixed.items() if text in roles}
    if len(dynamic) < len(titles):
        runs = Measured(model, found, {names[role]: size for role, size in freed.items()})
    else:
        runs.rename(titles)
    forward = [axis for each in found if not each.reversed for axis in each.time_axes()]
    steps = max((size for axis in forward for _, size in runs.lengths(*axis)[:1]), default=1)
    if sequence is not None:
        found = [each for each in found if _runs_over_time(each, runs, batch)]
    drop_counters(model)
    return Named(batch, sequence, freed, runs, found, 1 if sequence else steps)


class Measured:
    """What recurrences read and start from, at several sizes."""

    def __init__(self, model: ir.Model, found: Sequence[Recurrence], known: Sizes) -> None:
        """Run the graph at the first sizes at which it runs; ``known`` has sizes of some axes."""
        self._names = dynamic_axes(model.graph)
        self._runs: dict[ir.Value, list[tuple[Sizes, Array]]] = {}
        starts = [slot.initial for each in found for slot in each.slots if slot.initial is not None]
        reads = [value for each in found for value, _ in (*each.time_axes(), *each.row_axes())]
        for group in ([value for value in reads if value not in starts], starts):
            self._run(model, [value for value in dict.fromkeys(group) if constant(value) is None], known)

    def _run(self, model: ir.Model, values: Sequence[ir.Value], known: Sizes) -> None:
        """Compute values together where the graph runs, else one by one."""
        try:
            runs = evaluate(model, values, _sizes_apart(self._names, known)) if values else []
            self._runs |= {value: [(sizes, run[value]) for sizes, run in runs] for value in values}
        except FileFormatError:
            for value in values if len(values) > 1 else ():
                self._run(model, [value], known)

    def rename(self, titles: Mapping[int | str, int | str]) -> None:
        """Give every axis another name."""
        for value, runs in self._runs.items():
            self._runs[value] = [
                ({str(titles[name]): size for name, size in sizes.items()}, array) for sizes, array in runs
            ]

    def arrays(self, value: ir.Value) -> list[Array]:
        """Return the value in each run that did not fail."""
        known = constant(value)
        return [array for _, array in self._runs.get(value, [])] if known is None else [known]

    def lengths(self, value: ir.Value, axis: int) -> list[tuple[Sizes, int]]:
        """Return the sizes and an axis's length in each run that did not fail."""
        return [(sizes, array.shape[axis]) for sizes, array in self._runs.get(value, []) if array.ndim > axis]

    def growing_with(self, axis: Axis) -> set[str]:
        """Return the names of the input axes that lengthen ``axis``."""
        (base, first), *longer = self.lengths(*axis) or [({}, 0)]
        return {
            name for sizes, length in longer if length != first for name in sizes if sizes[name] != base[name]
        }

    def knows(self, axis: Axis) -> bool:
        """Return whether no run failed."""
        return len(self.lengths(*axis)) == len(self._names) + 1


def _sizes_apart(names: Sequence[str], known: Sizes) -> Iterator[tuple[Sizes, ...]]:
    """Yield sets of sizes: one for all axes, then for each axis that one with this axis longer."""
    for least, apart in _SIZES:
        base = {name: least + apart * place for place, name in enumerate(names)} | dict(known)
        longer = ({name: base[name] + apart * len(names) + place} for place, name in enumerate(names))
        yield base, *(base | each for each in longer)


def _runs_over_time(each: Recurrence, runs: Measured, batch: str | None) -> bool:
    """Return whether a recurrence makes more steps where time is longer; where unknown, chunks decide."""
    known = [axis for axis in each.time_axes() if runs.knows(axis)]
    return not known or any(runs.growing_with(axis) - {batch} for axis in known)


def _label_axes(model: ir.Model, takes: Callable[[str], bool]) -> dict[str, int]:
    """Label axes without a name, and fixed ones of inputs that ``takes`` accepts; return their sizes."""
    known = {axis for value in data_inputs(model.graph) for axis in _declared(value) if axis}
    starts = [slot.initial for each in recurrences(model) for slot in each.slots if slot.initial is not None]
    states = {top_of(initial).name for initial in starts if not is_data_free(initial)}
    fixed: dict[str, int] = {}
    for value in data_inputs(model.graph):
        own, shape = value.name in states, value.shape
        for place, axis in enumerate(axes_of(value)):
            assert shape is not None
            text = f"{_NEW}{value.name}_{place}" if own or place > 1 else f"{_NEW}{place}"
            if axis == 0 or (isinstance(axis, str) and axis not in known):
                shape[place] = text
            elif isinstance(axis, int) and takes(str(value.name)):
                shape[place] = text = f"{text}:{axis}"
                fixed[text] = axis
    return fixed


def _declared(value: ir.Value) -> Iterator[str]:
    """Yield the names that the file gives to axes and that are none of an exporter's makeshifts."""
    for axis in value.shape or ():
        name = axis.value if isinstance(axis, ir.SymbolicDim) else None
        if name and not _MADE_UP.fullmatch(name):
            yield name


def _fixed_lengths(each: Recurrence) -> bool:
    return (
        not each.looped
        and len(each.node.inputs) > LENGTHS
        and constant(each.node.inputs[LENGTHS]) is not None
    )


def _measure_roles(
    graph: ir.Graph, found: Sequence[Recurrence], runs: Measured, fixed: Sizes
) -> dict[str, str]:
    """Return the role of each axis that has one."""
    roles: dict[str, str] = {}
    for each in found:
        time = set().union(*map(runs.growing_with, each.time_axes()))
        grown = (runs.growing_with(axis) for axis in each.row_axes())
        single = (axes - set(fixed) or axes for axes in grown)
        rows = set().union(*(axes for axes in single if len(axes) == 1))
        time = time - set(fixed) or time  # a batch of fixed size may be folded into time
        if len(time) == 1:
            roles.update((name, SEQUENCE) for name in time - rows if name not in roles)
        roles.update((name, BATCH) for name in rows - time if name not in roles)
    return roles if found else _by_place(graph, fixed)


def _by_place(graph: ir.Graph, fixed: Sizes) -> dict[str, str]:
    """Return roles where no recurrence shows them: by usual names, else the first axis is the batch."""
    names = [name for name in dynamic_axes(graph) if name not in fixed]
    known = {name: role for name in names for role, usual in _USUAL.items() if usual.fullmatch(name.lower())}
    if len({*known.values()}) == len(known) > 0:
        return known
    firsts = {axes[0] for value in data_inputs(graph) if (axes := axes_of(value))}
    others = [name for name in names if name not in firsts]
    roles = {name: BATCH for name in dynamic_axes(graph) if name in firsts}
    return roles | ({others[0]: SEQUENCE} if len(others) == 1 else {})


def _names(model: ir.Model, roles: Mapping[str, str]) -> dict[str, str]:
    """Return what the file calls batch and time; N and L where it does not."""
    names, axes = dict[str, str](), dynamic_axes(model.graph)
    for role, usual in ((BATCH, "N"), (SEQUENCE, "L")):
        own = (text for text in axes if roles.get(text) == role and not text.startswith(_NEW))
        names[role] = next(own, usual if usual not in axes else role)
    return names


def _rename(values: Iterable[ir.Value], names: Mapping[int | str, int | str]) -> None:
    for value in values:
        axes = axes_of(value)
        if value.shape is not None and names.keys() & set(axes):
            pairs = zip(axes, value.shape, strict=True)
            value.shape = ir.Shape([names.get(axis, size) for axis, size in pairs])
