"""A step of a network with convolutions over time, beside running its whole window again.

A CNN-LSTM whose application runs windows of 128 steps, and a TCN that looks back 254 steps.
"""

import numpy as np
import torch
from torch import nn

from benchmarks.common import interleave, parser, print_machine, repeat, table
from benchmarks.networks import Chain, Fn, causal, lstm, over_time, skip
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_runtime import load

FEATURES = 6
NETWORKS = {
    "CnnLstm": (
        128,
        lambda: (
            over_time(causal(FEATURES, 64, 5), nn.ReLU(), causal(64, 64, 5), nn.ReLU()),
            *(lstm(64, 64), Fn(lambda y: y[:, -1]), nn.Linear(64, 6)),
        ),
    ),
    "Tcn": (
        255,
        lambda: (
            over_time(
                nn.Conv1d(FEATURES, 32, 1), *(skip(causal(32, 32, 3, 2**i), nn.ReLU()) for i in range(7))
            ),
            *(Fn(lambda y: y[:, -1]), nn.Linear(32, 6)),
        ),
    ),
}
"""Steps of a window, and layers that give ``(N, 6)`` after the last step."""
STEPS = 10
"""Steps in the time of a window."""


def main() -> None:
    """Print one row per network and engine."""
    options = parser(__doc__)
    options.add_argument("--repeats", type=int, default=15)
    repeats = options.parse_args().repeats
    torch.manual_seed(0)
    rows = []
    for name, (window, layers) in NETWORKS.items():
        config = ExportConfig(inputs={"x": ("N", "L", FEATURES)})
        content = export(Chain(*layers()), torch.randn(2, 20, FEATURES), config).model
        x = np.random.default_rng(0).standard_normal((1, window, FEATURES)).astype(np.float32)
        for engine in ("onnxruntime", "native"):
            model = load(content, threads=1, engine=engine)
            step = repeat(model.stream().step, x[0, 0].copy())
            calls = {"step": lambda count, step=step: step(STEPS * count), "window": repeat(model.run, x)}
            times = interleave(calls, 20, repeats)
            ratio = f"{STEPS * times.ratio('window', 'step'):.1f}"
            us = f"{times.us('step') / STEPS:.1f}", window, f"{times.us('window'):.0f}"
            rows.append((name, engine, *us, ratio))
    head = ("network", "engine", "a step, us", "steps of a window", "a window, us", "times a step")
    print(table(head, rows))
    print_machine("onnxruntime")


if __name__ == "__main__":
    main()
