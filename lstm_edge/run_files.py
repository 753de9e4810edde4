"""The files of a run folder by name, and whether a run may be put there. Needs no torch."""

import os
from pathlib import Path

from lstm_edge_runtime.errors import InputError, NotFoundError

CONFIG = "config.json"
"""Describes the run and names its weights."""
RESUME = "resume.pt"
"""Checkpoint to resume from."""
HISTORY = "history.csv"
"""Loss and score by epoch."""
METRICS = "metrics.json"
"""Scores of the run on each set, and the data of its report."""
_FILES = {".pt", ".pth", ".ckpt", ".onnx", ".safetensors", ".npz", ".csv"}
REPORT = "report.html"
CURVES = "curves.png"


def check_run_folder(folder: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    """Refuse a folder that can't be used for a new run.

    Args:
        folder: new, or existing.
        resume: whether to continue the run in it.
        overwrite: whether to replace the run in it.

    Raises:
        InputError: it contains a run, is a file, or can't be written to.
        NotFoundError: it contains nothing to resume.
    """
    resumable = (folder / RESUME).exists()
    holds_run = resumable or (folder / CONFIG).exists()
    if resume and not resumable:
        what = f"a run without {RESUME}, the checkpoint to resume from" if holds_run else "no run to resume"
        advice = "--overwrite it, or use another folder" if holds_run else "train without --resume"
        raise NotFoundError(f"{folder} contains {what}; {advice}")
    if holds_run and not resume and not overwrite:
        how = "--resume it, --overwrite it" if resumable else "--overwrite it"
        raise InputError(f"{folder} already contains a run; {how}, or use another folder")
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there} is a file; use a folder for the run")
    if not os.access(there, os.W_OK):
        raise InputError(f"{there} can't be written to; use another folder for the run")
    if folder.suffix in _FILES:
        raise InputError(
            f"{folder} looks like a file name; -o is a folder for the run, such as {folder.stem}"
        )
