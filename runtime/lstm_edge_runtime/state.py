"""The states of one stream or batch between two calls: plain arrays, and the identity
of their model.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import FileFormatError
from .manifest import Array

_PREFIX = "state/"
"""Prefix of the names of states in a file."""
_SAMPLES = "samples/"
"""Prefix of the names of inputs whose samples do not fill a unit yet."""


class State(Mapping[str, Array]):
    """An immutable mapping of state input names to arrays, for example
    ``h_0 (layers*D, N, H)``.

    It pickles, saves to ``.npz``, and carries its age and the identity (sha256) of the
    model file that it came from: a model refuses the state of another one.
    """

    __slots__ = ("_arrays", "age", "identity", "samples")

    def __init__(
        self,
        arrays: Mapping[str, Array],
        identity: str,
        age: int = 0,
        samples: Mapping[str, Array] | None = None,
    ) -> None:
        """Copy ``arrays`` and ``samples``; the copies can't be written to."""
        self._arrays = _read_only(arrays)
        self.samples: Mapping[str, Array] = _read_only(samples or {})
        """The samples of an incomplete unit by input, ``(steps, I)``; empty between
        units."""
        self.identity = identity
        """The sha256 of the model file, in hex."""
        self.age = age
        """Time steps since it was at reset, of a batch those of the longest row; 0
        where not known."""

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type["State"], tuple[Any, ...]]:
        return State, (self._arrays, self.identity, self.age, self.samples)

    def __repr__(self) -> str:
        shapes = ", ".join(
            f"{name}: {array.dtype} {array.shape}" for name, array in self.items()
        )
        return f"State({shapes}; model {self.identity[:12]})"

    def save(self, path: str | os.PathLike[str], **more: Any) -> None:
        """Write the state to ``path`` as ``.npz``, and ``more`` arrays; raises as
        ``replacing``.
        """
        from .files import replacing

        arrays: dict[str, Any] = {_PREFIX + name: array for name, array in self.items()}
        arrays |= {_SAMPLES + name: array for name, array in self.samples.items()}
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                identity=np.array(self.identity),
                age=np.array(self.age),
                **arrays,
                **more,
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "State":
        """Read what ``save`` wrote; ``NotFoundError``, or ``FileFormatError`` for any
        other file.
        """
        return read_state(path)[0]


def _read_only(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Return copies that can't be written to."""
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}
    for copy in copies.values():
        copy.flags.writeable = False
    return copies


def read_state(path: str | os.PathLike[str]) -> tuple[State, dict[str, Array]]:
    """Return the state in a file, and the other arrays there; raises as
    ``State.load``.
    """
    from .files import read_arrays

    advice = "save one first, or reset the stream"
    arrays = read_arrays(
        path, "is not a saved state", advice, ["identity", "age"], stored=True
    )
    identity = str(arrays.pop("identity"))
    age = arrays.pop("age")
    if age.shape or age.dtype.kind not in "iu" or not 0 <= age < 1 << 62:
        raise FileFormatError(
            f"{path} is not a saved state (age {age!r:.60}); {advice}"
        )
    states = _pop(arrays, _PREFIX)
    samples = _pop(arrays, _SAMPLES)
    return State(states, identity, int(age), samples), arrays


def _pop(arrays: dict[str, Array], prefix: str) -> dict[str, Array]:
    """Take the arrays out whose names begin with ``prefix``; return them without
    it.
    """
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}
