import numpy as np
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import ContractError, InputError, ManifestError
from lstm_edge_runtime.graph_check import check_manifest, infer_manifest, pair_states
from lstm_edge_runtime.manifest import Manifest, StateSpec, Task, TensorSpec

STATE = (2, "N", 8)


def specs(*names: str, axes=STATE, dtype="float32") -> list[TensorSpec]:
    return [TensorSpec(name, dtype, axes) for name in names]


X = specs("x", axes=("N", "L", 3))


def paired(entering: list[TensorSpec], leaving: list[TensorSpec]) -> dict[str, str]:
    return {
        a.name: b.name for a, b in pair_states([*X, *entering], [*leaving, *specs("y", axes=("N", "L", 4))])
    }


@pytest.mark.parametrize(
    "pairs",
    [
        {"h": "hn", "c": "cn"},
        {"h_0": "h_n", "c_0": "c_n"},
        {"h0": "hn", "c0": "cn"},
        {"h_in": "h_out", "c_in": "c_out"},
        {"state": "stateN"},
        {"state0": "new_state0", "state1": "new_state1"},
        {"state_0": "state_n"},
        {"initial_h": "Y_h", "initial_c": "Y_c"},
        {"past_h": "present_h", "past_c": "present_c"},
        {"prev_hidden": "next_hidden"},
        {"hidden": "new_hidden", "cell": "new_cell"},
        {"encoder.h": "encoder.hn", "decoder.h": "decoder.hn"},
        {"cache": "updated_cache"},
        {"in_cache0": "out_cache0", "in_cache1": "out_cache1", "in_cache10": "out_cache10"},
        {"input_state": "output_state"},
        {"init_h": "last_h", "init_c": "last_c"},
        {"cached_key_0": "new_cached_key_0", "cached_key_1": "new_cached_key_1"},  # sherpa-onnx
        {"processed_lens": "new_processed_lens"},
    ],
)
def test_well_known_names_pair_whatever_the_order(pairs):
    assert paired(specs(*pairs), specs(*reversed(pairs.values()))) == pairs


def test_shape_decides_where_names_do_not():
    entering = [*specs("state", axes=(1, "N", 8)), *specs("hidden", axes=(1, "N", 16))]
    leaving = [*specs("a", axes=(1, "N", 16)), *specs("b", axes=(1, "N", 8))]
    assert paired(entering, leaving) == {"state": "b", "hidden": "a"}


def test_two_outputs_that_could_continue_a_state_are_listed_with_the_way_to_name_them():
    message = r"which output continues state .*candidates: first, second; .*states=\{'state': 'first'\}"
    with pytest.raises(ContractError, match=message):
        paired(specs("state"), specs("first", "second"))


def test_two_states_that_one_output_could_continue_are_ambiguous():
    with pytest.raises(ContractError, match="which output continues h, c"):
        paired(specs("h", "c"), specs("joint"))


def test_a_sequence_of_the_states_width_is_not_taken_for_the_state():
    assert pair_states(specs("state", axes=(1, "N", 8)), specs("y", axes=("L", "N", 8))) == []
    unnamed = pair_states(specs("state", axes=(1, "N", 8)), specs("after", axes=("after.0", "after.1", 8)))
    assert [pair[1].name for pair in unnamed] == ["after"]


def test_a_data_input_with_a_like_output_is_no_state():
    axes = ("N", 3)
    assert pair_states(specs("audio_in", "x", axes=axes), specs("audio_out", "x_out", axes=axes)) == []


def test_a_state_like_input_that_no_output_continues_is_plain_data():
    contract = infer_manifest([*X, *specs("h")], specs("y", axes=("N", 4)), None, None)
    assert [spec.name for spec in contract.inputs] == ["x", "h"]
    assert contract.states == ()


def test_the_batch_and_sequence_axes_are_found_by_name():
    contract = infer_manifest(
        [*specs("x", axes=("time", "batch", 3)), *specs("h", axes=(1, "batch", 8))],
        [*specs("y", axes=("time", "batch", 8)), *specs("hn", axes=(1, "batch", 8))],
        None,
        None,
    )
    assert (contract.batch, contract.sequence) == ("batch", "time")


def test_states_named_by_the_caller_pair_and_wrong_names_are_listed(path):
    x = np.ones((1, 4, 3))
    named = load(path("bare"), states={"h": "hn", "c": "cn"})
    np.testing.assert_array_equal(named.run(x)[0]["logits"], load(path("bare")).run(x)[0]["logits"])
    with pytest.raises(InputError, match=r"'h' with 'none'; the inputs are \['c', 'h', 'x'\]"):
        load(path("bare"), states={"h": "none"})
    with pytest.raises(ContractError, match="state output logits"):
        load(path("bare"), states={"h": "logits"})


def test_one_output_can_not_continue_two_states(path):
    with pytest.raises(InputError, match="a different output"):
        load(path("bare"), states={"h": "hn", "c": "hn"})


def test_a_file_made_elsewhere_equals_the_same_file_with_a_manifest(opened):
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    np.testing.assert_array_equal(opened("bare").stream().process(x), opened("lstm").stream().process(x))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": specs("z", axes=("N", "L", 3))}, ContractError, "input 'z' is not in the graph"),
        ({"inputs": specs("x", axes=("N", "L", 4))}, ContractError, r"x is float32 \(N, L, 3\) in the graph"),
        ({"inputs": specs("x", axes=("N", 3))}, ContractError, r"expected float32 \(N, 3\)"),
        ({"inputs": specs("x", axes=("N", "L", 3), dtype="float64")}, ContractError, "expected float64"),
        ({"outputs": specs("none")}, ContractError, "output 'none'"),
        ({"states": [StateSpec("h", "none", "float32", STATE)]}, ContractError, "state output 'none'"),
        ({"states": [StateSpec("h", "y", "float32", STATE)]}, ContractError, r"state output y is .*\(N, 4\)"),
        ({"states": [StateSpec("h", "hn", "float16", STATE)]}, ContractError, "expected float16"),
        ({"states": []}, ContractError, r"inputs \['h'\] are not in the manifest"),
        (
            {"states": [StateSpec("h", "hn", "float32", STATE, np.zeros((1, 1, 8)))]},
            ManifestError,
            r"reset value of shape \(1, 1, 8\)",
        ),
        ({"lengths": "len"}, ManifestError, "lengths is 'len', which is not an input"),
        (
            {"states": [StateSpec("h", "hn", "float32", STATE, 1e308)]},
            ManifestError,
            "reset value beyond float32",
        ),
        ({"inputs": X * 2}, ManifestError, "declared twice"),
        ({"outputs": [*specs("y", axes=("N", 4)), *specs("hn")]}, ManifestError, "declared twice"),
        (
            {"task": Task("regression", "none")},
            ManifestError,
            "the task's output is 'none', which is not an out",
        ),
        ({"task": Task("classification", "y", tuple("abc"))}, ManifestError, "3 labels .* 4 values of y"),
        ({"counts": ("none",)}, ManifestError, r"counts of steps are \['none'\], which are no outputs"),
    ],
)
def test_a_manifest_that_does_not_fit_its_graph_is_refused(change, error, message):
    entering, leaving = [*X, *specs("h")], [*specs("y", axes=("N", 4)), *specs("hn")]
    right = {"inputs": X, "outputs": leaving[:1], "states": [StateSpec("h", "hn", "float32", STATE)]}
    check_manifest(Manifest(**right), entering, leaving)
    with pytest.raises(error, match=message):
        check_manifest(Manifest(**(right | change)), entering, leaving)


def test_a_file_with_a_backward_layer_is_not_streamable(path):
    assert load(path("bare")).interface.unstreamable == ""
    assert load(path("backward")).interface.unstreamable == "it has a backward or bidirectional GRU"
