"""Add explicit hidden states to any recurrent ONNX file, so that it can be fed in
chunks.
"""

from typing import TYPE_CHECKING

from lstm_edge_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .config import LiftConfig
    from .pipeline import lift

__all__ = ["LiftConfig", "lift"]
__getattr__, __dir__ = lazy_names(
    __name__, {"LiftConfig": ".config", "lift": ".pipeline"}
)
