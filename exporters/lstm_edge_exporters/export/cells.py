"""Recurrent cells as elementary operators, for a step inside of a loop over time."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError

from ..graph import Builder, constant
from .record import DOMAIN, OP

_FIRST_WEIGHT = 4
_ROW = np.array([0])


def is_cell(node: ir.Node) -> bool:
    """Return True if ``node`` is a recorded recurrent call."""
    return node.domain == DOMAIN and node.op_type == OP


def expand_cell(node: ir.Node, line: str) -> None:
    """Replace a recorded call of one step by elementary operators.

    Raises:
        UnsupportedError: it is bidirectional, has lengths, or takes several steps;
            ``line`` is the loop's line.
    """
    options = {name: attribute.value for name, attribute in node.attributes.items()}
    _check_single_step(node, options, line)
    build = Builder(node, options["path"] or "cell")
    layers = options["layers"]
    states = [state for state in node.inputs[1:3] if state is not None]
    rows = [_split(build, state, layers) for state in states]
    y = _without_row(build, node.inputs[0])
    lasts = []
    for layer, weights in enumerate(_weights_of_layers(node, layers)):
        before = [row[layer] for row in rows]
        last = _step(build, options, x=y, states=before, weights=weights)
        for value, row in zip(last, before, strict=True):
            value.shape = row.shape
        lasts.append(last)
        y = last[0]
    joined = [_join(build, [y]), *(_join(build, x) for x in zip(*lasts, strict=True))]
    for old, new in zip(node.outputs, joined, strict=True):
        new.type = old.type
        new.shape = old.shape
    build.replace(joined)


def _check_single_step(node: ir.Node, options: dict[str, Any], line: str) -> None:
    """Refuse a call of several steps, of two directions, or with lengths."""
    x = node.inputs[0]
    steps = x.shape[0] if x is not None and x.shape is not None else None
    if options["directions"] != 1 or node.inputs[3] is not None or steps != 1:
        raise UnsupportedError(
            f"forward calls {options['path'] or 'a recurrent layer'} for several steps"
            f" inside of a loop over time ({line}); call it for one step, or move it"
            " out of the loop"
        )


def _weights_of_layers(
    node: ir.Node, layers: int
) -> Iterator[Sequence[ir.Value | None]]:
    """Yield the weights of each layer of a recorded call."""
    size = len(node.inputs[_FIRST_WEIGHT:]) // layers
    for layer in range(layers):
        start = _FIRST_WEIGHT + layer * size
        yield node.inputs[start : start + size]


def _step(
    build: Builder,
    options: dict[str, Any],
    x: ir.Value,
    states: Sequence[ir.Value],
    weights: Sequence[ir.Value | None],
) -> Sequence[ir.Value]:
    """Add one step of one layer; return its states ``(N, P)`` and, of an LSTM,
    ``(N, H)``.
    """
    w, r, *others = weights
    b_ih, b_hh = others[:2] if options["biased"] else (None, None)
    w_hr = others[-1] if len(others) % 2 else None
    if options["op"] == "GRU":
        return [_gru(build, x, h=states[0], weights=(w, r, b_ih, b_hh))]
    z = _linear(build, x, weight=w, bias=b_ih)
    recurrent = _linear(build, states[0], weight=r, bias=b_hh)
    z = build.value("Add", [z, recurrent])
    if options["op"] == "RNN":
        return [build.value(options["activation"], [z])]
    i, f, g, o = build.node("Split", [z], {"axis": -1, "num_outputs": 4}, outputs=4)
    remembered = _product(build, _apply(build, "Sigmoid", f), states[1])
    added = _product(build, _apply(build, "Sigmoid", i), _apply(build, "Tanh", g))
    c = build.value("Add", [remembered, added])
    h = _product(build, _apply(build, "Sigmoid", o), _apply(build, "Tanh", c))
    return [h if w_hr is None else _linear(build, h, weight=w_hr, bias=None), c]


def _gru(
    build: Builder, x: ir.Value, h: ir.Value, weights: Sequence[ir.Value | None]
) -> ir.Value:
    """Expand a GRU cell, with gates in PyTorch's order ``r z n``."""
    w, r, b_ih, b_hh = weights
    three = {"axis": -1, "num_outputs": 3}
    of_x = build.node(
        "Split", [_linear(build, x, weight=w, bias=b_ih)], three, outputs=3
    )
    of_h = build.node(
        "Split", [_linear(build, h, weight=r, bias=b_hh)], three, outputs=3
    )
    z_r = build.value("Add", [of_x[0], of_h[0]])
    z_z = build.value("Add", [of_x[1], of_h[1]])
    inner = _product(build, _apply(build, "Sigmoid", z_r), of_h[2])
    z_n = build.value("Add", [of_x[2], inner])
    n = _apply(build, "Tanh", z_n)
    change = build.value("Sub", [h, n])
    return build.value(
        "Add", [n, _product(build, _apply(build, "Sigmoid", z_z), change)]
    )


def _linear(
    build: Builder, x: ir.Value, weight: ir.Value | None, bias: ir.Value | None
) -> ir.Value:
    """Return ``x @ weight.T + bias``."""
    inputs = [x, weight] if bias is None else [x, weight, bias]
    return build.value("Gemm", inputs, {"transB": 1})


def _apply(build: Builder, op: str, value: ir.Value) -> ir.Value:
    """Add an operator with one input."""
    return build.value(op, [value])


def _product(build: Builder, one: ir.Value, other: ir.Value) -> ir.Value:
    """Add a product of two values."""
    return build.value("Mul", [one, other])


def _split(build: Builder, state: ir.Value, layers: int) -> list[ir.Value]:
    """Return the rows ``(N, ...)`` of ``state (layers, N, ...)``."""
    if layers == 1:
        return [_without_row(build, state)]
    rows = build.node(
        "Split", [state, np.ones(layers, np.int64)], {"axis": 0}, outputs=layers
    )
    for row in rows:
        row.shape = state.shape and ir.Shape([1, *state.shape[1:]])
    return [_without_row(build, row) for row in rows]


def _without_row(build: Builder, value: ir.Value | None) -> ir.Value:
    """Return ``value (1, ...)`` without its first axis."""
    assert value is not None
    above = value.producer()
    if (
        above is not None
        and above.op_type == "Unsqueeze"
        and above.inputs[0] is not None
    ):
        axes = constant(above.inputs[1])
        if axes is not None and [*np.ravel(axes)] == [0]:
            return above.inputs[0]
    row = build.value("Squeeze", [value, _ROW])
    row.shape = None if value.shape is None else ir.Shape(value.shape[1:])
    return row


def _join(build: Builder, rows: Sequence[ir.Value]) -> ir.Value:
    """Return rows ``(N, ...)`` as ``(layers, N, ...)``."""
    stacked = [build.value("Unsqueeze", [row, _ROW]) for row in rows]
    return (
        stacked[0] if len(stacked) == 1 else build.value("Concat", stacked, {"axis": 0})
    )
