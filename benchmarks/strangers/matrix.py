"""Every form of a recurrent layer inside a small module, to measure exporters on."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

SIZES = ((1, 1), (1, 5), (3, 8), (4, 1), (2, 33), (5, 70))
"""Sizes ``(N, L)`` at which every cell is run, without ``TRACED``."""
TRACED = (3, 6)
FEATURES = 5
HIDDEN = 6
PROJECTED = 4

_AXES: dict[str, tuple[Any, ...]] = {
    "kind": ("LSTM", "GRU", "RNN-tanh", "RNN-relu"),
    "layers": (1, 3),
    "bidirectional": (False, True),
    "state": ("argument", "absent", "zeros", "learned"),
    "lengths": ("none", "sorted", "unsorted"),
    "batch_first": (True, False),
    "bias": (True, False),
    "projected": (False, True),
}


class Cell(NamedTuple):
    """One combination."""

    kind: str
    layers: int
    bidirectional: bool
    state: str
    lengths: str
    batch_first: bool
    bias: bool
    projected: bool

    def __str__(self) -> str:
        """Return a name that a test id can hold."""
        words = [
            self.kind,
            f"{self.layers}",
            "bi" if self.bidirectional else "fwd",
            self.state,
            self.lengths,
        ]
        words += (
            ["bf"] * self.batch_first
            + ["nobias"] * (not self.bias)
            + ["proj"] * self.projected
        )
        return "-".join(words)

    @property
    def rows(self) -> int:
        """Layers times directions."""
        return self.layers * (2 if self.bidirectional else 1)

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of h, and of c for an LSTM."""
        h = PROJECTED if self.projected else HIDDEN
        return (h, HIDDEN) if self.kind == "LSTM" else (h,)


def cells() -> Iterator[Cell]:
    """Return every combination; only an LSTM has a projection."""
    for values in itertools.product(*_AXES.values()):
        cell = Cell(*values)
        if cell.kind == "LSTM" or not cell.projected:
            yield cell


def covering() -> list[Cell]:
    """Return few cells in which every pair of two options' values occurs."""
    pairs = {cell: set(itertools.combinations(enumerate(cell), 2)) for cell in cells()}
    missing = set[Any]().union(*pairs.values())
    chosen = []
    while missing:
        chosen.append(max(pairs, key=lambda cell: len(pairs[cell] & missing)))
        missing -= pairs[chosen[-1]]
    return chosen


class Recurrent(nn.Module):
    """A recurrent layer and a linear head, written the usual way."""

    def __init__(self, cell: Cell) -> None:
        """Take random weights; seed torch first."""
        super().__init__()
        self.cell = cell
        kind, _, nonlinearity = cell.kind.partition("-")
        options: dict[str, Any] = {"nonlinearity": nonlinearity} if nonlinearity else {}
        if cell.projected:
            options["proj_size"] = PROJECTED
        options |= {
            name: getattr(cell, name)
            for name in ("bias", "batch_first", "bidirectional")
        }
        self.rnn = getattr(nn, kind)(FEATURES, HIDDEN, cell.layers, **options)
        self.head = nn.Linear(cell.widths[0], 3)
        if cell.state == "learned":
            self.initial = nn.ParameterList(
                0.5 * torch.randn(cell.rows, 1, width) for width in cell.widths
            )

    def forward(
        self,
        x: Tensor,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the sequence, the head on the last hidden state, and with given states
        the last ones.
        """
        cell = self.cell
        n, steps = (0, 1) if cell.batch_first else (1, 0)
        given = None
        if cell.state == "argument":
            given = [h_0, c_0][: len(cell.widths)]
        elif cell.state == "zeros":
            given = [torch.zeros(cell.rows, x.size(n), width) for width in cell.widths]
        elif cell.state == "learned":
            given = [
                initial.expand(-1, x.size(n), -1).contiguous()
                for initial in self.initial
            ]
        hx = None if given is None else tuple(given) if len(given) == 2 else given[0]
        if lengths is None:
            output, last = self.rnn(x, hx)
        else:
            packed = pack_padded_sequence(
                x,
                lengths.cpu(),
                batch_first=cell.batch_first,
                enforce_sorted=cell.lengths == "sorted",
            )
            packed, last = self.rnn(packed, hx)
            output, _ = pad_packed_sequence(
                packed, batch_first=cell.batch_first, total_length=x.size(steps)
            )
        states = last if isinstance(last, tuple) else (last,)
        logits = self.head(states[0][-1])
        return (
            (output, logits, *states) if cell.state == "argument" else (output, logits)
        )


def draw(
    cell: Cell, n: int, length: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Draw the arguments of ``Recurrent.forward`` for one size."""
    shape = (n, length, FEATURES) if cell.batch_first else (length, n, FEATURES)
    feeds = {"x": torch.randn(shape, generator=generator)}
    if cell.state == "argument":
        for name, width in zip(("h_0", "c_0"), cell.widths, strict=False):
            feeds[name] = 0.5 * torch.randn(cell.rows, n, width, generator=generator)
    if cell.lengths != "none":
        lengths = torch.randint(1, length + 1, (n,), generator=generator)
        feeds["lengths"] = (
            lengths.sort(descending=True)[0] if cell.lengths == "sorted" else lengths
        )
    return feeds
