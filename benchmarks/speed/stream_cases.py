"""What ``stream.py`` times: this runtime, the loop most people write, and peers where they are installed."""

import contextlib
import importlib.util
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.speed.sizes import CLASSES, SIZES
from lstm_edge_runtime import load

__all__ = [
    "Call",
    "batch_calls",
    "interleave",
    "litert_calls",
    "plain_loop",
    "plain_session",
    "process_calls",
    "step_calls",
    "step_latencies",
]

Call = Callable[[int], object]
"""Does the thing that many times."""
TURN = 5_000
"""Steps in a turn of the tail: the first ten or so find cold caches, far fewer than one in 100."""


def plain_session(path: Path) -> Any:
    """Open a session as most people do: defaults, one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def plain_loop(session: Any, x: np.ndarray, size: str) -> Call:
    """Return the baseline: ``session.run`` with numpy dicts, states fed back; ``x (N, L, I)`` each time."""
    _, hidden, layers = SIZES[size]
    zeros = np.zeros((layers, len(x), hidden), np.float32)
    state = [zeros, zeros]

    def loop(count: int) -> None:
        h, c = state
        for _ in range(count):
            _, h, c = session.run(None, {"x": x, "h_0": h, "c_0": c})
        state[:] = h, c

    return loop


def step_calls(path: Path, size: str, litert: Path | None) -> dict[str, Call]:
    """Return one step of every contestant by name."""
    features = SIZES[size][0]
    x = np.random.default_rng(1).normal(size=(1, 1, features)).astype(np.float32)
    sample = x[0, 0]
    stream = load(path, threads=1, engine="onnxruntime").stream()
    stream.step(sample)
    bound = stream._step_call.engine

    def step(count: int) -> None:
        for _ in range(count):
            stream.step(sample)

    def bound_run(count: int) -> None:
        runs = bound.runs
        for i in range(count):
            runs[i & 1]()

    calls = {"loop": plain_loop(plain_session(path), x, size), "step": step, "bound run": bound_run}
    return calls | _torch_calls(size, x) | litert_calls(size, x, litert)


def _torch_calls(size: str, x: np.ndarray) -> dict[str, Call]:
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    features, hidden, layers = SIZES[size]

    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(features, hidden, layers, batch_first=True)
            self.head = torch.nn.Linear(hidden, CLASSES, bias=False)

        def forward(
            self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            _, (h, c) = self.lstm(x, (h, c))
            return self.head(h[-1]), h, c

    torch.set_num_threads(1)
    eager = Network().eval()
    sample, zeros = torch.from_numpy(x), torch.zeros(layers, 1, hidden)

    def loop_of(module: Any) -> Call:
        def loop(count: int) -> None:
            h = c = zeros
            with torch.inference_mode():
                for _ in range(count):
                    _, h, c = module(sample, h, c)

        return loop

    calls = {"PyTorch eager": loop_of(eager)}
    with contextlib.suppress(Exception):  # TorchScript is deprecated and may be gone
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            calls["TorchScript"] = loop_of(torch.jit.freeze(torch.jit.script(eager)))
    return calls


def litert_calls(size: str, x: np.ndarray, folder: Path | None) -> dict[str, Call]:
    """Return LiteRT's step where ``ai-edge-litert`` is installed and ``folder`` holds ``SIZE.tflite``."""
    if folder is None or importlib.util.find_spec("ai_edge_litert") is None:
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


def process_calls(path: Path, size: str, steps: int) -> dict[str, Call]:
    """Return a chunk through ``Stream.process`` and the same through one raw ``session.run``."""
    x = np.random.default_rng(2).normal(size=(1, steps, SIZES[size][0])).astype(np.float32)
    stream = load(path, threads=1, engine="onnxruntime").stream()

    def process(count: int) -> None:
        for _ in range(count):
            stream.process(x[0])

    return {"raw run": plain_loop(plain_session(path), x, size), "process": process}


def batch_calls(path: Path, size: str, sources: int) -> dict[str, Call]:
    """Return a tick of all sources, the raw run of the same batch, and as many turns of the loop."""
    x = np.random.default_rng(3).normal(size=(sources, 1, SIZES[size][0])).astype(np.float32)
    session = plain_session(path)
    model = load(path, threads=1, engine="onnxruntime")
    one = plain_loop(session, x[:1], size)

    def ticks(order: Callable[[np.ndarray], np.ndarray]) -> Call:
        batch = model.streams(sources)
        ids, samples = order(np.array([batch.add() for _ in range(sources)])), order(x[:, 0])

        def tick(count: int) -> None:
            for _ in range(count):
                batch.step(samples, ids)

        return tick

    return {
        "turns of the loop": lambda count: one(count * sources),
        "raw run": plain_loop(session, x, size),
        "tick": ticks(lambda rows: rows),
        "tick, any order": ticks(lambda rows: rows[::-1].copy()),
    }


def interleave(
    calls: Mapping[str, Call], count: int, repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Time every call ``count`` times alternately; give seconds a call, one entry a repeat.

    Time is by default the process's CPU time: on one thread the wall time of a quiet machine, less disturbed
    by a busy one. The order is drawn again for each repeat, so that no call always follows the same one.
    """
    names = list(calls)
    for call in calls.values():
        call(max(1, count // 10))
    times: dict[str, list[float]] = {name: [] for name in names}
    rng = np.random.default_rng(4)
    for _ in range(repeats):
        for name in rng.permutation(names).tolist():
            start = clock()
            calls[name](count)
            times[name].append((clock() - start) / count)
    return times


def step_latencies(path: Path, size: str, steps: int) -> dict[str, np.ndarray]:
    """Time each single step of the loop, of ``Stream.step`` and of onnxruntime's bound run.

    They take turns, in five passes; seconds ``(5, steps / 5)`` by name.
    """
    calls = step_calls(path, size, None)
    blocks: dict[str, list[float]] = {name: [] for name in ("loop", "step", "bound run")}
    for _ in range(steps // TURN):
        for name, block in blocks.items():
            call = calls[name]
            for _ in range(TURN):
                start = time.perf_counter()
                call(1)
                block.append(time.perf_counter() - start)
    return {name: np.array(block).reshape(5, -1) for name, block in blocks.items()}
