import numpy as np
import pytest

from lstm_edge_runtime import State, load
from lstm_edge_runtime.arrays import as_array, as_lengths
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.ort import sealed

pytestmark = pytest.mark.filterwarnings(
    "ignore:Creating an ndarray from ragged"
)  # numpy below 1.24


def samples(*shape: int, seed: int = 0) -> np.ndarray:
    """Return the same values for the same arguments, in any order of tests."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_state_carries_from_call_to_call_and_none_is_the_reset_value(model):
    x = samples(2, 9, 3)
    whole, end = model.run(x)
    _, middle = model.run(x[:, :4])
    rest, last = model.run(x[:, 4:], middle)
    np.testing.assert_array_equal(rest["logits"], whole["logits"])
    np.testing.assert_array_equal(last["c_0"], end["c_0"])
    zeros = State(
        {name: np.zeros((2, 2, 8), np.float32) for name in ("h_0", "c_0")},
        model.identity,
    )
    np.testing.assert_array_equal(model.run(x, zeros)[0]["logits"], whole["logits"])


def test_a_reset_value_other_than_zero_is_where_a_stream_starts(opened):
    gru = opened("gru")
    x = {"x": samples(4, 2, 3), "gain": samples(4, 2, 1)}
    start = State({"h_0": np.full((1, 2, 8), 0.25, np.float32)}, gru.identity)
    np.testing.assert_array_equal(
        gru.run(x)[0]["logits"], gru.run(x, start)[0]["logits"]
    )


@pytest.mark.parametrize("lengths", [(6, 1, 4), (5, 1, 4)])
def test_rows_with_lengths_equal_each_row_cut_to_its_length(opened, lengths):
    gru = opened("gru")
    x = samples(6, 3, 3)
    gain = samples(6, 3, 1)
    outputs, state = gru.run({"x": x, "gain": gain}, lengths=[*lengths])
    for row, length in enumerate(lengths):
        alone, end = gru.run(
            {"x": x[:length, row : row + 1], "gain": gain[:length, row : row + 1]}
        )
        np.testing.assert_allclose(
            outputs["logits"][[row, 3 + row]], alone["logits"], atol=1e-6
        )
        np.testing.assert_allclose(state["h_0"][:, row], end["h_0"][:, 0], atol=1e-6)


def test_wider_floats_whole_numbers_and_lists_are_converted(model):
    x = np.arange(12).reshape(1, 4, 3)
    expected = model.run(x.astype(np.float32))[0]["logits"]
    for same in (
        x,
        x.astype(np.float64),
        x.tolist(),
        x.astype(np.float16),
        np.asfortranarray(x),
    ):
        np.testing.assert_array_equal(model.run(same)[0]["logits"], expected)


class WithGradient:
    """Refuses to be an array as PyTorch's tensors with gradients do."""

    def __array__(self, *_, **__):
        raise RuntimeError("Use tensor.detach().numpy() instead.")


def test_a_tensor_with_gradients_is_refused_in_one_line(model):
    with pytest.raises(InputError, match=r"x is not a regular array .*detach\(\)"):
        model.run(WithGradient())


def test_truth_values_go_where_a_file_takes_them_and_nowhere_else():
    wide = np.array([True, False, True, False])
    for taken in ([True, True], wide[::2], wide[:2] | True):
        np.testing.assert_array_equal(as_array("mask", taken, "bool"), [True, True])
    for dtype, wrong in (
        ("bool", [1, 0]),
        ("float32", [True, False]),
        ("int64", [True, False]),
    ):
        with pytest.raises(InputError, match=f"expected {dtype}"):
            as_array("mask", wrong, dtype)


def test_inputs_that_disagree_on_an_axis_are_refused(opened):
    with pytest.raises(
        InputError,
        match=r"gain has shape \(5, 2, 1\), expected \(L, N, 1\) with L=4, N=2",
    ):
        opened("gru").run({"x": samples(4, 2, 3), "gain": samples(5, 2, 1)})
    with pytest.raises(
        InputError, match="got a single array, expected arrays for inputs 'x', 'gain'"
    ):
        opened("gru").run(samples(4, 2, 3))


@pytest.mark.parametrize("argument", ["lengths", "state"])
def test_arguments_among_the_samples_are_refused_by_their_name(opened, argument):
    x = {"x": samples(4, 2, 3), "gain": samples(4, 2, 1)}
    model = opened("gru")
    state = model.states[0].input
    name = {"lengths": model.manifest.lengths, "state": state}[argument]
    with pytest.raises(InputError, match=rf"{name}.*run\(x, {argument}=\.\.\.\)"):
        model.run({**x, name: [4, 4]})


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([0, 2], r"is \[0 2\], expected 1\.\.4"),
        ([2, 5], r"is \[2 5\], expected 1\.\.4"),
        ([2], r"is \[2\], expected 1\.\.4 for each row \(2,\)"),
        ([2.0, 3.0], "has dtype float64, expected int64"),
    ],
)
def test_lengths_out_of_range_or_of_another_kind_are_refused(opened, lengths, message):
    with pytest.raises(InputError, match=message):
        opened("gru").run(
            {"x": samples(4, 2, 3), "gain": samples(4, 2, 1)}, lengths=lengths
        )


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_lengths_of_any_whole_numbers_come_in_the_files_dtype(dtype):
    spec = TensorSpec("lengths", dtype, ("N",))
    sizes = {"N": 3, "L": 100}
    manifest = Manifest((spec,), (), lengths="lengths")
    numbers = [1, 100, 7]
    for lengths in (
        numbers,
        tuple(numbers),
        *(np.array(numbers, kind) for kind in ("u1", "i2", "i4", "i8")),
    ):
        taken = as_lengths(lengths, manifest, sizes)
        assert (taken.dtype, taken.tolist()) == (dtype, numbers)
    full = as_lengths(None, manifest, sizes)
    assert (full.dtype, full.tolist()) == (dtype, [100] * 3)


def test_lengths_of_a_file_whose_time_axis_is_fixed_are_taken_and_have_to_come():
    spec = TensorSpec("lengths", "int32", ("N",))
    sizes = {"N": 2}
    manifest = Manifest((spec,), (), sequence=None, lengths="lengths")
    assert as_lengths([4, 6], manifest, sizes).tolist() == [4, 6]
    for lengths, message in (
        (None, "got no lengths"),
        ([0, 6], "expected 1..L"),
        ([1, 2**32 + 1], "has values 1..4294967297"),
    ):
        with pytest.raises(InputError, match=message):
            as_lengths(lengths, manifest, sizes)


def test_a_file_that_does_not_keep_its_state_contract_is_caught_as_it_runs():
    made = pytest.importorskip("onnx.parser").parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[N, 3] x, float[N, 3] h) =>'
        " (float[M, 3] hn) { hn = Concat <axis = 0> (h, x) }"
    )
    x = TensorSpec("x", "float32", ("N", 3))
    h = StateSpec("h", "hn", "float32", ("N", 3))
    made.metadata_props.add(
        key=KEY, value=Manifest((x,), (), (h,), sequence=None).to_json()
    )
    growing = load(sealed(made.SerializeToString()))
    with pytest.raises(
        ContractError, match=r"the new state h has shape \(4, 3\), expected \(2, 3\)"
    ):
        growing.run(samples(2, 3))


def test_a_callers_arrays_are_left_as_they_were(model):
    x = samples(2, 4, 3)
    before = x.copy()
    _, state = model.run(x)
    kept = {name: array.copy() for name, array in state.items()}
    model.run(x, state)
    np.testing.assert_array_equal(x, before)
    for name in kept:
        np.testing.assert_array_equal(state[name], kept[name])


def test_predict_gives_labels_and_probabilities_of_a_classifier(model):
    x = samples(3, 6, 3)
    prediction = model.predict(x)
    logits = model.run(x)[0]["logits"].astype(np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(prediction.probabilities, expected, rtol=1e-6)
    names = ("rest", "walk", "run", "fall")
    assert prediction.labels == tuple(names[i] for i in logits.argmax(-1))
    assert prediction.kind == "classification"


def test_predict_gives_values_and_units_of_a_regression_and_refuses_a_file_without_a_task(
    opened,
):
    prediction = opened("unbatched").predict([[1, 2, 3], [1, 1, 1]])
    np.testing.assert_array_equal(prediction.values, [2, 3, 4])
    assert (prediction.units, prediction.probabilities, prediction.labels) == (
        ("m", "m", "m"),
        None,
        (),
    )
    with pytest.raises(InputError, match=r"use run\(\)"):
        opened("step").predict(samples(1, 3))
