"""The operations of a program: their codes, and the names and roles of their arguments.

``lstm_edge_format.h`` of lstm-edge-native says what each of them computes.
"""

from collections.abc import Iterator, Mapping
from enum import Enum, IntEnum
from typing import NamedTuple

NONE = 0xFFFFFFFF
"""A constant or buffer that is not there."""
Code = IntEnum(
    "Code",
    "LINEAR LSTM GRU RNN UNARY BINARY SOFTMAX NORMALIZE GATHER COPY CAST CONSTANT WHERE"
    " WINDOW PUSH DEPTHWISE",
)
"""Operations."""
RECURRENT = (Code.LSTM, Code.GRU, Code.RNN)
"""Recurrent layers, which have the same arguments."""
ACTIVATIONS = 3
"""Activations that a recurrent layer has room for."""


class Role(Enum):
    """Role of an argument."""

    READ = "a buffer that is read"
    WRITE = "a buffer that is written"
    CONSTANT = "the number of a constant"
    NUMBER = "a number"
    FLOAT = "a float32 by its bits"


class Field(NamedTuple):
    """One argument of an operation."""

    name: str
    """Name as in ``lstm_edge_format.h``."""
    role: Role
    """What the argument refers to."""


def _fields(text: str) -> tuple[Field, ...]:
    """Return the fields that a line of roles and names describes."""
    words = [field.split() for field in text.split(",")]
    return tuple(Field(name, Role[role.upper()]) for role, name in words)


_ACTIVATION = "number kind_{0}, float alpha_{0}, float beta_{0}"
_LAYER = _fields(
    "read x, read h, read c, write new_h, write new_c, constant w, constant r,"
    " constant bias, constant w_scales, constant r_scales, number flags, "
    + ", ".join(_ACTIVATION.format(number) for number in range(ACTIVATIONS))
    + ", number w_stored, number r_stored, number shared"
)
FIELDS: Mapping[Code, tuple[Field, ...]] = {
    Code.LINEAR: _fields(
        "read x, write y, constant weights, constant bias, constant scales,"
        " number stored"
    ),
    **dict.fromkeys(RECURRENT, _LAYER),
    Code.UNARY: _fields("read x, write y, number kind, float alpha, float beta"),
    Code.BINARY: _fields(
        "read a, read b, constant constant, write y, number kind, number swap"
    ),
    Code.SOFTMAX: _fields("read x, write y, number length, number logarithm"),
    Code.NORMALIZE: _fields(
        "read x, write y, number length, float epsilon, constant scale, constant bias"
    ),
    Code.GATHER: _fields("read index, write y, constant table, number stored"),
    Code.COPY: _fields(
        "read x, write y, number offset_x, number offset_y, number length,"
        " number count, number step_x, number step_y"
    ),
    Code.CAST: _fields("read x, write y, number narrow"),
    Code.CONSTANT: _fields("constant values, write y"),
    Code.WHERE: _fields("read condition, read a, read b, write y"),
    Code.WINDOW: _fields(
        "read x, read past, write y, number first, number dilation, number count,"
        " number new"
    ),
    Code.PUSH: _fields("read x, read past, number frames, number groups"),
    Code.DEPTHWISE: _fields("read x, write y, constant weights, constant bias"),
}
"""The arguments of each operation, in order."""


class Operation(NamedTuple):
    """One operation of a program."""

    code: Code
    """What the operation computes."""
    arguments: tuple[int, ...]
    """In the order of ``FIELDS``, then zeros; a float32 by its bits."""

    def argument(self, name: str) -> int:
        """Return the argument of a name."""
        return self.named[name]

    @property
    def named(self) -> dict[str, int]:
        """The arguments by name."""
        fields = FIELDS[self.code]
        return {
            field.name: value
            for field, value in zip(fields, self.arguments, strict=False)
        }

    @property
    def reads(self) -> list[int]:
        """The buffers that it reads."""
        return list(self._buffers(Role.READ))

    @property
    def writes(self) -> list[int]:
        """The buffers that it writes."""
        return list(self._buffers(Role.WRITE))

    def _buffers(self, role: Role) -> Iterator[int]:
        """Yield the buffers of the arguments with this role."""
        named = self.named
        for field in FIELDS[self.code]:
            if field.role is role and named[field.name] != NONE:
                yield named[field.name]
