"""What the tracer took for granted about sizes, as facts that can be looked up at any size."""

import ast
import linecache
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary
from types import CodeType
from typing import Any

import torch
from torch._guards import SLoc
from torch.export import ExportedProgram
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.printers import PythonPrinter

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.manifest import Axes

__all__ = ["Guard", "Place", "calling_line", "is_own", "own_line", "place_of", "read_guards"]

_NAMES = {"__builtins__": {"min": min, "max": max, "abs": abs, "int": int, "round": round}, "math": math}
"""What the tracer's text may call."""
_OURS = str(Path(__file__).parents[1])
_TORCH = str(Path(torch.__file__).parent)


@dataclass(frozen=True)
class Guard:
    """One fact about the sizes of axes."""

    text: str
    """In terms of the axes' names: ``L > 200``."""
    code: CodeType
    line: str
    """The line of the module that asked: ``net.py:12: return y * 2 if x.shape[1] > 200 else y``; empty where
    an operator did."""

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Tell whether it is true where the axes have ``sizes``."""
        try:
            return bool(eval(self.code, _NAMES.copy(), dict(sizes)))  # noqa: S307  the tracer's own text
        except (ArithmeticError, NameError):
            return False


@dataclass(frozen=True)
class Place:
    """Where the module's own code takes a size for a number."""

    line: str
    """As ``net.py:12: for t in range(x.size(1)):``."""
    loop: bool
    """Whether a loop runs so often."""


def place_of(size: torch.SymInt) -> Place | None:
    """Return where ``size``, which tracing fixed, was taken for a number; None where an operator did it."""
    known = getattr(size.node.shape_env, "replacements_slocs", {})
    found = known.get(size.node._expr)
    frame = found.framework_loc if found is not None else None
    if not isinstance(frame, FrameSummary) or not is_own(frame.filename):
        return None
    return Place(_shown(frame.filename, frame.lineno or 0), _in_loop(frame.filename, frame.lineno or 0))


def _in_loop(path: str, number: int) -> bool:
    """Tell whether a line of source says how often a loop runs."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return False
    loops = (node.iter for node in ast.walk(tree) if isinstance(node, ast.For | ast.comprehension))
    return any(each.lineno <= number <= (each.end_lineno or each.lineno) for each in loops)


def read_guards(
    program: ExportedProgram, shapes: Sequence[Any], axes: Mapping[str, Axes]
) -> tuple[Guard, ...]:
    """Return every fact about sizes that the trace rests on.

    Args:
        program: the traced program.
        shapes: the inputs' shapes as traced, in the order of ``axes``.
        axes: the inputs' axes; a name where dynamic.
    """
    values: dict[str, str] = {}
    facts: list[tuple[str, str]] = []
    environment = None
    for shape, names in zip(shapes, axes.values(), strict=True):
        for size, axis in zip(shape, names, strict=True):
            if not isinstance(size, torch.SymInt) or isinstance(axis, int):
                continue
            environment = size.node.shape_env
            factors, constant = parse_sum(str(size.node.expr)) or ({}, 0)
            if len(factors) == 1 and not constant:
                ((symbol, factor),) = factors.items()
                values.setdefault(symbol, f"({axis})" if factor == 1 else f"(({axis})//{factor})")
                if factor > 1:
                    facts.append((f"({axis}) % {factor} == 0", ""))
    printer = PythonPrinter()
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower > 0:
            facts.append((f"{symbol} >= {bounds.lower}", ""))
        if bounds.upper != int_oo:
            facts.append((f"{symbol} <= {bounds.upper}", ""))
    if environment is not None:
        facts = [(printer.doprint(each.expr), _line(each.sloc)) for each in environment.guards] + facts
    found = []
    for text, line in dict.fromkeys(facts):
        named = re.sub(r"\b[su]\d+\b", lambda match: values.get(match[0], match[0]), text)
        if not re.search(r"\b[su]\d+\b", named):
            shown = re.sub(r"\((\w+)\)", r"\1", named)
            found.append(Guard(shown, compile(named, "<guard>", "eval"), line))
    return tuple(found)


def own_line(error: BaseException) -> str:
    """Return the deepest line outside of PyTorch and this package that ``error`` went through.

    As ``net.py:12: h = self.cell(x[:, step], h)``; empty where there is none.
    """
    found = ""
    cause: BaseException | None = error
    while cause is not None:
        trace = cause.__traceback__
        while trace is not None:
            path, number = trace.tb_frame.f_code.co_filename, trace.tb_lineno
            if is_own(path):
                found = _shown(path, number)
            trace = trace.tb_next
        cause = None if found else (cause.__cause__ or cause.__context__)
    return found


def calling_line() -> str:
    """Return the innermost line outside of PyTorch and this package that is being run."""
    frame = sys._getframe(1)
    while frame is not None and not is_own(frame.f_code.co_filename):
        frame = frame.f_back  # type: ignore[assignment]
    return _shown(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def is_own(path: str) -> bool:
    """Tell whether a source file is neither of PyTorch, of this package nor of Python itself."""
    return not path.startswith((_OURS, _TORCH, "<")) and Path(path).exists() and not _is_standard(path)


def _is_standard(path: str) -> bool:
    return str(Path(path).parent).startswith(str(Path(linecache.__file__).parent)) and "-packages" not in path


def _shown(path: str, number: int) -> str:
    return f"{Path(path).name}:{number}: {linecache.getline(path, number).strip()}"


def _line(place: SLoc) -> str:
    """Return the line that asked for a fact, where that is the module's own."""
    frame = place.framework_loc
    if not isinstance(frame, FrameSummary) or not is_own(frame.filename):
        return ""
    return _shown(frame.filename, frame.lineno or 0)
