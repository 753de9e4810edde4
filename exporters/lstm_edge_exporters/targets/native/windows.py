"""Which numbers of its input an output of a convolution or pooling reads, and copies that collect them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ...onnx_reader import Node

PADDING = -1
"""The place of a number that is padding."""


class Windows(NamedTuple):
    """How an operator's kernel goes over the spatial axes; a number for each of them."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def reach(self) -> tuple[int, ...]:
        """How many places a window covers."""
        return tuple((taps - 1) * each + 1 for taps, each in zip(self.kernel, self.dilations, strict=True))

    def places(self, places: Array) -> Array:
        """Return which of ``places (N, C, *spatial)`` each output reads, ``(N, C, *outputs, *kernel)``."""
        rank = len(self.kernel)
        found = np.pad(places, ((0, 0), (0, 0), *self.pads), constant_values=PADDING)
        for axis, (taps, stride, dilation) in enumerate(
            zip(self.kernel, self.strides, self.dilations, strict=True)
        ):
            starts = np.arange(0, found.shape[2 + 2 * axis] - (taps - 1) * dilation, stride)
            if not starts.size:
                raise UnsupportedError(f"a kernel of {self.kernel} for {places.shape}")
            read = starts[:, None] + np.arange(taps) * dilation
            found = found.take(read, axis=2 + 2 * axis)
        moved: Array = found.transpose(0, 1, *range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2))
        return moved


def declared(node: Node, kernel: Sequence[int]) -> Windows:
    """Return the windows that the attributes of a node declare, without ``auto_pad``."""
    rank = len(kernel)
    strides, dilations = (tuple(node.attributes.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    pads = node.attributes.get("pads", (0,) * (2 * rank))
    return Windows(tuple(kernel), strides, dilations, tuple(zip(pads[:rank], pads[rank:], strict=True)))


def windows_of(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Windows:
    """Return the windows of a node over spatial axes of these sizes."""
    windows = declared(node, kernel)
    strides, auto = windows.strides, node.attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        windows = windows._replace(pads=((0, 0),) * len(kernel))
    elif auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-size // stride) - 1) * stride + each - size)
            for size, stride, each in zip(sizes, strides, windows.reach, strict=True)
        ]
        less = [(total // 2, total - total // 2) for total in totals]
        windows = windows._replace(
            pads=tuple(less if auto == "SAME_UPPER" else [each[::-1] for each in less])
        )
    if any(size == 1 and taps > 1 for size, taps in zip(sizes, kernel, strict=True)):
        raise UnsupportedError(f"a kernel of {windows.kernel} over one step")
    if min(*strides, *windows.dilations, *kernel) < 1 or any(min(each) < 0 for each in windows.pads):
        raise UnsupportedError(f"strides {strides}, dilations {windows.dilations} or pads {[*windows.pads]}")
    if node.attributes.get("ceil_mode", 0) and any(
        (size + sum(pad) - each) % stride
        for size, pad, each, stride in zip(sizes, windows.pads, windows.reach, strides, strict=True)
    ):
        raise UnsupportedError("ceil_mode")
    return windows


class Stretches(NamedTuple):
    """Stretches of one length, each the same way behind the one before."""

    source: int
    """Where the first one is, or ``PADDING``."""
    out: int
    length: int
    number: int
    source_stride: int
    out_stride: int


def stretches(places: Array) -> Iterator[Stretches]:
    """Yield the copies that bring the numbers at ``places (n,)`` of a row side by side."""
    padding, follows = places == PADDING, np.diff(places) == 1
    same = np.where(padding[1:], padding[:-1], follows & ~padding[:-1])
    starts = np.concatenate([[0], np.flatnonzero(~same) + 1])
    lengths = np.diff([*starts, places.size])
    kinds = np.stack([padding[starts], lengths], 1)
    for kind in np.unique(kinds, axis=0):
        outs = starts[(kinds == kind).all(1)]
        sources, length = places[outs], int(kind[1])
        first = 0
        while first < len(outs):
            end = first + 1
            apart = (0, 0)
            if end < len(outs):
                apart = (int(sources[end] - sources[first]), int(outs[end] - outs[first]))
                while (
                    apart[0] >= 0
                    and end < len(outs)
                    and (sources[end] - sources[end - 1], outs[end] - outs[end - 1]) == apart
                ):
                    end += 1
            apart = apart if end > first + 1 else (0, 0)
            yield Stretches(int(sources[first]), int(outs[first]), length, end - first, *apart)
            first = end
