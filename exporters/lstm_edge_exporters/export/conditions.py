"""Conditions on sizes that a trace rests on: the sizes at which one may fail."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import sympy  # type: ignore[import-untyped]

from lstm_edge_runtime.manifest import AxisRange

_SIZES = (*range(1, 65), 100, 257, 1000, 4097, 10**6)
"""Sizes at which a condition on one axis is evaluated, in addition to its roots."""
_FEW_SIZES = (1, 2, 3, 4, 5, 7, 31, 40, 257, 1000, 4097, 10**6)
"""Sizes of each axis at which a condition on several axes is evaluated."""
_FEW = 8
"""The largest number of sizes that a condition may exclude to be compared there."""
_LONGEST_PERIOD = 4096
"""Up to this one, a condition that repeats is evaluated at every size of its period."""


def failing_sizes(
    condition: Any, ranges: Mapping[str, AxisRange]
) -> dict[str, int] | None:
    """Return sizes within ``ranges`` at which ``condition`` is false; None if none are
    found.

    The condition is evaluated at small and large sizes, at the multiples of what it
    divides by, and next to each size at which it may change: where both sides of an
    equation or inequality in it are equal.

    Args:
        condition: a sympy expression whose symbols are called like axes.
        ranges: the sizes that each axis takes; an axis without an entry takes all.
    """
    axes = sorted(condition.free_symbols, key=str)
    for sizes in _candidates(condition, axes, ranges):
        if condition.subs(sizes) != sympy.true:
            return {str(axis): size for axis, size in sizes.items()}
    return None


def excluded_sizes(condition: Any) -> range:
    """Return the few sizes of the one axis in ``condition`` at which alone it is false:
    1 for ``L > 1``, 4 for ``L != 4``; empty if it is no such condition.
    """
    if len(condition.free_symbols) != 1:
        return range(0)
    (axis,) = condition.free_symbols
    if isinstance(condition, sympy.Ne) and axis in condition.args:
        (size,) = {*condition.args} - {axis}
        return range(size, size + 1) if size.is_Integer and size > 0 else range(0)
    if not isinstance(condition, sympy.core.relational.Relational):
        return range(0)
    if not all(side == axis or side.is_Integer for side in condition.args):
        return range(0)
    answers = [condition.subs(axis, size) == sympy.true for size in range(1, _FEW + 2)]
    first = answers.index(True) if True in answers else 0
    is_least = all(answers[first:]) and condition.subs(axis, 10**6) == sympy.true
    return range(1, first + 1) if is_least else range(0)


def _candidates(
    condition: Any, axes: Sequence[Any], ranges: Mapping[str, AxisRange]
) -> Iterator[dict[Any, int]]:
    """Yield the sizes of ``axes`` at which to evaluate ``condition``."""
    limits = {axis: ranges.get(str(axis), AxisRange()) for axis in axes}
    tried = _SIZES if len(axes) == 1 else _FEW_SIZES
    grid = []
    for axis in axes:
        allowed = map(limits[axis].nearest, tried)
        multiples = map(limits[axis].nearest, _multiples(condition, len(axes) == 1))
        grid.append([*dict.fromkeys([*allowed, *multiples])])
    for sizes in product(*grid):
        yield dict(zip(axes, sizes, strict=True))
    for index, axis in enumerate(axes):
        others = [*axes[:index], *axes[index + 1 :]]
        for sizes in product(*grid[:index], *grid[index + 1 :]):
            fixed = dict(zip(others, sizes, strict=True))
            for size in _turning_sizes(condition.subs(fixed), axis):
                yield fixed | {axis: limits[axis].nearest(size)}


def _multiples(condition: Any, is_alone: bool) -> Iterator[int]:
    """Yield the sizes at which a remainder or rounding in ``condition`` may be another
    one: a whole period for one axis if it is short, else those next to multiples.
    """
    divisors = {
        int(function.args[1])
        for function in condition.atoms(sympy.Function)
        if len(function.args) == 2 and function.args[1].is_Integer
    }
    period = math.lcm(*filter(None, divisors))
    if is_alone and period <= _LONGEST_PERIOD:
        yield from range(1, period + 1)
        return
    for multiple in (*divisors, period):
        yield from range(max(1, multiple - 1), multiple + 2)


def _turning_sizes(condition: Any, axis: Any) -> Iterator[int]:
    """Yield the sizes of ``axis`` next to which ``condition`` may become true or
    false.
    """
    for relation in condition.atoms(sympy.core.relational.Relational):
        difference = _without_rounding(relation.lhs - relation.rhs)
        if difference.is_polynomial(axis) and difference.has(axis):
            for root in sympy.Poly(difference, axis).nroots():
                if root.is_real and root > 0:
                    yield from range(max(1, int(root) - 1), int(root) + 3)


def _without_rounding(expression: Any) -> Any:
    """Return ``expression`` with exact divisions instead of rounded ones."""
    arguments = [_without_rounding(argument) for argument in expression.args]
    function = type(expression).__name__
    if function in ("FloorDiv", "CleanDiv", "IntTrueDiv", "FloatTrueDiv"):
        return arguments[0] / arguments[1]
    if function in _ROUNDING:
        return arguments[0]
    return expression.func(*arguments) if arguments else expression


_ROUNDING = frozenset(
    [
        "CeilToInt",
        "FloorToInt",
        "Mod",
        "PythonMod",
        "RoundToInt",
        "ToFloat",
        "TruncToFloat",
        "TruncToInt",
    ]
)
"""The tracer's functions of sizes that stay near their first argument, or repeat it."""
