"""The work of ``lstm-edge demo``, without its display."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch

from lstm_edge_exporters import Artifact, export
from lstm_edge_exporters.export.threads import one_thread
from lstm_edge_runtime import Stream
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Array

from .checkpoint import Run, deployable
from .data.read import read_data
from .data.series import Data
from .results import Frame, PredictedSeries
from .run_files import make_folder
from .training.config import TrainConfig
from .training.train import train
from .training.training import Epoch

# written to the demo's folder
DATA = "basic_motions.npz"
RUN = "run"
MODEL = "basic_motions.onnx"
PLOT = "activities.png"
TRAINING = TrainConfig(hidden_size=32, epochs=200, seed=0)  # a few seconds on two cores


@dataclass(frozen=True)
class Result:
    """Results of streaming the held-out recordings, each from reset, and all in one
    stream.
    """

    recognized: int
    """Number of recordings that were recognized at their last sample."""
    recordings: int
    """Number of recordings."""
    steps: int
    """Number of steps whose logits were compared with PyTorch's."""
    largest_difference: float
    """Largest difference of these logits."""
    microseconds_per_step: float
    """Median time of a step, in microseconds."""
    stream_accuracy: float
    """Fraction of right steps when all recordings are one stream."""

    @property
    def accuracy(self) -> float:
        """Fraction of recordings that were recognized."""
        return self.recognized / self.recordings

    def check(self) -> None:
        """Raise ``CheckFailedError`` if a number is out of bounds."""
        if not (
            self.largest_difference <= 1e-5
            and self.accuracy >= 0.95
            and self.stream_accuracy >= 0.75
        ):
            raise CheckFailedError(
                f"{self} is out of bounds; please report it with `lstm-edge --version`"
            )


def copy_recordings(folder: Path) -> Data:
    """Copy the recordings to ``folder`` and return the held-out ones; raises InputError
    if it can't.
    """
    write_bytes(
        make_folder(folder) / DATA, (files("lstm_edge") / "data" / DATA).read_bytes()
    )
    recordings = read_data(folder / DATA)
    return replace(recordings, series=tuple(recordings.of("test")))


def train_run(folder: Path, on_epoch: Callable[[Epoch, int], None]) -> Run:
    """Train on the recordings that are not held out; replaces the run of an earlier
    demo.
    """
    return train(
        folder / DATA, folder / RUN, config=TRAINING, overwrite=True, on_epoch=on_epoch
    )


def export_run(run: Run, folder: Path) -> Artifact[Any]:
    """Export the file; raises ``CheckFailedError`` if it does not compute the same as
    PyTorch.
    """
    with one_thread():
        artifact = export(*deployable(run))
    artifact.save(folder / MODEL)
    return artifact


def replay_recording(stream: Stream, recording: Array) -> Iterator[tuple[Array, int]]:
    """Yield logits ``(C,)`` after each sample of a recording ``(L, I)``, and the
    nanoseconds of the step.
    """
    stream.reset()
    for sample in recording:
        start = perf_counter_ns()
        logits = stream.step(sample)
        yield np.array(logits), perf_counter_ns() - start


def plot_activities(stream: Stream, held_out: Data, path: Path) -> None:
    """Draw one recording per activity, with the label after each sample."""
    from .report.predictions import write_plot

    assert held_out.task is not None
    series = []
    for activity, name in enumerate(held_out.classes):
        recording = next(item for item in held_out.series if item.y[-1] == activity)
        replayed = replay_recording(stream, recording.x)
        frames = [Frame(step, logits) for step, (logits, _) in enumerate(replayed, 1)]
        series.append(PredictedSeries(name, recording.x, frames))
    write_plot(path, series, held_out.task)


def measure(run: Run, stream: Stream, held_out: Data) -> Result:
    """Stream every held-out recording, compare each step with PyTorch, and stream all
    without a reset.
    """
    x = np.stack([record.x for record in held_out.series])
    y = np.stack([record.y for record in held_out.series])
    recordings, length = x.shape[:2]
    steps = []
    nanoseconds = []
    for recording in x:
        for step, took in replay_recording(stream, recording):
            steps.append(step)
            nanoseconds.append(took)
    logits = np.array(steps).reshape(recordings, length, -1)
    difference = np.abs(logits - _logits_of_prefixes(run, x))
    last_labels = logits[:, -1].argmax(axis=-1)
    order = np.random.default_rng(0).permutation(recordings)
    joined = replay_recording(stream, np.concatenate(x[order]))
    labels = np.array([step.argmax() for step, _ in joined])
    is_right = labels == np.concatenate(y[order])
    return Result(
        recognized=int((last_labels == y[:, -1]).sum()),
        recordings=recordings,
        steps=recordings * length,
        largest_difference=float(difference.max()),
        microseconds_per_step=float(np.median(nanoseconds)) / 1e3,
        stream_accuracy=float(is_right.mean()),
    )


@torch.no_grad()
def _logits_of_prefixes(run: Run, x: Array) -> Array:
    """Return PyTorch's logits ``(recordings, L, C)`` for the first 1, 2, ... samples."""
    logits = []
    with one_thread():
        for end in range(1, x.shape[1] + 1):
            prefix = torch.from_numpy(x[:, :end])
            logits.append(run.model(prefix).numpy())
    return np.stack(logits, axis=1)
