import json

import numpy as np
import pytest

from lstm_edge_runtime.checks import read_manifest
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
    inputs=(
        TensorSpec("x", "float32", ("N", "L", 6)),
        TensorSpec("lengths", "int64", ("N",)),
    ),
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
        {"x": np.arange(6, dtype=np.float32).reshape(1, 1, 6)},
        {"logits": np.zeros((2, 4), np.float32)},
        {"logits": 1e-8},
    ),
)


def test_a_manifest_survives_its_own_text_and_gives_the_same_text_again():
    text = FULL.to_json()
    again = read_manifest(text)
    assert again.to_json() == text
    assert again.states[0] == FULL.states[0]
    np.testing.assert_array_equal(again.states[1].reset, FULL.states[1].reset)
    assert again.task == FULL.task
    assert again.golden is not None
    np.testing.assert_array_equal(again.golden.inputs["x"], FULL.golden.inputs["x"])


def test_the_text_names_each_batch_axis_for_readers_in_other_languages():
    assert json.loads(FULL.to_json())["states"][0]["batch_axis"] == 1


def test_a_label_that_can_not_be_printed_is_refused_and_one_of_two_surrogates_is_read():
    text = FULL.to_json()
    assert "rest" in text
    with pytest.raises(ManifestError, match="surrogates not allowed"):
        read_manifest(text.replace("rest", "\\uD83D"))
    read = read_manifest(text.replace("rest", "\\uD83D\\uDE00"))
    assert read.task.labels == ("\U0001f600", "läuft", "c", "d")


def changed(*keys, value):
    """Return the text of the full manifest with one value replaced."""
    raw = parent = json.loads(FULL._replace(trained=Trained(True, 40, 0.5)).to_json())
    for key in keys[:-1]:
        parent = parent[key]
    parent[keys[-1]] = value
    return json.dumps(raw)


ARRAY = ("golden", "inputs", "x")
REFUSED = [
    *[
        (text, "malformed")
        for text in ("", "[]", "{}", '{"schema": 1}', '{"schema": "1"}', "[" * 100_000)
    ],
    *[
        (changed("schema", value=n), f"schema {n}, expected 1.*; export the model")
        for n in (0, SCHEMA + 1)
    ],
    *[(changed("trained", "carry", value=wrong), "malformed") for wrong in (1, None)],
    *[
        (changed("trained", "window", value=wrong), "malformed")
        for wrong in (True, 1.5, "40")
    ],
    (changed("signal", "sampling_rate", value=True), "malformed"),
    (changed("axes", "ranges", value={"L": {"least": 1.5}}), "malformed"),
    (
        changed(
            *ARRAY, value={"dtype": "object", "shape": [1], "data": "AAAAAAAAAAA="}
        ),
        "malformed",
    ),
    (
        changed(*ARRAY, value={"dtype": "float32", "shape": [2], "data": "AAAA"}),
        "malformed",
    ),
    (
        changed(*ARRAY, value={"dtype": "float32", "shape": [-1], "data": ""}),
        "malformed",
    ),
]


WRONG_ARRAY = {"dtype": "float32", "shape": [1, 1, 1], "data": "AAAAAA=="}
VALUES = [
    (("unit",), 0, "unit is 0, expected at least 1"),
    (("unit",), -3, "unit is -3"),
    (("unit",), 2**40, "unit is 1099511627776"),
    (("delays",), {"logits": -1}, "the delay of logits is -1"),
    (("delays",), {"zzz": 1}, r"delays is 'zzz', expected one of \['logits'\]"),
    (("counts",), ["zzz"], "counts is 'zzz'"),
    (("axes", "ranges"), {"L": {"multiple": 0}}, "the range of 'L'"),
    (("axes", "ranges"), {"L": {"least": 0}}, "the range of 'L'"),
    (("axes", "ranges"), {"L": {"least": 5, "most": 4}}, "the range of 'L' is 5..4"),
    (("axes", "ranges"), {"L": {"least": 5, "most": 7, "multiple": 4}}, "range of 'L'"),
    (("axes", "batch"), "", "an empty name"),
    (("axes", "sequence"), "N", "batch and sequence are both 'N'"),
    (("task", "output"), "zzz", "task.output is 'zzz'"),
    (("lengths",), "h_0", "lengths is 'h_0', expected an integer input"),
    (("lengths",), "x", "lengths is 'x', expected an integer input"),
    (("inputs", 0, "name"), "", "an input has no name"),
    (("states", 0, "output"), "logits", "two outputs have the name 'logits'"),
    (("states", 0, "input"), "x", "two inputs have the name 'x'"),
    (("inputs", 0, "dtype"), "V8", "x has dtype 'V8'"),
    (("inputs", 0, "dtype"), "A" * 10**6, "x has dtype 'AAAA"),
    (("inputs", 0, "axes"), ["N", "L", 0], r"x has axes \(N, L, 0\)"),
    (("inputs", 0, "axes"), ["N", "L", ""], "x has axes"),
    (("inputs", 0, "axes"), ["N", "L", "9" * 5000], "x has axes"),
    (("inputs", 0, "axes"), ["N", "0*L", 6], "x has axes"),
    (("inputs", 0, "axes"), ["N", "L+P", 6], r"x has axes \(N, L\+P, 6\)"),
    (("provenance",), {"deep": json.loads("[" * 40 + "]" * 40)}, "nested more than 32 deep"),
    (("provenance",), {"deep": json.loads("[" * 700 + "]" * 700)}, "nested more than 32 deep"),
    (("states", 1, "axes"), ["N", 2**20, 2**20], "c_0 has axes .* too large"),
    (("states", 1, "axes"), [3, "N", 8], r"reset value of c_0 has shape \(2, 1, 8\), expected \(3, 1, 8\)"),
    (("signal", "window"), 0, "signal.window is 0"),
    (("signal", "sampling_rate"), 0.0, "signal.sampling_rate is 0"),
    (("trained", "window"), -1, "trained.window is -1"),
    (("reset_every",), 0, "reset_every is 0"),
    (("golden", "inputs", "x", "shape"), [1, 6, 1], r"has x of shape \(1, 6, 1\), expected \(N, L, 6\)"),
    (("golden", "outputs", "logits", "shape"), [1, 8], r"has logits of shape \(1, 8\), expected \(2\*N, 4\)"),
    (("golden", "limit"), {"zzz": 1.0}, "a limit for 'zzz'"),
    (("golden", "limit"), {"logits": -1.0}, "a negative limit for logits"),
    (("golden", "limit"), {}, "no limit for logits"),
    (("arithmetic",), "int4", "arithmetic is 'int4', expected one of float32, "),
    (("golden", "limits"), {"logits": WRONG_ARRAY}, "limits of shape"),
    (("golden", "inputs"), {"zzz": WRONG_ARRAY}, "an array for 'zzz'"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "message"), VALUES)
def test_a_value_that_can_not_be_right_is_refused_with_its_field(keys, value, message):
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(changed(*keys, value=value))
    assert len(str(error.value)) <= 500


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=range(len(REFUSED)))
def test_a_text_that_is_no_manifest_is_refused_in_one_line(text, message):
    with pytest.raises(ManifestError, match=message) as error:
        read_manifest(text)
    assert "\n" not in str(error.value)


def paths(document, path=()):
    """Yield the path of every value in a JSON document."""
    yield path
    if isinstance(document, dict | list):
        for key, value in (
            document.items() if isinstance(document, dict) else enumerate(document)
        ):
            yield from paths(value, (*path, key))


ODD = [None, True, -1, 1.5, 10**400, "", "N", [], [[]], {}, {"a": 1}, float("inf")]


def test_a_wrong_value_in_any_place_is_refused_or_harmless():
    text = FULL.to_json()
    refused = 0
    for path in paths(json.loads(text)):
        for odd in ODD:
            raw = parent = {"whole": json.loads(text)}
            for key in ("whole", *path)[:-1]:
                parent = parent[key]
            parent[("whole", *path)[-1]] = odd
            try:
                manifest = read_manifest(json.dumps(raw["whole"]))
            except ManifestError as error:
                refused += "\n" not in str(error)
            else:
                assert read_manifest(manifest.to_json()).to_json() == manifest.to_json()
    assert refused > 700
