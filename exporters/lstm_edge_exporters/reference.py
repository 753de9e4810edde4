"""PyTorch as the reference: a module run on named arrays, in its own dtype and in float64.

``TorchReference.run`` gives what PyTorch computes; ``run64`` gives the same in float64, against which both
PyTorch and a candidate are measured (see ``lstm_edge_runtime.tolerance``). Both take and give plain dicts of
numpy arrays by the names that the exported file has, so that a reference and a session are interchangeable.
"""

import copy
import warnings
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
    """Rows of a state that is an input of the file and not of ``forward``: a recurrent layer starts there."""

    input: str
    output: str
    path: str
    """The layer's path in the module."""
    call: int
    """Which of the layer's calls in one ``forward``."""
    part: int
    """0 for h, 1 for c."""
    row_axis: int | None
    """Which axis of the state counts layers and directions; None for a state ``(N, H)``."""
    rows: tuple[int, int]
    """First row in the state, and in the layer's own ``h_0 (layers*D, N, H)``."""
    count: int
    """How many rows."""

    def of(self, state: Tensor) -> Tensor:
        """Give these rows of ``state`` as a view ``(rows, N, H)``."""
        rows = state.unsqueeze(0) if self.row_axis is None else state.movedim(self.row_axis, 0)
        return rows.narrow(0, self.rows[0], self.count)


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
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
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
        """Replace the given initial state (``forward``'s second argument) by the injected one."""
        self._call += 1
        own = self._own(self._call)
        if not own:
            return None
        x = args[0] if args else kwargs["input"]
        given = args[1] if len(args) > 1 else kwargs.get("hx")
        cell = isinstance(layer, nn.RNNCellBase)
        batched = not isinstance(x, Tensor) or x.dim() == (2 if cell else 3)
        parts = list(given) if isinstance(given, tuple) else [given, None]
        for part in (0, 1):
            pieces = sorted((each for each in own if each.part == part), key=lambda each: each.rows[1])
            if pieces:
                rows = torch.cat([each.of(self._store[each.input]) for each in pieces])
                rows = rows if batched else rows.squeeze(1)
                parts[part] = rows.squeeze(0) if cell else rows
        lstm = isinstance(layer, nn.LSTM | nn.LSTMCell)
        return (x, tuple(parts) if lstm else parts[0]), {}

    def after(self, layer: nn.Module, _args: Any, result: Any) -> None:
        last = result if isinstance(layer, nn.RNNCellBase) else result[1]
        parts = last if isinstance(last, tuple) else (last,)
        for each in self._own(self._call):
            end = self._ends.setdefault(each.output, torch.zeros_like(self._store[each.input]))
            target = each.of(end)
            rows = parts[each.part].reshape(-1, *target.shape[1:])
            target.copy_(rows.narrow(0, each.rows[1], each.count))

    def _own(self, call: int) -> list[Injection]:
        return [each for each in self._injections if each.call == call]


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
