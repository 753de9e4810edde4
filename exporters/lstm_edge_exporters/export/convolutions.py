"""Convolutions as one node each while ``forward`` is traced.

PyTorch's trace of a convolution chooses a memory format, which a file does not have; for
a signal of one channel the choice limits sizes to two or more.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..graph import UniqueNames
from ._torch_internals import assume


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """Return the result of ``F.conv1d``, ``F.conv2d`` or ``F.conv3d`` from a node."""
    rank = weight.dim() - 2
    assume(x.shape[-rank - 1] == weight.shape[1] * groups)
    strides = _per_axis(stride, rank)
    dilations = _per_axis(dilation, rank)
    reaches = [
        d * (size - 1) for d, size in zip(dilations, weight.shape[2:], strict=True)
    ]
    if padding == "same":
        starts = [reach // 2 for reach in reaches]
        ends = [reach - start for reach, start in zip(reaches, starts, strict=True)]
    else:
        starts = [0] * rank if padding == "valid" else _per_axis(padding, rank)
        ends = starts
    sizes = []
    for axis in range(rank):
        free: Any = x.shape[axis - rank] + starts[axis] + ends[axis] - reaches[axis]
        assume(free >= 1)
        sizes.append((free - 1) // strides[axis] + 1)
    attributes = {
        "strides": strides,
        "pads": [*starts, *ends],
        "group": groups,
        "dilations": dilations,
    }
    return _node(
        op="Conv",
        x=x,
        weight=weight,
        bias=bias,
        shape=[weight.shape[0], *sizes],
        attributes=attributes,
    )


def _convolve_transposed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Tensor:
    """Return the result of ``F.conv_transpose1d``, 2d or 3d from a node."""
    rank = weight.dim() - 2
    assume(x.shape[-rank - 1] == weight.shape[0])
    strides = _per_axis(stride, rank)
    pads = _per_axis(padding, rank)
    added = _per_axis(output_padding, rank)
    dilations = _per_axis(dilation, rank)
    sizes = []
    for axis in range(rank):
        reach = dilations[axis] * (weight.shape[axis + 2] - 1)
        spread: Any = (x.shape[axis - rank] - 1) * strides[axis]
        size = spread + reach + added[axis] + 1 - 2 * pads[axis]
        assume(size >= 1)
        sizes.append(size)
    attributes = {
        "strides": strides,
        "pads": [*pads, *pads],
        "group": groups,
        "dilations": dilations,
        "output_padding": added,
    }
    shape = [weight.shape[1] * groups, *sizes]
    return _node(
        op="ConvTranspose",
        x=x,
        weight=weight,
        bias=bias,
        shape=shape,
        attributes=attributes,
    )


def _per_axis(value: Any, rank: int) -> list[int]:
    """Return one number per axis that is convolved."""
    values = [*value] if isinstance(value, Sequence) else [value]
    return values * rank if len(values) == 1 else values


def _node(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    shape: Sequence[Any],
    attributes: Mapping[str, Any],
) -> Tensor:
    """Return the result of a node, ``shape`` behind its batch axis; an input without a
    batch axis gets one of one row.
    """
    has_batch = x.dim() == weight.dim()
    rows = x if has_batch else x.unsqueeze(0)
    result = torch.onnx.ops.symbolic(
        op,
        (rows, weight) if bias is None else (rows, weight, bias),
        {**attributes, "kernel_shape": [*weight.shape[2:]]},
        dtype=x.dtype,
        shape=[rows.shape[0], *shape],
    )
    return result if has_batch else result.squeeze(0)


def name_convolutions(graph: ir.Graph) -> None:
    """Name the nodes of convolutions after PyTorch's functions, in place."""
    names = UniqueNames(graph)
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.op_type in _FUNCTIONS:
            rank = len(node.attributes["kernel_shape"].as_ints())
            function = f"{_FUNCTIONS[node.op_type]}{rank}d"
            node.name = names.unique(f"node_{function}")
            node.outputs[0].name = names.unique(function)


_FUNCTIONS = {"Conv": "conv", "ConvTranspose": "conv_transpose"}
"""PyTorch's name of each operator, without the number of axes."""
_RECORDED: Mapping[Any, Callable[..., Tensor]] = {
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), _convolve),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        _convolve_transposed,
    ),
}
"""The function that records each convolution of PyTorch."""


class Convolutions(TorchFunctionMode):
    """Records convolutions as nodes inside; for traces."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Record a convolution; pass every other function on."""
        return _RECORDED.get(func, func)(*args, **(kwargs or {}))
