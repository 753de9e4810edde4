"""Training from a data file into a run folder."""

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line

from ..checkpoint import CONFIG, Run, save
from .config import DataConfig, TrainConfig
from .loop import Epoch, Loop
from .prepared import prepare, read
from .resume import RESUME, check_same, read_state, write_state
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
    recordings = read(data, data_config)
    if config.crop is None:
        config = replace(config, crop=_CLASSIFICATION_CROP if recordings.labels else 1.0)
    prepared = prepare(data, recordings, data_config, config)
    loop = Loop(prepared.model(), prepared.train, prepared.validation, config)
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
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
