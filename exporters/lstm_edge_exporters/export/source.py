"""Lines of the user's own source: the one that runs, that raised an error, or that fixed a size."""

import linecache
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from traceback import FrameSummary, walk_tb
from types import FrameType
from typing import Any

import torch

from .call import Call

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
_STANDARD = str(Path(linecache.__file__).parent)


@cache
def is_own(path: str) -> bool:
    """Return True if a source file is neither of PyTorch, of this package nor of Python itself."""
    standard = str(Path(path).parent).startswith(_STANDARD) and "-packages" not in path
    return not path.startswith(_FOREIGN) and not standard and Path(path).is_file()


def line_at(path: str, number: int) -> str:
    """Return a line as ``net.py:12: y = self.lstm(x)``; empty if the file is not the user's."""
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}" if is_own(path) else ""


def own_line() -> str:
    """Return the user's innermost line that is running; that of an installed package if there is no other."""
    frame: FrameType | None = sys._getframe(1)
    lines: list[str] = []
    while frame is not None and frame.f_code is not Call.run.__code__:  # the caller of export comes next
        path = frame.f_code.co_filename
        if is_own(path):
            lines.append(line_at(path, frame.f_lineno))
            if "-packages" not in path:
                return lines[-1]
        frame = frame.f_back
    return lines[0] if lines else ""


def raising_line(error: BaseException) -> str:
    """Return the user's innermost line that ``error``, or what caused it, passed through; else empty."""
    for cause in causes(error):
        lines = [line_at(frame.f_code.co_filename, number) for frame, number in walk_tb(cause.__traceback__)]
        if own := [line for line in lines if line]:
            return own[-1]
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def fixing_line(size: torch.SymInt) -> str:
    """Return the user's line that took ``size`` for a number while it was traced; else empty."""
    found = getattr(size.node.shape_env, "replacements_slocs", {}).get(size.node._expr)
    return frame_line(found.framework_loc) if found is not None else ""


def frame_line(frame: object) -> str:
    """Return the line of a frame that the tracer recorded."""
    return line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""


def stack_line(meta: Mapping[str, Any]) -> str:
    """Return the user's innermost line in the stack trace of a traced node; else empty."""
    places = re.findall(r'File "([^"]+)", line (\d+)', meta.get("stack_trace") or "")
    return next((line for path, number in reversed(places) if (line := line_at(path, int(number)))), "")
