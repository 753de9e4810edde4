"""Suggest the name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ``did you mean 'temperature'?`` for the nearest of ``names``, or ``""`` if
    none is near.

    A name that begins with the other is nearer than one that shares letters.
    """
    typed = _letters(name)
    near = [name for name in names if _letters(name).startswith(typed)]
    if not near:
        whole = {_letters(name): name for name in names}
        near = [
            whole[letters]
            for letters in get_close_matches(typed, whole, n=1, cutoff=0.7)
        ]
    return f"did you mean {min(near, key=len)!r}?" if typed and near else ""


def _letters(name: str) -> str:
    """Return the letters and digits of a name, in lower case."""
    return "".join(filter(str.isalnum, name.lower()))
