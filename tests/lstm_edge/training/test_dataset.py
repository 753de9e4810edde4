from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge.checkpoint import Scale
from lstm_edge.data.recordings import Recording
from lstm_edge.data.training import cut_windows
from lstm_edge.training.dataset import Dataset, crop, fit_scale
from lstm_edge.training.metrics import classification_metrics, regression_metrics
from lstm_edge.training.series import SeriesSet
from lstm_edge_runtime.errors import InputError


def series(steps, y=None, name="s"):
    x = np.stack([np.arange(steps), np.arange(steps) * 10], axis=1).astype(np.float32)
    return Recording(name, name, x, np.zeros(steps, np.int64) if y is None else np.array(y))


def windows(series, window=None, stride=None, inputs=None, targets=None):
    whole = SeriesSet.of(series, inputs or Scale((0.0, 0.0), (1.0, 1.0)), targets, window, joined=False)
    return Dataset.of(whole, cut_windows(series, window, stride))


def test_windows_lie_a_stride_apart_and_end_inside_the_series():
    samples = windows([series(10), series(4)], window=4, stride=3)
    assert samples.x[:, 0, 0].tolist() == [0, 3, 6, 0]
    assert samples.x.shape == (4, 4, 2)
    assert samples.ragged is None
    assert len(windows([series(10)], window=4, stride=None)) == 2


def test_a_window_has_the_target_of_its_last_step():
    samples = windows([series(6, [0, 0, 1, 1, 1, 0])], window=3, stride=1)
    assert samples.y.tolist() == [1, 1, 1, 0]
    assert samples.steady.tolist() == [False, False, True, False]


def test_whole_series_are_padded_with_zeros_and_bear_their_lengths():
    samples = windows([series(2), series(5)], None, None)
    assert samples.lengths.tolist() == [2, 5]
    assert torch.equal(samples.x[0, 2:], torch.zeros(3, 2))
    assert samples.ragged is not None


def test_a_series_too_short_or_of_two_classes_is_refused_by_name():
    with pytest.raises(InputError, match="series 'walk' has 3 steps, fewer than the window of 4"):
        cut_windows([series(9), series(3, name="walk")], 4, None)
    with pytest.raises(InputError, match="series 'mixed' has more than one class; use --window"):
        cut_windows([series(2, [0, 1], "mixed")], None, None)


def test_a_column_that_varies_by_rounding_alone_is_not_blown_up():
    columns = torch.stack([torch.full((50,), 0.1), torch.arange(50.0)], dim=1)
    columns[0, 0] = torch.nextafter(columns[0, 0], torch.tensor(1.0))
    scale = fit_scale(columns)
    assert scale.std[0] == 1.0
    assert scale.mean[1] == pytest.approx(24.5)
    assert scale.std[1] == pytest.approx(float(columns[:, 1].std(correction=0)))


def test_scaling_leaves_the_padding_zero():
    values = [series(2, np.float32([[1.0], [3.0]])), series(3, np.float32([[1.0], [1.0], [5.0]]))]
    samples = windows(values, inputs=Scale((1.0, 5.0), (2.0, 10.0)), targets=Scale((4.0,), (0.5,)))
    assert samples.x[0].tolist() == [[-0.5, -0.5], [0.0, 0.5], [0.0, 0.0]]
    assert samples.y.tolist() == [[-2.0], [2.0]]


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    steady=st.booleans(),
    shortest=st.floats(0.01, 1.0),
    seed=st.integers(0, 1000),
)
def test_a_crop_is_a_stretch_of_its_sample_and_ends_with_it_unless_the_target_holds(
    lengths, steady, shortest, seed
):
    whole = windows([series(steps) for steps in lengths], None, None)
    whole = replace(whole, steady=torch.full((len(lengths),), steady))
    before = whole.x.clone()
    part = crop(whole, shortest, torch.Generator().manual_seed(seed))
    assert torch.equal(whole.x, before)
    for row, steps in enumerate(lengths):
        size = int(part.lengths[row])
        assert max(1, shortest * steps - 0.51) <= size <= steps
        first = int(part.x[row, 0, 0])
        assert part.x[row, :size, 0].tolist() == list(range(first, first + size))
        assert first + size <= steps
        assert steady or first + size == steps
        assert not part.x[row, size:].any()


def test_crops_reach_the_start_and_the_end():
    whole = windows([series(20)], None, None)
    generator = torch.Generator().manual_seed(0)
    crops = [crop(whole, 0.2, generator) for _ in range(300)]
    assert min(int(one.x[0, 0, 0]) for one in crops) == 0
    assert max(int(one.x[0, int(one.lengths[0]) - 1, 0]) for one in crops) == 19
    assert {int(one.lengths[0]) for one in crops} == set(range(4, 21))


def test_accuracy_and_recall_are_those_counted_by_hand():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [3, 1, 0], [0, 5, 1]])
    found = classification_metrics(logits, torch.tensor([0, 0, 0, 1]), ("a", "b", "c"))
    assert found["accuracy"] == 0.75
    assert found["recall"] == {"a": pytest.approx(2 / 3), "b": 1.0, "c": None}
    assert found["count"] == {"a": 3, "b": 1, "c": 0}


def test_a_class_that_the_set_does_not_have_has_no_scores_even_where_it_is_predicted():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 1, 3]])
    found = classification_metrics(logits, torch.tensor([0, 1, 1]), ("a", "b", "c"))
    assert {found[name]["c"] for name in ("precision", "recall", "f1")} == {None}
    assert found["precision"] == {"a": 1.0, "b": 1.0, "c": None}
    assert found["f1"] == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}


def test_errors_of_values_are_those_counted_by_hand():
    found = regression_metrics(
        torch.tensor([[1.0, 10], [3, 20]]), torch.tensor([[0.0, 10], [0, 24]]), ("u", "v")
    )
    assert found["mae"] == {"u": 2.0, "v": 2.0}
    assert found["rmse"] == {"u": pytest.approx(5**0.5), "v": pytest.approx(8**0.5)}
