"""Decisions: what the numbers are for; labels that flip, values that move, accuracy of both."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np

from lstm_edge_runtime.manifest import Array, Task

from ...numerics.cases import Feeds, take_rows
from ...numerics.compare import Measured
from ..report import Check, Disagreement
from ..subject import Subject

_BATCH = 32
_FEW = 4
"""Rows whose limits tell what a close call is."""
_DRAWN, _QUICK_DRAWN = 256, 64
_SAMPLES, _QUICK_SAMPLES = 2000, 128
_STEPS = 50
_OFFSET = 8000


def check_decisions(subject: Subject) -> Iterator[Check]:
    """Compare labels or values on the data, or on drawn sequences where there is none.

    Data are run from reset, and, for files whose streams carry states, one sample after another from the
    states that the reference has there.
    """
    task = subject.manifest.task
    if task is None:
        yield Check("decisions", "skipped", "the file does not say what its outputs mean")
        return
    quick, data = subject.config.quick, subject.config.data
    if data is not None:
        batches = list(subject.sample_batches(_QUICK_SAMPLES if quick else _SAMPLES, _BATCH))
    else:
        batches = _drawn(subject, _QUICK_DRAWN if quick else _DRAWN)
    rows = [len(part) for part, _ in batches]
    indices = [index for part, _ in batches for index in part]
    time_axis = subject.manifest.time_axis(subject.manifest.axes[task.output])
    truth = None if data is None or data.targets is None else np.asarray(data.targets)[indices]
    classify = task.kind == "classification"
    name = "labels agree" if classify else "values agree"

    @cache
    def measure() -> Measured:
        few = take_rows(subject.manifest, batches[0][1], 0, rows[0], _FEW)
        return subject.measure(subject.run_alone, few)

    def compare(carried: str, runs: Iterator[tuple[Feeds, Feeds]]) -> Check:
        measured, found = measure(), list(runs)
        got, wide = (_stack([each[side][task.output] for each in found], rows, time_axis) for side in (0, 1))
        if classify:
            return _labels(subject, task, measured, (got, wide), indices, truth, carried)
        assert truth is not None
        return _values(measured, (got, wide), truth, carried)

    if not classify and truth is None:
        yield Check("values", "skipped", "values are compared in the other groups; give --data with targets")
        return
    single = (subject.run_both(subject.run_alone, feeds) for _, feeds in batches)
    yield subject.ask(name, lambda: compare("", single))
    if data is not None and subject.manifest.streamable and not subject.manifest.from_reset:
        streamed = _one_after_another(subject, batches)
        yield subject.ask(f"{name}, states carried", lambda: compare(", states carried", streamed))


def _one_after_another(
    subject: Subject, batches: Sequence[tuple[list[int], dict[str, Array]]]
) -> Iterator[tuple[Feeds, Feeds]]:
    """Run each batch from the states that the reference had after the one before, row by row."""
    states: dict[str, Array] = {}
    for at, (part, feeds) in enumerate(batches):
        if at and len(part) != len(batches[at - 1][0]):
            states = {}
        both = subject.run_both(subject.run_alone, {**feeds, **states})
        states = {
            spec.input: both[1][spec.output].astype(feeds[spec.input].dtype)
            for spec in subject.manifest.states
        }
        yield both


def _drawn(subject: Subject, count: int) -> list[tuple[list[int], dict[str, Array]]]:
    size = _BATCH if subject.manifest.batch is not None else 1
    starts = range(0, count if size > 1 else count // 8, size)
    return [
        (list(range(start, start + size)), subject.draw(size, _STEPS, _OFFSET + start, at_reset=True))
        for start in starts
    ]


def _stack(parts: Sequence[Array], rows: Sequence[int], time_axis: int | None) -> Array:
    """Return ``(samples, C)``: of a stacked read-out's blocks the last, of a sequence the last step."""
    last = parts if time_axis is None else [part.take(-1, axis=time_axis) for part in parts]
    return np.concatenate([part.reshape(-1, part.shape[-1])[-n:] for part, n in zip(last, rows, strict=True)])


def _labels(
    subject: Subject,
    task: Task,
    limits: Measured,
    logits: tuple[Array, Array],
    indices: Sequence[int],
    truth: Array | None,
    name: str,
) -> Check:
    got, wide = logits
    ordered = np.sort(wide, axis=-1)
    margins = ordered[:, -1] - (ordered[:, -2] if wide.shape[-1] > 1 else 0.0)
    theirs, ours = wide.argmax(-1), got.argmax(-1)
    differ = [int(at) for at in np.flatnonzero(theirs != ours)]
    classes = None if truth is None else _class_numbers(truth, task)
    if not name:  # the report shows samples from reset
        subject.tally.figures.margins = tuple(map(float, margins))
        found = (classes, theirs, ours)
        subject.tally.figures.disagreements = tuple(
            Disagreement(at, indices[at], *_names(task, found, at), float(margins[at])) for at in differ
        )
    worst = next(record for record in limits.records if record.name == task.output)
    message = f"{1 - len(differ) / len(indices):.2%} of {len(indices)} labels agree"
    if classes is not None:
        right = [float((labels == classes).mean()) for labels in (theirs, ours)]
        message += f"; accuracy {right[0]:.4f} in the reference, {right[1]:.4f} in the file"
    budgets = subject.budgets
    least, allowed = (
        (budgets.agreement, budgets.allowed(task.output, wide)) if budgets else (1.0, worst.limit)
    )
    clear = [at for at in differ if margins[at] > 2 * allowed]
    if clear:
        message += f"; sample {indices[clear[0]]} flips from a margin of {margins[clear[0]]:.3g}"
    real = budgets is not None and subject.config.data is not None
    flipped = differ if real else clear  # drawn sequences may all be close calls
    failed = (len(indices) - len(flipped)) / len(indices) < least
    message += f"; at least {least:.1%} must" if failed and real else ""
    return Check(f"labels agree{name}", "failed" if failed else "passed", message, worst)


def _values(limits: Measured, values: tuple[Array, Array], truth: Array, name: str) -> Check:
    got, wide = values
    target = truth.astype(np.float64).reshape(wide.shape)
    errors = [float(np.sqrt(((one - target) ** 2).mean())) for one in (wide, got)]
    worst = limits.worst
    return Check(
        f"values agree{name}",
        "passed" if worst.ok else "failed",
        f"RMSE {errors[0]:.6g} in the reference, {errors[1]:.6g} in the file"
        + ("" if worst.ok else f"; {worst}"),
        worst,
    )


def _names(task: Task, classes: Sequence[Array | None], at: int) -> tuple[str, str, str]:
    """Return the names of a sample's true class and of the two that were found; empty where not known."""
    numbers = ("" if each is None or each[at] < 0 else int(each[at]) for each in classes)
    truth, theirs, ours = (
        task.labels[number] if isinstance(number, int) and number < len(task.labels) else str(number)
        for number in numbers
    )
    return truth, theirs, ours


def _class_numbers(truth: Array, task: Task) -> Array:
    """Return class numbers for numbers or names."""
    if truth.dtype.kind in "iu":
        return truth
    names = {name: index for index, name in enumerate(task.labels)}
    return np.array([names.get(name, int(name) if name.isdecimal() else -1) for name in map(str, truth)])
