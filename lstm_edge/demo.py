"""The work of ``lstm-edge demo``, without its display."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lstm_edge_exporters import Artifact, export
from lstm_edge_exporters.numerics.reference import one_thread
from lstm_edge_runtime import Stream
from lstm_edge_runtime.errors import CheckFailedError, InputError

from .checkpoint import Run, deployable
from .data.read import read_data
from .data.series import Data
from .training.config import TrainConfig
from .training.metrics import steps_until_right
from .training.train import Epoch, train

DATA, RUN, MODEL = "basic_motions.npz", "run", "basic_motions.onnx"
"""Files that the demo writes to its folder."""
TRAINING = TrainConfig(hidden_size=32, epochs=200, patience=60, seed=0)
"""A few seconds on two cores."""
_LEAST_ACCURACY = 0.95
_LEAST_STREAMED = 0.75
"""Of all steps of the long stream, those right after a change included."""
_LARGEST_DIFFERENCE = 1e-5


@dataclass(frozen=True)
class StreamComparison:
    """Results of streaming every held-out recording one sample at a time."""

    correct: int
    """Recordings whose activity was recognized at their last sample."""
    recordings: int
    steps: int
    """Steps whose logits were compared with PyTorch's."""
    max_abs: float
    """The largest absolute difference of a logit."""
    step_us: float
    """The median time of a step, microseconds."""

    @property
    def accuracy(self) -> float:
        """The share of recordings that were recognized."""
        return self.correct / self.recordings

    def check(self) -> None:
        """Refuse what the demo promises not to show.

        Raises:
            CheckFailedError: a difference over 1e-5, or an accuracy below 0.95.
        """
        _require(
            self.max_abs <= _LARGEST_DIFFERENCE,
            f"the file's logits differ from PyTorch's by up to {self.max_abs:.3g}, expected at most "
            f"{_LARGEST_DIFFERENCE:.0e}",
        )
        _require(
            self.accuracy >= _LEAST_ACCURACY,
            f"{self.correct} of {self.recordings} held-out recordings were recognized, expected a share "
            f"of at least {_LEAST_ACCURACY}",
        )


@dataclass(frozen=True)
class LongStream:
    """Results of one stream through all held-out recordings without a reset."""

    steps: int
    accuracy: float
    """Share of all steps whose activity was recognized, those right after a change included."""
    changes: int
    """How often the activity changed; the first one counts."""
    median: int | None
    """Steps until a change was recognized, in half of the cases; None if it was not."""
    p90: int | None
    """The same in nine of ten cases."""

    def check(self) -> None:
        """Refuse what the demo promises not to show.

        Raises:
            CheckFailedError: an accuracy below 0.75.
        """
        _require(
            self.accuracy >= _LEAST_STREAMED,
            f"a stream without a reset is right at {self.accuracy:.3f} of its steps, expected at least "
            f"{_LEAST_STREAMED}",
        )


def _require(kept: bool, said: str) -> None:
    if not kept:
        raise CheckFailedError(f"{said}; please report this with `lstm-edge --version`")


def copy_recordings(folder: Path) -> Data:
    """Make ``folder``, put the recordings there, and return the held-out ones.

    Raises:
        InputError: ``folder`` can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with as_file(files("lstm_edge") / "data" / DATA) as source:
            shutil.copyfile(source, folder / DATA)
    except OSError as error:
        raise InputError(f"can't create or write to {folder}: {error.strerror}") from error
    found = read_data(folder / DATA)
    return replace(found, series=tuple(found.of("test")))


def train_run(folder: Path, on_epoch: Callable[[Epoch, int], None]) -> Run:
    """Train on the recordings that are not held out; replaces the run of an earlier demo."""
    return train(folder / DATA, folder / RUN, config=TRAINING, overwrite=True, on_epoch=on_epoch)


def export_run(run: Run, folder: Path) -> Artifact:
    """Export and write the file; raises CheckFailedError if it does not compute the same as PyTorch."""
    with one_thread():
        artifact = export(*deployable(run))
    artifact.save(folder / MODEL)
    return artifact


def replay_recording(
    stream: Stream, recording: npt.NDArray[np.float32]
) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Feed a recording ``(L, I)`` from the reset state.

    Yields:
        After every sample, the logits ``(C,)`` and the nanoseconds that the step took.
    """
    stream.reset()
    for sample in recording:
        start = perf_counter_ns()
        logits = stream.step(sample)
        took = perf_counter_ns() - start
        assert isinstance(logits, np.ndarray)
        yield logits.copy(), took


def follow_changes(stream: Stream, held_out: Data) -> LongStream:
    """Run all held-out recordings one after another, in random order, without a reset between them."""
    order = np.random.default_rng(0).permutation(len(held_out.series))
    x, y = (np.concatenate([getattr(held_out.series[at], kind) for at in order]) for kind in ("x", "y"))
    said, truth = [int(logits.argmax()) for logits, _ in replay_recording(stream, x)], y.tolist()
    starts = torch.arange(len(said)) == 0
    found = steps_until_right(torch.tensor(said), torch.tensor(truth), starts)
    accuracy = float(np.mean(np.equal(said, truth)))
    return LongStream(len(said), accuracy, found["events"], found["median"], found["p90"])


def compare_steps(run: Run, stream: Stream, held_out: Data) -> StreamComparison:
    """Run every held-out recording step by step and compare each step with PyTorch on all samples so far."""
    x, y = (np.stack([getattr(one, kind) for one in held_out.series]) for kind in ("x", "y"))
    replayed = [list(replay_recording(stream, recording)) for recording in x]
    logits = np.array([[step for step, _ in steps] for steps in replayed])  # (recordings, L, C)
    times = [took for steps in replayed for _, took in steps]
    module, (_, h_0, c_0, *_), _ = deployable(run)
    zeros = [torch.zeros(len(each), len(logits), each.shape[2]) for each in (h_0, c_0)]
    parts = [torch.from_numpy(x[:, : end + 1]) for end in range(x.shape[1])]
    with torch.no_grad(), one_thread():
        expected = np.stack([module(part, *zeros)[0].numpy() for part in parts], axis=1)
    return StreamComparison(
        correct=int((logits[:, -1].argmax(axis=-1) == y[:, -1]).sum()),
        recordings=len(y),
        steps=len(times),
        max_abs=float(np.abs(logits - expected).max()),
        step_us=float(np.median(times)) / 1e3,
    )
