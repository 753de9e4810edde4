"""Data in other floats than float32: all floats of a trace have one dtype, and a file
has float32.
"""

import copy
import sys
import warnings
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError

from ._torch_internals import pytree
from .advice import calling_line
from .call import Call
from .floats import OTHER_FLOATS

_OTHER = OTHER_FLOATS | {torch.complex32, torch.complex128}


def refuse_other_floats(module: nn.Module, call: Call, original: nn.Module) -> None:
    """Refuse a module in float32 that computes with data in another float dtype.

    Args:
        module: the copy in float32.
        call: the call of the example, in float32.
        original: the user's module; the dtypes that its weights have are noted instead.
    """
    weights = (*original.parameters(), *original.buffers())
    other = _OTHER - {weight.dtype for weight in weights}
    tensors = [tensor.clone() for tensor in call.example]
    module = copy.deepcopy(module)
    try:
        with torch.no_grad(), warnings.catch_warnings(), _Precision(tensors, other):
            warnings.simplefilter("ignore")
            call.run_in_place(module, tensors)
    except LstmEdgeError:
        raise
    except Exception:  # noqa: BLE001, S110  with one dtype of floats it has run
        pass


class _Precision(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises UnsupportedError where a result that follows from data has a dtype of
    ``other``.
    """

    def __init__(self, data: Sequence[Tensor], other: AbstractSet[torch.dtype]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._other = other
        self._data: dict[int, Tensor] = {}
        """Tensors that follow from data, which are kept, by their memory."""
        for tensor in data:
            self._data[_memory(tensor)] = tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``; raise if it makes data of another dtype."""
        result = func(*args, **(kwargs or {}))
        if not any(_memory(value) in self._data for value in _tensors((args, kwargs))):
            return result
        for value in _tensors(result):
            self._data[_memory(value)] = value
            if value.dtype in self._other:
                name = str(value.dtype)
                line = calling_line(sys._getframe(1))
                raise UnsupportedError(
                    f"forward computes in {name.removeprefix('torch.')} ({line}), but the"
                    f" file computes in float32; leave out casts to {name}, and"
                    " torch.autocast; compute constants in __init__"
                )
        return result


def _tensors(values: Any) -> list[Tensor]:
    """Return the tensors that have elements among arguments or results."""
    leaves = pytree.tree_leaves(values)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.numel()]


def _memory(tensor: Tensor) -> int:
    """Return the address of a tensor's elements, which its views share."""
    return tensor.untyped_storage().data_ptr()
