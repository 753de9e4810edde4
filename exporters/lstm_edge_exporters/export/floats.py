"""All floats in one dtype, float32 or float64, whatever dtypes ``forward`` uses."""

import copy
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ._torch_internals import pytree, without_modes

OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})
"""The float dtypes that a file does not have."""
_FLOATS = OTHER_FLOATS | {torch.float32}
TURNS = threading.RLock()
"""Held while something that all threads share is changed: PyTorch's default dtype,
warnings, logging."""
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make tensors of Python numbers in ``dtype`` inside."""
    with TURNS:
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


class Floats(TorchFunctionMode):
    """Inside it every float is ``dtype``: new tensors, casts, and tensors held
    anywhere.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        """Make all floats ``dtype``."""
        super().__init__()
        self._dtype = dtype
        self._entered: list[
            AbstractContextManager[None]
        ] = []  # the tracer leaves a mode and enters it again

    def __enter__(self) -> Any:
        """Begin, with the dtype as PyTorch's default."""
        self._entered.append(default_dtype(self._dtype))
        self._entered[-1].__enter__()
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: object) -> None:
        """End, with PyTorch's default dtype restored."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._entered.pop().__exit__(None, None, None)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func`` with every float dtype, asked for or given, replaced."""
        args, kwargs = pytree.tree_map_only(
            Tensor, self._cast, (tuple(args), dict(kwargs or {}))
        )
        if func in _CASTS:
            return args[0].to(self._dtype)
        result = func(
            *map(self._replaced, args),
            **{name: self._replaced(value) for name, value in kwargs.items()},
        )
        if isinstance(result, torch.Size):
            return result
        return pytree.tree_map_only(Tensor, self._cast, result)

    def _replaced(self, value: Any) -> Any:
        """Return the dtype to use instead of an argument that is one."""
        return _in(value, self._dtype) if isinstance(value, torch.dtype) else value

    def _cast(self, value: Tensor) -> Tensor:
        """Return the tensor in the dtype of this mode."""
        with without_modes():
            target = _in(value.dtype, self._dtype)
            return value if value.dtype == target else value.to(target)


def _in(original: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype`` for a float dtype, its complex dtype for a complex one, other
    dtypes unchanged.
    """
    return (
        dtype.to_complex()
        if original.is_complex
        else dtype
        if original in _FLOATS
        else original
    )


def copy_as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy ``module`` to the CPU, in eval mode, with every float in ``dtype``.

    The epsilon of a norm is rounded to float32 as weights are; computed weights (weight
    norm) are fixed.
    """
    held = (
        v
        for inner in module.modules()
        for v in (*vars(inner).values(), *getattr(inner, "_flat_weights", ()))
    )
    computed = (
        value for value in held if isinstance(value, Tensor) and not value.is_leaf
    )
    copied = copy.deepcopy(
        module, {id(value): value.detach().clone() for value in computed}
    )
    for layer in copied.modules():
        if isinstance(
            layer, nn.RNNBase
        ):  # it keeps weights that it computes, and no graph can be copied
            layer.requires_grad_(False)

    def cast(value: Any) -> Any:
        """Move a tensor to the CPU, its floats to ``dtype``."""
        return (
            value.to("cpu", _in(value.dtype, dtype))
            if isinstance(value, Tensor)
            else value
        )

    apply: Any = copied._apply  # as .to() does, which would make complex numbers real
    apply(cast)
    for layer in copied.modules():
        vars(layer).update({name: cast(value) for name, value in vars(layer).items()})
        if isinstance(layer, nn.RMSNorm) and layer.eps is None:
            layer.eps = torch.finfo(torch.float32).eps
        if isinstance(epsilon := getattr(layer, "eps", None), float):
            layer.eps = float(np.float32(epsilon))  # type: ignore[assignment]
    copied.eval()  # which may give None where a module has a train() of its own
    return copied
