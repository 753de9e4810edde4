"""The states of one stream or batch between two calls: plain arrays, and the identity
of their model.
"""

import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .errors import FileFormatError, InputError, NotFoundError, first_line
from .manifest import Array

# the layout of ``lstm_edge_format.h``
_MAGIC = b"LSTMSAVE"
_FRONT = struct.Struct("<8sI")
"""Magic, CRC-32 of all that follows."""
_HEADER = struct.Struct("<IQII64s")
"""0, age, number of arrays, 0, identity."""
_ARRAY = struct.Struct("<IIIIQ")
"""Kind, type, bytes of the name, number of axes, number of elements."""
_STATE = 0
_SAMPLES = 1
_OTHER = 2
_TYPES = (
    *("float32", "int64", "int32", "int16", "int8", "uint8"),
    *("float64", "float16", "bool", "uint16", "uint32", "uint64"),
)
"""Types of elements; the index is the number in a file."""
STATE_TYPES = {"float32": "float32", "int64": "int64", "bool": "float32"}
"""Types of the states of programs, also where they are saved, by those in the model
file. A program has no int32, which would not wrap at 2**31 in int64."""
_MAX_AGE = 1 << 62


def _have_same_arrays(some: Mapping[str, Array], other: Mapping[str, Array]) -> bool:
    """Return True if both hold the same arrays under the same names."""
    return some.keys() == other.keys() and all(
        np.array_equal(array, other[name]) for name, array in some.items()
    )


class State(Mapping[str, Array]):
    """An immutable mapping of state input names to arrays, for example
    ``h_0 (layers*D, N, H)``.

    It pickles, saves to a file, and carries its age and the identity (sha256) of the
    model file that it came from: a model refuses the state of another one.
    """

    __slots__ = ("_arrays", "age", "identity", "samples")

    def __init__(
        self,
        arrays: Mapping[str, Array],
        identity: str,
        age: int = 0,
        samples: Mapping[str, Array] | None = None,
    ) -> None:
        """Copy ``arrays`` and ``samples``; the copies can't be written to."""
        self._arrays = _read_only(arrays)
        self.samples: Mapping[str, Array] = _read_only(samples or {})
        """The samples of an incomplete unit by input, ``(steps, I)``; empty between
        units."""
        self.identity = identity
        """The sha256 of the model file, in hex."""
        self.age = age
        """Time steps since reset, of a batch those of the longest row; 0 if unknown."""

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        """Return True for a state of the same model, age, arrays and samples."""
        if not isinstance(other, State):
            return NotImplemented
        is_alike = (self.identity, self.age) == (other.identity, other.age)
        pairs = ((self._arrays, other._arrays), (self.samples, other.samples))
        return is_alike and all(_have_same_arrays(*pair) for pair in pairs)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type["State"], tuple[Any, ...]]:
        """Pickle the arrays with the model's identity, the age and the kept samples."""
        return State, (self._arrays, self.identity, self.age, self.samples)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name}: {array.dtype} {array.shape}" for name, array in self.items()
        )
        return f"State({shapes}; model {self.identity[:12]})"

    def to_bytes(self, **more: Any) -> bytes:
        """Return the state as ``lstm_edge_save`` of the C library writes it, and
        ``more`` arrays.

        Raises:
            InputError: an array of a dtype that a saved state can't have.
        """
        entries = []
        sections = {_STATE: self, _SAMPLES: self.samples, _OTHER: more}
        for section, arrays in sections.items():
            for name, values in arrays.items():
                array = np.asarray(values)
                if section == _STATE:
                    dtype = array.dtype.name
                    array = array.astype(STATE_TYPES.get(dtype, dtype), copy=False)
                entries.append(_entry(section, name, array))
        identity = self.identity.encode("ascii", "replace")[:64]
        header = _HEADER.pack(0, self.age, len(entries), 0, identity)
        rest = header + b"".join(entries)
        return _FRONT.pack(_MAGIC, zlib.crc32(rest)) + rest

    def save(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write ``to_bytes`` to ``path``; raises as ``replacing``."""
        from .files import write_bytes

        write_bytes(path, self.to_bytes(**more))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "State":
        """Read what ``save``, C or JavaScript wrote; ``NotFoundError``, or
        ``FileFormatError`` for any other file.

        States of C and JavaScript are flat; a stream takes them in any shape.
        """
        return read_state(path)[0]


def _read_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return copies that can't be written to."""
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}
    for copy in copies.values():
        copy.flags.writeable = False
    return copies


def read_state(path: str | os.PathLike[str]) -> tuple[State, dict[str, Array]]:
    """Return the state in a file, and the other arrays there; raises as
    ``State.load``.
    """
    from .files import open_regular

    advice = "save one first, or reset the stream"
    try:
        with open_regular(path) as file:
            return state_of_bytes(file.read())
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist; {advice}") from error
    except (OSError, ValueError, struct.error) as error:
        raise FileFormatError(
            f"{path} is not a saved state ({first_line(error)}); {advice}"
        ) from error


def state_of_bytes(content: bytes) -> tuple[State, dict[str, Array]]:
    """Return the state in what ``State.to_bytes`` returned, and its other arrays.

    Raises:
        ValueError, struct.error: it is not a saved state, or it is truncated or damaged.
    """
    if not content:
        raise ValueError("it is empty")
    if len(content) < _FRONT.size:
        raise ValueError("it does not begin as one")
    magic, crc = _FRONT.unpack_from(content)
    if magic != _MAGIC:
        raise ValueError("it does not begin as one")
    if crc != zlib.crc32(memoryview(content)[_FRONT.size :]):
        raise ValueError("truncated or damaged")
    _, age, count, _, identity = _HEADER.unpack_from(content, _FRONT.size)
    if age >= _MAX_AGE:
        raise ValueError(f"age {age}")
    arrays: dict[int, dict[str, Array]] = {_STATE: {}, _SAMPLES: {}, _OTHER: {}}
    position = _FRONT.size + _HEADER.size
    for _ in range(count):
        entry, position = _read_entry(content, position)
        arrays.setdefault(entry.section, {})[entry.name] = entry.array
    text = identity.rstrip(b"\0").decode("ascii")
    return State(
        arrays=arrays[_STATE], identity=text, age=age, samples=arrays[_SAMPLES]
    ), arrays[_OTHER]


class _Entry(NamedTuple):
    """An array of a saved state."""

    section: int
    """``_STATE``, ``_SAMPLES`` or ``_OTHER``."""
    name: str
    """Name of the array."""
    array: Array
    """The array."""


def _entry(section: int, name: str, array: Array) -> bytes:
    """Return the bytes of an array."""
    if array.dtype.name not in _TYPES:
        raise InputError(
            f"{name} has dtype {array.dtype}, expected one of {', '.join(_TYPES)}"
        )
    label = name.encode()
    number = _TYPES.index(array.dtype.name)
    header = _ARRAY.pack(section, number, len(label), array.ndim, array.size)
    shape = struct.pack(f"<{array.ndim}Q", *array.shape)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return header + shape + _padded(label) + _padded(little.tobytes())


def _padded(data: bytes) -> bytes:
    """Return the bytes, padded with zeros to a multiple of 8."""
    return data + bytes(-len(data) % 8)


def _read_entry(content: bytes, position: int) -> tuple[_Entry, int]:
    """Return the array at ``position``, and the position after it; raises
    ``ValueError``.
    """
    section, number, size, dims, count = _ARRAY.unpack_from(content, position)
    if number >= len(_TYPES) or dims > 64:
        raise ValueError(f"an array of type {number} with {dims} axes")
    dtype = np.dtype(_TYPES[number]).newbyteorder("<")
    position += _ARRAY.size
    shape = struct.unpack_from(f"<{dims}Q", content, position)
    if math.prod(shape) != count:
        raise ValueError(f"{count} elements for shape {shape!s:.40}")
    position += 8 * dims
    name = content[position : position + size].decode()
    position += size + -size % 8
    end = position + count * dtype.itemsize
    if end > len(content):
        raise ValueError(f"array {name!r:.40} is cut")
    values = np.frombuffer(content, dtype, count, position)
    array = values.astype(dtype.newbyteorder("=")).reshape(shape)
    return _Entry(section, name, array), end + -end % 8
