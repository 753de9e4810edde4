"""The sizes that an axis of a file takes: what the tracer promises, and what running settles beyond that."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import zip_longest
from math import gcd, lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, AxisRange

from .file import File
from .source import calling_line, line_at, own_place
from .trace import Guard

SAME, DIFFERS, REFUSED = "same", "differs", "refused"
"""What a run at a size shows: file and module agree; they do not; the module itself refuses."""
_SCANNED = 20_000
"""Sizes up to this one are looked up one by one, and none beyond is run."""
_FAR = (10**5, 10**5 + 1, 10**6, 10**6 + 1)
_MOST_STRIDE = 64
"""The largest product of strides that is looked for where sizes are refused."""
_FEW = 5
"""A range of fewer sizes between two at which the module does something else is not worth a file."""
_MOST_ELEMENTS = 2**17
"""Rows times steps of a run that no code asks for."""
_DRAWS, _VALID = 8, 3
"""How often inputs are drawn at a size until the module takes them, and until the file is called wrong."""
_ALIKE = {"rtol": 1e-3, "atol": 1e-4}
"""How near a result is whose size is right; the verification that follows measures it."""


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

    @property
    def few(self) -> bool:
        """Whether it holds too few sizes to be worth a file, if something else is computed on both sides."""
        limits = self.range
        return limits.most is not None and limits.most - limits.least < _FEW * limits.multiple


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
    top = min([top, *(each for each in tables if each >= size)])
    held = [each for each in range(1, top + 1) if each == size or promised(each)]
    promise = gcd(*held)
    multiple, ends = _settle_multiple(promise, size, len(held) == 1, run)
    near = tuple(each for each in (size - multiple, size + multiple) if each > 0)
    alone = all(run(each) == REFUSED for each in near)
    if alone or run(size + 2 * multiple) == REFUSED:
        if stride := _stride(size, multiple, run):
            multiple = promise = stride
        elif alone:
            return FoundRange(AxisRange(size, size), (), near)
    known = set(held)
    least, below = _extend([*range(size, 0, -multiple)], known, run)
    most, above = _extend([*range(size, top + 1, multiple)], known, run)
    last: int | None = most
    if above is None:
        limit = _promised_limit(most, promise, promised)
        states = not coded(limit + multiple)
        further = [min(4 * top, most_run), *tables, *([limit] if limit <= most_run or states else [])]
        most, above = _extend_to(further, most, multiple, run)
        last = most if above is not None else limit if limit > _SCANNED and states else None
    differing, refused = (_met(below, above, run, kind) for kind in (DIFFERS, REFUSED))
    return FoundRange(AxisRange(least, last, multiple), (*ends, *differing), refused)


def _met(below: int | None, above: int | None, run: Callable[[int], str], kind: str) -> tuple[int, ...]:
    return tuple(each for each in (below, above) if each is not None and run(each) == kind)


def _settle_multiple(
    multiple: int, size: int, single: bool, run: Callable[[int], str]
) -> tuple[int, list[int]]:
    """Return whether sizes between multiples agree too, as where the tracer alone asked for multiples."""
    beside = run(size + 1) if multiple > 1 else SAME
    if beside == SAME or single:
        return 1, []
    return multiple, [size + 1] if beside == DIFFERS else []


def _stride(size: int, multiple: int, run: Callable[[int], str]) -> int | None:
    """Return the least number of whose multiples a module takes those near ``size``, as it refuses others.

    Such a module shortens time and lengthens it again, as a U-Net does, and adds what was there before.
    """
    for stride in range(2 * multiple, min(size, _MOST_STRIDE) + 1, multiple):
        near = (size - stride, size + stride, size + 2 * stride)
        if size % stride == 0 and all(run(each) == SAME for each in near if each > 0):
            return stride
    return None


def _extend_to(
    sizes: Sequence[int], most: int, multiple: int, run: Callable[[int], str]
) -> tuple[int, int | None]:
    """Walk up from ``most``, which agrees, to each of ``sizes`` and one behind it; see ``_extend``."""
    for each in sorted(each // multiple * multiple for each in sizes if each <= _SCANNED):
        for next_size in (each, each + multiple):
            if next_size > most:
                most, above = _extend([*range(most, next_size + 1, multiple)], set(), run)
                if above is not None:
                    return most, above
    return most, None


def _promised_limit(most: int, multiple: int, promised: Callable[[int], bool]) -> int:
    """Return the last size from ``most`` on that the guards promise; 0 where none, or all."""
    far = [multiple * -(-each // multiple) for each in _FAR]
    limit = next((each for each in far if not promised(each)), None)
    if limit is None or not promised(most):
        return 0
    return multiple * _last(most // multiple, limit // multiple, lambda each: promised(each * multiple))


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
            good = _last(place, bad, lambda i: run(sizes[i]) == SAME)
            return sizes[good], sizes[good + 1]
        place = far
    return sizes[place], None


def _last(good: int, bad: int, holds: Callable[[int], bool]) -> int:
    """Return the last number before ``bad`` that holds, by halving; the next one does not."""
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good


def settle_ranges(
    file: File, candidate: Runner, exact: Runner, asked: Mapping[str, AxisRange]
) -> tuple[dict[str, AxisRange], list[str]]:
    """Find the range of every dynamic axis that does not take any size.

    Args:
        file: what the trace rests on, the module, and cases with the example.
        candidate: runs the file.
        exact: runs it in float64, which tells another function from rounding.
        asked: the ranges that the user asks for.

    Returns:
        The ranges by axis, and a note for each end at which the module does something else or refuses. An end
        at 1 of an axis that the module drops there has a note already.

    Raises:
        FewSizesError: there is hardly a size between two at which the module does something else.
        UnsupportedError: a range that is asked for holds sizes at which the module does something else.
        InputError: the module refuses sizes of a range that is asked for.
    """
    example, traced = file.cases.example(), file.traced.sizes
    base = {**traced, **(example.sizes if example else {})}
    runs = _Runs(file, candidate, exact)
    if runs.status(base) != SAME:
        return dict(asked), []  # the verification says where
    found = {axis: _settle_range(file, runs, base, axis, asked.get(axis)) for axis in traced}
    ranges = {axis: limits for axis, (limits, _) in found.items() if limits != AxisRange()}
    return ranges, [note for _, notes in found.values() for note in notes]


def _settle_range(
    file: File, runs: "_Runs", base: Mapping[str, int], axis: str, asked: AxisRange | None
) -> tuple[AxisRange, list[str]]:
    """Find the range of one axis, and a note for each of its ends; raises as ``settle_ranges``."""
    size, traced = base[axis], file.traced.sizes
    guards = [guard for guard in file.traced.guards if axis in guard.code.co_names]
    found = find_range(
        size,
        partial(_holds, guards, traced, axis),
        lambda each: runs.status({**base, axis: each}),
        coded=partial(_holds, [guard for guard in guards if guard.line], traced, axis),
        tables=runs.tables(base, axis),
        most_run=max(2 * size + 2, _MOST_ELEMENTS // (math.prod(base.values()) // size)),
    )
    reasons = list(_why_it_ends(axis, found, guards, traced, base, runs))
    if found.few and len(found.ends) > 1:
        error = FewSizesError(
            f"what is traced at {axis}={size} holds for {axis} {found.range} only: "
            f"{'; '.join(reasons)}; write it with tensor operations that hold at any size"
        )
        nearby = [file.cases.resized({**base, axis: each}) for each in (size - 1, size + 1) if each > 0]
        error.nearby = tuple(case.feeds for case in nearby if case is not None)
        raise error
    limits = _within(axis, found, asked, reasons)
    if limits != found.range:
        return limits, []
    notes = [*zip(found.ends, reasons, strict=True)]
    notes += [(end, _refusal(axis, end, base, runs)) for end in found.refused]
    return limits, [note for end, note in notes if end > 1 or axis not in file.traced.squeezed]


def _why_it_ends(
    axis: str,
    found: FoundRange,
    guards: Sequence[Guard],
    traced: Mapping[str, int],
    base: Mapping[str, int],
    runs: "_Runs",
) -> Iterator[str]:
    """Say where the module does something else next to a range, with the line where it is known."""
    for end in found.ends:
        line = next((each.line for each in guards if each.line and not each.holds({**traced, axis: end})), "")
        if not line:
            sizes = ({**base, axis: end}, {**base, axis: found.range.nearest(end)})
            line = _parting_line(*(partial(runs.plain, each) for each in sizes))
        told = f"at {axis}={end} forward does something else than at the example"
        yield f"{told} ({line})" if line else told


def _refusal(axis: str, end: int, base: Mapping[str, int], runs: "_Runs") -> str:
    """Say what the module says at a size next to a range that it refuses, and where."""
    try:
        runs.plain({**base, axis: end})
    except Exception as error:  # noqa: BLE001  a module may raise anything at a size that it does not take
        line = line_at(*own_place(error))
        at_line = f" ({line})" if line else ""
        return f"at {axis}={end} forward refuses its inputs{at_line}: {first_line(error)}"
    return ""


class _Runs:
    """Runs of the module and of the file at any size."""

    def __init__(self, file: File, candidate: Runner, exact: Runner) -> None:
        self._cases = replace(file.cases, ranges={})
        self._reference, self._candidate, self._exact = file.reference, candidate, exact

    def plain(self, sizes: Mapping[str, int]) -> None:
        """Run the module alone, without the states of the file."""
        self._reference.run_plain(next(self._feeds(sizes)))

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
                self.plain({**sizes, axis: each})
            rooms.append(watch.room)
        return [size + one // (one - two) for one, two in zip(*rooms, strict=False) if one > two]

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
            alike = _alike(self._candidate(feeds), expected) or _alike(
                self._exact(feeds), self._reference.run64(feeds)
            )
        except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return DIFFERS
        return SAME if alike else DIFFERS


def _alike(got: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    return all(
        got[name].shape == array.shape and np.allclose(got[name], array, equal_nan=True, **_ALIKE)
        for name, array in expected.items()
    )


class _TableWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees how far the largest index of each look-up is from the end of its table."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.room: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


def _parting_line(*runs: Callable[[], object]) -> str:
    """Return the module's own line where two runs of it part; empty where it is not known."""
    traces: list[list[tuple[str, Any]]] = []
    for run in runs:
        with suppress(Exception), _LineWatch() as watch:
            run()
        traces.append(watch.passed)
    pairs = zip_longest(*traces)
    return next((one[0] if one else two[0] for one, two in pairs if one != two), "")


class _LineWatch(TorchFunctionMode):
    """Sees every call of PyTorch that a module's own lines make."""

    def __init__(self) -> None:
        super().__init__()
        self.passed: list[tuple[str, Any]] = []
        """The line, and the function with the number of axes that it gives."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run ``func`` and note it."""
        result = func(*args, **(kwargs or {}))
        axes = result.ndim if isinstance(result, torch.Tensor) else None
        self.passed.append((calling_line(), (func, axes)))
        return result


def _holds(guards: Sequence[Guard], traced: Mapping[str, int], axis: str, size: int) -> bool:
    sizes = {**traced, axis: size}
    return all(guard.holds(sizes) for guard in guards)


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
