"""Addresses of the elements of values while a graph is compiled, and the copies that
bring them into one row.

Every number of every buffer has an address: an integer that no other number has. A value
is an array of addresses in its shape. Operators that only move numbers (Reshape,
Transpose, Slice, Concat and so on) move addresses, and no operation is added. An
operation that computes asks for a row: a buffer with the numbers in order, which is an
existing buffer if that holds them already.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.native import Past

from .operations import Code
from .program import ProgramWriter

PADDING = -1
"""The address of a number that is 0, and in no buffer."""
_MOST_COPIES = 1024
"""Copies that one rearrangement may take."""


class Value(NamedTuple):
    """A value that is computed at run time."""

    addresses: Array
    """The address of each number in memory, in the value's shape."""
    dtype: str = "float32"
    """``float32``; ``bool``, which are float32 of 0 and 1 in the program; ``int64`` for
    whole numbers of any type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape for one source and one step, or one unit."""
        return self.addresses.shape

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.addresses.size


class _Region(NamedTuple):
    """Consecutive addresses of a buffer, or of the frames of a past followed by those of
    a source.
    """

    buffer: int
    """Number of the buffer."""
    width: int
    """Number of addresses."""
    frame: int = 0
    """For a past: number of elements per frame."""
    source: int = 0
    """For a past: the buffer of the frames after it."""
    new: int = 0
    """How many these are."""


INT8 = ("int8", "int8-native")
"""Values of a manifest's ``arithmetic`` at which this engine quantizes inputs."""


class Memory:
    """The buffers of a program, by addresses."""

    def __init__(self, writer: ProgramWriter, *, int8: bool = False) -> None:
        """Begin with ``writer``, to which operations are added; ``int8`` layers
        quantize their inputs.
        """
        self.writer = writer
        self.int8 = int8
        self.fused: set[ir.Node] = set()
        """Additions that are part of the product before them."""
        self._starts: list[int] = []
        self._regions: list[_Region] = []
        self._of_buffer: dict[int, int] = {}
        self._rows: dict[tuple[bytes, float], int] = {}
        self._windows: dict[tuple[int, ...], int] = {}
        self._wide: dict[int, int] = {}
        """Buffer of int64 per input of whole numbers that is computed with."""

    def _add(self, region: _Region) -> int:
        """Add a region behind the last one and return its first address."""
        start = (
            self._starts[-1] + self._regions[-1].width + 1 if self._regions else 1
        )  # never side by side
        self._starts.append(start)
        self._regions.append(region)
        return start

    def at(self, buffer: int) -> Array:
        """Return the addresses of a buffer's numbers ``(width,)``."""
        width = self.writer.width(buffer)
        if buffer not in self._of_buffer:
            self._of_buffer[buffer] = self._add(_Region(buffer, width))
        return np.asarray(np.arange(width) + self._of_buffer[buffer])

    def value(self, buffer: int, shape: Sequence[int], dtype: str = "float32") -> Value:
        """Return the value whose elements a buffer holds, in order."""
        return Value(self.at(buffer).reshape(shape), dtype)

    @property
    def end(self) -> int:
        """The first address after all others."""
        return self._starts[-1] + self._regions[-1].width if self._regions else 0

    def copies(self) -> Iterator[tuple[int, Array]]:
        """Yield each buffer with numbers of other addresses, and the latter."""
        for (number, first, dilation, count), buffer in self._windows.items():
            frame = self._regions[number].frame
            frames = self._starts[number] + frame * (
                first + dilation * np.arange(count)[:, None]
            )
            yield buffer, (frames + np.arange(frame)).reshape(-1)
        for (flat, _), buffer in self._rows.items():
            yield buffer, np.frombuffer(flat, np.int64)

    def stored(self, array: Array) -> Value:
        """Return a value of stored float32 numbers."""
        flat = np.asarray(array, np.float32).reshape(-1)
        return self.value(
            self.writer.filled(flat),
            array.shape,
            "bool" if array.dtype == bool else "float32",
        )

    def with_past(self, past: int, ring: Past, source: Value, axis: int) -> Array:
        """Return the addresses of a past's frames followed, along ``axis``, by those of
        ``source``.
        """
        new = source.shape[axis]
        row = self.row(Value(np.moveaxis(source.addresses, axis, 0)))
        frames = ring.frames + new
        size = ring.groups * ring.inner
        start = self._add(
            _Region(buffer=past, width=frames * size, frame=size, source=row, new=new)
        )
        addresses = start + np.arange(frames * size).reshape(
            frames, ring.groups, ring.inner
        )
        shape = list(source.shape)
        shape[axis] = frames
        return np.asarray(addresses.transpose(1, 0, 2).reshape(shape))

    def push(self, value: Value, past: int, ring: Past) -> None:
        """Let a past take in its new frames, if ``value`` is the last ones.

        Raises:
            UnsupportedError: it is another value.
        """
        number = int(self._region(value.addresses.reshape(-1)[:1])[0])
        region = self._regions[number]
        start = self._starts[number]
        frames = (
            start + region.new * region.frame + np.arange(ring.frames * region.frame)
        )
        last = frames.reshape(ring.frames, ring.groups, ring.inner).transpose(1, 0, 2)
        if region.buffer != past or not np.array_equal(
            last.reshape(-1), value.addresses.reshape(-1)
        ):
            raise UnsupportedError("a state that is not the last frames of a value")
        self.writer.operation(Code.PUSH, region.source, past, ring.frames, ring.groups)

    def _region(self, addresses: Array) -> Array:
        """Return the number of the region of each address, -1 for padding."""
        return np.asarray(
            np.searchsorted(np.array(self._starts), addresses, side="right") - 1
        )

    def buffers(self, value: Value) -> list[int] | None:
        """Return the buffers of a value that has all of their numbers, each once; None
        for any other.
        """
        flat = value.addresses.reshape(-1)
        numbers = np.unique(self._region(flat)).tolist()
        regions = [self._regions[number] for number in numbers if number >= 0]
        whole = (
            sum(region.width for region in regions) == flat.size == np.unique(flat).size
        )
        if (
            not whole
            or len(regions) < len(numbers)
            or any(region.frame for region in regions)
        ):
            return None
        return [region.buffer for region in regions]

    def widened(self, value: Value) -> Value:
        """Return a value with int64 in the place of inputs of whole numbers; each input
        is converted once.
        """
        writer = self.writer
        addresses = value.addresses.copy()
        for port in writer.ports("inputs"):
            buffer = port.buffer
            old = self.at(buffer)
            mask = (addresses >= old[0]) & (addresses <= old[-1])
            if writer.dtype(buffer) == "float32" or not mask.any():
                continue
            if buffer not in self._wide:
                self._wide[buffer] = writer.cast(buffer, "int64")
            addresses[mask] += self.at(self._wide[buffer])[0] - old[0]
        return value._replace(addresses=addresses)

    def lying(self, value: Value) -> tuple[int, Array] | None:
        """Return the buffer that holds exactly a value's elements, and their order;
        None if there is none.

        The order is an array of indices into the flat value, in the order of the
        buffer.
        """
        buffers = self.buffers(value)
        if buffers is None or len(buffers) != 1:
            return None
        return buffers[0], np.argsort(value.addresses.reshape(-1))

    def map(
        self, value: Value, function: Callable[[int], int], dtype: str = ""
    ) -> Value:
        """Apply an elementwise function from buffer to buffer to a value; return the
        result.
        """
        value = self.widened(value)
        buffers = self.buffers(value)
        if buffers is None:
            buffers = [self.row(value)]
            value = value._replace(addresses=self.at(buffers[0]).reshape(value.shape))
        addresses = value.addresses.copy()
        for buffer in buffers:
            old = self.at(buffer)
            new = self.at(function(buffer))
            mask = (value.addresses >= old[0]) & (value.addresses <= old[-1])
            addresses[mask] += new[0] - old[0]
        return Value(addresses, dtype or value.dtype)

    def row(self, value: Value, fill: float = 0.0) -> int:
        """Return a buffer with a value's numbers in the order of its axes, ``fill`` in
        the place of padding.

        Raises:
            UnsupportedError: too many copies.
        """
        value = self.widened(value)
        flat = value.addresses.reshape(-1)
        key = (flat.tobytes(), fill)
        if key not in self._rows:
            self._rows[key] = self._collect(
                self._out_of_pasts(self._padded(flat, fill)), value
            )
        return self._rows[key]

    def _padded(self, flat: Array, fill: float) -> Array:
        """Return addresses in which stored numbers replace padding."""
        padding = flat == PADDING
        index = np.arange(flat.size)
        if not padding.any():
            return flat
        distance = index - np.maximum.accumulate(np.where(padding, -1, index))
        stored = self.stored(np.full(distance.max(), fill)).addresses
        return np.where(padding, stored[np.maximum(distance - 1, 0)], flat)

    def _collect(self, flat: Array, value: Value) -> int:
        """Return a buffer with the elements at addresses, copied if none has them in
        this order.
        """
        if not flat.size:
            raise UnsupportedError(f"an empty value {value.shape}")
        buffer = self._regions[int(self._region(flat[:1])[0])].buffer
        if np.array_equal(flat, self.at(buffer)):
            return buffer
        copies = list(strided_copies(flat, self._region(flat)))
        if len(copies) > _MOST_COPIES:
            raise UnsupportedError(
                f"{len(copies)} copies of {value.dtype} {value.shape}"
            )
        dtype = "int64" if value.dtype == "int64" else "float32"
        out = self.writer.buffer(flat.size, dtype)
        for source, *rest in copies:
            number = int(self._region(np.array([source]))[0])
            start = source - self._starts[number]
            self.writer.operation(
                Code.COPY, self._regions[number].buffer, out, start, *rest
            )
        return out

    def _out_of_pasts(self, flat: Array) -> Array:
        """Return addresses with those of a past replaced by those of a window of its
        frames.
        """
        numbers = self._region(flat)
        for number in np.unique(numbers).tolist():
            if not self._regions[number].frame:
                continue
            region = self._regions[number]
            mask = numbers == number
            frames, inner = np.divmod(flat[mask] - self._starts[number], region.frame)
            used = np.unique(frames)
            apart = np.unique(np.diff(used))
            first = int(used[0])
            dilation = int(apart[0]) if apart.size == 1 else 1
            count = (int(used[-1]) - first) // dilation + 1
            key = (number, first, dilation, count)
            if key not in self._windows:
                window = (
                    region.source,
                    region.buffer,
                    first,
                    dilation,
                    count,
                    region.new,
                )
                self._windows[key] = self.writer.window(*window)
            flat = flat.copy()
            flat[mask] = self.at(self._windows[key])[
                (frames - first) // dilation * region.frame + inner
            ]
        return flat


class StridedCopies(NamedTuple):
    """Copies of equal length at constant strides of source and destination."""

    source: int
    """First element to read."""
    out: int
    """First element to write."""
    length: int
    """Elements per copy."""
    number: int
    """Number of copies."""
    source_stride: int
    """Elements between the starts of two reads."""
    out_stride: int
    """Elements between the starts of two writes."""


def strided_copies(addresses: Array, regions: Array) -> Iterator[StridedCopies]:
    """Yield the copies that bring the numbers at ``addresses (n,)`` of regions side by
    side.
    """
    starts = np.concatenate([[0], np.flatnonzero(np.diff(addresses) != 1) + 1])
    region_lengths = np.stack([regions[starts], np.diff([*starts, addresses.size])], 1)
    for region_length in np.unique(region_lengths, axis=0):
        outs = starts[(region_lengths == region_length).all(1)]
        sources = addresses[outs]
        first = 0
        steps = np.stack([np.diff(sources), np.diff(outs)], 1)
        turns = np.append(
            np.flatnonzero((steps[1:] != steps[:-1]).any(1)) + 1, len(steps)
        )
        while first < len(outs):
            end = first + 1
            if end < len(outs) and steps[first, 0] >= 0:
                end += int(turns[np.searchsorted(turns, first, side="right")]) - first
            apart = steps[first].tolist() if end > first + 1 else (0, 0)
            yield StridedCopies(
                int(sources[first]),
                int(outs[first]),
                int(region_length[1]),
                end - first,
                *apart,
            )
            first = end
