"""Give any recurrent ONNX file explicit hidden states, so that it can be fed in chunks."""

from ._lift import Lifted, lift
from ._states import LeftAlone, LiftedStates, lift_states
from .config import LiftConfig, LiftReport

__all__ = ["LeftAlone", "LiftConfig", "LiftReport", "Lifted", "LiftedStates", "lift", "lift_states"]
