"""What a step is compared with: the loop that most people write, PyTorch, and LiteRT."""

import contextlib
import importlib.util
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.common import CLASSES, SIZES, Call

__all__ = ["litert_calls", "plain_loop", "torch_calls"]


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


def litert_calls(size: str, x: np.ndarray, folder: Path | None) -> dict[str, Call]:
    """Return LiteRT's step on ``SIZE.tflite`` of ``folder``; empty without a folder."""
    if folder is None:
        return {}
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / f"{size}.tflite"), num_threads=1)
    interpreter.allocate_tensors()
    entering = {tuple(each["shape"]): each["index"] for each in interpreter.get_input_details()}
    leaving = {tuple(each["shape"]): each["index"] for each in interpreter.get_output_details()}
    data, logits = entering.pop(x.shape), leaving.pop((1, CLASSES))
    (state,), (new_state,) = entering.values(), leaving.values()

    def loop(count: int) -> None:
        for _ in range(count):
            interpreter.set_tensor(data, x)
            interpreter.invoke()
            interpreter.get_tensor(logits)
            interpreter.set_tensor(state, interpreter.get_tensor(new_state))

    return {"LiteRT": loop}
