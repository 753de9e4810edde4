"""Sizes of named axes: learning them from arrays and working shapes out from them."""

import re
from collections.abc import Mapping
from functools import lru_cache

from .errors import ContractError, InputError
from .manifest import Array, Axes, AxisRange, TensorSpec

_TERM = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)|(\d+)")
_ANY: Mapping[str, AxisRange] = {}


@lru_cache(256)
def parse_sum(axis: str) -> tuple[Mapping[str, int], int]:
    """Return the factor of each name in ``axis`` and the constant: of ``"4*L+P+1"`` ``({L: 4, P: 1}, 1)``.

    What is no sum of multiples of names is a name itself.
    """
    factors: dict[str, int] = {}
    constant = 0
    for term in axis.split("+"):
        found = _TERM.fullmatch(term.strip())
        if found is None:
            return {axis: 1}, 0
        factor, name, number = found.groups()
        if name:
            factors[name] = factors.get(name, 0) + int(factor or 1)
        else:
            constant += int(number)
    return factors or {axis: 1}, constant if factors else 0


def fits(left: Axes, right: Axes) -> bool:
    """Return whether two descriptions of a shape can be the same: a name fits any size."""
    return len(left) == len(right) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(left, right, strict=True)
    )


def resolve(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of ``axes`` where every name (``"N"``, ``"2*N"``, ``"L+P"``) has a size, else None."""
    shape: list[int] = []
    for axis in axes:
        size = axis if isinstance(axis, int) else sizes.get(axis)
        if size is None:
            factors, constant = parse_sum(str(axis))
            if any(name not in sizes for name in factors):
                return None
            size = constant + sum(factor * sizes[name] for name, factor in factors.items())
        shape.append(size)
    return tuple(shape)


def with_ones(axes: Axes, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return ``sizes`` with 1 for every name that ``axes`` has besides: for N where the axis is ``"2*N"``."""
    known = dict(sizes)
    for axis in axes:
        if isinstance(axis, str) and resolve((axis,), known) is None:
            for name in parse_sum(axis)[0]:
                known.setdefault(name, 1)
    return known


def shape_of(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of ``axes``, where a name that ``sizes`` does not have is 1."""
    return resolve(axes, with_ones(axes, sizes)) or ()


def all_ones(axes: Axes) -> tuple[int, ...]:
    """Return the shape of ``axes`` where every dynamic one is 1."""
    return tuple(axis if isinstance(axis, int) else 1 for axis in axes)


def learn_sizes(
    name: str,
    axes: Axes,
    shape: tuple[int, ...],
    sizes: dict[str, int],
    ranges: Mapping[str, AxisRange] = _ANY,
) -> None:
    """Check ``shape`` against ``axes`` and add the sizes of named axes to ``sizes``.

    Raises:
        InputError: another rank, a fixed axis of another size, an empty axis, a name with two sizes, or a
            size outside its range.
    """
    fits = _has_shape(axes, shape, sizes) and 0 not in shape
    found = _solve(axes, shape, sizes) if fits else None
    if found is None:
        known = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes and isinstance(axis, str))
        raise InputError(
            f"{name} has shape {shape}, expected {describe(axes)}{f' with {known}' if known else ''}"
            f"{' and no empty axis' if 0 in shape else ''}; check its rank and the order of its axes"
        )
    for axis, allowed in ranges.items():
        new = found.get(axis)
        if new is not None and allowed.nearest(new) != new:
            raise InputError(
                f"{name} has shape {shape}: axis {axis} of {describe(axes)} is {new}, this file accepts "
                f"{allowed}; use {allowed.nearest(new)}"
            )
    sizes.update(found)


def check_array(spec: TensorSpec, array: Array, sizes: dict[str, int]) -> None:
    """Check an array's dtype and shape and add the sizes of named axes to ``sizes``.

    Raises:
        InputError: another dtype, or as ``learn_sizes``.
    """
    if array.dtype != spec.dtype:
        raise InputError(f"{spec.name} is {array.dtype}, expected {spec.dtype}")
    learn_sizes(spec.name, spec.axes, array.shape, sizes)


def check_output(name: str, axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
    """Raise ``ContractError`` if an output has another shape than declared."""
    if not _has_shape(axes, shape, sizes):
        raise ContractError(
            f"output {name!r} is {shape}, expected {describe(axes)}; the file does not keep its contract"
        )


def _has_shape(axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int]) -> bool:
    """Return whether a shape is that of ``axes``, as far as their sizes are known."""
    return len(shape) == len(axes) and all(
        (resolve((axis,), sizes) or (size,)) == (size,) for axis, size in zip(axes, shape, strict=True)
    )


def _solve(axes: Axes, shape: tuple[int, ...], sizes: Mapping[str, int]) -> dict[str, int] | None:
    """Return the sizes of names that follow from ``shape``; None if a multiple is not whole."""
    found: dict[str, int] = {}
    for axis, size in zip(axes, shape, strict=True):
        if isinstance(axis, int) or axis in sizes:
            continue
        factors, constant = parse_sum(axis)
        known = {**sizes, **found}
        unknown = [each for each in factors if each not in known]
        rest = size - constant - sum(factors[each] * known[each] for each in factors if each in known)
        if len(unknown) == 1:
            found[unknown[0]], rest = divmod(rest, factors[unknown[0]])
        if len(unknown) < 2 and (rest or (unknown and found[unknown[0]] < 1)):
            return None
    return found


def describe(axes: Axes) -> str:
    """Return ``axes`` in the form ``(N, L, 6)``."""
    return f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"


def row_factor(axis: int | str, batch: str | None) -> int | None:
    """Return the number of rows per source on ``axis``: 0 for the batch axis, k for ``"k*N"``, or None."""
    if axis == batch:
        return 0
    factors, constant = parse_sum(axis) if isinstance(axis, str) else ({}, 0)
    return None if constant or [*factors] != [batch] else factors[str(batch)]
