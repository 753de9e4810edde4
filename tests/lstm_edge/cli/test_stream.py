"""``lstm-edge stream``: samples in, results out, states kept; real processes for pipes
and signals."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading

import numpy as np
import onnx
import pytest

from lstm_edge.cli.stream import StateFile
from lstm_edge_runtime import State, load
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.manifest import TensorSpec, Trained
from lstm_edge_runtime.ort import sealed
from lstm_edge_runtime.state import read_state

MAIN = "from lstm_edge.cli import main; main()"
X = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)
WINDOW = Trained(False, 6, 1.0)
WHOLE = Trained(False, None, 1.0)


def text(samples=X) -> str:
    return "".join(",".join(map(str, sample)) + "\n" for sample in samples)


def documents(out) -> list:
    return [json.loads(line) for line in out.splitlines()]


def probabilities(answers):
    return np.array([list(answer["probabilities"].values()) for answer in answers])


def softmax(logits):
    wide = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return wide / wide.sum(axis=-1, keepdims=True)


def stepped(path, reset_every=1000, x=X):
    """Return the probabilities of each step of a stream, reset by hand."""
    stream = load(path).stream(reset_every="never")
    rows = []
    for step, sample in enumerate(x):
        if step % reset_every == 0:
            stream.reset()
        rows.append(stream.step(sample))
    return softmax(np.array(rows))


@pytest.fixture(scope="module")
def from_reset(make):
    """A file whose training windows of 6 steps started from reset."""
    return make("from_reset", trained=WINDOW).path


@pytest.fixture
def start(har):
    """Start a real ``lstm-edge stream``; kill it at the end of the test."""
    running = []

    def run(*arguments, **options):
        command = [sys.executable, "-c", MAIN, "stream", har.path, *map(str, arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE) | options
        process = subprocess.Popen(command, text=True, bufsize=1, **pipes)
        watch = threading.Timer(60, process.kill)  # a missing answer fails the test
        watch.start()
        running.append((process, watch))
        return process

    yield run
    for process, watch in running:
        watch.cancel()
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_each_line_is_answered_at_once_and_a_signal_ends_it_with_the_state_saved(
    start, har, tmp_path, number
):
    process = start("--state", tmp_path / "s.npz", "--json")
    process.stdin.write("time,az,ay,ax\n")
    for step, expected in enumerate(stepped(har.path)[:3], 1):
        ax, ay, az = X[step - 1]
        process.stdin.write(f"{step},{az},{ay},{ax}\n")
        document = json.loads(
            process.stdout.readline()
        )  # arrives before the next sample is sent
        assert document["step"] == step
        np.testing.assert_allclose(probabilities([document])[0], expected, atol=1e-6)
        process.stdin.write("oops\n")
        assert (
            process.stderr.readline()
            == f"line {2 * step + 1}: expected 4 numbers, got 1; skipped\n"
        )
    process.send_signal(number)
    assert process.wait(120) == 0
    assert process.stderr.read() == ""
    model = load(har.path).stream()
    model.process(X[:3])
    saved = State.load(tmp_path / "s.npz")
    assert set(saved) == {"h_0", "c_0"}
    np.testing.assert_allclose(saved["h_0"], model.state["h_0"], atol=1e-6)


def test_killed_and_restarted_it_continues_from_the_saved_state(start, har, tmp_path):
    first = start("--state", tmp_path / "s.npz", "--json")
    answers = {}
    for sample in X[:20]:
        first.stdin.write(text([sample]))
    for _ in range(12):  # killed while it is at work: some answers are never read
        document = json.loads(first.stdout.readline())
        answers[document["step"]] = document
    first.kill()
    first.wait()
    second = start("--state", tmp_path / "s.npz", "--json")
    second.stdin.write("\n")
    resumed = int(read_state(tmp_path / "s.npz")[1]["steps"])
    out, err = second.communicate(text(X[resumed:]))
    assert err == (
        f"resumed {tmp_path / 's.npz'} at step {resumed}\n" if resumed else ""
    )
    answers |= {document["step"]: document for document in documents(out)}
    assert set(answers) == set(range(1, 41))
    got = probabilities([answers[step] for step in range(1, 41)])
    np.testing.assert_allclose(got, stepped(har.path), atol=1e-6)
    assert [
        path.name for path in tmp_path.iterdir() if not path.name.endswith(".tmp")
    ] == ["s.npz"]


def test_a_reader_that_goes_away_ends_it_cleanly(start, tmp_path):
    process = start("--state", tmp_path / "s.npz")
    process.stdin.write(text(X[:1]))
    assert process.stdout.readline() == 'step,label,p_rest,p_walk,"p_run, fast"\n'
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):  # it may have ended already
        process.stdin.write(text(X[:1]))
    assert process.wait(120) == 0
    assert process.stderr.read() == ""
    assert (tmp_path / "s.npz").exists()


def test_a_full_disk_is_one_error_with_the_state_saved(start, tmp_path):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        _, err = start("--state", tmp_path / "s.npz", stdout=full).communicate(
            text(X[:1])
        )
    assert err == "error: can't write to standard output: No space left on device\n"
    assert State.load(tmp_path / "s.npz")


UNWRITABLE = b"error: can't write to standard output: Bad file descriptor\n"


@pytest.mark.parametrize(
    ("closed", "code", "err"),
    [("<&-", 0, b""), (">&-", 2, UNWRITABLE), (">&- 2>&-", 2, b"")],
)
def test_closed_descriptors_are_nothing_to_read_and_an_error_to_write(
    har, closed, code, err
):
    command = f"exec '{sys.executable}' -c '{MAIN}' stream '{har.path}' {closed}"
    done = subprocess.run(
        command,
        shell=True,
        input=b"1,2,3\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, b"", err)


def test_a_result_whose_sample_was_taken_is_written_before_it_ends(
    stream, har, monkeypatch
):
    from lstm_edge_runtime import Stream

    step = Stream.step

    def stopped_step(self, sample):
        signal.raise_signal(signal.SIGTERM)  # comes while it computes
        return step(self, sample)

    monkeypatch.setattr(Stream, "step", stopped_step)
    code, out, _ = stream(text(), har.path, "--json")
    assert (code, [document["step"] for document in documents(out)]) == (0, [1])


def test_a_terminal_is_told_what_is_expected(start):
    leader, follower = pty.openpty()
    process = start(stdin=follower)
    os.close(follower)
    assert process.stderr.readline() == "waiting for lines of 3 numbers: ax, ay, az\n"
    os.write(leader, b"1 2 3\n\x04")
    out, err = process.communicate(timeout=60)
    os.close(leader)
    assert (process.returncode, err, out.count("\n")) == (0, "", 2)


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        ("a\nb\nc\n", [], 1, "none of 3 lines was a valid sample"),
        ("1,2\n", [], 1, "was a valid sample"),
        ("", [], 0, ""),
        ("ax,ay,az\n", [], 0, ""),
        ("gx,gy,gz\n1,2,3\n", [], 2, "the header has no column 'ax'"),
        ("1,2,3\n", ["--features", "a,b,c"], 2, "the header has no column 'a'"),
        (b"\xff\xfe\n1,2,3", [], 0, ""),
        (b"9" * (2 << 20), [], 2, "expected one sample per line"),
        (
            "p,q,r\n1,2,3\n",
            ["--features", "a,b,c"],
            2,
            "the header has no column 'a' (it has p, q, r)",
        ),
    ],
)
def test_an_input_without_a_valid_line_fails(
    stream, har, content, options, code, message
):
    status, _, err = stream(content, har.path, *options)
    assert (status, message in err) == (code, True)


@pytest.mark.parametrize(
    ("trained", "options", "reset_every", "note"),
    [
        (WINDOW, [], 6, "states are reset every 6 steps"),
        (WINDOW, ["--reset-every", 4], 4, ""),
        (WINDOW, ["--reset-every", "never"], 40, ""),
        (None, [], 6, "states are reset every 6 steps"),
        (WHOLE, [], 40, "states are carried on"),
    ],
)
def test_states_are_reset_with_each_training_window(
    stream, make, trained, options, reset_every, note
):
    path = make("trained", trained=trained).path
    _, out, err = stream(text(), path, "--json", *options)
    np.testing.assert_allclose(
        probabilities(documents(out)), stepped(path, reset_every), atol=1e-6
    )
    assert (note in err, bool(err)) == (True, bool(note))


def test_a_sliding_window_gives_the_result_of_the_window_alone_at_every_step(
    stream, from_reset
):
    _, out, err = stream(text(), from_reset, "--json", "--window", 6)
    with load(from_reset) as model:
        expected = [
            model.predict(X[None, end - 6 : end]).probabilities[0]
            for end in range(6, 41)
        ]
    assert [document["step"] for document in documents(out)] == list(range(6, 41))
    np.testing.assert_allclose(probabilities(documents(out)), expected, atol=1e-6)
    assert err == ""


@pytest.mark.parametrize("hold", [1, 2, 4])
def test_a_held_label_changes_once_it_stayed_for_so_many_steps(stream, har, hold):
    _, out, _ = stream(text(10 * X), har.path, "--json", "--hold", hold)
    lines = documents(out)
    likeliest = [
        max(line["probabilities"], key=line["probabilities"].get) for line in lines
    ]
    assert len(set(likeliest)) > 1
    label = None
    for step, line in enumerate(lines, 1):
        if step >= hold and len(set(likeliest[step - hold : step])) == 1:
            label = likeliest[step - 1]
        assert line["label"] == label


def test_a_restarted_stream_continues_within_its_window(stream, from_reset, tmp_path):
    _, whole, _ = stream(text(), from_reset, "--json")
    _, first, _ = stream(
        text(X[:15]), from_reset, "--json", "--state", tmp_path / "s.npz"
    )
    _, second, err = stream(
        text(X[15:]).strip(), from_reset, "--json", "--state", tmp_path / "s.npz"
    )
    assert f"resumed {tmp_path / 's.npz'} at step 15" in err
    assert first + second == whole


def test_a_file_with_one_value_per_row_gives_values(stream, make):
    path = make("scalar", golden=False).path
    model = onnx.load(path)
    model.graph.node.append(
        onnx.helper.make_node("ReduceMax", ["logits"], ["y"], axes=[1], keepdims=0)
    )
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N"])
    )
    manifest = read_manifest(model.metadata_props[0].value)
    outputs = (TensorSpec("y", "float32", ("N",)),)
    model.metadata_props[0].value = manifest._replace(
        outputs=outputs, task=None
    ).to_json()
    path.write_bytes(sealed(model.SerializeToString()))
    _, out, _ = stream(text(X[:1]), path, "--json")
    np.testing.assert_allclose(
        documents(out)[0]["values"], load(path).stream().step(X[0]), rtol=1e-6
    )
    code, _, err = stream(text(X[:1]), path, "--hold", 3)
    assert (code, err) == (
        2,
        "error: --hold confirms labels, and the model has none; remove it\n",
    )


def test_the_state_is_saved_at_most_once_a_second(har, tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    path = tmp_path / "s.npz"
    saved = []
    with load(har.path) as model:
        stream = model.stream()
        file = StateFile(stream, path)
        for sample in X[:10]:
            stream.step(sample)
            now[0] += 0.4
            file.save(age=1)
            saved.append(int(read_state(path)[1]["steps"]))
    assert saved == [0, 0, 3, 3, 3, 6, 6, 6, 9, 9]
