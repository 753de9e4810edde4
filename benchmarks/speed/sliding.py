"""How fast a step of a sliding window is, next to ``session.run`` of the same window.

    taskset -c 1 python -m benchmarks.speed.sliding [--repeats N] [--sizes S M]

Each result is computed from the last 16 or 64 samples and the reset state. The loop
moves the samples in a numpy array and runs it. All is timed alternately in one process,
in processor time; a cell has the minimum, the median and the maximum of the repeats in
microseconds per step.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime

from benchmarks.common import (
    SIZES,
    Call,
    interleave,
    parser,
    print_machine,
    repeat,
    spread,
    table,
)
from benchmarks.speed.stream import LOOP, NATIVE, ONNXRUNTIME, write_files
from lstm_edge_runtime import load

WINDOWS = (16, 64)
COUNTS = {"S": 200, "M": 40, "L": 4, "XL": 1}
"""Number of steps in a turn."""


def plain_loop(path: Path, size: str, window: int, sample: np.ndarray) -> Call:
    """Return the loop, with the same sample each time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    features, hidden, layers = SIZES[size]
    recent = np.zeros((1, window, features), np.float32)
    zeros = np.zeros((layers, 1, hidden), np.float32)

    def step() -> None:
        recent[:, :-1] = recent[:, 1:]
        recent[:, -1] = sample
        session.run(None, {"x": recent, "h_0": zeros, "c_0": zeros})

    return repeat(step)


def measure(size: str, folder: Path, repeats: int) -> dict[tuple[str, int], str]:
    """Time a step of each contestant and window; return the cells of a size."""
    paths = write_files(size, folder)
    models = {name: load(path) for name, path in paths.items()}
    rng = np.random.default_rng(0)
    x = rng.normal(size=(max(WINDOWS), SIZES[size][0])).astype(np.float32)
    cells = {}
    for window in WINDOWS:
        calls = {LOOP: plain_loop(paths[ONNXRUNTIME], size, window, x[0])}
        for name, model in models.items():
            stream = model.stream(window=window)
            stream.process(x)
            calls[name] = repeat(stream.step, x[0])
        for name, times in interleave(calls, COUNTS[size], repeats).items():
            cells[name, window] = spread(times)
    return cells


def main() -> None:
    """Print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=25)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=["S", "M"])
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        by_size = [
            measure(size, Path(folder), options.repeats) for size in options.sizes
        ]
    rows = [
        [f"window of {window}, {name}", *(cells[name, window] for cells in by_size)]
        for window in WINDOWS
        for name in (LOOP, ONNXRUNTIME, NATIVE)
    ]
    print(table(["us, min / median / max", *options.sizes], rows))
    print_machine("onnxruntime", "lstm-edge-native")


if __name__ == "__main__":
    main()
