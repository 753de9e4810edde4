"""A recording and what was recognized in it, as two lines of text."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from rich.console import Group
from rich.text import Text

__all__ = ["recognized_from", "timeline"]

_COLUMNS = 48
_INDENT = " " * 8
_BARS = "▁▂▃▄▅▆▇█"
_ASCII_BARS = ".:-=+*#%"
_COLORS = ("cyan", "magenta", "green", "yellow", "blue", "red")


def recognized_from(said: Sequence[int], activity: int) -> int | None:
    """Return the sample from which on every answer is right; None where the last one is wrong."""
    wrong = [step for step, answer in enumerate(said) if answer != activity]
    first = wrong[-1] + 1 if wrong else 0
    return first if first < len(said) else None


def timeline(
    signal: npt.NDArray[np.floating],
    said: Sequence[int],
    labels: Sequence[str],
    activity: str,
    rate: float,
    *,
    plain: bool = False,
) -> Group:
    """Draw the strength of a signal and, below it, the initial of the activity recognized at each moment.

    Args:
        signal: ``(L,)``, not negative, the whole recording.
        said: class indices so far, one to L of them.
        labels: class names; their initials should differ.
        activity: the one that the recording is of.
        rate: the sampling rate, Hertz.
        plain: keep to ASCII.
    """
    bars = _ASCII_BARS if plain else _BARS
    edges = np.linspace(0, len(signal), _COLUMNS + 1).astype(int)
    strength = np.array([signal[start:end].mean() for start, end in pairwise(edges)])
    level = (strength / max(float(strength.max()), 1e-9) * (len(bars) - 1)).round().astype(int)
    done = int(np.searchsorted(edges[1:], len(said), side="right"))
    drawn = Text(_INDENT).append("".join(bars[height] for height in level[:done]).ljust(_COLUMNS), "dim")
    drawn.append(f"  {activity}", "bold")
    answers = Text(_INDENT)
    for end in edges[1 : done + 1]:
        answers.append(labels[said[end - 1]][0], _COLORS[said[end - 1] % len(_COLORS)])
    answers.append(" " * (_COLUMNS - done) + "  ")
    first = recognized_from(said, labels.index(activity))
    if len(said) < len(signal):
        answers.append(labels[said[-1]], _COLORS[said[-1] % len(_COLORS)])
    elif first is None:
        answers.append(f"taken for {labels[said[-1]]}", "bold red")
    else:
        answers.append(f"after {(first + 1) / rate:.1f} s")
    return Group(drawn, answers)
