"""Split series into training, validation and test sets. A group is never in two
sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

from .config import DataConfig
from .series import SETS, Data, Series

_IN_TIME = "in time, as there are too few series to split them whole"


@dataclass(frozen=True)
class Split:
    """Series with their sets."""

    data: Data
    """All series, each with its set."""
    description: str
    """How the series were split."""
    notes: tuple[str, ...]
    """The classes without series in a set."""


@dataclass(frozen=True)
class _Sets:
    """Series with their sets, before these are checked."""

    series: tuple[Series, ...]
    """Series, each with its set."""
    description: str
    """How the series were split, in words."""
    required: tuple[str, ...]
    """Sets that must not be empty."""
    are_defined: bool = False
    """True if the data define the sets."""


def split_series(data: Data, config: DataConfig, seed: int) -> Split:
    """Split series at random with the proportions of the classes kept, or as the data
    define it.

    Fewer groups than sets are cut in time: the first part trains, the next validates,
    the last tests. Raises InputError if a requested set would be empty, or the training
    set would lack a class.
    """
    has_sets = any(record.split for record in data.series)
    find_sets = _defined_sets if has_sets else _random_sets
    sets = find_sets(data, config, seed)
    data = replace(data, series=sets.series)
    for name in sets.required:
        if not data.of(name):
            raise InputError(
                f"got {len(data.series)} series, too few for a {name} set; provide more"
                " data"
            )
    notes = tuple(_notes(data, are_defined=sets.are_defined))
    return Split(data, sets.description, notes)


def _random_sets(data: Data, config: DataConfig, seed: int) -> _Sets:
    """Split all series, or cut them in time if they are too few."""
    shares = {
        "train": 1 - config.validation - config.test,
        "validation": config.validation,
    }
    if config.test:
        shares["test"] = config.test
    description = "series at random"
    if data.classes:
        description += ", stratified by class"
    if _groups(data.series) < len(shares):
        description = _IN_TIME
    return _Sets(_divide(data.series, shares, seed), description, tuple(shares))


def _defined_sets(data: Data, config: DataConfig, seed: int) -> _Sets:
    """Take the sets of the data; without a validation set, take it from the training
    set.
    """
    if any(not record.split for record in data.series):
        raise InputError("split is empty for some series; set it for every series")
    _check_groups(data.series)
    shares = {"train": 1 - config.validation, "validation": config.validation}
    series = data.series
    description = "as defined by the data"
    if not data.of("validation"):
        train = tuple(data.of("train"))
        description += ", the validation set from the training set"
        if _groups(train) < len(shares):
            description = _IN_TIME
        others = (record for record in series if record.split != "train")
        series = (*_divide(train, shares, seed), *others)
    return _Sets(series, description, tuple(shares), are_defined=True)


def _divide(
    series: tuple[Series, ...], shares: Mapping[str, float], seed: int
) -> tuple[Series, ...]:
    """Return whole series, each in a set, or their parts in time if there are fewer
    groups than sets.
    """
    if _groups(series) >= len(shares):
        sets = _assign(series, shares, seed)
        return tuple(replace(record, split=sets[record.group]) for record in series)
    if any(record.group != record.name for record in series):
        raise InputError(
            f"{_groups(series)} groups can't fill {len(shares)} sets"
            f" ({', '.join(shares)}); give more groups, or --test 0"
        )
    cut_series: list[Series] = []
    for record in series:
        cut_series.extend(_in_time(record, shares))
    return tuple(cut_series)


def _check_groups(series: Sequence[Series]) -> None:
    """Raise InputError if a group is in several sets."""
    set_of = {record.group: record.split for record in series}
    for record in series:
        if set_of[record.group] != record.split:
            raise InputError(f"{record.group!r} is in several sets")


def fold_series(data: Data, config: DataConfig, seed: int) -> list[Split]:
    """Return one split for each fold of a cross-validation, which tests every series
    once; [] for 0 folds.
    """
    folds = config.folds
    series = data.series
    if not folds:
        return []
    if any(record.split for record in series):
        raise InputError(
            "the data define their sets, which --folds would ignore; use only one of"
            " them"
        )
    if (groups := _groups(series)) <= folds:
        raise InputError(
            f"got {groups} series or groups for {folds} folds, expected more; reduce"
            " --folds"
        )
    names_of_folds = [str(number) for number in range(folds)]
    fold_of = _assign(series, dict.fromkeys(names_of_folds, 1 / folds), seed)
    splits = []
    for number in names_of_folds:
        names = {}
        for group, fold in fold_of.items():
            names[group] = "test" if fold == number else "train"
        sets = tuple(replace(record, split=names[record.group]) for record in series)
        splits.append(split_series(replace(data, series=sets), config, seed))
    return splits


def _groups(series: Sequence[Series]) -> int:
    """Return the number of groups of the series."""
    return len({record.group for record in series})


def _assign(
    series: tuple[Series, ...], shares: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the set of each group, so that every set gets its share of every class,
    the rarest first.

    Groups fill the sets that lack the class in order. All others go to the set that
    lacks most of theirs.
    """
    counts = _class_steps(series)
    total = np.sum(list(counts.values()), axis=0)
    missing = {name: np.ones(len(total)) for name in shares}
    """Fraction of its share that each set lacks, by class."""
    held = {name: np.zeros(len(total), bool) for name in shares}
    """True for the classes of each set."""
    random = np.random.default_rng(seed).permutation(sorted(counts))
    by_class = {}
    for label in np.flatnonzero(total[:-1]).tolist():
        by_class[label] = [group for group in random if counts[group][label]]
    sets: dict[str, str] = {}
    for label in sorted(by_class, key=lambda label: len(by_class[label])):
        for group in sorted(by_class[label], key=lambda group: -int(counts[group][-1])):
            if group in sets:
                continue
            empty = [name for name in shares if not held[name][label]]
            candidates = empty[:1] or shares
            fraction = counts[group] / np.maximum(total, 1)
            need = {name: float(missing[name] @ fraction) for name in candidates}
            name = sets[group] = max(need, key=lambda name: need[name])
            missing[name] -= fraction / shares[name]
            held[name] |= counts[group] > 0
    return sets


def _class_steps(series: Sequence[Series]) -> dict[str, npt.NDArray[np.int64]]:
    """Return by group the steps of each class and, last, all steps, so that the sizes
    of the sets fit too.
    """
    labels = [_labels(record) for record in series]
    classes = 1 + max(int(y.max()) for y in labels)
    counts = {record.group: np.zeros(classes + 1, np.int64) for record in series}
    for record, y in zip(series, labels, strict=True):
        by_class = np.bincount(y, minlength=classes)
        counts[record.group] += np.append(by_class, len(record))
    return counts


def _labels(record: Series) -> npt.NDArray[np.int64]:
    """Return the class of each step; one class for a series with values."""
    if record.y.ndim == 1:
        return record.y
    return np.zeros(len(record), np.int64)


def _in_time(record: Series, shares: Mapping[str, float]) -> Iterator[Series]:
    """Cut a series into consecutive parts, one per set, in proportion to the shares."""
    ends = np.cumsum([0, *shares.values()]) / sum(shares.values()) * len(record)
    bounds = ends.round().astype(int).tolist()
    for name, (start, stop) in zip(shares, pairwise(bounds), strict=True):
        if stop > start:
            part = record.cut(start, stop, name)
            yield replace(part, name=f"{record.name} ({name})")


def _notes(data: Data, *, are_defined: bool) -> Iterator[str]:
    """Yield notes about classes that a set lacks; raises InputError if it is the
    training set.
    """
    if len(data.classes) == 1:
        raise InputError(
            f"the data have only one class, {data.classes[0]!r}; expected two or more"
        )
    for number, label in enumerate(data.classes):
        holding = [record for record in data.series if (record.y == number).any()]
        groups = _groups(holding)
        sets = {record.split for record in holding}
        if "train" not in sets:
            text = (
                f"class {label!r} has no series in the training set ({groups} in the"
                " data)"
            )
            raise InputError(f"{text}; provide more series of it")
        if lacking := [name for name in SETS if data.of(name) and name not in sets]:
            reason = ""
            if are_defined:
                reason = ", as the data define their sets"
            elif groups >= 3:
                reason = ", because they hold other classes too"
            yield (
                f"class {label!r} is in {groups} series or groups, none of them in the "
                f"{' and '.join(lacking)} set{reason}, so those scores don't cover it"
            )
