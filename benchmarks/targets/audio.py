"""A sample of sound beside NeuralAudio and RTNeural, which run in guitar amplifiers and
plugins.

    git clone --recursive https://github.com/mikeoliphant/NeuralAudio
    taskset -c 1 python -m benchmarks.targets.audio NeuralAudio

Needs ``lstm-edge[cpu,export]``, lstm-edge-native and g++. Both libraries are compiled
with the network's sizes, for this processor.
"""

import tempfile
from pathlib import Path

import lstm_edge_native
import numpy as np
import torch
from torch import nn

from benchmarks.common import parser, print_machine, run, table
from lstm_edge_exporters import export
from lstm_edge_exporters.targets.native import to_native

WIDTHS = (8, 16, 20, 40)
SOURCE = Path(__file__).with_suffix(".cpp")


class Amplifier(nn.Module):
    """An LSTM of one layer, one sample in and one sample out."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the output of each sample, (N, L, 1)."""
        y: torch.Tensor = self.head(self.lstm(x)[0])
        return y


def weights(module: Amplifier) -> np.ndarray:
    """Return all weights as the C++ program reads them, float32."""
    lstm = module.lstm
    bias = lstm.bias_ih_l0 + lstm.bias_hh_l0
    arrays = (
        lstm.weight_ih_l0,
        lstm.weight_hh_l0,
        bias,
        module.head.weight,
        module.head.bias,
    )
    return np.concatenate([array.detach().numpy().ravel() for array in arrays])


def measure(hidden: int, libraries: Path, folder: Path) -> list[list[str]]:
    """Return name, nanoseconds per sample and largest difference of each contestant."""
    torch.manual_seed(0)
    module = Amplifier(hidden).eval()
    weights(module).tofile(folder / "weights")
    artifact = export(module, torch.randn(2, 100, 1))
    artifact.save(folder / "amplifier.onnx")
    program = folder / "amplifier.lep"
    program.write_bytes(to_native(folder / "amplifier.onnx"))
    native = Path(lstm_edge_native.__file__).parent
    dependencies = libraries / "deps"
    includes = (
        native / "include",
        libraries,
        dependencies / "math_approx" / "include",
        dependencies / "RTNeural",
        dependencies / "RTNeural" / "modules" / "Eigen",
    )
    command = folder / "audio"
    run(
        "g++",
        "-std=c++20",
        "-O3",
        "-march=native",
        "-DNDEBUG",
        f"-DH={hidden}",
        "-DRTNEURAL_USE_EIGEN=1",
        "-DRTNEURAL_DEFAULT_ALIGNMENT=32",
        *(f"-isystem{path}" for path in includes),
        SOURCE,
        native / "liblstm_edge.so",
        f"-Wl,-rpath,{native}",
        "-o",
        command,
    )
    output = run(command, folder / "weights", program)
    return [line.split("\t") for line in output.splitlines()]


def main() -> None:
    """Print a table in Markdown: nanoseconds per sample and largest differences."""
    arguments = parser(__doc__)
    arguments.add_argument("libraries", type=Path, help="NeuralAudio, with submodules")
    libraries = arguments.parse_args().libraries.resolve()
    print_machine("lstm-edge-native")
    print(run("g++", "--version").splitlines()[0], end="\n\n")
    names: list[str] = []
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for hidden in WIDTHS:
            contestants = measure(hidden, libraries, Path(folder))
            names = [name for name, _, _ in contestants]
            cells = [f"{time} ({apart})" for _, time, apart in contestants]
            rows.append([f"LSTM(1, {hidden})", *cells])
    print(table(["ns per sample (difference)", *names], rows))


if __name__ == "__main__":
    main()
