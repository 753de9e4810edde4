"""Why a module can't be exported: the user's line, PyTorch's reason, and what to write
instead.

Only this module knows kinds of failure: the stages raise, and it explains.
"""

import linecache
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from traceback import FrameSummary, walk_tb
from types import FrameType, MappingProxyType
from typing import Any

import onnx_ir
import onnxscript
import torch

from lstm_edge_runtime.errors import UnsupportedError

_LIBRARIES = tuple(
    f"{folder}{os.sep}"
    for folder in (
        Path(torch.__file__).parent,
        Path(onnx_ir.__file__).parent,
        Path(onnxscript.__file__).parent,
        Path(__file__).parents[1],
    )
)
"""Folders of PyTorch, of its translation to ONNX, and of this package."""
_MODULES = f"{Path(torch.__file__).parent / 'nn' / 'modules'}{os.sep}"
_STANDARD = str(Path(linecache.__file__).parent)
"""Folder of Python's standard library."""
_LONGEST = 300
_KINDS = (
    (
        "data-dependent|GuardOnDataDependent|Could not guard",
        (
            "it branches on the values of a tensor, or takes numbers from them, which"
            " the export would freeze"
        ),
        (
            "use a mask, torch.where(condition, a, b) or gather; keep a setting as a"
            " Python number, not a buffer"
        ),
    ),
    (
        "specialized|Constraints violated",
        "it takes the size of an axis for a number",
        (
            "use tensor operations over the whole axis, or give that axis as a number"
            " with inputs="
        ),
    ),
    ("", "", "write that line with torch's operators"),
)
"""Pattern of the error's text, the reason, and what to write instead."""
_NAME_AXES = ", or name the axes of all inputs (--input x=N,L,3)"
_OPERATORS = (
    (r"aten\.kthvalue", "use torch.topk(x, k, dim, largest=False)[0][..., -1]"),
    (r"aten\.(nan)?median", "use torch.sort(x, dim)[0].select(dim, (n - 1) // 2)"),
    (
        r"aten\._?(linalg|cholesky|qr|svd|inverse)",
        "compute what depends on weights alone once, in __init__, and store it in a"
        " buffer; ONNX has no operator for it",
    ),
    ("", "write that line with operators that ONNX has"),
)
"""Pattern of an operator that has no translation, and what to write instead."""


def refusal(
    what: str,
    error: Exception,
    lines: Mapping[str, str] = MappingProxyType({}),
    *,
    has_axes: bool = True,
) -> UnsupportedError:
    """Return the error for a module that ``what``.

    Args:
        what: what the module does.
        error: why it can't be exported.
        lines: the user's lines by the operators in ``error``.
        has_axes: True if the axes of all inputs are named.
    """
    text = " ".join(str(error).split())
    operator = re.search(r"target=torch\.ops\.([\w.]+)\]", text)
    line = raising_line(error) or lines.get(operator[1] if operator else "", "")
    text = text.partition(" The error above occurred")[0]
    reason, advice = next(
        text_and_advice
        for pattern, *text_and_advice in _KINDS
        if re.search(pattern, text)
    )
    shown = reason or f"{type(error).__name__}: {text[:_LONGEST]}"
    if not reason and not has_axes:
        advice += _NAME_AXES
    if operator and lines:  # the text of the translator is its whole node
        shown = f"torch.ops.{operator[1]}"
        advice = next(
            instead for name, instead in _OPERATORS if re.match(name, operator[1])
        )
    return UnsupportedError(
        f"forward {what}{f' ({line})' if line else ''}: {shown}; {advice}"
    )


@cache
def is_library(path: str) -> bool:
    """Return True if a source file belongs to PyTorch, this package or Python itself."""
    is_standard = path.startswith(_STANDARD) and "-packages" not in path
    return is_standard or path.startswith((*_LIBRARIES, "<frozen "))


def _line_at(path: str, number: int, function: str) -> str:
    """Return a line as ``net.py:12: y = self.lstm(x)``; empty in a library.

    Code without readable source is named by its function: ``line 2 of forward in
    <stdin>``.
    """
    if is_library(path):
        return ""
    source = linecache.getline(path, number).strip()
    if source:
        return f"{Path(path).name}:{number}: {source}"
    return f"line {number} of {function} in {Path(path).name}"


def raising_line(error: BaseException) -> str:
    """Return the user's innermost line that ``error``, or its cause, passed through;
    else empty.
    """
    cause: BaseException | None = error
    while cause is not None:
        lines = [
            _line_at(frame.f_code.co_filename, number, frame.f_code.co_name)
            for frame, number in walk_tb(cause.__traceback__)
        ]
        if named := [line for line in lines if line]:
            return named[-1]
        cause = cause.__cause__ or cause.__context__
    return ""


def frame_line(frame: FrameSummary | None) -> str:
    """Return the line of a frame that the tracer recorded; empty in a library.

    The tracer does not record frames of code that was compiled from a string. A frame
    of ``torch.nn`` is the caller of such code: modules of PyTorch do not branch.
    """
    if frame is None:
        return ""
    if frame.filename.startswith(_MODULES):
        return "in code that was compiled from a string"
    return _line_at(frame.filename, frame.lineno or 0, frame.name)


def line_of_frame(frame: FrameType) -> str:
    """Return the line that a running frame is at; empty if its file is not the
    user's.
    """
    code = frame.f_code
    return _line_at(code.co_filename, frame.f_lineno, code.co_name)


def calling_line(frame: FrameType | None) -> str:
    """Return the user's innermost line that is running in ``frame`` or above it."""
    while frame is not None:
        if line := line_of_frame(frame):
            return line
        frame = frame.f_back
    return ""


def stack_line(meta: Mapping[str, Any]) -> str:
    """Return the user's innermost line in the stack trace of a traced node; else
    empty.
    """
    return _innermost_line(meta.get("stack_trace") or "")


@cache
def _innermost_line(stack: str) -> str:
    """Return the user's innermost line in a stack trace; else empty."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\w+)', stack)
    for path, number, function in reversed(frames):
        if line := _line_at(path, int(number), function):
            return line
    return ""
