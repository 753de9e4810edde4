"""Recurrent calls as one node each, while ``torch.export`` runs ``forward``, and
packing as padded data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._torch_internals import PACK, PAD_PACKED, assume, watch_text
from .advice import line_of_frame
from .loops import Loops
from .part_writes import Parts
from .replaced import REPLACED

DOMAIN = "lstm_edge"
OP = "Recurrent"
"""``(x (L,N,I), h_0 (layers*D,N,P), c_0 (layers*D,N,H) or none, lengths (N,) or none,
*weights)`` -> ``(y (L,N,D*P), h_n,
c_n)``, P the projection or H; weights in PyTorch's order and layout."""


_LAYERS = {
    "lstm": ("LSTM", ""),
    "gru": ("GRU", ""),
    "rnn_tanh": ("RNN", "Tanh"),
    "rnn_relu": ("RNN", "Relu"),
}
_FUNCTIONS = {getattr(torch, name): kind for name, kind in _LAYERS.items()}
_CELLS = {getattr(torch, f"{name}_cell"): kind for name, kind in _LAYERS.items()}
"""Operator and activation of PyTorch's recurrent functions."""


@dataclass(frozen=True)
class RecurrentCall:
    """One call of the recurrent layer or cell at ``path``; its sizes are traced, or
    axes.
    """

    path: str
    """Name of the layer in the module."""
    cell: bool
    """True for a cell, which takes one step."""
    steps: Any
    """Number of steps."""
    rows: Any
    """Batch size."""
    lengths: bool
    """True if the rows are packed sequences."""


class _Packing:
    """``PackedSequence`` as padded data ``(N*L, ...)``: ONNX's ``sequence_lens`` needs
    no sorting.
    """

    def __init__(self) -> None:
        self._meanings: list[tuple[Any, Any]] = []
        self.longest: list[Any] = []
        """Sizes that are the greatest length of a batch."""

    def note(self, value: Any, meaning: Any) -> Any:
        """Mark ``value``, by identity, with its meaning, and return it."""
        self._meanings.append((value, meaning))
        return value

    def meaning(self, value: Any) -> Any:
        """Return what ``value`` was marked with, else None."""
        return next(
            (meaning for noted, meaning in self._meanings if noted is value), None
        )

    def sort(self, lengths: Tensor, *_: Any, **__: Any) -> Any:
        """Leave lengths in their order; any other sort of whole numbers fails the
        verification.
        """
        if lengths.dim() != 1 or lengths.is_floating_point():
            return NotImplemented
        return lengths, self.note(torch.arange(lengths.shape[0]), "identity")

    def pack(
        self, x: Tensor, lengths: Tensor, batch_first: bool
    ) -> tuple[Tensor, Tensor]:
        """Return data ``(N*L, ...)`` and a marked tensor in place of
        ``batch_sizes``.
        """
        rows = x if batch_first else x.transpose(0, 1)
        assume(lengths.shape[0] == rows.shape[0])
        sizes = (lengths.unsqueeze(0) > torch.arange(rows.shape[1]).unsqueeze(1)).sum(1)
        self.note(sizes, (lengths, rows.shape[0], rows.shape[1]))
        return rows.flatten(0, 1), sizes

    def pad(
        self, data: Tensor, sizes: Tensor, batch_first: bool, value: float, total: Any
    ) -> Any:
        """Return ``(N, total, ...)`` with ``value`` after each row's length, and the
        lengths.
        """
        lengths, rows, steps = self.meaning(sizes)
        y = data.reshape(rows, steps, *data.shape[1:])
        valid = torch.arange(steps).unsqueeze(0) < lengths.unsqueeze(1)
        y = torch.where(valid.reshape(rows, steps, *[1] * (y.dim() - 2)), y, value)
        if self.meaning(total) == "longest":
            longest: Any = lengths.max().item()
            self.longest.append(longest)
            assume(longest >= 1)
            assume(longest <= steps)
            y = y.narrow(1, 0, longest)
        elif total is not steps:
            y = F.pad(y, [*[0, 0] * (y.dim() - 2), 0, total - steps], value=value)
        return (y if batch_first else y.transpose(0, 1)), lengths

    def size(self, tensor: Tensor, *axis: Any) -> Any:
        """Answer ``batch_sizes.size(0)``, the greatest length, with the padded length,
        marked as that.
        """
        meaning = (
            self.meaning(tensor) if axis else None
        )  # a product is an object of its own
        return (
            self.note(meaning[2] * 1, "longest")
            if isinstance(meaning, tuple)
            else NotImplemented
        )

    def item(self, tensor: Tensor, index: Any) -> Any:
        """Answer ``batch_sizes[0]``, the batch size, and ``lengths[unsorted]``."""
        if self.meaning(index) == "identity":
            return tensor
        meaning = self.meaning(tensor) if type(index) is int and index == 0 else None
        return meaning[1] if isinstance(meaning, tuple) else NotImplemented

    def permute(self, tensor: Tensor, *args: Any, **_: Any) -> Any:
        """Leave the identity as it is, copied or inverted, and a tensor that is
        permuted by it.
        """
        marked = (
            self.meaning(arg) == "identity"
            for arg in (tensor, *args)
            if isinstance(arg, Tensor)
        )
        return tensor if any(marked) else NotImplemented


_ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.sort: _Packing.sort,
    PACK: _Packing.pack,
    PAD_PACKED: _Packing.pad,
    Tensor.size: _Packing.size,
    Tensor.__getitem__: _Packing.item,
    **dict.fromkeys(
        (Tensor.index_select, Tensor.to, Tensor.cpu, torch.empty_like, Tensor.scatter_),
        _Packing.permute,
    ),
}
"""Answers to the functions of packing; NotImplemented passes a call on."""


class Recorder(TorchFunctionMode):
    """The function mode of one trace."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[RecurrentCall] = []
        self.shapes: list[torch.Size] = []
        """Shapes of the inputs as traced."""
        self.outputs: list[tuple[str, torch.Size]] = []
        """Names of the module for its outputs, and their shapes as traced."""
        self.texts: dict[str, None] = {}
        """The user's lines that turn a size into text."""
        self.loops = Loops()
        self._parts = Parts()
        self._path = ""
        self._packing = _Packing()

    @property
    def longest(self) -> list[Any]:
        """Sizes that are the greatest length of a batch, as traced."""
        return self._packing.longest

    def instrument(self, module: nn.Module) -> None:
        """Let the recurrent layers of ``module``, a copy that is ours, tell their
        paths.
        """
        for path, layer in module.named_modules():
            if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
                layer.register_forward_pre_hook(
                    lambda *_, path=path: setattr(self, "_path", path)
                )
                layer.register_forward_hook(lambda *_: setattr(self, "_path", ""))
            if isinstance(layer, nn.RNNBase):
                # packed data has another shape here; the node checks its own
                layer.check_forward_args = lambda *_, **__: None  # type: ignore[method-assign]

    def begin(self, shapes: Sequence[torch.Size]) -> None:
        """Forget an earlier run of ``forward``; tracing may run it more than once."""
        self.calls.clear()
        self.loops.begin()
        self._parts.begin()
        self.outputs.clear()
        self.shapes[:] = shapes
        self.texts.clear()
        for size in (size for shape in shapes for size in shape):
            watch_text(size, self._write_text)

    def _write_text(self, frame: FrameType) -> None:
        """Note a line of the user that turns a size into text."""
        if line := line_of_frame(frame):
            self.texts[line] = None

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Answer the functions of loops, recurrence and packing; pass every other one
        on.
        """
        kwargs = kwargs or {}
        result = self.loops.call(func, args, kwargs)
        if result is NotImplemented:
            args, kwargs = self.loops.with_numbers((args, kwargs))
            result = self._change_or_answer(func, args, kwargs)
        self.loops.tag(result)
        return result

    def _change_or_answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Change a part of a tensor in place, or return the result of a function."""
        if self._parts.changes(func, args, kwargs):
            return self._parts.change(partial(self._answer, func), args, kwargs)
        result = self._answer(func, args, kwargs)
        self._parts.note(func, args, kwargs, result)
        return result

    def _answer(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Return the result of a recorded function; NotImplemented for any other."""
        if func in _FUNCTIONS:
            return self._layer(_FUNCTIONS[func], *args)
        if func in _CELLS:
            return self._cell(_CELLS[func], *args)
        if (replaced := REPLACED.get(func)) is not None:
            return replaced(*args, **kwargs)
        if (answer := _ANSWERS.get(func)) is not None:
            result = answer(self._packing, *args, **kwargs)
            if result is not NotImplemented:
                return result
        return func(*args, **kwargs)

    def _layer(
        self, kind: tuple[str, str], x: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        """Return the results of ``nn.LSTM``, ``nn.GRU`` or ``nn.RNN`` from a recorded
        node.
        """
        packed = self._packing.meaning(rest[0]) if isinstance(rest[0], Tensor) else None
        lengths = None
        batch_first = False
        if packed is not None:
            lengths, rows, steps = packed
            _, hx, weights, biased, layers, _, _, both = rest
            x = x.reshape(rows, steps, x.shape[-1])
        else:
            hx, weights, biased, layers, _, _, both, batch_first = rest
        by_row = batch_first or packed is not None
        options = {
            "layers": layers,
            "directions": 2 if both else 1,
            "biased": int(biased),
        }
        states = hx if kind[0] == "LSTM" else (hx,)
        y, *states = self._node(
            kind,
            x.transpose(0, 1) if by_row else x,
            states=states,
            lengths=lengths,
            weights=weights,
            options=options,
        )
        y = y.transpose(0, 1) if by_row else y
        return (y if packed is None else y.flatten(0, 1), *states)

    def _cell(
        self, kind: tuple[str, str], x: Tensor, hx: Any, *weights: Tensor | None
    ) -> Any:
        """Return the new states of a cell from a recorded node of one step."""
        present = [weight for weight in weights if weight is not None]
        options = {"layers": 1, "directions": 1, "biased": int(len(present) == 4)}
        states = [state.unsqueeze(0) for state in (hx if kind[0] == "LSTM" else (hx,))]
        _, *last = self._node(
            kind,
            x.unsqueeze(0),
            states=states,
            lengths=None,
            weights=present,
            options=options,
            cell=True,
        )
        return (
            tuple(state.squeeze(0) for state in last)
            if kind[0] == "LSTM"
            else last[0].squeeze(0)
        )

    def _node(
        self,
        kind: tuple[str, str],
        x: Tensor,
        states: Sequence[Tensor],
        lengths: Tensor | None,
        weights: Sequence[Tensor],
        options: Mapping[str, int],
        *,
        cell: bool = False,
    ) -> Sequence[Tensor]:
        """Add the symbolic node of a recurrent call; return its output and last states."""
        assume(x.shape[2] == weights[0].shape[1])
        entries = options["layers"] * options["directions"]
        steps, rows = x.shape[:2]
        widths = (weights[1].shape[1], weights[0].shape[0] // 4)
        for state, width in zip(states, widths, strict=False):
            for size, expected in zip(state.shape, (entries, rows, width), strict=True):
                assume(size == expected)
        op, activation = kind
        named: dict[str, Any] = {
            "op": op,
            "activation": activation,
            "path": self._path,
            "call": len(self.calls),
        }
        self.calls.append(
            RecurrentCall(
                path=self._path,
                cell=cell,
                steps=steps,
                rows=rows,
                lengths=lengths is not None,
            )
        )
        shapes = [
            [steps, rows, states[0].shape[-1] * options["directions"]],
            *(x.shape for x in states),
        ]
        inputs = [x, *states, *[None] * (2 - len(states)), lengths, *weights]
        dtypes = [x.dtype] * len(shapes)
        return torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{OP}",
            inputs,
            {**named, **options},
            dtypes=dtypes,
            shapes=shapes,
            version=1,
        )
