"""A step of a network with convolutions over time, beside running its whole window again.

A CNN-LSTM whose application runs windows of 128 steps, and a TCN that looks back 254 steps.
"""

import statistics

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.common import interleave, parser, print_machine, ratio, table
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import Model, load

FEATURES = 6


class CnnLstm(nn.Module):
    """Two convolutions of 5 taps and an LSTM, 64 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([nn.Conv1d(FEATURES, 64, 5), nn.Conv1d(64, 64, 5)])
        self.lstm, self.head = nn.LSTM(64, 64, batch_first=True), nn.Linear(64, 6)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 6)`` after the last step."""
        y = x.transpose(1, 2)
        for layer in self.convolutions:
            y = torch.relu(layer(F.pad(y, (4, 0))))
        return self.head(self.lstm(y.transpose(1, 2))[0][:, -1])


class Tcn(nn.Module):
    """Seven dilated convolutions of 3 taps with skip connections, 32 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Conv1d(FEATURES, 32, 1), nn.Linear(32, 6)
        self.layers = nn.ModuleList(nn.Conv1d(32, 32, 3, dilation=2**level) for level in range(7))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, 6)`` after the last step."""
        y = self.enter(x.transpose(1, 2))
        for level, layer in enumerate(self.layers):
            y = y + torch.relu(layer(F.pad(y, (2 * 2**level, 0))))
        return self.head(y[:, :, -1])


def measure(model: Model, window: int, repeats: int) -> tuple[float, float, float]:
    """Return the microseconds of a step and of a window, and the median ratio."""
    x = np.random.default_rng(0).standard_normal((1, window, FEATURES)).astype(np.float32)
    stream, sample = model.stream(), x[0, 0].copy()

    def step(count: int) -> None:
        for _ in range(10 * count):
            stream.step(sample)

    def whole(count: int) -> None:
        for _ in range(count):
            model.run(x)

    times = interleave({"step": step, "window": whole}, 20, repeats)
    one, all_steps = (1e6 * statistics.median(times[name]) for name in ("step", "window"))
    return one / 10, all_steps, 10 * ratio(times, "window", "step")


def main() -> None:
    """Print one row per network."""
    options = parser(str(__doc__))
    options.add_argument("--repeats", type=int, default=15)
    repeats = options.parse_args().repeats
    torch.manual_seed(0)
    rows = []
    for module, window in ((CnnLstm(), 128), (Tcn(), 255)):
        config = ExportConfig(inputs={"x": ("N", "L", FEATURES)})
        content = export(module, torch.randn(2, 20, FEATURES), config).model
        for engine in ("onnxruntime", "native"):
            model = load(content, threads=1, engine=engine)
            one, whole, times = measure(model, window, repeats)
            name = type(module).__name__
            rows.append((name, engine, f"{one:.1f}", window, f"{whole:.0f}", f"{times:.1f}"))
    print(
        table(("network", "engine", "a step, us", "steps of a window", "a window, us", "times a step"), rows)
    )
    print_machine("onnxruntime")


if __name__ == "__main__":
    main()
