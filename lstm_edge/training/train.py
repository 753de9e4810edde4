"""Train an LSTM1 on a data file into a run folder."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch

from lstm_edge_exporters.export.threads import one_thread
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import write_bytes

from ..checkpoint import Run, save
from ..data.config import DataConfig
from ..data.read import read_data
from ..data.series import are_joined
from ..data.split import Split, fold_series, split_series
from ..run_files import (
    METRICS,
    MODEL,
    RESUME,
    check_run_folder,
    locked,
    remove_reports,
)
from .config import TrainConfig
from .training import Epoch, Training

_SAVE_EVERY = 5.0
"""Seconds of training that a killed process may lose."""
_SMALL = 64
"""Hidden size up to which one thread is the fastest."""


def train(
    data: str | Path,
    folder: str | Path,
    *,
    data_config: DataConfig | None = None,
    config: TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[Epoch, int], None] = lambda _epoch, _epochs: None,
) -> Run:
    """Train an LSTM1 on a data file and keep the best epoch in a run folder.

    ``y`` or a label column makes it a classification; float ``y``, targets or a
    forecast a regression. Ctrl-C (KeyboardInterrupt) ends training early and keeps the
    best epoch so far. Up to a hidden size of 64, PyTorch is held to one thread
    meanwhile, which is faster there and repeatable.

    Args:
        data: a file or folder, as for ``lstm-edge train``.
        folder: the run folder to create.
        data_config: how to read and split the data.
        config: how to train.
        resume: True to go on from where the training in the folder stopped, with the
            same data and options (``epochs`` and ``patience`` may change); on the CPU
            with the same result, bit for bit.
        overwrite: True to replace a run in the folder.
        on_epoch: called after every epoch, also of each fold, with it and the number of
            epochs.

    Returns:
        The run as saved; see ``Training.finish`` for its summary.

    Raises:
        NotFoundError: no such data, or nothing to resume.
        FileFormatError: the data file can't be read, or the state to resume from is
            damaged.
        InputError: data or options that can't be trained with, or a folder that is in
            use or has a run.
        KeyboardInterrupt: Ctrl-C before the first epoch was done.
    """
    folder = Path(folder)
    data_config = data_config or DataConfig()
    config = config or TrainConfig()
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "PyTorch finds no CUDA device; train on cpu, or install a CUDA build of"
            " torch"
        )
    split, folds = read_split(Path(data), data_config, config.seed)
    threads = one_thread() if config.hidden_size <= _SMALL else contextlib.nullcontext()
    with locked(folder), threads:
        training = Training(split, data_config, config)
        if resume:
            training.resume(folder)
        replaces = not resume and (folder / MODEL).is_file()
        stopped = _run(training, folder, on_epoch, save_states=not replaces)
        finished = training.finish(stopped, Path(data).name)
        remove_reports(folder)
        if replaces:
            (folder / RESUME).unlink(missing_ok=True)
        run = save(finished, folder)
        training.save(folder)
        if folds and run.summary["stopped"] != "interrupted":
            with contextlib.suppress(KeyboardInterrupt):
                run.summary["cross_validation"] = _cross_validate(
                    folds, data_config, config=config, on_epoch=on_epoch
                )
        write_bytes(
            folder / METRICS,
            f"{json.dumps(run.summary, indent=1, allow_nan=False)}\n".encode(),
        )
    return run


def read_split(path: Path, options: DataConfig, seed: int) -> tuple[Split, list[Split]]:
    """Read the data, and split them; with folds, also once for each fold; raises as
    ``read_data``.
    """
    others = {"validation": options.validation_data, "test": options.test_data}
    data = read_data(
        path, options, sets={name: Path(file) for name, file in others.items() if file}
    )
    targets = data.task.labels if data.task else ()
    if options.units and (data.classes or len(options.units) != len(targets)):
        raise InputError(
            f"{path}: expected one unit for each value to predict"
            f" ({', '.join(targets)})"
        )
    split = split_series(data, options, seed)
    folds = fold_series(data, options, seed)
    for record in split.data.series:
        if len(record) < (options.window or 1):
            raise InputError(
                f"{record.name!r} has {len(record)} steps, fewer than --window"
                f" {options.window}"
            )
        if data.classes and options.window is None and not are_joined([record], 1):
            raise InputError(
                f"series {record.name!r} has more than one class; give the --window of"
                " a sample"
            )
    return split, folds


def _run(
    training: Training,
    folder: Path | None,
    on_epoch: Callable[[Epoch, int], None],
    *,
    save_states: bool = False,
) -> str:
    """Run all epochs, and return why training stopped.

    With ``save_states``, the state is saved to the folder every few seconds: not next to
    the network of an earlier run, which a killed process would leave with it.
    """
    saved = time.monotonic()
    stopped = "interrupted"
    try:
        while not training.stopped:
            on_epoch(training.run_epoch(), training.epochs)
            if folder and save_states and time.monotonic() - saved > _SAVE_EVERY:
                training.save(folder)
                saved = time.monotonic()
        stopped = training.stopped
    except KeyboardInterrupt:
        if not (folder and training.history):
            raise KeyboardInterrupt(
                "before the first epoch was done; nothing was written"
            ) from None
    if folder and save_states:
        training.save(folder)
    return stopped


def _cross_validate(
    splits: list[Split],
    options: DataConfig,
    config: TrainConfig,
    on_epoch: Callable[[Epoch, int], None],
) -> dict[str, Any]:
    """Train a network for each fold; return the mean and deviation of the test
    scores.
    """
    scores: dict[str, list[float]] = {}
    for split in splits:
        training = Training(split, options, config)
        stopped = _run(training, None, on_epoch)
        test = training.finish(stopped, "").summary["test"]
        shown = test[test["shown"]]
        figures = {}
        for target, value in shown.get("rmse", {}).items():
            figures[f"rmse of {target}"] = value
        if not figures:
            figures["accuracy"] = shown["accuracy"]
        for name, value in figures.items():
            scores.setdefault(name, []).append(value)
    return {
        name: {"mean": mean(folds), "std": stdev(folds), "folds": folds}
        for name, folds in scores.items()
    }
