"""States: those of one stream or batch between two calls, and carried from chunk to chunk of a case.

``State`` holds plain arrays that know which model they belong to. ``run_chunks`` is the one way to run a case
in chunks, for every check that does so.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import FileFormatError
from .manifest import Array, Axes, Manifest

__all__ = [
    "IDENTITY",
    "Runner",
    "State",
    "even_sizes",
    "from_arrays",
    "join_chunks",
    "run_chunks",
    "take_steps",
    "to_arrays",
]

IDENTITY, _AGE, _PREFIX = "identity", "age", "state/"
"""In a file: the names of the identity and the age, and what a state's name starts with."""


class State(Mapping[str, Array]):
    """An immutable mapping of state input names to arrays, for example ``h_0 (layers*D, N, H)``.

    It pickles, saves to ``.npz``, and carries its age and the identity (sha256) of the model file that it
    came from: a model refuses the state of another one.
    """

    __slots__ = ("_age", "_arrays", "_identity")

    def __init__(self, arrays: Mapping[str, Array], identity: str, age: int = 0) -> None:
        """Copy ``arrays``; the copies can't be written to."""
        self._age = age
        self._arrays = {name: np.array(array, order="C") for name, array in arrays.items()}
        for array in self._arrays.values():
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

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[type["State"], tuple[dict[str, Array], str, int]]:
        return State, (self._arrays, self._identity, self._age)

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
        from .files import read_arrays

        return from_arrays(
            read_arrays(path, "is not a saved state", "save one first, or reset the stream", [IDENTITY])
        )


def to_arrays(state: State) -> dict[str, Any]:
    """Return a state as arrays by the names used in a file."""
    arrays = {_PREFIX + name: array for name, array in state.items()}
    return {IDENTITY: np.array(state.identity), _AGE: np.array(state.age)} | arrays


def from_arrays(arrays: Mapping[str, Array]) -> State:
    """Read what ``to_arrays`` gave; other names are passed over. States saved before have no age: it is 0.

    Raises:
        FileFormatError: the age is no whole number from 0.
    """
    age = arrays.get(_AGE, np.array(0))
    if age.shape or age.dtype.kind not in "iu" or not 0 <= age < 1 << 62:
        raise FileFormatError(
            f"a saved state has age {age!r:.60}, expected a nonnegative integer; save it again"
        )
    own = {name.removeprefix(_PREFIX): array for name, array in arrays.items() if name.startswith(_PREFIX)}
    return State(own, str(arrays[IDENTITY]), int(age))


Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Every input by name in, every output by name out, states among both."""


def even_sizes(total: int, size: int) -> list[int]:
    """Return the sizes of chunks of ``size`` steps that make ``total``; the last may be shorter."""
    return [min(size, total - start) for start in range(0, total, size)]


def run_chunks(
    run: Runner, manifest: Manifest, feeds: Mapping[str, Array], sizes: Sequence[int]
) -> Iterator[Mapping[str, Array]]:
    """Return every chunk's outputs, each run from the states that the one before left.

    Args:
        run: runs the file, or its reference.
        manifest: which inputs have the time axis, and the states.
        feeds: the whole case. Rows may end only in the last chunk. Lengths that are left
            out are those that ``run`` takes then.
        sizes: steps of each chunk.
    """
    states: dict[str, Array] = {}
    start = 0
    for size in sizes:
        chunk = {**take_steps(manifest, feeds, start, start + size), **states}
        if manifest.lengths is not None and manifest.lengths in feeds:
            chunk[manifest.lengths] = np.minimum(feeds[manifest.lengths] - start, size).astype(
                feeds[manifest.lengths].dtype
            )
        outputs = run(chunk)
        states = manifest.states_out(outputs)
        start += size
        yield outputs


def take_steps(manifest: Manifest, feeds: Mapping[str, Array], start: int, stop: int) -> dict[str, Array]:
    """Return a case's steps from ``start`` to ``stop``; what has no time axis stays as it is."""
    axes = manifest.time_axes
    return {
        name: array.take(range(start, stop), axis=axes[name]) if name in axes else array
        for name, array in feeds.items()
    }


def join_chunks(manifest: Manifest, chunks: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """Return the outputs that one call on the whole gives.

    Outputs with a time axis are put together, counts of steps add up, the others are those of the last chunk;
    what folds time into another axis (``N*L``, ``L//2``) is left out.
    """
    joined, time = dict(chunks[-1]), manifest.time_axes
    for name in manifest.counts:
        joined[name] = np.sum([chunk[name] for chunk in chunks], axis=0, dtype=joined[name].dtype)
    for spec in manifest.outputs:
        if _folds_time(spec.axes, manifest.sequence):
            del joined[spec.name]
        elif spec.name in time:
            joined[spec.name] = np.concatenate([chunk[spec.name] for chunk in chunks], axis=time[spec.name])
    return joined


def _folds_time(axes: Axes, sequence: str | None) -> bool:
    """Return whether an axis is an expression of the time axis."""
    word = re.compile(rf"\b{re.escape(sequence)}\b") if sequence else None
    return word is not None and any(
        isinstance(axis, str) and axis != sequence and word.search(axis) for axis in axes
    )
