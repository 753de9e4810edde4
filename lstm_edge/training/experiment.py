"""One training: its data as the network sees them, and the run that says what came of it."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Signal, Task

from ..checkpoint import Run, Scale
from ..data.config import DataConfig
from ..data.read import read_recordings
from ..data.recordings import Recordings
from ..data.split import Split, join_sets
from ..lstm1 import LSTM1
from .config import TrainConfig
from .dataset import Dataset, cut_windows, fit_scale, scale_dataset
from .loop import Loop, predict
from .metrics import classification_metrics, regression_metrics

__all__ = ["Experiment", "hash_data", "make_experiment", "read_training_data"]


def read_training_data(data: Path, config: DataConfig) -> Recordings:
    """Read the data file, and those with the validation and the test set where they are separate.

    Raises:
        NotFoundError, FileFormatError, InputError: as ``read_recordings``; or the files differ in kind, or
            units are given for another number of values.
    """
    recordings, validation, test = (
        None if path is None else read_recordings(path, config) for path in _files(data, config)
    )
    assert recordings is not None
    if validation or test:
        recordings = join_sets(recordings, validation, test)
    if config.units and len(config.units) != len(recordings.targets):
        raise InputError(
            f"got {len(config.units)} units for {len(recordings.targets)} values to predict; give one "
            "for each"
        )
    return recordings


def hash_data(data: Path, config: DataConfig) -> str:
    """Return the sha256 of all files with training data."""
    sha256 = hashlib.sha256()
    for path in _files(data, config):
        if path is not None:
            sha256.update(path.read_bytes())
    return sha256.hexdigest()


def _files(data: Path, config: DataConfig) -> tuple[Path | None, ...]:
    more = (config.validation_data, config.test_data)
    return (data, *(None if name is None else Path(name) for name in more))


@dataclass(frozen=True)
class Experiment:
    """The sets as the network sees them, and all that a run says about them."""

    recordings: Recordings
    split: Split
    train: Dataset
    validation: Dataset
    test: Dataset | None
    inputs: Scale
    targets: Scale | None
    data: DataConfig
    config: TrainConfig

    def model(self) -> LSTM1:
        """Return the network with its initial parameters, which the seed determines."""
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            return LSTM1(
                num_classes=len(self.recordings.labels or self.recordings.targets),
                input_size=self.train.x.shape[2],
                hidden_size=self.config.hidden_size,
                num_layers=self.config.num_layers,
                seq_length=self.data.window or self.train.x.shape[1],
                readout="last",
                dropout=self.config.dropout,
            )

    def loop(self) -> Loop:
        """Return the training loop before its first epoch."""
        return Loop(self.model(), self.train, self.validation, self.config)

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
                "notes": list(self.split.notes),
                "train": len(self.train),
                "validation": len(self.validation),
                "test": len(self.test) if self.test is not None else 0,
            },
            "validation": self.metrics(model, self.validation),
            "test": self.metrics(model, self.test) if self.test is not None else None,
            "config": asdict(self.config),
        }
        return Run(
            model=model,
            task=Task(kind, "logits", labels=recordings.labels, units=self.data.units),
            signal=Signal(
                recordings.features, self.data.sampling_rate or recordings.sampling_rate, model.seq_length
            ),
            inputs=self.inputs,
            targets=self.targets,
            summary=summary,
        )

    def metrics(self, model: LSTM1, dataset: Dataset) -> dict[str, Any]:
        """Return what ``model`` scores on a dataset, as the functions in ``metrics`` do."""
        outputs = predict(model, dataset)
        if self.targets is None:
            return classification_metrics(outputs, dataset.y, self.recordings.labels)
        return regression_metrics(
            _unscaled(outputs, self.targets), _unscaled(dataset.y, self.targets), self.recordings.targets
        )


def make_experiment(
    recordings: Recordings, split: Split, data: DataConfig, config: TrainConfig
) -> Experiment:
    """Cut the sets into windows and scale them.

    Args:
        recordings: the data.
        split: their sets.
        data: how to cut.
        config: how to train, ``crop`` given.

    Raises:
        InputError: a series does not fit the window, or there are fewer samples than a batch.
    """
    train, validation, test = (
        cut_windows(series, data.window, data.stride) if series else None
        for series in (split.train, split.validation, split.test)
    )
    assert train is not None
    assert validation is not None
    if len(train) < config.batch_size:
        raise InputError(
            f"got {len(train)} samples to train on, fewer than a batch of {config.batch_size}; "
            "give a smaller --batch-size or --stride, or more data"
        )
    inputs = fit_scale(torch.cat([torch.from_numpy(one.x) for one in split.train]))
    targets = None if recordings.labels else fit_scale(train.y)
    return Experiment(
        recordings,
        split,
        scale_dataset(train, inputs, targets),
        scale_dataset(validation, inputs, targets),
        None if test is None else scale_dataset(test, inputs, targets),
        inputs,
        targets,
        data,
        config,
    )


def _unscaled(values: Tensor, scale: Scale) -> Tensor:
    return values.double() * torch.tensor(scale.std).double() + torch.tensor(scale.mean).double()
