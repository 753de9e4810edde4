"""The state of one stream or batch between two calls: plain arrays that know which model they belong to."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["IDENTITY", "State", "from_arrays", "to_arrays"]

Array = npt.NDArray[Any]
IDENTITY, _PREFIX = "identity", "state/"
"""In a file: the name of the identity, and what a state's name starts with."""


class State(Mapping[str, Array]):
    """An immutable mapping of state input names to arrays, for example ``h_0 (layers*D, N, H)``.

    It pickles, saves to ``.npz``, and carries the identity (sha256) of the model file that it came from:
    a model refuses the state of another one.
    """

    __slots__ = ("_arrays", "_identity")

    def __init__(self, arrays: Mapping[str, Array], identity: str) -> None:
        """Copy ``arrays``; the copies can't be written to."""
        self._arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        for array in self._arrays.values():
            array.flags.writeable = False
        self._identity = identity

    @property
    def identity(self) -> str:
        """The sha256 of the model file, in hex."""
        return self._identity

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type["State"], tuple[dict[str, Array], str]]:
        return State, (self._arrays, self._identity)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}: {array.dtype} {array.shape}" for name, array in self.items())
        return f"State({shapes}; model {self._identity[:12]})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state to ``path`` as ``.npz``, whole or not at all.

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
        from .files import read_arrays

        return from_arrays(
            read_arrays(path, "is not a saved state", "save one first, or reset the stream", [IDENTITY])
        )


def to_arrays(state: State) -> dict[str, Any]:
    """Return a state as arrays by the names that they bear in a file."""
    return {IDENTITY: np.array(state.identity)} | {_PREFIX + name: array for name, array in state.items()}


def from_arrays(arrays: Mapping[str, Array]) -> State:
    """Read what ``to_arrays`` gave; other names are passed over."""
    own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
    return State(own, str(arrays[IDENTITY]))
