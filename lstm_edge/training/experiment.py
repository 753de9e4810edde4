"""One training: its data as the network sees them, and the run that says what came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lstm_edge_runtime.manifest import Signal, Task

from ..checkpoint import Run, Scale
from ..data.config import DataConfig
from ..data.recordings import SETS, Recordings
from ..data.split import Split
from ..data.training import SetWindows
from ..lstm1 import LSTM1
from .config import TrainConfig
from .dataset import Dataset, fit_scale, scale_dataset
from .loop import Loop, predict
from .metrics import classification_metrics, regression_metrics

__all__ = ["Experiment", "make_experiment"]

_IMBALANCE = 5
"""Ratio of the largest to the smallest class from which on a note says so."""


@dataclass(frozen=True)
class Experiment:
    """The sets as the network sees them, and all that a run says about them."""

    recordings: Recordings
    split: Split
    sets: Mapping[str, Dataset]
    """By the names of ``SETS``; without ``test`` where no test set was asked for."""
    inputs: Scale
    targets: Scale | None
    data: DataConfig
    config: TrainConfig

    def model(self) -> LSTM1:
        """Return the network with its initial parameters, which the seed determines."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            model = LSTM1(
                num_classes=len(self.recordings.labels or self.recordings.targets),
                input_size=self.sets["train"].x.shape[2],
                hidden_size=self.config.hidden_size,
                num_layers=self.config.num_layers,
                seq_length=self.data.window or self.sets["train"].x.shape[1],
                readout="last",
                dropout=self.config.dropout,
            )
            _initialize(model, float(self.sets["train"].lengths.double().mean()))
            return model

    def loop(self) -> Loop:
        """Return the training loop before its first epoch."""
        return Loop(self.model(), self.sets["train"], self.sets["validation"], self.config)

    def run(self, loop: Loop, stopped: str) -> Run:
        """Return the best epoch so far as a run, with its metrics."""
        model = self.model()
        model.load_state_dict(loop.best)
        model.eval()
        recordings = self.recordings
        kind = "classification" if recordings.labels else "regression"
        summary = {
            "task": kind,
            "epochs": len(loop.epochs),
            "best_epoch": loop.epochs[-1].best,
            "stopped": stopped,
            "split": {
                "description": self.split.description,
                "notes": self.notes,
                **{name: len(self.sets[name]) if name in self.sets else 0 for name in SETS},
            },
            "validation": self.metrics(model, self.sets["validation"]),
            "test": self.metrics(model, self.sets["test"]) if "test" in self.sets else None,
            "config": asdict(self.config),
        }
        return Run(
            model=model,
            task=Task(kind, "logits", labels=recordings.labels or recordings.targets, units=self.data.units),
            signal=Signal(
                recordings.features, recordings.sampling_rate, self.data.window, recordings.missing
            ),
            inputs=self.inputs,
            targets=self.targets,
            summary=summary,
        )

    @property
    def notes(self) -> list[str]:
        """What a reader of the scores should know."""
        notes = [*self.recordings.notes, *self.split.notes]
        if self.recordings.labels and self.config.class_weight == "none":
            counts = torch.bincount(self.sets["train"].y, minlength=len(self.recordings.labels)).tolist()
            if max(counts) > _IMBALANCE * min(counts):
                most, least = (self.recordings.labels[counts.index(each(counts))] for each in (max, min))
                notes.append(
                    f"the training set has {max(counts)} samples of {most!r} and {min(counts)} of {least!r}; "
                    "--class-weight balanced makes all classes count alike"
                )
        return notes

    def metrics(self, model: LSTM1, dataset: Dataset) -> dict[str, Any]:
        """Return what ``model`` scores on a dataset, as the functions in ``metrics`` do."""
        outputs = predict(model, dataset)
        if self.targets is None:
            return classification_metrics(outputs, dataset.y, self.recordings.labels)
        return regression_metrics(self.unscaled(outputs), self.unscaled(dataset.y), self.recordings.targets)

    def unscaled(self, values: Tensor) -> Tensor:
        """Return scaled values ``(S, C)`` in their own units, as float64."""
        assert self.targets is not None
        return values.cpu().double() * torch.tensor(self.targets.std) + torch.tensor(self.targets.mean)


def make_experiment(
    recordings: Recordings, sets: SetWindows, data: DataConfig, config: TrainConfig
) -> Experiment:
    """Return the sets as scaled tensors.

    Args:
        recordings: the data.
        sets: their split, cut into windows.
        data: how they were read.
        config: how to train, resolved.
    """
    windows = {name: Dataset.of(each) for name, each in sets.windows.items()}
    inputs = fit_scale(torch.cat([torch.from_numpy(one.x.astype(np.float32)) for one in sets.split.train]))
    targets = None if recordings.labels else fit_scale(windows["train"].y)
    scaled = {name: scale_dataset(each, inputs, targets) for name, each in windows.items()}
    return Experiment(recordings, sets.split, scaled, inputs, targets, data, config)


def _initialize(model: LSTM1, steps: float) -> None:
    """Set the LSTM's initial parameters in place, drawn from torch's global generator.

    The gates are initialized for memories of 1 to ``steps`` steps (chrono initialization: Tallec and
    Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, equation 16): the forget gate's bias is
    ``log(u)``, ``u`` uniform from 1 to ``steps - 1``, the input gate's its negative. Recurrent weights are
    orthogonal, gate by gate (Saxe et al., 2014).

    Args:
        model: its layers are changed, not its head.
        steps: the usual length of a sample.
    """
    size = model.lstm.hidden_size
    with torch.no_grad():
        for name, parameter in model.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih"):
                memory = torch.log(torch.empty(size).uniform_(1, max(2.0, steps - 1)))
                parameter.zero_()
                parameter[:size] = -memory
                parameter[size : 2 * size] = memory
            elif name.startswith("bias_hh"):
                parameter.zero_()
