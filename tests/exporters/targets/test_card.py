"""``export --card``: the folder as the hub's library and MLflow read it."""

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import onnxruntime
import pytest
import torch

from lstm_edge.checkpoint import Run, save
from lstm_edge.cli import cli, run
from lstm_edge.lstm1 import LSTM1
from lstm_edge_exporters.targets.card import FILES, Score, to_card
from lstm_edge_runtime.manifest import Task

from .test_names import HOSTILE, hostile_model

METRICS = {
    "test": {
        "accuracy": 0.75,
        "windows": {"accuracy": 0.875},
        "baselines": {"always 'walk'": {"accuracy": 0.5}},
        "f1": {"walk": 0.5},
    },
    "data": {"file": "har.npz"},
}
MLFLOW = """
import sys, numpy as np, mlflow.pyfunc, mlflow.onnx
folder, out = sys.argv[1:]
feeds = dict(np.load(out + "/feeds.npz"))
np.savez(out + "/got.npz", **mlflow.pyfunc.load_model(folder).predict(feeds))
print([value.name for value in mlflow.onnx.load_model(folder).graph.input])
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("card")
    torch.manual_seed(0)
    save(
        Run(LSTM1(2, 3, 4, 1, 10), task=Task("classification", "logits", ("walk", "ride|s"))), folder / "run"
    )
    (folder / "run" / "metrics.json").write_text(json.dumps(METRICS))
    card = str(folder / "card")
    assert run(cli, ["export", str(folder / "run"), "-o", str(folder / "har.onnx"), "--card", card]) == 0
    return folder


def files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_folder_holds_the_verified_file_and_says_what_it_takes(exported):
    found = files(exported / "card")
    assert set(found) == set(FILES)
    assert found["onnx/model.onnx"] == (exported / "har.onnx").read_bytes()
    config = json.loads(found["config.json"])
    assert config["id2label"] == {"0": "walk", "1": "ride|s"}
    assert config["states"] == [{"input": "h_0", "output": "h_n"}, {"input": "c_0", "output": "c_n"}]
    text = found["README.md"].decode()
    assert "| test | accuracy, without a network (always 'walk') | 0.5 |" in text
    assert r"Classes, in the order of logits: walk, ride\|s." in text
    assert "stream.step(sample)" in text


def test_the_hubs_library_reads_the_scores(exported):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard.load(exported / "card" / "README.md").data
    assert "streaming" in data.tags
    (score,) = data.eval_results
    assert (score.metric_type, score.metric_value, score.dataset_name, score.dataset_split) == (
        "accuracy",
        0.75,
        "har.npz",
        "test",
    )


@pytest.mark.system
def test_mlflow_runs_the_folder_as_both_flavors(exported, tmp_path):
    pytest.importorskip("mlflow")
    rng = np.random.default_rng(0)
    feeds = {"x": (2, 5, 3), "h_0": (1, 2, 4), "c_0": (1, 2, 4)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in feeds.items()}
    np.savez(tmp_path / "feeds.npz", **feeds)
    words = [sys.executable, "-c", MLFLOW, str(exported / "card" / "onnx"), str(tmp_path)]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["['x',", "'h_0',", "'c_0']"]
    session = onnxruntime.InferenceSession(exported / "har.onnx", providers=["CPUExecutionProvider"])
    with np.load(tmp_path / "got.npz") as got:
        for output, expected in zip(session.get_outputs(), session.run(None, feeds), strict=True):
            np.testing.assert_array_equal(got[output.name], expected)


def test_the_same_run_gives_the_same_bytes_and_other_files_are_not_lost(exported, capsys):
    before = files(exported / "card")
    words = [
        "export",
        str(exported / "run"),
        "-o",
        str(exported / "again.onnx"),
        "--card",
        str(exported / "card"),
    ]
    assert run(cli, words) == 0
    assert files(exported / "card") == before
    (exported / "again.onnx").unlink()
    smaller = exported / "card" / "onnx" / "model_int8.onnx"
    smaller.write_bytes(b"x")
    capsys.readouterr()
    assert run(cli, words) == 2
    assert "contains onnx/model_int8.onnx, which would be lost" in capsys.readouterr().err
    assert smaller.exists()
    assert not (exported / "again.onnx").exists(), "refused before any work"
    smaller.unlink()


@pytest.mark.parametrize("content", ["{", "[1]", '{"data": 3}', '{"data": {"file": "x"}, "test": [1]}'])
def test_damaged_scores_are_one_line_before_any_work(tmp_path, content, capsys):
    save(Run(LSTM1(2, 3, 4, 1, 10)), tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text(content)
    words = [
        "export",
        str(tmp_path / "run"),
        "-o",
        str(tmp_path / "m.onnx"),
        "--card",
        str(tmp_path / "card"),
    ]
    assert run(cli, words) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(r"error: .*metrics\.json is invalid \(.*\); train again\n", error), error
    assert not (tmp_path / "m.onnx").exists()


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = set()

    def handle_starttag(self, tag, attrs):
        self.found.add(tag)
        assert not {name for name, _ in attrs} - {"class", "align"}, attrs


@pytest.mark.parametrize("turn", range(0, len(HOSTILE), 4))
def test_names_of_a_model_are_neither_markup_nor_yaml(turn):
    yaml = pytest.importorskip("ruamel.yaml")
    model, manifest = hostile_model(turn)
    name, target = HOSTILE[turn], HOSTILE[turn - 1]
    scores = (Score("rmse", 0.5, "test", target), Score("rmse", 0.7, "test", target, HOSTILE[turn - 2]))
    found = to_card(name, model.SerializeToString(), manifest, HOSTILE[turn - 3], scores).files
    text = found["README.md"].decode()
    _, front, body = text.split("---\n", 2)
    metadata = yaml.YAML(typ="safe").load(io.StringIO(front))
    assert set(metadata) == {"library_name", "tags", "model-index"}
    ((result,),) = (entry["results"] for entry in metadata["model-index"])
    assert [metric["value"] for metric in result["metrics"]] == [0.5]
    mlmodel = yaml.YAML(typ="safe").load(io.BytesIO(found["onnx/MLmodel"]))
    assert json.loads(mlmodel["signature"]["inputs"])[0]["name"] == manifest.inputs[0].name
    assert json.loads(found["config.json"])["inputs"][0]["name"] == manifest.inputs[0].name
    assert all(line.isprintable() for line in body.split("\n"))
    assert len(re.findall(r"(?m)^\| ", body)) == 2 + 4 + 2 + 2, "one row for each tensor and score"
    tags = Tags()
    tags.feed(pytest.importorskip("markdown").markdown(body, extensions=["tables", "fenced_code"]))
    assert tags.found <= {"h1", "p", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
