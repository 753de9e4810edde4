"""PyTorch as the reference: a module run on named arrays, in its own dtype and in float64.

``TorchReference.run`` gives what PyTorch computes; ``run64`` gives the same in float64, against which both
PyTorch and a candidate are measured (see ``lstm_edge_runtime.tolerance``). Both take and give plain dicts of
numpy arrays by the names that the exported file has, so that a reference and a session are interchangeable.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from .signature import Signature, flatten_output

__all__ = ["Injection", "TorchReference"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Injection:
    """A state that is an input of the file and not of ``forward``: one recurrent layer starts from it."""

    path: str
    """The layer's path in the module."""
    part: int
    """0 for h, 1 for c."""
    input: str
    output: str
    call: int = 0
    """Which of the layer's calls in one ``forward``."""


class TorchReference:
    """A module and how it is called; never changes the module it is given."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        outputs: Sequence[str],
        injections: Sequence[Injection] = (),
    ) -> None:
        """Copy ``module`` in eval mode.

        Args:
            module: the module that was exported.
            signature: how it is called.
            outputs: a name for each tensor of what ``forward`` returns, in order.
            injections: the lifted states.
        """
        self._signature = signature
        self._outputs = tuple(outputs)
        self._injections = tuple(injections)
        self._own = copy.deepcopy(module).eval()
        self._double = copy.deepcopy(module).eval().double()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Give every output for ``feeds``; raises what the module raises."""
        tensors = [torch.from_numpy(np.array(feeds[name])) for name in self._signature.names]
        return self._run(self._own, tensors, feeds, torch.from_numpy)

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Give every output in float64, from the same (rounded) weights and inputs."""
        wide = {name: _widen(array) for name, array in feeds.items()}
        tensors = [torch.from_numpy(np.array(wide[name])) for name in self._signature.names]
        with _InDouble():
            return self._run(self._double, tensors, wide, torch.from_numpy)

    def _run(
        self,
        module: nn.Module,
        tensors: Sequence[Tensor],
        feeds: Mapping[str, Array],
        make: Callable[[Array], Tensor],
    ) -> dict[str, Array]:
        store = {each.input: make(np.array(feeds[each.input])) for each in self._injections}
        ends: dict[str, Tensor] = {}
        handles = self._hook(module, store, ends)
        try:
            with torch.no_grad():
                flat = flatten_output(self._signature.call(module, tensors))
        finally:
            for handle in handles:
                handle.remove()
        named = zip(self._outputs, (tensor for _, tensor in flat), strict=True)
        return {name: tensor.detach().cpu().numpy() for name, tensor in [*named, *ends.items()]}

    def _hook(self, module: nn.Module, store: Mapping[str, Tensor], ends: dict[str, Tensor]) -> list[Any]:
        handles = []
        for path in dict.fromkeys(each.path for each in self._injections):
            layer = module.get_submodule(path)
            own = [each for each in self._injections if each.path == path]
            hooks = _LayerHooks(own, store, ends)
            handles.append(layer.register_forward_pre_hook(hooks.before, with_kwargs=True))
            handles.append(layer.register_forward_hook(hooks.after))
        return handles


class _LayerHooks:
    """Gives one layer its initial states and keeps its last ones, call by call."""

    def __init__(
        self, injections: Sequence[Injection], store: Mapping[str, Tensor], ends: dict[str, Tensor]
    ) -> None:
        self._injections = injections
        self._store = store
        self._ends = ends
        self._call = -1

    def before(self, layer: nn.Module, args: Any, kwargs: Any) -> Any:
        self._call += 1
        parts = [self._store[each.input] for each in self._injections if each.call == self._call]
        if not parts:
            return None
        one = args[0] if args else kwargs["input"]
        batched = not isinstance(one, Tensor) or one.dim() == (2 if isinstance(layer, nn.RNNCellBase) else 3)
        if not batched:
            parts = [part.squeeze(1) for part in parts]
        if isinstance(layer, nn.RNNCellBase):
            parts = [part.squeeze(0) for part in parts]
        hx = tuple(parts) if len(parts) == 2 else parts[0]
        return (one, hx), {}

    def after(self, layer: nn.Module, _args: Any, result: Any) -> None:
        cell = isinstance(layer, nn.RNNCellBase)
        hx = result if cell else result[1]
        parts = hx if isinstance(hx, tuple) else (hx,)
        for each in self._injections:
            if each.call == self._call:
                part = parts[each.part].detach()
                shape = self._store[each.input].shape
                self._ends[each.output] = part.reshape(shape) if part.dim() < len(shape) else part


class _InDouble(TorchFunctionMode):
    """Everything that would be float32 or narrower is float64: zeros made inside ``forward``, casts."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (Tensor.float, Tensor.half, Tensor.bfloat16):
            return args[0].double()
        args, kwargs = pytree.tree_map(_wide_dtype, (tuple(args), dict(kwargs or {})))
        return pytree.tree_map_only(Tensor, _wide_tensor, func(*args, **kwargs))


_NARROW = (torch.float32, torch.float16, torch.bfloat16)


def _wide_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


def _wide_tensor(value: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return value.double() if value.dtype in _NARROW else value


def _widen(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
