"""Results as labels, and streams that follow the file's reset interval."""

import warnings

import numpy as np
import pytest

from lstm_edge_runtime import Model, results
from lstm_edge_runtime.errors import ContractError, InputError


def with_manifest(model: Model, **fields) -> Model:
    """Return the model with other fields in its manifest."""
    manifest = model.manifest._replace(**fields)
    changed = Model(model._engine, model.identity, model.device, check=False)
    changed.manifest = manifest
    return changed


X = np.random.default_rng(4).normal(size=(30, 3)).astype(np.float32)


def test_a_result_is_read_as_label_and_probabilities(model):
    logits = model.stream().step(X[0])
    label, probabilities = result = model.interpret(logits)
    assert label == ("rest", "walk", "run", "fall")[int(logits.argmax())]
    shares = np.exp(logits - logits.max())
    np.testing.assert_allclose(probabilities, shares / shares.sum(), rtol=1e-6)
    assert result.probability == probabilities.max()
    np.testing.assert_array_equal(
        model.interpret({"logits": logits}).probabilities, probabilities
    )


def test_a_regression_has_no_label(opened):
    model = opened("unbatched")
    with pytest.raises(
        InputError, match="the task 'regression', expected a classification"
    ):
        model.interpret(model.stream().step(X[0]))
    bare = with_manifest(model, task=None)
    with pytest.raises(InputError, match="this file has no task"):
        bare.interpret(bare.stream().step(X[0]))


def test_a_result_of_another_shape_is_refused(model):
    with pytest.raises(
        InputError, match="without a frame, expected logits; skip the None"
    ):
        model.interpret(None)
    with pytest.raises(
        InputError, match=r"has shape \(2, 4\), expected a result \(4,\)"
    ):
        model.interpret(np.zeros((2, 4)))
    with pytest.raises(ContractError, match="a value for each of"):
        model.interpret(np.zeros(3))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_logits_without_probabilities_have_no_label(model, wrong):
    logits = np.array([[0, 2, 1, 0], [0, wrong, 1, 0]], np.float32)
    with pytest.raises(InputError, match="its largest value is not finite") as caught:
        model.interpret(logits[1])
    assert "\n" not in str(caught.value)
    task = model.manifest.task
    predicted = results.predict(logits, model.manifest, task)
    assert predicted.labels == ("walk", "")
    assert np.isnan(predicted.probabilities).all(axis=1).tolist() == [False, True]
    impossible = np.array([0, -np.inf, 1, 0], np.float32)
    assert model.interpret(impossible).label == "run"


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_predict_refuses_values_along_an_axis_of_variable_size(model, kind):
    (logits,) = model.outputs
    shorter = logits._replace(axes=("N", "L//4"))
    task = model.manifest.task._replace(kind=kind, labels=())
    changed = with_manifest(model, outputs=(shorter,), task=task)
    with pytest.raises(ContractError, match=r"\(N, L//4\), whose last axis is neither"):
        changed.predict(X[None])


def test_predict_refuses_classes_along_time(model):
    (logits,) = model.outputs
    task = model.manifest.task._replace(labels=())
    changed = with_manifest(
        model, outputs=(logits._replace(axes=("N", "L")),), task=task
    )
    with pytest.raises(ContractError, match="a fixed number of classes"):
        changed.predict(X[None])


def test_the_frames_of_a_chunk_come_one_per_row(opened):
    late = opened("late")
    steps = [late.frames(late_step) for late_step in map(late.stream().step, X)]
    whole = late.frames(late.stream().process(X))
    assert [len(frames) for frames in steps[:3]] == [0, 0, 1]
    np.testing.assert_allclose(np.concatenate(steps), whole, atol=1e-6)


def test_stacked_rows_give_the_top_layer(opened):
    stacked = opened("gru")
    frames = stacked.frames({"logits": np.arange(16.0).reshape(2, 8)})
    np.testing.assert_array_equal(frames, np.arange(8.0, 16)[None])


def test_a_fixed_batch_of_one_is_no_axis_of_a_frame(opened):
    model = opened("step")
    result = model.stream().step(np.ones((1, 3), np.float32))
    assert result.shape == (1, 3)
    assert model.frames(result).tolist() == result.tolist()


def test_a_stream_follows_the_reset_interval_of_the_file_and_says_so(model):
    follows = with_manifest(model, reset_every=7)
    with pytest.warns(UserWarning, match="reset every 7 steps, the training window"):
        stream = follows.stream()
    with pytest.warns(UserWarning, match="reset_every='never' to carry it on"):
        batch = follows.streams(1)
    source = batch.add()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = follows.stream(reset_every=7)
        carried = follows.stream(reset_every="never")
        plain = model.stream()
    differs = 0
    for number, x in enumerate(X):
        expected = told.step(x)
        np.testing.assert_array_equal(stream.step(x), expected)
        np.testing.assert_allclose(
            batch.step(x[None], [source])[0], expected, atol=1e-6
        )
        never = carried.step(x)
        np.testing.assert_array_equal(plain.step(x), never)
        differs += number >= 7 and not np.array_equal(never, expected)
    assert differs == len(X) - 7
