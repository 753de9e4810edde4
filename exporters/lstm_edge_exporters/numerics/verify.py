"""The proof: a file run in onnxruntime beside its reference, case by case, by the one tolerance policy.

``compare_case`` gives the records of one case; ``verify`` runs every case and raises on the first output
out of its limit. Both take a reference with ``run`` and ``run64`` (see ``reference``) and anything callable
on named arrays as the candidate.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.tolerance import Comparison, compare, limit_for

from .cases import Case
from .noise import DRAWS, apart, near, raised

__all__ = ["Equivalence", "Reference", "compare_case", "compare_outputs", "verify"]

Array = npt.NDArray[Any]
_NOISE = 0.1
"""The largest share of an output that counts as rounding."""
_DOUBT = 1e3
"""Beyond so many limits no rounding explains a difference."""
Candidate = Callable[[Mapping[str, Array]], Mapping[str, Array]]


class Reference(Protocol):
    """What a candidate is compared with."""

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs in the reference's own dtype."""

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return the outputs in float64."""


@dataclass(frozen=True)
class Equivalence:
    """What a proof found."""

    comparisons: tuple[tuple[Case, Comparison], ...]
    skipped: tuple[tuple[Case, str], ...] = ()
    """Cases that the reference itself refuses, or where it gives NaN, with the reason."""

    @property
    def worst(self) -> Comparison:
        """The comparison nearest to its limit."""
        return max((each for _, each in self.comparisons), key=lambda each: each.ratio)

    @property
    def max_abs(self) -> float:
        """The largest absolute difference from float64."""
        return max(each.max_abs for _, each in self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for the manifest."""
        cases = list(dict.fromkeys(str(case) for case, _ in self.comparisons))
        return {
            "cases": cases,
            "skipped": [f"{case}: {reason}" for case, reason in self.skipped],
            "max_abs": self.max_abs,
            "max_rel": max(each.max_rel for _, each in self.comparisons),
            "floor": max(each.floor for _, each in self.comparisons),
            "ratio": self.worst.ratio,
            "worst": str(self.worst),
        }


def verify(candidate: Candidate, reference: Reference, cases: Iterable[Case]) -> Equivalence:
    """Compare ``candidate`` with ``reference`` on every case.

    Raises:
        CheckFailedError: an output out of its limit, with the size, the output and the difference; a case
            that the candidate can't run; or no case that the reference can run.
    """
    comparisons: list[tuple[Case, Comparison]] = []
    skipped: list[tuple[Case, str]] = []
    for case in cases:
        try:
            own, wide = reference.run(case.feeds), reference.run64(case.feeds)
        except (RuntimeError, ValueError, IndexError) as error:
            skipped.append((case, first_line(error)))
            continue
        if undefined := [name for name, array in wide.items() if np.isnan(array).any()]:
            skipped.append((case, f"PyTorch gives NaN in {', '.join(undefined)}"))
            continue
        try:
            got = candidate(case.feeds)
        except Exception as error:
            raise CheckFailedError(f"at {case}: the file does not run: {first_line(error)}") from error
        for each in _in_doubt(compare_outputs(got, own, wide), got, own, wide, reference, case):
            if not _is_noise(each.floor, wide[each.name]):
                raise CheckFailedError(
                    f"at {case}: PyTorch's own float32 and float64 runs give {each.name} that differs by "
                    f"{each.floor:.3g}; no difference can be told from such noise"
                )
            if not each.ok:
                raise CheckFailedError(f"at {case}: {each}")
            comparisons.append((case, each))
    if not comparisons:
        reasons = "; ".join(f"{case}: {reason}" for case, reason in skipped[:2])
        raise CheckFailedError(f"PyTorch itself gives numbers at no size of the proof ({reasons})")
    return Equivalence(tuple(comparisons), tuple(skipped))


def compare_case(candidate: Candidate, reference: Reference, case: Case) -> Sequence[Comparison]:
    """Return one record an output of the reference, in its order."""
    return compare_outputs(candidate(case.feeds), reference.run(case.feeds), reference.run64(case.feeds))


def compare_outputs(
    got: Mapping[str, Array],
    own: Mapping[str, Array],
    wide: Mapping[str, Array],
    floors: Mapping[str, float] | None = None,
) -> Sequence[Comparison]:
    """Return one record an output: ``got`` against ``wide``, with ``own``'s error as the noise floor.

    Args:
        got: the candidate's outputs.
        own: the reference's in its own dtype.
        wide: the reference's in float64.
        floors: larger noise floors by output, where those are known.
    """
    records = []
    for name, expected in own.items():
        if expected.dtype.kind != "f":
            records.append(compare(name, got[name], expected, floor=0.0, limit=0.0))
            continue
        dtype, exact = expected.dtype.name, wide[name]
        floor = max(apart(expected, exact), (floors or {}).get(name, 0.0))
        limit = limit_for(exact, floor, dtype)
        records.append(compare(name, got[name], exact, floor=floor, limit=limit, dtype=dtype))
    return records


def _in_doubt(
    records: Sequence[Comparison],
    got: Mapping[str, Array],
    own: Mapping[str, Array],
    wide: Mapping[str, Array],
    reference: Reference,
    case: Case,
) -> Sequence[Comparison]:
    """Draw the noise floor anew where a difference is past its limit and rounding could explain it.

    See ``floors``.
    """
    floors: dict[str, float] = {}
    for draw in range(DRAWS):
        if not 1.0 < max(each.ratio for each in records) < _DOUBT:
            break
        nearby = near(case.feeds, draw)
        floors = raised(floors, wide, reference.run(nearby), reference.run64(nearby))
        records = compare_outputs(got, own, wide, floors)
    return records


def _is_noise(floor: float, wide: Array) -> bool:
    """Tell whether ``floor`` is small enough beside the output to be rounding."""
    finite = np.abs(wide[np.isfinite(wide)])
    scale = float(finite.max()) if finite.size else 0.0
    return wide.dtype.kind != "f" or floor <= _NOISE * max(scale, float(np.finfo(np.float32).tiny))
