"""From a module to an ONNX graph: ``torch.export`` with recording, then PyTorch's own translation."""

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from .record import Recorder, instrument
from .refusals import tracing_refusal, translation_refusal
from .signature import Signature, flatten_output

__all__ = ["Traced", "trace"]

_SIZES = (3, 7, 5, 11, 13)
"""What dynamic axes are traced at: never 0 or 1, which tracing takes for constants."""


class Traced:
    """An ONNX graph with recorded recurrent nodes, and the names its outputs go by."""

    def __init__(self, model: ir.Model, outputs: tuple[str, ...]) -> None:
        self.model = model
        self.outputs = outputs
        """One name an output, ``""`` where the module gives none."""


def trace(module: nn.Module, signature: Signature, axes: Mapping[str, Axes]) -> Traced:
    """Trace ``module``, a copy in eval mode that this function may instrument.

    Args:
        module: the copy.
        signature: its inputs and an example.
        axes: for every input, an int where an axis is fixed and a name where it is dynamic.

    Raises:
        UnsupportedError: the module does what can't be exported right; the message says what instead.
    """
    sizes = _trace_sizes(axes)
    tensors = [
        _resize(tensor, axes[name], sizes)
        for name, tensor in zip(signature.names, signature.example, strict=True)
    ]
    recorder = Recorder()
    instrument(module, recorder)
    wrapper = _Wrapper(module, signature, recorder)
    dynamic = tuple(
        {
            index: torch.export.Dim.DYNAMIC if isinstance(axis, str) else torch.export.Dim.STATIC
            for index, axis in enumerate(axes[name])
        }
        for name in signature.names
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(wrapper, tuple(tensors), dynamic_shapes=(dynamic,), strict=False)
        except Exception as error:
            raise tracing_refusal(error, module) from error
        try:
            made = torch.onnx.export(
                program,
                tuple(tensors),
                dynamo=True,
                input_names=list(signature.names),
                opset_version=18,
                optimize=True,
                verbose=False,
            )
        except Exception as error:
            raise translation_refusal(error) from error
    assert made is not None
    model: ir.Model = made.model
    _name_axes(model, axes)
    return Traced(model, wrapper.outputs)


class _Wrapper(nn.Module):
    """Flat tensors in, flat tensors out, recorded."""

    def __init__(self, module: nn.Module, signature: Signature, recorder: Recorder) -> None:
        super().__init__()
        self.module = module
        self._signature = signature
        self._recorder = recorder
        self.outputs: tuple[str, ...] = ()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with self._recorder:
            flat = flatten_output(self._signature.call(self.module, tensors))
        self.outputs = tuple(name for name, _ in flat)
        return tuple(tensor for _, tensor in flat)


def _trace_sizes(axes: Mapping[str, Axes]) -> dict[str, int]:
    names = dict.fromkeys(axis for each in axes.values() for axis in each if isinstance(axis, str))
    if len(names) > len(_SIZES):
        raise InputError(
            f"{len(names)} dynamic axes ({', '.join(names)}); at most {len(_SIZES)} can be named"
        )
    return dict(zip(names, _SIZES, strict=False))


def _resize(tensor: Tensor, axes: Axes, sizes: Mapping[str, int]) -> Tensor:
    """Repeat or cut the example so that its dynamic axes have the traced sizes."""
    for index, axis in enumerate(axes):
        if isinstance(axis, str):
            places = torch.arange(sizes[axis], device=tensor.device) % tensor.shape[index]
            tensor = tensor.index_select(index, places)
    return tensor.detach()


def _name_axes(model: ir.Model, axes: Mapping[str, Axes]) -> None:
    """Write the declared names in the place of the tracer's symbols."""
    names: dict[str, str] = {}
    for value in model.graph.inputs:
        assert value.name is not None and value.shape is not None  # noqa: PT018
        for dimension, axis in zip(value.shape, axes[value.name], strict=True):
            if isinstance(axis, str):
                names.setdefault(str(dimension), axis)
    for value in _values(model.graph):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dimension, names) for dimension in value.shape])


def _renamed(dimension: Any, names: Mapping[str, str]) -> Any:
    if isinstance(dimension, int):
        return dimension
    return re.sub(r"[A-Za-z_]\w*", lambda match: names.get(match[0], match[0]), str(dimension))


def _values(graph: ir.Graph) -> Sequence[ir.Value]:
    return [*graph.inputs, *(value for node in graph for value in node.outputs)]
