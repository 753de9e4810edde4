"""The numbers of steps at which a network with loops over time is compared.

A trace shows the first steps of a loop. What Python counts beside it, as ``k += 1`` and
``deque(maxlen=400)`` do, may change any later step, but by a number that is somewhere in
the functions that run: the module is compared beyond all of these, and at
many steps if Python counts.
"""

import inspect
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import CodeType, FrameType, FunctionType, MethodType
from typing import Any

import numpy as np
import sympy  # type: ignore[import-untyped]

from lstm_edge_runtime.errors import UnsupportedError

from .advice import is_library, line_of_frame
from .capture import Program, growing
from .loops import STEPS

_USUAL = (2, 3, 4, 6, 7, 300)
"""Numbers of steps at which each network with loops is compared: next to ``STEPS``, and
many."""
_MOST = 20_000
"""The largest number of steps of a comparison, except a few."""
_COUNTED = 10_000
"""The least number of steps of a comparison if Python counts: 3 to 8 seconds."""
_DEPTH = 4
"""Depth of the containers and objects in which numbers are looked for."""
_FAR = 10**6
"""A size at which a number of steps is about proportional to it."""


def lengths(program: Program, run: Callable[[], Any]) -> tuple[int, ...]:
    """Return the further numbers of steps to compare at.

    Args:
        program: the traced module.
        run: calls the module on the example.

    Raises:
        UnsupportedError: Python counts steps, and may do so up to a number that is too
            large to compare at.
    """
    if not program.loops:
        return ()
    seen = dict[float, str]()
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: _look(frame, event, seen))
    try:
        run()
    finally:
        sys.setprofile(before)
    too_large = [number for number in seen if number > _MOST and number % 1 == 0]
    if program.counts and too_large:
        number = min(too_large)
        raise UnsupportedError(
            "forward has a loop over time whose steps Python counts, and reads the"
            f" number {number:.0f} ({seen[number]}), but at most {_MOST} steps can be"
            " compared; keep the count in a tensor, as n = n + 1, and use torch.where(n >"
            " limit, a, b)"
        )
    greatest = max((int(number) for number in seen if number <= _MOST), default=0)
    # numbers are added, as in n > self.delay + self.fade
    steps = min(2 * greatest, max(greatest, _MOST)) + STEPS
    if program.counts:  # and multiplied, as in n / rate > seconds
        steps = max(steps, _COUNTED)
    return (*_USUAL, *([] if steps < _USUAL[-1] else [_inputs(program, steps)]))


def _inputs(program: Program, steps: int) -> int:
    """Return the size of the time axis for which loops over time run ``steps`` steps."""
    ratios = [1.0]
    for count in program.loops:
        if program.sequence in growing(count):
            sizes = dict.fromkeys(count.free_symbols, 1)
            sizes[sympy.Symbol(program.sequence, integer=True, positive=True)] = _FAR
            ratios.append(_FAR / float(count.subs(sizes)))
    return int(steps * max(ratios)) + 1


def _look(frame: FrameType, event: str, seen: dict[float, str]) -> None:
    """Note the numbers that a function of the user's has seen when it returns."""
    code = frame.f_code
    if event != "return" or is_library(code.co_filename):
        return
    where = f"in {code.co_name}, {line_of_frame(frame)}"
    names = {*code.co_names, *_constants(code, str)}
    values = [*frame.f_locals.values()]
    values += [frame.f_globals[name] for name in names & frame.f_globals.keys()]
    values += [*_constants(code, int), *_constants(code, float)]
    for number in _numbers(values, names, _DEPTH):
        seen.setdefault(abs(number), where)


def _constants(code: Any, kind: type) -> Iterator[Any]:
    """Yield the constants of a type in code, also in tuples and inner functions."""
    for value in code.co_consts if isinstance(code, CodeType) else code:
        if isinstance(value, CodeType | tuple | frozenset):
            yield from _constants(value, kind)
        elif type(value) is kind:
            yield value


def _numbers(value: Any, names: AbstractSet[str], depth: int) -> Iterator[float]:
    """Yield the numbers of a variable: in containers, their lengths, and the attributes
    of objects that are called like one of ``names``.
    """
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(
        value, bool
    ):
        yield from [float(value)] if abs(value) < _FAR**3 else []
    elif not depth or isinstance(value, FunctionType | MethodType | str):
        return
    else:
        for inner in _inside(value, names):
            yield from _numbers(inner, names, depth - 1)


def _inside(value: Any, names: AbstractSet[str]) -> Iterable[Any]:
    """Return the elements and lengths of a container, or the attributes of an object."""
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, deque):
        return [len(value), value.maxlen, *value]
    if isinstance(value, list | tuple | set | frozenset):
        return [len(value), *value]
    if isinstance(value, range):
        return [value.start, value.stop, value.step]
    return [inspect.getattr_static(value, name, None) for name in names]
