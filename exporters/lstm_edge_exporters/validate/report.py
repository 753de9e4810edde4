"""Results of a validation: groups of checks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal, get_args

from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.selftest import Comparison

from ..verify.check import Check, Status


@dataclass(frozen=True)
class Group:
    """Checks of one kind."""

    key: str
    """A short name for programs: ``engines``."""
    title: str
    """The question that the group answers."""
    checks: tuple[Check, ...]
    """Results, in the order in which they ran."""
    advice: str = ""
    """Meaning of a failure, and the remedy."""
    tests: Literal["file", "exporter"] = "file"
    """Subject of the checks: the exporter if the file holds the graph that it gives."""

    @property
    def status(self) -> Status:
        """``failed`` if any check failed, ``skipped`` if every one was skipped."""
        statuses = {check.status for check in self.checks}
        if "failed" in statuses:
            return "failed"
        return "passed" if "passed" in statuses else "skipped"

    @property
    def worst(self) -> Comparison | None:
        """The comparison nearest to its limit in the whole group."""
        measured = [check.worst for check in self.checks if check.worst is not None]
        return max(measured, key=lambda comparison: comparison.ratio, default=None)

    @property
    def failed(self) -> list[Check]:
        """The checks that failed."""
        return [check for check in self.checks if check.status == "failed"]

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(check.status == status for check in self.checks)


@dataclass(frozen=True)
class Report:
    """Everything a reader needs to trust a file, or not to."""

    model: str
    """The file's name."""
    sha256: str
    """Hex digest of the file."""
    reference: str
    """Description of the reference."""
    precision: str
    """Precision of the file, from its manifest."""
    policy: str
    """The rule that gave the limits, in words."""
    seed: int
    """Seed of the test cases."""
    quick: bool
    """True for fewer sizes and samples."""
    groups: tuple[Group, ...]
    """Causes before consequences."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of the packages that ran the validation."""

    @property
    def ok(self) -> bool:
        """True if something was checked and nothing failed."""
        statuses = {group.status for group in self.groups}
        return "failed" not in statuses and "passed" in statuses

    @property
    def headlines(self) -> tuple[tuple[Group, Check, int], ...]:
        """The first failed check of each failed group, and the number of others; causes
        first.
        """
        return tuple(
            (group, group.failed[0], len(group.failed) - 1)
            for group in self.groups
            if group.failed
        )

    @property
    def verdict(self) -> str:
        """The first failure and what to do, in one line; empty if nothing failed."""
        if not self.headlines:
            return ""
        group, check, _ = self.headlines[0]
        return (
            f"{group.advice}: {check.name}: {check.message}"
            if group.advice
            else check.message
        )

    def count(self, status: Status) -> int:
        """Return how many checks ended so."""
        return sum(group.count(status) for group in self.groups)

    def require(self) -> "Report":
        """Return the report if everything passed.

        Raises:
            CheckFailedError: an ``AssertionError`` with the first failure and what to
            do.
        """
        if not self.ok:
            raise CheckFailedError(
                f"{self.model} does not compute what {self.reference} does:"
                f" {self.verdict}"
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, the same ones for the same file, reference and
        seed.
        """
        counts = {status: self.count(status) for status in get_args(Status)}
        groups = [
            {**_json_value(group), "status": group.status} for group in self.groups
        ]
        return {
            **_json_value(self),
            "groups": groups,
            "ok": self.ok,
            "verdict": self.verdict,
            **counts,
        }


def _json_value(value: Any) -> Any:
    """Return records as dicts, tuples as lists, and None for numbers that are not
    finite.
    """
    if is_dataclass(value):
        value = vars(value)
    elif isinstance(value, Comparison):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {name: _json_value(entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return [_json_value(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
