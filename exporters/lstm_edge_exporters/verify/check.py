"""One question about a file, and its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.selftest import Comparison

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One question put to the file, and the answer."""

    name: str
    """What was compared."""
    status: Status
    """Passed, failed or skipped."""
    message: str = ""
    """Why it failed or was skipped; else a remark beyond the figures, or empty."""
    worst: Comparison | None = None
    """The output nearest to its limit, if something was measured."""


def passed_unless(name: str, wrong: str, about: str = "") -> Check:
    """Return the check that has failed if something is ``wrong``; ``about`` is what was
    seen if not.
    """
    return Check(name, "failed" if wrong else "passed", wrong or about)


def attempt(name: str, question: Callable[[], Check]) -> Check:
    """Return the answer of ``question``; failed if it raises."""
    try:
        return question()
    except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return Check(name, "failed", f"it does not run: {first_line(error)}")


def within_limits(name: str, records: Sequence[Comparison]) -> Check:
    """Return the check that every output is within its limit."""
    failed = "; ".join(str(record) for record in records if not record.ok)
    worst = max(records, key=lambda record: record.ratio, default=None)
    return Check(
        name=name, status="failed" if failed else "passed", message=failed, worst=worst
    )
