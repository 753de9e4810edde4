"""Give any recurrent ONNX file explicit hidden states, so that it can be fed in chunks."""

from ._states import LeftAlone, LiftedStates, lift_states

__all__ = ["LeftAlone", "LiftedStates", "lift_states"]
