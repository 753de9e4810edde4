"""Starting a module's recurrent layers from states that its ``forward`` does not take."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Injection", "LayerStates", "injected"]


@dataclass(frozen=True)
class Injection:
    """Rows of a state that is an input of the file and not of ``forward``: a recurrent layer starts there."""

    input: str
    output: str
    path: str
    """The layer's path in the module."""
    call: int
    """Which of the layer's calls in one ``forward``."""
    part: int
    """0 for h, 1 for c."""
    row_axis: int | None
    """Which axis of the state counts layers and directions; None for a state ``(N, H)``."""
    rows: tuple[int, int]
    """First row in the state, and in the layer's own ``h_0 (layers*D, N, H)``."""
    count: int
    """How many rows."""

    def of(self, state: Tensor) -> Tensor:
        """Return these rows of ``state`` as a view ``(rows, N, H)``."""
        rows = state.unsqueeze(0) if self.row_axis is None else state.movedim(self.row_axis, 0)
        return rows.narrow(0, self.rows[0], self.count)


class LayerStates:
    """Gives one layer its initial states and keeps its last ones, call by call."""

    def __init__(
        self, injections: Sequence[Injection], store: Mapping[str, Tensor], ends: dict[str, Tensor]
    ) -> None:
        self._injections = injections
        self._store = store
        self._ends = ends
        self._call = -1

    def begin(self, layer: nn.Module, x: Any, given: Any) -> Any:
        """Return what the layer's next call starts from: ``given``, but for the injected parts."""
        self._call += 1
        own = self._own()
        if not own:
            return given
        cell = isinstance(layer, nn.RNNCellBase)
        batched = not isinstance(x, Tensor) or x.dim() == (2 if cell else 3)
        parts = list(given) if isinstance(given, tuple) else [given, None]
        for part in (0, 1):
            pieces = sorted((each for each in own if each.part == part), key=lambda each: each.rows[1])
            if pieces:
                rows = torch.cat([each.of(self._store[each.input]) for each in pieces])
                rows = rows if batched else rows.squeeze(1)
                parts[part] = rows.squeeze(0) if cell else rows
        return tuple(parts) if isinstance(layer, nn.LSTM | nn.LSTMCell) else parts[0]

    def end(self, layer: nn.Module, result: Any) -> None:
        """Keep the injected rows of the last state."""
        last = result if isinstance(layer, nn.RNNCellBase) else result[1]
        parts = last if isinstance(last, tuple) else (last,)
        for each in self._own():
            end = self._ends.setdefault(each.output, torch.zeros_like(self._store[each.input]))
            target = each.of(end)
            rows = parts[each.part].reshape(-1, *target.shape[1:])
            target.copy_(rows.narrow(0, each.rows[1], each.count))

    def _own(self) -> list[Injection]:
        return [each for each in self._injections if each.call == self._call]


@contextmanager
def injected(layer: nn.Module, states: LayerStates) -> Iterator[None]:
    """Let PyTorch's own ``forward`` of ``layer`` take and keep ``states``, whatever a subclass adds to it."""
    kind = type(layer)
    base = next(each for each in kind.__mro__ if each.__module__ == nn.RNNBase.__module__)
    started = type(base.__name__, (_Started, base), {})
    layer.__class__ = started if kind is base else type(kind.__name__, (kind, started), {})
    layer.__dict__["_lstm_edge_states"] = states
    try:
        yield
    finally:
        layer.__class__ = kind
        del layer.__dict__["_lstm_edge_states"]


class _Started:
    """Stands between a layer's class and PyTorch's."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002  the name that callers use
        layer: Any = self
        states: LayerStates = layer.__dict__["_lstm_edge_states"]
        result = super().forward(input, states.begin(layer, input, hx))  # type: ignore[misc]
        states.end(layer, result)
        return result
