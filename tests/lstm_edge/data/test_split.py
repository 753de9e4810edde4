import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.config import DataConfig
from lstm_edge.data.recordings import Recording, Recordings
from lstm_edge.data.split import fold_series, join_sets, split_series
from lstm_edge_runtime.errors import InputError


def recording(name, group=None, label=0, steps=4, split=""):
    return Recording(name, group or name, np.zeros((steps, 1), np.float32), np.full(steps, label), split)


def classes(*series, labels=("a", "b")):
    return Recordings(tuple(series), labels, (), (), None)


def values(steps, names=("only",)):
    return Recordings(
        tuple(
            Recording(
                name, name, np.arange(steps, dtype=np.float32)[:, None], np.zeros((steps, 1), np.float32)
            )
            for name in names
        ),
        (),
        ("v",),
        (),
        None,
    )


def names(series):
    return {one.name for one in series}


def firsts(series):
    """The first series of each group."""
    return {one.group: one for one in series}.values()


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1)), min_size=12, max_size=40),
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    seed=st.integers(0, 99),
)
def test_every_series_is_in_one_set_and_no_group_in_two(sizes, validation, test, seed):
    sizes = [(4, 0), (1, 0), (1, 1), *sizes, *[(1, 0), (1, 1)] * 4]
    series = [
        recording(f"{group}-{index}", f"group {group}", label)
        for group, (count, label) in enumerate(sizes)
        for index in range(count)
    ]
    split = split_series(classes(*series), DataConfig(validation=validation, test=test), seed)
    kept = [names(split.train), names(split.validation), names(split.test)]
    assert sum(map(len, kept)) == len(series)
    assert set().union(*kept) == names(series)
    groups = [{one.group for one in rows} for rows in (split.train, split.validation, split.test)]
    assert all(groups)
    assert sum(map(len, groups)) == len(sizes)
    for label in (0, 1):
        of_class = [
            sum(one.y[0] == label for one in firsts(rows))
            for rows in (split.train, split.validation, split.test)
        ]
        assert min(of_class) >= 1
        for got, share in zip(of_class, (1 - validation - test, validation, test), strict=True):
            assert abs(got - share * sum(of_class)) <= 2


def test_every_set_takes_its_share_of_each_class():
    series = [recording(f"{label}{index}", label=label) for label in (0, 1) for index in range(10)]
    split = split_series(classes(*series), DataConfig(validation=0.2, test=0.3), 0)
    for rows, each in ((split.train, 5), (split.validation, 2), (split.test, 3)):
        assert [sum(one.y[0] == label for one in rows) for label in (0, 1)] == [each, each]


def test_the_seed_decides_and_the_same_seed_decides_the_same():
    data = classes(*(recording(f"{label}{index}", label=label) for label in (0, 1) for index in range(20)))
    config = DataConfig()
    assert names(split_series(data, config, 1).test) == names(split_series(data, config, 1).test)
    assert names(split_series(data, config, 1).test) != names(split_series(data, config, 2).test)


def test_one_series_alone_is_cut_in_time_without_overlap():
    split = split_series(values(100), DataConfig(validation=0.2, test=0.1), 0)
    cut = [rows[0].x[:, 0] for rows in (split.train, split.validation, split.test)]
    assert [len(rows) for rows in cut] == [70, 20, 10]
    np.testing.assert_array_equal(np.concatenate(cut), np.arange(100))
    assert "in time" in split.description


def test_the_parts_that_a_file_names_are_kept():
    series = [
        recording("t0", split="train"),
        recording("t1", label=1, split="train"),
        recording("v", split="validation"),
        recording("e", label=1, split="test"),
    ]
    split = split_series(classes(*series), DataConfig(), 0)
    assert [names(rows) for rows in (split.train, split.validation, split.test)] == [
        {"t0", "t1"},
        {"v"},
        {"e"},
    ]


def test_validation_is_drawn_from_the_named_training_set_where_none_is_named():
    series = [recording(f"t{index}", label=index % 2, split="train") for index in range(10)]
    split = split_series(classes(*series, recording("e", split="test")), DataConfig(), 0)
    assert names(split.test) == {"e"}
    assert len(split.validation) == 2
    assert names(split.train) | names(split.validation) == names(series)


def test_one_class_alone_is_refused():
    with pytest.raises(InputError, match="only one class, 'a'; expected two or more"):
        split_series(classes(*(recording(str(index)) for index in range(9)), labels=("a",)), DataConfig(), 0)


def test_a_class_too_rare_for_every_set_trains_first_and_is_named_for_the_others():
    series = [recording(f"a{index}") for index in range(20)]
    series += [recording(f"b{index}", label=1) for index in range(3)]
    series += [recording("c0", label=2), recording("c1", label=2), recording("d0", label=3)]
    for seed in range(20):
        split = split_series(classes(*series, labels=tuple("abcd")), DataConfig(), seed)
        held = [{int(one.y[0]) for one in rows} for rows in (split.train, split.validation, split.test)]
        assert held == [{0, 1, 2, 3}, {0, 1, 2}, {0, 1}]
        assert split.notes == (
            "class 'c' has 2 series, none of them in the test set, so those scores don't cover it",
            "class 'd' has 1 series, none of them in the validation and test set, so those "
            "scores don't cover it",
        )


@settings(deadline=None, max_examples=50, derandomize=True)
@given(counts=st.lists(st.integers(1, 6), min_size=6, max_size=25), seed=st.integers(0, 99))
def test_groups_of_several_classes_stay_whole_and_every_set_gets_some(counts, seed):
    series = [
        recording(f"{group}-{index}", f"person {group}", label=index % 2)
        for group, count in enumerate(counts)
        for index in range(count + 1)
    ]
    split = split_series(classes(*series), DataConfig(), seed)
    groups = [{one.group for one in rows} for rows in (split.train, split.validation, split.test)]
    assert all(groups)
    assert sum(map(len, groups)) == len(counts)
    assert names(split.train) | names(split.validation) | names(split.test) == names(series)
    assert "groups at random" in split.description


def test_folds_test_every_series_once_and_keep_the_classes_in_proportion():
    series = [recording(f"{label}{index}", label=label) for label in (0, 1) for index in range(10)]
    folds = fold_series(classes(*series), 5, DataConfig(), 3)
    assert sorted(one.name for fold in folds for one in fold.test) == sorted(names(series))
    for fold in folds:
        assert [sum(one.y[0] == label for one in fold.test) for label in (0, 1)] == [2, 2]
        assert not names(fold.train) & names(fold.test) | names(fold.validation) & names(fold.test)
        assert len(fold.train) + len(fold.validation) == 16
    with pytest.raises(InputError, match="got 20 series for 20 folds"):
        fold_series(classes(*series), 20, DataConfig(), 3)
    named = classes(recording("a", split="train"), recording("b", label=1, split="test"))
    with pytest.raises(InputError, match="define their sets"):
        fold_series(named, 2, DataConfig(), 0)


def test_separate_files_are_joined_and_their_classes_numbered_together():
    train = classes(recording("0", label=0), recording("1", label=1), labels=("b", "c"))
    test = classes(recording("0", label=0), labels=("a",))
    joined = join_sets(train, None, test)
    assert joined.labels == ("a", "b", "c")
    assert [(one.split, int(one.y[0])) for one in joined.series] == [("train", 1), ("train", 2), ("test", 0)]
    with pytest.raises(InputError, match="class 'a' has no series in the training set"):
        split_series(join_sets(train, test, None), DataConfig(test=0.0), 0)
    with pytest.raises(InputError, match="differ from the training file's"):
        join_sets(train, None, values(4))
    with pytest.raises(InputError, match="defines the sets of its series itself"):
        join_sets(train, None, classes(recording("0", split="test")))


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (
            [recording("a", "g", 0, split="train"), recording("b", "g", 1, split="test")],
            "series 'g' is in the sets train and test",
        ),
        ([recording("a", split="train"), recording("b", label=1)], "split is empty for some samples"),
        (
            [recording(str(index), split="train") for index in range(8)]
            + [recording("x", label=1, split="test")],
            r"class 'b' has no series in the training set \(1 in the data\)",
        ),
        ([recording("x", steps=1, split="")], "too few series"),
    ],
)
def test_parts_that_can_not_be_made_are_refused(series, message):
    with pytest.raises(InputError, match=message):
        split_series(classes(*series), DataConfig(), 0)
