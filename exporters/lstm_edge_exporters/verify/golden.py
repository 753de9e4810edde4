"""Golden cases: a few kB of inputs and outputs in a file, with which any device
verifies itself.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.manifest import Array, Golden, Manifest

from .cases import Case, CaseGenerator, case_size
from .compare import Pair
from .verify import refused

_SIZES = (
    ((2, 12), (2, 6), (1, 4), (1, 2), (1, 40), (1, 400)),
    ((1, 5), (3, 3), (1, 3)),
)
"""``(N, L)`` of the first and of the second case, tried in this order for arrays that
are small enough."""
_BYTES = (12_000, 4_000)
_AMPLIFIED = 4.0
"""Gain applied to the second case's signals, so that wrong clipping or saturation
shows."""


def record_golden(pair: Pair, cases: CaseGenerator) -> Golden:
    """Record two cases of different sizes, with states and lengths that are not
    trivial.

    Raises:
        CheckFailedError: the reference failed or returned NaN for every small case.
    """
    example = cases.example()
    examples = [] if example is None else [example]
    first = _choose(pair, (*_cases(cases, 0), *examples), _BYTES[0])
    if first is None:
        raise CheckFailedError(
            "the module failed or returned NaN for every small case, so that no golden"
            " case can be recorded"
        )
    shapes = _shapes(first.inputs)
    others = [case for case in _cases(cases, 1) if _shapes(case.feeds) != shapes]
    amplified = [_amplified(case, cases) for case in others]
    second = _choose(pair, amplified, _BYTES[1])
    return first if second is None else first._replace(more=(second,))


def _shapes(arrays: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by name."""
    return {name: array.shape for name, array in arrays.items()}


def golden_case(pair: Pair, case: Case) -> Golden:
    """Return a case as files keep it: states and outputs in the file's dtypes, and
    the limits of outputs.
    """
    manifest = pair.manifest
    states = {state.input: state.dtype for state in manifest.states}
    inputs = {}
    for name, array in case.feeds.items():
        inputs[name] = array.astype(states.get(name, array.dtype))
    exact = pair.exact(inputs)
    limits = pair.limits(inputs)
    dtypes = {spec.name: spec.dtype for spec in manifest.outputs}
    dtypes |= {state.output: state.dtype for state in manifest.states}
    outputs = {}
    for name, array in exact.items():
        outputs[name] = np.asarray(array.astype(dtypes[name]))
    return Golden(inputs, outputs, limits=limits)


def is_finite(case: Golden) -> bool:
    """Return True if outputs and limits are finite, as files require."""
    arrays = (*case.outputs.values(), *case.limits.values())
    return all(np.isfinite(array).all() for array in arrays)


def gaps(
    manifest: Manifest, recorded: Sequence[Golden], expected_cases: Sequence[Golden]
) -> Iterator[str]:
    """Return a remark if recorded cases are fewer or smaller than those of an export,
    or constant.
    """
    if len(recorded) < len(expected_cases):
        yield f"the file has {len(recorded)}, expected {len(expected_cases)}"
    pairs = zip(recorded, expected_cases, strict=False)
    for number, (record, expected) in enumerate(pairs, 1):
        rows, steps = case_size(manifest, record.inputs)
        least_rows, least_steps = case_size(manifest, expected.inputs)
        if rows < least_rows or steps < least_steps:
            yield (
                f"case {number} has N, L = {(rows, steps)}, expected"
                f" {(least_rows, least_steps)}"
            )
        for name, array in expected.inputs.items():
            varies = array.dtype.kind == "f" and np.ptp(array) > 0
            if varies and np.ptp(record.inputs.get(name, 0.0)) == 0:
                yield f"case {number}: {name} is constant"


def _cases(cases: CaseGenerator, number: int) -> Iterator[Case]:
    """Yield cases of the sizes that are tried one after the other."""
    for n, length in _SIZES[number]:
        yield cases.case(n, length, at_reset=False, offset=97 + number, full=True)


def _choose(pair: Pair, cases: Iterable[Case], limit: int) -> Golden | None:
    """Return the first recorded case of at most ``limit`` bytes, else the last."""
    golden = None
    for case in cases:
        if refused(pair.reference, case.feeds):
            continue
        recorded = golden_case(pair, case)
        is_empty = any(not array.size for array in recorded.outputs.values())
        if is_empty or not is_finite(recorded):  # an empty output checks nothing
            continue
        golden = recorded
        arrays = (*golden.inputs.values(), *golden.outputs.values())
        if sum(array.nbytes for array in arrays) <= limit:
            break
    return golden


def _amplified(case: Case, cases: CaseGenerator) -> Case:
    """Move the signals away from their mean, so that wrong clipping shows."""
    feeds = dict(case.feeds)
    for spec in cases.inputs:
        array = feeds[spec.name]
        is_signal = spec.role == "signal" and array.dtype.kind == "f"
        if is_signal and array.ndim:
            over = tuple(range(array.ndim - 1))
            center = array.mean(axis=over, dtype=np.float64)
            amplified = center + _AMPLIFIED * (array - center)
            feeds[spec.name] = np.asarray(amplified, array.dtype)
    return replace(case, feeds=feeds)
