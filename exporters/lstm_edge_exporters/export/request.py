"""What is exported: the module, copied once; how it is called, tried once; and the options."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import OptimizedModule
from torch.jit import ScriptModule
from torch.nn.parallel import DataParallel, DistributedDataParallel

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ..numerics.reference import OTHER_FLOATS, Signature, copy_as, copy_module, weights_sha256
from .config import ExportConfig


class UnrepeatableError(UnsupportedError):
    """Two runs on the same inputs differ."""


@dataclass(frozen=True)
class Request:
    """A module, its inputs and the options of one export."""

    module: nn.Module
    """A float32 copy in eval mode, which is never run: forward may change it. See ``copy``."""
    signature: Signature
    """How it is called, with an example in float32."""
    config: ExportConfig
    weights_sha256: str
    notes: tuple[str, ...] = ()
    """Dtypes of the module that its file does not have."""

    def copy(self) -> nn.Module:
        """Return a copy of the module that may be run or changed."""
        return copy.deepcopy(self.module)


def make_request(module: nn.Module, example: Any, config: ExportConfig) -> Request:
    """Copy ``module`` and run the copy once on ``example``, which may be a ``Signature``.

    Raises:
        UnsupportedError: a scripted module, or batch norm in training mode.
        InputError: a parameter that is not finite, a module that can't be copied, an example that it refuses.
    """
    _check_module(module)
    own = own_copy(module)
    signature = example if isinstance(example, Signature) else Signature.of(own, example)
    dtypes = {tensor.dtype for tensor in (*own.parameters(), *own.buffers())} & OTHER_FLOATS
    names = sorted(str(dtype).rpartition(".")[2] for dtype in dtypes)
    request = Request(
        copy_as(own, torch.float32),
        signature.as_float32(),
        config,
        weights_sha256(own),
        tuple(f"the module is {name}, the file is float32 throughout" for name in names),
    )
    _try_example(own, signature)
    return request


def own_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` in eval mode, without a wrapper for several devices or of ``torch.compile``.

    Raises:
        InputError: it can't be copied.
    """
    while isinstance(module, DataParallel | DistributedDataParallel | OptimizedModule):
        module = module._orig_mod if isinstance(module, OptimizedModule) else module.module
    try:
        own = copy_module(module)
    except Exception as error:
        text = " ".join(str(error).split())[:400]
        raise InputError(
            f"{type(module).__name__} can't be copied ({text}); keep no tensors with gradients or open "
            "files in its attributes"
        ) from error
    own.eval()  # which may give None where a module has a train() of its own
    return own


def run_example(module: nn.Module, signature: Signature) -> None:
    """Run ``module`` on the example of ``signature``; raises what it raises."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        signature.call(module, signature.example)


def runs(module: nn.Module, signature: Signature) -> bool:
    """Return whether ``module`` takes the example of ``signature``."""
    try:
        run_example(module, signature)
    except Exception:  # noqa: BLE001  a module may raise anything at a size that it does not take
        return False
    return True


def _check_module(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            raise InputError(
                f"{name} of a {type(module).__name__} has no shape yet; call the module once before export"
            )
        if not bool(torch.isfinite(parameter).all()):
            raise InputError(f"{name} holds NaN or infinity; train again, or load other weights")
    for path, layer in module.named_modules():
        if isinstance(layer, ScriptModule):
            raise UnsupportedError(
                f"{path or type(module).__name__} is a TorchScript module, its layers can't be seen; "
                "export the module that it was scripted from"
            )
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise UnsupportedError(
                f"batch norm {path!r} is in training mode, where it normalizes by its own batch; "
                "call module.eval() before export"
            )


def _try_example(module: nn.Module, signature: Signature) -> None:
    try:
        run_example(module, signature)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in signature.shapes.items())
        text = " ".join(str(error).split())[:400] or type(error).__name__
        raise InputError(f"{type(module).__name__} does not run on the example ({shapes}): {text}") from error
