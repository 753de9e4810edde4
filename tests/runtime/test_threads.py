import os
import signal
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
    expected = [[stream.step(sample) for sample in part] for stream, part in zip(serial, x, strict=True)]
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
    one, two = (load(path("lstm"), threads=count).stream() for count in (1, 2))
    np.testing.assert_array_equal(one.process(x), two.process(x))


class Slow:
    """Samples that hold the call which reads them open until they are let go."""

    def __init__(self, values) -> None:
        self.values = np.array(values, np.float32)
        self.inside, self.go = threading.Event(), threading.Event()

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        self.inside.set()
        assert self.go.wait(10)
        return self.values


def test_a_second_thread_on_one_stream_is_refused_and_harms_nothing(model):
    stream = model.stream()
    stream.step([1, 2, 3])
    slow = Slow([4, 5, 6])
    first = threading.Thread(target=stream.step, args=(slow,))
    first.start()
    assert slow.inside.wait(10)
    state = model.stream().state
    for call in (
        lambda: stream.step([7, 8, 9]),
        lambda: stream.process([[7, 8, 9]]),
        lambda: stream.state,
        lambda: stream.restore(state),
        stream.reset,
    ):
        with pytest.raises(StateError, match="another thread is using this stream"):
            call()
    slow.go.set()
    first.join()
    expected = model.stream()
    expected.process([[1, 2, 3], [4, 5, 6]])
    for name, value in expected.state.items():
        np.testing.assert_array_equal(stream.state[name], value)
    assert stream.steps_seen == 2


def test_a_second_thread_on_one_batch_is_refused(model):
    batch = model.streams(2)
    source = batch.add()
    slow = Slow([[1, 2, 3]])
    first = threading.Thread(target=batch.step, args=(slow, [source]))
    first.start()
    assert slow.inside.wait(10)
    for call in (lambda: batch.step([[1, 2, 3]], [source]), batch.add, lambda: batch.remove(source)):
        with pytest.raises(StateError, match="another thread is using this stream"):
            call()
    slow.go.set()
    first.join()
    expected = model.stream()
    expected.step([1, 2, 3])
    np.testing.assert_array_equal(batch.state(source)["h_0"], expected.state["h_0"])


@pytest.mark.skipif(
    not installed() or not hasattr(os, "fork"), reason="the native engine, and a system that forks"
)
def test_children_forked_while_threads_step_the_native_engine_go_on(path):
    model, x = load(path("lstm").with_suffix(".lep"), threads=2), np.ones((40, 3), np.float32)
    expected, stop = model.stream().process(x), threading.Event()

    def work() -> None:
        batch = model.streams(20)
        ids = [batch.add() for _ in range(20)]
        while not stop.is_set():
            batch.process(np.ones((20, 40, 3), np.float32), ids)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                signal.alarm(20)
                batch = model.streams(20)
                rows = batch.process(np.ones((20, 40, 3), np.float32), [batch.add() for _ in range(20)])
                os._exit(0 if np.allclose(rows, expected, atol=1e-6) else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
