"""The module's own source: which of its lines runs, raised an error or took a size for a number."""

import ast
import dis
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from traceback import FrameSummary, walk_tb
from types import FrameType
from typing import Any

import torch

from ..numerics.reference import Signature

_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)


@cache
def is_own(path: str) -> bool:
    """Tell whether a source file is neither of PyTorch, of this package nor of Python itself."""
    return not path.startswith((_OURS, _TORCH, "<")) and Path(path).is_file() and not _is_standard(path)


def _is_standard(path: str) -> bool:
    return str(Path(path).parent).startswith(str(Path(linecache.__file__).parent)) and "-packages" not in path


def line_at(path: str, number: int) -> str:
    """Return a line of the module's own as ``net.py:12: h = self.cell(x, h)``; empty for any other."""
    if not is_own(path):
        return ""
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"


def calling_line() -> str:
    """Return the module's innermost line that is being run, not an installed library's if it has another."""
    frame: FrameType | None = sys._getframe(1)
    own: list[str] = []
    while frame is not None and frame.f_code is not Signature.call.__code__:  # behind it is who calls export
        path = frame.f_code.co_filename
        if is_own(path):
            own.append(line_at(path, frame.f_lineno))
            if "-packages" not in path:
                return own[-1]
        frame = frame.f_back
    return own[0] if own else ""


@contextmanager
def watching(see: Callable[[FrameType, str, Any], Any]) -> Iterator[None]:
    """Let ``see`` trace what runs inside, as ``sys.settrace`` has it."""
    before = sys.gettrace()
    sys.settrace(see)
    try:
        yield
    finally:
        sys.settrace(before)


def own_place(error: BaseException) -> tuple[str, int]:
    """Return path and line of the module's own deepest place that raised ``error``, or ``("", 0)``."""
    cause: BaseException | None = error
    while cause is not None:
        passed = [(frame.f_code.co_filename, number) for frame, number in walk_tb(cause.__traceback__)]
        if own := [(path, number) for path, number in passed if is_own(path)]:
            return own[-1]
        cause = cause.__cause__ or cause.__context__
    return "", 0


def syntax_of(path: str) -> Iterator[ast.AST]:
    """Yield every node of a source file's syntax tree; none if the file can't be parsed."""
    with suppress(SyntaxError):
        yield from ast.walk(ast.parse("".join(linecache.getlines(path))))


@dataclass(frozen=True)
class Place:
    """Where the module's code takes a size for a number."""

    line: str
    """As ``net.py:12: for t in range(x.size(1)):``; empty where it is not known."""
    loop: bool
    """Whether a loop runs so often."""


def place_of(size: torch.SymInt) -> Place | None:
    """Return where ``size``, which tracing fixed, was taken for a number; None where an operator did it."""
    found = getattr(size.node.shape_env, "replacements_slocs", {}).get(size.node._expr)
    frame = found.framework_loc if found is not None else None
    if not isinstance(frame, FrameSummary) or not is_own(frame.filename):
        return None
    path, number = frame.filename, frame.lineno or 0
    loops = (
        node.test if isinstance(node, ast.While) else node.iter
        for node in syntax_of(path)
        if isinstance(node, ast.For | ast.comprehension | ast.While)
    )
    looping = any(each.lineno <= number <= (each.end_lineno or each.lineno) for each in loops)
    return Place(line_at(path, number), looping)


_PASSES = frozenset({"CACHE", "CALL", "CALL_FUNCTION", "NOP", "PRECALL", "TO_BOOL"})
"""What may stand between the call of ``bool`` and the jump that reads its result."""
_LONGEST = 200
"""Instructions that make an error and its message."""


def value_that_holds(frame: FrameType) -> bool | None:
    """Return which truth of a tensor, which ``frame`` asks for, does not raise; None if both or neither.

    ``assert (lengths > 0).all()`` and ``if x.isnan().any(): raise ...`` compute nothing. In the bytecode one
    way out of the condition does nothing but raise; the other one is taken.
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
