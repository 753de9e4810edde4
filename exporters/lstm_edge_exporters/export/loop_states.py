"""States of loops over time as inputs and outputs of the graph."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Axes, StateSpec

from ..graph import UniqueNames, axes_of, walk
from .capture import Program
from .config import ExportConfig
from .outputs import return_states
from .reset_values import reset_values
from .roll import ROLLED, LoopSlot, RolledLoop


@dataclass(frozen=True)
class LoopState:
    """A state of the node that a loop became."""

    node: ir.Node
    """The Scan or the recurrent layer."""
    loop: RolledLoop
    """The loop that it was."""
    slot: LoopSlot
    """The state's variable and its places at the node."""
    initial: ir.Value
    """Value before the first step."""

    @property
    def last(self) -> ir.Value:
        """The value behind the last step."""
        return self.node.outputs[self.slot.output]

    @property
    def axes(self) -> Axes:
        """The axes of the state."""
        return axes_of(self.last)

    @property
    def variable(self) -> str:
        """Name of the loop's variable."""
        return self.slot.variable or "state"


def expose_loop_states(
    graph: ir.Graph, program: Program, config: ExportConfig
) -> list[StateSpec]:
    """Make initial states of loops that depend on sizes alone inputs, and the last
    states outputs.

    Raises:
        UnsupportedError: a state starts from a number that no manifest has.
    """
    states = loop_states(graph, program)
    batch_axes = {state.initial: _batch_axis(state, program) for state in states}
    resets = reset_values(graph, program, batch_axes)
    restarting = {state.node for state in states if state.initial not in resets}
    names = UniqueNames(graph)
    specs: dict[ir.Value, StateSpec] = {}
    for state in states:
        counts_in_vain = state.slot.is_counter and state.node in restarting
        if state.initial not in resets or counts_in_vain:
            continue
        entering = names.unique(f"{state.variable}_0")
        leaving = names.unique(f"{state.variable}_n")
        dtype = state.last.dtype
        assert dtype is not None
        name = str(dtype.numpy().name).replace("float64", "float32")
        axes = state.axes
        reset = resets[state.initial]
        if not (np.abs(reset) <= np.finfo(np.float32).max).all():
            line = state.loop.line.removesuffix(":")
            raise UnsupportedError(
                f"the state {state.variable} of a loop ({line}) starts from infinity or"
                " NaN, expected numbers: start from torch.finfo(x.dtype).min or .max"
            )
        specs[state.last] = StateSpec(
            input=entering, output=leaving, dtype=name, axes=axes, reset=reset
        )
        graph.inputs.append(ir.val(entering, dtype, axes))
        state.node.replace_input_with(state.slot.input, graph.inputs[-1])
    return_states(graph, program, output_names=config.outputs, states=specs)
    return [*specs.values()]


def loop_states(graph: ir.Graph, program: Program) -> list[LoopState]:
    """Return the states of loops that may continue from call to call."""
    return [state for state in _states(graph) if _continues(state, program)]


def notes_on_loops(graph: ir.Graph) -> Iterator[str]:
    """Yield a note for each state of a loop that no input gives."""
    for state in _states(graph):
        above = walk([state.initial], _inputs)
        if not any(value in graph.inputs for value in above):
            line = state.loop.line.removesuffix(":")
            yield f"loop {line}: its state {state.variable} stays in the graph{_why(state)}"


def _why(state: LoopState) -> str:
    """Return what to write for a state that starts as a number, which the first step
    alone computes with; else empty.
    """
    if not state.loop.peeled or state.variable not in state.loop.numbers:
        return ""
    return (
        ", because it starts as a number; start from a tensor"
        f" {describe(state.axes)}, such as torch.zeros"
    )


def _inputs(value: ir.Value) -> list[ir.Value]:
    """Return what a view of the same elements reads."""
    node = value.producer()
    views = node is not None and node.op_type in ("Squeeze", "Unsqueeze", "Identity")
    return [node.inputs[0]] if views and node and node.inputs[0] is not None else []


def _states(graph: ir.Graph) -> Iterator[LoopState]:
    """Yield the states of all loops."""
    for node in graph:
        loop = node.meta.get(ROLLED)
        if isinstance(loop, RolledLoop):
            for slot in loop.states:
                initial = node.inputs[slot.input]
                assert initial is not None
                yield LoopState(node=node, loop=loop, slot=slot, initial=initial)


def _continues(state: LoopState, program: Program) -> bool:
    """Return True if a state may continue from call to call."""
    over_time = program.sequence in state.loop.grows_with
    named = [axis for axis in state.axes if isinstance(axis, str)]
    return over_time and not state.loop.peeled and named == [program.batch]


def _batch_axis(state: LoopState, program: Program) -> int:
    """Return the index of the state's batch axis."""
    return state.axes.index(str(program.batch))
