"""States that ``forward`` does not take: lifted out of the graph, and set in the reference.

The lifting is ``lift.lift_states``, the same that any ONNX file goes through. Here its states get the names
of PyTorch's layers, and for each of them it is kept which rows of which layer it holds, so that the
module itself can be started from it when the file is verified.
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec

from ..numerics.reference import Injection
from ..recurrent import recurrent_nodes, state_shape
from .lower import Lowered, Origin, origin_of

if TYPE_CHECKING:
    from ..lift.paths import Member, StateGroup
    from ..streaming.facts import NotStreamableError


class Lifted(NamedTuple):
    """A graph whose absent, zero and learned states are inputs."""

    model: ir.Model
    states: tuple[StateSpec, ...] = ()
    """Those that are no arguments of ``forward``."""
    injections: tuple[Injection, ...] = ()
    notes: tuple[str, ...] = ()
    """States that come from data and stay in the graph."""
    past: tuple[StateSpec, ...] = ()
    """Frames of the past that operators along time look back at."""
    reach: int = 0
    """How many steps these hold together."""
    refused: "NotStreamableError | None" = None
    """Why operators along time keep no past in states."""
    late: bool = False
    """Whether frames need later steps: then another graph streams."""


def lift(lowered: Lowered, *, stateless: bool) -> Lifted:
    """Make inputs of the states that ``forward`` does not take, unless none is wanted."""
    if stateless or lowered.roles.starts_given or lowered.window:
        return Lifted(lowered.model)
    from ..lift.state_names import name_after_modules
    from ..lift.states import lift_states
    from ..lift.table import Table

    groups: list[StateGroup] = []

    def naming(found: Sequence["StateGroup"]) -> list[tuple[str, str]]:
        groups.extend(found)
        single = len(lowered.calls) == 1
        return [name_after_modules(group, _layers(group), single=single) for group in found]

    model = lowered.model.clone()
    calls = Counter(call.path for call in lowered.calls if call.cell)
    loops = {path: count for path, count in calls.items() if count > 1}
    lifted = lift_states(
        model,
        [node for node in recurrent_nodes(model) if _path(node) not in loops],
        Table(model),
        batch=lowered.roles.batch,
        reverse=True,
        naming=naming,
    )
    pairs = zip(groups, lifted.states, strict=True)
    injections = tuple(injection for group, state in pairs for injection in _injections(group, state))
    looping = [
        f"cell {path!r} is called {count} times in one forward: its state stays in the graph"
        for path, count in loops.items()
        if not lowered.roles.states
    ]
    notes = (
        f"{left.node}: state {left.state} stays in the graph, {left.reason}"
        for left in lifted.left
        if left.cause == "data"
    )
    return Lifted(model, lifted.states, injections, (*looping, *notes))


def keep_past(lifted: Lifted, lowered: Lowered, *, stateless: bool) -> Lifted:
    """Make states of what operators along time look back at; see ``streaming``."""
    if stateless or lowered.window:
        return lifted
    from ..streaming.facts import NotStreamableError
    from ..streaming.streamable import make_streamable

    try:
        found = make_streamable(lifted.model, lowered.roles.batch, lowered.roles.sequence)
    except NotStreamableError as error:
        return lifted._replace(refused=error)
    if found is None:
        return lifted
    if found.late:
        return lifted._replace(late=True)
    return lifted._replace(model=found.model, past=found.states, reach=found.reach)


def _layers(group: "StateGroup") -> list[tuple[str, int]]:
    """Return the path and the call of each place's layer."""
    origins = [_origin(member) for member in group.members]
    return [(origin.path, origin.call) for origin in origins]


def _injections(group: "StateGroup", state: StateSpec) -> list[Injection]:
    injections = []
    row = 0
    for member in group.members:
        origin, path, slot = _origin(member), member.path, member.place.slot
        directions, _, _ = state_shape(slot.node)
        row_axis = None
        if len(state.axes) == 3:
            row_axis = 0 if path is None else path.span[0] if path.span else 1 - path.batch_axis
        injections.append(
            Injection(
                state.input,
                state.output,
                origin.path,
                origin.call,
                "hc".index(slot.kind),
                row_axis,
                rows=(row, origin.layer * directions),
                count=directions,
            )
        )
        row += directions
    return injections


def _path(node: ir.Node) -> str | None:
    origin = origin_of(node)
    return origin.path if origin else None


def _origin(member: "Member") -> Origin:
    origin = origin_of(member.place.slot.node)
    assert origin is not None
    return origin
