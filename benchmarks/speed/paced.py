"""How fast streams with a delay or a unit are, next to ``session.run`` of the same file.

    taskset -c 1 python -m benchmarks.speed.paced [--repeats N]

The networks are a convolution of 8 channels in front of an LSTM of 32: ``delay`` looks 2
steps ahead, ``unit`` has a stride of 4. All is timed alternately in one process, in
processor time, per time step of one source: a unit's step is the average over units.
"""

import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from benchmarks.common import (
    Call,
    interleave,
    parser,
    print_machine,
    repeat,
    spread,
    table,
)
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import Model, load

CHUNK = 256
SOURCES = 64
STEPS = 400
"""Number of single steps in a turn."""
CALLS = 8
"""Number of chunks, and of ticks, in a turn: whole units."""
PLAIN = "`session.run` of a unit"
ONNXRUNTIME = "`Stream`, `.onnx`"
NATIVE = "`Stream`, `.lep`"


class Paced(nn.Module):
    """A convolution and an LSTM."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        padding = 2 if stride == 1 else 1
        self.conv = nn.Conv1d(6, 8, 5, stride, padding)
        self.lstm = nn.LSTM(8, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return a class per frame."""
        frames = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.lstm(frames)[0])


NETWORKS = {"delay of 2": 1, "unit of 4": 4}
"""Stride of each network."""


def write_files(stride: int, folder: Path) -> dict[str, Path]:
    """Write a network for both engines."""
    torch.manual_seed(0)
    config = ExportConfig(outputs=("logits",), stream=True)
    paths = {ONNXRUNTIME: folder / f"{stride}.onnx", NATIVE: folder / f"{stride}.lep"}
    export(Paced(stride).eval(), torch.randn(2, 40, 6), config).save(paths[ONNXRUNTIME])
    paths[NATIVE].write_bytes(to_native(paths[ONNXRUNTIME]))
    return paths


def unit_loop(path: Path, model: Model, x: np.ndarray) -> Call:
    """Return ``session.run`` for each unit, with the states fed back."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    manifest = model.manifest
    names = [manifest.task.output] if manifest.task else ["logits"]
    names += [state.output for state in manifest.states]
    held = dict(model.stream().state)

    def loop(count: int) -> None:
        states = dict(held)
        for _ in range(count // manifest.unit):
            results = session.run(names, {"x": x, **states})
            states = dict(zip(states, results[1:], strict=True))
        held.update(states)

    return loop


def ticks(model: Model, x: np.ndarray) -> Call:
    """Return ticks of sources with the samples ``x (N, I)``."""
    batch = model.streams(len(x))
    ids = np.array([batch.add() for _ in range(len(x))])
    return repeat(batch.step, x, ids)


def measure(
    stride: int, folder: Path, repeats: int
) -> dict[tuple[str, str], np.ndarray]:
    """Return seconds per time step of one source, by call and contestant."""
    paths = write_files(stride, folder)
    models = {name: load(path) for name, path in paths.items()}
    x = np.random.default_rng(0).normal(size=(SOURCES, CHUNK, 6)).astype(np.float32)
    unit = models[NATIVE].manifest.unit
    steps: dict[str, Call] = {
        PLAIN: unit_loop(paths[ONNXRUNTIME], models[ONNXRUNTIME], x[:1, :unit])
    }
    chunks: dict[str, Call] = {}
    together: dict[str, Call] = {}
    for name, model in models.items():
        steps[name] = repeat(model.stream().step, x[0, 0])
        chunks[name] = repeat(model.stream().process, x[0])
        together[name] = ticks(model, x[:, 0])
    times = {}
    for kind, calls, count, size in (
        ("step", steps, STEPS, 1),
        (f"chunk of {CHUNK}", chunks, CALLS, CHUNK),
        (f"tick of {SOURCES}", together, CALLS, SOURCES),
    ):
        for name, values in interleave(calls, count, repeats).items():
            times[kind, name] = np.asarray(values) / size
    return times


def main() -> None:
    """Print a table."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=25)
    options = arguments.parse_args()
    rows: dict[tuple[str, str], list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for stride in NETWORKS.values():
            times = measure(stride, Path(folder), options.repeats)
            for key, values in times.items():
                rows.setdefault(key, []).append(spread(values))
    head = ["us per step and source, min / median / max", *NETWORKS]
    lines = ([f"{kind}, {name}", *cells] for (kind, name), cells in rows.items())
    print(table(head, lines))
    print_machine("onnxruntime", "lstm-edge-native")


if __name__ == "__main__":
    main()
