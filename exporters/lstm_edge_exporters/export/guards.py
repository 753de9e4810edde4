"""Facts about sizes that a trace rests on; each can be looked up at any size."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

from .source import line_at

__all__ = ["Guard", "read_guards"]

_NAMES = {"__builtins__": {"min": min, "max": max, "abs": abs, "int": int, "round": round}, "math": math}
"""What the tracer's text may call."""


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
        """Return whether it is true where the axes have ``sizes``."""
        try:
            return bool(eval(self.code, _NAMES.copy(), dict(sizes)))  # noqa: S307  the tracer's own text
        except (ArithmeticError, NameError):
            return False


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
    for symbol, bounds in program.range_constraints.items():
        if bounds.lower > 0:
            facts.append((f"{symbol} >= {bounds.lower}", ""))
        if bounds.upper != int_oo:
            facts.append((f"{symbol} <= {bounds.upper}", ""))
    if environment is not None:
        printer = PythonPrinter()
        facts = [(printer.doprint(each.expr), _line(each.sloc)) for each in environment.guards] + facts
    found = []
    for text, line in dict.fromkeys(facts):
        named = re.sub(r"\b[su]\d+\b", lambda match: values.get(match[0], match[0]), text)
        if not re.search(r"\b[su]\d+\b", named):
            shown = re.sub(r"\((\w+)\)", r"\1", named)
            found.append(Guard(shown, compile(named, "<guard>", "eval"), line))
    return tuple(found)


def _line(place: SLoc) -> str:
    """Return the line that asked for a fact, where that is the module's own."""
    frame = place.framework_loc
    return line_at(frame.filename, frame.lineno or 0) if isinstance(frame, FrameSummary) else ""
