"""Recording a trace: every recurrent call becomes one ``lstm_edge::Recurrent`` node.

A ``Recorder`` is entered inside ``forward`` while ``torch.export`` runs it on fake tensors. It answers the
functions that ``nn.LSTM/GRU/RNN`` and their cells call (``torch.lstm``, ``torch.gru`` ...) with a symbolic
node that keeps the layer's own weights, so that subclasses and functional calls are caught as well.

A ``PackedSequence`` is given padded data ``(N*L, ...)`` in place of packed data; its ``batch_sizes``, true
but for zeros behind the longest row, stand for the lengths. ONNX's ``sequence_lens`` needs no sorting, so the
sort inside ``pack_padded_sequence(enforce_sorted=False)`` is answered with the identity.
"""

import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.utils import rnn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lstm_edge_runtime.errors import UnsupportedError

from ..recurrent import GATES
from .sizes import size_text
from .source import Place, calling_line, place_of, value_that_holds

DOMAIN = "lstm_edge"
OP = "Recurrent"
"""``(x (L,N,I), h_0 (layers*D,N,P), c_0 (layers*D,N,H) or none, lengths (N,) or none, *weights)`` ->
``(y (L,N,D*P), h_n, c_n)``, P the projection or H; weights in PyTorch's order and layout."""


LOG_CUM_SUM_EXP = "LogCumSumExp"
"""``x`` to sums of the same shape along ``axis``."""


class _Function(NamedTuple):
    """What a recurrent function of PyTorch computes."""

    op: str
    """ONNX's operator."""
    activation: str = ""
    """Of an RNN."""
    cell: bool = False
    """Whether it takes one step."""


_FUNCTIONS: dict[Any, _Function] = {
    torch.lstm: _Function("LSTM"),
    torch.gru: _Function("GRU"),
    torch.rnn_tanh: _Function("RNN", "Tanh"),
    torch.rnn_relu: _Function("RNN", "Relu"),
    torch.lstm_cell: _Function("LSTM", cell=True),
    torch.gru_cell: _Function("GRU", cell=True),
    torch.rnn_tanh_cell: _Function("RNN", "Tanh", cell=True),
    torch.rnn_relu_cell: _Function("RNN", "Relu", cell=True),
}
"""What ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells call."""


class LoopError(UnsupportedError):
    """A loop over time would be unrolled."""

    def __init__(self, text: str, steps: int) -> None:
        super().__init__(text)
        self.steps = steps
        """How often the layer is called."""


@dataclass(frozen=True)
class RecurrentCall:
    """One call of one recurrent layer or cell."""

    path: str
    """The submodule's path, ``""`` for a functional call."""
    number: int
    """How many calls of the same path came before."""
    layers: int
    cell: bool
    shape: tuple[Any, ...]
    """``(L, N, I)`` of its input as traced."""
    line: str
    """The module's own line that calls it."""


@dataclass(frozen=True)
class _Packed:
    """What the ``batch_sizes`` of a ``PackedSequence`` stand for."""

    batch_sizes: Tensor
    lengths: Tensor
    batch: Any


class _Packing:
    """Answers what ``pack_padded_sequence`` and ``pad_packed_sequence`` ask of torch, in one trace."""

    def __init__(self) -> None:
        self._packed: list[_Packed] = []
        self._identities: list[Tensor] = []
        self._flattened: list[tuple[Tensor, Tensor, bool]] = []

    def answer(self, func: Callable[..., Any], args: Sequence[Any], depth: int) -> Any:
        """Answer ``func``, which the frame ``depth`` above this one calls; NotImplemented passes it on.

        Raises:
            UnsupportedError: lengths come as a list.
        """
        caller = sys._getframe(depth + 1)
        if (answers := _PACKING.get(func)) is not None:
            return answers(self, caller, *args)
        if func in _ON_IDENTITY and any(map(self._is_identity, args)):
            return _ON_IDENTITY[func](*args)
        return NotImplemented

    def _sort(self, caller: FrameType, lengths: Tensor, *_: Any) -> Any:
        packs = caller.f_code is rnn.pack_padded_sequence.__code__
        return (lengths, self._identity(lengths)) if packs else NotImplemented

    def _as_tensor(self, caller: FrameType, *_: Any) -> Any:
        if caller.f_code is rnn.pack_padded_sequence.__code__:
            raise UnsupportedError(
                "pack_padded_sequence is given a list of lengths, which a file would hold as constants; "
                "give it the tensor of lengths itself, without tolist()"
            )
        return NotImplemented

    def _size(self, caller: FrameType, tensor: Tensor, *_: Any) -> Any:
        packed = self.find(tensor) if caller.f_code is rnn.pad_packed_sequence.__code__ else None
        if packed is None or caller.f_locals["total_length"] is not None:
            return NotImplemented
        return _longest(packed.lengths, tensor.shape[0])

    def _item(self, _: FrameType, tensor: Tensor, index: Any) -> Any:
        packed = self.find(tensor) if type(index) is int and index == 0 else None
        return packed.batch if packed else NotImplemented

    def find(self, batch_sizes: Any) -> _Packed | None:
        """Return what ``batch_sizes`` stand for; None where they are of no packed sequence."""
        return next((packed for packed in self._packed if packed.batch_sizes is batch_sizes), None)

    def flatten(self, rows: Tensor, *, zero_padded: bool) -> Tensor:
        """Return ``(N*L, ...)`` and remember the ``(N, L, ...)`` it came from."""
        flat = rows.flatten(0, 1)
        self._flattened.append((flat, rows, zero_padded))
        return flat

    def unflatten(self, flat: Tensor, packed: _Packed) -> tuple[Tensor, bool]:
        """Return ``(N, L, ...)``, and whether it is known to be zero behind each row's length."""
        for known, rows, zero_padded in self._flattened:
            if known is flat:
                return rows, zero_padded
        return flat.reshape(packed.batch, -1, *flat.shape[1:]), False

    def _identity(self, lengths: Tensor) -> Tensor:
        marker = torch.arange(lengths.shape[0], device=lengths.device)
        self._identities.append(marker)
        return marker

    def _is_identity(self, value: Any) -> bool:
        return any(value is marker for marker in self._identities)

    def _pack(self, _: FrameType, x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        rows = x if batch_first else x.transpose(0, 1)
        _assume(lengths.shape[0] == rows.shape[0])
        steps = torch.arange(rows.shape[1], device=lengths.device)
        batch_sizes = (lengths.unsqueeze(0) > steps.unsqueeze(1)).sum(1)
        self._packed.append(_Packed(batch_sizes, lengths, rows.shape[0]))
        return self.flatten(rows, zero_padded=False), batch_sizes

    def _pad(
        self,
        caller: FrameType,
        data: Tensor,
        batch_sizes: Tensor,
        batch_first: bool,
        value: float,
        total: Any,
    ) -> tuple[Tensor, Tensor]:
        packed = self.find(batch_sizes)
        if packed is None:
            raise TypeError("pad_packed_sequence was given a sequence that pack_padded_sequence did not make")
        y, zero_padded = self.unflatten(data, packed)
        if value != 0 or not zero_padded:
            steps = torch.arange(y.shape[1], device=data.device)
            valid = steps.unsqueeze(0) < packed.lengths.unsqueeze(1)
            y = torch.where(valid.reshape(*valid.shape, *[1] * (y.dim() - 2)), y, value)
        if caller.f_locals.get("total_length", 0) is None:
            y = y.narrow(1, 0, total)
        elif not statically_known_true(total == y.shape[1]):
            room = [*[0, 0] * (y.dim() - 2), 0, total - y.shape[1]]
            y = torch.nn.functional.pad(y, room, value=value)
        return (y if batch_first else y.transpose(0, 1)), packed.lengths


class Recorder(TorchFunctionMode):
    """The function mode; one for one trace."""

    def __init__(self) -> None:
        super().__init__()
        self._path = ""
        self.calls: list[RecurrentCall] = []
        """Every recurrent call, in order."""
        self.shapes: list[torch.Size] = []
        """The inputs' shapes as traced."""
        self.outputs: list[str] = []
        """What the module calls its outputs."""
        self.returned: list[torch.Size] = []
        """The outputs' shapes as traced."""
        self.seen: dict[str, str] = {}
        """``sampling``, ``complex``, ``list``, ``numpy`` where ``forward`` does such, with the line."""
        self.unbound: dict[str, str] = {}
        """Sizes as traced of axes that were taken apart, and the line that did it."""
        self.fixed: dict[str, str] = {}
        """Sizes as traced that turned out to be constants, and the line that made them."""
        self.squeezed: dict[str, str] = {}
        """Sizes as traced of axes that are dropped where they are 1, and the line that does it."""
        self.checked: dict[str, None] = {}
        """Lines that check values, and were taken to hold."""
        self._free: list[torch.SymInt] = []
        self._packing = _Packing()

    def begin(self, shapes: Sequence[torch.Size]) -> None:
        """Forget an earlier run of ``forward``; tracing may run it more than once."""
        for each in (self.calls, self.outputs, self.returned):
            each.clear()
        for noted in (self.seen, self.unbound, self.fixed, self.squeezed, self.checked):
            noted.clear()
        self.shapes[:] = shapes
        sizes: list[Any] = [size for shape in shapes for size in shape]
        self._free = [size for size in sizes if isinstance(size, torch.SymInt)]

    def fixed_places(self, names: Sequence[str]) -> dict[tuple[str, int], Place]:
        """Return the axes of the inputs called ``names`` that the module's code fixes, and where."""
        found: dict[tuple[str, int], Place] = {}
        for name, axis, size in self.sizes(names):
            if isinstance(size, torch.SymInt) and size_text(size).isdecimal():
                symbol = str(size.node._expr)
                line = self.unbound.get(symbol)
                place = Place(line, loop=True) if line else place_of(size)
                found[name, axis] = place or Place(self.fixed.get(symbol, ""), loop=False)
        return found

    def sizes(self, names: Iterable[str]) -> Iterator[tuple[str, int, Any]]:
        """Yield name, axis and traced size of every axis of the inputs, which are called ``names``."""
        for name, shape in zip(names, self.shapes, strict=True):
            for axis, size in enumerate(shape):
                yield name, axis, size

    def check_calls(self, names: Sequence[str]) -> None:
        """Refuse a cell in a loop over an axis of the inputs called ``names``, which would be unrolled.

        A loop of a length of its own, such as that of a decoder, is as long in the file.

        Raises:
            LoopError: a cell is called more than once, and an axis was fixed by a loop or at as many steps.
        """
        calls = Counter(call.path for call in self.calls if call.cell)
        lines = {call.path: call.line for call in self.calls}
        for path, count in calls.items():
            if count > 1 and self._loops_over_an_axis(names, count):
                raise LoopError(
                    f"cell {path!r} is called {count} times in one forward ({lines[path]}): a loop over time "
                    "would be unrolled at that length; use nn.LSTM, nn.GRU or nn.RNN with the same weights "
                    "instead",
                    count,
                )

    def _loops_over_an_axis(self, names: Sequence[str], count: int) -> bool:
        """Return whether a loop fixed an axis: one of features, the last, may have ``count`` by chance."""
        shapes = dict(zip(names, self.shapes, strict=True))
        return any(
            place.loop or (size_text(shapes[name][axis]) == str(count) and axis < len(shapes[name]) - 1)
            for (name, axis), place in self.fixed_places(names).items()
        )

    @contextmanager
    def layer(self, path: str) -> Iterator[None]:
        """Note which submodule the calls inside belong to."""
        before, self._path = self._path, path
        try:
            yield
        finally:
            self._path = before

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Answer the functions of recurrence and packing; pass every other one on."""
        result = self._answer(func, args, kwargs or {})
        for size in [size for size in self._free if size.node.expr.is_number]:
            self.fixed[str(size.node._expr)] = calling_line()
            self._free = [each for each in self._free if each is not size]
        return result

    def _answer(self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if (noted := _NOTED.get(func)) is not None:
            self.seen.setdefault(noted, calling_line())
        if func in _UNBINDS and isinstance(args[0], Tensor) and args[0].dim():
            size = args[0].shape[kwargs.get("dim", args[1] if len(args) > 1 else 0)]
            self.unbound.setdefault(str(size), calling_line())
        if func in _SQUEEZES:
            return self._squeeze(*args, **kwargs)
        if (answers := _ANSWERS.get(func)) is not None:
            return answers(*args, **kwargs)
        if func is Tensor.__bool__ and (holds := value_that_holds(sys._getframe(2))) is not None:
            self.checked[calling_line()] = None
            return holds
        if func is torch._assert and isinstance(args[0], Tensor):
            self.checked[calling_line()] = None
            return None
        if (kind := _FUNCTIONS.get(func)) is not None:
            return self._cell(kind, *args) if kind.cell else self._layer(kind, *args)
        answer = self._packing.answer(func, args, depth=2)
        if answer is not NotImplemented:
            return answer
        if func is Tensor.__getitem__:
            # torch.onnx mixes the int32 and int64 of one index up in a node that wants one dtype.
            return func(args[0], pytree.tree_map_only(Tensor, _as_index, args[1]))
        return func(*args, **kwargs)

    def _squeeze(self, input: Tensor, dim: Any = None) -> Tensor:  # noqa: A002  the name that callers use
        """Squeeze as PyTorch does, which leaves an axis of another size than 1 alone; ONNX refuses one."""
        x = input
        axes = range(x.dim()) if dim is None else dim if isinstance(dim, tuple | list) else (dim,)
        for axis in sorted({axis % max(x.dim(), 1) for axis in axes}, reverse=True):
            size: Any = x.shape[axis] if x.dim() else 0
            if isinstance(size, torch.SymInt) and not size.node.expr.is_number:
                self.squeezed.setdefault(str(size.node.expr), calling_line())
            if size == 1:
                x = torch.squeeze(x, axis)
        return x

    def _layer(self, kind: _Function, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        lengths, packed, batch_first = None, None, False
        if isinstance(rest[0], Tensor) and (packed := self._packing.find(rest[0])):
            _, hx, weights, biased, layers, _, _, bidirectional = rest
            x, lengths = self._packing.unflatten(x, packed)[0].transpose(0, 1), packed.lengths
        else:
            hx, weights, biased, layers, _, _, bidirectional, batch_first = rest
            x = x.transpose(0, 1) if batch_first else x
        y, *states = self._node(kind, x, hx, weights, biased, layers, bidirectional, lengths)
        if packed:
            y = self._packing.flatten(y.transpose(0, 1), zero_padded=True)
        elif batch_first:
            y = y.transpose(0, 1)
        return (y, *states)

    def _cell(self, kind: _Function, x: Tensor, hx: Any, *weights: Tensor | None) -> Any:
        state = tuple(part.unsqueeze(0) for part in (hx if kind.op == "LSTM" else (hx,)))
        present = [weight for weight in weights if weight is not None]
        hidden = state if kind.op == "LSTM" else state[0]
        _, *after = self._node(kind, x.unsqueeze(0), hidden, present, len(present) == 4, 1, False, None)
        after = [part.squeeze(0) for part in after]
        return tuple(after) if kind.op == "LSTM" else after[0]

    def _node(
        self,
        kind: _Function,
        x: Tensor,
        hx: Any,
        weights: Sequence[Tensor],
        biased: bool,
        layers: int,
        bidirectional: bool,
        lengths: Tensor | None,
    ) -> tuple[Tensor, ...]:
        h, c = hx if kind.op == "LSTM" else (hx, None)
        directions = 2 if bidirectional else 1
        w_ih, w_hh = weights[:2]
        _assume(x.shape[2] == w_ih.shape[1])
        for state, width in ((h, w_hh.shape[1]), (c, w_ih.shape[0] // len(GATES["LSTM"]))):
            if state is not None:
                for axis, size in enumerate((layers * directions, x.shape[1], width)):
                    _assume(state.shape[axis] == size)
        number = sum(each.path == self._path for each in self.calls)
        call = RecurrentCall(self._path, number, layers, kind.cell, tuple(x.shape), calling_line())
        self.calls.append(call)
        outputs = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{OP}",
            [x, h, c, lengths, *weights],
            {
                "op": kind.op,
                "activation": kind.activation,
                "layers": layers,
                "directions": directions,
                "biased": int(biased),
                "path": call.path,
                "call": call.number,
            },
            dtypes=[x.dtype] * 3,
            shapes=[
                [x.shape[0], x.shape[1], h.shape[-1] * directions],
                h.shape,
                c.shape if c is not None else [0],
            ],
            version=1,
        )
        return tuple(outputs if c is not None else outputs[:2])


def _arange(*args: Any, **kwargs: Any) -> Tensor:
    made = torch.arange(*args, **kwargs)
    if all(type(each) is int for each in args):
        made.tolist = lambda: list(range(*args))  # type: ignore[method-assign]
    return made


def _inverse_stft(*args: Any, **kwargs: Any) -> Tensor:
    from .inverse_stft import inverse_stft

    return inverse_stft(*args, **kwargs)


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Pool over one axis as over two: torch.export fixes the size of the axis that ``max_pool1d`` pools."""
    steps = [each[0] if isinstance(each, tuple | list) else each for each in (kernel_size, padding, dilation)]
    stride = stride[0] if isinstance(stride, tuple | list) and stride else stride or steps[0]
    kernel, pad, apart = steps
    pool: Any = F.max_pool2d
    pooled = pool(x.unsqueeze(-1), (kernel, 1), (stride, 1), (pad, 0), (apart, 1), ceil_mode, return_indices)
    return tuple(each.squeeze(-1) for each in pooled) if return_indices else pooled.squeeze(-1)


def _log_cum_sum_exp(x: Tensor, dim: int) -> Tensor:
    name, axis = f"{DOMAIN}::{LOG_CUM_SUM_EXP}", dim % max(x.dim(), 1)
    return torch.onnx.ops.symbolic(name, [x], {"axis": axis}, dtype=x.dtype, shape=x.shape, version=1)


def _as_index(tensor: Tensor) -> Tensor:
    return tensor.long() if tensor.dtype == torch.int32 else tensor


def instrument(module: nn.Module, recorder: Recorder) -> None:
    """Make the recurrent layers of ``module`` (a copy that is ours) tell ``recorder`` their paths."""
    for path, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
            layer.__class__ = _recorded(type(layer))
            layer.__dict__["_lstm_edge"] = (recorder, path)


def _recorded(kind: type[nn.Module]) -> type:
    """Return a subclass of ``kind`` whose ``forward`` tells the layer's recorder its path.

    It has ``kind`` as its only base: Python lets no object change to a class of another layout.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder, path = self.__dict__["_lstm_edge"]
        with recorder.layer(path):
            return kind.forward(self, *args, **kwargs)

    def check_forward_args(self: Any, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:  # noqa: A002
        """Check as PyTorch does, but for packed input, whose stand-in has another shape."""
        if batch_sizes is None:
            kind.check_forward_args(self, input, hidden, batch_sizes)  # type: ignore[attr-defined]

    methods: dict[str, Any] = {"forward": forward}
    if issubclass(kind, nn.RNNBase):
        methods["check_forward_args"] = check_forward_args
    return types.new_class(kind.__name__, (kind,), exec_body=lambda names: names.update(methods))


_PACKING: dict[Any, Callable[..., Any]] = {
    Tensor.__getitem__: _Packing._item,
    Tensor.size: _Packing._size,
    torch._VF._pack_padded_sequence: _Packing._pack,
    torch._VF._pad_packed_sequence: _Packing._pad,
    torch.as_tensor: _Packing._as_tensor,
    torch.sort: _Packing._sort,
}
"""Answers to PyTorch's packing, chosen by the frame that asks; NotImplemented calls PyTorch's own."""
_UNBINDS = frozenset({torch.unbind, Tensor.unbind, Tensor.__iter__})
_SQUEEZES = frozenset({torch.squeeze, Tensor.squeeze})
_MAX_POOLS = (F.max_pool1d, F.max_pool1d_with_indices, torch.max_pool1d, torch.max_pool1d_with_indices)
_ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.arange: _arange,
    **dict.fromkeys(_MAX_POOLS, _max_pool),
    **dict.fromkeys((torch.istft, Tensor.istft), _inverse_stft),
    **dict.fromkeys((torch.logcumsumexp, Tensor.logcumsumexp), _log_cum_sum_exp),
}
"""What is called instead of a function."""
_DRAWS = "bernoulli multinomial normal poisson rand rand_like randint randint_like randn randn_like randperm"
_DRAWS_OF_TENSORS = "bernoulli_ exponential_ multinomial normal_ random_ uniform_"
_COMPLEX = (torch.complex, torch.istft, torch.polar, torch.stft, torch.view_as_complex)
_FOURIER = (torch.fft.fft, torch.fft.ifft, torch.fft.rfft, torch.fft.irfft, Tensor.stft, Tensor.istft)
_NOTED: dict[Any, str] = {
    Tensor.tolist: "list",
    Tensor.numpy: "numpy",
    Tensor.__array__: "numpy",
    **{getattr(torch, name): "sampling" for name in _DRAWS.split()},
    **{getattr(Tensor, name): "sampling" for name in _DRAWS_OF_TENSORS.split()},
    **dict.fromkeys((*_COMPLEX, *_FOURIER), "complex"),
}
"""What may be the reason of a refusal, said with its line."""


def _assume(fact: Any) -> None:
    """Tell the tracer a fact about sizes."""
    check: Any = torch._check
    check(fact)


def _longest(lengths: Tensor, steps: Any) -> Any:
    """Return the greatest length as a size that the tracer knows to be within the padded length."""
    longest: Any = lengths.max().item()
    _assume(longest >= 1)
    _assume(longest <= steps)
    return longest


_ON_IDENTITY: dict[Any, Callable[..., Any]] = {
    Tensor.to: lambda marker, *_: marker,
    torch.empty_like: lambda marker, *_: marker,
    Tensor.index_select: lambda tensor, *_: tensor,
    Tensor.scatter_: lambda _target, _dim, marker, *_: marker,
}
"""What the identity permutation gives when PyTorch's packing moves it, permutes with it or inverts it."""
