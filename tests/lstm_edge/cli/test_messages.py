"""Answers that are no errors of usage: summaries, notes, prose on a terminal."""

import io
import json
import re
import struct

import numpy as np
import pytest

from lstm_edge.cli._lines import ResultLines
from lstm_edge.cli._output import (
    Output,
    echo,
    echo_prose,
    print_output,
    progress,
    to_text,
)
from lstm_edge_runtime.manifest import Task


def test_a_csv_with_more_columns_is_summarized_and_its_columns_can_be_chosen(
    har, stream
):
    rows = "time,a,b,c,d\n" + "1,2,3,4,5\n" * 100
    code, _, err = stream(rows, har.path)
    assert (code, err.count("\n")) == (2, 1)
    assert "no column 'ax' (it has time, a, b, c, d)" in err
    code, _, err = stream(rows.partition("\n")[2], har.path)
    assert (code, err.count("\n")) == (1, 7)
    assert "\n95 more of 100 lines were skipped\n" in err
    code, out, err = stream(rows, har.path, "--features", "b,c,d")
    assert (code, out.count("\n"), err) == (0, 101, "")
    assert stream(rows.replace("b,c,d", "ax,ay,az"), har.path)[1] == out


def wav(tag, samples):
    """Return a WAV file of one channel at 50 Hz, with integers or floats."""
    body = samples.astype({1: "<i2", 3: "<f4"}[tag])
    width = body.dtype.itemsize
    form = struct.pack("<HHIIHH", tag, 1, 50, 50 * width, width, 8 * width)
    chunks = [(b"fmt ", form), (b"data", body.tobytes())]
    content = b"".join(
        name + struct.pack("<I", len(chunk)) + chunk for name, chunk in chunks
    )
    return b"RIFF" + struct.pack("<I", len(content) + 4) + b"WAVE" + content


def test_predict_reads_every_wav_of_a_sound_as_the_same_values(make, tmp_path, invoke):
    made = make("one", features=1, feature_names=(), golden=False)
    sound = np.random.default_rng(2).integers(-32768, 32767, 6)
    (tmp_path / "i.wav").write_bytes(wav(1, sound))
    (tmp_path / "f.wav").write_bytes(wav(3, sound / 32768))
    np.save(tmp_path / "x.npy", (sound / 32768)[None, :, None])
    answers = []
    for name in ("i.wav", "f.wav", "x.npy"):
        code, out, err = invoke("predict", made.path, tmp_path / name, "--json")
        assert code == 0
        assert ("WAV files are read as -1 to 1" in err) == name.endswith("wav")
        answers.append(json.loads(out)["probabilities"])
    assert answers[0] == answers[1] == answers[2]


def test_a_file_without_a_reference_says_that_it_was_only_replayed(har, invoke):
    code, _, err = invoke("validate", har.path)
    assert code == 0
    assert "golden cases replayed; not compared with a network" in err


def test_prose_wraps_at_spaces_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    echo_prose("error: " + "twelve-words " * 8)
    shown = capsys.readouterr().err.splitlines()
    assert max(map(len, shown)) <= 30
    assert {word for line in shown for word in line.split()} == {
        "error:",
        "twelve-words",
    }


def test_a_terminal_shows_one_line_with_the_remaining_time(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as show:
        show(0.5, "epoch [1/2] \x1b[2J")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert " 50 % epoch [1/2] \\x1b[2J -:--:--" in shown


def test_a_line_printed_during_progress_erases_the_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress() as show:
        show(0.5, "half")
        echo("a result")
    before, _, after = terminal.getvalue().partition("a result\n")
    assert before.endswith("\x1b[2K")  # erases the line
    assert "half" in after
    assert "half" not in re.split(r"\x1b\[2K", terminal.getvalue())[-1]


def test_a_terminal_of_80_columns_breaks_no_word(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    operation = {
        "number": 0,
        "operation": "LINEAR",
        "reads": "h_0 (16) and x (4)",
        "weights": "w (48, 4) float32, r (48, 16) float32, density 0.25",
        "bytes": 123_456,
        "macs": 123_456,
        "share": 0.0476,
    }
    document = {"versions": ["twelve-words"] * 12, "operations": [operation] * 2}
    command = ["inspect", "a-file-with-a-long-name.onnx", "--operations"] * 2
    print_output(Output(document, next=[command]), as_json=False)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    *shown, last = printed.splitlines()
    assert max(map(len, shown)) <= 80
    words = {word for line in shown for word in re.findall(r"[\w.-]+", line)}
    assert {"123,456"} | words >= {"operation", "float32", "0.0476", "twelve-words"}
    assert not words & {"oper", "operati", "floa", "weight"}
    assert last.endswith("--operations")  # a command stays one line


@pytest.mark.parametrize("wrong", [np.inf, np.nan])
def test_logits_without_probabilities_have_no_label(wrong):
    task = Task("classification", "logits", ("a", "b"))
    lines = ResultLines(task, as_json=True)
    logits = np.array([wrong, 0.0])
    document = json.loads(lines.line(logits), parse_constant=pytest.fail)
    assert document == {"label": None, "probabilities": {"a": None, "b": None}}
    rows = ResultLines(task, "step", as_json=False)
    assert rows.line(logits, 1) == "step,label,p_a,p_b\n1,,nan,nan\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": 1, "b": [1.5, 2]}, "a 1, b 1.5, 2"),
        ([["N", 3], ["L"]], "an array"),
        (1234567, "1,234,567"),
        (123.456, "123.5"),
        (16000.0, "16,000"),
        ({"least": 16, "most": None}, "least 16"),
        (1.2e-120, "0"),
        (None, ""),
        (True, "yes"),
    ],
)
def test_values_are_in_the_readers_terms(value, text):
    assert to_text(value) == text
