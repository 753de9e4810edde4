"""Assertions on values: what their condition must be, read off the code around them.

``assert (lengths > 0).all()`` and ``if x.isnan().any(): raise ...`` compute nothing. In the bytecode one way
out of the condition does nothing but raise; the other one is taken.
"""

import dis
from collections.abc import Iterator, Mapping
from itertools import islice
from types import FrameType

__all__ = ["value_that_holds"]

_PASSES = frozenset({"CACHE", "CALL", "CALL_FUNCTION", "NOP", "PRECALL", "TO_BOOL"})
"""What may stand between the call of ``bool`` and the jump that reads its result."""
_LONGEST = 200
"""Instructions that make an error and its message."""


def value_that_holds(frame: FrameType) -> bool | None:
    """Return which value of a condition does not raise; None where both or neither goes on.

    Args:
        frame: the one that asks a tensor for its truth.
    """
    code = {each.offset: each for each in dis.get_instructions(frame.f_code)}
    raising = [value for value in (True, False) if _raises(code, frame.f_lasti, value)]
    return None if len(raising) != 1 else not raising[0]


def _raises(code: Mapping[int, dis.Instruction], offset: int, value: bool) -> bool:
    """Return whether what follows the condition at ``offset`` raises where it is ``value``."""
    for each in _from(code, offset):
        if each.opname == "UNARY_NOT":
            value = not value
        elif "JUMP" in each.opname and each.opname.endswith(("IF_TRUE", "IF_FALSE")):
            jumps = value == each.opname.endswith("IF_TRUE")
            return _only_raises(code, each.argval if jumps else _after(code, each))
        elif each.opname not in _PASSES:
            return False
    return False


def _only_raises(code: Mapping[int, dis.Instruction], offset: int) -> bool:
    for each in islice(_from(code, offset), _LONGEST):
        if each.opname == "RAISE_VARARGS":
            return True
        if "JUMP" in each.opname or each.opname.startswith(("RETURN", "FOR_ITER", "YIELD", "STORE")):
            return False
    return False


def _from(code: Mapping[int, dis.Instruction], offset: int) -> Iterator[dis.Instruction]:
    return (each for place, each in code.items() if place >= offset)


def _after(code: Mapping[int, dis.Instruction], jump: dis.Instruction) -> int:
    return min(place for place in code if place > jump.offset)
