"""Compare a smaller file with the float file: labels, outputs, and drift of states over a long run."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lstm_edge_runtime.chunks import run_chunks
from lstm_edge_runtime.errors import counted
from lstm_edge_runtime.manifest import Array, AxisRange, Task, channel_axis
from lstm_edge_runtime.model import Model, runner
from lstm_edge_runtime.tolerance import Comparison, limit_for

from ..verify.cases import Feeds
from ..verify.samples import join_samples
from .config import STEPS, Budget

_LATE = STEPS // 10
_TIE = 0.05
_SNAPSHOT = 4.0
"""Allowed drift of states in a single case, as a multiple of that over a run: it may end at a switch."""
_MARGIN = 4.0
"""Limit on another device, as a multiple of the largest measured difference: rounding differs there, while
saturation (8 times and more, measured on x86 without VNNI) is still caught."""

Pair = tuple[Array, Array]
"""An output of the float file, and the same of the smaller one."""


@dataclass(frozen=True)
class Changed:
    """How far an output that is not a state is from the float file's, over samples and the long run."""

    largest: float
    """The largest absolute difference; infinity if one of the two is not finite."""
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
    """The same over the last 100 steps: near ``share`` if the drift does not grow."""
    largest: float
    """The largest absolute difference; a unit that switches a step early makes it large for that step."""
    step: int
    """The step at which that was, from 1."""


@dataclass(frozen=True)
class Judgement:
    """The figures that are compared with the budget."""

    cases: int
    agreement: float | None
    """Fraction of rows that keep their label; None if the file does not classify."""
    accuracy: tuple[float, float] | None
    """Before and after: the fraction of right labels at the end of each sample, as a device runs them: states
    carried from sample to sample, unless the file restarts them; None without the truth."""
    rmse: tuple[float, float] | None
    """Before and after: root mean square error of the predicted values, likewise; None without the truth."""
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
    before: Model, after: Model, cases: Sequence[Feeds], targets: Array | None, *, few: bool
) -> Judgement:
    """Run both files on ``cases``, each from reset and all one after another, then for 1,000 single steps.

    One after another, and in the single steps, each file carries its own states, but samples of files whose
    streams restart every window each start from reset. A single step of a file with a unit is a unit.

    Args:
        before: the float file.
        after: the smaller file, with the same inputs, outputs and states.
        cases: what to run: inputs by name; states that are left out are at reset, rows without lengths full.
        targets: ``(cases,)`` class numbers or ``(cases, C)`` values, if the truth is known.
        few: the cases are made up and few: count the labels of the long run as well, and none of a row whose
            two best classes are nearer than 5 % of the logits' range, because such ties decide nothing.
    """
    task = before.manifest.task
    output, classify = (task.output, task.kind == "classification") if task else ("", False)
    models = before, after
    states = [spec.output for spec in before.manifest.states]
    carries = not few and before.manifest.streamable and not before.manifest.from_reset
    single, long = _gathered(_one_by_one, models, cases), _gathered(_long_run, models, cases)
    carried = _gathered(_one_after_another, models, cases) if carries else single
    more = long if few else single if carries else {}
    channels = next((channel_axis(spec.axes) for spec in before.outputs if spec.name == output), -1)
    rows, others = (_rows(pairs.get(output, ()), channels) for pairs in (carried, more))
    scored = _scored(task, rows, targets)
    change = {
        name: _changed(pairs + carried[name] + long[name])
        for name, pairs in single.items()
        if name not in states
    }
    return Judgement(
        cases=len(cases),
        agreement=_agreement(rows + others, _TIE * change[output].span if few else 0.0) if classify else None,
        accuracy=scored.get("accuracy"),
        rmse=scored.get("rmse"),
        change=change,
        drift={name: _drifted(long[name]) for name in states},
    )


def over_budget(judgement: Judgement, budget: Budget) -> list[str]:
    """Return the figures of ``judgement`` that exceed ``budget``."""
    said = []
    if judgement.agreement is not None and judgement.agreement < budget.agreement:
        said.append(f"{judgement.agreement:.4f} of labels agree (budget {budget.agreement:g})")
    if judgement.accuracy is not None:
        before, after = judgement.accuracy
        if (before - after) * judgement.cases > budget.samples + 1e-6:
            allowed = counted(budget.samples, "sample")
            said.append(f"accuracy falls from {before:.4f} to {after:.4f} (budget {allowed})")
    for name, drifted in judgement.drift.items():
        if not drifted.share <= budget.drift:
            said.append(f"{name} drifts by {drifted.share:.4f} of its size (budget {budget.drift:g})")
    for name, changed in judgement.change.items():
        if not changed.share <= budget.change:
            said.append(f"{name} changes by {changed.share:.4f} of its range (budget {budget.change:g})")
    return said


class Budgets:
    """Allowed differences of a smaller file in a single case, which need not come from data.

    Differences count by their root mean square: a unit that switches one step early is off by its whole range
    for that step, and right before and after.
    """

    def __init__(
        self, budget: Budget | None, states: Collection[str], usual: Iterable[Mapping[str, Array]]
    ) -> None:
        """Take the shares, ``quantize``'s by default, the states' outputs, and outputs that are usual."""
        self._budget, self._states = budget or Budget(), states
        self._usual: dict[str, float] = {}
        """Reference of each share: a state's root mean square, the range of another output."""
        for outputs in usual:
            for name, array in outputs.items():
                size = _rms(array) if name in states else float(np.ptp(array.astype(np.float64)))
                self._usual[name] = max(size, self._usual.get(name, 0.0))

    def __str__(self) -> str:
        """Return the rule in words."""
        budget = self._budget
        return (
            f"budgets: root mean square within {budget.change:g} of an output's range and "
            f"{_SNAPSHOT * budget.drift:g} of a state's own, {budget.drift:g} over a run of your data; "
            f"{budget.agreement:.1%} of labels kept"
        )

    @property
    def agreement(self) -> float:
        """The least share of labels that must be kept."""
        return self._budget.agreement

    def allowed(self, name: str, expected: Array, *, over_a_run: bool = False) -> float:
        """Return the limit of the root mean square difference from ``expected``.

        Args:
            name: the output's.
            expected: the output of the reference.
            over_a_run: whether that is a whole run of real data, on which ``judge`` measures states.
        """
        usual = self._usual.get(name, 0.0)
        if name in self._states:
            return self._budget.drift * (1.0 if over_a_run else _SNAPSHOT) * max(_rms(expected), usual)
        return self._budget.change * max(float(np.max(np.abs(expected), initial=0.0)), usual)

    def limit(self, name: str, got: Array, expected: Array, *, over_a_run: bool = False) -> float:
        """Return the limit that the largest difference exceeds if the root mean square is too large.

        Args as of ``allowed``; ``got`` is the output of the file.
        """
        allowed, largest = self.allowed(name, expected, over_a_run=over_a_run), _difference(expected, got)
        if not 0 < largest < np.inf:
            return allowed
        return allowed * largest / _rms(got.astype(np.float64) - expected)


def device_limits(found: Iterable[Comparison], golden: Mapping[str, Array]) -> dict[str, float]:
    """Return the absolute limit of each output in a self-test on a device.

    Args:
        found: differences of each output of the golden case here, run in every way.
        golden: the golden outputs.
    """
    limits = {name: limit_for(array, 0.0) for name, array in golden.items()}
    for each in found:
        limits[each.name] = max(limits[each.name], _MARGIN * each.max_abs)
    return limits


def _one_by_one(model: Model, cases: Sequence[Feeds]) -> Iterator[Feeds]:
    """Return every case's outputs, each from its own states."""
    return map(runner(model), cases)


def _one_after_another(model: Model, cases: Sequence[Feeds]) -> Iterator[Feeds]:
    """Return every case's outputs, each from the last states of the previous one."""
    run, states = runner(model), dict[str, Array]()
    for case in cases:
        outputs = run({**case, **states})
        states = model.manifest.states_out(outputs)
        yield outputs


def _long_run(model: Model, cases: Sequence[Feeds]) -> Iterator[Feeds]:
    """Return every call's outputs on the samples one after another, from the first one's state.

    A call is a step, or all steps if a file can't carry states.
    """
    interface, run = model.manifest, runner(model)
    if interface.sequence is None:
        states: dict[str, Array] = {}
        for step in range(STEPS):
            outputs = run({**cases[step % len(cases)], **states})
            states = interface.states_out(outputs)
            yield outputs
        return
    unit = interface.unit
    steps = interface.ranges.get(interface.sequence, AxisRange()).nearest(STEPS * unit)
    joined = join_samples(cases, interface, steps)
    if interface.lengths in joined:
        joined[interface.lengths] = np.full_like(joined[interface.lengths], steps)
    yield from run_chunks(
        run, interface, joined, [unit] * (steps // unit) if interface.streamable else [steps]
    )


def _gathered(
    run: Callable[[Model, Sequence[Feeds]], Iterator[Feeds]],
    models: tuple[Model, Model],
    cases: Sequence[Feeds],
) -> dict[str, list[Pair]]:
    """Return both files' outputs of each call by name."""
    found: dict[str, list[Pair]] = {}
    for left, right in zip(*(run(model, cases) for model in models), strict=True):
        for name, array in left.items():
            found.setdefault(name, []).append((array, right[name]))
    return found


def _rows(pairs: Iterable[Pair], channels: int) -> list[Pair]:
    moved = ([np.moveaxis(each, channels, -1) for each in pair] for pair in pairs)
    return [(left.reshape(-1, left.shape[-1]), right.reshape(-1, right.shape[-1])) for left, right in moved]


def _agreement(rows: list[Pair], margin: float) -> float | None:
    left, right = (np.concatenate([pair[side] for pair in rows]) for side in (0, 1))
    best = np.sort(left, axis=-1)
    clear = (
        np.subtract(best[:, -1], best[:, -2]) >= margin if left.shape[-1] > 1 else np.ones(len(left), bool)
    )
    return float((left.argmax(-1) == right.argmax(-1))[clear].mean()) if clear.any() else None


def _scored(task: Task | None, rows: list[Pair], targets: Array | None) -> dict[str, tuple[float, float]]:
    """Return the score before and after of the last row of each case: the top layer's, or the last step's."""
    if task is None or targets is None:
        return {}
    last = (np.array([pair[side][-1] for pair in rows], np.float64) for side in (0, 1))
    if task.kind == "classification":
        left, right = (float((each.argmax(-1) == targets).mean()) for each in last)
        return {"accuracy": (left, right)}
    truth = np.asarray(targets, np.float64).reshape(len(rows), -1)
    left, right = (float(np.sqrt(((each - truth) ** 2).mean())) for each in last)
    return {"rmse": (left, right)}


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
    return _share(_rms(left - right), _rms(left))


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _difference(left: Array, right: Array) -> float:
    if left.shape != right.shape or not np.isfinite(right).all():
        return float("inf")
    return float(np.abs(left.astype(np.float64) - right.astype(np.float64)).max())


def _share(part: float, whole: float) -> float:
    return 0.0 if part == 0 else part / whole if whole > 0 else float("inf")
