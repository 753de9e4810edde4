"""Split series into training, validation and test sets. A series is never in two sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

from .config import DataConfig
from .recordings import SETS, Recording, Recordings, relabeled

RecordingSet = tuple[Recording, ...]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """The series of each set."""

    train: RecordingSet
    validation: RecordingSet
    test: RecordingSet
    """Empty if no test set was requested."""
    description: str
    """Description of the split."""
    notes: tuple[str, ...] = ()
    """Notes on classes without series in a set."""


def split_series(recordings: Recordings, config: DataConfig, seed: int) -> Split:
    """Split series at random with the proportions of the classes kept, or as defined by the file.

    One series alone, or fewer groups than sets, is cut in time instead: the first stretch trains, the
    next validates, the last tests. Windows are cut only afterwards, so that none crosses a cut.

    Raises:
        InputError: a requested set would be empty, or the training set would lack a class.
    """
    series = recordings.series
    named = {one.split for one in series} != {""}
    if named:
        split = _as_named(series, config, seed)
    elif len({one.group for one in series}) < 2 + (config.test > 0):
        split = _in_time(series, config)
    else:
        test, validation, train = _at_random(series, [config.test, config.validation], seed)
        stratified = ", stratified by class" if recordings.labels else ""
        split = Split(train, validation, test, f"{_unit(series)} at random{stratified}")
    if not split.train or not split.validation or (config.test and not split.test and not named):
        raise InputError("too few series for a training, a validation and a test set; provide more data")
    return replace(split, notes=tuple(_check_classes(split, recordings)))


def fold_series(recordings: Recordings, folds: int, config: DataConfig, seed: int) -> list[Split]:
    """Return one split for each fold of a cross-validation, which tests every series once; [] for 0 folds.

    Raises:
        InputError: fewer groups than folds, or a training set would lack a class.
    """
    series = recordings.series
    if not folds:
        return []
    if {one.split for one in series} != {""}:
        raise InputError("the data define their sets, which --folds would ignore; use only one of them")
    if (groups := len({one.group for one in series})) <= folds:
        raise InputError(f"got {groups} {_unit(series)} for {folds} folds, expected more; reduce --folds")
    splits = []
    for test in _at_random(series, [1 / folds] * (folds - 1), seed):
        rest = tuple(one for one in series if one not in test)
        validation, train = _at_random(rest, [config.validation], seed)
        split = Split(train, validation, test, f"{folds} folds")
        splits.append(replace(split, notes=tuple(_check_classes(split, recordings))))
    return splits


def join_sets(train: Recordings, validation: Recordings | None, test: Recordings | None) -> Recordings:
    """Return the series of separate files together, each with the set of its file.

    Raises:
        InputError: the files differ in their features or tasks.
    """
    files = {name: one for name, one in zip(SETS, (train, validation, test), strict=True) if one is not None}
    for name, one in files.items():
        if any(each.split for each in one.series):
            raise InputError(f"the {name} file defines the sets of its series itself; remove its split")
        widths = (one.series[0].x.shape[1], train.series[0].x.shape[1])
        if widths[0] != widths[1] or one.features != train.features or one.targets != train.targets:
            raise InputError(
                f"the {name} file has {widths[0]} features ({', '.join(one.features) or 'unnamed'}) and "
                f"the targets {', '.join(one.targets) or 'none'}, which differ from the training file's"
            )
    parts = relabeled(list(files.values()))
    series = tuple(
        replace(each, name=f"{each.name} ({name})", group=f"{each.group} ({name})", split=name)
        for name, one in zip(files, parts, strict=True)
        for each in one.series
    )
    return replace(
        train, series=series, labels=parts[0].labels, notes=tuple(n for one in parts for n in one.notes)
    )


def _unit(series: RecordingSet) -> str:
    return "series" if all(one.group == one.name for one in series) else "groups"


def _as_named(series: RecordingSet, config: DataConfig, seed: int) -> Split:
    if any(not one.split for one in series):
        raise InputError("split is empty for some samples; set it for every sample")
    groups: dict[str, str] = {}
    for one in series:
        if groups.setdefault(one.group, one.split) != one.split:
            raise InputError(f"series {one.group!r} is in the sets {groups[one.group]} and {one.split}")
    train, validation, test = (tuple(one for one in series if one.split == name) for name in SETS)
    if validation:
        return Split(train, validation, test, "as defined by the data")
    validation, train = _at_random(train, [config.validation], seed)
    return Split(
        train, validation, test, "as defined by the data, the validation set at random from the training set"
    )


def _at_random(series: RecordingSet, shares: Sequence[float], seed: int) -> list[RecordingSet]:
    """Return a set for each share, and one with the rest; groups stay whole and classes in proportion.

    The rest is filled first: a class with fewer groups than sets is in the last sets only.
    """
    counts = _class_counts(series)
    random = np.random.default_rng(seed)
    order = [list(counts)[index] for index in random.permutation(len(counts))]
    every = [*shares, 1 - sum(shares)]
    wanted = [place for place, share in enumerate(every) if share > 0]
    if all(np.count_nonzero(count) == 1 for count in counts.values()):
        placed = _stratify(order, counts, every, wanted)
    else:
        placed = _balance(order, counts, every, wanted)
    return [tuple(one for one in series if placed[one.group] == place) for place in range(len(every))]


def _class_counts(series: RecordingSet) -> dict[str, Counts]:
    """Return the number of steps of each class by group; without classes, the number of steps."""
    classes = 1 + max(
        (int(one.y.max()) for one in series if one.y is not None and one.y.ndim == 1), default=0
    )
    counts: dict[str, Counts] = {}
    for one in series:
        y = one.y if one.y is not None and one.y.ndim == 1 else np.zeros(len(one.x), np.int64)
        found = np.bincount(y, minlength=classes)
        counts[one.group] = found + counts[one.group] if one.group in counts else found
    return dict(sorted(counts.items()))


def _stratify(
    order: Sequence[str], counts: Mapping[str, Counts], shares: Sequence[float], wanted: Sequence[int]
) -> dict[str, int]:
    """Place groups of one class each: every set gets its share of every class, and at least one if it can.

    Rounding errors of a class are carried to the next one, so that the sizes of the sets are right too.
    """
    classes: dict[int, list[str]] = {}
    for group in order:
        classes.setdefault(int(counts[group].argmax()), []).append(group)
    placed: dict[str, int] = {}
    due = np.zeros(len(shares))
    for number in sorted(classes):
        due += np.array(shares) * len(classes[number])
        empty = list(wanted)
        for group in classes[number]:
            place = empty.pop() if empty else int(due.argmax())
            placed[group] = place
            due[place] -= 1
    return placed


def _balance(
    order: Sequence[str], counts: Mapping[str, Counts], shares: Sequence[float], wanted: Sequence[int]
) -> dict[str, int]:
    """Place groups of several classes, the largest first, in the set that lacks most of their classes."""
    total = np.sum(list(counts.values()), axis=0)
    scale = np.where(total > 0, total, 1)
    missing = np.outer(shares, total) / scale
    placed: dict[str, int] = {}
    for index, group in enumerate(sorted(order, key=lambda group: -int(counts[group].sum()))):
        empty = [place for place in wanted if place not in placed.values()]
        places = empty if len(order) - index <= len(empty) else wanted
        held = counts[group] / scale
        best = max(places, key=lambda place: float(missing[place] @ held))
        placed[group] = best
        missing[best] -= held
    return placed


def _in_time(series: RecordingSet, config: DataConfig) -> Split:
    cut: list[list[Recording]] = [[], [], []]
    for one in series:
        steps = len(one.x)
        ends = [steps - round(steps * share) for share in (config.validation + config.test, config.test, 0)]
        for name, rows, start, end in zip(SETS, cut, (0, *ends), ends, strict=False):
            if end > start:
                rows.append(replace(one.take(slice(start, end)), name=f"{one.name} ({name})"))
    train, validation, test = (tuple(rows) for rows in cut)
    return Split(train, validation, test, "in time, as there are too few series to split them whole")


def _check_classes(split: Split, recordings: Recordings) -> Iterator[str]:
    """Yield a note on every class that validation or test lacks; refuse one that training lacks."""
    if not recordings.labels:
        return
    if len(recordings.labels) < 2:
        raise InputError(f"the data have only one class, {recordings.labels[0]!r}; expected two or more")
    for number, label in enumerate(recordings.labels):
        count = len({one.group for one in recordings.series if one.y is not None and (one.y == number).any()})
        holds = {
            name: any((one.y == number).any() for one in getattr(split, name) if one.y is not None)
            for name in SETS
        }
        if not holds["train"]:
            raise InputError(
                f"class {label!r} has no series in the training set ({count} in the data); provide more "
                "series of it"
            )
        lacking = [name for name in SETS[1:] if not holds[name] and getattr(split, name)]
        if lacking:
            yield (
                f"class {label!r} has {count} {_unit(recordings.series)}, none of them in the "
                f"{' and '.join(lacking)} set, so those scores don't cover it"
            )
