"""Convolutions and poolings: which numbers each output reads, and their sum or
largest.
"""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from .evaluate import attribute
from .memory import PADDING, Memory, Value
from .operators import In, Out, as_array, floats, lowers, optional


class Windows(NamedTuple):
    """How an operator's kernel goes over the spatial axes; a number for each of
    them.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many numbers of an axis a window covers."""
        return tuple(
            (taps - 1) * gap + 1
            for taps, gap in zip(self.kernel, self.dilations, strict=True)
        )

    def places(self, places: Array) -> Array:
        """Return which of ``places (N, C, *spatial)`` each output reads,
        ``(N, C, *outputs, *kernel)``.
        """
        rank = len(self.kernel)
        windows = np.pad(places, ((0, 0), (0, 0), *self.pads), constant_values=PADDING)
        for axis, (taps, stride, dilation) in enumerate(
            zip(self.kernel, self.strides, self.dilations, strict=True)
        ):
            starts = np.arange(
                0, windows.shape[2 + 2 * axis] - (taps - 1) * dilation, stride
            )
            if not starts.size:
                raise UnsupportedError(f"a kernel of {self.kernel} for {places.shape}")
            read = starts[:, None] + np.arange(taps) * dilation
            windows = windows.take(read, axis=2 + 2 * axis)
        return np.asarray(
            windows.transpose(
                0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)
            )
        )


def _windows(node: ir.Node, kernel: Sequence[int]) -> Windows:
    """Return the windows of a convolution or pooling; refuse options that are not
    covered.
    """
    rank = len(kernel)
    strides, dilations = (
        tuple(attribute(node, name, (1,) * rank)) for name in ("strides", "dilations")
    )
    pads = attribute(node, "pads", (0,) * (2 * rank))
    for name, expected in {"auto_pad": ("NOTSET", "VALID"), "ceil_mode": (0,)}.items():
        if (given := attribute(node, name, expected[0])) not in expected:
            raise UnsupportedError(f"{name} {given}")
    if min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
        raise UnsupportedError(
            f"strides {strides}, dilations {dilations} or pads {[*pads]}"
        )
    return Windows(
        tuple(kernel),
        strides,
        dilations,
        tuple(zip(pads[:rank], pads[rank:], strict=True)),
    )


def _as_read(taps: Array) -> Array:
    """Return the order in which the numbers of a row of ``taps`` lie, of the one with
    the least padding.
    """
    return np.argsort(taps[int((taps == PADDING).sum(1).argmin())], kind="stable")


@lowers("Conv")
def _conv(
    memory: Memory, node: ir.Node, given: In, matrix: In, added: In = None
) -> Out:
    """Lower a convolution: one product per frame, or per channel."""
    value = floats(given)
    weights = as_array(matrix, "weights").astype("float32")
    bias = optional(added, "a bias")
    groups = attribute(node, "group", 1)
    kernel = weights.shape[2:]
    places = _windows(node, kernel).places(value.places)
    made = weights.shape[0] // groups
    outputs = places.shape[2 : 2 + len(kernel)]
    shape = (places.shape[0], weights.shape[0], *outputs)
    if weights.shape[1] == 1 and groups > 1:
        return _depthwise_conv(memory, places, weights, bias, shape)
    spread = np.moveaxis(places, 1, 1 + len(kernel))  # (N, *outputs, C, *kernel)
    taps = spread.reshape(prod(shape) // shape[1], groups, -1)
    parts = []
    for group in range(groups):
        channels = slice(group * made, (group + 1) * made)
        read = taps[:, group]
        order = _as_read(read)
        row = memory.row(Value(read[:, order]))
        flat = weights[channels].reshape(made, -1)[:, order]
        part = memory.at(
            memory.writer.linear(row, flat, None if bias is None else bias[channels])
        )
        parts.append(np.moveaxis(part.reshape(shape[0], *outputs, made), -1, 1))
    return Value(np.concatenate(parts, 1))


def _sums(
    memory: Memory,
    taps: Array,
    weights: Array | None,
    bias: Array | None,
    fill: float = 0.0,
) -> Array:
    """Return the places of sums of taps ``(K, outputs)`` times weights; of the largest
    without weights.
    """
    order = _as_read(taps)
    row = memory.row(Value(taps[:, order]), fill)
    if weights is not None:
        weights = weights[:, order]
    made = memory.writer.depthwise(
        row, len(order), weights, None if bias is None else bias[order]
    )
    places = np.empty(len(order), np.int64)
    places[order] = memory.at(made)
    return places


def _depthwise_conv(
    memory: Memory,
    places: Array,
    weights: Array,
    bias: Array | None,
    shape: tuple[int, ...],
) -> Value:
    """Return a convolution in which each output reads one channel."""
    rows, channels = places.shape[:2]
    size = prod(shape[2:])
    taps = np.moveaxis(places.reshape(rows, channels, size, -1), -1, 0).reshape(
        -1, rows * channels * size
    )
    full = weights.reshape(channels, -1, len(taps)).transpose(
        1, 2, 0
    )  # (multiplier, K, C)
    starts = None if bias is None else bias.reshape(channels, -1).T

    def spread(numbers: Array) -> Array:  # (..., C) to every output
        wide = np.broadcast_to(
            numbers[..., None, :, None], (*numbers.shape[:-1], rows, channels, size)
        )
        return wide.reshape(*numbers.shape[:-1], -1)

    made = [
        _sums(
            memory,
            taps,
            spread(kernel),
            None if starts is None else spread(starts[index]),
        )
        for index, kernel in enumerate(full)
    ]
    joined = np.stack([sums.reshape(rows, channels, size) for sums in made], 2)
    return Value(joined.reshape(shape))


@lowers("MaxPool", "AveragePool")
def _pool(memory: Memory, node: ir.Node, given: In) -> Out:
    """Lower a pooling: the largest or the mean of each window."""
    value = floats(given)
    kernel = attribute(node, "kernel_shape")
    largest = node.op_type == "MaxPool"
    places = _windows(node, kernel).places(value.places)
    shape = places.shape[: 2 + len(kernel)]
    taps = places.reshape(prod(shape), -1).T
    weights = None
    if not largest:
        counted = (
            np.ones(taps.shape)
            if attribute(node, "count_include_pad", 0)
            else taps != PADDING
        )
        weights = (counted / counted.sum(0)).astype("float32")
    return Value(
        _sums(memory, taps, weights, None, -np.inf if largest else 0.0).reshape(shape)
    )


@lowers("ConvTranspose")
def _conv_transpose(
    memory: Memory, node: ir.Node, given: In, matrix: In, bias: In = None
) -> Out:
    """Multiply each frame by the taps' weights and add the products of each output."""
    value = floats(given)
    weights = as_array(matrix, "weights").astype("float32")
    groups = attribute(node, "group", 1)
    kernel = weights.shape[2:]
    sizes = value.shape[2:]
    windows = _windows(node, kernel)
    if bias is not None or attribute(node, "output_shape"):
        raise UnsupportedError("a bias or output_shape")
    more = attribute(node, "output_padding", (0,) * len(kernel))
    outputs = tuple(
        (size - 1) * stride + reach + extra - sum(pad)
        for size, stride, reach, extra, pad in zip(
            sizes, windows.strides, windows.reach, more, windows.pads, strict=True
        )
    )
    made = weights.shape[1]
    frames = prod(sizes)
    products = []  # of each frame with each tap: (frames, taps, made)
    for inputs, part in zip(
        np.split(value.places[0].reshape(-1, frames), groups),
        np.split(weights, groups),
        strict=True,
    ):
        flat = (
            part.reshape(len(part), made, -1).transpose(2, 1, 0).reshape(-1, len(part))
        )
        row = memory.at(memory.writer.linear(memory.row(Value(inputs.T)), flat))
        products.append(row.reshape(frames * prod(kernel), made))
    # the products that fall on each output: (one after another, outputs, groups, made)
    reached = windows.places(np.arange(prod(outputs)).reshape(1, 1, *outputs))[0, 0]
    to = reached[tuple(map(slice, sizes))].reshape(-1)
    order = np.argsort(to, kind="stable")[(to == PADDING).sum() :]
    number = np.arange(len(order)) - np.searchsorted(to[order], to[order])
    most = int(number.max()) + 1
    laid = np.full((most, prod(outputs), groups, made), PADDING)
    laid[number, to[order]] = np.stack(products, 1)[order]
    taps = laid.reshape(most, -1)
    places = (
        taps[0]
        if most == 1
        else _sums(memory, taps, np.ones(taps.shape, "float32"), None)
    )
    return Value(np.moveaxis(places.reshape(1, *outputs, groups * made), -1, 1))
