"""The sizes that an axis of a file takes: what the tracer promises, and what running settles beyond that.

The tracer took some facts about sizes for granted (``Guard``); each can be looked up at any size.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import gcd, lcm
from traceback import FrameSummary
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch._guards import SLoc
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Axes, AxisRange
from lstm_edge_runtime.state import Runner

from ..numerics.cases import CaseGenerator
from ..numerics.reference import TorchReference
from .refusals import line_at

__all__ = ["DIFFERS", "REFUSED", "SAME", "FoundRange", "Guard", "find_range", "read_guards", "settle_ranges"]

_NAMES = {"__builtins__": {"min": min, "max": max, "abs": abs, "int": int, "round": round}, "math": math}
"""What the tracer's text may call."""

SAME, DIFFERS, REFUSED = "same", "differs", "refused"
"""What a run at a size shows: file and module agree; they do not; the module itself refuses."""
_SCANNED = 20_000
"""Sizes up to this one are looked up one by one, and none beyond is run."""
_FAR = (10**5, 10**5 + 1, 10**6, 10**6 + 1)
_FEW = 5
"""A range of fewer sizes between two at which the module does something else is not worth a file."""
_ALIKE = {"rtol": 1e-3, "atol": 1e-4}
"""How near a result is whose size is right; the verification that follows measures it."""


@dataclass(frozen=True)
class Guard:
    """One fact about the sizes of axes."""

    text: str
    """In terms of the axes' names: ``L > 200``."""
    code: CodeType
    line: str
    """The line of the module that asked: ``net.py:12: return y * 2 if x.shape[1] > 200 else y``; empty where
    an operator did."""

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return whether it is true where the axes have ``sizes``."""
        try:
            return bool(eval(self.code, _NAMES.copy(), dict(sizes)))  # noqa: S307  the tracer's own text
        except (ArithmeticError, NameError):
            return False


def read_guards(
    program: ExportedProgram, shapes: Sequence[Any], axes: Mapping[str, Axes]
) -> tuple[Guard, ...]:
    """Return every fact about sizes that the trace rests on.

    Args:
        program: the traced program.
        shapes: the inputs' shapes as traced, in the order of ``axes``.
        axes: the inputs' axes; a name where dynamic.
    """
    values: dict[str, str] = {}
    facts: list[tuple[str, str]] = []
    environment = None
    for shape, names in zip(shapes, axes.values(), strict=True):
        for size, axis in zip(shape, names, strict=True):
            if not isinstance(size, torch.SymInt) or isinstance(axis, int):
                continue
            environment = size.node.shape_env
            factors, constant = parse_sum(str(size.node.expr)) or ({}, 0)
            if len(factors) == 1 and not constant:
                ((symbol, factor),) = factors.items()
                values.setdefault(symbol, f"({axis})" if factor == 1 else f"(({axis})//{factor})")
                if factor > 1:
                    facts.append((f"({axis}) % {factor} == 0", ""))
    printer = PythonPrinter()
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower > 0:
            facts.append((f"{symbol} >= {bounds.lower}", ""))
        if bounds.upper != int_oo:
            facts.append((f"{symbol} <= {bounds.upper}", ""))
    if environment is not None:
        facts = [(printer.doprint(each.expr), _line(each.sloc)) for each in environment.guards] + facts
    found = []
    for text, line in dict.fromkeys(facts):
        named = re.sub(r"\b[su]\d+\b", lambda match: values.get(match[0], match[0]), text)
        if not re.search(r"\b[su]\d+\b", named):
            shown = re.sub(r"\((\w+)\)", r"\1", named)
            found.append(Guard(shown, compile(named, "<guard>", "eval"), line))
    return tuple(found)


def _line(place: SLoc) -> str:
    """Return the line that asked for a fact, where that is the module's own."""
    frame = place.framework_loc
    return line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""


@dataclass(frozen=True)
class FoundRange:
    """A range and what ends it."""

    range: AxisRange
    ends: tuple[int, ...]
    """Sizes next to the range at which the module computes something else than the file."""


def find_range(size: int, promised: Callable[[int], bool], run: Callable[[int], str]) -> FoundRange:
    """Find the sizes around ``size`` at which a file computes what its module does.

    Args:
        size: the one that was traced or is known to agree.
        promised: whether the tracer's guards hold at a size.
        run: runs module and file at a size; gives ``SAME``, ``DIFFERS`` or ``REFUSED``.
    """
    run = cache(run)
    top = max(64, min(2 * size + 2, _SCANNED), size)
    held = [each for each in range(1, top + 1) if each == size or promised(each)]
    multiple = promise = gcd(*held)
    ends: list[int] = []
    if multiple > 1:
        beside = run(size + 1)
        if beside == SAME or len(held) == 1:
            multiple = 1  # the tracer alone asked for multiples
        elif beside == DIFFERS:
            ends.append(size + 1)
    if all(each < 1 or run(each) == REFUSED for each in (size - multiple, size + multiple)):
        return FoundRange(AxisRange(size, size), ())
    known = set(held)
    least = _extend([*range(size, 0, -multiple)], known, run, ends)
    most: int | None = _extend([*range(size, top + 1, multiple)], known, run, ends)
    if most is not None and most + multiple > top:
        far = [promise * -(-each // promise) for each in _FAR]
        limit = next((each for each in far if not promised(each)), None)
        most = None if limit is None else _last(most // promise, limit // promise, promise, promised)
        if most is not None and most < _SCANNED and run(most + multiple) == DIFFERS:
            ends.append(most + multiple)
    return FoundRange(AxisRange(least, most, multiple), tuple(ends))


def _extend(sizes: Sequence[int], known: set[int], run: Callable[[int], str], ends: list[int]) -> int:
    """Walk along ``sizes``, away from one that agrees; return the last one that does.

    A stretch of sizes that the tracer does not promise is run at its near end, its far end and its middle.
    """
    place = 0
    while place + 1 < len(sizes):
        if sizes[place + 1] in known:
            place += 1
            continue
        stretch = place + 1
        far = next((i for i in range(stretch, len(sizes)) if sizes[i] in known), len(sizes)) - 1
        if any(run(sizes[i]) != SAME for i in (stretch, far, (stretch + far) // 2)):
            good, bad = place, next(
                i for i in (stretch, (stretch + far) // 2, far) if run(sizes[i]) != SAME
            )  # fmt: skip
            while bad - good > 1:
                middle = (good + bad) // 2
                if run(sizes[middle]) == SAME:
                    good = middle
                else:
                    bad = middle
            if run(sizes[bad]) == DIFFERS:
                ends.append(sizes[bad])
            return sizes[good]
        place = far
    return sizes[place]


def _last(good: int, bad: int, multiple: int, promised: Callable[[int], bool]) -> int:
    while bad - good > 1:
        middle = (good + bad) // 2
        if promised(middle * multiple):
            good = middle
        else:
            bad = middle
    return good * multiple


def settle_ranges(
    guards: Sequence[Guard],
    traced: Mapping[str, int],
    cases: CaseGenerator,
    reference: TorchReference,
    candidate: Runner,
    asked: Mapping[str, AxisRange],
) -> tuple[dict[str, AxisRange], list[str]]:
    """Find the range of every dynamic axis that does not take any size.

    Args:
        guards: what the trace rests on.
        traced: the sizes that were traced.
        cases: generates inputs; holds the example.
        reference: the module.
        candidate: the file.
        asked: the ranges that the user asks for.

    Returns:
        The ranges by axis, and a note for each end at which the module does something else.

    Raises:
        UnsupportedError: a range that is asked for holds sizes at which the module does something else, or
            what is left between two such sizes is hardly a range.
        InputError: the module refuses sizes of a range that is asked for.
    """
    example = cases.example()
    free = CaseGenerator(cases.inputs, cases.batch, cases.sequence, cases.seed, cases.sorted_lengths)
    base = {**traced, **(example.sizes if example else {})}

    def run(sizes: Mapping[str, int]) -> str:
        found = REFUSED
        for case in (free.at(sizes), free.resized(sizes)):  # what is drawn may be no valid input
            if found == REFUSED and case is not None:
                found = run_on(case.feeds)
        return found

    def run_on(feeds: Mapping[str, Array]) -> str:
        try:
            expected = reference.run_plain(feeds)
        except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
            return REFUSED
        try:
            got = candidate(feeds)
        except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return DIFFERS
        alike = all(
            got[name].shape == array.shape and np.allclose(got[name], array, equal_nan=True, **_ALIKE)
            for name, array in expected.items()
        )
        return SAME if alike else DIFFERS

    def run_at(axis: str, size: int) -> str:
        return run({**base, axis: size})

    if run(base) != SAME:
        return dict(asked), []  # the verification says where
    ranges: dict[str, AxisRange] = {}
    notes = []
    for axis in traced:
        own = [guard for guard in guards if axis in guard.code.co_names]
        found = find_range(base[axis], partial(_holds, own, traced, axis), partial(run_at, axis))
        reasons = [
            _reason(axis, end, [g for g in own if not g.holds({**traced, axis: end})]) for end in found.ends
        ]
        few = found.range.most is not None and (
            found.range.most - found.range.least < _FEW * found.range.multiple
        )
        if few and len(found.ends) > 1:
            raise UnsupportedError(
                f"what is traced at {axis}={base[axis]} holds for {axis} {found.range} only: "
                f"{'; '.join(reasons)}; write it with tensor operations that hold at any size"
            )
        ranges[axis] = _within(axis, found, asked.get(axis), reasons)
        if ranges[axis] == found.range:
            notes += reasons
    return {axis: limits for axis, limits in ranges.items() if limits != AxisRange()}, notes


def _holds(guards: Sequence[Guard], traced: Mapping[str, int], axis: str, size: int) -> bool:
    sizes = {**traced, axis: size}
    return all(guard.holds(sizes) for guard in guards)


def _reason(axis: str, end: int, broken: Sequence[Guard]) -> str:
    lines = list(dict.fromkeys(guard.line for guard in broken if guard.line))
    why = f" ({lines[0]})" if lines else ""
    return f"at {axis}={end} forward does something else than at the example{why}"


def _within(axis: str, found: FoundRange, asked: AxisRange | None, reasons: Sequence[str]) -> AxisRange:
    """Return the part of ``found`` that is asked for."""
    if asked is None:
        return found.range
    limits = found.range
    step = lcm(asked.multiple, limits.multiple)
    ends = [each for each in (asked.most, limits.most) if each is not None]
    both = AxisRange(max(asked.least, limits.least), min(ends) if ends else None, step)
    if (asked.least > 1 and both.nearest(1) > asked.nearest(1)) or (asked.most and both.most != asked.most):
        told = f"axis {axis}: {asked} is asked for, {limits} is what the file takes"
        if reasons:
            raise UnsupportedError(f"{told}; {'; '.join(reasons)}")
        raise InputError(f"{told}, for the module itself refuses the others")
    return both
