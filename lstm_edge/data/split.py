"""Split series into training, validation and test sets. A group is never in two sets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError

from .config import DataConfig
from .series import SETS, Data, Series

_Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Series with their sets."""

    data: Data
    description: str
    notes: tuple[str, ...] = ()
    """Classes without series in a set."""


def split_series(data: Data, config: DataConfig, seed: int) -> Split:
    """Split series at random with the proportions of the classes kept, or as the data define it.

    One series alone, or fewer groups than sets, is cut in time instead: the first stretch trains, the next
    validates, the last tests. Windows are cut only afterwards, so that none crosses a cut. Raises InputError
    if a requested set would be empty, or the training set would lack a class.
    """
    series, rest = data.series, data.series
    shares = {
        "train": 1 - config.validation - config.test, "validation": config.validation, "test": config.test
    }  # fmt: skip
    wanted = 2 + (config.test > 0)
    description = f"{_unit(series)} at random{', stratified by class' if data.classes else ''}"
    if any(one.split for one in series):
        _check_named(series)
        shares = {"train": 1 - config.validation, "validation": config.validation}
        description, wanted, rest = "as defined by the data", 2, ()
        if not data.of("validation"):
            description += ", the validation set from the training set"
            rest = tuple(data.of("train"))
    if rest and _groups(rest) < sum(share > 0 for share in shares.values()):
        description = "in time, as there are too few series to split them whole"
        rest = tuple(part for one in rest for part in _in_time(one, shares))
    elif rest:
        rest = _at_random(rest, shares, seed)
    kept = tuple(one for one in series if one.split and (one.split != "train" or not rest))
    return _checked(replace(data, series=(*rest, *kept)), description, wanted)


def fold_series(data: Data, config: DataConfig, seed: int) -> list[Split]:
    """Return one split for each fold of a cross-validation, which tests every series once; [] for 0 folds."""
    folds, series = config.folds, data.series
    if not folds:
        return []
    if any(one.split for one in series):
        raise InputError("the data define their sets, which --folds would ignore; use only one of them")
    if (groups := _groups(series)) <= folds:
        raise InputError(f"got {groups} {_unit(series)} for {folds} folds, expected more; reduce --folds")
    placed = _places(series, {str(number): 1 / folds for number in range(folds)}, seed)
    shares = {"train": 1 - config.validation, "validation": config.validation}
    splits = []
    for number in range(folds):
        held = [placed[one.group] == str(number) for one in series]
        test = tuple(replace(one, split="test") for one, out in zip(series, held, strict=True) if out)
        rest = tuple(one for one, out in zip(series, held, strict=True) if not out)
        sets = (*_at_random(rest, shares, seed), *test)
        splits.append(_checked(replace(data, series=sets), f"{folds} folds", 3))
    return splits


def _unit(series: Sequence[Series]) -> str:
    return "series" if all(one.group == one.name for one in series) else "groups"


def _groups(series: Sequence[Series]) -> int:
    return len({one.group for one in series})


def _check_named(series: tuple[Series, ...]) -> None:
    if any(not one.split for one in series):
        raise InputError("split is empty for some series; set it for every series")
    sets: dict[str, str] = {}
    for one in series:
        if sets.setdefault(one.group, one.split) != one.split:
            raise InputError(f"{one.group!r} is in the sets {sets[one.group]} and {one.split}")


def _at_random(series: tuple[Series, ...], shares: Mapping[str, float], seed: int) -> tuple[Series, ...]:
    placed = _places(series, {name: share for name, share in shares.items() if share > 0}, seed)
    return tuple(replace(one, split=placed[one.group]) for one in series)


def _places(series: tuple[Series, ...], shares: Mapping[str, float], seed: int) -> dict[str, str]:
    """Return the set of each group, so that every set gets its share of every class.

    The rarest class is placed first: its groups fill the sets that lack it in order, so that a class with as
    many groups as sets is in each. All others go to the set that lacks most of what they hold.
    """
    counts = _class_steps(series)
    total = np.sum(list(counts.values()), axis=0)
    lacking = {name: np.ones(len(total)) for name in shares}  # of each share, the fraction still missing
    held = {name: np.zeros(len(total), bool) for name in shares}
    random = np.random.default_rng(seed).permutation(sorted(counts))
    by_class = {
        label: [group for group in random if counts[group][label]]
        for label in np.flatnonzero(total[:-1]).tolist()
    }
    placed: dict[str, str] = {}
    for label in sorted(by_class, key=lambda each: len(by_class[each])):
        for group in sorted(by_class[label], key=lambda each: -int(counts[each][-1])):
            if group in placed:
                continue
            empty = [name for name in shares if not held[name][label]]
            fraction = counts[group] / np.maximum(total, 1)
            need = {name: float(lacking[name] @ fraction) for name in empty[:1] or shares}
            name = placed[group] = max(need, key=lambda name: need[name])
            lacking[name] -= fraction / shares[name]
            held[name] |= counts[group] > 0
    return placed


def _class_steps(series: Sequence[Series]) -> dict[str, _Counts]:
    """Return by group the steps of each class and, last, all steps, so that the sizes of the sets fit too."""
    classes = 1 + max((int(one.y.max()) for one in series if one.y.ndim == 1), default=0)
    counts: dict[str, _Counts] = {}
    for one in series:
        y = one.y if one.y.ndim == 1 else np.zeros(len(one), np.int64)
        found = np.append(np.bincount(y, minlength=classes), len(one))
        counts[one.group] = found + counts[one.group] if one.group in counts else found
    return counts


def _in_time(one: Series, shares: Mapping[str, float]) -> Iterator[Series]:
    bounds = (np.cumsum([0, *shares.values()]) / sum(shares.values()) * len(one)).round().astype(int).tolist()
    for name, start, stop in zip(shares, bounds, bounds[1:], strict=False):
        if stop > start:
            yield replace(one.cut(start, stop, name), name=f"{one.name} ({name})")


def _checked(data: Data, description: str, wanted: int) -> Split:
    """Refuse empty sets and classes that training lacks; note those that another set lacks."""
    for name in SETS[:wanted]:
        if not data.of(name):
            raise InputError(f"too few series for a {name} set; provide more data")
    if len(data.classes) == 1:
        raise InputError(f"the data have only one class, {data.classes[0]!r}; expected two or more")
    notes = []
    for number, label in enumerate(data.classes):
        holding = [one for one in data.series if (one.y == number).any()]
        groups, sets = _groups(holding), {one.split for one in holding}
        if "train" not in sets:
            raise InputError(
                f"class {label!r} has no series in the training set ({groups} in the data); provide more "
                "series of it"
            )
        if lacking := [name for name in SETS if data.of(name) and name not in sets]:
            reason = ", because they hold other classes too" if groups >= 3 else ""
            reason = ", as the data define their sets" if description.startswith("as defined") else reason
            notes.append(
                f"class {label!r} is in {groups} {_unit(data.series)}, none of them in the "
                f"{' and '.join(lacking)} set{reason}, so those scores don't cover it"
            )
    return Split(data, description, tuple(notes))
