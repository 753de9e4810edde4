"""Sizes of named axes: learning them from arrays and working shapes out from them."""

import re
from collections.abc import Mapping

from .errors import InputError
from .manifest import Axes

__all__ = ["describe", "fits", "learn_sizes", "resolve", "row_factor", "with_ones"]

_PRODUCT = re.compile(r"(\d+)\s*\*\s*(.+)")


def fits(left: Axes, right: Axes) -> bool:
    """Tell whether two descriptions of a shape can be the same: a name fits any size."""
    return len(left) == len(right) and all(
        a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(left, right, strict=True)
    )


def resolve(axes: Axes, sizes: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return the shape of ``axes`` where every name (``"N"``, ``"2*N"``) has a size, else None."""
    shape: list[int] = []
    for axis in axes:
        if isinstance(axis, int):
            shape.append(axis)
            continue
        factor, name = 1, axis
        if axis not in sizes and (product := _PRODUCT.fullmatch(axis)):
            factor, name = int(product[1]), product[2].strip()
        if name not in sizes:
            return None
        shape.append(factor * sizes[name])
    return tuple(shape)


def with_ones(axes: Axes, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return ``sizes`` with 1 for every name that ``axes`` has besides: for N where the axis is ``"2*N"``."""
    known = dict(sizes)
    for axis in axes:
        if isinstance(axis, str) and resolve((axis,), known) is None:
            product = _PRODUCT.fullmatch(axis)
            known[product[2].strip() if product else axis] = 1
    return known


def learn_sizes(name: str, axes: Axes, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Check ``shape`` against ``axes`` and add to ``sizes`` what the named axes turned out to be.

    Raises:
        InputError: another rank, a fixed axis of another size, an empty axis, or a name with two sizes.
    """
    fits = len(shape) == len(axes)
    for axis, size in zip(axes, shape, strict=False):
        (expected,) = resolve((axis,), sizes) or (size,)
        fits = fits and size == expected and size > 0
    if not fits:
        known = ", ".join(f"{axis}={sizes[axis]}" for axis in axes if axis in sizes and isinstance(axis, str))
        raise InputError(
            f"{name} has shape {shape}, expected {describe(axes)}{f' with {known}' if known else ''}"
            f"{' and no empty axis' if 0 in shape else ''}; check its rank and the order of its axes"
        )
    sizes.update((axis, size) for axis, size in zip(axes, shape, strict=True) if isinstance(axis, str))


def describe(axes: Axes) -> str:
    """Return ``axes`` as people write a shape: ``(N, L, 6)``."""
    return f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"


def row_factor(axis: int | str, batch: str | None) -> int | None:
    """Tell how many rows a source has on ``axis``: 0 for the batch axis, k for ``"k*N"``, else None."""
    if axis == batch:
        return 0
    product = _PRODUCT.fullmatch(axis) if isinstance(axis, str) else None
    return int(product[1]) if product and product[2].strip() == batch else None
