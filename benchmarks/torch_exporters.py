"""PyTorch's two exporters."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def torchscript(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: Sequence[str],
    axes: Sequence[Mapping[int, str]],
) -> bytes:
    """Return the file of the deprecated exporter, with the dynamic axes of each
    input.
    """
    dynamic = {name: dict(dims) for name, dims in zip(names, axes, strict=True) if dims}
    options: dict[str, Any] = {"input_names": list(names), "dynamic_axes": dynamic}
    torch.onnx.export(module, inputs, buffer := io.BytesIO(), dynamo=False, **options)
    return buffer.getvalue()


def dynamo(
    module: nn.Module, inputs: tuple[Tensor, ...], shapes: Any, names: Any = None
) -> bytes:
    """Return the file of ``torch.export``'s exporter; ``shapes`` are its
    ``dynamic_shapes``.
    """
    program = torch.onnx.export(
        module,
        inputs,
        dynamo=True,
        input_names=names,
        dynamic_shapes=shapes,
        verbose=False,
    )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
