"""The sizes that an axis of a file takes: what the tracer promises, and what running settles beyond that.

The tracer took some facts about sizes for granted (``Guard``); each can be looked up at any size.
"""

import math
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import zip_longest
from math import gcd, lcm
from traceback import FrameSummary
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._guards import SLoc
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Axes, AxisRange
from lstm_edge_runtime.state import Runner

from ..numerics.cases import CaseGenerator
from ..numerics.reference import TorchReference
from .refusals import LineWatch, line_at, own_line

__all__ = [
    "DIFFERS",
    "REFUSED",
    "SAME",
    "FewSizesError",
    "FoundRange",
    "Guard",
    "find_range",
    "read_guards",
    "settle_ranges",
]

_NAMES = {"__builtins__": {"min": min, "max": max, "abs": abs, "int": int, "round": round}, "math": math}
"""What the tracer's text may call."""

SAME, DIFFERS, REFUSED = "same", "differs", "refused"
"""What a run at a size shows: file and module agree; they do not; the module itself refuses."""
_SCANNED = 20_000
"""Sizes up to this one are looked up one by one, and none beyond is run."""
_FAR = (10**5, 10**5 + 1, 10**6, 10**6 + 1)
_FEW = 5
"""A range of fewer sizes between two at which the module does something else is not worth a file."""
_MOST_ELEMENTS = 2**17
"""Rows times steps of a run that no code asks for."""
_DRAWS, _VALID = 8, 3
"""How often inputs are drawn at a size until the module takes them, and until the file is called wrong."""
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


class FewSizesError(UnsupportedError):
    """What is traced at the example's size holds for hardly any other."""

    nearby: tuple[Mapping[str, Array], ...] = ()
    """The example, with one step or row less and more."""


@dataclass(frozen=True)
class FoundRange:
    """A range and what ends it."""

    range: AxisRange
    ends: tuple[int, ...]
    """Sizes next to the range at which the module computes something else than the file."""
    refused: tuple[int, ...] = ()
    """Sizes next to the range that the module itself refuses."""


def find_range(
    size: int,
    promised: Callable[[int], bool],
    run: Callable[[int], str],
    *,
    coded: Callable[[int], bool] = lambda size: True,  # noqa: ARG005
    tables: Sequence[int] = (),
    most_run: int = _SCANNED,
) -> FoundRange:
    """Find the sizes around ``size`` at which a file computes what its module does.

    Both sides of a bound are run, unless it is beyond ``_SCANNED`` and the module's own code states it.

    Args:
        size: the one that was traced or is known to agree.
        promised: whether the tracer's guards hold at a size.
        run: runs module and file at a size; gives ``SAME``, ``DIFFERS`` or ``REFUSED``.
        coded: whether those guards hold that the module's own code asks for.
        tables: the sizes up to which the tables reach that the module looks its positions up in.
        most_run: the largest size to run at where neither code nor table asks for a larger one.
    """
    run = cache(run)
    top = max(min(64, most_run), min(2 * size + 2, _SCANNED), size)
    held = [each for each in range(1, top + 1) if each == size or promised(each)]
    multiple = promise = gcd(*held)
    ends: list[int] = []
    if multiple > 1:
        beside = run(size + 1)
        if beside == SAME or len(held) == 1:
            multiple = 1  # the tracer alone asked for multiples
        elif beside == DIFFERS:
            ends.append(size + 1)
    near = tuple(each for each in (size - multiple, size + multiple) if each > 0)
    if all(run(each) == REFUSED for each in near):
        return FoundRange(AxisRange(size, size), (), near)
    known = set(held)
    least, below = _extend([*range(size, 0, -multiple)], known, run)
    most, above = _extend([*range(size, top + 1, multiple)], known, run)
    limit = _promised_limit(most, promise, promised)
    last: int | None = most
    if above is None:
        further = [min(4 * top, most_run), *tables]
        if limit <= most_run or not coded(limit + multiple):
            further.append(limit)
        for each in sorted(each // multiple * multiple for each in further if each <= _SCANNED):
            for next_size in (each, each + multiple):
                if above is None and next_size > most:
                    most, above = _extend([*range(most, next_size + 1, multiple)], set(), run)
        last = (
            most if above is not None else limit if limit > _SCANNED and not coded(limit + multiple) else None
        )
    bounds = [each for each in (below, above) if each is not None]
    ends += [each for each in bounds if run(each) == DIFFERS]
    refused = [each for each in bounds if run(each) == REFUSED]
    return FoundRange(AxisRange(least, last, multiple), tuple(ends), tuple(refused))


def _promised_limit(most: int, multiple: int, promised: Callable[[int], bool]) -> int:
    """Return the last size from ``most`` on that the guards promise; 0 where none, or all."""
    far = [multiple * -(-each // multiple) for each in _FAR]
    limit = next((each for each in far if not promised(each)), None)
    if limit is None or not promised(most):
        return 0
    return _last(most // multiple, limit // multiple, multiple, promised)


def _extend(sizes: Sequence[int], known: set[int], run: Callable[[int], str]) -> tuple[int, int | None]:
    """Walk along ``sizes``, away from one that agrees; return the last one that does and the one behind it.

    None for that where all agree. A stretch of sizes that the tracer does not promise is run at its near end,
    its far end and its middle.
    """
    place = 0
    while place + 1 < len(sizes):
        if sizes[place + 1] in known:
            place += 1
            continue
        stretch = place + 1
        far = next((i for i in range(stretch, len(sizes)) if sizes[i] in known), len(sizes)) - 1
        tried = (stretch, (stretch + far) // 2, far)
        bad = next((i for i in tried if run(sizes[i]) != SAME), None)
        if bad is not None:
            good = place
            while bad - good > 1:
                middle = (good + bad) // 2
                if run(sizes[middle]) == SAME:
                    good = middle
                else:
                    bad = middle
            return sizes[good], sizes[bad]
        place = far
    return sizes[place], None


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
    dropped: Container[str] = (),
) -> tuple[dict[str, AxisRange], list[str]]:
    """Find the range of every dynamic axis that does not take any size.

    Args:
        guards: what the trace rests on.
        traced: the sizes that were traced.
        cases: generates inputs; holds the example.
        reference: the module.
        candidate: the file.
        asked: the ranges that the user asks for.
        dropped: the axes that the module drops where they are 1, which has its note.

    Returns:
        The ranges by axis, and a note for each other end at which the module does something else or refuses.

    Raises:
        FewSizesError: there is hardly a size between two at which the module does something else.
        UnsupportedError: a range that is asked for holds sizes at which the module does something else.
        InputError: the module refuses sizes of a range that is asked for.
    """
    example = cases.example()
    base = {**traced, **(example.sizes if example else {})}
    runs = _Runs(cases, reference, candidate)
    if runs.status(base) != SAME:
        return dict(asked), []  # the verification says where
    ranges: dict[str, AxisRange] = {}
    notes = []
    for axis in traced:
        own = [guard for guard in guards if axis in guard.code.co_names]
        size, others = base[axis], math.prod(each for name, each in base.items() if name != axis)
        found = find_range(
            size,
            partial(_holds, own, traced, axis),
            lambda each, axis=axis: runs.status({**base, axis: each}),  # type: ignore[misc]
            coded=partial(_holds, [guard for guard in own if guard.line], traced, axis),
            tables=runs.tables(base, axis),
            most_run=max(2 * size + 2, _MOST_ELEMENTS // others),
        )
        reasons = [
            _reason(axis, end, [g for g in own if not g.holds({**traced, axis: end})])
            or runs.parting({**base, axis: end}, {**base, axis: found.range.nearest(end)}, axis)
            for end in found.ends
        ]
        few = found.range.most is not None and (
            found.range.most - found.range.least < _FEW * found.range.multiple
        )
        if few and len(found.ends) > 1:
            error = FewSizesError(
                f"what is traced at {axis}={size} holds for {axis} {found.range} only: "
                f"{'; '.join(reasons)}; write it with tensor operations that hold at any size"
            )
            nearby = [cases.resized({**base, axis: each}) for each in (size - 1, size + 1) if each > 0]
            error.nearby = tuple(case.feeds for case in nearby if case is not None)
            raise error
        ranges[axis] = _within(axis, found, asked.get(axis), reasons)
        if ranges[axis] == found.range:
            told = [*zip(found.ends, reasons, strict=True)]
            told += [(end, runs.refusal({**base, axis: end}, axis)) for end in found.refused]
            notes += [note for end, note in told if end > 1 or axis not in dropped]
    return {axis: limits for axis, limits in ranges.items() if limits != AxisRange()}, notes


class _Runs:
    """Runs of the module and of the file at any size."""

    def __init__(self, cases: CaseGenerator, reference: TorchReference, candidate: Runner) -> None:
        self._cases = replace(cases, ranges={})
        self._reference, self._candidate = reference, candidate

    def status(self, sizes: Mapping[str, int]) -> str:
        """Return what a few draws show that the module takes: a mask that is drawn may leave a row empty."""
        differ = 0
        for feeds in self._feeds(sizes):
            found = self._status_on(feeds)
            differ += found == DIFFERS
            if found == SAME or differ == _VALID:
                return found
        return DIFFERS if differ else REFUSED

    def tables(self, sizes: Mapping[str, int], axis: str) -> list[int]:
        """Return up to which size of ``axis`` each table reaches that the module looks up by positions."""
        size, rooms = sizes[axis], []
        for each in (size, size + 1):
            with suppress(Exception), _TableWatch() as watch:
                self._reference.run_plain(next(self._feeds({**sizes, axis: each})))
            rooms.append(watch.room)
        return [size + one // (one - two) for one, two in zip(*rooms, strict=False) if one > two]

    def parting(self, sizes: Mapping[str, int], others: Mapping[str, int], axis: str) -> str:
        """Return the line of the module where what it computes at ``sizes`` and at ``others`` parts."""
        told = _differs_at(axis, sizes[axis])
        traces: list[list[tuple[str, Any]]] = []
        for each in (sizes, others):
            with suppress(Exception), LineWatch() as watch:
                self._reference.run_plain(next(self._feeds(each)))
            traces.append(watch.passed)
        pairs = zip_longest(*traces)
        line = next((one[0] if one else two[0] for one, two in pairs if one != two), "")
        return f"{told} ({line})" if line else told

    def refusal(self, sizes: Mapping[str, int], axis: str) -> str:
        """Return what the module says at a size that it refuses, and where."""
        try:
            self._reference.run_plain(next(self._feeds(sizes)))
        except Exception as error:  # noqa: BLE001  see above
            line, said = own_line(error), first_line(error)
            return f"at {axis}={sizes[axis]} forward refuses its inputs{f' ({line})' if line else ''}: {said}"
        return ""

    def _feeds(self, sizes: Mapping[str, int]) -> Iterator[Mapping[str, Array]]:
        for offset in range(_DRAWS):
            yield self._cases.at(sizes, offset).feeds
        for first in (0, -1):  # padding may stand at either end
            if (case := self._cases.resized(sizes, first)) is not None:
                yield case.feeds

    def _expected(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run the module from the states in ``feeds``: its own change from call to call."""
        try:
            return self._reference.run(feeds)
        except Exception:  # noqa: BLE001  the verification tells that it does not run from states
            return self._reference.run_plain(feeds)

    def _status_on(self, feeds: Mapping[str, Array]) -> str:
        try:
            expected = self._expected(feeds)
        except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
            return REFUSED
        try:
            got = self._candidate(feeds)
        except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return DIFFERS
        alike = all(
            got[name].shape == array.shape and np.allclose(got[name], array, equal_nan=True, **_ALIKE)
            for name, array in expected.items()
        )
        return SAME if alike else DIFFERS


class _TableWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees how far the largest index of each look-up is from the end of its table."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room: list[int] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` and note the look-ups that it does."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name == "embedding":
            self._note(args[0], 0, args[1])
        elif name in ("index_select", "gather"):
            self._note(*args[:3])
        elif name == "index":
            for axis, index in enumerate(args[1]):
                if index is not None and index.dtype is not torch.bool:
                    self._note(args[0], axis, index)
        return result

    def _note(self, table: Tensor, axis: int, index: Tensor) -> None:
        if index.numel():
            self.room.append(table.shape[axis] - 1 - int(index.max()))


def _holds(guards: Sequence[Guard], traced: Mapping[str, int], axis: str, size: int) -> bool:
    sizes = {**traced, axis: size}
    return all(guard.holds(sizes) for guard in guards)


def _reason(axis: str, end: int, broken: Sequence[Guard]) -> str:
    """Return why ``end`` is out of range, where a line of the module asked for its size."""
    line = next((guard.line for guard in broken if guard.line), "")
    return f"{_differs_at(axis, end)} ({line})" if line else ""


def _differs_at(axis: str, end: int) -> str:
    return f"at {axis}={end} forward does something else than at the example"


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
