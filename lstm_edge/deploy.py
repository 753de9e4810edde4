"""A trained run as a device sees it: raw sensor units in, explicit states in and out."""

import copy

import torch
from torch import Tensor, nn

from lstm_edge_exporters.export.config import ExportConfig

from .checkpoint import Run, Scale
from .lstm1 import LSTM1

_EXAMPLE_ROWS, _EXAMPLE_STEPS = 3, 5


class _Scaling(nn.Module):
    """A scale as buffers, so that it follows the module it is in."""

    def __init__(self, scale: Scale, dtype: torch.dtype) -> None:
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(scale.mean, dtype=dtype))
        self.std = nn.Buffer(torch.tensor(scale.std, dtype=dtype))


class Deployed(nn.Module):
    """LSTM1 between its scales, batch first: ``forward(x, h_0, c_0[, lengths]) -> logits, h_n, c_n``.

    Args:
        model: the network; used without a copy.
        inputs: scale of the features; None for unscaled ``x``.
        targets: scale of the predicted values; None leaves the logits as they are.
        added: by predicted value, the place of the feature whose last valid value is added to it.
    """

    def __init__(
        self, model: LSTM1, inputs: Scale | None, targets: Scale | None, added: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.model = model
        dtype = model.fc.weight.dtype
        self.inputs = None if inputs is None else _Scaling(inputs, dtype)
        self.targets = None if targets is None else _Scaling(targets, dtype)
        width = model.lstm.input_size
        self.added = nn.Buffer(torch.eye(width, dtype=dtype)[:, list(added)]) if added else None

    def forward(
        self, x: Tensor, h_0: Tensor, c_0: Tensor, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (or predicted values in their own units) and the new state.

        Args:
            x: ``(N, L, I)`` in raw sensor units.
            h_0: ``(layers*D, N, H_out)``.
            c_0: ``(layers*D, N, H)``.
            lengths: int64 ``(N,)``, valid steps of each row.
        """
        raw = x
        if self.inputs is not None:
            x = (x - self.inputs.mean) / self.inputs.std
        if not self.model.lstm.batch_first:
            x = x.transpose(0, 1)
        logits, (h_n, c_n) = self.model.forward_with_state(x, (h_0, c_0), lengths)
        if self.targets is not None:
            logits = logits * self.targets.std + self.targets.mean
        if self.added is not None:
            logits = logits + _last(raw, lengths) @ self.added
        return logits, h_n, c_n


def _last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the last valid step ``(N, I)`` of each row."""
    if lengths is None:
        return x[:, -1]
    places = (lengths - 1)[:, None, None].expand(-1, 1, x.shape[2])
    return x.gather(1, places)[:, 0]


def deployable(run: Run, *, lengths: bool = False) -> tuple[Deployed, tuple[Tensor, ...], ExportConfig]:
    """Return the arguments of ``export`` for ``run``.

    Args:
        run: a trained run or a loaded checkpoint.
        lengths: whether the file has the input ``lengths``, for batches of sequences of different length.

    Returns:
        The module in evaluation mode; an example ``(x, h_0, c_0[, lengths])`` of 3 sequences of 5 steps in
        the data's own scale; and the configuration: axes, states, the task, the signal and the
        checkpoint's hash.
    """
    model, lstm = run.model, run.model.lstm
    directions = 2 if lstm.bidirectional else 1
    layers, width = lstm.num_layers * directions, lstm.proj_size or lstm.hidden_size
    dtype = model.fc.weight.dtype
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_EXAMPLE_ROWS, _EXAMPLE_STEPS, lstm.input_size, generator=generator, dtype=dtype)
    if run.inputs is not None:
        scaling = _Scaling(run.inputs, dtype)
        x = x * scaling.std + scaling.mean
    example: tuple[Tensor, ...] = (
        x,
        torch.zeros(layers, _EXAMPLE_ROWS, width, dtype=dtype),
        torch.zeros(layers, _EXAMPLE_ROWS, lstm.hidden_size, dtype=dtype),
    )
    if lengths:
        example += (torch.tensor([2, 5, 3]),)
    config = ExportConfig(
        inputs={
            "x": ("N", "L", lstm.input_size),
            "h_0": (layers, "N", width),
            "c_0": (layers, "N", lstm.hidden_size),
            **({"lengths": ("N",)} if lengths else {}),
        },
        outputs=("logits", "h_n", "c_n"),
        states={"h_0": "h_n", "c_0": "c_n"},
        lengths="lengths" if lengths else None,
        task=run.task,
        signal=run.signal,
        trained=run.trained,
        checkpoint_sha256=run.sha256 or None,
    )
    return Deployed(copy.deepcopy(model), run.inputs, run.targets, run.added).eval(), example, config
