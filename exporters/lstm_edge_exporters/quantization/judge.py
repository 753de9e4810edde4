"""What a smaller file loses: labels that flip, outputs that move, states that drift over a long run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.model import Model
from lstm_edge_runtime.state import State

from .cases import Case, timeline

__all__ = ["Judgement", "Moved", "judge"]

Array = npt.NDArray[Any]
Pair = tuple[Array, Array]


@dataclass(frozen=True)
class Moved:
    """How far one output of the smaller file is from the float file's."""

    largest: float
    """The largest absolute difference; infinity where one of the two is not finite."""
    scale: float
    """What it is held against: an output's range, or a state's largest absolute value."""
    step: int | None = None
    """The step of the long run at which it occurred; None for a judged sample."""

    @property
    def share(self) -> float:
        """The difference as a share of the scale."""
        return 0.0 if self.largest == 0 else self.largest / self.scale if self.scale > 0 else float("inf")


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
    change: dict[str, Moved]
    """Per output that is not a state."""
    drift: dict[str, Moved]
    """Per state output, in the long run."""

    def to_dict(self) -> dict[str, Any]:
        """Give the figures for a manifest or a JSON report."""
        document = asdict(self)
        for group in ("change", "drift"):
            for name, moved in getattr(self, group).items():
                document[group][name]["share"] = moved.share
        return document


def judge(
    before: Model,
    after: Model,
    cases: Sequence[Case],
    targets: Array | None = None,
    golden: Case | None = None,
) -> Judgement:
    """Run both files on ``cases``, then for 1,000 steps with states carried, and say what differs.

    Args:
        before: the float file.
        after: the smaller file, with the same inputs, outputs and states.
        cases: what to run.
        targets: ``(cases,)`` class numbers or ``(cases, C)`` values, if the truth is known.
        golden: a case whose differences count, and whose labels don't; without it (the golden case is all
            there is to run) the labels of the long run count as well, for want of others.
    """
    task = before.manifest.task if before.manifest else None
    classify = task is not None and task.kind == "classification"
    pairs: dict[str, list[Pair]] = {}
    for case in cases:
        for name, pair in _both(before, after, case).items():
            pairs.setdefault(name, []).append(pair)
    rows = [_rows(pair) for pair in pairs[task.output]] if task else []
    labels = _labels(rows) if classify else []
    for name, pair in _both(before, after, golden).items() if golden else ():
        pairs[name].append(pair)
    run = _long_run(before, after, cases)
    moved = {}
    for name, both in pairs.items():
        here, there = (
            _moved(each, state=name in _states(before), steps=each is not both) for each in (both, run[name])
        )
        moved[name] = max(here, there, key=lambda one: one.share)
    return Judgement(
        cases=len(cases),
        agreement=_agreement(labels + ([] if golden else _labels(map(_rows, run[task.output]))))
        if classify and task
        else None,
        accuracy=_accuracy(labels, targets) if classify and targets is not None else None,
        rmse=_rmse(rows, targets) if task and not classify and targets is not None else None,
        change={name: one for name, one in moved.items() if name not in _states(before)},
        drift={name: one for name, one in moved.items() if name in _states(before)},
    )


def _start(model: Model, state: Mapping[str, Array] | None) -> State | None:
    if not state:
        return None
    return State({spec.input: state[spec.input].astype(spec.dtype) for spec in model.states}, model.identity)


def _states(model: Model) -> list[str]:
    return [spec.output for spec in model.states]


def _both(before: Model, after: Model, case: Case) -> dict[str, Pair]:
    """Give every output of both files, states by their output names."""
    found = []
    for model in (before, after):
        outputs, state = model.run(case.inputs, _start(model, case.state), case.lengths)
        found.append({**outputs, **{spec.output: state[spec.input] for spec in model.states}})
    return {name: (array, found[1][name]) for name, array in found[0].items()}


def _rows(pair: Pair) -> Pair:
    left, right = pair
    return left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])


def _labels(rows: Iterable[Pair]) -> list[Pair]:
    return [(left.argmax(-1), right.argmax(-1)) for left, right in rows]


def _agreement(labels: list[Pair]) -> float:
    return float(np.concatenate([left == right for left, right in labels]).mean())


def _accuracy(labels: list[Pair], targets: Array) -> tuple[float, float]:
    """The last row is the top layer's, or the last step's."""
    left, right = (np.array([pair[side][-1] for pair in labels]) for side in (0, 1))
    return float((left == targets).mean()), float((right == targets).mean())


def _rmse(rows: list[Pair], targets: Array) -> tuple[float, float]:
    left, right = (np.array([pair[side][-1] for pair in rows], dtype=np.float64) for side in (0, 1))
    truth = np.asarray(targets, dtype=np.float64).reshape(left.shape)
    return float(np.sqrt(((left - truth) ** 2).mean())), float(np.sqrt(((right - truth) ** 2).mean()))


def _moved(pairs: Sequence[Pair], *, state: bool, steps: bool = False) -> Moved:
    each = [_difference(left, right) for left, right in pairs]
    worst = int(np.argmax(each))
    low = min(float(np.min(left, initial=np.inf)) for left, _ in pairs)
    high = max(float(np.max(left, initial=-np.inf)) for left, _ in pairs)
    scale = high - low if high > low and not state else max(abs(low), abs(high))
    return Moved(each[worst], scale, worst + 1 if steps else None)


def _difference(left: Array, right: Array) -> float:
    if left.shape != right.shape or not np.isfinite(right[np.isfinite(left)]).all():
        return float("inf")
    with np.errstate(invalid="ignore"):
        difference = np.abs(left.astype(np.float64) - right.astype(np.float64))
    return float(np.max(difference, initial=0.0, where=np.isfinite(left)))


def _long_run(before: Model, after: Model, cases: Sequence[Case]) -> dict[str, list[Pair]]:
    """Carry states for 1,000 steps, each file its own; gives every call's outputs by name."""
    pairs: dict[str, list[Pair]] = {}
    here: list[Mapping[str, Array] | None] = [cases[0].state, cases[0].state]
    for inputs in timeline(before, cases):
        found = []
        for side, model in enumerate((before, after)):
            outputs, state = model.run(inputs, _start(model, here[side]))
            here[side] = state
            found.append({**outputs, **{spec.output: state[spec.input] for spec in model.states}})
        for name, array in found[0].items():
            pairs.setdefault(name, []).append((array, found[1][name]))
    return pairs
