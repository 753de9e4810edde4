"""Why a module can't be exported: the user's line, PyTorch's reason, and what to write instead.

The only place that knows kinds of failure; the stages raise, and this explains.
"""

import linecache
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from traceback import FrameSummary, walk_stack, walk_tb
from typing import Any

import torch

from lstm_edge_runtime.errors import UnsupportedError

_FOREIGN = (f"{Path(torch.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}", "<")
_STANDARD = str(Path(linecache.__file__).parent)
_LONGEST = 300
_OF_VALUES = r"text: .*(data-dependent|GuardOnDataDependent|Could not guard)"
_KINDS = (
    (
        r"files: .*torch/distributions/",
        "torch.distributions look at the values of tensors",
        "return the distribution's parameters, or pass validate_args=False",
    ),
    (
        r"files: .*torch/_higher_order_ops/",
        "torch's own loops and branches can't be written to a file",
        "use torch.where(condition, a, b) for a branch, nn.LSTM, nn.GRU or nn.RNN for a loop",
    ),
    (
        r"line: .*(\.numpy\(\)|np\.)|text: .*numpy",
        "it takes a tensor to NumPy, which can't be traced",
        "compute it with torch's own operators",
    ),
    (
        rf"line: .*(float\(|int\(|bool\(|\.item\(|\.tolist\()(.|\n)*{_OF_VALUES}",
        "it converts the values of a tensor to Python numbers, which the export would freeze",
        "keep them in tensors: a mask, torch.where, gather; write fixed settings as Python numbers",
    ),
    (
        _OF_VALUES,
        "it branches on the values of a tensor, or takes a size from them",
        "use a mask or torch.where(condition, a, b); keep a setting as a Python number, not a buffer",
    ),
    (
        r"text: .*(specialized|Constraints violated)",
        "it takes the size of an axis for a number",
        "use tensor operations over the whole axis, or give that axis as a number with inputs=",
    ),
    (
        r"text: .*[Cc]omplex",
        "ONNX has no operator for this on complex numbers",
        "use torch.stft, real and imaginary parts (torch.view_as_real), or compute it outside of forward",
    ),
    ("", "", "write that line with torch's operators on tensors and sizes, or compute it outside of forward"),
)
"""What is searched for in the files that an error came through, the user's line and its text; why; advice."""


def refusal(what: str, error: Exception) -> UnsupportedError:
    """Return the error for a module that ``what``, such as ``can't be traced``, because of ``error``."""
    line, text = raising_line(error), " ".join(str(error).split())
    text = text.partition(" The error above occurred")[0]
    frames = (frame for cause in _causes(error) for frame, _ in walk_tb(cause.__traceback__))
    files = " ".join(Path(frame.f_code.co_filename).as_posix() for frame in frames)
    known = f"files: {files}\nline: {line}\ntext: {text}"
    reason, advice = next(found for pattern, *found in _KINDS if re.search(pattern, known))
    where = f" ({line})" if line else ""
    shown = reason or f"{type(error).__name__}: {text[:_LONGEST]}"
    return UnsupportedError(f"forward {what}{where}: {shown}; {advice}")


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
    for cause in _causes(error):
        lines = [_line_at(frame.f_code.co_filename, number) for frame, number in walk_tb(cause.__traceback__)]
        if own := [line for line in lines if line]:
            return own[-1]
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
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


def running_line() -> str:
    """Return the user's innermost line that is running in ``forward``; else empty."""
    caller = str(Path(__file__).with_name("call.py"))
    frames = ((frame.f_code.co_filename, number) for frame, number in walk_stack(None))
    inside = takewhile(lambda place: place[0] != caller, frames)
    return next(filter(None, (_line_at(*place) for place in inside)), "")


def frame_line(frame: object) -> str:
    """Return the line of a frame that the tracer recorded."""
    return _line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""


def stack_line(meta: Mapping[str, Any]) -> str:
    """Return the user's innermost line in the stack trace of a traced node; else empty."""
    places = re.findall(r'File "([^"]+)", line (\d+)', meta.get("stack_trace") or "")
    return next((line for path, number in reversed(places) if (line := _line_at(path, int(number)))), "")
