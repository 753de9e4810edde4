import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lstm_edge.checkpoint import load

MAIN = ["-c", "from lstm_edge.cli import main; main()"]
FAST = ["--hidden-size", "6", "--epochs", "4", "--patience", "9", "--batch-size", "4"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    y = np.arange(30) % 2
    path = tmp_path / "data.npz"
    np.savez(
        path,
        x=(random.normal(size=(30, 8, 2)) + y[:, None, None]).astype(np.float32),
        y=y,
    )
    return path


def process(*arguments):
    command = [sys.executable, *MAIN, *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_training_prints_a_summary_and_the_next_command(invoke, data):
    code, out, err = invoke("train", data, "-o", "run", *FAST)
    assert code == 0
    assert "epochs: 4\nbest epoch: " in out
    assert "parameters: 1,394\n" in out
    assert "data features: 2\n" in out
    assert "data classes: 0, 1\n" in out
    assert "seconds: " in out
    assert "recall 1, streams" in out
    assert "test (6 series)" in out
    assert "lstm-edge export run -o model.onnx" in out
    assert "epoch 4/4  loss" in err
    assert json.loads(Path("run/metrics.json").read_text())["epochs"] == 4
    page = Path("run/report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "Confusion matrix" in page


def test_json_is_all_that_is_printed(invoke, data):
    code, out, err = invoke("train", data, "-o", "run", *FAST, "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["sha256"] == load("run").sha256
    assert document["test"]["streams"]["recall"].keys() == {"0", "1"}


def test_resume_takes_the_options_of_the_run(invoke, data):
    invoke("train", data, "-o", "run", *FAST, "--seed", "5")
    code, out, _ = invoke(
        "train", data, "-o", "run", "--resume", "--epochs", "7", "--json"
    )
    assert code == 0
    assert json.loads(out)["epochs"] == 7
    assert json.loads(out)["config"]["seed"] == 5
    code, _, err = invoke("train", data, "-o", "run", "--resume", "--seed", "6")
    assert code == 2
    assert err.startswith("error: run was trained on other data or with other options")


def test_columns_and_values_are_named_by_options(invoke, data):
    rows = [
        f"{ride},{t},{t % 5},{t % 5 * 2 + ride},x"
        for ride in range(6)
        for t in range(20)
    ]
    Path("log.csv").write_text("ride,t,speed,power,note\n" + "\n".join(rows) + "\n")
    code, out, _ = invoke(
        *(
            "train",
            "log.csv",
            "-o",
            "run",
            *FAST,
            "--series",
            "ride",
            "--order",
            "t",
            "--features",
            "speed",
        ),
        *(
            "--target",
            "power",
            "--units",
            "W",
            "--window",
            "5",
            "--stride",
            "5",
            "--rate",
            "4",
            "--json",
        ),
    )
    assert code == 0
    assert json.loads(out)["test"]["streams"]["rmse"].keys() == {"power"}
    run = load("run")
    assert (run.task.units, run.signal.sampling_rate, run.signal.features) == (
        ("W",),
        4.0,
        ("speed",),
    )


@pytest.mark.system
def test_ctrl_c_keeps_the_best_so_far_says_so_and_can_be_resumed(data, tmp_path):
    arguments = [
        "train",
        data,
        "-o",
        tmp_path / "run",
        "--hidden-size",
        "6",
        "--batch-size",
        "4",
    ]
    ran = process(*arguments, "--epochs", "100000", "--patience", "100000")
    try:
        while "epoch 1/" not in (line := ran.stderr.readline()):
            assert line, "training ended before its first epoch"
        time.sleep(0.3)
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=60)
    finally:
        ran.kill()
    assert ran.returncode == 130
    assert "stopped: interrupted" in out
    assert "--resume" in out
    assert "Traceback" not in err
    done = json.loads((tmp_path / "run" / "metrics.json").read_text())["epochs"]
    again = process(*arguments[:4], "--resume", "--epochs", str(done + 2), "--json")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert json.loads(out)["epochs"] == done + 2
