"""Training: accuracy, saved files, resuming and refusals."""

import importlib
import json
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch

from lstm_edge import LSTM1, DataConfig, TrainConfig, deployable, load, train
from lstm_edge.data.series import Series, windows_of
from lstm_edge.run_files import METRICS, MODEL, RESUME
from lstm_edge.training.batches import Batch, chunk_batches
from lstm_edge.training.epoch import _training_steps, evaluate, run_batches
from lstm_edge.training.metrics import score_classes
from lstm_edge.training.scoring import advice
from lstm_edge.training.train import read_split
from lstm_edge.training.training import Training, read_state
from lstm_edge_exporters import export
from lstm_edge_runtime import load as load_model
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError

QUICK = TrainConfig(hidden_size=8, epochs=3, batch_size=8)


def save_classes(path, *, lengths=False, count=40, steps=20, seed=0, **more):
    """Write samples that rise or fall, with an offset and a scale."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    slope = np.where(y, 1.0, -1.0)[:, None] * np.linspace(0, 30, steps)
    x = np.stack([1000 + slope, rng.normal(size=slope.shape)], axis=2) + rng.normal(
        0, 3, (count, steps, 2)
    )
    arrays = {"x": x, "y": np.array(["down", "up"])[y], **more}
    if lengths:
        arrays["lengths"] = rng.integers(steps // 2, steps + 1, count)
    np.savez(path, **arrays)
    return path


def test_the_last_step_has_half_of_the_weight_of_a_row():
    reset = torch.tensor([True, True, True])
    batch = Batch(
        torch.zeros(3, 12, 2),
        torch.zeros(3, 12, dtype=torch.int64),
        lengths=torch.tensor([12, 5, 0]),
        offset=torch.tensor([0, 0, 0]),
        sample_length=torch.tensor([12, 12, 12]),
        starts_stream=reset,
    )
    drawn = _training_steps(batch, reset, max_steps=4)
    is_last = drawn.steps == batch.last_step
    last = (drawn.weights * is_last).sum(1)
    assert last.tolist() == [0.5, 0.5, 0]
    np.testing.assert_allclose((drawn.weights * ~is_last).sum(1)[:2], 0.5, rtol=1e-6)


def save_waves(path, *, walk=False, series=10, steps=60):
    """Write a table with noise, or a random walk, and an echo of it: twice its value
    two steps ago."""
    rng = np.random.default_rng(0)
    lines = ["series,a,echo"]
    for index in range(series):
        a = (
            50 + np.cumsum(rng.normal(size=steps))
            if walk
            else rng.normal(50, 10, steps)
        )
        echo = 2 * np.concatenate([a[:1], a[:1], a[:-2]])
        lines += [
            f"s{index},{left:.4f},{right:.4f}"
            for left, right in zip(a, echo, strict=True)
        ]
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_classes(tmp_path_factory.mktemp("data") / "up.npz")


def same_files(left, right):
    return all(
        (left / name).read_bytes() == (right / name).read_bytes()
        for name in (MODEL, RESUME)
    )


def test_classes_are_learnt_and_the_file_takes_raw_units(data, tmp_path):
    run = train(data, tmp_path / "run", config=replace(QUICK, epochs=20))
    test = run.summary["test"]
    assert test["shown"] == "streams"
    assert (
        test["streams"]["accuracy"] == 1.0 > test["baselines"]["majority"]["accuracy"]
    )
    assert test["streams"]["recall"] == {"down": 1.0, "up": 1.0}
    assert run.summary == json.loads((tmp_path / "run" / METRICS).read_text())
    assert load(tmp_path / "run").sha256 == run.sha256
    assert (run.trained.carry, run.trained.window, run.signal.window) == (
        True,
        20,
        None,
    )
    with np.load(data) as arrays:
        x = arrays["x"].astype(np.float32)
        y = arrays["y"]
    with load_model(export(*deployable(run)).model) as model:
        labels = np.array(run.task.labels)[model.run(x)[0]["logits"].argmax(axis=1)]
        assert (labels == y).mean() == 1.0


def test_values_are_learnt_in_their_own_units(tmp_path):
    path = save_waves(tmp_path / "w.csv")
    options = DataConfig(window=20, targets=("echo",), features=("a",), units=("m",))
    run = train(
        path,
        tmp_path / "run",
        data_config=options,
        config=replace(QUICK, epochs=60, hidden_size=16),
    )
    test = run.summary["test"]
    assert (
        test["streams"]["rmse"]["echo"]
        < 0.3 * test["baselines"]["mean"]["rmse"]["echo"]
    )
    assert test["streams"]["mae"]["echo"] <= test["streams"]["rmse"]["echo"]
    assert (run.task.units, run.signal.features) == (("m",), ("a",))


def test_a_forecast_that_persistence_beats_names_the_option_that_helps(tmp_path):
    path = save_waves(tmp_path / "w.csv", walk=True)
    options = DataConfig(window=20, forecast=("a",), features=("a",))
    plain = train(path, tmp_path / "plain", data_config=options, config=QUICK)
    assert any(
        "a is no better than the baseline persistence" in note
        and "--forecast-difference" in note
        for note in plain.summary["notes"]
    )
    difference = train(
        path,
        tmp_path / "difference",
        data_config=replace(options, forecast_difference=True),
        config=QUICK,
    )
    persistence = difference.summary["test"]["baselines"]["persistence"]["rmse"]["a"]
    assert difference.summary["test"]["streams"]["rmse"]["a"] < 1.2 * persistence
    assert load(tmp_path / "difference").model.added == (0,)
    with load_model(export(*deployable(difference)).model) as model:
        x = np.full((1, 9, 1), 70.0, np.float32)
        assert abs(model.run(x)[0]["value"].item() - 70) < 10


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({}, {}),
        ({"window": 8, "stride": 4}, {"carry": "off"}),
        ({}, {"num_layers": 2, "dropout": 0.3}),
        ({}, {"bidirectional": True}),
    ],
)
def test_resuming_gives_the_same_bits(tmp_path, options, config):
    path = save_classes(tmp_path / "d.npz", lengths=not options)
    options = DataConfig(**options)
    config = replace(QUICK, **config, epochs=4)
    train(path, tmp_path / "whole", data_config=options, config=config)
    train(
        path, tmp_path / "parts", data_config=options, config=replace(config, epochs=2)
    )
    saved = read_state(tmp_path / "parts")
    assert saved.data_config == options
    assert saved.config == replace(config, epochs=2)
    more = train(
        path, tmp_path / "parts", data_config=options, config=config, resume=True
    )
    assert more.summary["epochs"] == 4
    whole = load(tmp_path / "whole").model
    parts = load(tmp_path / "parts").model
    assert all(
        map(torch.equal, whole.state_dict().values(), parts.state_dict().values())
    )
    assert (tmp_path / "whole" / MODEL).read_bytes() == (
        tmp_path / "parts" / MODEL
    ).read_bytes()


def test_ctrl_c_keeps_the_best_epoch_and_resumes_to_the_same_bits(
    data, tmp_path, monkeypatch
):
    def interrupt(epoch, epochs):
        if epoch.number == 2:
            raise KeyboardInterrupt

    stopped = train(data, tmp_path / "run", config=QUICK, on_epoch=interrupt)
    assert (stopped.summary["stopped"], stopped.summary["epochs"]) == ("interrupted", 2)
    train(data, tmp_path / "run", config=QUICK, resume=True)
    train(data, tmp_path / "whole", config=QUICK)
    assert same_files(tmp_path / "run", tmp_path / "whole")

    def at_once(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "run_epoch", at_once)
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        train(data, tmp_path / "none", config=QUICK)
    assert not any((tmp_path / "none").iterdir())


def test_a_pruned_network_is_the_best_of_those_with_the_final_density(data, tmp_path):
    """Resumed in the middle of pruning, to the same bits."""

    def interrupt(epoch, epochs):
        if epoch.number == 4:
            raise KeyboardInterrupt

    config = TrainConfig(hidden_size=16, epochs=10, patience=1, density=0.25)
    train(data, tmp_path / "run", config=config, on_epoch=interrupt)
    run = train(data, tmp_path / "run", config=config, resume=True)
    train(data, tmp_path / "whole", config=config)
    assert same_files(tmp_path / "run", tmp_path / "whole")
    assert run.summary["best_epoch"] >= 6
    weight = run.model.lstm.weight_hh_l0
    blocks = weight.detach().reshape(4, 16, 16).abs().amax(1)
    assert float(blocks.gt(0).float().mean()) == 0.25


def test_training_stops_without_improvement(data, tmp_path):
    config = replace(QUICK, epochs=50, patience=2, learning_rate=0.3)
    run = train(data, tmp_path / "run", config=config)
    assert run.summary["stopped"] == "patience"
    assert run.summary["epochs"] == run.summary["best_epoch"] + 2


def test_a_second_training_into_one_folder_is_refused(data, tmp_path):
    refused = []

    def second(epoch, epochs):
        with pytest.raises(InputError, match="another process is writing to"):
            train(data, tmp_path / "run", config=QUICK, overwrite=True)
        refused.append(epoch)

    train(data, tmp_path / "run", config=replace(QUICK, epochs=1), on_epoch=second)
    assert refused
    with pytest.raises(
        InputError, match="already contains a run; --resume or --overwrite it"
    ):
        train(data, tmp_path / "run", config=QUICK)
    (
        half := tmp_path / "run" / ".model.safetensors.00000000.tmp"
    ).touch()  # of a killed process
    train(
        data, tmp_path / "run", config=replace(QUICK, seed=3, epochs=1), overwrite=True
    )
    assert (read_state(tmp_path / "run").config.seed, half.exists()) == (3, False)


def test_overwrite_keeps_the_old_run_until_the_new_one_is_written(
    data, tmp_path, monkeypatch
):
    monkeypatch.setattr(importlib.import_module(train.__module__), "_SAVE_EVERY", 0)
    folder = tmp_path / "run"
    train(data, folder, config=QUICK)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {"model.safetensors", "metrics.json"} <= set(before)
    with pytest.raises(InputError, match="the loss is nan in epoch 1"):
        train(
            data,
            folder,
            config=replace(QUICK, learning_rate=1e20, epochs=5),
            overwrite=True,
        )

    def stop(epoch, _epochs):
        if epoch.number == 2:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(data, folder, config=QUICK, overwrite=True, on_epoch=stop)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (folder / "report.html").write_text("old")
    run = train(data, folder, config=replace(QUICK, seed=3), overwrite=True)
    assert load(folder).sha256 == run.sha256
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    "names", [["report.html"], ["model.safetensors", "config.json"]]
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_refused(data, tmp_path, names, overwrite):
    folder = tmp_path / "home"
    folder.mkdir()
    for name in names:
        (folder / name).write_text("precious")
    with pytest.raises(InputError, match=r"contains|already contains"):
        train(data, folder, config=QUICK, overwrite=overwrite)
    assert [(folder / name).read_text() for name in names] == ["precious"] * len(names)


def test_a_link_in_place_of_the_lock_is_refused(data, tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match=r"\.lock is a link"):
        train(data, tmp_path / "run", config=QUICK)
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.system
def test_a_killed_training_is_resumed_or_started_again(data, tmp_path):
    program = (
        "import sys; from lstm_edge.training import train as t; t._SAVE_EVERY ="
        " float(sys.argv[3])\nt.train(sys.argv[1], sys.argv[2],"
        " config=t.TrainConfig(hidden_size=8, epochs=100000, batch_size=8),"
        " on_epoch=lambda epoch, _: print(epoch.number, flush=True))"
    )
    for interval in (1e9, 0.0):
        folder = tmp_path / f"run-{interval}"
        command = [sys.executable, "-c", program, str(data), str(folder), str(interval)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ran:
            while ran.stdout.readline().strip() != "3":
                assert ran.poll() is None
            time.sleep(0.05)
            ran.kill()
        if interval:
            train(
                data, folder, config=QUICK
            )  # nothing was saved, so that it starts again
            continue
        with pytest.raises(
            NotFoundError, match="its training was stopped; train again with --resume"
        ):
            load(folder)
        done = len(read_state(folder).facts["history"])
        config = replace(QUICK, epochs=done + 1)
        train(data, folder, config=config, resume=True)
        train(data, tmp_path / "whole", config=config)
        assert same_files(folder, tmp_path / "whole")


def test_what_can_not_be_resumed_is_refused(data, tmp_path):
    with pytest.raises(NotFoundError, match="contains no run to resume"):
        train(data, tmp_path / "run", config=QUICK, resume=True)
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    other = save_classes(tmp_path / "o.npz", seed=9)
    for path, config in ((data, replace(QUICK, seed=5)), (other, QUICK)):
        with pytest.raises(
            InputError, match="was trained on other data or with other options"
        ):
            train(path, tmp_path / "run", config=config, resume=True)
    content = (tmp_path / "run" / RESUME).read_bytes()
    for wrong, message in (
        (content[:-9], "can't be read as a checkpoint"),
        (
            content.replace(b'\\"epochs\\"', b'\\"epoXXs\\"'),
            "has no state of a training",
        ),
    ):
        (tmp_path / "run" / RESUME).write_bytes(wrong)
        with pytest.raises(FileFormatError, match=message):
            train(data, tmp_path / "run", config=QUICK, resume=True)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        ({"window": 99}, {}, "has 20 steps, fewer than --window 99"),
        ({"units": ("m",)}, {}, "expected one unit for each value to predict"),
        ({}, {"learning_rate": 1e30}, "give a lower --learning-rate than 1e"),
        *(
            []
            if torch.cuda.is_available()
            else [({}, {"device": "cuda"}, "PyTorch finds no CUDA device")]
        ),
        ({}, {"hidden_size": 0}, "hidden_size is 0, expected 1 or more"),
        (
            {},
            {"density": 0.2, "hidden_size": 24},
            "density 0.2 prunes blocks of 16x1; expected a hidden size that is a"
            " multiple of 16, got 24",
        ),
        ({}, {"density": 0.0}, "density is 0.0, expected"),
        ({}, {"dropout": 0.5}, "dropout is applied between layers"),
        ({}, {"learning_rate": 1e38}, r"learning_rate is 1e\+38, expected"),
    ],
)
def test_what_can_not_be_trained_is_refused(data, tmp_path, options, config, message):
    with pytest.raises(InputError, match=message):
        train(
            data,
            tmp_path / "run",
            data_config=DataConfig(**options),
            config=replace(QUICK, **config),
        )


def test_folds_score_every_series_and_report_the_spread_also_with_weighted_classes(
    data, tmp_path
):
    config = replace(QUICK, epochs=1, class_weight="balanced")
    run = train(data, tmp_path / "run", data_config=DataConfig(folds=3), config=config)
    scores = run.summary["cross_validation"]["accuracy"]
    assert len(scores["folds"]) == 3
    assert scores["mean"] == pytest.approx(np.mean(scores["folds"]))


@pytest.mark.parametrize(
    ("recall", "weight", "advised"),
    [(0.0, "none", True), (0.5, "none", False), (0.0, "balanced", False)],
)
def test_a_rare_class_that_is_never_recognized_gets_advice(
    tmp_path, recall, weight, advised
):
    save_classes(tmp_path / "d.npz", y=np.array(["common"] * 37 + ["rare"] * 3))
    split, _ = read_split(tmp_path / "d.npz", DataConfig(), 0)
    windows = {"accuracy": 0.9, "recall": {"common": 1.0, "rare": recall}}
    scores = {
        "shown": "windows",
        "windows": windows,
        "baselines": {"majority": {"accuracy": 0.5}},
    }
    sets = {"validation": None, "test": scores}
    config = replace(QUICK, class_weight=weight)
    notes = advice(split.data, DataConfig(), config, sets)
    assert (
        any(
            "class 'rare' has" in note and "--class-weight balanced" in note
            for note in notes
        )
        == advised
    )


def test_a_bidirectional_network_is_trained_from_reset(data, tmp_path):
    run = train(
        data, tmp_path / "run", config=replace(QUICK, epochs=10, bidirectional=True)
    )
    assert run.summary["test"].keys() == {"windows", "baselines", "shown"}
    assert run.summary["test"]["windows"]["accuracy"] == 1.0
    assert (run.trained.carry, run.trained.reset) == (False, 1.0)


def series_of(*lengths):
    x = [
        np.full((length, 1), index, np.float32) for index, length in enumerate(lengths)
    ]
    return [
        Series(str(index), "", "train", steps, steps[:, 0].astype(int))
        for index, steps in enumerate(x)
    ]


def test_rows_of_batches_walk_through_every_step_once():
    batches = list(
        chunk_batches(series_of(5, 3, 4), 2, chunk=2, window=2, joined=False)
    )
    steps = [
        (int(batch.y[row, step]), int(batch.offset[row]) + step)
        for batch in batches
        for row in range(2)
        for step in range(int(batch.lengths[row]))
    ]
    assert sorted(steps) == [
        (row, step) for row, count in enumerate((5, 3, 4)) for step in range(count)
    ]
    assert all(torch.equal(batch.offset == 0, batch.starts_stream) for batch in batches)


def test_the_picked_steps_estimate_the_loss_of_all(data):
    split, _ = read_split(data, DataConfig(), 0)
    training = Training(split, DataConfig(), QUICK)
    batches = list(
        chunk_batches(split.data.of("train"), 24, chunk=None, window=5, joined=False)
    )
    torch.manual_seed(0)
    score = partial(evaluate, training.net, batches, loss=training.loss, carry=0.0)
    whole = score().loss
    some = [score(max_steps=4).loss for _ in range(200)]
    assert np.mean(some) == pytest.approx(whole, abs=4 * np.std(some) / 200**0.5)


def test_without_carried_states_an_epoch_draws_the_windows_at_the_stride(data):
    options = DataConfig(window=8, stride=4)
    split, _ = read_split(data, options, 0)
    config = replace(QUICK, carry="off", batch_size=1)
    windows = windows_of(split.data.of("train"), 8, 4)
    batches = islice(Training(split, options, config)._batches(1), len(windows))
    drawn = {batch.x.numpy().tobytes() for batch in batches}
    assert drawn == {window.x.tobytes() for window in windows}


def test_classes_are_counted_as_scikit_learn_does():
    predicted = torch.tensor([0, 0, 1, 1, 0])
    y = torch.tensor([0, 1, 1, 1, 0])
    scores = score_classes(predicted, y, ("a", "b", "c"))
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["precision"] == {"a": pytest.approx(2 / 3), "b": 1.0, "c": None}
    assert scores["recall"] == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    assert scores["confusion"] == [[2, 0, 0], [1, 2, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("keep", "joined", "parts", "carried"),
    [
        (1.0, False, 1, True),
        (0.0, False, 1, False),
        (1.0, True, 2, True),
        (1.0, False, 2, False),
    ],
)
def test_a_chunk_continues_from_the_state_of_its_lane_or_starts_from_zeros(
    keep, joined, parts, carried
):
    torch.manual_seed(0)
    net = LSTM1(3, 2, 4, 2, 5, readout="last")
    rng = np.random.default_rng(0)
    xs = rng.normal(size=(2, 8, 2)).astype(np.float32)
    records = [
        Series("", "", "", x, np.zeros(len(x)))
        for part in np.split(xs, parts, 1)
        for x in part
    ]
    batches = chunk_batches(records, 2, chunk=4, window=4, joined=joined)
    outputs = [result.outputs for result in run_batches(net.eval(), batches, keep)]
    ends = [net(torch.from_numpy(xs[:, start:])) for start in (0, 4)]
    assert not torch.allclose(*ends, atol=1e-3)
    assert torch.allclose(outputs[1][:, -1], ends[0 if carried else 1], atol=1e-6)
