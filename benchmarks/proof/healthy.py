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

from benchmarks.networks import Fn, Layers, over_time

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


def _batch_norm(inputs: int) -> nn.Module:
    norm = nn.BatchNorm1d(inputs)
    norm.running_mean.normal_(0, 30)
    norm.running_var.uniform_(0.1, 9)
    return over_time(norm)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "layer norm": nn.LayerNorm,
    "RMS norm": nn.RMSNorm,
    "batch norm": _batch_norm,
    "instance norm": lambda inputs: over_time(nn.InstanceNorm1d(inputs, affine=True)),
    "group norm": lambda inputs: over_time(nn.GroupNorm(2 if inputs % 2 == 0 else 1, inputs)),
    "standardized": lambda inputs: Fn(
        lambda x, mean, spread: (x - mean) / spread,
        mean=300 * torch.randn(inputs),
        spread=torch.rand(inputs) + 0.1,
    ),
    "norm of a row": lambda _: Fn(
        lambda x: (x - x.mean(-1, keepdim=True)) / (x.std(-1, correction=0, keepdim=True) + 1e-3)
    ),
}
"""What stands in front of a recurrent layer."""


def _running_mean(y: Tensor) -> Tensor:
    return torch.cumsum(y, 1) / torch.arange(1, y.shape[1] + 1).unsqueeze(-1)


TAILS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cumulative sum": lambda y, _: torch.cumsum(y, 1),
    "cumulative mean": lambda y, _: _running_mean(y),
    "mask": lambda y, x: y.masked_fill(x[..., :1] < 0, 0.0),
    "attention mask": lambda y, _: y * torch.softmax(y.masked_fill(y < -1, -1e9), -1),
    "squeeze": lambda y, _: y.squeeze(-1),
    "range": lambda y, x: y if x.shape[1] > 3 else y * 2,
}
"""What is done with the head's output; ``x`` is the input."""


class Recurrent(Layers):
    """Stacked recurrent layers, a linear head at every step, a function at the end."""

    def __init__(self, layer: nn.RNNBase, outputs: int, end: str, form: str = "") -> None:
        norm = NORMS[form](layer.input_size) if form in NORMS else None
        width = (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)
        super().__init__(layer, norm, nn.Linear(width, outputs) if outputs else None)
        self.end, self.tail = ENDS[end], TAILS.get(form, lambda y, _: y)
        self.register_buffer("scale", torch.ones(max(outputs, 1)))
        self.register_buffer("center", torch.zeros(max(outputs, 1)))

    def forward(self, x: Tensor, lengths: Tensor | None = None, state: Any = None) -> Any:
        """Run on ``x (N, L, I)``, or ``(L, I)``, with lengths or initial states where those are inputs."""
        found = super().forward(x, lengths, state)
        y, *last = found if state is not None else (found,)
        y = self.tail(self.end(y) * self.scale + self.center, x)
        return (y, *last) if last else y


def draw_network(form: str, rng: np.random.Generator, weights: np.random.Generator | None = None) -> Network:
    """Draw a network of ``form`` (see ``FORMS``).

    Args:
        form: what is particular about it.
        rng: of its layers.
        weights: of its weights and example; ``rng`` by default.
    """
    weights = weights or rng
    torch.manual_seed(int(weights.integers(2**31)))
    gated = ("closed gates", "open gates", "leak")
    kinds = {**{each: ["LSTM", "GRU"] for each in gated}, "small RNN": ["RNN"]}
    kind = "LSTM" if form == "projection" else str(rng.choice(kinds.get(form, ["LSTM", "GRU", "RNN"])))
    inputs, width = int(rng.integers(1, 9)), int(rng.integers(1 if form != "projection" else 2, 40))
    options: dict[str, Any] = {"num_layers": int(rng.choice([1, 1, 2])), "bias": bool(rng.random() < 0.9)}
    options["bidirectional"] = bool(rng.random() < 0.2)
    if kind == "RNN" and rng.random() < 0.3 and form not in ("scales", "saturated"):
        options["nonlinearity"] = "relu"
    if form == "projection":
        options["proj_size"] = int(rng.integers(1, width))
    if form in gated:
        options["bias"] = True
    layer = getattr(nn, kind)(inputs, width, batch_first=True, **options)
    end = form if form in ENDS else ("sigmoid" if form == "small sigmoid" else "")
    if form == "saturated":
        end = str(rng.choice(["sigmoid", "tanh", "softmax"]))
    bare = form in ("default", "small RNN", *gated) and rng.random() < 0.5
    outputs = 0 if bare else int(rng.integers(1, 6))
    if form in ("unlike units", "squeeze"):
        outputs = 2 if form == "unlike units" else 1
    states = form not in ("lengths", "unbatched") and bool(rng.random() < 0.3)
    module = Recurrent(layer, outputs, end, form).eval()
    with torch.no_grad():
        if form in _ADJUST:
            _ADJUST[form](module, weights)
    if form == "float64":
        module = module.double()
    example = _example(layer, form, weights, states=states)
    return Network(module, example, f"{form}: {kind}({inputs}, {width}) {options} {end}")


def _example(layer: nn.RNNBase, form: str, rng: np.random.Generator, *, states: bool) -> tuple[Any, ...]:
    dtype = torch.float64 if form == "float64" else torch.float32
    if form == "unbatched":
        return (torch.randn(7, layer.input_size),)
    x = torch.randn(3, 7, layer.input_size, dtype=dtype) * (10.0 ** rng.uniform(-1, 1))
    if form in NORMS:
        x = x + 10.0 ** rng.uniform(-1, 3) * torch.randn(layer.input_size)
    if form == "constant inputs":
        x = torch.full_like(x, float(rng.normal()))
    if form == "huge inputs":
        x = 1e15 * x
    if form == "lengths":
        return x, torch.tensor([7, 2, 4])
    if not states:
        return (x,)
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h_0, c_0 = (
        torch.zeros(rows, 3, width, dtype=dtype)
        for width in (layer.proj_size or layer.hidden_size, layer.hidden_size)
    )
    return x, None, (h_0, c_0) if layer.mode == "LSTM" else h_0


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


def _leak(module: Recurrent, rng: np.random.Generator) -> None:
    """Hold a gate at a constant, so that a state is a leaky sum."""
    gate, width = 1, module.layer.hidden_size
    rows = slice(gate * width, (gate + 1) * width)
    for name, parameter in module.layer.named_parameters():
        parameter[rows] = float(rng.uniform(3, 10)) if name.startswith("bias_ih") else 0.0


def _head(weight: float, low: float, high: float) -> Callable[[Recurrent, np.random.Generator], None]:
    def adjust(module: Recurrent, rng: np.random.Generator) -> None:
        module.after.weight *= weight
        module.after.bias += float(rng.uniform(low, high))

    return adjust


def _tiny(module: Recurrent, rng: np.random.Generator) -> None:
    for parameter in module.after.parameters():
        parameter *= 10.0 ** rng.uniform(-9, -3)


def _zero(module: Recurrent, rng: np.random.Generator) -> None:
    channel = int(rng.integers(len(module.after.bias)))
    module.after.weight[channel], module.after.bias[channel] = 0.0, 0.0


def _units(module: Recurrent, _rng: np.random.Generator) -> None:
    module.scale.copy_(torch.tensor([500.0, 0.02]))
    module.center.copy_(torch.tensor([101325.0, 0.0]))


_ADJUST: dict[str, Callable[[Recurrent, np.random.Generator], None]] = {
    "scales": _scale(-3, 1),
    "small RNN": _scale(-3, -1),
    "closed gates": _shift_gate(-1.0),
    "open gates": _shift_gate(1.0),
    "leak": _leak,
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
    "unbatched", "lengths", "projection", "float64", "leak", "constant inputs", "huge inputs", *NORMS, *TAILS,
)  # fmt: skip
"""What networks are drawn of."""
