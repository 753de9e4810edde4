"""The network that is trained: its size, initial weights, scales and loss."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.config import DataConfig
from ..data.series import Data, Series
from ..lstm1 import LSTM1, fit_scale
from .config import TrainConfig
from .epoch import Loss

_SMOOTHING = 0.05
"""Share of each target that is spread over all classes. Without it the loss of a few
confident mistakes picks too early an epoch: accuracy is 0.03 to 0.04 lower on nine data
sets."""


def new_network(
    data: Data, train: list[Series], options: DataConfig, config: TrainConfig
) -> LSTM1:
    """Return a network with initial weights, and with the scales of the training
    set.
    """
    assert data.task is not None
    labels = data.task.labels
    lengths = [options.window or len(record) for record in train]
    added: list[int] = []
    if options.forecast_difference:
        added = [data.signal.features.index(name) for name in labels]
    net = LSTM1(
        num_classes=len(labels),
        input_size=train[0].x.shape[1],
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        seq_length=max(lengths),
        readout="last",
        added=added,
        dropout=config.dropout,
        bidirectional=config.bidirectional,
    )
    _initialize(net, float(np.mean(lengths)))
    x = torch.from_numpy(np.concatenate([record.x for record in train]))
    if data.classes:
        return net.set_scales(fit_scale(x))
    y = torch.from_numpy(np.concatenate([record.y for record in train]))
    return net.set_scales(fit_scale(x), fit_scale(y - net.now(x) if added else y))


@torch.no_grad()
def _initialize(net: LSTM1, steps: float) -> None:
    """Draw the initial parameters of the LSTM, with gates for memories of 1 to
    ``steps`` steps.

    This is chrono initialization (Tallec and Ollivier, "Can recurrent neural networks
    warp time?", ICLR 2018, equation 16). Recurrent weights are orthogonal, gate by gate
    (Saxe et al., 2014).
    """
    size = net.lstm.hidden_size
    for name, parameter in net.lstm.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.chunk(4):
                nn.init.orthogonal_(gate)
        elif name.startswith("bias"):
            parameter.zero_()
        if name.startswith("bias_ih"):
            memory = torch.log(torch.empty(size).uniform_(1, max(2.0, steps - 1)))
            parameter[:size] = -memory
            parameter[size : 2 * size] = memory


def loss_of(net: LSTM1, data: Data, train: list[Series], config: TrainConfig) -> Loss:
    """Return the loss of each step: cross entropy of classes, or squared error relative
    to the variance.
    """
    if net.y_std is not None:
        std = net.y_std
        return lambda outputs, y: (((outputs - y) / std) ** 2).mean(dim=-1)
    weight = None
    if config.class_weight == "balanced":
        weight = _balanced_weights(train, len(data.classes)).to(config.device)

    def loss(outputs: Tensor, y: Tensor) -> Tensor:
        """Return the cross entropy of each step, in the shape of ``y``."""
        losses = cross_entropy(
            outputs.flatten(0, 1),
            y.flatten(),
            weight=weight,
            reduction="none",
            label_smoothing=_SMOOTHING,
        )
        return losses.reshape(y.shape)

    return loss


def _balanced_weights(train: list[Series], classes: int) -> Tensor:
    """Return a weight per class, inversely proportional to its number of steps."""
    labels = np.concatenate([record.y for record in train])
    counts = np.bincount(labels, minlength=classes)
    return torch.tensor(counts.sum() / (classes * np.maximum(counts, 1))).float()
