"""The arithmetic of PyTorch: one float dtype for a whole module, results rounded as float32's, one thread.

onnxruntime's CPU has no float64 kernels for recurrent nodes and computes float16 ones in float32, so a file
is float32 throughout, whatever the module's weights are in and its ``forward`` asks for; and the reference of
a verification is float64 throughout.

Two modes, entered together by ``rounded``, perturb every operator's result in float64 as float32 may round
(``noise`` has the model). ``_Layers`` answers the functions that ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and
their cells call with the stepped operators of ``recurrent``. ``_Operators`` sees every other operator as it
reaches the dispatcher, whether a module, a function or TorchScript called it.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lstm_edge_runtime.manifest import Array

from ..recurrent import LayerWeights, gru, lstm, rnn, to_onnx_weights
from .noise import TINY, UNIT, Rounding

__all__ = [
    "OTHER_FLOATS",
    "RECURRENT_FUNCTIONS",
    "AllFloats",
    "RecurrentFunction",
    "copy_as",
    "one_thread",
    "rounded",
]

OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})
"""The float dtypes that a file does not have."""


class RecurrentFunction(NamedTuple):
    """What a recurrent function of PyTorch computes."""

    op: str
    """ONNX's operator."""
    activation: str = ""
    """Of an RNN."""
    cell: bool = False
    """Whether it takes one step."""


RECURRENT_FUNCTIONS: dict[Any, RecurrentFunction] = {
    torch.lstm: RecurrentFunction("LSTM"),
    torch.gru: RecurrentFunction("GRU"),
    torch.rnn_tanh: RecurrentFunction("RNN", "Tanh"),
    torch.rnn_relu: RecurrentFunction("RNN", "Relu"),
    torch.lstm_cell: RecurrentFunction("LSTM", cell=True),
    torch.gru_cell: RecurrentFunction("GRU", cell=True),
    torch.rnn_tanh_cell: RecurrentFunction("RNN", "Tanh", cell=True),
    torch.rnn_relu_cell: RecurrentFunction("RNN", "Relu", cell=True),
}
"""What ``nn.LSTM``, ``nn.GRU``, ``nn.RNN`` and their cells call."""

_FLOATS = OTHER_FLOATS | {torch.float32}
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double)


class AllFloats(TorchFunctionMode):
    """Inside it every float is ``dtype``: zeros that ``forward`` makes, casts that it does."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` with every float dtype, asked for or given, replaced."""
        if func in _CASTS:
            return args[0].to(self._dtype)
        asked = {name: self._asked(value) for name, value in kwargs.items()} if kwargs else {}
        result = func(*map(self._asked, args), **asked)
        if isinstance(result, Tensor):
            return self._given(result)
        # Sizes and flags are asked for at every step: they are not worth a walk.
        return (
            pytree.tree_map_only(Tensor, self._given, result) if isinstance(result, tuple | list) else result
        )

    def _asked(self, value: Any) -> Any:
        return self._dtype if isinstance(value, torch.dtype) and value in _FLOATS else value

    def _given(self, value: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            dtype = value.dtype
            return value.to(self._dtype) if dtype != self._dtype and dtype in _FLOATS else value


def copy_as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy ``module`` to the CPU with every float in ``dtype``, in eval mode."""
    own = copy.deepcopy(module).to("cpu", dtype)
    own.eval()  # which may give None where a module has a train() of its own
    return own


_MOVES = frozenset(
    """_pack_padded_sequence _pad_packed_sequence _to_copy abs alias amax amin arange argmax argmin
    as_strided bernoulli bucketize cat ceil clamp clamp_max clamp_min clone constant_pad_nd copy
    copysign cummax cummin detach diagonal_scatter embedding empty empty_like empty_strided expand eye
    fill flip floor full full_like gather hardtanh index index_add index_copy index_fill index_put
    index_select lift_fresh linspace logical_not masked_fill masked_scatter masked_select max
    max_pool2d_with_indices max_pool3d_with_indices maximum min minimum median mode nan_to_num neg
    new_empty new_empty_strided new_full new_ones new_zeros ones ones_like permute pixel_shuffle
    pixel_unshuffle rand randn reflection_pad1d reflection_pad2d relu repeat replication_pad1d
    replication_pad2d reshape resize roll rot90 round scalar_tensor scatter select_scatter set sgn sign
    slice_scatter sort squeeze stack t take threshold topk transpose tril triu trunc unbind unfold
    uniform unsafe_split unsafe_chunk unsqueeze upsample_nearest1d upsample_nearest2d view where zero
    zeros zeros_like _unsafe_view _reshape_alias""".split()  # noqa: SIM905
)
"""Operators that move, select or compare values: their results need no rounding."""
_BOUNDED = frozenset("sigmoid tanh erf erfc sin cos".split())  # noqa: SIM905
"""Operators with results in -1..1, whose kernels are accurate to that range."""
_GATED = frozenset(
    "celu elu gelu hardsigmoid hardswish log_sigmoid_forward mish selu silu softplus softsign".split()  # noqa: SIM905
)
"""Activations built on a bounded function or on exp(x) + 1: accurate to the larger of 1 and |x|."""
_ELEMENTARY = frozenset(
    """acos acosh asin asinh atan atan2 atanh cosh exp exp2 expm1 log log10 log1p log2 pow rsqrt sinh sqrt
    tan""".split()  # noqa: SIM905
)
"""Elementary functions, accurate to a unit in the last place."""
_SUMS = frozenset(
    "sum mean cumsum avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d".split()  # noqa: SIM905
)
"""Sums with positive weights."""
_BIAS = {"addmm": 0, "addmv": 0, "baddbmm": 0, "convolution": 2, "linear": 2}
"""Products that add a bias: its place among the arguments."""
_PRODUCTS = frozenset({"mm", "bmm", "mv", "dot", "vdot", *_BIAS})


@contextmanager
def rounded(rounding: Rounding) -> Iterator[None]:
    """Perturb what PyTorch computes inside, in float64, by ``rounding``."""
    with _Layers(rounding), _Operators(rounding):
        yield


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, rounding: Rounding) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._rounding = rounding
        self._open: list[Any] = []
        """Operators that are being decomposed."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.rpartition("::")[2]
        name = name.rstrip("_") if not name.startswith("__") else name
        if name in _MOVES or func.is_view:
            return func(*args, **kwargs)
        if name in _PRODUCTS:
            return self._product(name, func, args, kwargs)
        if name in _SUMS:
            return self._sum(func, args, kwargs)
        if _is_fused(name) and func not in self._open and (steps := _decomposition(func)):
            self._open.append(func)
            try:
                with self:
                    return steps(*args, **kwargs)
            finally:
                self._open.pop()
        # in place, the argument is lost afterwards
        scale = args[0].abs().clamp_(min=1.0) if name in _GATED else None
        result = func(*args, **kwargs)
        if name in _BOUNDED:
            return self._perturb(result, None, 2 * UNIT)
        if scale is not None:  # in place, of a log-sigmoid the first of two results
            self._perturb(result[0] if isinstance(result, tuple) else result, scale, 2 * UNIT)
            return result
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor) and each.is_floating_point():
                exact = None if name in _ELEMENTARY else each.float().to(each.dtype) == each
                kept = each.clone() if exact is not None and bool(exact.any()) else None
                self._relative(each, 2.0 if name in _ELEMENTARY else 1.0)
                if kept is not None and exact is not None:  # float32 holds it: there is nothing to round
                    each.copy_(torch.where(exact, kept, each))
        return result

    def _product(self, name: str, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        bias = _BIAS.get(name)
        plain = list(args)
        if bias == 0:
            left, right = args[1], args[2]
            terms = left.abs() @ right.abs()
        else:
            if bias is not None and len(plain) > bias:
                plain[bias] = None
            left, right = args[0], args[1]
            terms = func(*(each.abs() if isinstance(each, Tensor) else each for each in plain), **kwargs)
        count = right[0].numel() if name in ("convolution", "linear") else left.shape[-1]
        result: Tensor = func(*args, **kwargs)
        result = self._perturb(result, terms.add_(TINY), UNIT * math.sqrt(count))
        return result if bias is None else self._relative(result)

    def _sum(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        result: Tensor = func(*args, **kwargs)
        if not result.is_floating_point():
            return result
        terms = func(args[0].abs(), *args[1:], **kwargs)
        return self._perturb(result, terms, UNIT * math.sqrt(max(1.0, args[0].numel() / result.numel())))

    def _relative(self, result: Tensor, units: float = 1.0) -> Tensor:
        return result.mul_(torch.from_numpy(self._rounding.factors(tuple(result.shape), units)))

    def _perturb(self, result: Tensor, scale: Tensor | None, size: float) -> Tensor:
        """Add ``size`` times ``scale`` (1 where None) to ``result`` in place, with random signs."""
        signs = torch.from_numpy(self._rounding.signs(tuple(result.shape)))
        return result.add_(signs, alpha=size) if scale is None else result.addcmul_(signs, scale, value=size)


def _is_fused(name: str) -> bool:
    """Return whether an operator does several roundings of different size, as a softmax does."""
    return any(part in name for part in ("softmax", "norm", "var", "std", "logsumexp", "attention", "glu"))


def _decomposition(func: Any) -> Callable[..., Any] | None:
    """Return an operator as it is written in smaller ones: as kernels do it, else as PyTorch says."""
    if func is torch.ops.aten.native_batch_norm.default:
        return _batch_norm
    from torch._decomp import decomposition_table  # a second of imports that few networks need

    return decomposition_table.get(func)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,  # noqa: ARG001  the operator's signature
    epsilon: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute ``x * scale + shift``, as onnxruntime and PyTorch do.

    Both terms are large, and cancel, where a channel varies little around a mean far from 0.
    """
    if training or mean is None or variance is None:
        variance, mean = torch.var_mean(x, [0, *range(2, x.dim())], correction=0)
    deviation = (variance + epsilon).rsqrt()
    scale = deviation if weight is None else deviation * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [-1, *[1] * (x.dim() - 2)]
    return x * scale.reshape(shape) + shift.reshape(shape), mean, deviation


class _Layers(TorchFunctionMode):
    def __init__(self, rounding: Rounding) -> None:
        super().__init__()
        self._rounding = rounding

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if (kind := RECURRENT_FUNCTIONS.get(func)) is not None:
            return (self._cell if kind.cell else self._layer)(kind.op, kind.activation, *args)
        return func(*args, **(kwargs or {}))

    def _layer(self, op: str, activation: str, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        if not isinstance(rest[2], bool):
            batch_sizes, hx, weights, biased, layers, _, _, bidirectional = rest
            sizes = _array(batch_sizes)
            rows = np.arange(len(sizes))[:, None], np.arange(sizes[0])[None, :]
            valid = rows[1] < sizes[:, None]
            padded = np.zeros((*valid.shape, x.shape[-1]))
            padded[valid] = _array(x)
            lengths = valid.sum(axis=0)
            y, states = self._run(op, activation, padded, hx, weights, biased, layers, bidirectional, lengths)
            return torch.from_numpy(y[valid]), *states
        hx, weights, biased, layers, _, _, bidirectional, batch_first = rest
        steps_first = _array(x).swapaxes(0, 1) if batch_first else _array(x)
        y, states = self._run(op, activation, steps_first, hx, weights, biased, layers, bidirectional, None)
        return torch.from_numpy(np.ascontiguousarray(y.swapaxes(0, 1) if batch_first else y)), *states

    def _cell(self, op: str, activation: str, x: Tensor, hx: Any, *weights: Any) -> Any:
        state: Any = tuple(part[None] for part in hx) if op == "LSTM" else hx[None]
        held = [weight for weight in weights if weight is not None]
        _, states = self._run(op, activation, _array(x)[None], state, held, len(held) == 4, 1, False, None)
        after = tuple(part[0] for part in states)
        return after if op == "LSTM" else after[0]

    def _run(
        self,
        op: str,
        activation: str,
        x: Array,
        hx: Any,
        weights: Sequence[Tensor],
        biased: bool,
        layers: int,
        bidirectional: bool,
        lengths: Array | None,
    ) -> tuple[Array, list[Tensor]]:
        """Run a stack of layers on ``x (L, N, I)``; gives ``(L, N, D*H)`` and the last states."""
        count = 2 if bidirectional else 1
        starts = [_array(part) for part in (hx if op == "LSTM" else (hx,))]
        held = [_array(weight) for weight in weights]
        each = len(held) // (layers * count)
        ends: list[tuple[Array, ...]] = []
        for layer in range(layers):
            rows = slice(layer * count, (layer + 1) * count)
            directions = []
            for place in range(layer * count, (layer + 1) * count):
                own = held[place * each : (place + 1) * each]
                b_ih, b_hh = own[2:4] if biased else (None, None)
                directions.append(LayerWeights(own[0], own[1], b_ih, b_hh, own[-1] if each % 2 else None))
            w, r, b = to_onnx_weights(op, directions)
            common: dict[str, Any] = {
                "lengths": lengths,
                "direction": "bidirectional" if bidirectional else "forward",
                "rounding": self._rounding,
            }
            if op == "LSTM":
                projection = [one.w_hr for one in directions if one.w_hr is not None] or None
                y, *states = lstm(
                    x, w, r, b, h_0=starts[0][rows], c_0=starts[1][rows], projection=projection, **common
                )
            elif op == "GRU":
                y, *states = gru(x, w, r, b, h_0=starts[0][rows], linear_before_reset=1, **common)
            else:
                y, *states = rnn(x, w, r, b, h_0=starts[0][rows], activations=[activation] * count, **common)
            ends.append(tuple(states))
            x = y.swapaxes(1, 2).reshape(*x.shape[:2], -1)
        return x, [torch.from_numpy(np.concatenate(parts)) for parts in zip(*ends, strict=True)]


def _array(tensor: Tensor) -> Array:
    return np.asarray(tensor.detach().numpy())


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's operations on one thread inside, and on as many as before afterwards.

    For a small LSTM a second thread gains nothing, and on a busy machine the two wait for one another at
    every step; one thread also sums in the same order on every machine of a kind.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
