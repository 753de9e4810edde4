"""The arithmetic of PyTorch: one float dtype for a whole module, one thread.

onnxruntime's CPU has no float64 kernels for recurrent nodes and computes float16 ones in float32, so a file
is float32 throughout, whatever the module's weights are in and its ``forward`` asks for; and the reference of
a verification is float64 throughout.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})
"""The float dtypes that a file does not have."""
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
        given = [*map(self._asked, args)]
        result = func(*given, **asked)
        if isinstance(result, Tensor):
            if result.dtype in _FLOATS and result.element_size() < self._dtype.itemsize:
                result = self._of_integers(func, given, asked, result)
            return self._given(result)
        if isinstance(result, tuple | list) and not isinstance(result, torch.Size):
            return pytree.tree_map_only(Tensor, self._given, result)
        return result

    def _asked(self, value: Any) -> Any:
        return _as_wide(value, self._dtype) if isinstance(value, torch.dtype) else value

    def _of_integers(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor
    ) -> Tensor:
        """Compute ``result`` again, which PyTorch rounds to its default dtype: ``torch.arange(n) / 100``."""
        given = pytree.tree_map_only(Tensor, self._as_float, (args, kwargs))
        with suppress(Exception):  # an index, or a condition, must be whole
            return cast("Tensor", func(*given[0], **given[1]))
        return result

    def _as_float(self, value: Tensor) -> Tensor:
        return value if value.is_floating_point() or value.is_complex() else value.to(self._dtype)

    def _given(self, value: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            wanted = _as_wide(value.dtype, self._dtype)
            return value if value.dtype == wanted else value.to(wanted)


def _as_wide(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype`` for a float dtype, complex numbers of it for a complex one, others as they are."""
    return dtype.to_complex() if own.is_complex else dtype if own in _FLOATS else own


def copy_module(module: nn.Module) -> nn.Module:
    """Copy ``module``; tensors that it computed and keeps, as weight norm does, lose their graph."""
    held = ((*vars(each).values(), *getattr(each, "_flat_weights", ())) for each in module.modules())
    computed = [value for each in held for value in each if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def copy_as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy ``module`` to the CPU with every float in ``dtype``, in eval mode.

    The epsilon of a norm is rounded to float32 as weights are, for a file holds no other.
    """
    own = copy_module(module)
    for layer in own.modules():
        if isinstance(layer, nn.RNNBase):  # it keeps weights that it computes, and no graph can be copied
            layer.requires_grad_(False)
    apply: Any = own._apply  # as .to() does, which would make complex numbers real
    apply(lambda held: held.to("cpu", _as_wide(held.dtype, dtype)))
    for layer in own.modules():
        if isinstance(layer, nn.RMSNorm) and layer.eps is None:
            layer.eps = torch.finfo(torch.float32).eps
        if isinstance(epsilon := getattr(layer, "eps", None), float):
            layer.eps = float(np.float32(epsilon))  # type: ignore[assignment]
    own.eval()  # which may give None where a module has a train() of its own
    return own


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
