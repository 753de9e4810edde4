"""The state that training goes on from: tensors and plain values only, read with ``weights_only=True``."""

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from lstm_edge_runtime import __version__
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.files import replacing

from ..data.config import DataConfig
from ..run_files import RESUME
from .config import TrainConfig

__all__ = ["check_same", "read_configs", "read_state", "write_state"]

_MAY_CHANGE = {"epochs", "patience"}
_VERSION = __version__.rpartition(".")[0]
"""How data are split and networks optimized may change from one minor version to the next."""
_CONTENT = {"loop", "data_sha256", "data", "train"}


def write_state(
    folder: Path, loop: dict[str, Any], data_sha256: str, data: DataConfig, config: TrainConfig
) -> None:
    """Put the loop's state, the configurations and the data's hash into ``folder``, whole or not at all."""
    content = {"loop": loop, "data_sha256": data_sha256, "data": asdict(data), "train": asdict(config)}
    content["version"] = _VERSION
    with replacing(folder / RESUME) as temporary:
        torch.save(content, temporary)


def read_state(folder: Path) -> dict[str, Any]:
    """Read what ``write_state`` wrote.

    Raises:
        NotFoundError: the folder holds no such state.
        FileFormatError: it is truncated, foreign, or of another minor version.
    """
    path = folder / RESUME
    if not path.is_file():
        raise NotFoundError(f"{path} is not there, so there is nothing to resume; train without --resume")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = first_line(error)
        raise FileFormatError(f"{path} can't be read ({reason}); train again without --resume") from error
    version = content.pop("version", "0.1") if isinstance(content, dict) else None
    if not isinstance(content, dict) or set(content) != _CONTENT:
        raise FileFormatError(f"{path} is not what training left; train again without --resume")
    if version != _VERSION:
        raise FileFormatError(
            f"{path} is of lstm-edge {version} and this is {_VERSION}; train again without --resume"
        )
    return content


def read_configs(folder: str | os.PathLike[str]) -> tuple[DataConfig, TrainConfig]:
    """Return the configurations that a run folder was trained with; raises as ``read_state``."""
    state = read_state(Path(folder))
    try:
        return DataConfig(**state["data"]), TrainConfig(**state["train"])
    except TypeError as error:
        raise FileFormatError(f"{folder}/{RESUME} is of another version ({error}); train again") from error


def check_same(
    folder: Path, state: dict[str, Any], data_sha256: str, data: DataConfig, config: TrainConfig
) -> None:
    """Refuse to go on with other data or options; ``epochs`` and ``patience`` may change.

    Raises:
        InputError: names what differs.
    """
    for before, now in ((state["data"], data), (state["train"], config)):
        for name in (entry.name for entry in fields(now)):
            if name not in _MAY_CHANGE and before.get(name) != getattr(now, name):
                raise InputError(
                    f"{folder} was trained with {name} {before.get(name)!r}, not {getattr(now, name)!r}; "
                    "resume with the same, or train into another folder"
                )
    if state["data_sha256"] != data_sha256:
        raise InputError(
            f"{folder} was trained on other data; resume with the same, or train into another folder"
        )
