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

SCALES = ("x_mean", "x_std", "y_mean", "y_std")
"""Names of the buffers with the normalization; a checkpoint has them in pairs, or not at all."""
_HEAD_WIDTH = 128
_LSTM_OPTIONS = (
    "input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size",
)  # fmt: skip


class LSTM1(nn.Module):
    r"""Logits (or predicted values) from the final hidden state of an LSTM.

    ``x -> scale -> nn.LSTM -> h_n -> ReLU -> Linear(., 128) -> ReLU -> Linear(128, num_classes) -> scale``

    The parameters are named ``lstm.*``, ``fc_1.*`` and ``fc.*``. ``set_scales`` adds the normalization as
    buffers; until then ``x`` and the outputs are used as they are. With ``D = 2`` if bidirectional else 1 and
    ``H_out = proj_size or hidden_size``, the head reads

    * ``readout="stacked"``: ``h_n.view(-1, H_out)``, the final hidden state of every layer and direction.
      ``logits (layers*D*N, num_classes)``, layer-major: row ``k*N + n`` belongs to sample ``n`` and to the
      ``k``-th of the ``layers*D`` states in PyTorch's order (layer 0 forward, layer 0 backward, ...).
    * ``readout="last"``: the top layer only, both directions side by side (forward first).
      ``logits (N, num_classes)``; ``fc_1`` is ``D*H_out`` wide. For one layer and one direction it equals
      ``"stacked"``.

    Args:
        num_classes: width of the output: classes, or values to predict.
        input_size: features per time step (``I``).
        hidden_size: width of the cell state (``H``).
        num_layers: number of LSTM layers.
        seq_length: time steps of a training window; kept as information, ``forward`` works with any length.
        readout: ``"stacked"`` or ``"last"``.
        bias: True if the gates of the LSTM have biases (the head always has).
        batch_first: True if ``x`` is ``(N, L, I)`` rather than ``(L, N, I)``; states are unaffected.
        dropout: probability of dropout on the output of every LSTM layer but the last, in training.
        bidirectional: True if a second LSTM reads each layer's input backwards.
        proj_size: width of the projected hidden state; 0 for none.
        added: for each value, the index of the feature whose current value is added to the output, so that
            the network predicts the difference; empty for none.
        device: device of the parameters.
        dtype: dtype of the parameters.

    Raises:
        InputError: ``readout`` is not one of the two, a size is not a positive integer, or ``added`` does not
            fit.
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
        added: Sequence[int] = (),
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
        self.added = tuple(added)
        if added and (len(added) != num_classes or not set(added) <= set(range(input_size))):
            raise InputError(f"added is {self.added}, expected {num_classes} indices below {input_size}")
        if added and readout != "last":
            raise InputError(f"added requires readout='last', got {readout!r}")
        columns = torch.eye(input_size, device=device, dtype=dtype)[:, list(added)] if added else None
        self.added_columns: Tensor
        self.x_mean: Tensor | None
        self.x_std: Tensor | None
        self.y_mean: Tensor | None
        self.y_std: Tensor | None
        for name in SCALES:
            self.register_buffer(name, None)
        self.register_buffer("added_columns", columns)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, without ``device`` and ``dtype``."""
        own = {name: getattr(self, name) for name in ("num_classes", "seq_length", "readout", "added")}
        return own | {name: getattr(self.lstm, name) for name in _LSTM_OPTIONS}

    def forward(
        self,
        x: Tensor | PackedSequence,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Return the logits; with states also ``h_n`` and ``c_n``, which is the form that is exported.

        Arguments, results and errors are those of ``forward_with_state``.
        """
        if h_0 is None or c_0 is None:
            return self.forward_with_state(x, None, lengths)[0]
        logits, (h_n, c_n) = self.forward_with_state(x, (h_0, c_0), lengths)
        return logits, h_n, c_n

    def forward_with_state(
        self,
        x: Tensor | PackedSequence,
        state: HiddenAndCell | None = None,
        lengths: Tensor | Sequence[int] | None = None,
    ) -> tuple[Tensor, HiddenAndCell]:
        """Return the logits, or values in their own units, and the state after the last valid step.

        Args:
            x: raw features ``(N, L, I)`` (``(L, N, I)`` without ``batch_first``), unbatched ``(L, I)``, or a
                ``PackedSequence``.
            state: initial ``(h_0, c_0)``; by default zeros on x's device and of its dtype.
            lengths: int64 ``(N,)``, number of valid steps of each row, 1 to ``L``; by default ``L``.

        Returns:
            ``logits`` with ``num_classes`` columns and the rows of the readout (unbatched input counts
            as ``N = 1``), and ``(h_n, c_n)``.

        Raises:
            InputError: ``lengths`` came with unbatched or packed input, they don't fit ``x``, or a network
                that predicts differences got packed input.
        """
        inputs = self._normalized(x)
        if lengths is not None:
            inputs = self._pack(inputs, lengths)
        _, (h_n, c_n) = self.lstm(inputs, state)
        now = self._last_step(x, lengths) if self.added else None
        return self.outputs(self._rows(h_n), now), (h_n, c_n)

    def hidden_at(
        self, x: Tensor, steps: Tensor, state: HiddenAndCell | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, HiddenAndCell]:
        """Return the top layer's hidden state after some steps, and the state after the last valid one.

        ``outputs`` of a step is what a stream of the network returns there. Results of steps after the length
        of a row have no meaning.

        Args:
            x: raw features ``(N, L, I)``; the network must be ``batch_first``.
            steps: int64 ``(N, K)``.
            state: as for ``forward_with_state``.
            lengths: as for ``forward_with_state``.

        Returns:
            ``(N, K, H_out)`` and ``(h_n, c_n)``.

        Raises:
            InputError: the network is bidirectional (it has no output before the last step), or ``lengths``
                don't fit ``x``.
        """
        if self.lstm.bidirectional:
            raise InputError("a bidirectional network has no output at each step; run full sequences")
        inputs = self._normalized(x)
        if lengths is None:
            hidden, state_n = self.lstm(inputs, state)
            return hidden[torch.arange(len(x))[:, None], steps], state_n
        packed, state_n = self.lstm(self._pack(inputs, lengths), state)
        first = packed.batch_sizes.cumsum(0) - packed.batch_sizes
        steps = torch.minimum(steps.cpu(), lengths.cpu()[:, None] - 1)
        return packed.data[first[steps] + packed.unsorted_indices.cpu()[:, None]], state_n

    def outputs(self, hidden: Tensor, x: Tensor | None = None) -> Tensor:
        """Return logits or values in their own units.

        Args:
            hidden: hidden states ``(..., H_out)``.
            x: raw features ``(..., I)`` of the same steps, for a network that predicts differences.
        """
        values: Tensor = self.fc(torch.relu(self.fc_1(torch.relu(hidden))))
        if self.y_mean is not None and self.y_std is not None:
            values = values * self.y_std + self.y_mean
        if self.added and x is not None:
            values = values + self.now(x)
        return values

    def now(self, x: Tensor) -> Tensor:
        """Return the current values ``(..., C)`` of the forecast features, from raw features ``(..., I)``."""
        return x @ self.added_columns

    def set_scales(
        self,
        x: tuple[Tensor, Tensor] | None = None,
        y: tuple[Tensor, Tensor] | None = None,
    ) -> "LSTM1":
        """Set the normalization, and return the network.

        Args:
            x: mean and standard deviation ``(I,)`` of the features, subtracted and divided by; None for none.
            y: mean and standard deviation ``(C,)`` of the values, multiplied by and added; None for none.

        Raises:
            InputError: a scale of another width, not finite, or a standard deviation that is not positive.
        """
        weight = self.fc.weight
        for name, pair, width in (("x", x, self.lstm.input_size), ("y", y, self.num_classes)):
            scale: list[Tensor | None] = [None, None]
            if pair is not None:
                scale = [each.to(weight.device, weight.dtype) for each in pair]
                _check_scale(name, *pair, width)
            for part, tensor in zip(("mean", "std"), scale, strict=True):
                setattr(self, f"{name}_{part}", tensor)
        return self

    def _normalized(self, x: Any) -> Any:
        if self.x_mean is None or self.x_std is None:
            return x
        if isinstance(x, PackedSequence):
            return x._replace(data=(x.data - self.x_mean) / self.x_std)
        return (x - self.x_mean) / self.x_std

    def _last_step(self, x: Tensor | PackedSequence, lengths: Tensor | Sequence[int] | None) -> Tensor:
        """Return the features ``(N, I)`` of the last valid step of each row."""
        if isinstance(x, PackedSequence) or x.dim() != 3:
            raise InputError("a network that predicts differences requires batched input (N, L, I)")
        x = x if self.lstm.batch_first else x.transpose(0, 1)
        if lengths is None:
            return x[:, -1]
        last = (torch.as_tensor(lengths, device=x.device) - 1)[:, None, None].expand(-1, 1, x.shape[2])
        return x.gather(1, last)[:, 0]

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


def fit_scale(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float64 ``(columns,)``, of the rows of ``(rows, columns)``.

    A column that varies by no more than float32's rounding has a deviation of 1: dividing by noise would
    blow up the first sample that differs.
    """
    std, mean = torch.std_mean(columns.double(), dim=0, correction=0)
    info = torch.finfo(torch.float32)
    varies = std > (info.eps * mean.abs()).clamp(min=info.tiny)
    return mean, torch.where(varies, std, 1.0)


def _check_scale(name: str, mean: Tensor, std: Tensor, width: int) -> None:
    for part, tensor in (("mean", mean), ("std", std)):
        if tensor.shape != (width,):
            raise InputError(f"the {part} of {name} is {tuple(tensor.shape)}, expected ({width},)")
    if not bool(torch.isfinite(torch.stack([mean, std])).all()) or bool((std <= 0).any()):
        raise InputError(f"the scale of {name} is not finite and positive: {mean.tolist()}, {std.tolist()}")


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
