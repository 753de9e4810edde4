"""Hand a running stream over to another process: pass on the state, continue with the samples.

    python examples/hand_over.py har.onnx

A first process takes the first half of a recording and saves the stream's state; a second one, which could be
on another machine and of another architecture, restores it and takes the rest. What it ends with is what one
process that saw everything ends with. A state names the model that it belongs to, and no other takes it.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path

import numpy as np

from lstm_edge_runtime import State, load


def first_half(model_path: Path, samples: np.ndarray, state_path: Path) -> None:
    """Process ``samples (L, I)`` and save the state to a file."""
    with load(model_path, device="cpu") as model:
        stream = model.stream(reset_every=model.interface.reset_every)
        for sample in samples:
            stream.step(sample)
        stream.state.save(state_path)  # atomic: written to a temporary file, then renamed
        print(f"process {multiprocessing.current_process().name}: {stream.steps_seen} samples, handed over")


def second_half(model_path: Path, samples: np.ndarray, state_path: Path, result_path: Path) -> None:
    """Continue from the state with ``samples (L, I)`` and save the last output to a file."""
    with load(model_path, device="cpu") as model:
        stream = model.stream(reset_every=model.interface.reset_every)
        stream.restore(State.load(state_path))
        for sample in samples:
            output = stream.step(sample)
        np.save(result_path, output)
        print(f"process {multiprocessing.current_process().name}: {stream.steps_seen} more samples")


def main() -> None:
    """Compare two processes with a hand-over and one process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    model_path = parser.parse_args().model
    with load(model_path, device="cpu") as model:
        width = model.inputs[0].axes[-1]
        samples = np.random.default_rng(0).normal(size=(200, width)).astype(np.float32)
        stream = model.stream(reset_every=model.interface.reset_every)
        for sample in samples:
            expected = stream.step(sample)
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        state, result = Path(folder, "stream.npz"), Path(folder, "result.npy")
        for name, target, arguments in (
            ("A", first_half, (model_path, samples[:120], state)),
            ("B", second_half, (model_path, samples[120:], state, result)),
        ):
            process = spawn.Process(name=name, target=target, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"process {name} failed")
        difference = float(np.abs(np.load(result) - expected).max())
    print(f"largest difference from a single process: {difference:g}")
    raise SystemExit(0 if difference == 0 else 1)


if __name__ == "__main__":
    main()
