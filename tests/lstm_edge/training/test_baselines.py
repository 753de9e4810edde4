import numpy as np
import pytest
import torch

from lstm_edge import TrainConfig, train
from lstm_edge.data.config import DataConfig
from lstm_edge.data.recordings import Recording
from lstm_edge.training.baselines import find_season, forecast_baselines, majority_baseline
from lstm_edge.training.dataset import fit_scale
from lstm_edge.training.series import SeriesSet

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
    data = DataConfig(window=20, stride=3, forecast=("load",))
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
