"""Steps of networks with blocks of zeros next to dense ones.

    taskset -c 1 python -m benchmarks.speed.sparse [--rounds N] [--sizes S M]
    taskset -c 1 python -m benchmarks.speed.sparse --products
    make wasm && taskset -c 1 python -m benchmarks.speed.sparse --node

Times are minima over short turns that alternate in one process: microseconds of a step
of an LSTM in ``lstm_edge_step``, with random blocks, less those of a call that computes
nothing. Each instruction set is a run of its own, such as ``LSTM_EDGE_ISA=avx2``.
``--products`` times a linear layer of the shape of R instead, less one of eight outputs.
``--node`` times the library in WebAssembly, in Node.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import SIZES, parser, print_machine, run, table
from lstm_edge_exporters.targets.native.blocks import INT8_SHAPE, SHAPE
from lstm_edge_exporters.targets.native.program import Code, Function, ProgramWriter
from lstm_edge_runtime.native import library

DENSITIES = (1.0, 0.5, 0.2, 0.1)
TURNS = {"S": 300, "M": 100, "L": 12, "XL": 3}
"""Steps in a turn, which takes less than a ms."""
Timer = Callable[[list[bytes], int, int], list[float]]
"""Programs, steps in a turn and turns -> least microseconds per step of each program."""
FUNCTIONS = [(Function.SIGMOID, 0.0, 0.0), *[(Function.TANH, 0.0, 0.0)] * 2]


def random_weights(
    rng: np.random.Generator, shape: tuple[int, int], density: float, *, int8: bool
) -> np.ndarray:
    """Return weights with zero blocks; whole numbers for int8."""
    rows, columns = INT8_SHAPE if int8 else SHAPE
    bands, width = shape[0] // rows, -(-shape[1] // columns)
    order = rng.permutation(bands * width).reshape(bands, width)
    mask = order < density * order.size
    spread = np.kron(mask, np.ones((rows, columns)))[:, : shape[1]]
    scale = 0.7 / np.sqrt(shape[1] * density)
    weights = rng.uniform(-scale, scale, shape) * spread
    return np.rint(weights / scale * 127) if int8 else weights.astype("float32")


def program_of(size: str, density: float, *, int8: bool) -> bytes:
    """Return a program of LSTM layers."""
    features, hidden, layers = SIZES[size]
    rng = np.random.default_rng(0)
    writer = ProgramWriter()
    value = writer.input("x", features)
    for layer in range(layers):
        old = [writer.state(f"{name}{layer}", hidden) for name in "hc"]
        shapes = [(4 * hidden, width) for width in (writer.width(value), hidden)]
        weights = [random_weights(rng, s, density, int8=int8) for s in shapes]
        scales = [np.full(4 * hidden, 0.005)] * 2 if int8 else None
        new = writer.recurrent(
            Code.LSTM, value, old, weights, scales=scales, functions=FUNCTIONS
        )
        for pair in zip(old, new, strict=True):
            writer.next_state(*pair)
        value = new[0]
    writer.output("y", value, every_step=True)
    return writer.to_bytes()


def product_of(size: str, density: float, *, int8: bool) -> bytes:
    """Return a program of a linear layer with as many weights as a layer's R."""
    _, hidden, _ = SIZES[size]
    weights = random_weights(
        np.random.default_rng(0), (4 * hidden, hidden), density, int8=int8
    )
    return linear(weights, int8=int8)


def linear(weights: np.ndarray, *, int8: bool) -> bytes:
    """Return a program of a linear layer."""
    writer = ProgramWriter()
    scales = np.full(len(weights), 0.005) if int8 else None
    x = writer.input("x", weights.shape[1])
    writer.output("y", writer.linear(x, weights, scales=scales), every_step=True)
    return writer.to_bytes()


def nothing() -> bytes:
    """Return a program that computes nothing."""
    writer = ProgramWriter()
    writer.output("y", writer.input("x", 1), every_step=True)
    return writer.to_bytes()


def step_times(programs: list[bytes], turn: int, rounds: int) -> list[float]:
    """Return the least microseconds per step of each program."""
    opened = library()
    handles = [opened.lstm_edge_load(data, len(data)) for data in programs]
    streams = [opened.lstm_edge_stream_new(handle) for handle in handles]
    best = [float("inf")] * len(streams)
    for _ in range(rounds):
        for number, stream in enumerate(streams):
            opened.lstm_edge_step(stream)
            start = time.perf_counter()
            for _ in range(turn):
                opened.lstm_edge_step(stream)
            took = (time.perf_counter() - start) / turn
            best[number] = min(best[number], took * 1e6)
    for stream, handle in zip(streams, handles, strict=True):
        opened.lstm_edge_stream_free(stream)
        opened.lstm_edge_free(handle)
    return best


def node_step_times(programs: list[bytes], turn: int, rounds: int) -> list[float]:
    """Return the same in WebAssembly."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.lep" for index in range(len(programs))]
        for path, data in zip(paths, programs, strict=True):
            path.write_bytes(data)
        script = Path(__file__).with_suffix(".mjs")
        times: list[float] = json.loads(run("node", script, turn, rounds, *paths))
    return times


def print_times(rounds: int, sizes: list[str], timer: Timer, *, products: bool) -> None:
    """Time steps and print the table."""
    rows = []
    for int8 in (False, True):
        for size in sizes:
            make = product_of if products else program_of
            programs = [make(size, density, int8=int8) for density in DENSITIES]
            few = np.ones((8, SIZES[size][1]), "float32")
            least = linear(few, int8=int8) if products else nothing()
            *steps, call = timer([*programs, least], TURNS[size], rounds)
            times = [took - call for took in steps]
            cells = [f"{took:.3g} ({took / times[0]:.2f})" for took in times]
            share = len(programs[DENSITIES.index(0.2)]) / len(programs[0])
            kind = "int8" if int8 else "float32"
            rows.append([f"{size} {kind}", *cells, f"{share:.2f}"])
    print(table(["us per step (of dense)", *DENSITIES, "file at 0.2"], rows))
    print_machine("lstm-edge-native")


def main() -> None:
    """Print a table of times."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=400)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    arguments.add_argument("--products", action="store_true")
    arguments.add_argument("--node", action="store_true")
    options = arguments.parse_args()
    if options.node:
        print(f"WebAssembly in Node {run('node', '--version').strip()}:")
    else:
        print(f"{library().lstm_edge_isa().decode()}:")
    timer = node_step_times if options.node else step_times
    print_times(options.rounds, options.sizes, timer, products=options.products)


if __name__ == "__main__":
    main()
