"""What each operation computed, as ``lstm_edge_trace`` gives it."""

import ctypes as C

import numpy as np
import pytest
from engine import Array, LibraryError, Program

from lstm_edge_exporters.targets.native.program import Code, Function, ProgramWriter
from lstm_edge_runtime.native import Rows

H = 8


@pytest.fixture(scope="module")
def content() -> bytes:
    """A GRU of 8 and a head of the last step."""
    rng = np.random.default_rng(3)
    writer = ProgramWriter()
    x = writer.input("x", 5)
    h = writer.state("h", H)
    shapes = (3 * H, 5), (3 * H, H)
    weights = [rng.normal(size=shape).astype("float32") / 2 for shape in shapes]
    functions = [(Function.SIGMOID, 0.0, 0.0), (Function.TANH, 0.0, 0.0)]
    (new,) = writer.recurrent(Code.GRU, x, [h], weights, flags=1, functions=functions)
    writer.next_state(h, new)
    head = rng.normal(size=(2, H)).astype("float32")
    relu = writer.unary(writer.linear(new, head), Function.RELU)
    writer.output("y", relu, every_step=False)
    return writer.to_bytes()


def views(arrays: list[Array]) -> Array:
    """Return addresses and strides, of which those of steps are the second."""
    rows = [
        Rows(array.ctypes.data, array.strides[0], array.strides[1] * (array.ndim > 2))
        for array in arrays
    ]
    return (Rows * len(arrays))(*rows)


def traced(
    program: Program, x: Array, states: Array, widths: list[int]
) -> tuple[Array, list[Array]]:
    """Return the output and the values of each buffer."""
    y = np.zeros((len(x), 2), "float32")
    values = [np.zeros((*x.shape[:2], width), "float32") for width in widths]
    arrays = [[x], [states], [y], values]
    status = program.library.lstm_edge_trace(
        program.handle, *x.shape[:2], *map(views, arrays), len(values)
    )
    program.check(status)
    return y, values


WIDTHS = [5, H, H, 2, 2]


@pytest.mark.parametrize(("rows", "steps"), [(1, 1), (1, 60), (3, 7), (50, 2)])
def test_results_are_those_of_a_run_and_buffers_those_of_single_steps(
    library: C.CDLL, content: bytes, rows: int, steps: int
) -> None:
    program = Program(library, content)
    x = np.random.default_rng(rows).normal(size=(rows, steps, 5)).astype("float32")
    pool = program.zeros(rows)
    (expected,) = program.run(x, pool)
    states = np.zeros((rows, H), "float32")
    y, values = traced(program, x, states, WIDTHS)
    assert np.array_equal(y, expected)
    assert np.array_equal(states, pool[0])
    assert np.array_equal(values[0], x)
    assert np.array_equal(values[-1][:, -1], y)
    assert np.array_equal(values[-1], np.maximum(values[-2], 0))
    single = np.zeros((rows, H), "float32")
    for step in range(steps):
        sample = np.ascontiguousarray(x[:, step : step + 1])
        _, parts = traced(program, sample, single, WIDTHS)
        assert np.array_equal(values[2][:, step], parts[2][:, 0])
        assert np.array_equal(values[3][:, step], parts[3][:, 0])


def test_wrong_arguments_are_refused(best: C.CDLL, content: bytes) -> None:
    program = Program(best, content)
    x = np.zeros((2, 3, 5), "float32")
    states = np.ones((2, H), "float32")
    with pytest.raises(LibraryError, match="4 buffers, expected 5"):
        traced(program, x, states, WIDTHS[:4])
    with pytest.raises(LibraryError, match="a stride smaller than a row"):
        traced(program, x, states, [*WIDTHS[:4], 1])
    assert np.array_equal(states, np.ones((2, H)))
