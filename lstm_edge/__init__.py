"""Train an LSTM1 and export it for the edge.

The names below are imported when they are first used, so that ``import lstm_edge`` needs no torch.
"""

import importlib as _importlib
import typing as _typing

from lstm_edge_runtime import __version__

if _typing.TYPE_CHECKING:
    from .checkpoint import Run, load, save
    from .data.config import DataConfig
    from .deploy import deployable
    from .lstm1 import LSTM1
    from .training.config import TrainConfig
    from .training.runner import train

__all__ = [
    "LSTM1",
    "DataConfig",
    "Run",
    "TrainConfig",
    "__version__",
    "deployable",
    "load",
    "save",
    "train",
]

_HOMES = {
    "LSTM1": "lstm1",
    "DataConfig": "data.config",
    "Run": "checkpoint",
    "TrainConfig": "training.config",
    "deployable": "deploy",
    "load": "checkpoint",
    "save": "checkpoint",
    "train": "training.runner",
}


def __getattr__(name: str) -> object:
    """Import a public name's home on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(_importlib.import_module(f".{_HOMES[name]}", __name__), name)
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
