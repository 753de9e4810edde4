"""What a validation found: groups of checks, and the figures behind the plot."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_args

from lstm_edge_runtime.errors import first_line

from ..tolerance import Comparison

Status = Literal["passed", "failed", "skipped"]
MAX_CHECKS = 20
"""Most checks of one group, and rows of one table, that a page shows; the others are counted."""


@dataclass(frozen=True)
class Check:
    """One question put to the file, and the answer."""

    name: str
    status: Status
    message: str = ""
    """Why it failed or was skipped; else what was seen, if there is more to say than the figures."""
    worst: Comparison | None = None
    """The output nearest to its limit, if something was measured."""
    seconds: float = 0.0
    """Wall time; in JUnit only, so that every other report is the same for the same seed."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        names = ("shape", "where", "got", "expected", "error", "channel", "ulp", "floor", "limit", "ratio")
        worst = self.worst and {
            "output": self.worst.name,
            "relative_error": self.worst.max_rel,
            **{name: getattr(self.worst, name) for name in names},
        }
        return {"name": self.name, "status": self.status, "message": self.message, "worst": _plain(worst)}


def answered(name: str, wrong: str, about: str = "") -> Check:
    """Return the check that has failed if something is ``wrong``; ``about`` is what was seen if not."""
    return Check(name, "failed" if wrong else "passed", wrong or about)


def asked(name: str, question: Callable[[], Check]) -> Check:
    """Return the answer of ``question``; failed if it raises."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return Check(name, "failed", f"it does not run: {first_line(error)}")


def judged(name: str, records: Sequence[Comparison]) -> Check:
    """Return the check that every output is within its limit."""
    failed = "; ".join(str(each) for each in records if not each.ok)
    worst = max(records, key=lambda each: each.ratio, default=None)
    return Check(name, "failed" if failed else "passed", failed, worst)


@dataclass(frozen=True)
class Group:
    """Checks of one kind."""

    key: str
    """A short name for programs: ``sizes``."""
    title: str
    checks: tuple[Check, ...]
    advice: str = ""
    """What a failure means, and what to do."""

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

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "failed"]

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(check.status == status for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        worst = self.worst
        return {
            "key": self.key,
            "title": self.title,
            "status": self.status,
            "error": worst and _plain(worst.max_abs),
            **{name: worst and _plain(getattr(worst, name)) for name in ("limit", "ratio")},
            "checks": [check.to_dict() for check in self.checks],
        }


@dataclass(frozen=True)
class Curve:
    """Errors along a stream; one point a step."""

    steps: tuple[int, ...]
    """Time steps taken when the point was measured."""
    error: tuple[float, ...]
    """The file's largest absolute difference from float64, over all outputs."""
    limit: float
    """What it may be, of the output that may differ most."""


@dataclass(frozen=True)
class Disagreement:
    """A sample that the file labels otherwise than the reference."""

    sample: int
    """Its number in the data."""
    truth: str
    """Its label in the data; empty if the data has none."""
    expected: str
    """The reference's label."""
    got: str
    """The file's label."""
    margin: float
    """The reference's largest logit less its second largest: how sure it was."""


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
    """Causes before consequences."""
    steps: Curve | None = None
    """Errors of onnxruntime over the first steps of a stream."""
    disagreements: tuple[Disagreement, ...] = ()
    """Samples of the data that are labeled otherwise."""
    notes: tuple[str, ...] = ()
    """What a reader should know beside the verdict: above all, what was not verified."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if something was checked and nothing failed."""
        found = {group.status for group in self.groups}
        return "failed" not in found and "passed" in found

    @property
    def headlines(self) -> tuple[tuple[Group, Check, int], ...]:
        """Of each failed group its first failed check and how many more failed; causes first."""
        return tuple((group, group.failed[0], len(group.failed) - 1) for group in self.groups if group.failed)

    @property
    def verdict(self) -> str:
        """The first thing that is wrong and what to do, in one line; empty if nothing is."""
        if not self.headlines:
            return ""
        group, check, _ = self.headlines[0]
        return f"{group.advice}: {check.name}: {check.message}" if group.advice else check.message

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(group.count(status) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the same ones for the same file, reference and seed."""
        return {
            **{name: _plain(value) for name, value in vars(self).items()},
            "ok": self.ok,
            "verdict": self.verdict,
            **{status: self.count(status) for status in get_args(Status)},
            "groups": [group.to_dict() for group in self.groups],
        }


def _plain(value: Any) -> Any:
    """Return records as dicts, tuples as lists, and None for numbers that are not finite."""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
