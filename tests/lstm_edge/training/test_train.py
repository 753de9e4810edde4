import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from lstm_edge import DataConfig, TrainConfig, train
from lstm_edge.checkpoint import load
from lstm_edge.run_files import CONFIG, RESUME
from lstm_edge.training.resume import read_configs
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError

QUICK = TrainConfig(hidden_size=6, epochs=6, batch_size=4, seed=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes that the sign of a noisy mean tells apart, in series of several lengths."""
    random = np.random.default_rng(0)
    y = np.arange(40) % 2
    x = random.normal(size=(40, 12, 2)) + 3.0 * (2 * y[:, None, None] - 1)
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(
        path,
        x=x.astype(np.float32) * 5 + 100,
        y=np.where(y, "up", "down"),
        lengths=np.where(np.arange(40) % 4, random.integers(6, 13, 40), 12),
        features=np.array(["u", "v"]),
        sampling_rate=np.array(20.0),
    )
    return path


def same_weights(left, right):
    left, right = load(left).model.state_dict(), load(right).model.state_dict()
    return all(torch.equal(left[name], right[name]) for name in left)


def test_two_classes_are_learnt_and_the_run_says_what_it_is(data, tmp_path):
    run = train(data, tmp_path / "run", config=replace(QUICK, epochs=40))
    again = load(tmp_path / "run")
    assert run.summary["test"]["accuracy"] == 1.0
    assert run.summary["test"]["count"] == {"down": 4, "up": 4}
    assert again.summary == json.loads(json.dumps(run.summary))
    assert again.task.labels == ("down", "up")
    assert (again.signal.features, again.signal.sampling_rate) == (("u", "v"), 20.0)
    assert again.signal.window is None
    assert again.sha256 == run.sha256
    assert again.model.readout == "last"


def test_the_scale_is_that_of_the_training_part_alone(tmp_path):
    x = np.zeros((12, 3, 1), np.float32)
    x[:4] = [[[1.0]], [[3.0]], [[1.0]], [[3.0]]]
    x[4:] = 1000.0
    split = np.array(["train"] * 4 + ["validation"] * 4 + ["test"] * 4)
    np.savez(tmp_path / "d.npz", x=x, y=np.arange(12) % 2, split=split)
    run = train(tmp_path / "d.npz", tmp_path / "run", config=replace(QUICK, epochs=1))
    assert run.inputs.mean == (2.0,)
    assert run.inputs.std == (1.0,)
    assert run.summary["split"] == {
        "description": "as defined by the data",
        "notes": [],
        "train": 4,
        "validation": 4,
        "test": 4,
    }


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(data, tmp_path):
    config = replace(QUICK, num_layers=2, dropout=0.4)
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    train(data, tmp_path / "a", config=config)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(6)
    train(data, tmp_path / "b", config=config)
    train(data, tmp_path / "c", config=replace(config, seed=2))
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")


def interrupting(at):
    def on_epoch(epoch):
        if epoch.number == at:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.parametrize(
    "config", [QUICK, replace(QUICK, num_layers=2, dropout=0.4)], ids=["plain", "dropout"]
)
def test_training_that_was_interrupted_and_resumed_equals_training_in_one_go(data, tmp_path, config):
    whole = train(data, tmp_path / "whole", config=config)
    stopped = train(data, tmp_path / "run", config=config, on_epoch=interrupting(3))
    assert (stopped.summary["stopped"], stopped.summary["epochs"]) == ("interrupted", 3)
    assert load(tmp_path / "run").summary["epochs"] == 3
    resumed = train(data, tmp_path / "run", config=config, resume=True)
    assert resumed.sha256 == whole.sha256
    assert resumed.summary == whole.summary


def test_a_whole_run_can_be_trained_for_more_epochs(data, tmp_path):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=2))
    more = train(data, tmp_path / "run", config=QUICK, resume=True)
    assert more.sha256 == train(data, tmp_path / "whole", config=QUICK).sha256


def test_ctrl_c_in_the_middle_of_an_epoch_loses_only_that_epoch(data, tmp_path, monkeypatch):
    whole = train(data, tmp_path / "whole", config=QUICK)
    calls = []

    def interrupted(*arguments, **options):
        calls.append(1)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return clip(*arguments, **options)

    clip = torch.nn.utils.clip_grad_norm_
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
        stopped = train(data, tmp_path / "run", config=QUICK)
    assert stopped.summary["epochs"] == 3
    assert train(data, tmp_path / "run", config=QUICK, resume=True).sha256 == whole.sha256


def test_ctrl_c_before_the_first_epoch_leaves_nothing(data, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", config=QUICK)
    assert not (tmp_path / "run").exists()


def test_training_stops_when_the_validation_loss_no_longer_falls_and_keeps_the_best(data, tmp_path):
    losses = []
    run = train(
        data,
        tmp_path / "run",
        config=replace(QUICK, carry="on", epochs=500, patience=3, learning_rate=0.1),
        on_epoch=lambda epoch: losses.append(epoch.validation_loss),
    )
    assert run.summary["stopped"] == "patience"
    assert run.summary["epochs"] == len(losses) == run.summary["best_epoch"] + 3
    assert losses[run.summary["best_epoch"] - 1] == min(losses)
    config = replace(QUICK, carry="on", epochs=run.summary["best_epoch"], learning_rate=0.1)
    short = train(data, tmp_path / "short", config=config)
    assert short.sha256 == run.sha256


def test_the_gradient_is_clipped(data, tmp_path):
    norms = []

    def record(optimizer, *_):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    hook = register_optimizer_step_pre_hook(record)
    try:
        train(data, tmp_path / "run", config=replace(QUICK, epochs=1, clip=0.01))
    finally:
        hook.remove()
    assert norms
    assert max(norms) <= 0.01001


def test_a_forecast_beats_the_mean_and_is_measured_in_its_own_units(tmp_path):
    t = np.arange(400)
    rows = "\n".join(f"{value:.6f}" for value in 500 + 40 * np.sin(t / 6))
    (tmp_path / "load.csv").write_text("megawatt\n" + rows + "\n")
    run = train(
        tmp_path / "load.csv",
        tmp_path / "run",
        data_config=DataConfig(window=20, stride=2, forecast=("megawatt",), units=("MW",)),
        config=replace(QUICK, hidden_size=12, epochs=30, batch_size=16, learning_rate=0.02),
    )
    assert run.summary["test"]["rmse"]["megawatt"] < 0.2 * 40 / 2**0.5
    assert run.summary["test"]["mae"]["megawatt"] <= run.summary["test"]["rmse"]["megawatt"]
    assert (run.task.kind, run.task.units, run.signal.window) == ("regression", ("MW",), 20)
    assert run.targets.mean[0] == pytest.approx(500, abs=15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 2}, "was trained with seed 1, not 2"),
        ({"hidden_size": 7}, "was trained with hidden_size 6, not 7"),
        ({"learning_rate": 0.1}, "was trained with learning_rate"),
    ],
)
def test_resuming_with_other_options_is_refused_by_name(data, tmp_path, changes, message):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    with pytest.raises(InputError, match=message):
        train(data, tmp_path / "run", config=replace(QUICK, **changes), resume=True)


def test_resuming_on_other_data_is_refused(data, tmp_path):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    arrays = dict(np.load(data))
    np.savez(tmp_path / "other.npz", **{**arrays, "x": arrays["x"] + 1})
    with pytest.raises(InputError, match="was trained on other data"):
        train(tmp_path / "other.npz", tmp_path / "run", config=QUICK, resume=True)


def test_the_configurations_of_a_run_can_be_read_back(data, tmp_path):
    given = DataConfig(validation=0.3)
    train(data, tmp_path / "run", data_config=given, config=QUICK)
    assert read_configs(tmp_path / "run") == (given, QUICK.resolved(20))


@pytest.mark.parametrize(
    "edit",
    [
        lambda loop: loop.clear(),
        lambda loop: loop.update(epochs=[{"x": 1}]),
        lambda loop: loop["model"].popitem(),
        lambda loop: loop.update(order=None),
    ],
    ids=["empty", "epochs", "model", "order"],
)
def test_a_state_of_another_version_is_refused_in_one_line(data, tmp_path, edit):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    path = tmp_path / "run" / RESUME
    content = torch.load(path, weights_only=True)
    edit(content["loop"])
    torch.save(content, path)
    with pytest.raises(FileFormatError, match=r"resume\.pt is of another version") as caught:
        train(data, tmp_path / "run", config=QUICK, resume=True)
    assert "\n" not in str(caught.value)


def test_a_damaged_or_missing_state_to_resume_is_refused(data, tmp_path):
    with pytest.raises(NotFoundError, match="contains no run to resume; train without --resume"):
        train(data, tmp_path / "run", config=QUICK, resume=True)
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    content = (tmp_path / "run" / RESUME).read_bytes()
    (tmp_path / "run" / RESUME).write_bytes(content[: len(content) // 2])
    with pytest.raises(FileFormatError, match=r"resume\.pt can't be read"):
        train(data, tmp_path / "run", config=QUICK, resume=True)
    torch.save({"epoch": 1}, tmp_path / "run" / RESUME)
    with pytest.raises(FileFormatError, match=r"resume\.pt is not what training left"):
        read_configs(tmp_path / "run")
    (tmp_path / "run" / RESUME).unlink()
    os.mkfifo(tmp_path / "run" / RESUME)  # which is refused without waiting
    with pytest.raises((FileFormatError, NotFoundError)):
        read_configs(tmp_path / "run")


def test_a_run_without_a_resume_file_is_not_sent_from_one_option_to_the_other(data, tmp_path):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    (tmp_path / "run" / RESUME).unlink()
    with pytest.raises(NotFoundError, match=r"a run without resume\.pt.*; --overwrite it, or use another"):
        train(data, tmp_path / "run", config=QUICK, resume=True)
    with pytest.raises(InputError, match="already contains a run; --overwrite it, or use another folder"):
        train(data, tmp_path / "run", config=QUICK)
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1), overwrite=True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content["train"].update(hidden_size=2**31),
        lambda content: content["train"].update(learning_rate="0.1"),
        lambda content: content["data"].update(window=torch.ones(3)),
        lambda content: content["loop"].update(best=torch.ones(3)),
        lambda content: content["loop"]["best"]["fc.weight"].mul_(1e38),
        lambda content: content["loop"]["model"].update({"fc.weight": torch.eye(4).to_sparse()}),
        lambda content: content["loop"]["model"].update({"fc.weight": torch.empty(2, 128, device="meta")}),
        lambda content: content["loop"]["epochs"][0].update(best="first"),
        lambda content: content["loop"]["optimizer"]["state"][0].update(exp_avg=torch.ones(1, 2, 3)),
        lambda content: content["loop"].update(dropout=torch.ones(3)),
        lambda content: content["loop"].update(carried={"best": content["loop"]["best"]}),
        lambda content: content["loop"].update(carried=[1]),
    ],
)
def test_wrong_values_in_a_resume_file_are_one_line(data, tmp_path, spoil):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    path = tmp_path / "run" / RESUME
    content = torch.load(path, weights_only=True)
    spoil(content)
    torch.save(content, path)
    with pytest.raises(FileFormatError) as caught:
        train(data, tmp_path / "run", config=QUICK, resume=True)
    assert "train" in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_run_that_is_there_is_replaced_only_when_told(data, tmp_path):
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1))
    before = (tmp_path / "run" / CONFIG).read_bytes()
    with pytest.raises(InputError, match="already contains a run; --resume it, --overwrite it"):
        train(data, tmp_path / "run", config=QUICK)
    assert (tmp_path / "run" / CONFIG).read_bytes() == before
    train(data, tmp_path / "run", config=replace(QUICK, epochs=1, seed=9), overwrite=True)
    assert (tmp_path / "run" / CONFIG).read_bytes() != before


def test_a_learning_rate_that_diverges_says_so(data, tmp_path):
    with pytest.raises(InputError, match=r"the loss is .* in epoch \d+; give a lower --learning-rate"):
        train(data, tmp_path / "run", config=replace(QUICK, learning_rate=1e30))


def test_fewer_samples_than_a_batch_are_refused(data, tmp_path):
    with pytest.raises(InputError, match=r"data\.npz: got 24 samples for training, fewer than a batch of 25"):
        train(data, tmp_path / "run", config=replace(QUICK, batch_size=25))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.npz", None, NotFoundError, r"none\.npz does not exist"),
        ("empty.csv", "", InputError, r"empty\.csv is empty"),
        ("data.txt", "1,2", InputError, r"data\.txt ends in '\.txt'; expected a \.npz, \.npy, \.csv"),
        ("short.csv", "a,label\n1,x\n2,y\n", InputError, r"short\.csv: "),
    ],
)
def test_files_that_are_no_data_are_refused_by_name(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(error, match=message):
        train(tmp_path / name, tmp_path / "run", config=QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"dropout": 1.0, "num_layers": 2}, "dropout is 1.0"),
        ({"dropout": 0.5}, "dropout is applied between layers"),
        ({"crop": 0.0}, "crop is 0.0"),
        ({"device": "gpu"}, "device is 'gpu', expected cpu or cuda"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**options)


def test_units_for_another_number_of_values_are_refused(data, tmp_path):
    with pytest.raises(InputError, match="got 1 unit for 0 values"):
        train(data, tmp_path / "run", data_config=DataConfig(units=("MW",)), config=QUICK)


def test_cuda_that_is_not_there_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device is 'cuda', but PyTorch sees none"):
        train(tmp_path / "none.npz", tmp_path / "run", config=replace(QUICK, device="cuda"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_cuda_learns_as_well_and_gives_a_run_for_the_cpu(data, tmp_path):
    run = train(data, tmp_path / "run", config=replace(QUICK, epochs=40, device="cuda"))
    assert run.summary["test"]["accuracy"] == 1.0
    assert load(tmp_path / "run").model.fc.weight.device.type == "cpu"
    more = train(data, tmp_path / "run", config=replace(QUICK, epochs=42, device="cuda"), resume=True)
    assert more.summary["epochs"] == 42


def test_a_run_folder_that_can_not_be_made_is_refused_before_training(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"file is a file; use a folder"):
        train(data, tmp_path / "file" / "run", config=QUICK)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(InputError, match="can't be written to; use another folder"):
        train(data, tmp_path / "runs" / "a", config=QUICK)
    assert not (tmp_path / "runs").exists()
