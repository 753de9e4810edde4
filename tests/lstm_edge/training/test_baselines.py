import json

import numpy as np
import pytest
import torch

import lstm_edge_runtime
from lstm_edge import TrainConfig, train
from lstm_edge.checkpoint import load
from lstm_edge.data.config import DataConfig
from lstm_edge.data.recordings import Recording
from lstm_edge.deploy import deployable
from lstm_edge.run_files import CONFIG, METRICS
from lstm_edge.training.baselines import find_season, forecast_baselines, majority_baseline, persists
from lstm_edge.training.dataset import fit_scale
from lstm_edge.training.series import SeriesSet
from lstm_edge_exporters.export import export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime.errors import FileFormatError, InputError

QUICK = TrainConfig(hidden_size=4, epochs=1, batch_size=4)


def waves(period, lengths, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (np.sin(2 * np.pi * (np.arange(size) + 3 * place) / period) + noise * rng.normal(size=size))[:, None]
        for place, size in enumerate(lengths)
    ]


@pytest.mark.parametrize("period", [7, 24, 96])
def test_a_season_is_found_in_noise_and_in_several_series(period):
    assert find_season(waves(period, [1000], noise=0.3)) == period
    lengths = [4 * period, 5 * period + 3, 2]
    assert find_season(waves(period, lengths)) == pytest.approx(period, rel=0.02)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(size=1000),
        np.arange(500.0),
        np.ones(50),
        np.zeros(1),
        np.random.default_rng(0).normal(size=400).cumsum(),
    ],
    ids=["noise", "trend", "constant", "one step", "walk"],
)
def test_what_does_not_repeat_has_no_season(values):
    assert find_season([values[:, None]]) is None


def test_what_wanders_persists_and_what_stays_around_a_level_does_not():
    rng = np.random.default_rng(0)
    walks = [900 + rng.normal(size=(150, 2)).cumsum(0) for _ in range(12)]
    assert persists(walks)
    assert persists(walks[:1])
    assert persists([np.ones((100, 1))])
    assert not persists([rng.normal(size=(150, 2)) for _ in range(12)])
    assert not persists(waves(24, [1000], noise=0.05))
    assert not persists([np.concatenate([walks[0][:, :1], rng.normal(size=(150, 1))], axis=1)])
    assert not persists([walks[0][:20]])


def test_a_season_ago_is_taken_from_the_same_series_or_else_now():
    parts = [np.arange(6.0), np.arange(100.0, 105.0)]
    series = [Recording(str(k), str(k), each[:, None], each[:, None]) for k, each in enumerate(parts)]
    values = torch.from_numpy(np.concatenate(parts))[:, None]
    found = SeriesSet.of(series, fit_scale(values), None, 3, joined=False)
    now, ago = forecast_baselines(values, found, torch.tensor([2, 5, 7, 10]), season=4)
    assert now.values[:, 0].tolist() == [2, 5, 101, 104]
    assert ago.values[:, 0].tolist() == [2, 2, 101, 101]


def test_the_majority_is_that_of_the_training_set():
    found = majority_baseline(torch.tensor([2, 0, 2, 1]), ("a", "b", "c"), 3)
    assert (found.name, found.values.tolist()) == ("always 'c'", [2, 2, 2])


@pytest.mark.parametrize("carry", ["on", "off"])
def test_a_forecast_is_compared_with_persistence_on_the_same_steps(tmp_path, carry):
    walk = np.random.default_rng(0).normal(size=600).cumsum()
    (tmp_path / "load.csv").write_text("load\n" + "\n".join(map(str, walk)) + "\n")
    config = TrainConfig(hidden_size=4, epochs=1, batch_size=4, carry=carry)
    data = DataConfig(window=20, stride=3, forecast=("load",), forecast_difference=False)
    run = train(tmp_path / "load.csv", tmp_path / "run", data_config=data, config=config)
    scores = run.summary["test"]["baselines"]
    assert set(scores) == {"the mean", "the same as now"}
    part = walk[-121:]  # the test set is the last fifth
    ends = np.arange(19, 120) if carry == "on" else np.arange(19, 120, 3)
    errors = np.diff(part)[ends[ends < 120]]
    assert scores["the same as now"]["rmse"]["load"] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-4)
    assert "of the same as now: the network is no better" in run.summary["baseline"]


def test_a_network_that_has_learned_nothing_is_told_from_one_that_has(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = rng.normal(size=(80, 6, 1)) * 0.1
    np.savez(tmp_path / "noise.npz", x=x, y=(rng.random(80) < 0.2).astype(int))
    np.savez(tmp_path / "clear.npz", x=x + y[:, None, None], y=y)
    noise = train(tmp_path / "noise.npz", tmp_path / "noise", config=QUICK)
    config = TrainConfig(hidden_size=8, epochs=30, batch_size=8, learning_rate=0.02)
    clear = train(tmp_path / "clear.npz", tmp_path / "clear", config=config)
    assert "the network is no better" in noise.summary["baseline"]
    assert "always '0'" in noise.summary["baseline"]
    assert "no better" not in clear.summary["baseline"]


def test_line_and_report_compare_each_value_with_its_own_best_baseline(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal():.4f},{np.sin(at / 30):.4f}" for at in range(400)]
    (tmp_path / "d.csv").write_text("\n".join(["noise,wave", *rows]) + "\n")
    data = DataConfig(window=10, stride=3, forecast=("noise", "wave"))
    run = train(tmp_path / "d.csv", tmp_path / "run", data_config=data, config=QUICK)
    scores = run.summary["test"]["baselines"]
    noise, wave = scores["the mean"]["rmse"]["noise"], scores["the same as now"]["rmse"]["wave"]
    assert (
        f"RMSE of wave {run.summary['test']['rmse']['wave']:.4g}, {wave:.4g} of the same as now"
        in (run.summary["baseline"])
    )
    best = json.loads((tmp_path / "run" / METRICS).read_text())["streams"]["baseline"]
    assert best["name"] == "the mean, the same as now"
    parts = np.array([noise, wave]) / run.targets.std
    assert best["score"] == pytest.approx(np.sqrt((parts**2).mean()))


def stream_of(folder, **options):
    artifact = export(*deployable(load(folder), **options))
    artifact.save(folder / "m.onnx")
    return lstm_edge_runtime.load(folder / "m.onnx")


@pytest.mark.system
@pytest.mark.parametrize("wanted", [None, True, False])
def test_a_forecast_that_persistence_is_near_to_predicts_the_change_and_the_file_the_value(tmp_path, wanted):
    rng = np.random.default_rng(0)
    level = 900 + 5 * rng.normal(size=(500, 2)).cumsum(0)
    rows = [f"{a:.4f},{rng.normal():.4f},{b:.4f}" for a, b in level]
    (tmp_path / "d.csv").write_text("a,other,b\n" + "\n".join(rows) + "\n")
    data = DataConfig(window=10, stride=2, forecast=("b", "a"), forecast_difference=wanted)
    config = TrainConfig(hidden_size=4, epochs=3, batch_size=8)
    run = train(tmp_path / "d.csv", tmp_path / "run", data_config=data, config=config)
    assert run.added == (() if wanted is False else (2, 0))
    error = run.summary["test"]["rmse"]["b"]
    persistence = run.summary["test"]["baselines"]["the same as now"]["rmse"]["b"]
    assert (error < 1.5 * persistence) == (wanted is not False)
    metrics = json.loads((tmp_path / "run" / METRICS).read_text())
    pairs = np.array(metrics["pairs"]["b"])
    assert np.abs(pairs[:, 0] - level[-100:, 1].mean()).max() < 200
    assert np.sqrt(((pairs[:, 1] - pairs[:, 0]) ** 2).mean()) == pytest.approx(error, rel=1e-3)

    x = np.loadtxt(tmp_path / "d.csv", delimiter=",", skiprows=1, dtype=np.float32)
    model = stream_of(tmp_path / "run")
    stream = model.stream()
    got = np.array([stream.step(sample) for sample in x[400:-1]])
    errors = (got - x[401:, [2, 0]])[9:]
    assert np.sqrt((errors**2).mean(axis=0))[0] == pytest.approx(error, rel=0.02)  # the set begins nearby
    if wanted is None:
        native = lstm_edge_runtime.load(to_native(tmp_path / "run" / "m.onnx")).stream()
        np.testing.assert_allclose([native.step(sample) for sample in x[400:-1]], got, rtol=1e-5)
        batch = stream_of(tmp_path / "run", lengths=True).run(
            x=x[None, :9].repeat(2, 0), lengths=np.array([3, 9])
        )
        alone = [model.run(x=x[None, :steps])[0]["logits"][0] for steps in (3, 9)]
        np.testing.assert_allclose(batch[0]["logits"], alone, rtol=1e-5)


@pytest.mark.parametrize("wave", [0, 10], ids=["noise", "a wave in noise"])
def test_a_forecast_of_what_stays_around_a_level_is_of_the_value(tmp_path, wave):
    values = np.random.default_rng(0).normal(size=600) + wave * np.sin(np.arange(600) / 5)
    (tmp_path / "d.csv").write_text("a\n" + "\n".join(map(str, values)) + "\n")
    data = DataConfig(window=10, stride=2, forecast=("a",))
    assert train(tmp_path / "d.csv", tmp_path / "run", data_config=data, config=QUICK).added == ()


@pytest.mark.parametrize("added", [[3], [0, 1], [-1]])
def test_a_run_whose_places_do_not_fit_is_refused(tmp_path, added):
    walk = np.random.default_rng(0).normal(size=200).cumsum()
    (tmp_path / "d.csv").write_text("a\n" + "\n".join(map(str, walk)) + "\n")
    data = DataConfig(window=10, stride=2, forecast=("a",))
    train(tmp_path / "d.csv", tmp_path / "run", data_config=data, config=QUICK)
    config = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert config["schema"] == 2  # a version without ``added`` must not read it
    (tmp_path / "run" / CONFIG).write_text(json.dumps(config | {"added": added}))
    with pytest.raises(FileFormatError, match="added"):
        load(tmp_path / "run")


def test_a_difference_needs_a_forecast():
    with pytest.raises(InputError, match="also give --forecast"):
        DataConfig(window=3, targets=("a",), forecast_difference=True)
