"""The proof that a lifted file with its states at reset is the original."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, first_line
from lstm_edge_runtime.tolerance import compare, limit_for

from ._chunks import moved
from ._ort import Session

__all__ = ["Equality", "Trial", "check_equality", "check_rows"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Trial:
    """Data for both files."""

    sizes: Mapping[str, int]
    feeds: Mapping[str, Array]
    start: Mapping[str, Array]
    """The lifted states' reset values."""

    def __str__(self) -> str:
        """Say the sizes."""
        return ", ".join(f"{name}={size}" for name, size in self.sizes.items()) or "the declared sizes"


@dataclass(frozen=True)
class Equality:
    """What was compared."""

    exact: tuple[str, ...]
    """Sizes at which every output is the same bit for bit."""
    by_rows: tuple[str, ...]
    """Sizes that the original can't run, compared with it row by row within rounding."""


def check_equality(
    original: Session, lifted: Session, trials: Sequence[Trial], rows: int, batch: Mapping[str, int]
) -> Equality:
    """Compare every output of ``original`` with ``lifted``'s.

    Args:
        original: the file as it came.
        lifted: the lifted file.
        trials: the data.
        rows: the batch size that the original is held at, if any; else 1.
        batch: input name to its batch axis.

    Raises:
        CheckFailedError: an output differs.
        FileFormatError: the original itself runs at no size.
    """
    exact, by_rows, reason = [], [], ""
    for trial in trials:
        got = _lifted_run(lifted, trial.feeds, trial)
        try:
            expected = original.run(trial.feeds)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            reason = first_line(error)
            if check_rows(original, lifted, trial, got, rows, batch):
                by_rows.append(str(trial))
            continue
        if got is None:
            raise CheckFailedError(f"at {trial}: the original runs and the lifted file does not")
        for name, array in expected.items():
            same = got[name].shape == array.shape and np.array_equal(
                got[name], array, equal_nan=_floats(array)
            )
            if not same:
                found = compare(name, got[name], array, floor=0.0, limit=0.0)
                raise CheckFailedError(f"at {trial}, states at reset: {found}")
        exact.append(str(trial))
    if not exact:
        raise FileFormatError(f"the original itself runs at none of the sizes tried: {reason}")
    return Equality(tuple(exact), tuple(by_rows))


def check_rows(
    original: Session,
    lifted: Session,
    trial: Trial,
    got: Mapping[str, Array] | None,
    rows: int,
    batch: Mapping[str, int],
) -> bool:
    """Compare a batch that only the lifted file runs with the original's runs of ``rows`` rows."""
    if got is None or not batch:
        return False
    total = trial.feeds[next(iter(batch))].shape[batch[next(iter(batch))]]
    if total <= rows or total % rows:
        return False
    try:
        parts = [
            original.run(
                {
                    name: array.take(range(first, first + rows), batch[name]) if name in batch else array
                    for name, array in trial.feeds.items()
                }
            )
            for first in range(0, total, rows)
        ]
    except Exception:  # noqa: BLE001  not a matter of the batch size, then
        return False
    rng = np.random.default_rng(0)
    shaken = _lifted_run(lifted, {name: moved(array, rng) for name, array in trial.feeds.items()}, trial)
    for name in parts[0]:
        axis = next(
            (axis for axis, size in enumerate(got[name].shape) if parts[0][name].shape[axis] != size), None
        )
        expected = parts[0][name] if axis is None else np.concatenate([part[name] for part in parts], axis)
        dtype = expected.dtype.name if _floats(expected) else "float32"
        floor = compare(name, shaken[name], got[name], floor=0, limit=0).max_abs if shaken else 0.0
        limit = limit_for(expected, floor, dtype) if _floats(expected) else 0.0
        found = compare(name, got[name], expected, floor=floor, limit=limit, dtype=dtype)
        if not found.ok:
            raise CheckFailedError(f"at {trial}, against the original row by row: {found}")
    return True


def _lifted_run(lifted: Session, feeds: Mapping[str, Array], trial: Trial) -> dict[str, Array] | None:
    try:
        return lifted.run({**feeds, **trial.start})
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return None


def _floats(array: Array) -> bool:
    return array.dtype.kind == "f"
