"""Convolutions and poolings: the elements that each output reads, and their sum or
maximum.
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
    """The windows of a kernel over the spatial axes; one entry per axis in each
    field.
    """

    kernel: tuple[int, ...]
    """Number of taps."""
    strides: tuple[int, ...]
    """Distance of neighboring windows."""
    dilations: tuple[int, ...]
    """Distance of neighboring taps."""
    pads: tuple[tuple[int, int], ...]
    """Padding before and after."""

    @property
    def reach(self) -> tuple[int, ...]:
        """Number of elements of an axis that a window covers."""
        pairs = zip(self.kernel, self.dilations, strict=True)
        return tuple((taps - 1) * dilation + 1 for taps, dilation in pairs)

    def addresses(self, addresses: Array) -> Array:
        """Return the elements of ``addresses (N, C, *spatial)`` that each output reads,
        ``(N, C, *outputs, *kernel)``.
        """
        windows = np.pad(
            addresses, ((0, 0), (0, 0), *self.pads), constant_values=PADDING
        )
        for number, taps in enumerate(self.kernel):
            axis = 2 + 2 * number  # each axis before became two: outputs and taps
            dilation = self.dilations[number]
            end = windows.shape[axis] - (taps - 1) * dilation
            starts = np.arange(0, end, self.strides[number])
            if not starts.size:
                raise UnsupportedError(
                    f"a kernel of {self.kernel} for {addresses.shape}"
                )
            read = starts[:, None] + np.arange(taps) * dilation
            windows = windows.take(read, axis=axis)
        outputs = range(2, windows.ndim, 2)
        kernel = range(3, windows.ndim, 2)
        return np.asarray(windows.transpose(0, 1, *outputs, *kernel))


def _windows(node: ir.Node, kernel: Sequence[int]) -> Windows:
    """Return the windows of a convolution or pooling; refuse options that are not
    covered.
    """
    rank = len(kernel)
    strides = tuple(attribute(node, "strides", (1,) * rank))
    dilations = tuple(attribute(node, "dilations", (1,) * rank))
    pads = attribute(node, "pads", (0,) * (2 * rank))
    for name, covered in {"auto_pad": ("NOTSET", "VALID"), "ceil_mode": (0,)}.items():
        value = attribute(node, name, covered[0])
        if value not in covered:
            raise UnsupportedError(f"{name} {value}")
    if min(*strides, *dilations, *kernel) < 1 or min(pads) < 0:
        raise UnsupportedError(
            f"strides {strides}, dilations {dilations} or pads {[*pads]}"
        )
    return Windows(
        kernel=tuple(kernel),
        strides=strides,
        dilations=dilations,
        pads=tuple(zip(pads[:rank], pads[rank:], strict=True)),
    )


def _as_read(taps: Array) -> Array:
    """Return the memory order of a row of ``taps``, of the row with the least padding."""
    padding = (taps == PADDING).sum(1)
    return np.argsort(taps[int(padding.argmin())], kind="stable")


@lowers("Conv")
def _conv(
    memory: Memory, node: ir.Node, operand: In, matrix: In, addend: In = None
) -> Out:
    """Lower a convolution: one product per frame, or per channel."""
    value = floats(operand)
    weights = as_array(matrix, "weights").astype("float32")
    bias = optional(addend, "a bias")
    groups = attribute(node, "group", 1)
    kernel = weights.shape[2:]
    addresses = _windows(node, kernel).addresses(value.addresses)
    out_channels = weights.shape[0] // groups
    outputs = addresses.shape[2 : 2 + len(kernel)]
    shape = (addresses.shape[0], weights.shape[0], *outputs)
    if weights.shape[1] == 1 and groups > 1:
        return _depthwise_conv(
            memory, addresses, weights=weights, bias=bias, shape=shape
        )
    spread = np.moveaxis(addresses, 1, 1 + len(kernel))  # (N, *outputs, C, *kernel)
    taps = spread.reshape(prod(shape) // shape[1], groups, -1)
    outputs_of_groups = []
    for group in range(groups):
        channels = slice(group * out_channels, (group + 1) * out_channels)
        read = taps[:, group]
        order = _as_read(read)
        row = memory.row(Value(read[:, order]))
        flat = weights[channels].reshape(out_channels, -1)[:, order]
        start = None if bias is None else bias[channels]
        products = memory.at(memory.writer.linear(row, flat, start))
        by_output = products.reshape(shape[0], *outputs, out_channels)
        outputs_of_groups.append(np.moveaxis(by_output, -1, 1))
    return Value(np.concatenate(outputs_of_groups, 1))


def _sums(
    memory: Memory,
    taps: Array,
    weights: Array | None,
    bias: Array | None,
    fill: float = 0.0,
) -> Array:
    """Return the addresses of sums of taps ``(K, outputs)`` times weights, or of maxima
    of taps.
    """
    order = _as_read(taps)
    row = memory.row(Value(taps[:, order]), fill)
    weights = None if weights is None else weights[:, order]
    bias = None if bias is None else bias[order]
    sums = memory.writer.depthwise(row, len(order), weights=weights, bias=bias)
    addresses = np.empty(len(order), np.int64)
    addresses[order] = memory.at(sums)
    return addresses


def _depthwise_conv(
    memory: Memory,
    addresses: Array,
    weights: Array,
    bias: Array | None,
    shape: tuple[int, ...],
) -> Value:
    """Return a convolution in which each output reads one channel."""
    rows, channels = addresses.shape[:2]
    size = prod(shape[2:])
    by_tap = np.moveaxis(addresses.reshape(rows, channels, size, -1), -1, 0)
    taps = by_tap.reshape(-1, rows * channels * size)
    # (multiplier, K, C)
    kernels = weights.reshape(channels, -1, len(taps)).transpose(1, 2, 0)
    starts = None if bias is None else bias.reshape(channels, -1).T

    def spread(numbers: Array) -> Array:
        """Repeat numbers ``(..., C)`` for every output."""
        shape = (*numbers.shape[:-1], rows, channels, size)
        repeated = np.broadcast_to(numbers[..., None, :, None], shape)
        return repeated.reshape(*numbers.shape[:-1], -1)

    sums_of_groups = []
    for index, kernel in enumerate(kernels):
        start = None if starts is None else spread(starts[index])
        sums = _sums(memory, taps, weights=spread(kernel), bias=start)
        sums_of_groups.append(sums.reshape(rows, channels, size))
    return Value(np.stack(sums_of_groups, 2).reshape(shape))


@lowers("MaxPool", "AveragePool")
def _pool(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower a pooling: the largest or the mean of each window."""
    value = floats(operand)
    kernel = attribute(node, "kernel_shape")
    addresses = _windows(node, kernel).addresses(value.addresses)
    shape = addresses.shape[: 2 + len(kernel)]
    taps = addresses.reshape(prod(shape), -1).T
    if node.op_type == "MaxPool":
        return Value(
            _sums(memory, taps, weights=None, bias=None, fill=-np.inf).reshape(shape)
        )
    counted = taps != PADDING
    if attribute(node, "count_include_pad", 0):
        counted = np.ones(taps.shape, bool)
    weights = (counted / counted.sum(0)).astype("float32")
    return Value(_sums(memory, taps, weights=weights, bias=None).reshape(shape))


@lowers("ConvTranspose")
def _conv_transpose(
    memory: Memory, node: ir.Node, operand: In, matrix: In, addend: In = None
) -> Out:
    """Multiply each frame by the taps' weights and add the products of each output."""
    value = floats(operand)
    weights = as_array(matrix, "weights").astype("float32")
    bias = optional(addend, "a bias")
    groups = attribute(node, "group", 1)
    kernel = weights.shape[2:]
    sizes = value.shape[2:]
    windows = _windows(node, kernel)
    if attribute(node, "output_shape"):
        raise UnsupportedError("output_shape, expected pads and output_padding")
    extra = attribute(node, "output_padding", (0,) * len(kernel))
    outputs = []
    for axis, size in enumerate(sizes):
        last_frame = (size - 1) * windows.strides[axis]
        padding = sum(windows.pads[axis])
        outputs.append(last_frame + windows.reach[axis] + extra[axis] - padding)
    out_channels = weights.shape[1]
    frames = prod(sizes)
    products = []  # of each frame with each tap: (frames, taps, out_channels)
    inputs_of_groups = np.split(value.addresses[0].reshape(-1, frames), groups)
    weights_of_groups = np.split(weights, groups)
    for inputs, kernels in zip(inputs_of_groups, weights_of_groups, strict=True):
        in_channels = len(kernels)
        by_tap = kernels.reshape(in_channels, out_channels, -1).transpose(2, 1, 0)
        row = memory.row(Value(inputs.T))
        product = memory.writer.linear(row, by_tap.reshape(-1, in_channels))
        in_frames = memory.at(product).reshape(frames * prod(kernel), out_channels)
        products.append(in_frames)
    # the products of each output: (one after another, outputs, groups, out_channels)
    reached = windows.addresses(np.arange(prod(outputs)).reshape(1, 1, *outputs))[0, 0]
    to = reached[tuple(map(slice, sizes))].reshape(-1)
    order = np.argsort(to, kind="stable")[(to == PADDING).sum() :]
    number = np.arange(len(order)) - np.searchsorted(to[order], to[order])
    most = int(number.max()) + 1
    laid = np.full((most, prod(outputs), groups, out_channels), PADDING)
    laid[number, to[order]] = np.stack(products, 1)[order]
    taps = laid.reshape(most, -1)
    addresses = taps[0]
    if most > 1 or bias is not None:
        ones = np.ones(taps.shape, "float32")
        starts = None if bias is None else np.tile(bias, prod(outputs))
        addresses = _sums(memory, taps, weights=ones, bias=starts)
    by_output = addresses.reshape(1, *outputs, groups * out_channels)
    return Value(np.moveaxis(by_output, -1, 1))
