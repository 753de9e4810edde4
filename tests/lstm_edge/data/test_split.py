import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.data.recordings import Recording, Recordings
from lstm_edge.data.split import part
from lstm_edge.training.config import DataConfig
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


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(0, 1)), min_size=12, max_size=40),
    validation=st.floats(0.05, 0.4),
    test=st.floats(0.05, 0.4),
    seed=st.integers(0, 99),
)
def test_every_series_is_in_one_part_and_no_group_in_two(sizes, validation, test, seed):
    sizes = [(4, 0), (1, 0), (1, 1), *sizes, *[(1, 0), (1, 1)] * 4]
    series = [
        recording(f"{group}-{index}", f"group {group}", label)
        for group, (count, label) in enumerate(sizes)
        for index in range(count)
    ]
    parts = part(classes(*series), DataConfig(validation=validation, test=test), seed)
    kept = [names(parts.train), names(parts.validation), names(parts.test)]
    assert sum(map(len, kept)) == len(series)
    assert set().union(*kept) == names(series)
    groups = [{one.group for one in rows} for rows in (parts.train, parts.validation, parts.test)]
    assert all(groups)
    assert sum(map(len, groups)) == len(sizes)
    assert abs(len(groups[1]) - validation * len(sizes)) <= 1
    assert abs(len(groups[2]) - test * len(sizes)) <= 1


def test_every_part_takes_its_share_of_each_class():
    series = [recording(f"{label}{index}", label=label) for label in (0, 1) for index in range(10)]
    parts = part(classes(*series), DataConfig(validation=0.2, test=0.3), 0)
    for rows, each in ((parts.train, 5), (parts.validation, 2), (parts.test, 3)):
        assert [sum(one.y[0] == label for one in rows) for label in (0, 1)] == [each, each]


def test_the_seed_decides_and_the_same_seed_decides_the_same():
    data = classes(*(recording(f"{label}{index}", label=label) for label in (0, 1) for index in range(20)))
    config = DataConfig()
    assert names(part(data, config, 1).test) == names(part(data, config, 1).test)
    assert names(part(data, config, 1).test) != names(part(data, config, 2).test)


def test_one_series_alone_is_cut_in_time_without_overlap():
    parts = part(values(100), DataConfig(validation=0.2, test=0.1), 0)
    cut = [rows[0].x[:, 0] for rows in (parts.train, parts.validation, parts.test)]
    assert [len(rows) for rows in cut] == [70, 20, 10]
    np.testing.assert_array_equal(np.concatenate(cut), np.arange(100))
    assert "in time" in parts.how


def test_the_parts_that_a_file_names_are_kept():
    series = [
        recording("t0", split="train"),
        recording("t1", label=1, split="train"),
        recording("v", split="validation"),
        recording("e", label=1, split="test"),
    ]
    parts = part(classes(*series), DataConfig(), 0)
    assert [names(rows) for rows in (parts.train, parts.validation, parts.test)] == [
        {"t0", "t1"},
        {"v"},
        {"e"},
    ]


def test_validation_is_drawn_from_the_named_training_part_where_none_is_named():
    series = [recording(f"t{index}", label=index % 2, split="train") for index in range(10)]
    parts = part(classes(*series, recording("e", split="test")), DataConfig(), 0)
    assert names(parts.test) == {"e"}
    assert len(parts.validation) == 2
    assert names(parts.train) | names(parts.validation) == names(series)


@pytest.mark.parametrize(
    ("series", "message"),
    [
        (
            [recording("a", "g", 0, split="train"), recording("b", "g", 1, split="test")],
            "series 'g' is in the parts train and test",
        ),
        ([recording("a", split="train"), recording("b", label=1)], "split is empty for some samples"),
        (
            [recording(str(index), split="train") for index in range(8)]
            + [recording("x", label=1, split="test")],
            "class 'b' has no series in the training part",
        ),
        ([recording("x", steps=1, split="")], "too few series"),
    ],
)
def test_parts_that_can_not_be_made_are_refused(series, message):
    with pytest.raises(InputError, match=message):
        part(classes(*series), DataConfig(), 0)
