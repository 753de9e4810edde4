"""Parting series into training, validation and test, so that no series is in two of them."""

from dataclasses import dataclass, replace

import numpy as np

from lstm_edge_runtime.errors import InputError

from ..training.config import DataConfig
from .recordings import Recording, Recordings

__all__ = ["Parts", "part"]


@dataclass(frozen=True)
class Parts:
    """The series of each part."""

    train: tuple[Recording, ...]
    validation: tuple[Recording, ...]
    test: tuple[Recording, ...]
    """Empty where no test part was asked for."""
    how: str
    """How they were parted, in words."""


def part(recordings: Recordings, config: DataConfig, seed: int) -> Parts:
    """Part the series at random, class by class, or as the file says.

    One series alone, or fewer than there are parts, is cut in time instead: the first stretch trains, the
    next validates, the last tests, and windows are cut only afterwards, so that none crosses.

    Raises:
        InputError: a part that was asked for would be empty, or the training part would lack a class.
    """
    series = recordings.series
    given = {one.split for one in series}
    if given != {""}:
        parts = _as_given(series, config, seed)
    elif len({one.group for one in series}) < 2 + (config.test > 0):
        parts = _in_time(series, config)
    else:
        train, validation, test = _by_group(series, [config.validation, config.test], seed)
        parts = Parts(train, validation, test, "by series at random")
    if not parts.train or not parts.validation or (config.test and not parts.test and given == {""}):
        raise InputError("too few series for a training, a validation and a test part; bring more data")
    _check_classes(parts, recordings)
    return parts


def _as_given(series: tuple[Recording, ...], config: DataConfig, seed: int) -> Parts:
    if any(not one.split for one in series):
        raise InputError("split is empty for some samples; name the part of each")
    groups: dict[str, str] = {}
    for one in series:
        if groups.setdefault(one.group, one.split) != one.split:
            raise InputError(f"series {one.group!r} is in the parts {groups[one.group]} and {one.split}")
    train, validation, test = (
        tuple(one for one in series if one.split == name) for name in ("train", "validation", "test")
    )
    if validation:
        return Parts(train, validation, test, "as the file says")
    train, validation, _ = _by_group(train, [config.validation, 0.0], seed)
    return Parts(
        train, validation, test, "as the file says, the validation part at random from its training part"
    )


def _by_group(
    series: tuple[Recording, ...], shares: list[float], seed: int
) -> tuple[tuple[Recording, ...], tuple[Recording, ...], tuple[Recording, ...]]:
    """Take the shares of every class's groups for validation and test, at least one group of the whole."""
    classes: dict[object, list[str]] = {}
    first = {one.group: one for one in reversed(series)}
    for group, one in sorted(first.items()):
        key = int(one.y[-1]) if one.y.ndim == 1 else None
        classes.setdefault(key, []).append(group)
    random = np.random.default_rng(seed)
    shuffled = [
        list(random.permutation(np.array(classes[key], dtype=object))) for key in sorted(classes, key=str)
    ]
    # Spread over the classes before cutting, so that every share takes of each class what is its due.
    places = sorted(
        ((index + 0.5) / len(groups), number, group)
        for number, groups in enumerate(shuffled)
        for index, group in enumerate(groups)
    )
    line = [group for _, _, group in places]
    counts = [max(1, round(share * len(line))) if share else 0 for share in shares]
    validation, test = set(line[: counts[0]]), set(line[counts[0] : sum(counts)])
    return (
        tuple(one for one in series if one.group not in validation | test),
        tuple(one for one in series if one.group in validation),
        tuple(one for one in series if one.group in test),
    )


def _in_time(series: tuple[Recording, ...], config: DataConfig) -> Parts:
    cut: list[list[Recording]] = [[], [], []]
    for one in series:
        steps = len(one.x)
        bounds = [
            0,
            steps - round(steps * (config.validation + config.test)),
            steps - round(steps * config.test),
            steps,
        ]
        for name, rows, start, end in zip(
            ("train", "validation", "test"), cut, bounds, bounds[1:], strict=False
        ):
            if end > start:
                rows.append(replace(one, name=f"{one.name} ({name})", x=one.x[start:end], y=one.y[start:end]))
    train, validation, test = (tuple(rows) for rows in cut)
    return Parts(train, validation, test, "in time, there being too few series to part them whole")


def _check_classes(parts: Parts, recordings: Recordings) -> None:
    if not recordings.labels:
        return
    known = {int(index) for one in parts.train for index in np.unique(one.y)}
    for number, label in enumerate(recordings.labels):
        if number not in known:
            raise InputError(f"class {label!r} has no series in the training part; bring more series of it")
