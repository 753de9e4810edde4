"""The run of a graph that lift's questions read: what grows with which axis, and what states start from."""

from collections.abc import Iterator, Sequence
from functools import cached_property

import onnx_ir as ir

from lstm_edge_runtime.manifest import Array, Axes

from ..evaluate import axes_in, evaluate
from ..graph import dynamic_axes
from .axes import BATCH, SEQUENCE, row_orders, swap_names
from .paths import operators_above
from .subgraphs import Place, Recurrence, recurrences

_SIZES = ((40, 7), (8, 3), (4, 1))
"""The least size to run at, and how far apart others are: windows need many steps, tables end."""


def sizes_apart(graph: ir.Graph) -> Iterator[tuple[dict[str, int], ...]]:
    """Yield sets of sizes of the inputs' dynamic axes: one, and for each axis that one with it longer.

    No two numbers of a set are the same, and axes grow by amounts of their own, so that ``L - 1`` is no
    ``N``. A graph that does not run at one set may run at the next one.
    """
    names = dynamic_axes(graph)
    for least, apart in _SIZES:
        base = {name: least + apart * place for place, name in enumerate(names)}
        longer = ({name: base[name] + apart * len(names) + place} for place, name in enumerate(names))
        yield base, *(base | each for each in longer)


class Table:
    """Values of a graph at ``sizes_apart``, run together; what is asked for later is run by itself."""

    def __init__(self, model: ir.Model, sizes: tuple[dict[str, int], ...] = ()) -> None:
        self.sizes = sizes or next(sizes_apart(model.graph))
        self.runs: tuple[dict[ir.Value, Array], ...] = tuple({} for _ in self.sizes)
        """The values at each of ``sizes``."""
        self._model = model

    @cached_property
    def recurrences(self) -> tuple[Recurrence, ...]:
        """The graph's recurrences."""
        return recurrences(self._model)

    @property
    def steps(self) -> int:
        """The most steps that a recurrence takes at the first of ``sizes``."""
        known = (read for each in self.recurrences for read in each.reads if self.has([read.value]))
        return max((self.lengths(read.value, read.time)[0] for read in known), default=1)

    def find(self, values: Sequence[ir.Value], fixed: dict[str, int] | None = None) -> None:
        """Compute the values that are not known yet; onnxruntime's exceptions pass through.

        Args:
            values: data-free, or only their shapes matter.
            fixed: sizes of axes that do not grow.
        """
        missing = [value for value in values if value not in self.runs[0]]
        found = evaluate(self._model, missing, [sizes | (fixed or {}) for sizes in self.sizes])
        for run, new in zip(self.runs, found, strict=True):
            run.update(new)

    def has(self, values: Sequence[ir.Value]) -> bool:
        """Return whether the values can be computed."""
        try:
            self.find(values)
        except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return False
        return True

    def lengths(self, value: ir.Value, axis: int) -> list[int]:
        """Return the sizes of a known value's axis in all runs."""
        return [run[value].shape[axis] for run in self.runs]

    def axes(self, value: ir.Value) -> Axes | None:
        """Name a known value's axes, see ``axes_in``."""
        return axes_in(str(value.name), [run[value].shape for run in self.runs], self.sizes)

    def roles(self) -> dict[str, str]:
        """Return the name of the one dynamic axis that a recurrent node's batch, and time, grow with.

        One that both grow with is neither, nor is any if several axes lengthen the same one, for example if
        rows are merged into time.
        """
        found: dict[str, str] = {}
        for each in (each for recurrence in self.recurrences for each in recurrence.reads):
            if not self.has([each.value]):
                continue  # nothing is known then
            growing = {axis: self._growing_with(each.value, axis) for axis in (each.time, each.batch)}
            for role, axis, other in ((SEQUENCE, each.time, each.batch), (BATCH, each.batch, each.time)):
                if len(growing[axis]) == 1 and not growing[axis] & growing[other]:
                    found.setdefault(role, *growing[axis])
        return found

    def _growing_with(self, value: ir.Value, axis: int) -> set[str]:
        first, *longer = (
            run[value].shape[axis : axis + 1] for run in self.runs
        )  # a Scan's may have one axis
        return {name for name, length in zip(self.sizes[0], longer, strict=True) if length != first}


def run_graph(model: ir.Model) -> Table:
    """Run a graph at the first sizes that it runs at, and keep the values that lift asks for."""
    tables = [Table(model, sizes) for sizes in sizes_apart(model.graph)]
    asked = [value for value in (*model.graph.outputs, *_asked(tables[0])) if value.graph is model.graph]
    return next((table for table in tables if table.has(asked)), tables[0])


def run_named(model: ir.Model, names: dict[str, str], unsure: bool) -> tuple[str | None, str | None, Table]:
    """Run a graph with axes named by ``name_axes``, and declare its outputs' axes, in place.

    N and L change places if the guess was the reverse. Outputs that it does not give at all sizes stay.

    Returns:
        The names of the batch and time axes, None if no dynamic axis is it; and what running the graph gave.
    """
    table, dynamic = run_graph(model), dynamic_axes(model.graph)
    if dynamic and unsure:
        found = table.roles()
        if names == {BATCH: "N", SEQUENCE: "L"} and found == {BATCH: "L", SEQUENCE: "N"}:
            swap_names(model)
            table = run_graph(model)
        else:
            others = set(found.values())
            names = {
                role: found.get(role) or ("" if name in others else name) for role, name in names.items()
            }
    for value in model.graph.outputs if table.has(list(model.graph.outputs)) else ():
        if (axes := table.axes(value)) is not None:
            value.shape = ir.Shape(axes)
    batch, sequence = (names[role] if names[role] in dynamic else None for role in (BATCH, SEQUENCE))
    return batch, sequence, table


def values_of(place: Place) -> list[ir.Value]:
    """Return a state's initial value, what the layout operators above it read, and a loop's last value."""
    if place.initial is None:
        return []
    above = [] if place.branches else operators_above(place.initial)
    read = [value for node in above for value in node.inputs if value is not None]
    last = [place.owner.outputs[place.output]] if place.looped else []
    return [place.initial, *read, *last]


def _asked(table: Table) -> Iterator[ir.Value]:
    for each in table.recurrences:
        yield from (read.value for read in each.reads)
        yield from () if each.looped else row_orders(each.node)
        for place in each.places:
            yield from () if place.reason else values_of(place)
