"""States that ``forward`` does not take: lifted out of the graph, and set in the reference.

The lifting is ``lift.lift_states``, the same that any ONNX file goes through. Here its states get the names
of PyTorch's layers, and for each of them it is kept which rows of which layer it holds, so that the
module itself can be started from it when the file is verified.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import onnx_ir as ir

from lstm_edge_runtime.manifest import StateSpec

from ..graph import spec_of
from ..numerics.reference import Injection
from ..recurrent import state_shape
from .lower import Lowered, Origin, origin_of

if TYPE_CHECKING:
    from ..lift.paths import Member, StateGroup
    from ..streaming.flow import NotStreamableError


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
    need: str = ""
    """Why a file of its own streams, ``looks 3 steps ahead``; empty if the ordinary file does."""


def lift(lowered: Lowered, *, stateless: bool) -> Lifted:
    """Make inputs of the states that ``forward`` does not take, unless none is wanted."""
    if stateless or lowered.roles.starts_given or lowered.window:
        return Lifted(lowered.model)
    from ..lift.states import lift_states
    from ..lift.table import Table

    groups: list[StateGroup] = []

    def naming(found: Sequence["StateGroup"]) -> list[tuple[str, str]]:
        groups.extend(found)
        single = len(lowered.calls) == 1
        return [_name_after_modules(group, _layers(group), single=single) for group in found]

    model = lowered.model.clone()
    table = Table(model)
    calls = Counter(call.path for call in lowered.calls if call.cell)
    loops = {path: count for path, count in calls.items() if count > 1}
    lifted = lift_states(
        model,
        [each for each in table.recurrences if not each.looped and _path(each.node) not in loops],
        table,
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
    from ..streaming.flow import NotStreamableError
    from ..streaming.stream import stream

    try:
        found = stream(
            lifted.model, _all_states(lifted, lowered), lowered.roles.batch, lowered.roles.sequence
        )
    except NotStreamableError as error:
        return lifted._replace(refused=error)
    if not found.ordinary:
        return lifted._replace(need=found.need)
    if not found.added:
        return lifted
    return lifted._replace(model=found.model, past=found.added, reach=found.reach)


def _all_states(lifted: Lifted, lowered: Lowered) -> list[StateSpec]:
    """Return the states that are arguments of ``forward``, and those that were lifted."""
    inputs = {spec.name: spec for spec in map(spec_of, lifted.model.graph.inputs)}
    given = (
        StateSpec(name, output, inputs[name].dtype, inputs[name].axes)
        for name, output in lowered.roles.states.items()
    )
    return [*given, *lifted.states]


def _name_after_modules(
    group: "StateGroup", layers: Sequence[tuple[str, int]], *, single: bool
) -> tuple[str, str]:
    """Name a state after the part of the path that its layers share; ``h_0/h_n`` if there is one layer.

    Args:
        group: the state.
        layers: for each of its places the layer's path in the module, and which of the layer's calls it is.
        single: whether the module calls one recurrent layer, once.
    """
    steps = zip(*(path.split(".") for path, _ in layers), strict=False)
    stem = ".".join(step[0] for step in takewhile(lambda step: len(set(step)) == 1, steps))
    paths, call = {path for path, _ in layers}, layers[0][1]
    if len(paths) == 1 and call:
        stem = f"{stem}_{call + 1}"
    return group.names("" if single or not stem else f"{stem}.")


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
