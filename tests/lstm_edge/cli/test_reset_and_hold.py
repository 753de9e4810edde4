"""Files whose training started every window from reset; labels that count once they have stayed."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from lstm_edge.hold import Hold
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Trained

MAIN = "from lstm_edge.cli import main; main()"
X = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
WINDOW, WHOLE = Trained(False, 6, 1.0), Trained(False, None, 1.0)
NOTE = "note: each training window started from reset, so "


@pytest.fixture(scope="module")
def from_reset(make):
    """Each window of 6 steps started from reset."""
    return make("from_reset", trained=WINDOW).path


def stream(path, *arguments, x=X):
    """Run ``lstm-edge stream``; return its JSON lines and what it says besides."""
    lines = "".join(",".join(map(str, sample)) + "\n" for sample in x)
    command = [sys.executable, "-c", MAIN, "stream", str(path), "--json", *map(str, arguments)]
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()], ran.stderr


def softmax(logits):
    wide = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def stepped(path, every, x=X):
    """Each step's probabilities, of streams that are reset by hand."""
    one, rows = load(path).stream(reset_every="never"), []
    for place, sample in enumerate(x):
        if place % every == 0:
            one.reset()
        rows.append(one.step(sample))
    return softmax(np.array(rows))


def probabilities(documents):
    return np.array([list(each["probabilities"].values()) for each in documents])


@pytest.mark.parametrize(
    ("arguments", "every"), [([], 6), (["--reset-every", 4], 4), (["--reset-every", "never"], 40)]
)
def test_stream_starts_again_with_each_window_and_says_so_once(from_reset, arguments, every):
    found, said = stream(from_reset, *arguments)
    np.testing.assert_allclose(probabilities(found), stepped(from_reset, every), atol=1e-6)
    assert said == (
        ""
        if arguments
        else NOTE
        + "states are reset every 6 steps, and --window gives a result at every step as in training; "
        "--reset-every never carries states on\n"
    )


def test_a_sliding_window_gives_what_the_window_alone_gives_at_every_step(from_reset):
    found, said = stream(from_reset, "--window", 6)
    with load(from_reset) as model:
        expected = [model.predict(X[None, end - 6 : end]).probabilities[0] for end in range(6, 41)]
    assert [one["step"] for one in found] == list(range(6, 41))
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-6)
    assert said == ""


@pytest.mark.parametrize("trained", [None, WHOLE])
def test_an_older_file_with_a_window_is_taken_for_one_from_reset(make, trained):
    path = make("older", trained=trained).path
    found, said = stream(path)
    np.testing.assert_allclose(probabilities(found), stepped(path, 40 if trained else 6), atol=1e-6)
    assert ("states are carried on anyway" if trained else "states are reset every 6 steps") in said
    assert said.count("note:") == 1


def test_a_restarted_stream_goes_on_within_its_window_and_its_hold(from_reset, tmp_path):
    kept = tmp_path / "s.npz"
    whole, _ = stream(from_reset, "--hold", 3)
    first, _ = stream(from_reset, "--hold", 3, "--state", kept, x=X[:15])
    second, said = stream(from_reset, "--hold", 3, "--state", kept, x=X[15:])
    assert f"resumed {kept} at step 15" in said
    assert first + second == whole


def test_hold_prints_no_label_before_the_first_that_stayed_and_every_writes_some(from_reset, invoke):
    raw = stepped(from_reset, 6).argmax(axis=1).tolist()
    hold, expected = Hold(3), []
    for label in raw:
        hold.take(label)
        expected.append(hold.label)
    assert expected[0] == -1
    assert len(set(expected)) > 2
    assert expected != raw
    names = ["rest", "walk", "run, fast", None]
    found, _ = stream(from_reset, "--hold", 3, "--every", 4)
    assert [each["step"] for each in found] == list(range(4, 41, 4))
    assert [each["label"] for each in found] == [names[label] for label in expected[3::4]]


def test_a_held_label_is_an_empty_cell_of_csv_before_the_first(har):
    lines = "".join(",".join(map(str, sample)) + "\n" for sample in X[:2])
    command = [sys.executable, "-c", MAIN, "stream", str(har.path), "--hold", "2"]
    ran = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    rows = list(csv.DictReader(io.StringIO(ran.stdout)))
    assert rows[0]["label"] == ""
    assert list(rows[0]) == ["step", "label", "p_rest", "p_walk", "p_run, fast"]


def test_hold_of_values_is_refused(make, invoke):
    code, _, err = invoke("stream", make("values", task="regression").path, "--hold", "3")
    assert code == 2
    assert "--hold applies to labels, but this file's outputs are values" in err


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "window", ""])
def test_what_is_no_number_of_steps_is_wrong_usage(from_reset, invoke, text):
    code, _, err = invoke("stream", from_reset, "--reset-every", text)
    assert code == 2
    assert "neither 'never' nor a positive integer" in err


@pytest.mark.parametrize(
    ("arguments", "last"), [([], 6), (["--reset-every", "4"], 4), (["--reset-every", "never"], 40)]
)
def test_predict_judges_a_long_series_by_its_last_window_and_says_so_once(
    from_reset, invoke, tmp_path, arguments, last
):
    np.savez(tmp_path / "d.npz", x=np.stack([X, -X]))
    code, out, err = invoke("predict", from_reset, tmp_path / "d.npz", *arguments)
    assert code == 0
    model = load(from_reset)
    for row, x in zip(csv.DictReader(io.StringIO(out)), (X, -X), strict=True):
        expected = model.predict(x[None, -last:]).probabilities[0]
        np.testing.assert_allclose([float(cell) for cell in list(row.values())[2:]], expected, atol=1e-6)
    said = NOTE + "only the last 6 steps of longer series are used; --reset-every never carries states on\n"
    assert err == ("" if arguments else said)


def test_predict_says_nothing_where_no_series_is_longer_than_the_window(from_reset, invoke, tmp_path):
    np.savez(tmp_path / "d.npz", x=X[:36].reshape(6, 6, 3))
    assert invoke("predict", from_reset, tmp_path / "d.npz")[2] == ""
