"""States that ``forward`` does not take: lifted out of the graph, and told to the reference.

The lifting is ``lift.lift_states``, the same that any ONNX file goes through. Here its states get the names
of PyTorch's layers, and for each of them it is kept which rows of which layer it stands for, so that the
module itself can be started from it in the proof.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec

from ..lift import lift_states
from ..lift._groups import Group
from ..numerics.injection import Injection
from .lower import Origin, origin_of
from .record import Call

__all__ = ["Lifting", "lift_absent"]


@dataclass(frozen=True)
class Lifting:
    """A graph whose absent, zero and learned states are inputs."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    injections: tuple[Injection, ...]
    notes: tuple[str, ...]
    """States that come from data and stay in the graph."""


def lift_absent(model: ir.Model, calls: Sequence[Call], batch: str | None) -> Lifting:
    """Lift what can be lifted.

    Args:
        model: a lowered graph.
        calls: the recurrent calls of the trace.
        batch: the name of the batch axis; None for an unbatched module.
    """
    groups: list[Group] = []

    def naming(found: Sequence[Group]) -> list[tuple[str, str]]:
        groups.extend(found)
        return [_names(group, calls) for group in found]

    lifted = lift_states(model, batch=batch, reverse=True, naming=naming)
    injections = [
        injection
        for group, state in zip(groups, lifted.states, strict=True)
        for injection in _injections(group, state)
    ]
    notes = [
        f"{left.node}: state {left.state} stays in the graph, {left.reason}"
        for left in lifted.left
        if left.cause == "data"
    ]
    return Lifting(lifted.model, lifted.states, tuple(injections), tuple(notes))


def _names(group: Group, calls: Sequence[Call]) -> tuple[str, str]:
    """Name a state after its layer; ``h_0`` alone where the module has one layer called once."""
    origins = [_origin(group, place) for place in range(len(group.places))]
    steps = zip(*(origin.path.split(".") for origin in origins), strict=False)
    stem = ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))
    if len({origin.path for origin in origins}) == 1 and origins[0].call:
        stem = f"{stem}_{origins[0].call + 1}"
    if len(calls) == 1 or not stem:
        return f"{group.kind}_0", f"{group.kind}_n"
    return f"{stem}.{group.kind}_0", f"{stem}.{group.kind}_n"


def _injections(group: Group, state: StateSpec) -> list[Injection]:
    injections = []
    row = 0
    for place, slot in enumerate(group.places):
        origin, path = _origin(group, place), group.paths[place]
        node = slot.slot.node
        directions = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
        row_axis = None
        if len(state.axes) == 3:
            row_axis = 0 if path is None else path.span[0] if path.span else 1 - path.batch_axis
        injections.append(
            Injection(
                state.input,
                state.output,
                origin.path,
                origin.call,
                "hc".index(slot.slot.kind),
                row_axis,
                rows=(row, origin.layer * directions),
                count=directions,
            )
        )
        row += directions
    return injections


def _origin(group: Group, place: int) -> Origin:
    origin = origin_of(group.places[place].slot.node)
    assert origin is not None
    return origin
