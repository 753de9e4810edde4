"""PyTorch as the reference: a module run on named arrays, in float32 and in float64.

``TorchReference.run`` gives what PyTorch computes in the file's own dtype, float32; ``run64`` gives the same
in float64, against which both PyTorch and a candidate are measured (see ``lstm_edge_runtime.tolerance``).
Both take and give plain dicts of numpy arrays by the names that the exported file has, so that a reference
and a session are interchangeable.
"""

import copy
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from .call import Signature, flatten_output
from .floats import AllFloats, copy_as
from .injection import Injection, LayerStates, injected

__all__ = ["TorchReference"]

Array = npt.NDArray[Any]


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
        self._own = _Computation(module, torch.float32)
        self._wide = _Computation(module, torch.float64)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for ``feeds``; raises what the module raises."""
        return self._run(self._own, feeds)

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output in float64, from the same (rounded) weights and inputs."""
        return self._run(self._wide, feeds)

    def shaken(self, draw: int) -> "TorchReference":
        """Return a copy whose recurrent layers err in float64 as a float32 kernel may at every call.

        What they give moves by at most one float32 place at the largest of its own scale, 1 and the states
        they started from: a kernel rounds its gates at the scale of 1, however small the state that they
        leave, and what they keep of a state at the scale of that state.
        """
        copied, copied_wide = copy.copy(self), copy.copy(self._wide)
        copied_wide.module = copy.deepcopy(self._wide.module)
        copied._wide = copied_wide
        generator = torch.Generator().manual_seed(draw)
        for layer in copied._wide.module.modules():
            if isinstance(layer, nn.RNNBase | nn.RNNCellBase):
                layer.register_forward_hook(partial(_shake, generator), with_kwargs=True)
        return copied

    def _run(self, computation: "_Computation", feeds: Mapping[str, Array]) -> dict[str, Array]:
        tensors = [computation.tensor(feeds[name]) for name in self._signature.names]
        store = {each.input: computation.tensor(feeds[each.input]) for each in self._injections}
        ends: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in dict.fromkeys(each.path for each in self._injections):
                own = [each for each in self._injections if each.path == path]
                layer = computation.module.get_submodule(path)
                stack.enter_context(injected(layer, LayerStates(own, store, ends)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(computation.mode)
            warnings.simplefilter("ignore")
            flat = flatten_output(self._signature.call(computation.module, tensors))
        named = zip(self._outputs, (tensor for _, tensor in flat), strict=True)
        return {name: tensor.detach().cpu().numpy() for name, tensor in [*named, *ends.items()]}


class _Computation:
    """A copy of a module in one float dtype."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        self.module = copy_as(module, dtype)
        self.mode = AllFloats(dtype)
        self._dtype = dtype

    def tensor(self, array: Array) -> Tensor:
        """Return ``array`` as a tensor of the computation's dtype."""
        tensor = torch.from_numpy(np.array(array))
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _shake(
    generator: torch.Generator, _layer: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Move what a layer gives; gates also round what they keep of the states that it started from."""
    states = [each for each in pytree.tree_leaves([args[1:], kwargs.get("hx")]) if isinstance(each, Tensor)]
    scale = max([1.0, *(float(state.abs().max()) for state in states if state.numel())])

    def move(tensor: Tensor) -> Tensor:
        places = torch.randint(-1, 2, tensor.shape, generator=generator).to(tensor.device)
        return tensor + torch.finfo(torch.float32).eps * tensor.abs().clamp(min=scale) * places

    if isinstance(result, tuple) and isinstance(result[0], PackedSequence):
        packed, last = result
        return packed._replace(data=move(packed.data)), pytree.tree_map_only(Tensor, move, last)
    return pytree.tree_map_only(Tensor, move, result)
