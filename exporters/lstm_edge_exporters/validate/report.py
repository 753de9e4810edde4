"""What a validation found: groups of checks, and the figures behind the plots."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_args

from lstm_edge_runtime.errors import counted, first_line
from lstm_edge_runtime.tolerance import Comparison

from ..numerics.compare import Equality

Status = Literal["passed", "failed", "skipped"]
OVERFLOW = "float32 overflows at"
"""How a check that left float32's range begins what it says."""
MAX_CHECKS = 20
"""Most checks of one group, and rows of one table, that a page shows; the others are counted."""


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
    size: tuple[int, int] | None = None
    """Rows and time steps of the case, where there is one."""

    @property
    def order(self) -> tuple[int, float]:
        """What sorts failures: the smallest case first, of one size the furthest beyond its limit."""
        ratio = self.worst.ratio if self.worst else math.inf
        return (self.size[0] * self.size[1] if self.size else 0, -ratio)

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
    """Return the check that has failed where something is ``wrong``; ``about`` is what was seen if not."""
    return Check(name, "failed" if wrong else "passed", wrong or about)


def asked(name: str, question: Callable[[], str]) -> Check:
    """Return the check that has failed if ``question`` says what is wrong, or raises."""
    try:
        wrong = question()
    except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base class
        wrong = f"it does not run: {first_line(error)}"
    return answered(name, wrong)


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
            **{name: worst and _plain(getattr(worst, name)) for name in ("floor", "limit", "ratio")},
            "checks": [check.to_dict() for check in self.checks],
        }


@dataclass(frozen=True)
class Curve:
    """Errors along a stream; one point a step or a chunk."""

    steps: tuple[int, ...]
    """Time steps taken when the point was measured."""
    error: tuple[float, ...]
    """The file's largest absolute difference from float64, over all outputs."""
    limit: float
    """What it may be, of the output that may differ most."""


@dataclass(frozen=True)
class Histogram:
    """How many elements have an absolute error of each decade's part, over every engine's comparisons."""

    edges: tuple[float, ...]
    """Bin edges as log10 of the absolute error; one more than counts."""
    counts: tuple[int, ...]
    exact: int = 0
    """Elements without any error."""


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
class Fact:
    """One thing that a file says of itself, beside the same recomputed from its reference or its graph."""

    name: str
    file: str
    """What the file states; empty where it states nothing."""
    reference: str | None
    """What the reference or the graph has; None where neither tells."""
    same: bool = True

    def __str__(self) -> str:
        """Return both values."""
        return f"the file has {self.file or 'none'}, the reference {self.reference or 'none'}"


@dataclass(frozen=True)
class Channel:
    """The comparison of one channel that came nearest to its limit, over every case."""

    output: str
    index: tuple[int, ...]
    """Its place on the fixed axes; empty where the output has one limit."""
    error: float
    floor: float
    limit: float
    label: str = ""
    """The class or layer that the channel stands for, where the file says so."""
    unit: str = ""

    @property
    def ratio(self) -> float:
        """The error as a fraction of the limit."""
        return 0.0 if self.error == 0 else self.error / self.limit if self.limit > 0 else math.inf

    def __str__(self) -> str:
        """Return ``logits[2] (run)``."""
        index = f"[{', '.join(map(str, self.index))}]" if self.index else ""
        label = ", ".join(filter(None, (self.label, self.unit)))
        return f"{self.output}{index}{f' ({label})' if label else ''}"


@dataclass(frozen=True)
class Coverage:
    """What was compared, in numbers."""

    cases: int = 0
    """Inputs that the file and its reference were both run on."""
    draws: int = 0
    """Perturbed runs of the reference behind each case's noise floors."""
    overflows: Mapping[str, int] = field(default_factory=dict)
    """Nodes at which cases are beyond float32's range, and in how many."""
    rows: int = 0
    steps: int = 0
    """Time steps, over all rows."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Different sizes ``(N, L)``."""
    tokens: Mapping[str, tuple[int, int | None]] = field(default_factory=dict)
    """Of each input of indices: how many different ones were used, and of how many; None where unknown."""
    channels: Mapping[str, int] = field(default_factory=dict)
    """How many channels of each output have a limit of their own."""
    weakest: Mapping[str, float] = field(default_factory=dict)
    """Of each output the largest limit of a verified channel, as a fraction of the channel."""
    unverified: Mapping[str, float] = field(default_factory=dict)
    """Channels whose limit in float32 was more than a tenth of them in a case, with the largest limit."""

    def __str__(self) -> str:
        """Return everything in one sentence."""
        if not self.cases:
            return "nothing was compared with a reference"
        longest, widest = (max(each[place] for each in self.sizes) for place in (1, 0))
        parts = [
            f"{self.cases} cases of {len(self.sizes)} sizes (up to {widest:,} rows and {longest:,} steps)",
            f"{self.rows:,} rows and {self.steps:,} steps in all",
            "channels " + ", ".join(f"{name} {count}" for name, count in self.channels.items()),
            *(
                f"{name}: {used} of {known or 'unknown many'} values"
                for name, (used, known) in self.tokens.items()
            ),
            f"{self.draws} perturbed runs a case or more",
            *(f"weakest limit of {name} {share:.1g} of it" for name, share in self.weakest.items()),
            *(f"{OVERFLOW} {node} in {counted(count, 'case')}" for node, count in self.overflows.items()),
        ]
        return "; ".join(parts)


@dataclass
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
    equality: Equality | None = None
    """How equal the graph is to its reference in float64; None where they were not compared."""
    figures: Figures = field(default_factory=Figures)
    facts: tuple[Fact, ...] = ()
    """What the file states, beside what its reference has."""
    coverage: Coverage = Coverage()
    channels: tuple[Channel, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader should know beside the verdict: above all, what was not verified."""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether something was checked and nothing failed."""
        found = {group.status for group in self.groups}
        return "failed" not in found and "passed" in found

    @property
    def headlines(self) -> tuple[tuple[Group, Check, int], ...]:
        """Of each failed group its smallest failing case and how many more failed; the smallest first."""
        found = [
            (group, min(group.failed, key=lambda check: check.order), len(group.failed) - 1)
            for group in self.groups
            if group.failed
        ]
        return tuple(sorted(found, key=lambda each: each[1].order))

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(group.count(status) for group in self.groups)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the same ones for the same file, reference and seed."""
        figures = self.figures
        return {
            **{name: _plain(value) for name, value in vars(self).items()},
            "ok": self.ok,
            **{status: self.count(status) for status in get_args(Status)},
            "channels": [_plain(each) | {"ratio": _plain(each.ratio)} for each in self.channels],
            "groups": [group.to_dict() for group in self.groups],
            "figures": {
                "steps": _plain(figures.steps),
                "drift": _plain(figures.drift),
                "samples": len(figures.margins),
                "disagreements": _plain(figures.disagreements),
            },
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
