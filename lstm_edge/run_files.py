"""The files of a run folder by name, and checks and locks before training writes there.
Needs no torch.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lstm_edge_runtime.errors import InputError, NotFoundError

# the best weights; the metadata describe the network, the task and the signal
MODEL = "model.safetensors"
RESUME = (  # state of the training after its last whole epoch that was saved
    "resume.safetensors"
)
METRICS = (  # scores on each set, facts about the data, and the history of the epochs
    "metrics.json"
)
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


def remove_run(folder: Path) -> None:
    """Remove the files of a run and temporary files of a killed process, but not the
    folder.
    """
    for name in (MODEL, RESUME, METRICS, REPORT, CURVES):
        for path in (folder / name, *folder.glob(f".{name}.*.tmp")):
            path.unlink(missing_ok=True)
