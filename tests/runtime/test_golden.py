import json

import numpy as np
import pytest

from lstm_edge_runtime.errors import FileFormatError, NotFoundError
from lstm_edge_runtime.golden import ARRAYS, FORMAT, INDEX, SCHEMA, read_golden

ENTRY = {"name": "test_data_set_0", "about": "one call", "continues": None, "floor": {"y": 1e-7}, "limit": {}}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / ENTRY["name"]).mkdir()
    np.savez(tmp_path / ENTRY["name"] / ARRAYS, **{"input/x": np.arange(3.0), "output/y": np.ones(2)})
    write_index(tmp_path)
    return tmp_path


def write_index(folder, **changes):
    index = {"format": FORMAT, "schema": SCHEMA, "model_sha256": "ab", "sets": [ENTRY]} | changes
    (folder / INDEX).write_text(json.dumps(index))


def test_a_folder_gives_its_sets_with_inputs_outputs_and_floors(folder):
    golden = read_golden(folder)
    assert golden.model_sha256 == "ab"
    (one,) = golden.sets
    assert (one.name, one.about, one.continues) == ("test_data_set_0", "one call", None)
    np.testing.assert_array_equal(one.golden.inputs["x"], np.arange(3.0))
    np.testing.assert_array_equal(one.golden.outputs["y"], np.ones(2))
    assert one.golden.floor == {"y": 1e-7}


def test_a_missing_folder_index_or_set_is_named(folder, tmp_path):
    with pytest.raises(NotFoundError, match="nowhere"):
        read_golden(tmp_path / "nowhere")
    (folder / ENTRY["name"] / ARRAYS).unlink()
    with pytest.raises(NotFoundError, match=ARRAYS):
        read_golden(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "else"}, "does not describe"),
        ({"schema": SCHEMA + 1}, "upgrade"),
        ({"sets": [{"name": "test_data_set_0"}]}, "malformed \\(no 'continues'\\)"),
        ({"sets": None}, "malformed"),
        ({"sets": [ENTRY | {"name": "../outside"}]}, "unsafe"),
        ({"sets": [ENTRY | {"name": ".."}]}, "unsafe"),
        ({"sets": []}, "malformed \\('sets' names none\\)"),
        ({"sets": [ENTRY | {"floor": {"y": "much"}}]}, "malformed \\('much', expected a number\\)"),
        ({"sets": [ENTRY | {"limit": {"y": float("inf")}}]}, "can't be read as JSON .*Infinity"),
        ({"sets": [ENTRY | {"continues": "test_data_set_1"}]}, "not an earlier set"),
    ],
)
def test_a_foreign_newer_or_malformed_index_is_refused(folder, changes, message):
    write_index(folder, **changes)
    with pytest.raises(FileFormatError, match=message):
        read_golden(folder)


def test_an_index_that_is_no_json_and_arrays_that_are_truncated_are_refused(folder):
    arrays = folder / ENTRY["name"] / ARRAYS
    arrays.write_bytes(arrays.read_bytes()[:80])
    with pytest.raises(FileFormatError, match="can't be read"):
        read_golden(folder)
    (folder / INDEX).write_text("{")
    with pytest.raises(FileFormatError, match="can't be read as JSON"):
        read_golden(folder)


def test_a_pickle_among_the_arrays_is_never_opened(folder):
    np.savez(folder / ENTRY["name"] / ARRAYS, **{"input/x": np.array([{}], dtype=object)})
    with pytest.raises(FileFormatError, match="can't be read"):
        read_golden(folder)
