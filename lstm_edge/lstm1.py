"""LSTM1: the well-known LSTM, ReLU, Linear, ReLU, Linear network with the options of
``torch.nn.LSTM``.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from lstm_edge_runtime.errors import InputError

HiddenAndCell = tuple[Tensor, Tensor]
"""``(h, c)``: ``h (layers*D, N, H_out)`` and ``c (layers*D, N, H)``."""


class LSTM1(nn.Module):
    """Logits (or predicted values) from the final hidden state of an LSTM.

    ``x -> scale -> nn.LSTM -> h_n -> ReLU -> Linear(., 128) -> ReLU -> Linear(128,
    num_classes) -> scale``

    The parameters are named ``lstm.*``, ``fc_1.*`` and ``fc.*``. ``set_scales`` adds
    the normalization as buffers. With ``D = 2`` if bidirectional else 1 and
    ``H_out = proj_size or hidden_size``, the head reads

    * ``readout="stacked"``: ``h_n.view(-1, H_out)``, the final hidden state of every
      layer and direction. ``logits (layers*D*N, num_classes)``: row ``k*N + n`` belongs
      to sample ``n`` and to the ``k``-th state.
    * ``readout="last"``: the top layer only, both directions next to each other
      (forward first). ``logits (N, num_classes)``. For one layer and one direction it
      equals ``"stacked"``.

    Args:
        num_classes: width of the output: classes, or values to predict.
        input_size: features per time step (``I``).
        hidden_size: width of the cell state (``H``).
        num_layers: number of LSTM layers.
        seq_length: time steps of a training window; kept as information.
        readout: ``"stacked"`` or ``"last"``.
        added: for each value, the index of the feature whose current value is added to
            the output, so that the network predicts the difference (only with
            ``readout="last"``); empty for none.
        device: device of the parameters.
        dtype: dtype of the parameters.
        options: of ``nn.LSTM``: ``bias``, ``dropout``, ``bidirectional`` and
            ``proj_size``.

    Raises:
        InputError: a size is below 1, or ``readout`` or ``added`` does not fit.
    """

    def __init__(
        self,
        num_classes: int,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        seq_length: int,
        *,
        readout: Literal["stacked", "last"] = "stacked",
        added: Sequence[int] = (),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Any,
    ) -> None:
        """Build the layers; ``added`` are the inputs whose current values are added to
        the outputs.
        """
        super().__init__()
        if readout not in ("stacked", "last"):
            raise InputError(f"readout is {readout!r}, expected stacked or last")
        if min(num_classes, input_size) < 1:
            raise InputError(
                f"num_classes is {num_classes}, input_size {input_size}; expected at"
                " least 1"
            )
        has_indices = len(added) == num_classes and set(added) <= {*range(input_size)}
        fits = readout == "last" and has_indices
        if added and not fits:
            raise InputError(
                f"added is {tuple(added)}, expected {num_classes} indices below"
                f" {input_size} and readout last"
            )
        factory: Any = {"device": device, "dtype": dtype}
        self.num_classes = num_classes
        self.seq_length = seq_length
        self.readout = readout
        self.lstm = nn.LSTM(
            input_size, hidden_size, num_layers, batch_first=True, **options, **factory
        )
        self._directions = 2 if self.lstm.bidirectional else 1
        width = self.lstm.proj_size or hidden_size
        self._row_width = width * self._directions if readout == "last" else width
        self.fc_1 = nn.Linear(self._row_width, 128, **factory)
        self.fc = nn.Linear(128, num_classes, **factory)
        self.added = tuple(added)
        self.added_columns: Tensor
        self.x_mean: Tensor | None
        self.x_std: Tensor | None
        self.y_mean: Tensor | None
        self.y_std: Tensor | None
        for name in ("x_mean", "x_std", "y_mean", "y_std"):
            self.register_buffer(name, None)
        columns = torch.eye(input_size, **factory)[:, list(added)] if added else None
        self.register_buffer("added_columns", columns, persistent=False)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments that the parameters' shapes don't show, as plain
        values.
        """
        return {
            "seq_length": self.seq_length,
            "readout": self.readout,
            "added": self.added,
            "dropout": self.lstm.dropout,
        }

    def forward(
        self,
        x: Tensor,
        h_0: Tensor | None = None,
        c_0: Tensor | None = None,
        lengths: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Return the logits, or values in their own units; with states also those after
        the last valid step.

        Args:
            x: raw features ``(N, L, I)``.
            h_0: initial hidden state ``(layers*D, N, H_out)``; None for zeros.
            c_0: initial cell state ``(layers*D, N, H)``.
            lengths: int64 ``(N,)``, number of valid steps of each row, 1 to ``L``; by
                default ``L``.

        Returns:
            Without states ``logits``; with states, which is the exported form,
            ``(logits, h_n, c_n)``.

        Raises:
            InputError: only one of the two states, or ``lengths`` that don't fit ``x``.
        """
        state = None
        if h_0 is not None and c_0 is not None:
            state = (h_0, c_0)
        elif h_0 is not None or c_0 is not None:
            got, missing = ("h_0", "c_0") if c_0 is None else ("c_0", "h_0")
            raise InputError(f"got {got} without {missing}; pass both states, or none")
        _, (h_n, c_n) = self.lstm(self._inputs(x, lengths), state)
        rows = h_n if self.readout == "stacked" else h_n[-self._directions :]
        if self.readout == "last" and self._directions == 2:
            rows = torch.cat([rows[0], rows[1]], dim=-1)
        current = None
        if self.added:
            current = x[:, -1]
            if lengths is not None:
                last = lengths.to(x.device) - 1
                indices = last[:, None, None].expand(-1, 1, x.shape[2])
                current = x.gather(1, indices)[:, 0]
        logits = self.outputs(rows.reshape(-1, self._row_width), current)
        return logits if state is None else (logits, h_n, c_n)

    def hidden_at(
        self,
        x: Tensor,
        steps: Tensor,
        state: HiddenAndCell | None = None,
        lengths: Tensor | None = None,
    ) -> tuple[Tensor, HiddenAndCell]:
        """Return the top layer's hidden state ``(N, K, H_out)`` after steps
        ``int64 (N, K)``, and the state.

        The other arguments are those of ``forward``. The network must not be
        bidirectional.
        """
        hidden, state_n = self.lstm(self._inputs(x, lengths), state)
        if lengths is None:
            rows = torch.arange(len(x))[:, None]
            return hidden[rows, steps], state_n
        first = hidden.batch_sizes.cumsum(0) - hidden.batch_sizes
        last_steps = lengths.cpu()[:, None] - 1
        steps = torch.minimum(steps.cpu(), last_steps)
        rows = hidden.unsorted_indices.cpu()[:, None]
        return hidden.data[first[steps] + rows], state_n

    def outputs(self, hidden: Tensor, x: Tensor | None = None) -> Tensor:
        """Return logits or values in their own units from hidden states
        ``(..., H_out)``.

        A network that predicts differences also takes the raw features ``x (..., I)``
        of the same steps.
        """
        features = torch.relu(self.fc_1(torch.relu(hidden)))
        values: Tensor = self.fc(features)
        if self.y_mean is not None and self.y_std is not None:
            values = values * self.y_std + self.y_mean
        if self.added and x is not None:
            values = values + self.now(x)
        return values

    def now(self, x: Tensor) -> Tensor:
        """Return the current values ``(..., C)`` of the forecast features, from raw
        features ``(..., I)``.
        """
        return x @ self.added_columns

    def set_scales(
        self,
        x: tuple[Tensor, Tensor] | None = None,
        y: tuple[Tensor, Tensor] | None = None,
    ) -> "LSTM1":
        """Set the given parts of the normalization, and return the network.

        Features are normalized with the mean and standard deviation ``x``, each
        ``(I,)``; values are restored with those of ``y``, each ``(C,)``. Raises
        InputError for a scale of another width, not finite, or a standard deviation
        that is not positive.
        """
        if x is not None:
            _check_scale("x", x, self.lstm.input_size)
        if y is not None:
            _check_scale("y", y, self.num_classes)
        if x is not None:
            self.x_mean = x[0].to(self.fc.weight)
            self.x_std = x[1].to(self.fc.weight)
        if y is not None:
            self.y_mean = y[0].to(self.fc.weight)
            self.y_std = y[1].to(self.fc.weight)
        return self

    def _inputs(self, x: Tensor, lengths: Tensor | None) -> Tensor | PackedSequence:
        """Return the normalized features, packed if there are lengths."""
        inputs = x
        if self.x_mean is not None and self.x_std is not None:
            inputs = (x - self.x_mean) / self.x_std
        if lengths is None:
            return inputs
        if not torch.compiler.is_compiling():
            _check_lengths(x, lengths)
        return pack_padded_sequence(
            inputs, lengths.cpu(), batch_first=True, enforce_sorted=False
        )


def _check_lengths(x: Tensor, lengths: Tensor) -> None:
    """Raise InputError for lengths with which packing would read past the end of ``x``,
    or drop rows.
    """
    fits = x.dim() == 3 and lengths.shape == x.shape[:1]
    if fits and not lengths.is_floating_point():
        is_valid = (lengths > 0) & (lengths <= x.shape[1])
        if is_valid.all():
            return
    raise InputError(
        f"lengths is {lengths.tolist()}, expected int64 (N,) of 1 to {x.shape[1]}"
    )


def _check_scale(name: str, scale: tuple[Tensor, Tensor], width: int) -> None:
    """Raise InputError for a mean or a standard deviation that can't be used."""
    mean, std = scale
    if mean.shape != (width,) or not mean.isfinite().all():
        raise InputError(
            f"the mean of {name} is {mean.tolist()}, expected {width} finite numbers"
        )
    is_positive = std.isfinite() & (std > 0)
    if std.shape != (width,) or not is_positive.all():
        raise InputError(
            f"the std of {name} is {std.tolist()}, expected {width} finite numbers,"
            " all positive"
        )


def fit_scale(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation, float64 ``(columns,)``, of the rows of
    ``(rows, columns)``.

    A column that varies by no more than float32's rounding has a deviation of 1:
    dividing by noise would blow up the first sample that differs.
    """
    std, mean = torch.std_mean(columns.double(), dim=0, correction=0)
    info = torch.finfo(torch.float32)
    rounding = (info.eps * mean.abs()).clamp(min=info.tiny)
    return mean, torch.where(std > rounding, std, 1.0)
