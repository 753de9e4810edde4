"""The gate: a smaller file compared with the float file on labels, outputs, and states
over a long run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lstm_edge_runtime.chunks import run_chunks
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array, AxisRange, Manifest, channel_axis
from lstm_edge_runtime.model import Model, runner

from ..verify.cases import Feeds
from ..verify.samples import Samples, join_samples, sample_feeds, selected
from .config import Budget

STEPS = 1000
"""Time steps of the run that states may drift in."""

Pair = tuple[Array, Array]
"""An output of the float file, and the same of the smaller one."""


@dataclass(frozen=True)
class Judgement:
    """The figures that are compared with the budget."""

    cases: int
    """Number of cases that were compared."""
    agreement: float | None
    """Fraction of rows that keep their label; None without data, or if the file does
    not classify."""
    accuracy: tuple[float, float] | None
    """Before and after: the fraction of right labels at the end of each sample; None
    without the truth."""
    change: Mapping[str, float]
    """Largest difference of each output that is not a state, as a share of its range in
    the float file."""
    drift: Mapping[str, float]
    """Root mean square of each state's difference over the long run, as a fraction of
    the state's root mean square."""


def evidence(
    manifest: Manifest, samples: Samples | None
) -> tuple[Sequence[Feeds], Array | None]:
    """Return the cases for the measurement, and the targets if they are known.

    Raises:
        InputError: there is nothing to judge on, or the samples do not fit the file.
    """
    if samples is None:
        if manifest.golden is None:
            raise InputError("the file has no golden case; export or lift it again")
        return [manifest.golden.inputs], None
    cases = sample_feeds(samples, manifest)
    targets = samples.targets
    task = manifest.task
    if targets is None or task is None or task.kind != "classification":
        return cases, None
    return cases, _class_numbers(np.asarray(targets)[selected(samples)], manifest)


@dataclass(frozen=True)
class Runs:
    """The outputs of a file, by name."""

    cases: Sequence[Feeds]
    """Of each case."""
    steps: Sequence[Feeds]
    """Of each of 1,000 single steps, on all cases in a row."""


def run_file(model: Model, cases: Sequence[Feeds], *, real: bool) -> Runs:
    """Run a file on ``cases`` and then for 1,000 single steps, carrying its states.

    Cases run one after another as one stream, unless streams of the file restart at
    every window or can't be carried on. A single step of a file with a unit is a unit.

    Args:
        model: the float file, or the smaller one.
        cases: what to run: inputs by name; states that are left out are at reset, rows
            without lengths full.
        real: the cases are data, and not made up.
    """
    manifest = model.manifest
    carries = real and manifest.streamable and not manifest.from_reset
    return Runs(
        cases=[*_run_cases(model, cases, carries=carries)],
        steps=[*_long_run(model, cases)],
    )


def judge(
    manifest: Manifest, before: Runs, after: Runs, targets: Array | None, *, real: bool
) -> Judgement:
    """Compare the outputs of a smaller file with those of the float file.

    Args:
        manifest: the contract of both.
        before: the outputs of the float file.
        after: the outputs of the smaller file, on the same cases.
        targets: ``(cases,)`` class numbers, or None.
        real: the cases are data, and not made up: compare labels, which decide nothing
            of random inputs.
    """
    states = [spec.output for spec in manifest.states]
    single = _pair_up(before.cases, after.cases)
    long = _pair_up(before.steps, after.steps)
    change = {}
    for name, pairs in single.items():
        if name not in states:
            change[name] = _changed(pairs + long[name])
    drift = {name: _drifted(long[name]) for name in states}
    labels = _labels(manifest, single) if real else None
    agreement = None
    accuracy = None
    if labels is not None:
        agreement = labels.agreement
        if targets is not None:
            accuracy = (labels.accuracy(0, targets), labels.accuracy(1, targets))
    return Judgement(
        cases=len(before.cases),
        agreement=agreement,
        accuracy=accuracy,
        change=change,
        drift=drift,
    )


@dataclass(frozen=True)
class _Labels:
    """The classes that two files give for each row and step of each case, those of the
    last step and layer last.
    """

    sides: tuple[Sequence[Array], Sequence[Array]]
    """Classes of the float file, then of the smaller one."""

    @property
    def agreement(self) -> float:
        """Fraction of equal classes."""
        before, after = map(np.concatenate, self.sides)
        return float((before == after).mean())

    def accuracy(self, side: int, targets: Array) -> float:
        """Return the fraction of cases whose last class is correct."""
        last = np.array([classes[-1] for classes in self.sides[side]])
        return float(np.mean(last == targets))


def _labels(manifest: Manifest, pairs: Mapping[str, Sequence[Pair]]) -> _Labels | None:
    """Return the classes of both files; None if they do not classify."""
    task = manifest.task
    if task is None or task.kind != "classification":
        return None
    outputs = [spec for spec in manifest.outputs if spec.name == task.output]
    axis = channel_axis(outputs[0].axes) if outputs else -1
    before = [left.argmax(axis).ravel() for left, _ in pairs[task.output]]
    after = [right.argmax(axis).ravel() for _, right in pairs[task.output]]
    return _Labels((before, after))


def over_budget(judgement: Judgement, budget: Budget) -> list[str]:
    """Return the figures of ``judgement`` that exceed ``budget``."""
    exceeded = []
    if judgement.agreement is not None and judgement.agreement < budget.agreement:
        exceeded.append(
            f"{judgement.agreement:.4f} of labels agree (budget {budget.agreement:g})"
        )
    if judgement.accuracy is not None:
        before, after = judgement.accuracy
        if (before - after) * judgement.cases > 1 + 1e-6:
            exceeded.append(
                f"accuracy falls from {before:.4f} to {after:.4f} (budget one sample)"
            )
    for name, drift in judgement.drift.items():
        if not drift <= budget.drift:
            exceeded.append(
                f"{name} drifts by {drift:.4f} of its size (budget {budget.drift:g})"
            )
    for name, change in judgement.change.items():
        if not change <= budget.change:
            exceeded.append(
                f"{name} changes by {change:.4f} of its range (budget"
                f" {budget.change:g})"
            )
    return exceeded


def _run_cases(
    model: Model, cases: Sequence[Feeds], *, carries: bool
) -> Iterator[Feeds]:
    """Return every case's outputs, each from its own states or from the last ones."""
    run = runner(model)
    states = dict[str, Array]()
    for case in cases:
        outputs = run({**case, **states})
        states = model.manifest.states_out(outputs) if carries else {}
        yield outputs


def _long_run(model: Model, cases: Sequence[Feeds]) -> Iterator[Feeds]:
    """Return every call's outputs on all samples in a row; a call is a step, or all if
    states can't carry.
    """
    manifest = model.manifest
    if manifest.sequence is None:
        repeated = [cases[step % len(cases)] for step in range(STEPS)]
        yield from _run_cases(model, repeated, carries=True)
        return
    unit = manifest.unit
    lengths = manifest.ranges.get(manifest.sequence, AxisRange())
    steps = lengths.nearest(STEPS * unit)
    joined = join_samples(cases, manifest, steps)
    if manifest.lengths in joined:
        joined[manifest.lengths] = np.full_like(joined[manifest.lengths], steps)
    sizes = [unit] * (steps // unit) if manifest.streamable else [steps]
    yield from run_chunks(runner(model), manifest, feeds=joined, sizes=sizes)


def _pair_up(before: Sequence[Feeds], after: Sequence[Feeds]) -> dict[str, list[Pair]]:
    """Return the outputs of both files for each call, by name."""
    pairs: dict[str, list[Pair]] = {}
    for left, right in zip(before, after, strict=True):
        for name, array in left.items():
            pairs.setdefault(name, []).append((array, right[name]))
    return pairs


def _changed(pairs: Sequence[Pair]) -> float:
    """Return the largest difference as a fraction of the range before."""
    low = float(np.min([left.min() for left, _ in pairs]))
    high = float(np.max([left.max() for left, _ in pairs]))
    largest = max(_difference(left, right) for left, right in pairs)
    if largest == 0:
        return 0.0
    return largest / (high - low) if high > low else float("inf")


def _drifted(pairs: Sequence[Pair]) -> float:
    """Return the root mean square of the difference, relative to that before."""
    before = np.stack([left for left, _ in pairs]).astype(np.float64)
    after = np.stack([right for _, right in pairs]).astype(np.float64)
    if not np.isfinite(after).all():
        return float("inf")
    drift = _root_mean_square(before - after)
    size = _root_mean_square(before)
    if drift == 0:
        return 0.0
    return drift / size if size > 0 else float("inf")


def _root_mean_square(array: Array) -> float:
    """Return the root mean square of an array."""
    return float(np.sqrt(np.mean(np.square(array))))


def _difference(left: Array, right: Array) -> float:
    """Return the largest difference; infinite for other shapes or non-finite values."""
    if left.shape != right.shape or not np.isfinite(right).all():
        return float("inf")
    difference = left.astype(np.float64) - right.astype(np.float64)
    return float(np.abs(difference).max(initial=0.0))


def _class_numbers(targets: Array, manifest: Manifest) -> Array:
    """Return class numbers ``(samples,)``, also of names; raises InputError for an
    unknown class.
    """
    task = manifest.task
    assert task is not None
    width = next(spec.width for spec in manifest.outputs if spec.name == task.output)
    if targets.dtype.kind in "US":
        numbers = {name: number for number, name in enumerate(task.labels)}
        unknown = sorted({str(name) for name in targets} - set(numbers))
        if unknown:
            names = ", ".join(numbers) or "none by name"
            raise InputError(
                f"the data has the class {unknown[0]!r}; the file knows {names}"
            )
        return np.array([numbers[str(name)] for name in targets])
    whole = targets.dtype.kind in "iu" and targets.ndim == 1 and targets.min() >= 0
    if not whole or (isinstance(width, int) and targets.max() >= width):
        raise InputError(
            f"the targets are {targets.dtype} {targets.shape}; expected ({len(targets)},)"
            f" class names or numbers below {width}"
        )
    return targets
