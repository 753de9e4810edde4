"""Decisions: what the numbers are for; labels that flip, and accuracy of both."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.manifest import Array, Task

from .cases import Feeds
from .compare import Pair
from .config import ValidateConfig
from .expected import Expected
from .file import ModelFile
from .reference import REFUSALS
from .report import Check, Disagreement

_DRAWN = 64, 256
_SAMPLES = 128, 1000
_STEPS, _OFFSET = 50, 8000


class Compared(Protocol):
    """What decisions need of a validation."""

    file: ModelFile
    against: Expected | None
    config: ValidateConfig

    @property
    def expected(self) -> Expected:
        """What the file is compared with."""

    @property
    def truth(self) -> Pair:
        """The expected graph and the reference."""

    def samples(self, most: int) -> list[dict[str, Array]]:
        """Return some samples of the data, each with every input."""


@dataclass(frozen=True)
class Decided:
    """Whether a file decides as its reference does."""

    checks: tuple[Check, ...]
    disagreements: tuple[Disagreement, ...] = ()


def check_decisions(run: Compared) -> Decided:
    """Compare labels or values on the data, or on drawn sequences if there is none."""
    task, data = run.file.manifest.task, run.config.data
    if task is None or run.against is None:
        return Decided((Check("decisions", "skipped", "the file does not say what its outputs mean"),))
    if task.kind != "classification" and (data is None or data.targets is None):
        about = "values are compared in the other groups; give --data with targets"
        return Decided((Check("values", "skipped", about),))
    quick = not run.config.quick
    cases = run.samples(_SAMPLES[quick]) if data is not None else _drawn(run, _DRAWN[quick])
    count = len(next(iter(data.inputs.values()))) if data is not None else len(cases)
    indices = np.unique(np.linspace(0, count - 1, len(cases)).astype(int))
    engine = run.file.runner()
    try:
        got, want = (
            np.stack([_last(each(feeds), run, task) for feeds in cases]) for each in (engine, _reference(run))
        )
    except REFUSALS as error:
        return Decided((Check("decisions", "skipped", f"the reference refuses the data: {error}"),))
    truth = None if data is None or data.targets is None else np.asarray(data.targets)[indices]
    if task.kind != "classification":
        assert truth is not None
        target = truth.astype(np.float64).reshape(want.shape)
        errors = [float(np.sqrt(((each - target) ** 2).mean())) for each in (want, got)]
        about = f"RMSE {errors[0]:.6g} in the reference, {errors[1]:.6g} in the file"
        return Decided((Check("values agree", "passed", about),))
    return _labels(run, task, got, want, indices, truth, cases[0])


def _reference(run: Compared) -> Runner:
    return run.expected.reference


def _drawn(run: Compared, count: int) -> list[dict[str, Array]]:
    cases = run.expected.cases
    return [
        dict(cases.case(1, _STEPS, at_reset=True, offset=_OFFSET + place, full=True).feeds)
        for place in range(count)
    ]


def _last(outputs: Feeds, run: Compared, task: Task) -> Array:
    """Return the logits or values ``(C,)`` of one row: of the last step, of stacked layers the last."""
    manifest, array = run.expected.manifest, outputs[task.output]
    time = manifest.time_axis(manifest.axes[task.output])
    array = array if time is None else array.take(-1, axis=time)
    return np.asarray(array.reshape(-1, array.shape[-1])[-1], np.float64)


def _labels(
    run: Compared,
    task: Task,
    got: Array,
    want: Array,
    indices: Array,
    truth: Array | None,
    feeds: Feeds,
) -> Decided:
    ordered = np.sort(want, axis=-1)
    margins = ordered[:, -1] - (ordered[:, -2] if want.shape[-1] > 1 else 0.0)
    theirs, ours = want.argmax(-1), got.argmax(-1)
    differ = np.flatnonzero(theirs != ours)
    message = f"{1 - len(differ) / len(indices):.2%} of {len(indices)} labels agree"
    classes = None if truth is None else _class_numbers(truth, task)
    if classes is not None:
        right = [float((labels == classes).mean()) for labels in (theirs, ours)]
        message += f"; accuracy {right[0]:.4f} in the reference, {right[1]:.4f} in the file"
    found = tuple(
        Disagreement(
            int(indices[at]),
            "" if classes is None else _name(int(classes[at]), task.labels),
            _name(int(theirs[at]), task.labels),
            _name(int(ours[at]), task.labels),
            float(margins[at]),
        )
        for at in differ
    )
    if run.file.precision in ("int8", "fp16"):
        from ..quantize.config import Budget

        least = (run.config.budget or Budget()).agreement
        real = run.config.data is not None
        failed = real and len(differ) > (1 - least) * len(indices)
        message += f"; at least {least:.1%} must" if failed else ""
        return Decided((Check("labels agree", "failed" if failed else "passed", message),), found)
    allowed = float(np.max(run.truth.limits(feeds)[task.output], initial=0.0))
    clear = [at for at in differ if margins[at] > 2 * allowed]
    if clear:
        message += f"; sample {indices[clear[0]]} flips from a margin of {margins[clear[0]]:.3g}"
    return Decided((Check("labels agree", "failed" if clear else "passed", message),), found)


def _name(number: int, labels: Sequence[str]) -> str:
    return labels[number] if 0 <= number < len(labels) else str(number)


def _class_numbers(truth: Array, task: Task) -> Array:
    """Return class numbers for numbers or names."""
    if truth.dtype.kind in "iu":
        return truth
    names = {name: index for index, name in enumerate(task.labels)}
    return np.array([names.get(name, int(name) if name.isdecimal() else -1) for name in map(str, truth)])
