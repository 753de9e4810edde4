"""Training with carried states: networks that are right in a long stream, not only after a reset."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_edge import LSTM1, DataConfig, TrainConfig, deployable, load, train
from lstm_edge.results import top_rows
from lstm_edge.run_files import METRICS, RESUME
from lstm_edge.training.lanes import Lanes
from lstm_edge.training.loop import surely_lower
from lstm_edge.training.metrics import recognition_metrics
from lstm_edge.training.series import SeriesSet, cut_streams
from lstm_edge_exporters import export
from lstm_edge_runtime import load as open_model
from lstm_edge_runtime.errors import FileFormatError, InputError
from lstm_edge_runtime.manifest import Trained

WINDOW = 20
TABLE = DataConfig(series="run", order="t", label="label", window=WINDOW)
QUICK = TrainConfig(hidden_size=16, epochs=40, learning_rate=0.01)


def table(path, series):
    """Write ``(label, x (L, I))`` of each series as a table."""
    rows = ["run,t,label," + ",".join(f"x{column}" for column in range(series[0][1].shape[1]))]
    for run, (label, x) in enumerate(series):
        lines = [",".join(f"{value:.4f}" for value in row) for row in x]
        rows += [f"r{run},{t},{label},{line}" for t, line in enumerate(lines)]
    path.write_text("\n".join(rows))
    return path


def three_frequencies(random, t):
    """Three classes that their frequency tells apart, behind noise that wanders."""
    for run in range(24):
        noise = random.normal(0, 0.1, len(t))
        for at in range(1, len(t)):
            noise[at] += 0.97 * noise[at - 1]
        signal = np.sin(t * (0.2 + 0.2 * (run % 3))) + noise + random.normal(0, 0.2, len(t))
        yield f"c{run % 3}", np.stack([signal, noise + random.normal(0, 0.1, len(t))], axis=1)


def remembered_pulse(random, t):
    """Two classes that a pulse near the start tells apart, and nothing afterwards."""
    for run in range(40):
        pulse = np.where((t == 3) | (t == 4), 3.0 * (2 * (run % 2) - 1), 0.0)
        yield f"c{run % 2}", (pulse + random.normal(0, 0.3, len(t)))[:, None]


def drifting_sensor(random, t):
    """Two classes that their frequency tells apart, from a sensor whose zero drifts away."""
    for run in range(30):
        zero = random.normal() + random.normal(0, 0.01) * t
        signal = zero + np.sin(t * (0.3 + 0.6 * (run % 2))) + random.normal(0, 0.2, len(t))
        yield f"c{run % 2}", signal[:, None]


def activities(path):
    """Write recordings of four activities: two frequencies, two strengths of another channel."""
    random, t, y = np.random.default_rng(3), np.arange(WINDOW), np.arange(160) % 4
    x = []
    for one in y:
        wave = np.sin(t * (0.3 + 0.3 * (one % 2)) + random.uniform(0, 2 * np.pi))
        noise = random.normal(0, 0.3 + 0.7 * (one // 2), WINDOW)
        x.append(np.stack([wave + random.normal(0, 0.2, WINDOW), noise], axis=1))
    np.savez(path, x=np.array(x, np.float32), y=np.array(["run", "sit", "stairs", "walk"])[y])
    return path


SETS = {each.__name__: each for each in (three_frequencies, remembered_pulse, drifting_sensor)}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the data file of a set by name, and how to read it."""
    folder = tmp_path_factory.mktemp("made")

    def make(name):
        path = folder / f"{name}.csv"
        if name == "activities":
            return activities(path.with_suffix(".npz")), DataConfig()
        if not path.exists():
            table(path, list(SETS[name](np.random.default_rng(5), np.arange(10 * WINDOW))))
        return path, TABLE

    return make


@pytest.mark.system
@pytest.mark.parametrize("name", [*SETS, "activities"])
def test_streams_ten_windows_long_are_as_right_as_windows_from_reset(made, tmp_path, name):
    data, data_config = made(name)
    run = train(data, tmp_path, data_config=data_config, config=QUICK)
    test = run.summary["test"]
    assert test["accuracy"] >= max(0.9, test["windows"]["accuracy"] - 0.02)
    streams = json.loads((tmp_path / METRICS).read_text())["streams"]
    assert streams["window"] == WINDOW
    assert len(streams["carried"]) * streams["width"] == 10 * WINDOW
    assert len(streams["restarted"]) * streams["width"] == WINDOW
    early, late = np.split(np.array(streams["carried"]), 2)
    assert late.mean() >= early.mean() - 0.05
    assert run.trained == Trained(carry=True, window=WINDOW, reset=0.5)


def test_training_from_reset_is_found_out_and_said(made, tmp_path):
    data, data_config = made("three_frequencies")
    run = train(data, tmp_path, data_config=data_config, config=replace(QUICK, carry="off"))
    test = run.summary["test"]
    assert test["accuracy"] >= 0.95
    assert test["streams"]["accuracy"] < 0.8
    assert f"{test['streams']['accuracy']:.3f} with carried states" in run.summary["states"]
    assert "--carry on" in run.summary["states"]
    assert run.trained == Trained(carry=False, window=WINDOW, reset=1.0)


def test_the_score_is_that_of_the_exported_file_step_by_step(made, tmp_path):
    data, data_config = made("three_frequencies")
    run = train(data, tmp_path / "run", data_config=data_config, config=QUICK)
    names = json.loads((tmp_path / "run" / METRICS).read_text())["streams"]["series"]
    artifact = export(*deployable(run))
    artifact.save(tmp_path / "model.onnx")
    assert artifact.manifest.trained == run.trained
    series = list(three_frequencies(np.random.default_rng(5), np.arange(10 * WINDOW)))
    with open_model(tmp_path / "model.onnx") as model:
        for name, score in list(names.items())[:2]:
            label, x = series[int(name[1:])]
            stream = model.stream()
            said = [run.task.labels[stream.step(row.round(4).astype(np.float32)).argmax()] for row in x]
            assert np.mean([each == label for each in said[WINDOW - 1 :]]) == pytest.approx(score, abs=0.03)


@pytest.mark.parametrize("crop", [1.0, 0.4])
@pytest.mark.parametrize("name", ["three_frequencies", "activities"])
def test_a_resumed_training_equals_one_in_one_go(made, tmp_path, name, crop):
    data, data_config = made(name)
    config = replace(QUICK, epochs=5, crop=crop, num_layers=2, dropout=0.2)

    def interrupt(epoch):
        if epoch.number == 3:
            raise KeyboardInterrupt

    whole = train(data, tmp_path / "whole", data_config=data_config, config=config)
    train(data, tmp_path / "run", data_config=data_config, config=config, on_epoch=interrupt)
    resumed = train(data, tmp_path / "run", data_config=data_config, config=config, resume=True)
    assert resumed.sha256 == whole.sha256
    assert resumed.summary == whole.summary


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("at", torch.full((16,), 10**6)),
        ("now", torch.full((16,), 99)),
        ("since", torch.full((16,), -1)),
        ("left", torch.zeros(3)),
        ("state", (torch.zeros(1, 3, 16), torch.zeros(1, 3, 16))),
    ],
)
def test_lanes_that_do_not_fit_are_refused(made, tmp_path, name, value):
    data, data_config = made("three_frequencies")
    train(data, tmp_path, data_config=data_config, config=replace(QUICK, epochs=1))
    state = torch.load(tmp_path / RESUME, weights_only=True)
    state["loop"]["lanes"][name] = value
    torch.save(state, tmp_path / RESUME)
    with pytest.raises(FileFormatError, match="another version"):
        train(data, tmp_path, data_config=data_config, config=replace(QUICK, epochs=2), resume=True)


def test_values_and_forecasts_are_scored_on_streams(tmp_path):
    random = np.random.default_rng(0)
    rows = ["series,order,a,b"]
    for run in range(8):
        a = np.sin(np.arange(60) / 3 + run) + random.normal(0, 0.05, 60)
        rows += [f"{run},{t},{value:.4f},{3 * value + 100:.4f}" for t, value in enumerate(a)]
    (tmp_path / "d.csv").write_text("\n".join(rows))
    config = replace(QUICK, epochs=30, batch_size=4)
    for task in ({"targets": ("b",)}, {"forecast": ("a", "b")}):
        folder, data_config = tmp_path / next(iter(task)), DataConfig(window=10, **task)
        run = train(tmp_path / "d.csv", folder, data_config=data_config, config=config)
        test = run.summary["test"]
        assert test["rmse"]["b"] < 1.0 > test["windows"]["rmse"]["b"]
        assert run.trained == Trained(carry=True, window=10, reset=0.5)


def test_samples_of_several_lengths_have_no_window(tmp_path):
    y = np.arange(30) % 2
    x = np.random.default_rng(0).normal(size=(30, 9, 1)) + 4 * y[:, None, None]
    np.savez(tmp_path / "d.npz", x=x.astype(np.float32), y=y, lengths=5 + np.arange(30) % 5)
    run = train(tmp_path / "d.npz", tmp_path / "run", config=replace(QUICK, batch_size=4))
    assert run.trained == Trained(carry=True, window=None, reset=0.5)
    assert run.summary["test"]["accuracy"] == run.summary["test"]["windows"]["accuracy"] == 1.0


def test_a_bidirectional_network_stays_with_windows_from_reset_and_says_so(made, tmp_path):
    data, data_config = made("activities")
    config = replace(QUICK, epochs=2, bidirectional=True)
    run = train(data, tmp_path, data_config=data_config, config=config)
    assert "bidirectional" in run.summary["states"]
    assert not {"streams", "windows"} & set(run.summary["test"])
    assert run.trained == Trained(carry=False, window=WINDOW, reset=1.0)
    assert load(tmp_path).model.lstm.bidirectional
    with pytest.raises(InputError, match="--carry on or --bidirectional"):
        replace(config, carry="on")


@pytest.fixture(scope="module")
def gestures(tmp_path_factory):
    """Return a data file: a pulse comes at one of four steps after the start of a sample of any length."""
    random, y = np.random.default_rng(7), np.arange(120) % 4
    x = random.normal(0, 0.2, (120, 24, 1))
    x[np.arange(120), 1 + 3 * y] += 2
    path = tmp_path_factory.mktemp("gestures") / "gestures.npz"
    np.savez(path, x=x.astype(np.float32), y=y, lengths=random.integers(12, 25, 120))
    return path


SHORT = TrainConfig(hidden_size=16, epochs=45, patience=45, learning_rate=0.02)


@pytest.mark.system
def test_samples_that_are_needed_whole_stay_with_windows_from_reset_and_say_so(gestures, tmp_path):
    seen = []

    def interrupt(epoch):
        seen.append((epoch.number, epoch.trial))
        if epoch.number == 38:
            raise KeyboardInterrupt

    whole = train(gestures, tmp_path / "whole", config=SHORT)
    assert whole.trained == Trained(carry=False, window=None, reset=1.0)
    assert whole.summary["states"].startswith("windows from reset; the output needs the whole sample")
    assert "--carry on" in whole.summary["states"]
    assert whole.summary["test"]["accuracy"] > whole.summary["test"]["streams"]["accuracy"]
    train(gestures, tmp_path / "run", config=replace(SHORT, epochs=30), on_epoch=interrupt)
    train(gestures, tmp_path / "run", config=SHORT, resume=True, on_epoch=interrupt)
    resumed = train(gestures, tmp_path / "run", config=SHORT, resume=True)
    assert [number for number, _ in seen] == [*range(1, 31), *range(21, 39)]  # the trial is repeated
    assert [number for number, trial in seen if trial] == [*range(21, 31), *range(31, 39)]
    assert (resumed.sha256, resumed.summary) == (whole.sha256, whole.summary)
    alone = train(gestures, tmp_path / "off", config=replace(SHORT, carry="off", epochs=15))
    assert alone.sha256 == whole.sha256
    carried = train(gestures, tmp_path / "on", config=replace(SHORT, carry="on", epochs=2))
    assert carried.trained == Trained(carry=True, window=None, reset=0.5)


def test_a_difference_in_the_validation_set_alone_is_said(gestures, tmp_path):
    split = ["train"] * 80 + ["validation"] * 39 + ["test"]  # a stream of one sample is a window
    np.savez(tmp_path / "d.npz", **np.load(gestures), split=split)
    run = train(tmp_path / "d.npz", tmp_path / "run", config=replace(SHORT, carry="off", epochs=15))
    streams = run.summary["validation"]["streams"]["accuracy"]
    assert f"accuracy {streams:.3f} with carried states" in run.summary["states"]
    assert "in the validation set: training saw no state older than a window" in run.summary["states"]


@pytest.mark.parametrize(
    ("carried", "reset", "lower"),
    [
        ([1.0, 1.3, 0.9, 1.2], [0.2, 0.3, 0.2, 0.1], True),
        ([0.2, 0.3, 0.2, 0.1], [1.0, 1.3, 0.9, 1.2], False),
        ([0.3, 0.4, 0.3, 0.2], [0.25, 0.35, 0.25, 0.15], False),  # surely, by too little
        ([3.0, 0.2, 0.1, 0.3], [0.1, 0.3, 0.2, 0.2], False),  # by one sample
        ([3.0], [0.1], False),
    ],
)
def test_the_trial_from_reset_is_kept_for_a_loss_that_is_surely_lower(carried, reset, lower):
    assert surely_lower(torch.tensor(reset), torch.tensor(carried)) is lower


class Memory:
    """Stands for a network: its state is the last sample, its output whether the samples follow on that."""

    def __init__(self, rows):
        self.lstm, self.steps, self.rows = SimpleNamespace(), [], rows

    def hidden_at(self, x, steps, state, lengths):
        lengths = torch.full((len(x),), x.shape[1]) if lengths is None else lengths
        before = torch.zeros(len(x)) if state is None else state[0][0, :, 0]
        last = x[torch.arange(len(x)), lengths - 1, 0]
        self.steps.append((before, x[:, 0, 0], last, lengths))
        return x[torch.arange(len(x))[:, None], steps], (last[None, :, None], last[None, :, None])

    def head(self, hidden):
        return hidden


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 40), min_size=1, max_size=6),
    window=st.sampled_from([None, 1, 3, 5]),
    rows=st.integers(1, 7),
    joined=st.booleans(),
    crop=st.sampled_from([1.0, 0.3]),
)
def test_lanes_carry_the_state_of_the_step_before_or_start_from_reset(sizes, window, rows, joined, crop):
    size = torch.tensor(sizes)
    begin = size.cumsum(0) - size
    x = torch.arange(1.0, int(size.sum()) + 1)[:, None]
    series = SeriesSet(x, x, begin, size, window, joined or window is None)
    lanes, model = Lanes(series, rows, crop, torch.Generator().manual_seed(0)), Memory(rows)
    losses = [float(lanes.loss(model, torch.nn.MSELoss(reduction="none"))) for _ in range(30)]
    assert losses == [0.0] * 30  # each output belongs to its own step's target
    firsts, lasts = begin + 1.0, begin + size
    for number, (before, first, last, lengths) in enumerate(model.steps):
        owner = torch.searchsorted(begin, first.long() - 1, right=True) - 1
        assert bool((last <= lasts[owner]).all())
        assert torch.equal(last - first + 1, lengths.float())
        if window is None and crop == 1:
            assert torch.equal(first, firsts[owner])
        reset = before == 0
        assert bool(reset[: rows // 2].all())
        if number == 0:
            assert bool(reset.all())
            continue
        follows = before == first - 1
        if not series.joined:
            assert bool((reset | follows)[rows // 2 :].all())
        assert bool((reset | (before == model.steps[number - 1][2])).all())
    if window is not None and window < min(sizes) // 2 and crop == 1:
        walked = [(before == first - 1)[rows // 2 :] for before, first, *_ in model.steps[1:]]
        assert bool(torch.stack(walked).any())


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(4, 30), min_size=1, max_size=8),
    windows=st.integers(1, 4),
    window=st.sampled_from([None, 3, 4]),
    joined=st.booleans(),
    cut=st.booleans(),
)
def test_streams_hold_every_step_once_and_say_since_when(sizes, windows, window, joined, cut):
    size = torch.tensor(sizes)
    x = torch.zeros(int(size.sum()), 1)
    series = SeriesSet(x, x, size.cumsum(0) - size, size, window, joined or window is None)
    streams = cut_streams(series, windows, cut=cut)
    assert sorted(streams.step[streams.valid].tolist()) == list(range(len(x)))
    longest = windows * max(window or max(sizes), 1)
    for row, valid in enumerate(streams.valid):
        steps, since, owner = (each[row][valid] for each in (streams.step, streams.since, streams.series))
        assert since[0] == 0
        on = since[1:] > 0
        assert bool((steps[1:] == steps[:-1] + 1)[on].all())
        assert bool((owner[1:] == owner[:-1])[on].all())
        if not series.joined:
            assert bool(on.all())
        if cut and not series.joined:
            assert len(steps) <= longest


def slow_recognition(predicted, y, starts):
    found, at = [], 0
    while at < len(y):
        end = at + 1
        while end < len(y) and y[end] == y[at] and not starts[end]:
            end += 1
        right = [predicted[step] == y[step] for step in range(at, end)]
        places = [step for step in range(len(right)) if all(right[step : step + 5])]
        found.append(places[0] + 1 if places else math.inf)
        at = end
    return sorted(found)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1), st.integers(0, 9)), min_size=1, max_size=60))
def test_a_class_is_recognized_where_five_right_steps_begin(steps):
    predicted, y, chance = (list(each) for each in zip(*steps, strict=True))
    starts = [index == 0 or each == 0 for index, each in enumerate(chance)]
    found, expected = recognition_metrics(predicted, y, starts), slow_recognition(predicted, y, starts)
    assert found["events"] == len(expected)
    for name, share in (("median", 0.5), ("p90", 0.9)):
        steps = math.inf if found[name] is None else found[name]
        assert sum(each <= steps for each in expected) >= share * len(expected)
        assert sum(each < steps for each in expected) < share * len(expected)


@pytest.mark.parametrize("readout", ["stacked", "last"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_an_output_at_each_step_is_what_a_stream_returns(readout, batch_first):
    torch.manual_seed(0)
    model = LSTM1(3, 2, 4, 2, 5, readout=readout, batch_first=batch_first).eval()
    x, lengths = torch.randn(3, 6, 2), torch.tensor([6, 2, 4])
    turned = x if batch_first else x.transpose(0, 1)
    with torch.no_grad():
        hidden, _ = model.hidden_steps(turned)
        outputs = model.head(hidden if batch_first else hidden.transpose(0, 1))
        steps = torch.stack([lengths - 1, torch.zeros_like(lengths)], dim=1)
        some, (h_n, c_n) = model.hidden_at(turned, steps, None, lengths)
        assert torch.allclose(model.head(some), outputs[torch.arange(3)[:, None], steps], atol=1e-6)
        assert torch.allclose(some, model.hidden_at(turned, steps)[0], atol=1e-6)
        for row, length in enumerate(lengths):
            state = (torch.zeros(2, 1, 4), torch.zeros(2, 1, 4))
            for step in range(length):
                sample = x[row, step].reshape(1, 1, 2)
                logits, state = model.forward_with_state(sample, state)
                np.testing.assert_allclose(outputs[row, step], top_rows(logits.numpy(), 1)[0], atol=1e-6)
            assert torch.allclose(state[0][:, 0], h_n[:, row], atol=1e-6)
            assert torch.allclose(state[1][:, 0], c_n[:, row], atol=1e-6)
    with pytest.raises(InputError, match="bidirectional"):
        LSTM1(3, 2, 4, 1, 5, bidirectional=True).hidden_steps(x)
