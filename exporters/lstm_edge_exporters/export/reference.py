"""A module as a function of named arrays, with every float in one dtype."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.manifest import Array

from ..verify.cases import Feeds, UnsortedLengthsError
from ._torch_internals import PACK
from .call import Call, flatten_output, restored
from .floats import Floats
from .threads import one_thread


class TorchReference:
    """A module and how it is called, on one thread; it takes and returns arrays as a
    session does.
    """

    def __init__(
        self,
        module: nn.Module,
        call: Call,
        titles: Sequence[Sequence[str]],
        dtype: torch.dtype = torch.float64,
    ) -> None:
        """Take a private copy of a module in ``dtype``; ``titles`` names each tensor
        that ``forward`` returns.
        """
        self._module = module
        self._call = call
        self._titles = titles
        self._dtype = dtype

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output by name; raises what the module raises."""
        tensors = [torch.from_numpy(np.array(feeds[name])) for name in self._call.names]
        results = self.tensors(tensors)
        if len(results) != len(self._titles):
            raise CheckFailedError(
                f"forward returned {len(results)} tensors, expected"
                f" {len(self._titles)} as for the example; return the same tensors in"
                " every call"
            )
        outputs = zip(self._titles, results, strict=True)
        return {
            name: tensor.detach().cpu().numpy()
            for names, tensor in outputs
            for name in names
        }

    def tensors(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Return the results of ``forward`` for tensors in the order of the call."""
        converted = [
            tensor.to(self._dtype) if tensor.is_floating_point() else tensor
            for tensor in inputs
        ]
        with (
            torch.no_grad(),
            one_thread(),
            Floats(self._dtype),
            _SortedLengths(),
            restored(self._module),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return [
                tensor
                for _, tensor in flatten_output(self._call.run(self._module, converted))
            ]


class _SortedLengths(TorchFunctionMode):
    """Names the error of ``pack_padded_sequence`` for lengths that are not sorted."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``; raise UnsortedLengthsError if it packs lengths that increase."""
        kwargs = kwargs or {}
        if func != PACK:
            return func(*args, **kwargs)
        try:
            return func(*args, **kwargs)
        except RuntimeError as error:
            if bool((args[1].diff() > 0).any()):
                raise UnsortedLengthsError(str(error)) from error
            raise
