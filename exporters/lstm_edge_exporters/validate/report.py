"""What a validation found: groups of checks, and the figures behind the plots."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from lstm_edge_runtime.tolerance import Comparison

__all__ = ["Check", "Curve", "Disagreement", "Figures", "Group", "Histogram", "Report", "Status"]

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One question put to the file, and the answer."""

    name: str
    status: Status
    message: str = ""
    """Why it failed or was skipped; else what was seen, where there is more to say than the figures."""
    worst: Comparison | None = None
    """The output nearest to its limit, where something was measured."""
    seconds: float = 0.0
    """Wall time; in JUnit only, so that every other report is the same for the same seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; figures that are not finite become null."""
        worst = self.worst
        return {
            "name": self.name,
            "status": self.status,
            "message": self.message,
            "worst": worst
            and {
                "output": worst.name,
                "shape": list(worst.shape),
                "where": list(worst.where),
                "got": _finite(worst.got),
                "expected": _finite(worst.expected),
                "error": _finite(worst.max_abs),
                "relative_error": _finite(worst.max_rel),
                "ulp": _finite(worst.ulp),
                "floor": _finite(worst.floor),
                "limit": _finite(worst.limit),
                "ratio": _finite(worst.ratio),
            },
        }


@dataclass(frozen=True)
class Group:
    """Checks of one kind."""

    key: str
    """A short name for programs: ``sizes``."""
    title: str
    checks: tuple[Check, ...]

    @property
    def status(self) -> Status:
        """``failed`` if any check failed, ``skipped`` if every one was skipped."""
        found = {check.status for check in self.checks}
        return "failed" if "failed" in found else "passed" if "passed" in found else "skipped"

    @property
    def worst(self) -> Comparison | None:
        """The comparison nearest to its limit in the whole group."""
        measured = [check.worst for check in self.checks if check.worst is not None]
        return max(measured, key=lambda each: each.ratio, default=None)

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(check.status == status for check in self.checks)


@dataclass(frozen=True)
class Curve:
    """Errors along a stream; one point a step or a chunk."""

    steps: tuple[int, ...]
    """Time steps taken when the point was measured."""
    error: tuple[float, ...]
    """The file's largest absolute difference from float64, over all outputs."""
    floor: tuple[float, ...]
    """The reference's own, in its dtype."""


@dataclass(frozen=True)
class Histogram:
    """How many elements have an absolute error of each decade's part, over every comparison."""

    edges: tuple[float, ...]
    """Bin edges as log10 of the absolute error; one more than counts."""
    file: tuple[int, ...]
    """Counts of the file's errors against float64."""
    reference: tuple[int, ...]
    """Counts of the reference's own errors against float64."""
    exact: tuple[int, int] = (0, 0)
    """Elements without any error: of the file, of the reference."""


@dataclass(frozen=True)
class Disagreement:
    """A sample that the file labels otherwise than the reference."""

    place: int
    """Which of the compared samples, from 0."""
    sample: int
    """Its number in the data."""
    truth: str
    """Its label in the data; empty where the data has none."""
    expected: str
    """The reference's label."""
    got: str
    """The file's label."""
    margin: float
    """The reference's largest logit less its second largest: how sure it was."""


@dataclass(frozen=True)
class Figures:
    """What the plots show; None or empty where the file or the data gives nothing to show."""

    steps: Curve | None = None
    """One point a step, over the first steps of a stream."""
    drift: Curve | None = None
    """One point a chunk, over the long run."""
    histogram: Histogram | None = None
    disagreements: tuple[Disagreement, ...] = ()
    margins: tuple[float, ...] = ()
    """Of every sample that labels were compared on."""


@dataclass(frozen=True)
class Report:
    """Everything a reader needs to trust a file, or not to."""

    model: str
    """The file's name."""
    sha256: str
    reference: str
    """What it was compared with, in words."""
    precision: str
    policy: str
    """The rule that gave the limits, in words."""
    seed: int
    quick: bool
    groups: tuple[Group, ...]
    figures: Figures = Figures()
    redrawn: int = 0
    """In how many cases one draw of the noise floor was too lucky or the file wrong, and more were made."""
    notes: tuple[str, ...] = ()
    """What a reader of a failure should know first."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed."""
        found = {group.status for group in self.groups}
        return "failed" not in found and "passed" in found

    @property
    def failures(self) -> tuple[tuple[Group, Check], ...]:
        """Every failed check with its group."""
        return tuple((g, c) for g in self.groups for c in g.checks if c.status == "failed")

    @property
    def headlines(self) -> tuple[tuple[Group, Check, int], ...]:
        """Of each failed group the check furthest beyond its limit, and how many more failed there."""
        found = []
        for group in self.groups:
            failed = [check for check in group.checks if check.status == "failed"]
            if failed:
                worst = max(failed, key=lambda check: check.worst.ratio if check.worst else math.inf)
                found.append((group, worst, len(failed) - 1))
        return tuple(found)

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(group.count(status) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the same ones for the same file, reference and seed."""
        figures = self.figures
        return {
            "model": self.model,
            "sha256": self.sha256,
            "reference": self.reference,
            "precision": self.precision,
            "policy": self.policy,
            "seed": self.seed,
            "quick": self.quick,
            "redrawn": self.redrawn,
            "ok": self.ok,
            "passed": self.count("passed"),
            "failed": self.count("failed"),
            "skipped": self.count("skipped"),
            "notes": list(self.notes),
            "versions": self.versions,
            "groups": [
                {
                    "key": group.key,
                    "title": group.title,
                    "status": group.status,
                    "floor": _finite(group.worst.floor) if group.worst else None,
                    "error": _finite(group.worst.max_abs) if group.worst else None,
                    "limit": _finite(group.worst.limit) if group.worst else None,
                    "ratio": _finite(group.worst.ratio) if group.worst else None,
                    "checks": [check.to_dict() for check in group.checks],
                }
                for group in self.groups
            ],
            "figures": {
                "steps": _curve(figures.steps),
                "drift": _curve(figures.drift),
                "samples": len(figures.margins),
                "disagreements": [
                    vars(each) | {"margin": _finite(each.margin)} for each in figures.disagreements
                ],
            },
        }


def _curve(curve: Curve | None) -> dict[str, Any] | None:
    if curve is None:
        return None
    return {
        "steps": list(curve.steps),
        "error": [_finite(value) for value in curve.error],
        "floor": [_finite(value) for value in curve.floor],
    }


def _finite(value: float) -> float | None:
    return value if abs(value) < float("inf") else None
