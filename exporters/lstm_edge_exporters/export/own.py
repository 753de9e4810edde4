"""The exporter's own copy of a module: it may be changed, the user's never is."""

import copy

from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lstm_edge_runtime.errors import InputError

__all__ = ["own_copy"]


def own_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` in eval mode, without a wrapper for several devices or of ``torch.compile``.

    A tensor that the module has computed and keeps, as ``torch.nn.utils.weight_norm`` does, is copied without
    its graph.

    Raises:
        InputError: it can't be copied.
    """
    while isinstance(module, DataParallel | DistributedDataParallel | OptimizedModule):
        module = module._orig_mod if isinstance(module, OptimizedModule) else module.module
    computed = [
        value
        for layer in module.modules()
        for value in vars(layer).values()
        if isinstance(value, Tensor) and not value.is_leaf
    ]
    try:
        return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed}).eval()
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise InputError(
            f"{type(module).__name__} can't be copied ({text}); keep no tensors with gradients or open "
            "files in its attributes"
        ) from error
