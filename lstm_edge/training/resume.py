"""The state that training goes on from: tensors and plain values only, read with ``weights_only=True``."""

import io
import os
from dataclasses import asdict, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch

from lstm_edge_runtime.errors import FileFormatError, InputError, first_line
from lstm_edge_runtime.files import write_bytes

from ..checkpoint import infer_options, is_plain, load_plain
from ..data.config import DataConfig
from ..run_files import RESUME, check_run_folder
from .config import TrainConfig

_MAY_CHANGE = {"epochs", "patience"}
_CONTENT = {"loop", "data_sha256", "data", "train"}


def write_state(
    folder: Path, loop: dict[str, Any], data_sha256: str, data: DataConfig, config: TrainConfig
) -> None:
    """Put the loop's state, the configurations and the data's hash into ``folder``, whole or not at all."""
    content = {"loop": loop, "data_sha256": data_sha256, "data": asdict(data), "train": asdict(config)}
    file = io.BytesIO()  # torch.save itself raises anything on a full disk
    torch.save(content, file)
    write_bytes(folder / RESUME, file.getvalue())


def read_state(folder: Path) -> dict[str, Any]:
    """Read what ``write_state`` wrote.

    Raises:
        NotFoundError: the folder holds no such state.
        FileFormatError: it is truncated or foreign.
    """
    path = folder / RESUME
    check_run_folder(folder, resume=True)
    try:
        content = load_plain(path)
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = first_line(error)
        raise FileFormatError(f"{path} can't be read ({reason}); train again with --overwrite") from error
    if not isinstance(content, dict) or set(content) != _CONTENT:
        raise FileFormatError(f"{path} is not what training left; train again with --overwrite")
    try:
        _check_plain(content)
        for name in ("loop", "data", "train"):
            if not isinstance(content[name], dict):
                raise TypeError(f"{name} is a {type(content[name]).__name__}")  # noqa: TRY301
        _, config = _configs(content)
        found = infer_options(dict(content["loop"]["model"]), path)
        for name in ("hidden_size", "num_layers"):  # before a network of that size is made
            if getattr(config, name) != found[name]:
                raise ValueError(f"{name} is {getattr(config, name)}, the tensors have {found[name]}")  # noqa: TRY301
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise FileFormatError(f"{path} is of another version ({reason}); train with --overwrite") from error
    return content


def read_configs(folder: str | os.PathLike[str]) -> tuple[DataConfig, TrainConfig]:
    """Return the configurations that a run folder was trained with; raises as ``read_state``."""
    return _configs(read_state(Path(folder)))


def _configs(content: dict[str, Any]) -> tuple[DataConfig, TrainConfig]:
    for config, values in ((DataConfig, content["data"]), (TrainConfig, content["train"])):
        hints = get_type_hints(config)
        wrong = [name for name, value in values.items() if not _fits(value, hints.get(name))]
        if wrong:
            raise TypeError(f"{wrong[0]} is {values[wrong[0]]!r:.60}")
    return DataConfig(**content["data"]), TrainConfig(**content["train"])


def _fits(value: object, hint: Any) -> bool:
    """Return whether a value is of a type as the configurations have them."""
    for kind in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if get_origin(kind) is tuple:
            if isinstance(value, tuple | list) and all(type(each) is str for each in value):
                return True
        elif type(value) is kind or (kind is float and type(value) is int):
            return True
    return False


def _check_plain(value: object) -> None:
    """Refuse what ``write_state`` does not write."""
    if isinstance(value, dict):
        for each in value.values():
            _check_plain(each)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_plain(each)
    elif not (is_plain(value) or isinstance(value, int | float | str | None)):
        raise TypeError(f"it holds a {type(value).__name__}")


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
