"""Named axes: their sizes, learned from arrays, and their order in the file, in engines
and for callers.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from .errors import InputError
from .manifest import Array, Axes, AxisRange, Manifest, StateSpec, TensorSpec

_TERM = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)|(\d+)")
_NAME = re.compile(r"[^\W\d]\w*")
_ANY: Mapping[str, AxisRange] = {}
_Order = tuple[int, ...] | None


@lru_cache(256)
def parse_sum(axis: str) -> tuple[Mapping[str, int], int]:
    """Return factors and constant of ``"4*L+P+1"``: ``({L: 4, P: 1}, 1)``; any other
    text is a name.
    """
    factors: dict[str, int] = {}
    constant = 0
    for term in axis.split("+"):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            return {axis: 1}, 0
        factor, name, number = match.groups()
        if name:
            factors[name] = factors.get(name, 0) + int(factor or 1)
        else:
            constant += int(number)
    return factors or {axis: 1}, constant if factors else 0


def axis_names(axis: int | str) -> frozenset[str]:
    """Return the names in an axis: ``N`` and ``L`` of ``"N*((L + 1)//2)"``."""
    return frozenset() if isinstance(axis, int) else frozenset(_NAME.findall(axis))


def fits(left: Axes, right: Axes) -> bool:
    """Return True if two descriptions of a shape can be the same: a name fits any size."""
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        if isinstance(one, int) and isinstance(other, int) and one != other:
            return False
    return True


def resolve(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of ``axes``; None if a name in it (``"N"``, ``"2*N"``,
    ``"L+P"``) has no size.
    """
    shape: list[int] = []
    for axis in axes:
        size = axis if isinstance(axis, int) else sizes.get(axis)
        if size is None:
            factors, size = parse_sum(str(axis))
            for name, factor in factors.items():
                if name not in sizes:
                    return None
                size += factor * sizes[name]
        shape.append(size)
    return tuple(shape)


def shape_of(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of ``axes``; a name without a size counts as 1."""
    known = dict(sizes)
    for axis in axes:
        if isinstance(axis, str) and resolve((axis,), sizes) is None:
            for name in parse_sum(axis)[0]:
                known.setdefault(name, 1)
    return resolve(axes, known) or ()


def learn_sizes(
    name: str,
    axes: Axes,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    ranges: Mapping[str, AxisRange] = _ANY,
) -> None:
    """Add the sizes of named axes to ``sizes``; ``InputError`` if ``shape`` does not
    fit.
    """
    solved = solve(axes, shape, sizes)
    if solved is None or 0 in shape or min(solved.values(), default=1) < 1:
        expected = describe_known(axes, sizes)
        if 0 in shape:
            expected += " and no empty axis"
        raise InputError(
            f"{name} has shape {shape}, expected {expected};"
            " check its rank and the order of its axes"
        )
    for axis, allowed in ranges.items():
        size = solved.get(axis)
        if axis not in sizes and size is not None and allowed.nearest(size) != size:
            raise InputError(
                f"{name} has shape {shape}: axis {axis} of {describe(axes)} is {size},"
                f" this file accepts {allowed}; use {allowed.nearest(size)}"
            )
    sizes.update(solved)


def solve(
    axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int]
) -> dict[str, int] | None:
    """Return ``sizes`` with the sizes of more names from ``shape``; None if it does not
    fit.
    """
    solved = dict(sizes)
    if len(axes) != len(shape):
        return None
    for axis, size in zip(axes, shape, strict=True):
        if not _learn(axis, size, solved):
            return None
    return solved


def _learn(axis: int | str, size: int, sizes: dict[str, int]) -> bool:
    """Return True if an axis may have this size, and add its only unknown name to
    ``sizes``.
    """
    if isinstance(axis, int):
        return axis == size
    if axis in sizes:
        return sizes[axis] == size
    factors, constant = parse_sum(axis)
    unknown = [name for name in factors if name not in sizes]
    rest = size - constant
    for name, factor in factors.items():
        if name in sizes:
            rest -= factor * sizes[name]
    if len(unknown) == 1:
        name = unknown[0]
        sizes[name], rest = divmod(rest, factors[name])
    return rest == 0 or len(unknown) > 1


def describe(axes: Axes) -> str:
    """Return ``axes`` in the form ``(N, L, 6)``."""
    comma = "," if len(axes) == 1 else ""
    return f"({', '.join(map(str, axes))}{comma})"


def describe_known(axes: Axes, sizes: Mapping[str, int]) -> str:
    """Return ``axes`` with the sizes that are known: ``(N, L, 6) with N=2``."""
    known = [f"{axis}={sizes[str(axis)]}" for axis in axes if axis in sizes]
    return f"{describe(axes)} with {', '.join(known)}" if known else describe(axes)


def row_factor(axis: int | str, batch: str | None) -> int | None:
    """Return the number of rows per source on ``axis``: 0 for the batch axis, k for
    ``"k*N"``, or None.
    """
    if axis == batch:
        return 0
    if isinstance(axis, int):
        return None
    factors, constant = parse_sum(axis)
    return None if constant or [*factors] != [batch] else factors[str(batch)]


def row_axis(axes: Axes, batch: str | None) -> int | None:
    """Return the index of the first axis of rows: ``N``, or ``k*N``; None without one."""
    for index, axis in enumerate(axes):
        if row_factor(axis, batch) is not None:
            return index
    return None


class Layout(NamedTuple):
    """The orders of one input, output or state.

    Engines take and return rows first and time second, ``(K, L, ...)``; callers rows
    first and the other axes in the order of the file. An axis of ``k*N`` rows is split
    into two, k and the rows.
    """

    name: str
    """Name of the tensor in the file."""
    dtype: str
    """NumPy's name of its dtype."""
    axes: Axes
    """Axes in the file."""
    batch: int | None
    """Index of the batch axis in the file; None without one."""
    factor: int
    """k of a batch axis ``k*N``; 0 if the batch axis has one row per source."""
    timed: bool
    """True if it has a time axis."""
    frames: int
    """Frames on the time axis per unit; 1 without a time axis."""
    delay: int
    """Number of frames before the first real one."""
    caller_axes: Axes
    """Axes in the callers' order."""
    inner: tuple[int, ...]
    """Sizes of all axes but those of rows and time."""
    of_file: _Order
    """Transposition from the file's order to the engines'; None if they are equal."""
    of_caller: _Order
    """Transposition from the callers' order to the engines'; None if they are equal."""

    @property
    def caller_time(self) -> int | None:
        """The index of the time axis in a result of one source, ``caller_axes[1:]``."""
        if not self.timed:
            return None
        order = self.of_caller or tuple(range(len(self.caller_axes)))
        return order[1] - 1

    def from_file(self, array: Array) -> Array:
        """Return a view in the order of engines; an array without batch axis is one
        row.
        """
        if self.batch is None:
            array = array[None]
        elif self.factor:
            before = array.shape[: self.batch]
            behind = array.shape[self.batch + 1 :]
            array = array.reshape(*before, self.factor, -1, *behind)
        return array if self.of_file is None else array.transpose(self.of_file)

    def to_file(self, array: Array) -> Array:
        """Return an array in the order of the file: the inverse of ``from_file``."""
        if self.of_file is not None:
            array = array.transpose(_inverse(self.of_file))
        if self.batch is None:
            array = array.squeeze(0)
        elif self.factor:
            before = array.shape[: self.batch]
            behind = array.shape[self.batch + 2 :]
            array = array.reshape(*before, -1, *behind)
        return array

    def from_caller(self, array: Array) -> Array:
        """Return a view of an array, given in the callers' order, in the engines'
        order.
        """
        return array if self.of_caller is None else array.transpose(self.of_caller)

    def to_caller(self, array: Array) -> Array:
        """Return an array in the callers' order: the inverse of ``from_caller``."""
        if self.of_caller is None:
            return array
        in_caller_order: Array = array.transpose(_inverse(self.of_caller))
        return in_caller_order


def layouts(
    specs: Iterable[TensorSpec | StateSpec], manifest: Manifest
) -> tuple[Layout, ...]:
    """Return the layouts of inputs, outputs or states."""
    return tuple(
        layout(spec[0], spec.dtype, axes=spec.axes, manifest=manifest) for spec in specs
    )


def layout(name: str, dtype: str, axes: Axes, manifest: Manifest) -> Layout:
    """Return the layout of a tensor with these axes."""
    batch = row_axis(axes, manifest.batch)
    factor = 0 if batch is None else row_factor(axes[batch], manifest.batch) or 0
    split = _split_rows(axes, batch, factor=factor, name=manifest.batch or "N")
    time = manifest.time_axis(split.axes)
    front = (split.rows,) if time is None else (split.rows, time)
    indices = range(len(split.axes))
    inner = [index for index in indices if index not in front]
    caller_order = [split.rows, *(index for index in indices if index != split.rows)]
    engine_order = (*front, *inner)
    of_caller = tuple(caller_order.index(index) for index in engine_order)
    inner_axes = tuple(split.axes[index] for index in inner)
    return Layout(
        name=name,
        dtype=dtype,
        axes=axes,
        batch=batch,
        factor=factor,
        timed=time is not None,
        frames=manifest.frames_in_unit(axes),
        delay=manifest.delays.get(name, 0),
        caller_axes=tuple(split.axes[index] for index in caller_order),
        inner=shape_of(inner_axes, {}),
        of_file=_unless_sorted(engine_order),
        of_caller=_unless_sorted(of_caller),
    )


class _SplitAxes(NamedTuple):
    """Axes with a separate axis of rows."""

    axes: Axes
    """All axes; an axis of ``k*N`` is two, k and N."""
    rows: int
    """Index of the axis of rows."""


def _split_rows(axes: Axes, batch: int | None, factor: int, name: str) -> _SplitAxes:
    """Return ``axes`` with an axis of rows: a new one in front if there is none."""
    if batch is None:
        return _SplitAxes((name, *axes), 0)
    if not factor:
        return _SplitAxes(axes, batch)
    return _SplitAxes((*axes[:batch], factor, name, *axes[batch + 1 :]), batch + 1)


def _unless_sorted(order: tuple[int, ...]) -> _Order:
    """Return a transposition, None if it changes nothing."""
    return None if order == tuple(range(len(order))) else order


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permutation that undoes ``order``."""
    return tuple(order.index(index) for index in range(len(order)))
