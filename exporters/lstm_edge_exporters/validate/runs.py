"""Ways to run a case that are not one call: cut in time with states carried."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.manifest import Axes, Manifest

from .file import Runner
from .judge import Feeds, Protocol

__all__ = ["Cuts", "even_cuts", "in_chunks", "on_record", "random_cuts"]

Array = npt.NDArray[Any]
Cuts = Sequence[tuple[int, int]]


def random_cuts(length: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Cut ``length`` steps at random places, single steps among the pieces."""
    inner = np.flatnonzero(rng.random(length - 1) < rng.choice([0.1, 0.4])) + 1
    edges = [0, *map(int, inner), length]
    return list(pairwise(edges))


def even_cuts(length: int, size: int) -> list[tuple[int, int]]:
    """Cut ``length`` steps into pieces of ``size``; the last may be shorter."""
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def in_chunks(contract: Manifest, cuts: Cuts) -> Protocol:
    """Carry the states from piece to piece; give what one call on the whole would.

    Outputs with a time axis are put together, the others are those of the last piece; what folds time into
    another axis (``(N*L, C)``) is left out.
    """

    def protocol(run: Runner, feeds: Feeds) -> dict[str, Array]:
        pieces = list(_carried(contract, cuts, run, feeds))
        last = dict(pieces[-1])
        for spec in contract.outputs:
            if _folds_time(contract, spec.axes):
                del last[spec.name]
            elif contract.sequence in spec.axes:
                axis = spec.axes.index(contract.sequence)
                last[spec.name] = np.concatenate([piece[spec.name] for piece in pieces], axis=axis)
        return last

    return protocol


def on_record(contract: Manifest, cuts: Cuts) -> Protocol:
    """Carry the states from piece to piece; give every piece's outputs, stacked over the pieces.

    Outputs with a time axis give their last step, so that pieces of any length stack; what folds time into
    another axis is left out.
    """

    def protocol(run: Runner, feeds: Feeds) -> dict[str, Array]:
        axes = {
            spec.name: spec.axes.index(contract.sequence)
            for spec in contract.outputs
            if contract.sequence in spec.axes
        }
        record: dict[str, list[Array]] = {}
        folded = {spec.name for spec in contract.outputs if _folds_time(contract, spec.axes)}
        for piece in _carried(contract, cuts, run, feeds):
            for name in piece.keys() - folded:
                array = piece[name]
                record.setdefault(name, []).append(array.take(-1, axis=axes[name]) if name in axes else array)
        return {name: np.stack(arrays) for name, arrays in record.items()}

    return protocol


def _folds_time(contract: Manifest, axes: Axes) -> bool:
    """Tell whether an axis is worked out from the time axis, such as ``N*L`` or ``L//2``."""
    words = [axis for axis in axes if isinstance(axis, str) and axis != contract.sequence]
    return any(re.search(rf"\b{re.escape(contract.sequence or '')}\b", word) for word in words)


def _carried(contract: Manifest, cuts: Cuts, run: Runner, feeds: Feeds) -> Iterator[Mapping[str, Array]]:
    timed = {
        spec.name: spec.axes.index(contract.sequence)
        for spec in contract.inputs
        if contract.sequence in spec.axes
    }
    states = {state.input: feeds[state.input] for state in contract.states}
    for start, stop in cuts:
        piece = dict(feeds) | states
        for name, axis in timed.items():
            piece[name] = feeds[name].take(range(start, stop), axis=axis)
        if contract.lengths is not None:
            piece[contract.lengths] = np.full_like(feeds[contract.lengths], stop - start)
        outputs = run(piece)
        states = {state.input: outputs[state.output] for state in contract.states}
        yield outputs
