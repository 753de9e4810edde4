"""The audit of a translated graph: every recurrent call of the module is a recurrent node."""

from collections.abc import Sequence

import onnx_ir as ir

from lstm_edge_runtime.errors import CheckFailedError

from .lower import Origin, origin_of
from .record import Call

__all__ = ["check_recurrent_nodes"]


def check_recurrent_nodes(model: ir.Model, calls: Sequence[Call]) -> tuple[str, ...]:
    """Compare the nodes of ``model`` with the ``calls`` of the trace.

    Returns:
        A note for each layer whose result nothing uses, and that the file therefore leaves out.

    Raises:
        CheckFailedError: a call whose result is used has no node.
    """
    present = {origin for node in model.graph if (origin := origin_of(node)) is not None}
    notes = []
    for call in calls:
        missing = [
            layer for layer in range(call.layers) if Origin(call.path, call.number, layer) not in present
        ]
        if len(missing) == call.layers:
            notes.append(f"layer {call.path!r}: nothing uses its result, it is not in the file")
        elif missing:
            raise CheckFailedError(
                f"layer {call.path!r}: its layer {missing[0]} is no recurrent node of the file"
            )
    return tuple(notes)
