"""Initial parameters that let a network learn over long sequences."""

import torch
from torch import nn

from ..lstm1 import LSTM1

__all__ = ["initialize"]


def initialize(model: LSTM1, steps: float) -> None:
    """Set the LSTM's initial parameters in place, drawn from torch's global generator.

    The gates are initialized for memories of 1 to ``steps`` steps (chrono initialization: Tallec and
    Ollivier, "Can recurrent neural networks warp time?", ICLR 2018, equation 16): the forget gate's bias is
    ``log(u)``, ``u`` uniform from 1 to ``steps - 1``, the input gate's its negative. Recurrent weights are
    orthogonal, gate by gate (Saxe et al., 2014).

    Args:
        model: its layers are changed, not its head.
        steps: the usual length of a sample.
    """
    size = model.lstm.hidden_size
    with torch.no_grad():
        for name, parameter in model.lstm.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.chunk(4):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias_ih"):
                memory = torch.log(torch.empty(size).uniform_(1, max(2.0, steps - 1)))
                parameter.zero_()
                parameter[:size] = -memory
                parameter[size : 2 * size] = memory
            elif name.startswith("bias_hh"):
                parameter.zero_()
