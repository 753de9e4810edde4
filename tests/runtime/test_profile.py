import json
import shutil
from pathlib import Path

import onnxruntime
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.ort import SessionOptions
from lstm_edge_runtime.profile import Profile, host_key

THREADS = host_key()["cores"]


@pytest.fixture
def model(path, tmp_path):
    return Path(shutil.copy(path("lstm"), tmp_path / "m.onnx"))


@pytest.fixture
def profile(model):
    options = SessionOptions(threads=THREADS, spinning=True, arena=True, optimization="BASIC")
    return Profile(load(model, device="cpu").identity, options, goal="latency", measured={"ratio": 0.5})


def test_a_saved_profile_reads_back_the_same(profile, tmp_path):
    profile.save(tmp_path / "p.json")
    assert Profile.read(tmp_path / "p.json") == profile


def test_a_profile_that_fits_sets_the_sessions_options(model, profile, sessions, tmp_path):
    profile.save(tmp_path / "p.json")
    for given in (profile, tmp_path / "p.json", str(tmp_path / "p.json")):
        load(model, profile=given)
        found = sessions[-1].get_session_options()
        assert found.intra_op_num_threads == THREADS
        assert found.enable_cpu_mem_arena
        assert found.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        assert found.get_session_config_entry("session.intra_op.allow_spinning") == "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_sha256": "0" * 64}, "for the model 000000000000"),
        ({"onnxruntime": "0.1"}, "onnxruntime 0.1"),
        ({"host": host_key() | {"cores": 999}}, "999"),
    ],
)
def test_a_profile_of_another_key_is_not_used_and_a_warning_says_why(
    model, profile, sessions, tmp_path, change, words
):
    profile.save(tmp_path / "p.json")
    raw = json.loads((tmp_path / "p.json").read_text())
    raw["key"] |= change
    (tmp_path / "p.json").write_text(json.dumps(raw))
    with pytest.warns(RuntimeWarning, match=words):
        load(model, profile=tmp_path / "p.json")
    assert sessions[-1].get_session_options().intra_op_num_threads == 1


@pytest.mark.parametrize(
    "change",
    [
        {"format": "other"},
        {"schema": 2},
        {"options": {}},
        {"key": None},
    ],
)
def test_a_file_that_is_no_profile_is_refused(model, profile, tmp_path, change):
    profile.save(tmp_path / "p.json")
    raw = json.loads((tmp_path / "p.json").read_text()) | change
    (tmp_path / "p.json").write_text(json.dumps(raw))
    with pytest.raises(FileFormatError, match="lstm-edge tune"):
        load(model, profile=tmp_path / "p.json")


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 0},
        {"threads": THREADS + 1},
        {"threads": 2**31},
        {"threads": "2"},
        {"optimization": "MOST"},
        {"providers": []},
        {"providers": [[]]},
        {"spinning": "no"},
    ],
)
def test_options_that_make_no_sense_are_refused(profile, tmp_path, change):
    profile.save(tmp_path / "p.json")
    raw = json.loads((tmp_path / "p.json").read_text())
    raw["options"] |= change
    (tmp_path / "p.json").write_text(json.dumps(raw))
    with pytest.raises(FileFormatError):
        Profile.read(tmp_path / "p.json")


def test_wrong_use_is_refused(model, profile, tmp_path):
    with pytest.raises(NotFoundError):
        load(model, profile=tmp_path / "none.json")
    (tmp_path / "p.json").write_text("{")
    with pytest.raises(FileFormatError):
        load(model, profile=tmp_path / "p.json")
    for more in ({"threads": 1}, {"device": "cpu"}, {"providers": ["CPUExecutionProvider"]}):
        with pytest.raises(InputError, match="one or the other"):
            load(model, profile=profile, **more)
