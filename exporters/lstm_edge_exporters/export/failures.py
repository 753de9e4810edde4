"""How a stage of an export fails: errors that keep what is known, for ``diagnose`` to explain."""

import re
from collections.abc import Mapping
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING

import torch
from torch.export import ExportedProgram

from lstm_edge_runtime.errors import UnsupportedError

if TYPE_CHECKING:
    from .record import Recorder

_DISTRIBUTIONS = str(Path(torch.distributions.__path__[0]))
_HIGHER = str(Path(torch.__file__).parent / "_higher_order_ops")
CONTROL_FLOW = ("associative_scan", "cond", "map", "scan", "while_loop")
"""torch's own loops and branches, by the name of their source."""


class UnrepeatableError(UnsupportedError):
    """Two runs on the same inputs differ."""


class TracingError(UnsupportedError):
    """PyTorch can't trace a module or translate what it traced."""

    def __init__(
        self, kind: str, recorder: "Recorder", error: Exception, program: ExportedProgram | None = None
    ) -> None:
        super().__init__(str(error))
        self.kind = kind
        """``translation``, or what tracing failed at: see ``tracing_error``."""
        self.recorder, self.error, self.program = recorder, error, program
        """What tracing saw, PyTorch's error, and what was to be translated."""

    @property
    def constant(self) -> bool:
        """Whether code takes the size of an axis that was traced for a constant."""
        return self.kind in ("same size", "size")


def tracing_error(error: Exception, recorder: "Recorder") -> TracingError:
    """Sort what ``torch.export`` raised."""
    return TracingError(_kind(error, recorder.seen), recorder, error)


def _kind(error: Exception, seen: Mapping[str, str]) -> str:
    if "numpy" in seen:
        return "numpy"
    passed = [frame.f_code.co_filename for frame, _ in walk_tb(error.__traceback__)]
    if any(each.startswith(_DISTRIBUTIONS) for each in passed):
        return "distribution"
    for each in passed:
        if _HIGHER in each and Path(each).stem in CONTROL_FLOW:
            return Path(each).stem
    text = " ".join(str(error).split()).partition(" The error above occurred")[0]
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return "list" if "list" in seen else "values"
    if "specialized" in text or "Constraints violated" in text or re.search(r"[\[(, *]s\d+\b", text):
        return "size"
    return "complex" if "complex" in seen else ""
