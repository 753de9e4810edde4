"""The lists of Python that a running line reads by an index."""

import ast
import linecache
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any

from .step_numbers import plain_number

_FILES = 64
"""Source files whose syntax trees are kept."""


def lists_read(frame: FrameType) -> list[Sequence[Any]] | None:
    """Return the lists and tuples that the line which runs in ``frame`` reads by an
    index; None if its source, or one of the objects that it reads, is not known.
    """
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    read = list[Sequence[Any]]()
    for subscript in _subscripts("".join(lines), frame.f_lineno):
        try:
            value = _value(subscript.value, frame)
        except (LookupError, AttributeError, TypeError):
            return None
        if isinstance(value, list | tuple):
            if isinstance(subscript.slice, ast.Slice):
                return None
            read.append(value)
    return read


def _subscripts(source: str, line: int) -> Iterator[ast.Subscript]:
    """Yield the reads by an index on a line."""
    for node in _nodes(source):
        if node.lineno <= line <= (node.end_lineno or 0):
            yield node


@lru_cache(_FILES)
def _nodes(source: str) -> tuple[ast.Subscript, ...]:
    """Return the subscripts in a source; none if it can't be parsed."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return ()
    return tuple(node for node in ast.walk(tree) if isinstance(node, ast.Subscript))


def _value(node: ast.expr, frame: FrameType) -> Any:
    """Return the object that a name, an attribute or an element with a constant index
    stands for.

    Raises:
        LookupError, AttributeError, TypeError: anything else, or it does not exist.
    """
    if isinstance(node, ast.Name):
        names = frame.f_locals if node.id in frame.f_locals else frame.f_globals
        return names[node.id]
    if isinstance(node, ast.Attribute):
        return getattr(_value(node.value, frame), node.attr)
    if isinstance(node, ast.Subscript):
        return _value(node.value, frame)[_index(node.slice, frame)]
    raise TypeError(ast.dump(node))


def _index(node: ast.expr, frame: FrameType) -> Any:
    """Return the value of an index that is a constant or a variable."""
    if isinstance(node, ast.Constant):
        return node.value
    return plain_number(_value(node, frame))
