"""Train from a data file into a run folder."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from lstm_edge_exporters.numerics.threads import one_thread
from lstm_edge_runtime.errors import FileFormatError, InputError, first_line

from ..checkpoint import CONFIG, Run, save
from ..data.config import DataConfig
from ..data.split import fold_series, split_series
from .config import TrainConfig
from .experiment import Experiment, hash_data, make_experiment, read_training_data
from .loop import Epoch, Loop
from .resume import RESUME, check_same, read_state, write_state

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
    on_fold: Callable[[int, int], None] | None = None,
) -> Run:
    """Train an LSTM1 on a data file and keep the best of it in a run folder.

    ``y`` or a label column makes it a classification, float ``y``, targets or a forecast a regression.
    Ctrl-C (KeyboardInterrupt) ends training early and keeps the best epoch so far. Up to a hidden size of
    64, PyTorch is held to one thread meanwhile, which is faster there and repeatable.

    Args:
        data: ``.npz``, or ``.csv`` with one row per time step; see ``docs/training.md``.
        folder: the run folder to make.
        data_config: how to read and split the data.
        config: how to train.
        resume: go on from where the folder's last training stopped, with the same data and configurations
            (``epochs`` and ``patience`` may change); on the CPU the result is that of one training run.
        overwrite: replace a run that the folder holds.
        on_epoch: called after every epoch.
        on_fold: called before every fold of a cross-validation with its number, from 1, and their count.

    Returns:
        The run as saved. Its summary holds ``epochs``, ``best_epoch``, ``stopped`` (``epochs``, ``patience``
        or ``interrupted``), ``split`` and the metrics of the ``validation`` and ``test`` sets; and
        ``cross_validation`` with the test metrics of every fold, their mean and standard deviation.

    Raises:
        NotFoundError: no such data, or nothing to resume.
        FileFormatError: the data file can't be read as what its name says, or what is to be resumed is of
            another version.
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
    recordings = read_training_data(data, data_config)
    if config.crop is None:
        config = replace(config, crop=_CLASSIFICATION_CROP if recordings.labels else 1.0)
    try:
        split = split_series(recordings, data_config, config.seed)
        experiment = make_experiment(recordings, split, data_config, config)
        folds = [
            make_experiment(recordings, fold, data_config, config)
            for fold in fold_series(recordings, data_config.folds, data_config, config.seed)
        ]
    except InputError as error:
        raise InputError(f"{data}: {error}") from error
    loop = experiment.loop()
    sha256 = hash_data(data, data_config)
    if resume:
        state = read_state(folder)
        check_same(folder, state, sha256, data_config, config)
        try:
            loop.load_state_dict(state["loop"])
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            reason = first_line(error)
            raise FileFormatError(
                f"{folder / RESUME} is of another version ({reason}); train again without --resume"
            ) from error

    def keep(stopped: str) -> Run:
        run = save(experiment.run(loop, stopped), folder)
        write_state(folder, loop.state_dict(), sha256, data_config, config)
        return run

    with one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext():
        run = _run(loop, keep, on_epoch)
        if not data_config.folds or run.summary["stopped"] == "interrupted":
            return run
        scores = _cross_validate(folds, on_fold)
    return save(replace(run, summary=run.summary | {"cross_validation": scores}), folder)


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


def _cross_validate(
    folds: Sequence[Experiment], on_fold: Callable[[int, int], None] | None
) -> dict[str, Any] | None:
    """Train a network for each fold; returns their test metrics, or None if Ctrl-C ends it."""
    found = []
    for number, fold in enumerate(folds, start=1):
        if on_fold is not None:
            on_fold(number, len(folds))
        loop = fold.loop()
        try:
            while not loop.stopped:
                loop.run_epoch()
        except KeyboardInterrupt:
            return None
        found.append(fold.run(loop, loop.stopped).summary["test"])
    metrics = (
        {"accuracy": [each["accuracy"] for each in found]}
        if "accuracy" in found[0]
        else {f"rmse of {target}": [each["rmse"][target] for each in found] for target in found[0]["rmse"]}
    )
    return {
        "folds": found,
        **{name: {"mean": mean(values), "std": stdev(values)} for name, values in metrics.items()},
    }


def _check_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    if not resume and not overwrite and ((folder / CONFIG).exists() or (folder / RESUME).exists()):
        raise InputError(f"{folder} already holds a run; --resume it, --overwrite it, or name another folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; name a folder for the run")
    if not os.access(there, os.W_OK):
        raise InputError(f"{there} can't be written to; name another folder for the run")
