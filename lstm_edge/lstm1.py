"""LSTM1: the well-known LSTM, ReLU, Linear, ReLU, Linear network with every option of ``torch.nn.LSTM``."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_edge_runtime.errors import InputError

Readout = Literal["stacked", "last"]
"""Which final hidden states the head reads; see ``LSTM1``."""
HiddenAndCell = tuple[Tensor, Tensor]
"""``(h, c)``: ``h (layers*D, N, H_out)`` and ``c (layers*D, N, H)``, without ``N`` for unbatched input."""

_HEAD_WIDTH = 128
_LSTM_OPTIONS = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size",
)  # fmt: skip


class LSTM1(nn.Module):
    r"""Logits (or predicted values) from the final hidden state of an LSTM.

    ``x -> nn.LSTM -> h_n -> ReLU -> Linear(., 128) -> ReLU -> Linear(128, num_classes)``

    The parameters are named ``lstm.*``, ``fc_1.*`` and ``fc.*``. With ``D = 2`` if bidirectional else 1 and
    ``H_out = proj_size or hidden_size``, the head reads

    * ``readout="stacked"``: ``h_n.view(-1, H_out)``, the final hidden state of every layer and direction.
      ``logits (layers*D*N, num_classes)``, layer-major: row ``k*N + n`` belongs to sample ``n`` and to the
      ``k``-th of the ``layers*D`` states in PyTorch's order (layer 0 forward, layer 0 backward, ...).
    * ``readout="last"``: the top layer only, both directions side by side (forward first).
      ``logits (N, num_classes)``; ``fc_1`` is ``D*H_out`` wide. For one layer and one direction it equals
      ``"stacked"``.

    Args:
        num_classes: width of the output: classes, or values to predict.
        input_size: features a time step (``I``).
        hidden_size: width of the cell state (``H``).
        num_layers: LSTM layers, one on top of the other.
        seq_length: time steps of a training window; kept as information, ``forward`` works with any length.
        readout: ``"stacked"`` or ``"last"``.
        bias: whether the LSTM's gates have biases (the head always has).
        batch_first: whether ``x`` is ``(N, L, I)`` rather than ``(L, N, I)``; states are unaffected.
        dropout: probability of dropout on the output of every LSTM layer but the last, in training.
        bidirectional: whether a second LSTM reads each layer's input backwards.
        proj_size: width of the projected hidden state; 0 for none.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        InputError: ``readout`` is not one of the two, or a size is not a positive integer.
    """

    def __init__(
        self,
        num_classes: int,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        seq_length: int,
        *,
        readout: Readout = "stacked",
        bias: bool = True,
        batch_first: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_sizes(
            num_classes=num_classes,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            seq_length=seq_length,
        )
        if readout not in get_args(Readout):
            raise InputError(f"readout is {readout!r}, expected one of {', '.join(get_args(Readout))}")
        self.num_classes = num_classes
        self.seq_length = seq_length
        self.readout: Readout = readout
        self.lstm = nn.LSTM(
            input_size,
            hidden_size,
            num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            proj_size=proj_size,
            device=device,
            dtype=dtype,
        )
        self._directions = 2 if bidirectional else 1
        self._row_width = (proj_size or hidden_size) * (self._directions if readout == "last" else 1)
        self.fc_1 = nn.Linear(self._row_width, _HEAD_WIDTH, device=device, dtype=dtype)
        self.fc = nn.Linear(_HEAD_WIDTH, num_classes, device=device, dtype=dtype)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without ``device`` and ``dtype``."""
        own = {name: getattr(self, name) for name in ("num_classes", "seq_length", "readout")}
        return own | {name: getattr(self.lstm, name) for name in _LSTM_OPTIONS}

    def forward(
        self,
        x: Tensor | PackedSequence,
        state: HiddenAndCell | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor:
        """Return the logits; arguments, result and errors are those of ``forward_with_state``."""
        return self.forward_with_state(x, state, lengths)[0]

    def forward_with_state(
        self,
        x: Tensor | PackedSequence,
        state: HiddenAndCell | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, HiddenAndCell]:
        """Return the logits and the state after the last valid step.

        Args:
            x: ``(N, L, I)`` (``(L, N, I)`` without ``batch_first``), unbatched ``(L, I)``, or a
                ``PackedSequence``.
            state: the initial ``(h_0, c_0)``; by default zeros on x's device and of its dtype.
            lengths: int64 ``(N,)``, each row's number of valid steps, 1 to ``L``; by default ``L``.

        Returns:
            ``logits`` with ``num_classes`` columns and the rows of the read-out (unbatched input counts
            as ``N = 1``), and ``(h_n, c_n)``.

        Raises:
            InputError: ``lengths`` came with unbatched or packed input, or they don't fit ``x``.
        """
        if lengths is not None:
            x = self._pack(x, lengths)
        _, (h_n, c_n) = self.lstm(x, state)
        return self.head(self._rows(h_n)), (h_n, c_n)

    def hidden_steps(self, x: Tensor, state: HiddenAndCell | None = None) -> tuple[Tensor, HiddenAndCell]:
        """Return the top layer's hidden state after every step, and the state after the last one.

        ``head`` of a step is what a stream of the network returns there: its row of the top layer.

        Args:
            x: ``(N, L, I)`` (``(L, N, I)`` without ``batch_first``).
            state: as for ``forward_with_state``.

        Returns:
            ``(N, L, H_out)`` (``(L, N, H_out)`` without ``batch_first``), and ``(h_n, c_n)``.

        Raises:
            InputError: the network is bidirectional: it has no output before the last step.
        """
        if self.lstm.bidirectional:
            raise InputError("a bidirectional network has no output at each step; run whole windows")
        hidden, state_n = self.lstm(x, state)
        return hidden, state_n

    def hidden_at(
        self, x: Tensor, steps: Tensor, state: HiddenAndCell | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, HiddenAndCell]:
        """Return the top layer's hidden state ``(N, K, H_out)`` after some steps, and the state at the end.

        Args:
            x: as for ``hidden_steps``.
            steps: int64 ``(N, K)``, below each row's length.
            state: as for ``forward_with_state``.
            lengths: as for ``forward_with_state``.

        Raises:
            InputError: as ``hidden_steps``; or ``lengths`` do not fit ``x``.
        """
        if lengths is None or self.lstm.bidirectional:
            hidden, state_n = self.hidden_steps(x, state)
            rows = torch.arange(len(steps))[:, None]
            return hidden[rows, steps] if self.lstm.batch_first else hidden[steps, rows], state_n
        packed, state_n = self.lstm(self._pack(x, lengths), state)
        first = packed.batch_sizes.cumsum(0) - packed.batch_sizes
        return packed.data[first[steps] + packed.unsorted_indices.cpu()[:, None]], state_n

    def head(self, hidden: Tensor) -> Tensor:
        """Return the outputs ``(..., num_classes)`` of hidden states ``(..., H_out)``."""
        logits: Tensor = self.fc(torch.relu(self.fc_1(torch.relu(hidden))))
        return logits

    def _pack(self, x: Tensor | PackedSequence, lengths: Tensor | Sequence[int]) -> PackedSequence:
        if isinstance(x, PackedSequence) or x.dim() != 3:
            raise InputError("lengths require batched input (N, L, I); omit them for unbatched or packed")
        if not isinstance(lengths, Tensor):
            lengths = torch.tensor(lengths, dtype=torch.int64)
        if not torch.compiler.is_compiling():
            rows, steps = x.shape[:2] if self.lstm.batch_first else (x.shape[1], x.shape[0])
            _check_lengths(lengths, rows, steps)
        return pack_padded_sequence(x, lengths.cpu(), batch_first=self.lstm.batch_first, enforce_sorted=False)

    def _rows(self, h_n: Tensor) -> Tensor:
        if self.readout == "last":
            h_n = h_n[-self._directions :]
            if self._directions > 1:
                h_n = torch.cat([h_n[0], h_n[1]], dim=-1)
        return h_n.reshape(-1, self._row_width)


def _check_sizes(**sizes: int) -> None:
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise InputError(f"{name} is {size!r}, expected a positive integer")


def _check_lengths(lengths: Tensor, rows: int, steps: int) -> None:
    """``pack_padded_sequence`` reads past the end of ``x`` for a length over ``steps``, and drops rows."""
    if lengths.shape != (rows,) or lengths.is_floating_point():
        raise InputError(f"lengths is {lengths.dtype} {tuple(lengths.shape)}, expected int64 ({rows},)")
    wrong = ((lengths < 1) | (lengths > steps)).nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise InputError(f"lengths[{row}] is {int(lengths[row])}, expected 1 to {steps}")
