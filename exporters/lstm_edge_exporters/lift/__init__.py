"""Add explicit hidden states to any recurrent ONNX file, so that it can be fed in
chunks.
"""

import os
from typing import TYPE_CHECKING

from lstm_edge_runtime.lazy import lazy_names

if TYPE_CHECKING:
    from .config import LiftConfig
    from .pipeline import Lifted

__all__ = ["LiftConfig", "lift"]


def lift(
    onnx_file: "str | os.PathLike[str] | bytes", config: "LiftConfig | None" = None
) -> "Lifted":
    """Return the same network with its hidden states as explicit inputs and outputs.

    Args:
        onnx_file: the path of an ``.onnx`` file of any framework, or its content; opset
            7 or later.
        config: see ``LiftConfig``.

    Returns:
        The lifted file, which computes the original while its states are at reset.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, external data that can't be used, or a
            file that onnxruntime does not run, or ends on.
        ContractError: there is no state to lift or to recognize; a node reads time
            backwards, or its state can't be carried; the message names it.
        InputError: an option that does not fit the file.
        UnsupportedError: an operator that can't be evaluated in float64, or weights of
            more than 2 GiB.
        CheckFailedError: the lifted file does not compute what the original does.
    """
    from .config import LiftConfig
    from .pipeline import lift_file

    return lift_file(onnx_file, config or LiftConfig())


__getattr__, __dir__ = lazy_names(__name__, {"LiftConfig": ".config"})
