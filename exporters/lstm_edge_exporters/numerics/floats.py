"""One float dtype for a whole module, whatever its weights are in and its ``forward`` asks for.

onnxruntime's CPU has no float64 kernels for recurrent nodes and computes float16 ones in float32, so a file
is float32 throughout; and the reference of a verification is float64 throughout.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

__all__ = ["OTHER_FLOATS", "AllFloats", "copy_as"]

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
