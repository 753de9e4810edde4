"""A data file as the network sees it: read, parted, cut and scaled; and a run that says so."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.manifest import Signal, Task

from ..checkpoint import Run, Scale
from ..data.arrays import read_npz
from ..data.recordings import Recordings
from ..data.split import Parts, part
from ..data.tables import read_csv
from ..lstm1 import LSTM1
from .config import DataConfig, TrainConfig
from .dataset import Samples, cut, fit_scale, scaled
from .loop import Loop, predict
from .metrics import classification_metrics, regression_metrics

__all__ = ["Prepared", "prepare", "read"]


def read(data: Path, config: DataConfig) -> Recordings:
    """Read a data file by what its name ends in.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read as what its name says.
        InputError: empty, of another kind, or with content that can't be learned from.
    """
    if not data.is_file():
        raise NotFoundError(f"{data} is not there; name a .npz or .csv file")
    if data.stat().st_size == 0:
        raise InputError(f"{data} is empty; expected a .npz or .csv file with samples")
    readers = {".npz": read_npz, ".csv": read_csv}
    if data.suffix not in readers:
        raise InputError(f"{data} ends in {data.suffix!r}; expected .npz or .csv")
    recordings = readers[data.suffix](data, config)
    if config.units and len(config.units) != len(recordings.targets):
        raise InputError(
            f"{len(config.units)} units for {len(recordings.targets)} values to predict; give one each"
        )
    return recordings


@dataclass(frozen=True)
class Prepared:
    """The parts as the network sees them, and what a run says about them."""

    recordings: Recordings
    parts: Parts
    train: Samples
    validation: Samples
    test: Samples | None
    inputs: Scale
    targets: Scale | None
    data: DataConfig
    config: TrainConfig

    def model(self) -> LSTM1:
        """Make the network, its parameters drawn by the seed."""
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
            "parts": {
                "how": self.parts.how,
                "train": len(self.train),
                "validation": len(self.validation),
                "test": len(self.test) if self.test is not None else 0,
            },
            "validation": self._metrics(model, self.validation),
            "test": self._metrics(model, self.test) if self.test is not None else None,
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

    def _metrics(self, model: LSTM1, samples: Samples) -> dict[str, Any]:
        outputs = predict(model, samples)
        if self.targets is None:
            return classification_metrics(outputs, samples.y, self.recordings.labels)
        return regression_metrics(
            _unscaled(outputs, self.targets), _unscaled(samples.y, self.targets), self.recordings.targets
        )


def prepare(path: Path, recordings: Recordings, data: DataConfig, config: TrainConfig) -> Prepared:
    """Part, cut and scale what ``read`` gave.

    Args:
        path: of the data, for messages.
        recordings: what it holds.
        data: how to part and cut.
        config: how to train, ``crop`` given.

    Raises:
        InputError: a part would be empty, lack a class or have less than a batch.
    """
    try:
        parts = part(recordings, data, config.seed)
        train, validation, test = (
            cut(series, data.window, data.stride) if series else None
            for series in (parts.train, parts.validation, parts.test)
        )
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    assert train is not None
    assert validation is not None
    if len(train) < config.batch_size:
        raise InputError(
            f"{path} gives {len(train)} samples to train on, fewer than a batch of {config.batch_size}; "
            "give a smaller --batch-size or --stride, or more data"
        )
    inputs = fit_scale(torch.cat([torch.from_numpy(one.x) for one in parts.train]))
    targets = None if recordings.labels else fit_scale(train.y)
    return Prepared(
        recordings,
        parts,
        scaled(train, inputs, targets),
        scaled(validation, inputs, targets),
        None if test is None else scaled(test, inputs, targets),
        inputs,
        targets,
        data,
        config,
    )


def _unscaled(values: Tensor, scale: Scale) -> Tensor:
    return values.double() * torch.tensor(scale.std).double() + torch.tensor(scale.mean).double()
