"""Samples of callers, checked and returned in the order of engines."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .arrays import InputArrays, by_name, refuse_not_finite
from .axes import Layout, learn_sizes, resolve
from .engine import Arrays, Engine
from .manifest import Array
from .results import Result

WRONG_SAMPLE = (TypeError, ValueError, BufferError, NotImplementedError)
"""Exceptions of a memory view for an object of another shape or dtype, or that is not
an array."""

CLOSED = memoryview(b"")
"""A view that accepts no sample."""


class Samples(NamedTuple):
    """Steps of one or several sources."""

    arrays: dict[str, Array]
    """Each input, rows first and time second."""
    sizes: dict[str, int]
    """The sizes of the named axes."""
    steps: int
    """The number of time steps."""


class _Shapes(NamedTuple):
    """Shapes that were checked already, for the next tick of a batch."""

    key: tuple[Any, ...]
    """True for a single step, the number of rows, and the shape of each array."""
    sizes: dict[str, int]
    """The sizes of the named axes."""
    full: dict[str, tuple[int, ...]]
    """The shape of each array with all axes, rows first."""


class SampleReader:
    """Checks the samples of a stream, in the same way for every kind of stream."""

    __slots__ = ("_advice", "_checked", "_engine", "_many", "_ranges")

    def __init__(
        self, model: Any, *, many: bool, keeps_steps: bool | None = None
    ) -> None:
        """Read samples of one source, or with ``many`` of one source per row.

        A stream that keeps steps for later calls takes chunks of any size; by default
        one with a unit.
        """
        engine: Engine = model._engine
        manifest = engine.manifest
        self._engine = engine
        self._many = many
        self._checked: _Shapes | None = None
        self._advice = "clean the samples first" if model._check else ""
        if many and engine.couples_rows and not model._check:
            self._advice = (
                "with an int8 file it would affect the other sources; omit this one"
                " from the tick"
            )
        self._ranges = dict(manifest.ranges)
        if keeps_steps is None:
            keeps_steps = manifest.unit > 1
        if keeps_steps and manifest.sequence is not None:
            self._ranges.pop(manifest.sequence, None)

    @property
    def checks_values(self) -> bool:
        """True if NaN and infinity are refused."""
        return bool(self._advice)

    def read(self, x: InputArrays, rows: int, *, step: bool) -> Samples:
        """Return samples of ``rows`` sources; ``step`` for samples without a time axis.

        Raises:
            InputError: another name, rank, width or dtype; an empty axis; a size that
                the file does not accept; NaN or infinity where they are refused.
        """
        inputs = self._engine.inputs
        arrays = by_name(x, inputs)
        if self._advice:
            refuse_not_finite(arrays, self._advice)
        key = (step, rows, *[array.shape for array in arrays.values()])
        shapes = self._checked
        if shapes is None or shapes.key != key:
            shapes = self._check(arrays, rows, key, step=step)
        if self._many:  # a single stream is small, and keeps none
            self._checked = shapes
        in_order = {
            layout.name: layout.from_caller(
                arrays[layout.name].reshape(shapes.full[layout.name])
            )
            for layout in inputs
        }
        steps = self._engine.manifest.steps_of(shapes.sizes)
        return Samples(in_order, shapes.sizes, steps)

    def _check(
        self,
        arrays: Mapping[str, Array],
        rows: int,
        key: tuple[Any, ...],
        *,
        step: bool,
    ) -> _Shapes:
        """Return the sizes and full shapes of arrays; ``InputError`` if they do not
        fit.
        """
        manifest = self._engine.manifest
        inputs = self._engine.inputs
        sizes = manifest.axis_sizes(rows=rows)
        time = manifest.sequence if step else None
        if time is not None:
            sizes[time] = 1
        for layout in sorted(inputs, key=_has_sum):
            axes = layout.caller_axes if self._many else layout.caller_axes[1:]
            axes = tuple(axis for axis in axes if axis != time)
            shape = arrays[layout.name].shape
            bare = tuple(axis for axis in axes if axis != 1)
            is_bare = len(shape) == len(bare)
            expected = bare if is_bare else axes
            learn_sizes(
                layout.name, expected, shape=shape, sizes=sizes, ranges=self._ranges
            )
        full = {
            layout.name: (rows, *(resolve(layout.caller_axes[1:], sizes) or ()))
            for layout in inputs
        }
        return _Shapes(key, sizes, full)


def _has_sum(layout: Layout) -> bool:
    """Return True for axes such as ``L+P``, whose names other inputs give sizes."""
    return "+" in str(layout.axes)


def for_caller(array: Array, layout: Layout, *, step: bool) -> Array:
    """Return a view of an array of an engine in the callers' order, rows first.

    The time axis of a single step is left out, unless it has several frames.
    """
    if step and layout.timed and layout.frames == 1:
        return array[:, 0]
    return layout.to_caller(array)


def copier(
    outputs: Arrays, layouts: Sequence[Layout], *, step: bool, row: int | None = None
) -> Callable[[], Result]:
    """Return a function that returns copies of a call's outputs as callers see them:
    of one row, or of all.
    """
    views: dict[str, Array] = {}
    for layout in layouts:
        view = for_caller(outputs[layout.name], layout, step=step)
        # with an ellipsis, a single number is also a view
        views[layout.name] = view if row is None else view[row, ...]
    if len(views) == 1:
        copy: Callable[[], Result] = next(iter(views.values())).copy
        return copy
    return partial(_copies, views)


def _copies(views: Arrays) -> dict[str, Array]:
    """Return a copy of each array."""
    return {name: view.copy() for name, view in views.items()}
