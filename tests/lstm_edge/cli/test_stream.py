import contextlib
import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from lstm_edge.cli._line import LineParser
from lstm_edge.cli._pipes import LONGEST, LinePipe, Stop
from lstm_edge.cli._results import ResultLines
from lstm_edge.cli._statefile import StateFile
from lstm_edge.cli.stream import serve
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import InputError

MAIN = "from lstm_edge.cli import main; main()"
X = np.random.default_rng(3).normal(size=(40, 3)).astype(np.float32)


def line(sample) -> str:
    return ",".join(str(value) for value in sample) + "\n"


@pytest.fixture
def start(har):
    """Start a real ``lstm-edge stream``; whatever is left of it at the end is killed."""
    running = []

    def run(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "stream", str(har.path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        watch = threading.Timer(60, process.kill)  # an answer that never comes fails the test
        watch.start()
        running.append((process, watch))
        return process

    yield run
    for process, watch in running:
        watch.cancel()
        process.kill()
        process.communicate()


def expected(made, samples=X):
    stream = load(made.path).stream()
    return [stream.step(sample) for sample in samples]


def shares(document):
    return np.array(list(document["probabilities"].values()))


def softmax(logits):
    wide = np.exp(logits - logits.max())
    return wide / wide.sum()


def test_each_line_is_answered_at_once_bad_ones_are_named_and_sigterm_ends_it_with_state_saved(
    start, har, tmp_path
):
    kept = tmp_path / "s.npz"
    process = start("--state", kept, "--json", "--save-every", "60")
    process.stdin.write("time,az,ay,ax\n")
    for step, logits in enumerate(expected(har, X[:3]), start=1):
        ax, ay, az = X[step - 1]
        process.stdin.write(f"{step},{az},{ay},{ax}\n")
        document = json.loads(process.stdout.readline())  # arrives before the next sample is sent
        assert document["step"] == step
        np.testing.assert_allclose(shares(document), softmax(logits), atol=1e-6)
        process.stdin.write("oops\n")
        assert process.stderr.readline() == f"line {2 * step + 1}: expected 4 numbers, got 1; skipped\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert process.stderr.read() == ""
    stream = load(har.path).stream()
    stream.process(X[:3])
    saved = State.load(kept)
    assert set(saved) == {"h_0", "c_0"}
    np.testing.assert_allclose(saved["h_0"], stream.state["h_0"], atol=1e-6)


def test_killed_and_restarted_it_goes_on_from_the_state_that_it_saved(start, har, tmp_path):
    kept = tmp_path / "s.npz"
    first = start("--state", kept, "--json", "--save-every", "0")
    answers = {}
    for sample in X[:20]:
        first.stdin.write(line(sample))
    for _ in range(12):  # killed while it is at work: some answers are never read
        document = json.loads(first.stdout.readline())
        answers[document["step"]] = document
    first.kill()
    first.wait()
    second = start("--state", kept, "--json")
    words = second.stderr.readline().split()
    assert words[:2] == ["resumed", str(kept)]
    resumed = int(words[-1])
    assert resumed >= 11  # what was answered was saved, but for the last one
    out, _ = second.communicate("".join(map(line, X[resumed:])))
    assert second.returncode == 0
    for text in out.splitlines():
        document = json.loads(text)
        answers[document["step"]] = document
    assert max(answers) == len(X)
    for step, logits in enumerate(expected(har), start=1):
        if step in answers:
            np.testing.assert_allclose(shares(answers[step]), softmax(logits), atol=1e-6)
    assert set(range(resumed + 1, len(X) + 1)) <= set(answers)
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".tmp")] == ["s.npz"]


def test_a_reader_that_goes_away_ends_it_cleanly(start, har, tmp_path):
    process = start("--state", tmp_path / "s.npz")
    process.stdin.write(line(X[0]))
    assert process.stdout.readline() == 'step,label,p_rest,p_walk,"p_run, fast"\n'
    process.stdout.close()
    for _ in range(3):
        process.stdin.write(line(X[1]))
        time.sleep(0.05)
        if process.poll() is not None:
            break
    assert process.wait(10) == 0
    assert process.stderr.read() == ""
    assert (tmp_path / "s.npz").exists()


class Served:
    """The loop of the verb on pipes of this process."""

    def __init__(self, made, path=None, every=1.0, *, strict=False, as_json=True):
        self.model = load(made.path)
        self.stream = self.model.stream()
        (self.source, self.feed), (self.out, self.sink) = (os.pipe() for _ in range(2))
        self.stop = Stop()
        self.kept = StateFile(self.stream, path, every)
        manifest = self.model.manifest
        self.arguments = (
            LinePipe(self.source, self.sink, self.stop),
            LineParser(3, manifest.signal.features if manifest else ()).parse_bytes,
            ResultLines(manifest.task if manifest else None, "step", as_json=as_json),
            self.kept,
            1,
            strict,
        )

    def serve(self):
        serve(self.model, self.stream, *self.arguments)

    def close(self):
        for descriptor in (self.source, self.feed, self.out, self.sink):
            with contextlib.suppress(OSError):  # closed by the test
                os.close(descriptor)


@pytest.fixture
def served(har):
    made = []

    def build(*arguments, file=har, **options):
        made.append(Served(file, *arguments, **options))
        return made[-1]

    yield build
    for one in made:
        one.close()


def test_strict_stops_at_the_first_bad_line_and_names_it(served):
    one = served(strict=True)
    os.write(one.feed, (line(X[0]) + "\n" + "1,2\n" + line(X[1])).encode())
    with pytest.raises(InputError, match=r"line 3: expected 3 numbers, got 2"):
        one.serve()
    assert one.stream.steps_seen == 1


def test_a_last_line_without_a_newline_counts_and_csv_and_json_may_mix(served):
    one = served(as_json=False)
    mixed = line(X[0]) + json.dumps([float(v) for v in X[1]]) + "\n" + line(X[2]).strip()
    os.write(one.feed, mixed.encode())
    os.close(one.feed)
    one.serve()
    rows = list(csv.DictReader(io.StringIO(os.read(one.out, 1 << 16).decode())))
    assert [row["step"] for row in rows] == ["1", "2", "3"]


def test_a_file_with_one_value_a_row_gives_values(served, scalar):
    one = served(file=scalar)
    os.write(one.feed, line(X[0]).encode())
    os.close(one.feed)
    one.serve()
    np.testing.assert_allclose(
        json.loads(os.read(one.out, 1 << 16))["values"], expected(scalar)[0], rtol=1e-6
    )


def test_bytes_that_are_no_text_and_endless_lines_are_skipped_whole(served, capfd):
    one = served()
    thread = threading.Thread(
        target=lambda: (
            os.write(one.feed, b"\xff\xfe\n"),
            os.write(one.feed, b"9" * (3 << 20) + b"\n"),
            os.write(one.feed, line(X[0]).encode()),
            os.write(one.feed, b"8" * (1 << 21)),
            os.close(one.feed),
        )
    )
    thread.start()
    one.serve()
    thread.join()
    assert one.stream.steps_seen == 1
    said = [text.partition(":")[0] for text in capfd.readouterr().err.splitlines()]
    assert said == ["line 1", "line 2", "line 4"]


def test_the_end_of_an_endless_line_is_no_line_of_its_own(tmp_path):
    (tmp_path / "lines").write_bytes(b"9" * 17 * 65_536 + b"1,2,3\n4,5,6\n")
    with (tmp_path / "lines").open("rb") as file:
        pipe = LinePipe(file.fileno(), 1, Stop())
        first, second, last = (pipe.read(None) for _ in range(3))
    assert len(first) > LONGEST
    assert (second, last) == (b"4,5,6\n", None)


def test_a_full_disk_under_the_output_is_one_error_with_the_state_saved(har, tmp_path):
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", MAIN, "stream", har.path, "--state", tmp_path / "s.npz"],
            input=line(X[0]).encode(),
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == b"error: standard output can't be written: No space left on device\n"
    assert State.load(tmp_path / "s.npz")


def test_an_input_that_can_not_be_read_is_one_error(served):
    one = served()
    os.close(one.source)
    one.source = os.open("/", os.O_RDONLY)
    one.arguments = (LinePipe(one.source, one.sink, one.stop), *one.arguments[1:])
    with pytest.raises(InputError, match="standard input can't be read: Is a directory"):
        one.serve()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_nothing_to_read_and_nowhere_to_write(har, closed):
    command = f"exec '{sys.executable}' -c '{MAIN}' stream '{har.path}' {closed}"
    done = subprocess.run(command, shell=True, input=b"1,2,3\n", capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_state_may_be_kept_for_the_end_alone(served, tmp_path):
    one = served(tmp_path / "s.npz", float("inf"))
    os.write(one.feed, line(X[0]).encode())
    worker = threading.Thread(target=one.serve)
    worker.start()
    os.read(one.out, 1 << 16)
    os.close(one.feed)  # while it waits
    worker.join(10)
    assert one.stream.steps_seen == 1


def test_a_quiet_input_does_not_keep_the_last_samples_from_being_saved(served, tmp_path):
    path = tmp_path / "s.npz"
    one = served(path, 0.05)
    worker = threading.Thread(target=one.serve)
    worker.start()
    os.write(one.feed, line(X[0]).encode())
    os.read(one.out, 1 << 16)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with np.load(path) as content:
            if int(content["steps"]) == 1:
                break
        time.sleep(0.01)
    else:
        pytest.fail("never saved")
    os.close(one.feed)
    worker.join(10)
    assert not worker.is_alive()


def test_a_full_output_does_not_keep_it_from_ending(har):
    out, sink = os.pipe()
    os.set_blocking(sink, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(sink, b"x" * 4096)
    os.set_blocking(sink, True)
    with subprocess.Popen(
        [sys.executable, "-c", MAIN, "stream", har.path], stdin=subprocess.PIPE, stdout=sink
    ) as process:
        process.stdin.write(line(X[0]).encode())
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    os.close(out)
    os.close(sink)


def test_a_result_whose_sample_was_taken_is_still_written_when_it_is_time_to_end(served):
    one = served()
    step = one.stream.step

    def last_step(sample):
        one.stop.give()  # a signal comes while it computes
        return step(sample)

    one.stream = type("Stopped", (), {"step": staticmethod(last_step)})()
    os.write(one.feed, (line(X[0]) + line(X[1])).encode())
    one.serve()
    (text,) = os.read(one.out, 1 << 16).splitlines()
    assert json.loads(text)["step"] == one.kept.steps == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_opens_ends_it_cleanly(har, number):
    program = (
        "import os\n"
        "from lstm_edge.cli import main, stream\n"
        "inner = stream.open_model\n"
        f"stream.open_model = lambda *given: os.kill(os.getpid(), {int(number)}) or inner(*given)\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "stream", har.path],
        input=line(X[0]).encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "not a saved state"), (b"PK\x03\x04", "not a saved state"), (b"\x93NUMPY", "not a saved state")],
)
def test_a_state_file_that_is_none_is_refused_and_kept(invoke, har, tmp_path, content, words):
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    code, _, err = invoke("stream", har.path, "--state", path)
    assert code == 2
    assert words in err
    assert path.read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no FIFOs in folders")
def test_a_state_file_that_is_a_fifo_is_refused_without_waiting(invoke, har, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    code, _, err = invoke("stream", har.path, "--state", tmp_path / "fifo")
    assert (code, "it is not a regular file" in err) == (2, True)


def test_the_state_of_another_model_and_a_folder_that_is_not_there_are_refused(invoke, har, make, tmp_path):
    other = make("other", seed=9)
    path = tmp_path / "s.npz"
    StateFile(load(other.path).stream(), path, 1.0)
    before = path.read_bytes()
    code, _, err = invoke("stream", har.path, "--state", path)
    assert (code, path.read_bytes()) == (2, before)
    assert "another model" in err
    code, _, err = invoke("stream", har.path, "--state", tmp_path / "no" / "s.npz")
    assert code == 2
    assert "does not exist" in err


def test_raw_numbers_give_what_lines_do_and_a_cut_one_is_reported(har):
    def run(content, *options):
        command = [sys.executable, "-c", MAIN, "stream", har.path, "--json", *options]
        return subprocess.run(command, input=content, capture_output=True, check=False)

    text = run("".join(map(line, X)).encode())
    raw = run(X.tobytes() + b"abc", "--binary", "float32")
    assert (text.returncode, raw.returncode) == (0, 0)
    assert raw.stdout == text.stdout
    assert raw.stderr == b"line 41: expected 12 bytes, 3 of float32, got 3; skipped\n"


@pytest.mark.parametrize(
    ("content", "code"), [(b"a\nb\nc\n", 1), (b"1,2\n", 1), (b"", 0), (b"ax,ay,az\n", 0)]
)
def test_an_input_without_one_good_line_exits_1(har, content, code):
    command = [sys.executable, "-c", MAIN, "stream", har.path]
    done = subprocess.run(command, input=content, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (code, b"")
    assert (b"was a valid sample" in done.stderr) == bool(code)


def test_a_terminal_is_told_what_is_waited_for(har):
    leader, follower = pty.openpty()
    command = [sys.executable, "-c", MAIN, "stream", har.path]
    ran = subprocess.Popen(command, stdin=follower, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(follower)
    assert ran.stderr.readline() == b"waiting for lines of 3 numbers (ax, ay, az); press Ctrl-D to end\n"
    os.write(leader, b"1 2 3\n\x04")
    out, err = ran.communicate(timeout=60)
    os.close(leader)
    assert (ran.returncode, err) == (0, b"")
    assert out.count(b"\n") == 2
