"""Steps of networks with blocks of zeros next to dense ones.

    taskset -c 1 python -m benchmarks.speed.sparse [--rounds N] [--sizes S M]

Times are minima over short turns that alternate in one process: microseconds of a step
of an LSTM through ``lstm_edge_step``, with random blocks. Each instruction set is a run
of its own, such as ``LSTM_EDGE_ISA=avx2``.
"""

import time

import numpy as np

from benchmarks.common import SIZES, parser, print_machine, table
from lstm_edge_exporters.targets.native.blocks import INT8_SHAPE, SHAPE
from lstm_edge_exporters.targets.native.program import Code, Function, ProgramWriter
from lstm_edge_runtime.native import library

DENSITIES = (1.0, 0.5, 0.2, 0.1)
TURNS = {"S": 300, "M": 100, "L": 12, "XL": 3}
"""Steps in a turn, which takes less than a ms."""
FUNCTIONS = [(Function.SIGMOID, 0.0, 0.0), *[(Function.TANH, 0.0, 0.0)] * 2]


def random_weights(
    rng: np.random.Generator, shape: tuple[int, int], density: float, *, int8: bool
) -> np.ndarray:
    """Return weights with zero blocks; whole numbers for int8."""
    rows, columns = INT8_SHAPE if int8 else SHAPE
    mask = rng.random((shape[0] // rows, -(-shape[1] // columns))) < density
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


def step_times(size: str, rounds: int, *, int8: bool) -> tuple[list[float], list[int]]:
    """Return microseconds per step and bytes of the program at each density."""
    opened = library()
    programs = [program_of(size, density, int8=int8) for density in DENSITIES]
    handles = [opened.lstm_edge_load(data, len(data)) for data in programs]
    streams = [opened.lstm_edge_stream_new(handle) for handle in handles]
    best = [float("inf")] * len(streams)
    for _ in range(rounds):
        for number, stream in enumerate(streams):
            opened.lstm_edge_step(stream)
            start = time.perf_counter()
            for _ in range(TURNS[size]):
                opened.lstm_edge_step(stream)
            took = (time.perf_counter() - start) / TURNS[size]
            best[number] = min(best[number], took * 1e6)
    for stream, handle in zip(streams, handles, strict=True):
        opened.lstm_edge_stream_free(stream)
        opened.lstm_edge_free(handle)
    return best, [len(data) for data in programs]


def print_times(rounds: int, sizes: list[str]) -> None:
    """Time steps and print the table."""
    rows = []
    for int8 in (False, True):
        for size in sizes:
            times, sizes_of = step_times(size, rounds, int8=int8)
            cells = [f"{took:.3g} ({took / times[0]:.2f})" for took in times]
            share = sizes_of[DENSITIES.index(0.2)] / sizes_of[0]
            kind = "int8" if int8 else "float32"
            rows.append([f"{size} {kind}", *cells, f"{share:.2f}"])
    print(f"{library().lstm_edge_isa().decode()}:")
    print(table(["us per step (of dense)", *DENSITIES, "file at 0.2"], rows))
    print_machine("lstm-edge-native")


def main() -> None:
    """Print a table of times."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=400)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    options = arguments.parse_args()
    print_times(options.rounds, options.sizes)


if __name__ == "__main__":
    main()
