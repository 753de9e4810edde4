import json

import numpy as np
import pytest

from lstm_edge_runtime.errors import ManifestError
from lstm_edge_runtime.manifest import (
    SCHEMA,
    Golden,
    Manifest,
    Signal,
    StateSpec,
    Task,
    TensorSpec,
    Trained,
)

FULL = Manifest(
    inputs=(TensorSpec("x", "float32", ("N", "L", 6)), TensorSpec("lengths", "int64", ("N",))),
    outputs=(TensorSpec("logits", "float32", ("2*N", 4)),),
    states=(
        StateSpec("h_0", "h_n", "float32", (2, "N", 8)),
        StateSpec("c_0", "c_n", "float32", (2, "N", 8), np.ones((2, 1, 8), np.float32)),
    ),
    lengths="lengths",
    unstreamable="layer lstm is bidirectional",
    task=Task("classification", "logits", labels=("rest", "läuft", "c", "d")),
    signal=Signal(("ax", "ay"), 10.0, 100),
    provenance={"opset": 18},
    equivalence={"max_abs": 1e-7},
    golden=Golden(
        {"x": np.arange(6, dtype=np.float32).reshape(1, 1, 6)}, {"logits": np.zeros((2, 4))}, {"logits": 1e-8}
    ),
)


def test_a_manifest_survives_its_own_text_and_gives_the_same_text_again():
    text = FULL.to_json()
    again = Manifest.from_json(text)
    assert again.to_json() == text
    assert again.states[0] == FULL.states[0]
    np.testing.assert_array_equal(again.states[1].reset, FULL.states[1].reset)
    assert again.task == FULL.task
    assert again.golden is not None
    np.testing.assert_array_equal(again.golden.inputs["x"], FULL.golden.inputs["x"])


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        *[("trained", {"carry": wrong}) for wrong in (1, None)],
        *[("trained", {"window": wrong}) for wrong in (True, 1.5, "40")],
        ("signal", {"sampling_rate": True}),
        ("axes", {"ranges": {"L": {"least": 1.5}}}),
    ],
    ids=str,
)
def test_a_value_of_another_type_is_refused_in_one_line(field, bad):
    raw = json.loads(FULL._replace(trained=Trained(True, 40, 0.5)).to_json())
    raw[field] |= bad
    with pytest.raises(ManifestError, match="malformed") as error:
        Manifest.from_json(json.dumps(raw))
    assert "\n" not in str(error.value)


def test_the_text_names_each_batch_axis_for_readers_in_other_languages():
    assert json.loads(FULL.to_json())["states"][0]["batch_axis"] == 1


@pytest.mark.parametrize("schema", [0, SCHEMA + 1])
def test_another_schema_is_refused_with_what_to_do(schema):
    raw = json.loads(FULL.to_json()) | {"schema": schema}
    with pytest.raises(ManifestError, match=f"schema {schema}, expected 1.*; export the model again"):
        Manifest.from_json(json.dumps(raw))


def test_a_label_that_can_not_be_printed_is_refused_and_one_of_two_surrogates_is_read():
    text = FULL.to_json()
    assert "rest" in text
    with pytest.raises(ManifestError, match="surrogates not allowed"):
        Manifest.from_json(text.replace("rest", "\\uD83D"))
    read = Manifest.from_json(text.replace("rest", "\\uD83D\\uDE00"))
    assert read.task.labels == ("\U0001f600", "läuft", "c", "d")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1}', '{"schema": "1"}'])
def test_a_foreign_text_is_refused(text):
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


@pytest.mark.parametrize(
    "bad",
    [
        {"dtype": "object", "shape": [1], "data": "AAAAAAAAAAA="},
        {"dtype": "float32", "shape": [2], "data": "AAAA"},
        {"dtype": "float32", "shape": [-1], "data": ""},
    ],
)
def test_an_array_that_does_not_fit_its_bytes_is_refused(bad):
    raw = json.loads(FULL.to_json())
    raw["golden"]["inputs"]["x"] = bad
    with pytest.raises(ManifestError, match="malformed"):
        Manifest.from_json(json.dumps(raw))


def places(document, path=()):
    """Every place in a JSON document."""
    yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from places(value, (*path, key))


ODD = [None, True, -1, 1.5, 10**400, "", "N", [], [[]], {}, {"a": 1}, float("inf")]


def test_a_wrong_value_in_any_place_is_refused_or_harmless():
    text = FULL.to_json()
    refused = 0
    for place in places(json.loads(text)):
        for odd in ODD:
            raw = parent = {"whole": json.loads(text)}
            for key in ("whole", *place)[:-1]:
                parent = parent[key]
            parent[("whole", *place)[-1]] = odd
            try:
                manifest = Manifest.from_json(json.dumps(raw["whole"]))
            except ManifestError as error:
                refused += "\n" not in str(error)
            else:
                assert Manifest.from_json(manifest.to_json()).to_json() == manifest.to_json()
    assert refused > 700


def test_nesting_without_end_is_refused():
    with pytest.raises(ManifestError, match="malformed"):
        Manifest.from_json("[" * 100_000)


def test_a_manifest_answers_what_its_users_ask():
    assert [spec.name for spec in FULL.data_inputs] == ["x"]
    assert FULL.lengths_input == FULL.inputs[1]
    assert FULL._replace(lengths=None).data_inputs == FULL.inputs
    assert FULL.input_names == ("x", "lengths", "h_0", "c_0")
    assert FULL.output_names == ("logits", "h_n", "c_n")
    x, logits = FULL.inputs[0].axes, FULL.outputs[0].axes
    assert (FULL.batch_axis(x), FULL.time_axis(x)) == (0, 1)
    assert (FULL.batch_axis(logits), FULL.time_axis(logits)) == (None, None)
    assert FULL._replace(sequence=None).time_axis(x) is None
    assert not FULL.streamable
    assert FULL._replace(unstreamable="").streamable
    assert not FULL._replace(unstreamable="", states=()).streamable


def test_a_manifest_renames_states_between_calls():
    outputs = dict.fromkeys(FULL.output_names, np.zeros(1)) | {"h_n": np.ones(1)}
    carried = FULL.states_out(outputs)
    assert carried == {"h_0": np.ones(1), "c_0": np.zeros(1)}
    assert FULL.all_outputs({"logits": np.zeros(1)}, carried) == outputs
