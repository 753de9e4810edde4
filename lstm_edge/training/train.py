"""Training from a data file into a run folder."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.manifest import Signal, Task

from ..checkpoint import CONFIG, Run, Scale, save
from ..lstm1 import LSTM1
from ._csv import read_csv
from ._npz import read_npz
from .config import DataConfig, TrainConfig
from .loop import Epoch, Loop, predict
from .metrics import classification_metrics, regression_metrics
from .parts import Parts, part
from .recordings import Recordings
from .resume import RESUME, check_same, read_state, write_state
from .samples import Samples, cut, fit_scale, scaled
from .threads import one_thread

__all__ = ["train"]

_SAVE_EVERY = 5.0
"""Seconds of training that a killed process may lose."""
_CLASSIFICATION_CROP = 0.2
_SMALL = 64
"""The hidden size up to which one thread is the fastest."""


def train(
    data: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Run:
    """Train an LSTM1 on a data file and keep the best of it in a run folder.

    ``y`` or a label column makes it a classification, float ``y``, targets or a forecast a regression.
    Ctrl-C (KeyboardInterrupt) ends training early and keeps the best epoch so far. Up to a hidden size of
    64, PyTorch is held to one thread meanwhile, which is faster there and repeatable.

    Args:
        data: ``.npz`` or long-form ``.csv``; ``docs/training.md`` describes both.
        folder: the run folder to make.
        data_config: how to read and part the data.
        config: how to train.
        resume: go on from where the folder's last training stopped, with the same data and configurations
            (``epochs`` and ``patience`` may change); on the CPU the result is that of one training run.
        overwrite: replace a run that the folder holds.
        on_epoch: called after every epoch.

    Returns:
        The run as saved. Its summary holds ``epochs``, ``best_epoch``, ``stopped`` (``epochs``, ``patience``
        or ``interrupted``), ``parts`` and the metrics of the ``validation`` and ``test`` parts.

    Raises:
        NotFoundError: no such data, or nothing to resume.
        FileFormatError: the data file can't be read as what its name says.
        InputError: data or options that can't be trained with, named; or the folder already holds a run.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    data, folder = Path(data), Path(folder)
    data_config, config = data_config or DataConfig(), config or TrainConfig()
    _check_folder(folder, resume=resume, overwrite=overwrite)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but PyTorch sees none; train on cpu, or install a CUDA build of torch"
        )
    recordings = _read(data, data_config)
    if config.crop is None:
        config = replace(config, crop=_CLASSIFICATION_CROP if recordings.labels else 1.0)
    prepared = _prepare(data, recordings, data_config, config)
    loop = Loop(prepared.model(), prepared.train, prepared.validation, config)
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    if resume:
        state = read_state(folder)
        check_same(folder, state, sha256, data_config, config)
        loop.load_state_dict(state["loop"])

    def keep(stopped: str) -> Run:
        run = save(prepared.run(loop, stopped), folder)
        write_state(folder, loop.state_dict(), sha256, data_config, config)
        return run

    with one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext():
        return _run(loop, keep, on_epoch)


def _run(loop: Loop, keep: Callable[[str], Run], on_epoch: Callable[[Epoch], None] | None) -> Run:
    saved = time.monotonic()
    try:
        while not loop.stopped:
            epoch = loop.run_epoch()
            if on_epoch is not None:
                on_epoch(epoch)
            if time.monotonic() - saved > _SAVE_EVERY:
                keep("running")
                saved = time.monotonic()
    except KeyboardInterrupt:
        if not loop.best:
            raise
        return keep("interrupted")
    return keep(loop.stopped)


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if not resume and not overwrite and ((folder / CONFIG).exists() or (folder / RESUME).exists()):
        raise InputError(f"{folder} already holds a run; --resume it, --overwrite it, or name another folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; name a folder for the run")
    if not os.access(there, os.W_OK):
        raise InputError(f"{there} can't be written to; name another folder for the run")


def _read(data: Path, config: DataConfig) -> Recordings:
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
class _Prepared:
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
        """The best epoch so far as a run, with its metrics."""
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


def _prepare(path: Path, recordings: Recordings, data: DataConfig, config: TrainConfig) -> _Prepared:
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
    return _Prepared(
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
