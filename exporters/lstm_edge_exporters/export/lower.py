"""From recorded nodes to ONNX's own: what inputs and outputs are, recurrent layers, and sums of exponentials.

Each ``lstm_edge::Recurrent`` node becomes LSTM, GRU or RNN nodes, one node a layer, both directions in it.
States come in as ``(layers*D, N, H)``, are split by layer, and are put together again behind the nodes.
Afterwards every call of the module is checked to be a node.

PyTorch's projected LSTM (``proj_size``) feeds ``h = W_hr c'`` (P wide) back, where c' is the unprojected
hidden state. A standard node that feeds c' itself back computes the same with ``R = W_hh W_hr``, and the
projection is applied to its outputs. What is left is the initial state: the node wants H numbers, ``h_0`` has
P.

- Well-conditioned ``W_hr``: start from ``pinv(W_hr) h_0``, for ``W_hr pinv(W_hr) = 1``.
- Otherwise the node gets P more hidden units. They start as ``h_0``, which the gates read through ``W_hh``;
  having no weights and biases of their own they are zero from the first step on (``tanh(0) = 0``, and their
  cells start at zero). Exact for every ``W_hr``, for a recurrence of ``(H + P)^2`` in place of ``H^2``.

All products are taken in float64.
"""

import json
import math
from collections.abc import Collection, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.parser import parse_graph

from lstm_edge_runtime.errors import CheckFailedError, UnsupportedError
from lstm_edge_runtime.manifest import Array

from ..graph import Builder
from ..recurrent import GATES, LEFT_INVERSE, LayerWeights, to_onnx_weights, why_window
from .record import DOMAIN, LOG_CUM_SUM_EXP, OP, RecurrentCall
from .request import Request
from .roles import Roles, find_roles
from .sizes import size_text
from .trace import Traced

_LOG_ADD_EXP = """
step (added_sum, added_x) => (added_next, added_same) {
    added_larger = Max (added_sum, added_x)
    added_infinite = IsInf (added_larger)
    added_none = Constant <value = float {0}> ()
    added_base = Where (added_infinite, added_none, added_larger)
    added_first = Sub (added_sum, added_base)
    added_second = Sub (added_x, added_base)
    added_first_exp = Exp (added_first)
    added_second_exp = Exp (added_second)
    added_total = Add (added_first_exp, added_second_exp)
    added_log = Log (added_total)
    added_next = Add (added_log, added_base)
    added_same = Identity (added_next)
}
"""
"""Names that torch.onnx gives no value: those of a body hide others."""
_CONDITION_LIMIT = 100.0
"""Up to this condition number of ``W_hr`` the pseudo-inverse is used."""
_ORIGIN = "lstm_edge.origin"
"""The key in a node's ``metadata_props`` while the graph is worked on."""


@dataclass(frozen=True)
class Origin:
    """Where a recurrent node comes from."""

    path: str
    """The layer's path in the module."""
    call: int
    """Which of the layer's calls."""
    layer: int
    """Which layer of a stack."""


def origin_of(node: ir.Node) -> Origin | None:
    """Return which layer a node was made for; None for a node that ``lower`` did not make."""
    text = node.metadata_props.get(_ORIGIN)
    return Origin(*json.loads(text)) if text is not None else None


@dataclass(frozen=True)
class Lowered:
    """A graph of ONNX's own operators; states that are no arguments are still inside."""

    model: ir.Model
    roles: Roles
    calls: tuple[RecurrentCall, ...]
    """The recurrent calls of the trace."""
    window: str
    """Why a call is a whole window, where no axis of an input is time; empty for one step."""
    notes: tuple[str, ...]
    """Layers that the file leaves out."""


def lower(request: Request, traced: Traced) -> Lowered:
    """Find the roles of the inputs and outputs, and replace every recorded node in place.

    Raises:
        InputError: see ``find_roles``.
        UnsupportedError: a layer's weights are computed from the network's inputs.
        CheckFailedError: a call whose result is used has no node.
    """
    model = traced.model
    roles = find_roles(traced, request)
    window = _why_window(traced.calls) if roles.sequence is None else ""
    if window and request.config.states is None:
        roles = replace(roles, states={})
    _lower_sums(model)
    for node in list(model.graph):
        if (node.domain, node.op_type) == (DOMAIN, OP):
            _lower(node)
    model.opset_imports.pop(DOMAIN, None)
    _rename_outputs(model, roles.outputs, roles.states.values())
    return Lowered(model, roles, traced.calls, window, _check_recurrent_nodes(model, traced.calls))


def _rename_outputs(model: ir.Model, names: Sequence[str], states: Collection[str]) -> None:
    """Name the graph's outputs.

    One that is an input, a constant or another output gets an Identity node first; so does every one that is
    not named in ``states``, so that no lifted state takes one. What is not needed is removed at the end.
    """
    seen: set[ir.Value] = set()
    for place, name in enumerate(names):
        value = model.graph.outputs[place]
        if name not in states or value.is_graph_input() or value.is_initializer() or value in seen:
            node = ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[place] = node.outputs[0]
        seen.add(model.graph.outputs[place])
    for place, name in enumerate(names):
        model.graph.outputs[place].name = name


def _why_window(calls: Sequence[RecurrentCall]) -> str:
    for call in calls:
        steps = call.shape[0]
        if not call.cell and size_text(steps) != "1":
            layer = f"layer {call.path or 'rnn'}"
            return why_window(layer, steps if isinstance(steps, int) else size_text(steps))
    return ""


def _check_recurrent_nodes(model: ir.Model, calls: Sequence[RecurrentCall]) -> tuple[str, ...]:
    """Check that each of ``calls`` is a node; give a note for each layer whose result nothing uses."""
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


def _lower(node: ir.Node) -> None:
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    op, directions, path = attributes["op"], attributes["directions"], attributes["path"]
    layers = _split_weights(node, attributes)
    x, h_0, c_0, lengths = node.inputs[:4]
    assert x is not None and h_0 is not None  # noqa: PT018
    build = Builder(node, path or op.lower())
    if lengths is not None:
        lengths = build.cast(lengths, ir.DataType.INT32)
    hidden = _split(build, h_0, len(layers), directions)
    cell = _split(build, c_0, len(layers), directions) if c_0 is not None else [None] * len(layers)
    ends: list[Sequence[ir.Value]] = []
    y = x
    for index, layer in enumerate(layers):
        y, *end = _node(build, attributes, index, layer, y, hidden[index], cell[index], lengths)
        ends.append(end)
    joined = [build.concat(list(parts), axis=0) for parts in zip(*ends, strict=True)]
    results = [y, *joined]
    for old, new in zip(node.outputs, results, strict=False):
        new.shape = old.shape if old.shape is not None else new.shape
        new.type = old.type
    build.replace(results)


def _node(
    build: Builder,
    attributes: dict[str, Any],
    index: int,
    layer: list[LayerWeights],
    x: ir.Value,
    h: ir.Value,
    c: ir.Value | None,
    lengths: ir.Value | None,
) -> list[ir.Value]:
    """Build one layer: ``(L, N, I)`` to ``[(L, N, D*P), h_n (D, N, P), c_n (D, N, H)]``."""
    op, directions = attributes["op"], len(layer)
    suffix = f"l{index}"
    projection = None
    if layer[0].w_hr is not None and c is not None:
        projection = _project(build, layer, h, c, suffix)
        layer, h, c = list(projection.layer), projection.hidden, projection.cell
    options: dict[str, Any] = {"hidden_size": layer[0].w_ih.shape[0] // len(GATES[op])}
    if directions == 2:
        options["direction"] = "bidirectional"
    if op == "GRU":
        options["linear_before_reset"] = 1
    if attributes["activation"] not in ("", "Tanh"):
        options["activations"] = [attributes["activation"]] * directions
    w, r, b = to_onnx_weights(op, layer)
    inputs = [
        x,
        build.weight(w, f"W_{suffix}"),
        build.weight(r, f"R_{suffix}"),
        build.weight(b, f"B_{suffix}") if b is not None else None,
        lengths,
        h,
    ]
    if op == "LSTM":
        inputs.append(c)
    y, *end = build.node(op, inputs, options, outputs=3 if op == "LSTM" else 2, name=suffix)
    origin = Origin(attributes["path"], attributes["call"], index)
    build.last.metadata_props[_ORIGIN] = json.dumps(astuple(origin))
    if projection is not None:
        y, end[0] = (build.matmul(value, projection.after) for value in (y, end[0]))
        if projection.cell_after is not None:
            end[1] = build.matmul(end[1], projection.cell_after)
    if directions == 1:
        y = build.squeeze(y, 1)
    else:
        y = build.reshape(build.transpose(y, (0, 2, 1, 3)), (0, 0, -1))
    return [y, *end]


def _split(build: Builder, state: ir.Value, layers: int, directions: int) -> list[ir.Value]:
    return [state] if layers == 1 else build.split(state, [directions] * layers, axis=0)


def _split_weights(node: ir.Node, attributes: dict[str, Any]) -> list[list[LayerWeights]]:
    arrays = []
    for value in node.inputs[4:]:
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if tensor is None:
            raise UnsupportedError(
                f"layer {attributes['path']!r}: its weights are computed from the network's inputs; "
                "an ONNX recurrent node needs fixed weights"
            )
        arrays.append(tensor.numpy().astype(np.float64))
    step, biased = attributes["directions"], bool(attributes["biased"])
    each = len(arrays) // (attributes["layers"] * step)
    rows = []
    for start in range(0, len(arrays), each):
        w_ih, w_hh, *rest = arrays[start : start + each]
        b_ih, b_hh = rest[:2] if biased else (None, None)
        rows.append(LayerWeights(w_ih, w_hh, b_ih, b_hh, rest[-1] if len(rest) % 2 else None))
    return [rows[start : start + step] for start in range(0, len(rows), step)]


def _lower_sums(model: ir.Model) -> None:
    """Replace every recorded ``logcumsumexp`` by a Scan.

    Each step is added to the sum before it in the scale of the larger of both. ``torch.onnx`` scales the
    whole axis by its maximum, beside which an earlier sum may be no number at all.
    """
    for node in list(model.graph):
        if (node.domain, node.op_type) != (DOMAIN, LOG_CUM_SUM_EXP):
            continue
        build = Builder(node, "logcumsumexp")
        x, axis = node.inputs[0], node.attributes["axis"].as_int()
        assert x is not None
        (first,) = build.node("Gather", [x, build.constant(np.array(0), "first")], {"axis": axis})
        (shape,) = build.node("Shape", [first])
        shape.dtype = ir.DataType.INT64
        (start,) = build.node("Expand", [build.constant(np.float32(-math.inf).reshape(()), "none"), shape])
        _, sums = build.node(
            "Scan",
            [start, x],
            {
                "body": _log_add_exp(),
                "num_scan_inputs": 1,
                "scan_input_axes": [axis],
                "scan_output_axes": [axis],
            },
            outputs=2,
        )
        sums.shape, sums.type = node.outputs[0].shape, node.outputs[0].type
        build.replace([sums])


def _log_add_exp() -> Any:
    graph = parse_graph(_LOG_ADD_EXP)
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = ir.DataType.FLOAT
    return ir.from_proto(graph)


@dataclass(frozen=True)
class _Projection:
    """One layer as a standard node, H' units wide, and the matrices around it."""

    layer: tuple[LayerWeights, ...]
    """A direction each, without projections."""
    hidden: ir.Value
    """``initial_h (D, N, H')``."""
    cell: ir.Value
    """``initial_c (D, N, H')``."""
    after: ir.Value
    """``(D, H', P)``: Y and Y_h are to be multiplied by it."""
    cell_after: ir.Value | None
    """``(D, H', H)`` for Y_c, or None where H' is H."""


def _project(
    build: Builder, layer: Sequence[LayerWeights], h: ir.Value, c: ir.Value, suffix: str
) -> _Projection:
    """Fold one layer's projections.

    Args:
        build: where nodes are added.
        layer: one entry a direction, each with ``w_hr``.
        h: ``(D, N, P)``.
        c: ``(D, N, H)``.
        suffix: ends the names of what is added.
    """
    matrices = [each.w_hr for each in layer if each.w_hr is not None]
    folded = tuple(
        replace(each, w_hh=each.w_hh @ w_hr, w_hr=None) for each, w_hr in zip(layer, matrices, strict=True)
    )
    leave = np.stack([w.T for w in matrices])
    if max(np.linalg.cond(w) for w in matrices) <= _CONDITION_LIMIT:
        enter = np.stack([np.linalg.pinv(w).T for w in matrices])
        start, after = _around(build, h, enter, leave, f"P_{suffix}")
        return _Projection(folded, start, c, after, None)
    directions, hidden, width = leave.shape
    wide = tuple(_widened(each, own.w_hh, width) for each, own in zip(folded, layer, strict=True))
    ones = np.broadcast_to(np.eye(hidden + width), (directions, hidden + width, hidden + width))
    start, after = _around(
        build, h, ones[:, hidden:], np.pad(leave, ((0, 0), (0, width), (0, 0))), f"P_{suffix}"
    )
    cell, cell_after = _around(build, c, ones[:, :hidden], ones[:, :, :hidden], f"C_{suffix}")
    return _Projection(wide, start, cell, after, cell_after)


def _around(
    build: Builder, state: ir.Value, enter: Array, leave: Array, name: str
) -> tuple[ir.Value, ir.Value]:
    """Return ``state @ enter``, and ``leave``, its left inverse, as an initializer."""
    inverse = build.weight(leave, name)
    entering = build.weight(enter, f"{name}_in")
    entering.metadata_props[LEFT_INVERSE] = str(inverse.name)
    return build.matmul(state, entering), inverse


def _widened(folded: LayerWeights, w_hh: Array, width: int) -> LayerWeights:
    """Add ``width`` units that only hold what they start from, and are read through ``w_hh``."""
    recurrent = np.concatenate([folded.w_hh, w_hh], axis=1)
    return LayerWeights(
        _more_units(folded.w_ih, width),
        _more_units(recurrent, width),
        None if folded.b_ih is None else _more_units(folded.b_ih, width),
        None if folded.b_hh is None else _more_units(folded.b_hh, width),
        None,
    )


def _more_units(stacked: Array, width: int) -> Array:
    """Add ``width`` rows of zeros to each gate of ``(G*H, ...)``."""
    gates = np.split(stacked, len(GATES["LSTM"]))
    zeros = np.zeros((width, *stacked.shape[1:]))
    return np.concatenate([part for gate in gates for part in (gate, zeros)])
