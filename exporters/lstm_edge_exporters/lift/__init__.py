"""Give any recurrent ONNX file explicit hidden states, so that it can be fed in chunks."""

from ._projection import WAY_BACK
from .config import LiftConfig, LiftReport
from .lift import Lifted, lift
from .read import check_output
from .states import LeftAlone, LiftedStates, lift_states

__all__ = [
    "WAY_BACK",
    "LeftAlone",
    "LiftConfig",
    "LiftReport",
    "Lifted",
    "LiftedStates",
    "check_output",
    "lift",
    "lift_states",
]
