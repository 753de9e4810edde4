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

from lstm_edge_exporters.numerics.reference import one_thread
from lstm_edge_runtime.errors import FileFormatError, InputError, first_line

from ..checkpoint import Run, save
from ..data.config import DataConfig
from ..data.training import TrainingData, read_training_data
from ..run_files import RESUME, check_run_folder
from .config import TrainConfig
from .experiment import Experiment, make_experiment
from .loop import Epoch, Loop
from .record import write_history, write_metrics
from .resume import check_same, read_state, write_state

_SAVE_EVERY = 5.0
"""Seconds of training that a killed process may lose."""
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
    data_config, config = data_config or DataConfig(), config or TrainConfig()
    check_run_folder(Path(folder), resume=resume, overwrite=overwrite)
    _check_device(config)
    read = read_training_data(Path(data), data_config, seed=config.seed, batch_size=config.batch_size)
    return train_on(
        read, Path(folder), data_config, config, resume=resume, on_epoch=on_epoch, on_fold=on_fold
    )


def train_on(
    data: TrainingData,
    folder: Path,
    data_config: DataConfig,
    config: TrainConfig,
    *,
    resume: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_fold: Callable[[int, int], None] | None = None,
) -> Run:
    """Train on data that are read already; see ``train``."""
    _check_device(config)
    config = config.resolved(len(data.sets.windows["train"]))
    experiment = make_experiment(data.recordings, data.sets, data_config, config)
    loop = experiment.loop()
    if resume:
        state = read_state(folder)
        check_same(folder, state, data.sha256, data_config, config)
        try:
            loop.load_state_dict(state["loop"])
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise FileFormatError(
                f"{folder / RESUME} is of another version ({reason}); train with --overwrite"
            ) from error

    def keep(stopped: str) -> Run:
        run = save(experiment.settled(loop).run(loop, stopped), folder)
        write_history(folder, loop.epochs)
        write_state(folder, loop.state_dict(), data.sha256, data_config, config)
        return run

    with one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext():
        run = _run(loop, keep, on_epoch)
        experiment = experiment.settled(loop)
        if data.folds and run.summary["stopped"] != "interrupted":
            same = replace(config, carry="on" if experiment.carries else "off")
            folds = [make_experiment(data.recordings, fold, data_config, same) for fold in data.folds]
            scores = _cross_validate(folds, on_fold)
            run = save(replace(run, summary=run.summary | {"cross_validation": scores}), folder)
        write_metrics(folder, run, experiment, data.path.name)
    return run


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
        if not loop.epochs:
            raise KeyboardInterrupt("before the first epoch was done; nothing was written") from None
        return keep("interrupted")
    return keep(loop.stopped)


def _check_device(config: TrainConfig) -> None:
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "device is 'cuda', but PyTorch sees none; train on cpu, or install a CUDA build of torch"
        )


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
