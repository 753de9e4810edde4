"""PyTorch as the reference: a module run on named arrays, in float32, in float64, and perturbed.

All three take and give plain dicts of numpy arrays by the names that the exported file has, so that a
reference and a session are interchangeable.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from .call import Signature, flatten_output
from .floats import AllFloats, copy_as
from .injection import Injection, LayerStates, injected
from .layout import Layout
from .rounding import Rounding
from .torch_rounding import rounded

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
        layout: Layout = Layout(),  # noqa: B008  frozen
    ) -> None:
        """Copy ``module`` in eval mode.

        Args:
            module: the module that was exported.
            signature: how it is called.
            outputs: a name for each tensor of what ``forward`` returns, in order.
            injections: the lifted states.
            layout: where rows and channels lie in the arrays.
        """
        self.layout = layout
        self._signature = signature
        self._outputs = tuple(outputs)
        self._injections = tuple(injections)
        self._float32 = _Computation(module, torch.float32)
        self._float64 = _Computation(self._float32.module, torch.float64)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for ``feeds``; raises what the module raises."""
        return self._run(self._float32, feeds)

    def run_plain(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what ``forward`` itself returns, called plainly: lifted states are neither given nor kept."""
        return self._run(self._float32, feeds, injections=())

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output in float64, from the same (rounded) weights and inputs."""
        return self._run(self._float64, feeds)

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> dict[str, Array]:
        """Return every output in float64 as a correct float32 implementation may give it."""
        return self._run(self._float64, feeds, rounded(rounding))

    def index_values(self, feeds: Mapping[str, Array]) -> dict[str, int]:
        """Return how many values are valid for each input that ``forward`` uses as an index into a table.

        Args:
            feeds: inputs to run the module on; an input that is left out is not looked for.
        """
        tensors = [self._float32.tensor(feeds[name]) for name in self._signature.names]
        tables = [*self._float32.module.parameters(), *self._float32.module.buffers()]
        watch = _IndexWatch(dict(zip(self._signature.names, tensors, strict=True)), tables)
        with torch.no_grad(), warnings.catch_warnings(), self._float32.mode, watch:
            warnings.simplefilter("ignore")
            self._signature.call(self._float32.module, tensors)
        return watch.found

    def _run(
        self,
        computation: "_Computation",
        feeds: Mapping[str, Array],
        rounding: AbstractContextManager[None] | None = None,
        injections: Sequence[Injection] | None = None,
    ) -> dict[str, Array]:
        given = self._injections if injections is None else injections
        tensors = [computation.tensor(feeds[name]) for name in self._signature.names]
        store = {each.input: computation.tensor(feeds[each.input]) for each in given}
        ends: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in dict.fromkeys(each.path for each in given):
                own = [each for each in given if each.path == path]
                layer = computation.module.get_submodule(path)
                stack.enter_context(injected(layer, LayerStates(own, store, ends)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(computation.mode)
            stack.enter_context(rounding or nullcontext())
            stack.enter_context(np.errstate(all="ignore"))
            warnings.simplefilter("ignore")
            flat = flatten_output(self._signature.call(computation.module, tensors))
        named = zip(self._outputs, (tensor for _, tensor in flat), strict=True)
        return {name: tensor.detach().cpu().numpy() for name, tensor in [*named, *ends.items()]}


class _IndexWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees which inputs, as they are or copied, index a table of the module's."""

    def __init__(self, inputs: Mapping[str, Tensor], tables: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: dict[str, int] = {}
        """The rows of the smallest table by the name of the input that indexes it."""
        self._names = {
            _storage(tensor): name for name, tensor in inputs.items() if not tensor.is_floating_point()
        }
        self._tables = {_storage(table) for table in tables}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in ("_to_copy", "clone") and (source := self._names.get(_storage(args[0]))):
            self._names[_storage(result)] = source
        for table, axis, index in _lookups(name, args):
            source = self._names.get(_storage(index))
            if source and _storage(table) in self._tables:
                rows = int(table.shape[axis])
                self.found[source] = min(rows, self.found.get(source, rows))
        return result


def _lookups(name: str, args: Sequence[Any]) -> Iterator[tuple[Tensor, int, Tensor]]:
    """Return the table, its axis and the index of every look-up that an operator does."""
    if name == "embedding":
        yield args[0], 0, args[1]
    elif name in ("index_select", "gather"):
        yield args[0], args[1], args[2]
    elif name == "index":
        for axis, index in enumerate(args[1]):
            if index is not None:
                yield args[0], axis, index


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


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
