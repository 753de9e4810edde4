"""``lstm-edge convert --to web``: contents of the folder and refusals; ``web/test``
tests the page."""

import base64
import shutil

import numpy as np
import onnx
import pytest

from lstm_edge_exporters.targets.folders import write_folder
from lstm_edge_exporters.targets.web import to_site
from lstm_edge_runtime.errors import CheckFailedError, NotFoundError
from lstm_edge_runtime.ort import sealed

pytestmark = pytest.mark.usefixtures("wasm")


@pytest.fixture
def made(invoke, data, tmp_path):
    folder = tmp_path / "site"
    code, _, error = invoke(
        "convert",
        data / "motions-int8.onnx",
        "--to",
        "web",
        "-o",
        folder,
    )
    assert code == 0, error
    return folder


def files_of(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_site_holds_the_file_as_it_is_and_names_every_file_to_keep_offline(
    made, data, site_of
):
    assert (made / "model.lep").read_bytes()[:8] == b"LSTMEDGE"
    assert (
        sum(path.stat().st_size for path in made.rglob("*") if path.is_file()) < 400_000
    )
    site = site_of(made)
    assert site["name"] == "motions-int8.onnx"
    assert set(site["files"]) == files_of(made) - {"sw.js"} | {"./"}
    assert {"index.html", "lstm-edge/index.js", "lstm-edge/lstm_edge.wasm"} <= set(
        site["files"]
    )


def test_a_program_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match=r"nope\.lep"):
        to_site(tmp_path / "nope.lep", [])


def test_a_site_replays_one_held_out_recording_of_each_activity(made, site_of):
    recordings = site_of(made)["recordings"]
    assert sorted(record["label"] for record in recordings) == [
        "Badminton",
        "Running",
        "Standing",
        "Walking",
    ]
    for record in recordings:
        assert len(base64.b64decode(record["x"])) == 100 * 6 * 4
        assert record["features"] == [
            "acc_x",
            "acc_y",
            "acc_z",
            "gyr_x",
            "gyr_y",
            "gyr_z",
        ]


def test_the_same_file_gives_the_same_site_and_another_one_another_version(data):
    first, again = (to_site(data / "lstm.onnx", []) for _ in range(2))
    other = to_site(data / "lstm.onnx", [("walk", np.zeros((2, 3), np.float32))])
    assert first == again
    assert first["site.js"] != other["site.js"]
    assert b"version" in first["site.js"]


def test_a_file_with_other_features_brings_no_recording_of_the_demo(
    invoke, data, tmp_path, site_of
):
    code, _, error = invoke(
        "convert", data / "lstm.onnx", "--to", "web", "-o", tmp_path / "site"
    )
    assert code == 0, error
    assert site_of(tmp_path / "site")["recordings"] == []


def test_a_file_that_fails_its_golden_case_makes_no_site(data, tmp_path, invoke):
    spoilt = onnx.load(data / "lstm.onnx")
    weight = next(
        tensor for tensor in spoilt.graph.initializer if len(tensor.dims) == 3
    )
    weight.raw_data = np.float32(3).tobytes() + weight.raw_data[4:]
    (tmp_path / "spoilt.onnx").write_bytes(sealed(spoilt.SerializeToString()))
    with pytest.raises(CheckFailedError, match="golden case"):
        to_site(tmp_path / "spoilt.onnx", [])
    code, _, _ = invoke(
        "convert",
        tmp_path / "spoilt.onnx",
        "--to",
        "web",
        "-o",
        tmp_path / "site",
    )
    assert code == 1
    assert not (tmp_path / "site").exists()


def test_an_earlier_site_is_replaced_and_other_folders_are_left_alone(
    made, invoke, data, tmp_path, site_of
):
    again = ("convert", data / "lstm.onnx", "--to", "web", "-o")
    assert invoke(*again, made)[0] == 0
    assert site_of(made)["name"] == "lstm.onnx"
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "thesis.tex").write_text("all of it")
    code, _, error = invoke(*again, folder)
    assert code == 2
    assert "thesis.tex, which would be lost" in error
    assert files_of(folder) == {"thesis.tex"}
    assert invoke(*again, folder / "thesis.tex")[0] == 2
    assert invoke(*again, tmp_path / "nowhere" / "site")[0] == 2
    assert {path.name for path in tmp_path.iterdir()} == {"site", "mine"}


def test_a_name_that_is_code_stays_a_name(data, tmp_path, site_of):
    name = "</script><script>alert(1)'\"\u2028#?%.onnx".replace("/", "")
    shutil.copy(data / "lstm.onnx", tmp_path / name)
    write_folder(tmp_path / "site", to_site(tmp_path / name, []))
    assert site_of(tmp_path / "site")["name"] == name
    assert (tmp_path / "site" / "site.js").read_bytes().isascii()
