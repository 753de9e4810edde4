"""Healthy networks of many forms: what ``false_alarms.py`` and a test check that nothing refuses.

A form says what is particular about a network; everything else (kind of layer, widths, layers, directions,
how states are passed) is drawn. ``draw_network(form, rng)`` makes one, with random weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

__all__ = ["FORMS", "Network", "draw_network"]

ENDS: dict[str, Callable[[Tensor], Tensor]] = {
    "": lambda y: y,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softmax": lambda y: torch.softmax(y, -1),
    "log-softmax": lambda y: torch.log_softmax(y, -1),
    "exp": torch.exp,
    "relu": torch.relu,
}


@dataclass(frozen=True)
class Network:
    """A module and what ``export`` and ``validate`` are given with it."""

    module: nn.Module
    example: Any
    about: str


class Recurrent(nn.Module):
    """Stacked recurrent layers, a linear head at every step, a function at the end."""

    def __init__(self, layer: nn.RNNBase, outputs: int, end: str, *, states: bool, packed: bool) -> None:
        super().__init__()
        self.layer = layer
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        self.head = nn.Linear(width, outputs) if outputs else nn.Identity()
        self.end = end
        self.states, self.packed = states, packed
        self.register_buffer("scale", torch.ones(max(outputs, 1)))
        self.register_buffer("center", torch.zeros(max(outputs, 1)))

    def forward(self, x: Tensor, *rest: Tensor) -> Any:
        """Run on ``x (N, L, I)``, or ``(L, I)``, with lengths or initial states where those are inputs."""
        if self.packed:
            packed = pack_padded_sequence(x, rest[0], batch_first=True, enforce_sorted=False)
            y = pad_packed_sequence(self.layer(packed)[0], batch_first=True, total_length=x.shape[1])[0]
            return self._out(y)
        if not self.states:
            return self._out(self.layer(x)[0])
        y, after = self.layer(x, rest if isinstance(self.layer, nn.LSTM) else rest[0])
        return (self._out(y), *(after if isinstance(self.layer, nn.LSTM) else (after,)))

    def _out(self, y: Tensor) -> Tensor:
        return ENDS[self.end](self.head(y)) * self.scale + self.center


def draw_network(form: str, rng: np.random.Generator) -> Network:
    """Draw a network of ``form`` (see ``FORMS``)."""
    torch.manual_seed(int(rng.integers(2**31)))
    kinds = {"closed gates": ["LSTM", "GRU"], "open gates": ["LSTM", "GRU"], "small RNN": ["RNN"]}
    kind = "LSTM" if form == "projection" else str(rng.choice(kinds.get(form, ["LSTM", "GRU", "RNN"])))
    inputs, width = int(rng.integers(1, 9)), int(rng.integers(1 if form != "projection" else 2, 40))
    options: dict[str, Any] = {"num_layers": int(rng.choice([1, 1, 2])), "bias": bool(rng.random() < 0.9)}
    options["bidirectional"] = bool(rng.random() < 0.2)
    if kind == "RNN" and rng.random() < 0.3 and form not in ("scales", "saturated"):
        options["nonlinearity"] = "relu"
    if form == "projection":
        options["proj_size"] = int(rng.integers(1, width))
    if form in ("closed gates", "open gates"):
        options["bias"] = True
    layer = getattr(nn, kind)(inputs, width, batch_first=True, **options)
    end = form if form in ENDS else ("sigmoid" if form == "small sigmoid" else "")
    if form == "saturated":
        end = str(rng.choice(["sigmoid", "tanh", "softmax"]))
    bare = form in ("default", "small RNN", "closed gates", "open gates") and rng.random() < 0.5
    outputs = 0 if bare else int(rng.integers(1, 6))
    if form == "unlike units":
        outputs = 2
    packed = form == "lengths"
    states = not packed and form != "unbatched" and bool(rng.random() < 0.3)
    module = Recurrent(layer, outputs, end, states=states, packed=packed).eval()
    with torch.no_grad():
        if form in _ADJUST:
            _ADJUST[form](module, rng)
    if form == "float64":
        module = module.double()
    return Network(module, _example(module, form, rng), f"{form}: {kind}({inputs}, {width}) {options} {end}")


def _example(module: Recurrent, form: str, rng: np.random.Generator) -> tuple[Tensor, ...]:
    layer = module.layer
    dtype = torch.float64 if form == "float64" else torch.float32
    if form == "unbatched":
        return (torch.randn(7, layer.input_size),)
    x = torch.randn(3, 7, layer.input_size, dtype=dtype) * (10.0 ** rng.uniform(-1, 1))
    if module.packed:
        return x, torch.tensor([7, 2, 4])
    if not module.states:
        return (x,)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h_0 = torch.zeros(rows, 3, layer.proj_size or layer.hidden_size, dtype=dtype)
    return (
        (x, h_0, torch.zeros(rows, 3, layer.hidden_size, dtype=dtype)) if layer.mode == "LSTM" else (x, h_0)
    )


def _scale(low: float, high: float) -> Callable[[Recurrent, np.random.Generator], None]:
    def adjust(module: Recurrent, rng: np.random.Generator) -> None:
        factor = 10.0 ** rng.uniform(low, high)
        for parameter in module.layer.parameters():
            parameter *= factor

    return adjust


def _shift_gate(sign: float) -> Callable[[Recurrent, np.random.Generator], None]:
    def adjust(module: Recurrent, rng: np.random.Generator) -> None:
        gates = [0, 3] if module.layer.mode == "LSTM" else [1]
        if sign > 0:
            gates = [1]
        gate, width = int(rng.choice(gates)), module.layer.hidden_size
        module.layer.bias_ih_l0[gate * width : (gate + 1) * width] += sign * rng.uniform(3, 10)

    return adjust


def _head(weight: float, low: float, high: float) -> Callable[[Recurrent, np.random.Generator], None]:
    def adjust(module: Recurrent, rng: np.random.Generator) -> None:
        module.head.weight *= weight
        module.head.bias += float(rng.uniform(low, high))

    return adjust


def _tiny(module: Recurrent, rng: np.random.Generator) -> None:
    for parameter in module.head.parameters():
        parameter *= 10.0 ** rng.uniform(-9, -3)


def _zero(module: Recurrent, rng: np.random.Generator) -> None:
    channel = int(rng.integers(len(module.head.bias)))
    module.head.weight[channel], module.head.bias[channel] = 0.0, 0.0


def _units(module: Recurrent, _rng: np.random.Generator) -> None:
    module.scale.copy_(torch.tensor([500.0, 0.02]))
    module.center.copy_(torch.tensor([101325.0, 0.0]))


_ADJUST: dict[str, Callable[[Recurrent, np.random.Generator], None]] = {
    "scales": _scale(-3, 1),
    "small RNN": _scale(-3, -1),
    "closed gates": _shift_gate(-1.0),
    "open gates": _shift_gate(1.0),
    "small sigmoid": _head(1.0, -14, -2),
    "exp": _head(1.0, -10, 3),
    "saturated": _head(30.0, -20, 20),
    "tiny outputs": _tiny,
    "zero outputs": _zero,
    "unlike units": _units,
}
FORMS = (
    "default", "scales", "small RNN", "closed gates", "open gates", "small sigmoid", "sigmoid", "tanh",
    "softmax", "log-softmax", "exp", "relu", "saturated", "tiny outputs", "zero outputs", "unlike units",
    "unbatched", "lengths", "projection", "float64",
)  # fmt: skip
"""What networks are drawn of."""
