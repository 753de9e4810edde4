"""Make ``late.onnx`` (a delay), ``strided.onnx`` (a frame every 4 samples),
``tokens.onnx`` (indices of a table) and ``motions-int8.onnx``.

Run it from the repository's root, with the ``export`` extra installed. The bytes depend
on the versions of torch, onnx and onnxruntime, which the manifests name.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime.manifest import Signal, Task

HERE = Path(__file__).parent
LABELS = ("rest", "walk", "run")


class Late(nn.Module):
    """A class for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 5, padding=2)
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.lstm(y)[0])


class Strided(nn.Module):
    """A class for each frame, and two values of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 6, 6, 4, padding=1)
        self.gru = nn.GRU(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)
        self.last = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.gru(torch.tanh(self.conv(x.transpose(1, 2))).transpose(1, 2))[0]
        return self.head(y), self.last(y[:, -1])


class Tokens(nn.Module):
    """Three values for each token of five."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 4)
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.gru(self.table(tokens))[0])


def small() -> None:
    """Train on the demo's data, export, and quantize for ARM."""
    data = HERE.parents[2] / "lstm_edge" / "data" / "basic_motions.npz"
    with tempfile.TemporaryDirectory() as folder:
        for command in (
            f"train {data} -o {folder}/run",
            f"export {folder}/run -o {folder}/float.onnx",
            (
                f"quantize {folder}/float.onnx -o {HERE}/motions-int8.onnx --for arm"
                f" --data {data}"
            ),
        ):
            subprocess.run(
                [Path(sys.executable).with_name("lstm-edge"), *command.split()],
                check=True,
            )


def main() -> None:
    """Replace the files beside this one."""
    small()
    signal = Signal(features=("ax", "ay", "az"), sampling_rate=50.0)
    for module, names in ((Late(), ("logits",)), (Strided(), ("logits", "last"))):
        torch.manual_seed(3)
        for parameter in module.parameters():
            nn.init.uniform_(parameter, -0.7, 0.7)
        task = Task("classification", "logits", LABELS)
        config = ExportConfig(outputs=names, signal=signal, task=task, stream=True)
        made = export(module.eval(), torch.randn(2, 40, 3), config)
        made.save(HERE / f"{type(module).__name__.lower()}.onnx")
    tokens()


def tokens() -> None:
    """Export the network of tokens."""
    torch.manual_seed(3)
    made = export(
        Tokens().eval(),
        torch.randint(0, 5, (2, 9)),
        ExportConfig(inputs={"tokens": ("N", "L")}, outputs=("logits",)),
    )
    made.save(HERE / "tokens.onnx")


if __name__ == "__main__":
    main()
