"""Train an LSTM1 and export it for the edge.

The names below are imported when they are first used, so that ``import lstm_edge``
needs no torch.
"""

import typing as _typing

from lstm_edge_runtime import __version__
from lstm_edge_runtime.lazy import lazy_names as _lazy_names

if _typing.TYPE_CHECKING:
    from .checkpoint import Run, deployable, load, save
    from .data.config import DataConfig
    from .lstm1 import LSTM1
    from .pruning import prune
    from .training.config import TrainConfig
    from .training.train import train

__all__ = [
    "LSTM1",
    "DataConfig",
    "Run",
    "TrainConfig",
    "__version__",
    "deployable",
    "load",
    "prune",
    "save",
    "train",
]

_MODULES = {
    "DataConfig": ".data.config",
    "LSTM1": ".lstm1",
    "Run": ".checkpoint",
    "TrainConfig": ".training.config",
    "deployable": ".checkpoint",
    "load": ".checkpoint",
    "prune": ".pruning",
    "save": ".checkpoint",
    "train": ".training.train",
}
__getattr__, __dir__ = _lazy_names(__name__, _MODULES)
