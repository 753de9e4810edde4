"""What a run folder says of its training, and the page made of it."""

import csv
import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lstm_edge import DataConfig, TrainConfig, train
from lstm_edge.report.training import write_report
from lstm_edge.run_files import CONFIG, CURVES, HISTORY, METRICS, REPORT
from lstm_edge_runtime.errors import FileFormatError, NotFoundError

QUICK = TrainConfig(hidden_size=4, epochs=3, batch_size=4)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """A run on two classes, one of them with markup for a name and six times rarer."""
    random = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("classes")
    y = np.where(np.arange(42) % 7 == 0, "<b>rare</b>", "usual")
    x = random.normal(size=(42, 300, 2)) * 10 + 100
    np.savez(
        folder / "d.npz", x=x, y=y, features=np.array(["speed", "<i>load</i>"]), sampling_rate=np.array(50)
    )
    train(folder / "d.npz", folder / "run", config=QUICK)
    return folder / "run"


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A run on values to predict."""
    random = np.random.default_rng(1)
    folder = tmp_path_factory.mktemp("values")
    rows = "\n".join(f"{a:.3f},{3 * a + b:.3f}" for a, b in random.normal(size=(400, 2)))
    (folder / "d.csv").write_text("speed,power\n" + rows)
    data = DataConfig(targets=("power",), window=10, units=("W",))
    train(folder / "d.csv", folder / "run", config=QUICK, data_config=data)
    return folder / "run"


def test_the_history_has_a_line_for_each_epoch(classes, values):
    for run, scored in ((classes, True), (values, False)):
        rows = list(csv.DictReader((run / HISTORY).read_text().splitlines()))
        assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
        assert all(float(row["loss"]) > 0 and float(row["validation_loss"]) > 0 for row in rows)
        assert all(bool(row["accuracy"]) == scored for row in rows)


def test_the_metrics_agree_with_one_another_and_the_signals_are_in_raw_units(classes):
    document = json.loads((classes / METRICS).read_text())
    scores, sets = document["test"], document["data"]["sets"]
    confusion = np.array(scores["confusion"])
    assert scores["accuracy"] == pytest.approx(np.trace(confusion) / confusion.sum())
    assert confusion.sum(axis=1).tolist() == list(scores["count"].values())
    assert confusion.sum() == sets["test"]["samples"] == sum(sets["test"]["classes"].values())
    for row, label in enumerate(scores["count"]):
        recall, precision = scores["recall"][label], scores["precision"][label]
        assert recall == pytest.approx(confusion[row, row] / confusion[row].sum())
        if precision:
            assert scores["f1"][label] == pytest.approx(2 * precision * recall / (precision + recall))
    signal = np.array(document["signals"]["usual"])
    assert signal.shape == (200, 2)
    assert signal.mean() == pytest.approx(100, abs=2)
    wrong = confusion.sum() - np.trace(confusion)
    assert len(document["mistakes"]) == min(6, wrong)
    assert document["data"]["sampling_rate"] == 50


def test_an_imbalance_is_noted_unless_the_classes_are_weighted(classes, tmp_path):
    (note,) = json.loads((classes / METRICS).read_text())["data"]["notes"]
    assert "of 'usual' and" in note
    assert "--class-weight balanced" in note
    config = TrainConfig(hidden_size=4, epochs=1, batch_size=4, class_weight="balanced")
    run = train(classes.parent / "d.npz", tmp_path / "run", config=config)
    assert run.summary["split"]["notes"] == []


def test_weighted_classes_are_recognized_more_often_where_they_are_rare(tmp_path):
    random = np.random.default_rng(2)
    y = (np.arange(220) % 11 == 0).astype(int)
    x = random.normal(size=(220, 6, 1)) + y[:, None, None] * 0.7
    np.savez(tmp_path / "d.npz", x=x, y=y)
    recalls = [
        train(
            tmp_path / "d.npz",
            tmp_path / weight,
            config=TrainConfig(hidden_size=4, epochs=15, class_weight=weight),
        ).summary["test"]["windows"]["recall"]["1"]
        for weight in ("none", "balanced")
    ]
    assert recalls[0] + 0.4 < recalls[1]


def test_a_class_that_the_set_does_not_have_is_shown_without_scores(classes, tmp_path):
    shutil.copytree(classes, tmp_path / "run")
    document = json.loads((classes / METRICS).read_text())
    scores = document["test"]  # as 0.2 wrote it
    scores["count"]["usual"], scores["precision"]["usual"], scores["f1"]["usual"] = 0, 0.0, 0.0
    (tmp_path / "run" / METRICS).write_text(json.dumps(document))
    text = write_report(tmp_path / "run")[0].read_text()
    assert "<tr><td>usual</td>" + "<td>not in the test set</td>" * 3 + "<td>0</td></tr>" in text


def test_the_page_shows_scores_curves_mistakes_signals_and_data_and_takes_names_as_text(classes):
    page, picture = write_report(classes)
    assert (page, picture) == (classes / REPORT, classes / CURVES)
    text = page.read_text()
    for part in ("plot-loss", "plot-accuracy", "classes", "confusion", "plot-signal-1", "data"):
        assert f'id="{part}"' in text
    assert not re.search(r"<(script|b>rare|i>load|img|link rel=.stylesheet)", text)
    assert "&lt;b&gt;rare" in text
    assert "--class-weight balanced" in text
    with Image.open(picture) as image:
        assert image.width > 1.5 * image.height


def test_values_are_shown_against_the_truth(values):
    document = json.loads((values / METRICS).read_text())
    pairs = np.array(document["pairs"]["power"])
    rmse = document["test"]["rmse"]["power"]
    assert np.sqrt(((pairs[:, 1] - pairs[:, 0]) ** 2).mean()) == pytest.approx(rmse, rel=1e-6)
    text = write_report(values)[0].read_text()
    assert 'id="plot-values-power"' in text
    assert 'id="confusion"' not in text


def test_the_report_verb_needs_no_torch_and_no_data(invoke, classes, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (classes / REPORT).unlink(missing_ok=True)
    code, out, _ = invoke("report", classes, "--json")
    assert code == 0
    assert json.loads(out)["report"] == str(classes / REPORT)
    assert (classes / REPORT).is_file()


def test_a_folder_without_a_run_or_with_a_damaged_one_is_refused(classes, tmp_path):
    with pytest.raises(NotFoundError, match=r"has no config\.json; expected a run folder"):
        write_report(tmp_path)
    for name in (CONFIG, HISTORY, METRICS):
        (tmp_path / name).write_bytes((classes / name).read_bytes())
    for name, content in ((METRICS, "{}"), (HISTORY, "epoch\nx\n"), (HISTORY, "epoch,loss\n"), (CONFIG, "[")):
        before = (tmp_path / name).read_bytes()
        (tmp_path / name).write_text(content)
        with pytest.raises(FileFormatError, match="are invalid"):
            write_report(tmp_path)
        (tmp_path / name).write_bytes(before)
    assert not (tmp_path / REPORT).exists()


@pytest.mark.system
def test_a_forecast_of_every_feature_is_continued_and_its_error_shown_by_horizon(tmp_path):
    rows = "\n".join(f"{np.sin(step / 5):.4f}" for step in range(400))
    (tmp_path / "d.csv").write_text("wave\n" + rows)
    data = DataConfig(forecast=("wave",), window=20, stride=2)
    config = TrainConfig(hidden_size=8, epochs=40, batch_size=8, learning_rate=0.02)
    run = train(tmp_path / "d.csv", tmp_path / "run", config=config, data_config=data)
    found = json.loads((tmp_path / "run" / METRICS).read_text())["horizons"]["wave"]
    assert len(found["rmse"]) == len(found["last_value"]) == 24
    assert found["rmse"][0] == pytest.approx(run.summary["test"]["rmse"]["wave"], rel=0.3)
    assert found["rmse"][7] < 0.5 * found["last_value"][7]  # the wave turns, its last value does not
    page, _ = write_report(tmp_path / "run")
    assert "wave: error by horizon" in page.read_text()


def test_other_values_have_no_horizon(values):
    assert json.loads((values / METRICS).read_text())["horizons"] is None


def test_mistakes_and_series_say_where_they_come_from(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["series,t,ax,label"]
    for number in range(12):
        level = rng.normal() * (1 + (number == 11) * 9)
        rows += [f"machine {number},{t},{level + rng.normal():.4f},{'ab'[t // 10 % 2]}" for t in range(60)]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    config = TrainConfig(hidden_size=4, epochs=2, batch_size=8)
    train(tmp_path / "m.csv", tmp_path / "run", data_config=DataConfig(window=10), config=config)
    document = json.loads((tmp_path / "run" / METRICS).read_text())
    scores = document["test"]
    assert scores["series"] == document["streams"]["series"]
    counts = document["data"]["sets"]["test"]["samples"]
    assert len(scores["series"]) * 6 == counts
    (mistake, *_) = document["mistakes"]
    first, last = mistake["steps"]
    assert last - first == 9
    assert first % 10 == 1
    assert mistake["truth"] == "ab"[(first - 1) // 10 % 2]
    assert mistake["series"] in scores["series"]
    text = write_report(tmp_path / "run")[0].read_text()
    assert f"Series {mistake['series']}, steps {first} to {last}; probability" in text
    assert 'id="series"' in text
    (name,) = scores["baselines"]
    assert name in html.unescape(text)
