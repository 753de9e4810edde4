"""What a step is compared with: the loop that most people write, and PyTorch."""

import contextlib
import importlib.util
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.common import CLASSES, SIZES, Call

__all__ = ["plain_loop", "torch_calls"]


def plain_loop(path: Path, x: np.ndarray, size: str) -> Call:
    """Return the baseline: ``session.run`` with numpy dicts, states fed back; ``x (N, L, I)`` each time."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    _, hidden, layers = SIZES[size]
    state = [np.zeros((layers, len(x), hidden), np.float32)] * 2

    def loop(count: int) -> None:
        h, c = state
        for _ in range(count):
            _, h, c = session.run(None, {"x": x, "h_0": h, "c_0": c})
        state[:] = h, c

    return loop


def torch_calls(size: str, x: np.ndarray) -> dict[str, Call]:
    """Return PyTorch's step, eager and as TorchScript; empty without torch."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch
    from torch import Tensor

    features, hidden, layers = SIZES[size]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(features, hidden, layers, batch_first=True)
            self.head = torch.nn.Linear(hidden, CLASSES, bias=False)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            _, (h, c) = self.lstm(x, (h, c))
            return self.head(h[-1]), h, c

    torch.set_num_threads(1)
    sample, zeros = torch.from_numpy(x), torch.zeros(layers, 1, hidden)

    def loop(module: Any, count: int) -> None:
        h = c = zeros
        with torch.inference_mode():
            for _ in range(count):
                _, h, c = module(sample, h, c)

    eager = Network().eval()
    calls = {"PyTorch eager": partial(loop, eager)}
    with contextlib.suppress(Exception), warnings.catch_warnings():  # TorchScript is deprecated
        warnings.simplefilter("ignore")
        calls["TorchScript"] = partial(loop, torch.jit.freeze(torch.jit.script(eager)))
    return calls
