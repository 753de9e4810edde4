"""The files of a run folder by name, and checks and locks before training writes there.
Needs no torch.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lstm_edge_runtime.errors import InputError, NotFoundError

MODEL = "model.safetensors"
"""The best weights; the metadata describe the network, the task and the signal."""
RESUME = "resume.safetensors"
"""State of the training after its last whole epoch that was saved."""
METRICS = "metrics.json"
"""Scores on each set, facts about the data, and the history of the epochs."""
REPORT = "report.html"
CURVES = "curves.png"
LOCK = ".lock"
CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".safetensors")


def is_run(path: Path) -> bool:
    """Return True for a folder with a trained network, or one whose training can be
    resumed.
    """
    return (path / MODEL).is_file() or (path / RESUME).is_file()


def make_folder(folder: Path) -> Path:
    """Create a folder and its parents where they are missing, and return it; raises
    InputError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"can't create the folder {folder}: {error.strerror}"
        ) from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"can't write to {folder}; use another folder")
    return folder


def check_run_folder(
    folder: Path, *, resume: bool = False, overwrite: bool = False
) -> None:
    """Refuse a folder that can't be used: with InputError, or NotFoundError if there is
    nothing to resume.
    """
    if resume and not (folder / RESUME).is_file():
        raise NotFoundError(
            f"{folder} contains no run to resume; train without --resume"
        )
    if is_run(folder) and not (resume or overwrite):
        raise InputError(
            f"{folder} already contains a run; --resume or --overwrite it, or use"
            " another folder"
        )
    if other := _other_file(folder):
        raise InputError(
            f"{folder} contains {other}, which is not of a training; -o is a folder for"
            f" the run alone, such as {folder / 'run'}"
        )
    if folder.suffix in (*CHECKPOINT_SUFFIXES, ".onnx", ".npz", ".csv"):
        raise InputError(
            f"{folder} looks like a file name; -o is a folder for the run, such as"
            f" {folder.stem}"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Create a folder and keep other processes out of it, which are refused with
    InputError.

    The lock of a killed process is released.
    """
    from filelock import FileLock, Timeout

    lock = make_folder(folder) / LOCK
    if lock.is_symlink():
        raise InputError(f"{lock} is a link, expected a file; remove it")
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows keeps open files
                    lock.unlink()
    except Timeout as error:
        raise InputError(
            f"another process is writing to {folder}; wait, or use another folder"
        ) from error


def _other_file(folder: Path) -> str:
    """Return a name in a folder that no training wrote; empty for a new or empty
    folder, or one with the state of a training.
    """
    if (folder / RESUME).is_file() or not folder.is_dir():
        return ""
    ours = {LOCK, *(path.name for path in _temporary_files(folder))}
    others = {path.name for path in folder.iterdir()} - ours
    return min(others, default="")


def _temporary_files(folder: Path) -> list[Path]:
    """Return the temporary files of a killed training."""
    patterns = [f".{name}.*.tmp" for name in (MODEL, RESUME, METRICS, REPORT, CURVES)]
    files: list[Path] = []
    for pattern in patterns:
        files.extend(folder.glob(pattern))
    return files


def remove_reports(folder: Path) -> None:
    """Remove the scores and reports of an earlier run, and temporary files of a killed
    process. The weights remain until new ones replace them.
    """
    for name in (METRICS, REPORT, CURVES):
        (folder / name).unlink(missing_ok=True)
    for path in _temporary_files(folder):
        path.unlink(missing_ok=True)
