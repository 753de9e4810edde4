"""How fast a stream is on each engine, next to the loop that most people write.

    taskset -c 1 python -m benchmarks.speed.stream [--repeats N] [--sizes S M]

The loop is ``session.run`` with numpy dicts and the states fed back. Everything is
timed alternately in one process, in processor time; a cell has the minimum, the median
and the maximum of the repeats in microseconds. Run it on a quiet machine.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.common import (
    SIZES,
    Call,
    Times,
    interleave,
    parser,
    print_machine,
    repeat,
    spread,
    table,
)
from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import Model, load

COUNTS = {"S": 600, "M": 300, "L": 40, "XL": 12}
"""Number of steps in a turn, which takes a few ms."""
CHUNK = 256
SOURCES = 64
LOOP = "`session.run` loop"
ONNXRUNTIME = "`Stream`, `.onnx`"
NATIVE = "`Stream`, `.lep`"


def write_files(size: str, folder: Path) -> dict[str, Path]:
    """Write the network of a size for both engines."""
    features, hidden, layers = SIZES[size]
    torch.manual_seed(0)
    module = LSTM1(6, features, hidden, layers, CHUNK, readout="last").eval()
    paths = {ONNXRUNTIME: folder / f"{size}.onnx", NATIVE: folder / f"{size}.lep"}
    export(*deployable(Run(module))).save(paths[ONNXRUNTIME])
    paths[NATIVE].write_bytes(to_native(paths[ONNXRUNTIME]))
    return paths


def plain_loop(path: Path, x: np.ndarray, size: str) -> Call:
    """Return the loop, with ``x (N, L, I)`` each time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    _, hidden, layers = SIZES[size]
    state = [np.zeros((layers, len(x), hidden), np.float32)] * 2

    def loop(count: int) -> None:
        h, c = state
        for _ in range(count):
            _, h, c = session.run(None, {"x": x, "h_0": h, "c_0": c})
        state[:] = h, c

    return loop


def ticks(model: Model, x: np.ndarray) -> Call:
    """Return ticks of sources with the samples ``x (N, I)``."""
    batch = model.streams(len(x))
    ids = np.array([batch.add() for _ in range(len(x))])
    return repeat(batch.step, x, ids)


def measure(size: str, folder: Path, repeats: int) -> dict[str, Times]:
    """Time a step, a chunk and a tick of each contestant."""
    paths = write_files(size, folder)
    rng = np.random.default_rng(0)
    models = {name: load(path) for name, path in paths.items()}
    x = rng.normal(size=(SOURCES, CHUNK, SIZES[size][0])).astype(np.float32)
    loops = {kind: plain_loop(paths[ONNXRUNTIME], part, size) for kind, part in (
        ("step", x[:1, :1]), (f"chunk of {CHUNK}", x[:1]), (f"tick of {SOURCES}", x[:, :1])
    )}  # fmt: skip
    calls = {
        "step": {
            name: repeat(model.stream().step, x[0, 0]) for name, model in models.items()
        },
        f"chunk of {CHUNK}": {
            name: repeat(model.stream().process, x[0]) for name, model in models.items()
        },
        f"tick of {SOURCES}": {
            name: ticks(model, x[:, 0]) for name, model in models.items()
        },
    }
    return {
        kind: interleave(
            {LOOP: loops[kind], **by_model},
            COUNTS[size] if kind == "step" else 2,
            repeats,
        )
        for kind, by_model in calls.items()
    }


def main() -> None:
    """Print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=25)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    options = arguments.parse_args()
    rows: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            for kind, times in measure(size, Path(folder), options.repeats).items():
                for name in times:
                    rows.setdefault((kind, name), []).append(spread(times[name]))
    head = ["us, min / median / max", *options.sizes]
    print(
        table(
            head, ([f"{kind}, {name}", *cells] for (kind, name), cells in rows.items())
        )
    )
    print_machine("onnxruntime", "lstm-edge-native")


if __name__ == "__main__":
    main()
