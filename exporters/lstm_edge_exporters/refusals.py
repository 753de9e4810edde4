"""What can't be exported right, said with what to write instead."""

from torch import nn

from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError

__all__ = ["check_module", "tracing_refusal", "translation_refusal"]


def check_module(module: nn.Module) -> None:
    """Refuse a module that computes something else in training than it will on a device.

    Raises:
        UnsupportedError: batch norm in training mode.
    """
    for path, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            raise UnsupportedError(
                f"batch norm {path!r} is in training mode, where it normalises by its own batch; "
                "call module.eval() before export"
            )


def tracing_refusal(error: Exception, module: nn.Module) -> LstmEdgeError:
    """Say why ``torch.export`` could not trace ``module``."""
    if isinstance(error, LstmEdgeError):
        return error
    text = " ".join(str(error).split())
    return UnsupportedError(f"{type(module).__name__} can't be traced: {text[:400]}")


def translation_refusal(error: Exception) -> LstmEdgeError:
    """Say which operator PyTorch's ONNX translation lacks."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(str(cause).split())
    return UnsupportedError(f"the traced network can't be written as ONNX: {text[:400]}")
