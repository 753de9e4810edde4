"""Prune the weights of recurrent layers in blocks, which programs then leave out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lstm_edge_exporters.targets.native.blocks import INT8_SHAPE, SHAPE
from lstm_edge_runtime.errors import InputError

BLOCKS = {f"{rows}x{columns}": (rows, columns) for rows, columns in (SHAPE, INT8_SHAPE)}
"""Rows and columns of a block by name: for float32, and for int8 arithmetic."""
_FIRST = 0.2
"""Fraction of the epochs before pruning starts."""
_LAST = 0.6
"""Fraction of the epochs after which the density is final."""
_FEWEST_INPUTS = 16
"""Matrices of fewer columns are small, and stay dense."""


@dataclass
class _Masks:
    """Keeps pruned weights at zero: a hook before each call in training."""

    masks: dict[str, Tensor]
    """True where a weight stays, by the name of the parameter."""

    @torch.no_grad()
    def __call__(self, layer: nn.Module, _inputs: Any) -> None:
        """Set the pruned weights of a layer to zero before each call in training."""
        if not layer.training:
            return
        for name, mask in self.masks.items():
            weight = getattr(layer, name)
            weight.mul_(mask.to(weight.device))


def prune(
    module: nn.Module,
    density: float,
    epoch: int = 1,
    epochs: int = 1,
    *,
    block: str = "16x1",
) -> float:
    """Set the smallest blocks of weights of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` to
    zero, where they stay in training.

    Call it after every epoch, before validation. Pruning is gradual (Zhu and Gupta
    2017): it starts after the first fifth of the epochs and reaches ``density`` before
    the last two fifths. Blocks with the smallest L2 norm of each matrix go first. Input
    weights of fewer than 16 features stay dense.

    Args:
        module: the network; other layers stay dense.
        density: fraction of the blocks that stay in the end, above 0.
        epoch: number of the epoch that ended, from 1.
        epochs: number of all epochs; by default the final density is reached at once.
        block: rows x columns of a block: ``16x1`` for float32, ``8x4`` for a network
            that is quantized to int8 arithmetic.

    Returns:
        The density after this epoch.

    Raises:
        InputError: no such layer, a size that blocks do not fit, or a density or block
            that does not exist.
    """
    if block not in BLOCKS:
        raise InputError(f"block is {block!r}, expected {' or '.join(BLOCKS)}")
    if not 0 < density <= 1:
        raise InputError(f"density is {density!r}, expected above 0, at most 1")
    if not 1 <= epoch <= epochs:
        raise InputError(f"epoch is {epoch} of {epochs}, expected 1 to {epochs}")
    layers = [
        (name, layer)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.RNNBase)
    ]
    if not layers:
        raise InputError(
            f"{type(module).__name__} has no nn.LSTM, nn.GRU or nn.RNN to prune"
        )
    now = density_after(density, epoch, epochs)
    for name, layer in layers:
        _check_size(name, layer, block)
        masks = {
            parameter: _mask(weight, now, BLOCKS[block])
            for parameter, weight in _matrices(layer)
        }
        _hold(layer, masks)
    return now


def density_after(density: float, epoch: int, epochs: int) -> float:
    """Return the scheduled density after an epoch."""
    progress = (epoch / epochs - _FIRST) / (_LAST - _FIRST)
    left = 1 - min(max(progress, 0.0), 1.0)
    return density + (1 - density) * left**3


def _check_size(name: str, layer: nn.RNNBase, block: str) -> None:
    """Raise InputError if a block of rows would span two gates."""
    rows = BLOCKS[block][0]
    size = layer.hidden_size
    if size % rows:
        below = max(size // rows * rows, rows)
        raise InputError(
            f"{name or type(layer).__name__}: hidden_size {size} is not a multiple of"
            f" {rows}, and a block would span two gates; use {below} or"
            f" {size // rows * rows + rows}"
        )


def _matrices(layer: nn.RNNBase) -> Iterator[tuple[str, Tensor]]:
    """Yield the name and the values of each matrix that is pruned."""
    for name, weight in layer.named_parameters():
        is_matrix = name.startswith(("weight_ih", "weight_hh"))
        if is_matrix and weight.shape[1] >= _FEWEST_INPUTS:
            yield name, weight


@torch.no_grad()
def _mask(weight: Tensor, density: float, shape: tuple[int, int]) -> Tensor:
    """Return True where the blocks with the largest norms are."""
    rows, columns = shape
    height, width = weight.shape
    padded = nn.functional.pad(weight, (0, -width % columns))
    blocks = padded.reshape(height // rows, rows, -1, columns)
    norms = blocks.square().sum((1, 3))
    count = max(1, round(density * norms.numel()))
    is_largest = torch.zeros(norms.numel(), dtype=torch.bool, device=weight.device)
    is_largest[norms.flatten().topk(count).indices] = True
    mask = is_largest.reshape(norms.shape).repeat_interleave(rows, 0)
    return mask.repeat_interleave(columns, 1)[:, :width]


@torch.no_grad()
def _hold(layer: nn.RNNBase, masks: dict[str, Tensor]) -> None:
    """Set weights to zero where a mask is False, now and before each call in
    training.
    """
    for name, mask in masks.items():
        getattr(layer, name).mul_(mask)
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, _Masks):
            hook.masks = masks
            return
    layer.register_forward_pre_hook(_Masks(masks))
