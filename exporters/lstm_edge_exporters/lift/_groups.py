"""Which slots are parts of one state."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .paths import Path
from .subgraphs import Place

__all__ = ["Group", "group_places"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Group:
    """One state to be: its places in the order of their rows, and the path of each."""

    places: tuple[Place, ...]
    paths: tuple[Path | None, ...]

    @property
    def kind(self) -> str:
        """``h``, ``c``, or ``state`` where both are rows of one tensor."""
        kinds = {place.slot.kind for place in self.places}
        return kinds.pop() if len(kinds) == 1 else "state"


def group_places(
    places: Iterable[Place], paths: Mapping[Place, Path | None], arrays: Mapping[ir.Value, Array]
) -> list[Group]:
    """Put together the places whose rows make up one larger tensor exactly.

    h and c that read one zeros tensor are two states; so are two layers that read the same rows. Rows that
    do not add up to the whole stay states of their own.
    """
    places = list(places)
    order = {place: position for position, place in enumerate(places)}
    wholes: dict[ir.Value, list[Place]] = {}
    groups = []
    for place in places:
        path = paths[place]
        if path is None:
            groups.append(Group((place,), (None,)))
        else:
            wholes.setdefault(path.whole, []).append(place)
    for whole, members in wholes.items():
        shape = arrays[whole].shape
        kinds = [[place for place in members if place.slot.kind == kind] for kind in ("h", "c")]
        split = [_pack(part, paths, shape) for part in kinds if part]
        if any(packed is None for packed in split):
            split = [_pack(members, paths, shape)]
        for packed in split:
            for rows in [[member] for member in members] if packed is None else packed:
                chosen = tuple(None if packed is None else paths[place] for place in rows)
                groups.append(Group(tuple(rows), chosen))
    return sorted(groups, key=lambda group: min(order[place] for place in group.places))


def _pack(
    places: list[Place], paths: Mapping[Place, Path | None], shape: tuple[int, ...]
) -> list[list[Place]] | None:
    """Split ``places`` into sets that each cover ``shape`` once, in graph order; None where they don't."""
    axes = {path.span[0] for place in places if (path := paths[place]) is not None and path.span}
    if len(axes) > 1:
        return None
    size = shape[axes.pop()] if axes else 1
    packs: list[tuple[list[Place], npt.NDArray[np.bool_]]] = []
    for place in places:
        path = paths[place]
        span = path.span if path is not None else None
        start, stop = (span[1], span[2]) if span else (0, size)
        pack = next((pack for pack in packs if not pack[1][start:stop].any()), None)
        if pack is None:
            pack = ([], np.zeros(size, dtype=np.bool_))
            packs.append(pack)
        pack[0].append(place)
        pack[1][start:stop] = True
    if not all(taken.all() for _, taken in packs):
        return None
    return [sorted(members, key=lambda place: _start(paths[place])) for members, _ in packs]


def _start(path: Path | None) -> int:
    return path.span[1] if path is not None and path.span else 0
