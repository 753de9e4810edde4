"""The states of one stream or batch between two calls: plain arrays, and the identity of their model."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .errors import FileFormatError
from .manifest import Array

IDENTITY, AGE, _PREFIX, _REST = "identity", "age", "state/", "rest/"
"""In a file: the names of the identity and the age, and what names of states and of a rest start with."""
_NO_REST: Mapping[str, Array] = {}


class State(Mapping[str, Array]):
    """An immutable mapping of state input names to arrays, for example ``h_0 (layers*D, N, H)``.

    It pickles, saves to ``.npz``, and carries its age and the identity (sha256) of the model file that it
    came from: a model refuses the state of another one.
    """

    __slots__ = ("_age", "_arrays", "_identity", "_rest")

    def __init__(
        self, arrays: Mapping[str, Array], identity: str, age: int = 0, rest: Mapping[str, Array] = _NO_REST
    ) -> None:
        """Copy ``arrays`` and ``rest``; the copies can't be written to."""
        self._age = age
        self._arrays, self._rest = (
            {name: np.array(array, order="C") for name, array in each.items()} for each in (arrays, rest)
        )
        for array in (*self._arrays.values(), *self._rest.values()):
            array.flags.writeable = False
        self._identity = identity

    @property
    def identity(self) -> str:
        """The sha256 of the model file, in hex."""
        return self._identity

    @property
    def age(self) -> int:
        """Time steps since it was at reset, of a batch those of the longest row; 0 where not known."""
        return self._age

    @property
    def rest(self) -> Mapping[str, Array]:
        """The last samples by input, which don't fill a unit of the stream yet; empty where none are kept."""
        return self._rest

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type["State"], tuple[Any, ...]]:
        return State, (self._arrays, self._identity, self._age, self._rest)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in self.items())
        return f"State({shapes}; model {self._identity[:12]})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to ``path`` as ``.npz``, atomically.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the file can't be written.
        """
        from .files import replacing

        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **to_arrays(self))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "State":
        """Read what ``save`` wrote; no pickle is ever opened.

        Raises:
            NotFoundError: no such file.
            FileFormatError: truncated, or not a saved state.
        """
        from .reading import read_saved

        advice = "save one first, or reset the stream"
        return from_arrays(read_saved(path, is_state, "is not a saved state", advice, [IDENTITY, AGE]))


def is_state(name: str) -> bool:
    """Return True for the name of an array of a state in a file."""
    return name in (IDENTITY, AGE) or name.startswith((_PREFIX, _REST))


def to_arrays(state: State) -> dict[str, Any]:
    """Return a state as arrays by the names used in a file."""
    arrays = {_PREFIX + name: array for name, array in state.items()}
    arrays |= {_REST + name: array for name, array in state.rest.items()}
    return {IDENTITY: np.array(state.identity), AGE: np.array(state.age)} | arrays


def from_arrays(arrays: Mapping[str, Array]) -> State:
    """Read what ``to_arrays`` gave; other names are ignored.

    Raises:
        FileFormatError: the age is no whole number from 0.
    """
    age = arrays[AGE]
    if age.shape or age.dtype.kind not in "iu" or not 0 <= age < 1 << 62:
        raise FileFormatError(
            f"a saved state has age {age!r:.60}, expected a nonnegative integer; save it again"
        )
    own, rest = (
        {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        for prefix in (_PREFIX, _REST)
    )
    return State(own, str(arrays[IDENTITY]), int(age), rest)
