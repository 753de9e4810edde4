"""How a tensor lies in the file, and as engines and callers see it: rows (sources) first."""

from collections.abc import Iterable
from typing import NamedTuple

from .axes import all_ones, row_factor
from .manifest import Array, Axes, Manifest, StateSpec, TensorSpec

_Order = tuple[int, ...] | None


class Layout(NamedTuple):
    """The orders of one input, output or state.

    Engines take and give rows first and time second, ``(K, L, ...)``; callers rows first and the other axes
    in the order of the file. An axis of ``k*N`` rows is two, k and the rows.
    """

    name: str
    dtype: str
    axes: Axes
    """As in the file."""
    place: int | None
    """Of the axis of rows in the file."""
    factor: int
    """k, 0 if there is one row a source."""
    timed: bool
    """Whether it has a time axis."""
    frames: int
    """Steps or frames on it in a unit; 1 without one."""
    delay: int
    """Frames in front of the first real one of a stream; units without a time axis."""
    given: Axes
    """As callers see it."""
    inner: tuple[int, ...]
    """Sizes of the axes but those of rows and time, 1 where one is dynamic."""
    of_file: _Order
    of_given: _Order
    """The transpositions from the file's and from the caller's order to that of engines; None for none."""

    def from_file(self, array: Array) -> Array:
        """Return a view in the order of engines; an array without batch axis is one row."""
        if self.place is None:
            array = array[None]
        elif self.factor:
            shape = array.shape
            array = array.reshape(*shape[: self.place], self.factor, -1, *shape[self.place + 1 :])
        return array if self.of_file is None else array.transpose(self.of_file)

    def to_file(self, array: Array) -> Array:
        """Return what ``from_file`` took."""
        if self.of_file is not None:
            array = array.transpose(_inverse(self.of_file))
        if self.place is None:
            array = array[0]
        elif self.factor:
            shape = array.shape
            array = array.reshape(*shape[: self.place], -1, *shape[self.place + 2 :])
        return array

    def from_given(self, array: Array) -> Array:
        """Return a view in the order of engines of an array in that of callers."""
        return array if self.of_given is None else array.transpose(self.of_given)

    def to_given(self, array: Array) -> Array:
        """Return what ``from_given`` took."""
        return array if self.of_given is None else array.transpose(_inverse(self.of_given))


def layouts(specs: Iterable[TensorSpec | StateSpec], manifest: Manifest) -> tuple[Layout, ...]:
    """Return the layouts of inputs, outputs or states."""
    return tuple(
        layout(each.input if isinstance(each, StateSpec) else each.name, each.dtype, each.axes, manifest)
        for each in specs
    )


def layout(name: str, dtype: str, axes: Axes, manifest: Manifest) -> Layout:
    """Return the layout of a tensor with these axes."""
    factors = [row_factor(axis, manifest.batch) for axis in axes]
    place = next((at for at, factor in enumerate(factors) if factor is not None), None)
    factor = 0 if place is None else factors[place] or 0
    time = manifest.time_axis(axes)
    if place is None:
        full, rows, moved = (manifest.batch or "N", *axes), 0, 1
    else:
        split = (factor, manifest.batch or "N") if factor else (axes[place],)
        full, rows = (*axes[:place], *split, *axes[place + 1 :]), place + bool(factor)
        moved = int(bool(factor) and time is not None and time > place)
    front = (rows,) if time is None else (rows, time + moved)
    rest = tuple(at for at in range(len(full)) if at not in front)
    given = (rows, *(at for at in range(len(full)) if at != rows))
    engine = (*front, *rest)
    return Layout(
        name, dtype, axes, place, factor, time is not None, manifest.frames_in_unit(axes),
        manifest.delays.get(name, 0), tuple(full[at] for at in given),
        all_ones(tuple(full[at] for at in rest)),
        _none_if_same(engine), _none_if_same(tuple(given.index(at) for at in engine)),
    )  # fmt: skip


def _none_if_same(order: tuple[int, ...]) -> _Order:
    return None if order == tuple(range(len(order))) else order


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(at) for at in range(len(order)))
