import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import StateError
from lstm_edge_runtime.native import installed


def test_eight_threads_with_streams_of_their_own_equal_serial_runs(model):
    x = np.random.default_rng(0).normal(size=(8, 400, 3)).astype(np.float32)
    serial = [model.stream() for _ in range(8)]
    expected = [
        [stream.step(sample) for sample in part]
        for stream, part in zip(serial, x, strict=True)
    ]
    together = threading.Barrier(8)

    def run(index: int):
        stream = model.stream()
        together.wait()
        return [stream.step(sample) for sample in x[index]]

    with ThreadPoolExecutor(8) as pool:
        for index, results in enumerate(pool.map(run, range(8))):
            np.testing.assert_array_equal(results, expected[index])


def test_several_threads_inside_an_operator_give_the_same_bits(path):
    x = np.random.default_rng(1).normal(size=(50, 3)).astype(np.float32)
    single, double = (load(path("lstm"), threads=count).stream() for count in (1, 2))
    np.testing.assert_array_equal(single.process(x), double.process(x))


class Slow:
    """Samples that block the call which reads them until they are released."""

    def __init__(self, values) -> None:
        self.values = np.array(values, np.float32)
        self.inside = threading.Event()
        self.go = threading.Event()

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        self.inside.set()
        assert self.go.wait(120)
        return self.values


def test_a_second_thread_on_one_stream_or_batch_is_refused_and_harms_nothing(model):
    stream = model.stream()
    batch = model.streams(2)
    state = model.stream().state
    source = batch.add()
    calls = (
        (stream.step, [4, 5, 6]),
        (
            lambda slow: batch.step(slow, [source]),
            [[4, 5, 6]],
        ),
    )
    others = (
        [lambda: stream.step([7, 8, 9]), lambda: stream.process([[7, 8, 9]]), lambda: stream.state,
         lambda: stream.restore(state), stream.reset],
        [lambda: batch.step([[1, 2, 3]], [source]), batch.add, lambda: batch.remove(source)],
    )  # fmt: skip
    for (call, values), refused in zip(calls, others, strict=True):
        slow = Slow(values)
        first = threading.Thread(target=call, args=(slow,))
        first.start()
        assert slow.inside.wait(120)
        for other in refused:
            with pytest.raises(StateError, match="another thread is using this stream"):
                other()
        slow.go.set()
        first.join()
    expected = model.stream()
    expected.step([4, 5, 6])
    for name, value in expected.state.items():
        np.testing.assert_array_equal(stream.state[name], value)
        np.testing.assert_array_equal(batch.state(source)[name], value)
    assert stream.steps_seen == 1


IMPORTS = """
import sys
from lstm_edge_runtime import load
model = load(sys.argv[1])
before = {*sys.modules}
model.stream(), model.streams(2), model.stream(window=4), model.selftest()
print([name for name in sys.modules if name.startswith("lstm_edge") and name not in before])
"""


def test_streams_import_nothing_so_that_a_fork_meanwhile_finds_no_import_lock(path):
    command = [sys.executable, "-c", IMPORTS, path("lstm")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert result.stdout == "[]\n"


FORKS = """
import faulthandler, os, sys, threading
import numpy as np
from lstm_edge_runtime import load

model = load(sys.argv[1], threads=2)
x = np.ones((40, 3), np.float32)
expected = model.stream().process(x)
stop = threading.Event()

def work():
    batch = model.streams(20)
    ids = [batch.add() for _ in range(20)]
    while not stop.is_set():
        batch.process(np.ones((20, 40, 3), np.float32), ids)

threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
statuses = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(300, exit=True)  # a child that hangs
        batch = model.streams(20)
        ids = [batch.add() for _ in range(20)]
        rows = batch.process(np.ones((20, 40, 3), np.float32), ids)
        os._exit(0 if np.allclose(rows, expected, atol=1e-6) else 1)
    statuses.append(os.waitpid(child, 0)[1])
stop.set()
for thread in threads:
    thread.join()
print(statuses)
"""


@pytest.mark.skipif(
    not installed() or not hasattr(os, "fork"),
    reason="the native engine, and a system that forks",
)
def test_children_forked_while_threads_step_the_native_engine_go_on(path):
    """In a process without onnxruntime: a child that collects a session of its parent
    as garbage waits for threads that it does not have.
    """
    command = [sys.executable, "-c", FORKS, path("lstm").with_suffix(".lep")]
    result = subprocess.run(command, check=False, capture_output=True, text=True)
    assert result.stdout == f"{[0] * 10}\n", result.stderr
