"""Lines of the user's own source: the one that raised an error, or that fixed a size."""

import linecache
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from traceback import FrameSummary, walk_tb
from typing import Any

import torch

_FOREIGN = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]), "<")
_STANDARD = str(Path(linecache.__file__).parent)


@cache
def is_own(path: str) -> bool:
    """Return True if a source file is neither of PyTorch, of this package nor of Python itself."""
    standard = str(Path(path).parent).startswith(_STANDARD) and "-packages" not in path
    return not path.startswith(_FOREIGN) and not standard and Path(path).is_file()


def _line_at(path: str, number: int) -> str:
    """Return a line as ``net.py:12: y = self.lstm(x)``; empty if the file is not the user's."""
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}" if is_own(path) else ""


def raising_line(error: BaseException) -> str:
    """Return the user's innermost line that ``error``, or what caused it, passed through; else empty."""
    for cause in causes(error):
        lines = [_line_at(frame.f_code.co_filename, number) for frame, number in walk_tb(cause.__traceback__)]
        if own := [line for line in lines if line]:
            return own[-1]
    return ""


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield ``error`` and what caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def fixing_line(size: Any) -> str:
    """Return the user's line that took a traced size for a number; else empty."""
    slocs = size.node.shape_env.replacements_slocs if isinstance(size, torch.SymInt) else {}
    found = slocs.get(size.node._expr) if slocs else None
    return frame_line(found.framework_loc) if found is not None else ""


def frame_line(frame: object) -> str:
    """Return the line of a frame that the tracer recorded."""
    return _line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""


def stack_line(meta: Mapping[str, Any]) -> str:
    """Return the user's innermost line in the stack trace of a traced node; else empty."""
    places = re.findall(r'File "([^"]+)", line (\d+)', meta.get("stack_trace") or "")
    return next((line for path, number in reversed(places) if (line := _line_at(path, int(number)))), "")
