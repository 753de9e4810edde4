"""``Loop`` and ``Scan`` for onnx's reference evaluator.

Its own ``Loop`` joins what it collects along an axis that is there already; its own ``Scan`` takes the first
axis alone, and forwards.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

from lstm_edge_runtime.manifest import Array


class _Repeated(OpRun):
    op_domain = ""
    body: Any

    def need_context(self) -> bool:
        return True

    def once(self, context: Mapping[str, Any], *values: Any) -> list[Any]:
        """Run the body once on its inputs."""
        named = dict(zip(self.body.input_names, values, strict=True))
        found: list[Any] = self.body.run(None, {**context, **named})
        return found

    def stacked(self, rows: Sequence[Sequence[Any]], states: int) -> list[Array]:
        """Return what was collected at every step."""
        if not rows and len(self.onnx_node.output) > states:
            raise NotImplementedError(f"{self.op_type} of no steps that collects values")
        return [np.stack(parts) for parts in zip(*rows, strict=True)]


class Loop(_Repeated):
    """ONNX's ``Loop``."""

    def _run(
        self, count: Array | None, condition: Array | None, *states: Any, context: Mapping[str, Any], **_: Any
    ) -> tuple[Any, ...]:
        wanted, rows = len(states), list[list[Any]]()
        steps = math.inf if count is None else int(count.item())
        go = condition is None or bool(condition.item())
        while go and len(rows) < steps:
            again, *results = self.once(context, np.array(len(rows)), np.array(go), *states)
            go, states = bool(again.item()), tuple(results[:wanted])
            rows.append(results[wanted:])
        return (*states, *self.stacked(rows, wanted))


class Scan(_Repeated):
    """ONNX's ``Scan``."""

    def _run(
        self, *inputs: Array, context: Mapping[str, Any], num_scan_inputs: int = 0, **options: Any
    ) -> tuple[Array, ...]:
        def ways(arrays: Sequence[Array], side: str) -> Iterator[tuple[Array, int, int]]:
            """Yield each array with its axis of time, and 1 or -1 for the direction."""
            named = (options.get(f"scan_{side}_{what}") for what in ("axes", "directions"))
            axes, backwards = (each or [0] * len(arrays) for each in named)
            return zip(arrays, axes, (-1 if each else 1 for each in backwards), strict=True)

        wanted, rows = len(inputs) - num_scan_inputs, list[list[Array]]()
        states = inputs[:wanted]
        parts = (np.moveaxis(x, axis, 0)[::way] for x, axis, way in ways(inputs[wanted:], "input"))
        for step in zip(*parts, strict=True):
            results = self.once(context, *states, *step)
            states = tuple(results[:wanted])
            rows.append(results[wanted:])
        collected = ways(self.stacked(rows, wanted), "output")
        return (*states, *(np.moveaxis(y[::way], 0, axis) for y, axis, way in collected))
