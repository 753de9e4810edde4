"""What a smaller file loses: labels that flip, outputs that change, states that drift over a long run."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.model import Model

from .cases import STEPS, Case
from .side_by_side import Pair, run_both, step_both

__all__ = ["Changed", "Drifted", "Judgement", "judge", "largest_differences"]

_LATE = STEPS // 10
_TIE = 0.05

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Changed:
    """How far an output that is not a state is from the float file's, over samples and the long run."""

    largest: float
    """The largest absolute difference; infinity where one of the two is not finite."""
    span: float
    """The output's range in the float file: the largest value less the smallest."""

    @property
    def share(self) -> float:
        """The largest difference as a share of the range."""
        return _share(self.largest, self.span)


@dataclass(frozen=True)
class Drifted:
    """How far a state is from the float file's in the long run, each file carrying its own."""

    share: float
    """Root mean square of the difference over the run, as a share of the state's own."""
    late: float
    """The same over the last 100 steps: near ``share`` where the drift does not grow."""
    largest: float
    """The largest absolute difference; a unit that switches a step early makes it large for that step."""
    step: int
    """The step at which that was, from 1."""


@dataclass(frozen=True)
class Judgement:
    """The figures that the budget is held against."""

    cases: int
    agreement: float | None
    """The share of rows that keep their label; None where the file does not classify."""
    accuracy: tuple[float, float] | None
    """Before and after: the share of right labels; None without the truth."""
    rmse: tuple[float, float] | None
    """Before and after: root mean square error of the predicted values; None without the truth."""
    change: dict[str, Changed]
    """Per output that is not a state."""
    drift: dict[str, Drifted]
    """Per state output."""

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for a manifest or a JSON report."""
        document = asdict(self)
        for name, changed in self.change.items():
            document["change"][name]["share"] = changed.share
        return document


def judge(
    before: Model, after: Model, cases: Sequence[Case], targets: Array | None, *, few: bool
) -> Judgement:
    """Run both files on ``cases``, then for 1,000 steps with states carried, and say what differs.

    Args:
        before: the float file.
        after: the smaller file, with the same inputs, outputs and states.
        cases: what to run.
        targets: ``(cases,)`` class numbers or ``(cases, C)`` values, if the truth is known.
        few: the cases are made up and few: count the labels of the long run as well, and none of a row whose
            two best classes are nearer than 5 % of the logits' range, because such ties decide nothing.
    """
    task = before.manifest.task if before.manifest else None
    classify = task is not None and task.kind == "classification"
    states = [spec.output for spec in before.states]
    single = _gathered(run_both(before, after, case) for case in cases)
    long = _gathered(step_both(before, after, cases, STEPS))
    rows = [_rows(pair) for pair in single[task.output]] if task else []
    judged = rows + [_rows(pair) for pair in long[task.output]] if task and few else rows
    change = {name: _changed(pairs + long[name]) for name, pairs in single.items() if name not in states}
    margin = _TIE * change[task.output].span if task and few else 0.0
    return Judgement(
        cases=len(cases),
        agreement=_agreement(judged, margin) if classify else None,
        accuracy=_accuracy(rows, targets) if classify and targets is not None else None,
        rmse=_rmse(rows, targets) if task and not classify and targets is not None else None,
        change=change,
        drift={name: _drifted(long[name]) for name in states},
    )


def largest_differences(before: Model, after: Model, case: Case, steps: int) -> dict[str, float]:
    """Give, per output, the largest absolute difference on ``case``, run whole and step by step."""
    found = _gathered([run_both(before, after, case), *step_both(before, after, [case], steps)])
    return {name: max(_difference(*pair) for pair in pairs) for name, pairs in found.items()}


def _gathered(calls: Iterable[dict[str, Pair]]) -> dict[str, list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for call in calls:
        for name, pair in call.items():
            found.setdefault(name, []).append(pair)
    return found


def _rows(pair: Pair) -> Pair:
    left, right = pair
    return left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])


def _agreement(rows: list[Pair], margin: float) -> float | None:
    left, right = (np.concatenate([pair[side] for pair in rows]) for side in (0, 1))
    best = np.sort(left, axis=-1)
    clear = (
        np.subtract(best[:, -1], best[:, -2]) >= margin if left.shape[-1] > 1 else np.ones(len(left), bool)
    )
    return float((left.argmax(-1) == right.argmax(-1))[clear].mean()) if clear.any() else None


def _last(rows: list[Pair], side: int) -> Array:
    """The last row of each case: the top layer's, or the last step's."""
    return np.array([pair[side][-1] for pair in rows], dtype=np.float64)


def _accuracy(rows: list[Pair], targets: Array) -> tuple[float, float]:
    left, right = (float((_last(rows, side).argmax(-1) == targets).mean()) for side in (0, 1))
    return left, right


def _rmse(rows: list[Pair], targets: Array) -> tuple[float, float]:
    truth = np.asarray(targets, dtype=np.float64).reshape(len(rows), -1)
    left, right = (float(np.sqrt(((_last(rows, side) - truth) ** 2).mean())) for side in (0, 1))
    return left, right


def _changed(pairs: list[Pair]) -> Changed:
    low = min(float(left.min()) for left, _ in pairs)
    high = max(float(left.max()) for left, _ in pairs)
    return Changed(max(_difference(*pair) for pair in pairs), high - low)


def _drifted(pairs: list[Pair]) -> Drifted:
    each = [_difference(*pair) for pair in pairs]
    worst = int(np.argmax(each))
    step = worst + 1 if len(pairs) > 1 else STEPS
    return Drifted(_rms_share(pairs), _rms_share(pairs[-_LATE:]), each[worst], step)


def _rms_share(pairs: list[Pair]) -> float:
    left, right = (np.stack([pair[side] for pair in pairs]).astype(np.float64) for side in (0, 1))
    if not np.isfinite(right).all():
        return float("inf")
    return _share(float(np.sqrt(((left - right) ** 2).mean())), float(np.sqrt((left**2).mean())))


def _difference(left: Array, right: Array) -> float:
    if left.shape != right.shape or not np.isfinite(right).all():
        return float("inf")
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())


def _share(part: float, whole: float) -> float:
    return 0.0 if part == 0 else part / whole if whole > 0 else float("inf")
