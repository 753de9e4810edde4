"""Weights in files: safetensors, or a ``state_dict`` that ``torch.save`` wrote."""

import hashlib
import io
import json
import pickle
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from lstm_edge_runtime.errors import (
    FileFormatError,
    NotFoundError,
    counted,
    first_line,
)
from lstm_edge_runtime.files import malformed_as, read_json, write_bytes

_KEY = "lstm-edge"
"""Key of the facts in the metadata of a ``.safetensors`` file."""
_WRAPPERS = ("model_state_dict", "state_dict")
"""Keys under which training scripts save the ``state_dict``."""
_LFS = b"version https://git-lfs"
_SAVED_BY_TORCH = (b"PK", b"\x80")
"""First bytes of what ``torch.save`` writes: a zip archive, earlier a pickle."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint file."""

    tensors: dict[str, Tensor]
    """The tensors by name."""
    facts: dict[str, Any]
    """What ``write_tensors`` wrote; empty for other files."""
    sha256: str
    """Hash of the file."""


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> bytes:
    """Write tensors, with facts as JSON in the metadata, whole or not at all; return
    the content.
    """
    contiguous = {}
    for name, tensor in tensors.items():
        contiguous[name] = tensor.detach().cpu().contiguous()
    text = json.dumps(facts, sort_keys=True, allow_nan=False)
    content: bytes = to_bytes(contiguous, metadata={_KEY: text})
    write_bytes(path, content)
    return content


def read_tensors(path: Path) -> Checkpoint:
    """Read a ``.safetensors`` file, or a ``state_dict`` saved by ``torch.save``,
    without running code.

    It may be under the key ``model_state_dict`` or ``state_dict``, as in the checkpoint
    of a training.

    Raises:
        NotFoundError, FileFormatError: no such file; truncated, foreign, or with more
            than tensors in it.
    """
    if not path.is_file():
        reason = "is not a regular file" if path.exists() else "does not exist"
        raise NotFoundError(
            f"{path} {reason}; expected a run folder or a checkpoint file"
        )
    content = path.read_bytes()
    if content.startswith(_LFS):
        raise FileFormatError(
            f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull"
        )
    is_safetensors = path.suffix == ".safetensors"
    try:
        loaded = from_bytes(content) if is_safetensors else _load_pickle(content)
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = f"can't be read as a checkpoint ({first_line(error)})"
        if not is_safetensors and not content.startswith(_SAVED_BY_TORCH):
            reason = "is not a checkpoint: torch.save did not write it"
        elif isinstance(error, pickle.UnpicklingError):
            reason = (
                "contains more than tensors; loading it could run code, so it is"
                " refused"
            )
        raise FileFormatError(f"{path} {reason}; save model.state_dict()") from error
    tensors = _unwrap(loaded, path)
    with malformed_as(
        FileFormatError, f"the metadata of {path} are malformed", "train again"
    ):
        facts = _read_facts(content) if is_safetensors else {}
    return Checkpoint(tensors, facts, hashlib.sha256(content).hexdigest())


def _load_pickle(content: bytes) -> Any:
    """Return what ``torch.save`` saved; raises for anything but data."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about old formats
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _read_facts(content: bytes) -> dict[str, Any]:
    """Return the facts in the header of a valid ``.safetensors`` file: its size, and
    JSON.
    """
    size = int.from_bytes(content[:8], "little")
    metadata = read_json(content[8 : 8 + size]).get("__metadata__", {})
    return dict(read_json(metadata[_KEY])) if _KEY in metadata else {}


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint."""
    if isinstance(content, Mapping):
        wrappers = [name for name in _WRAPPERS if name in content]
        if wrappers:
            content = content[wrappers[0]]
    if not isinstance(content, Mapping) or not all(map(_is_dense, content.values())):
        raise FileFormatError(
            f"{path} contains more than named dense tensors; save only"
            " model.state_dict()"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _is_dense(value: Any) -> bool:
    """Return True for a tensor with values in memory."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def fit_names(
    tensors: dict[str, Tensor], expected: Collection[str], path: Path
) -> dict[str, Tensor]:
    """Return tensors by the names that a network expects, without the prefix that a
    wrapper added.

    Lightning adds the name of an attribute (``model.``), ``nn.DataParallel`` adds
    ``module.`` and ``torch.compile`` adds ``_orig_mod.``. A warning names the prefix
    that was removed. Tensors without it are not those of the network.
    """
    if not expected or any(name in tensors for name in expected):
        return tensors
    first = next(iter(expected))
    prefixes = []
    for name in tensors:
        prefix = name.removesuffix(first)
        is_complete = all(prefix + other in tensors for other in expected)
        if name.endswith(f".{first}") and is_complete:
            prefixes.append(prefix)
    if len(prefixes) != 1:
        return tensors
    (prefix,) = prefixes
    fitting = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            fitting[name.removeprefix(prefix)] = tensor
    text = f"{path}: took the tensors whose names begin with {prefix!r}, without it"
    if len(fitting) < len(tensors):
        others = len(tensors) - len(fitting)
        text += f"; left out {counted(others, 'other tensor')}"
    warnings.warn(text, stacklevel=3)
    return fitting
