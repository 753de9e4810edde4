"""Training an LSTM1 from a data file into a run folder. What needs torch is imported on first use."""

import importlib as _importlib
import typing as _typing

from ..data.config import DataConfig
from .config import TrainConfig

if _typing.TYPE_CHECKING:
    from .loop import Epoch
    from .resume import read_configs
    from .runner import train

__all__ = ["DataConfig", "Epoch", "TrainConfig", "read_configs", "train"]

_HOMES = {"Epoch": "loop", "read_configs": "resume", "train": "runner"}


def __getattr__(name: str) -> object:
    """Import a name's module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return value
