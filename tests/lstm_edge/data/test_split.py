"""Splits: no group in two sets, classes in proportion, rare classes everywhere."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.config import DataConfig
from lstm_edge.data.read import read_data
from lstm_edge.data.series import SETS, Data, Series, windows_of
from lstm_edge.data.split import fold_series, split_series
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Signal, Task


def data_of(classes, groups=None, splits=None, steps=4):
    labels = tuple(sorted({label for cls in classes for label in cls}))
    series = []
    for index, held in enumerate(classes):
        y = np.repeat([labels.index(label) for label in held], steps)
        group = str(groups[index]) if groups else str(index)
        split = splits[index] if splits else ""
        series.append(
            Series(str(index), group, split, np.zeros((len(y), 1), np.float32), y)
        )
    return Data(tuple(series), Task("classification", "logits", labels), Signal())


def sets_of(split):
    labels = [
        (label, series.split)
        for series in split.data.series
        for label in set(series.y.tolist())
    ]
    return Counter((split.data.classes[label], name) for label, name in labels)


def test_every_set_takes_its_share_of_each_class_and_the_seed_decides_which():
    splits = [
        split_series(data_of("a" * 60 + "b" * 20), DataConfig(), seed)
        for seed in (1, 1, 2)
    ]
    names = [[series.split for series in split.data.series] for split in splits]
    assert names[0] == names[1] != names[2]
    for label, count in (("a", 60), ("b", 20)):
        counts = [sets_of(splits[0])[label, name] for name in SETS]
        assert counts == pytest.approx([0.6 * count, 0.2 * count, 0.2 * count], abs=1)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    held=st.lists(st.text("abcd", min_size=1, max_size=3), min_size=9, max_size=40),
    groups=st.lists(st.integers(0, 14), min_size=40, max_size=40),
    seed=st.integers(0, 99),
)
def test_groups_stay_whole_and_a_class_with_three_groups_is_in_every_set_or_noted(
    held, groups, seed
):
    data = data_of(held, groups[: len(held)])
    if len({series.group for series in data.series}) < 3 or len(data.classes) < 2:
        return
    try:
        split = split_series(data, DataConfig(), seed)
    except InputError as error:
        assert "no series in the training set" in str(error)  # noqa: PT017
        return
    sets = {}
    for series in split.data.series:
        assert sets.setdefault(series.group, series.split) == series.split
    assert {series.name for series in split.data.series} == {
        series.name for series in data.series
    }
    counts = sets_of(split)
    for label in data.classes:
        lacking = [name for name in SETS if not counts[label, name]]
        assert bool(lacking) == any(f"class {label!r}" in note for note in split.notes)


def test_the_group_with_the_most_steps_is_assigned_first():
    groups = ["b"] * 5 + ["a"] * 15 + ["c"] * 5
    split = split_series(data_of("x" * 25 + "y", [*groups, "d"]), DataConfig(), 0)
    largest = {series.split for series in split.data.series if series.group == "a"}
    assert largest == {"train"}


def test_rare_classes_are_in_every_set_or_train_and_are_noted():
    for seed in range(20):
        counts = sets_of(
            split_series(data_of("a" * 30 + "b" * 3 + "c" * 4), DataConfig(), seed)
        )
        assert all(counts[label, name] for label in "abc" for name in SETS)
    split = split_series(data_of("a" * 12 + "b" * 2), DataConfig(), 0)
    assert sets_of(split)["b", "train"] == 1
    where = "class 'b' is in 2 series or groups, none of them in the test set"
    assert split.notes == (f"{where}, so those scores don't cover it",)


def test_few_series_are_cut_in_time():
    split = split_series(data_of(["abab"], steps=25), DataConfig(), 0)
    lengths = [(series.split, len(series)) for series in split.data.series]
    assert lengths == [("train", 60), ("validation", 20), ("test", 20)]


def test_sets_of_the_data_are_kept_and_a_validation_set_is_taken_from_training():
    split = split_series(
        data_of("ab" * 10, splits=["train"] * 16 + ["test"] * 4), DataConfig(), 0
    )
    assert Counter(series.split for series in split.data.series) == {
        "train": 12,
        "validation": 4,
        "test": 4,
    }
    assert [series.name for series in split.data.of("test")] == ["16", "17", "18", "19"]


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ("aaa", {}, "only one class, 'a'"),
        ("ab", {"splits": ["train", ""]}, "split is empty for some series"),
        ("ab", {"splits": ["train", "test"], "groups": [0, 0]}, "'0' is in several sets"),
        ("abb", {"splits": ["validation", "train", "test"]}, "class 'a' has no series in the training set"),
    ],
)  # fmt: skip
def test_splits_that_can_not_be_made_are_refused(classes, options, message):
    with pytest.raises(InputError, match=message):
        split_series(data_of(classes, **options), DataConfig(), 0)


def test_windows_reach_the_end_of_a_series_and_a_shorter_one_is_whole():
    windows = windows_of(
        data_of("a", steps=7).series + data_of("b", steps=2).series, 3, 2
    )
    assert [window.name for window in windows] == [
        "0 [0:3]",
        "0 [2:5]",
        "0 [4:7]",
        "0 [0:3]",
    ]


def test_folds_test_every_series_once():
    data = data_of("ab" * 10)
    folds = fold_series(data, DataConfig(folds=4), 0)
    tested = [series.name for fold in folds for series in fold.data.of("test")]
    assert sorted(tested, key=int) == [str(index) for index in range(20)]
    assert all(len(fold.data.of("test")) == 5 for fold in folds)
    with pytest.raises(InputError, match="got 20 series or groups for 20 folds"):
        fold_series(data, DataConfig(folds=20), 0)
    with pytest.raises(InputError, match="define their sets"):
        fold_series(data_of("abab", splits=["train"] * 4), DataConfig(folds=2), 0)


def test_separate_files_are_sets_with_classes_numbered_together(tmp_path):
    for name, labels in (("train", ["b", "c"]), ("test", ["a", "b"])):
        np.savez(tmp_path / f"{name}.npz", x=np.zeros((2, 3, 1)), y=np.array(labels))
    data = read_data(tmp_path / "train.npz", sets={"test": tmp_path / "test.npz"})
    assert [(series.split, data.classes[series.y[0]]) for series in data.series] == [
        ("train", "b"), ("train", "c"), ("test", "a"), ("test", "b"),
    ]  # fmt: skip
    np.savez(tmp_path / "wide.npz", x=np.zeros((2, 3, 2)), y=np.array(["b", "c"]))
    with pytest.raises(InputError, match="has other features or targets than"):
        read_data(tmp_path / "train.npz", sets={"test": tmp_path / "wide.npz"})
