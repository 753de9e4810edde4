"""Weights stored small and computed in float: onnxruntime folds the decoding away when it loads the file.

A weight becomes an int8 or float16 initializer behind ``Cast`` (and ``Mul`` by a scale per row). These are
ordinary nodes over constants, so a session evaluates them once, at load; a ``DequantizeLinear`` in their
place is kept by onnxruntime and paid for at every call (measured on a GRU: 1.5 times a float step).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

__all__ = ["store_fp16", "store_int8"]

_SMALLEST = 256
"""Elements; a smaller weight costs more in nodes than it saves."""
_FP16_MAX = float(np.finfo(np.float16).max)
_ROWS: Mapping[str, Mapping[int, int]] = {
    "LSTM": {1: -1, 2: -1},
    "GRU": {1: -1, 2: -1},
    "RNN": {1: -1, 2: -1},
    "Gather": {0: -1},
    "MatMul": {1: -2},
}
"""Per operator: its weight inputs, and the axis that one scale spans."""

Array = npt.NDArray[Any]


def store_int8(model: ir.Model, operators: set[str]) -> int:
    """Store the weights of ``operators`` as int8 with a scale per row, in place; gives how many nodes' were.

    ``Gather`` counts with its table (an embedding), ``Gemm`` and ``MatMul`` with their second input.
    """
    axes: dict[ir.Value, int] = {}
    nodes = 0
    for node in model.graph:
        if node.op_type in operators and node.domain == "":
            found = {
                value: axis
                for index, axis in _weight_inputs(node)
                if index < len(node.inputs) and (value := node.inputs[index]) is not None and _is_large(value)
            }
            axes.update(found)
            nodes += bool(found)
    _replace(model.graph, axes, lambda value: _decode_int8(value, axes[value]))
    return nodes


def store_fp16(model: ir.Model) -> int:
    """Store every large float32 initializer as float16, in place; gives how many were.

    One that holds a value beyond float16's range stays as it is.
    """
    values = [value for value in model.graph.initializers.values() if _is_large(value) and _fits(value)]
    _replace(model.graph, values, _decode_fp16)
    return len(values)


def _weight_inputs(node: ir.Node) -> Iterator[tuple[int, int]]:
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        yield 1, -1 if transposed is not None and transposed.as_int() == 1 else -2
    yield from _ROWS.get(node.op_type, {}).items()


def _is_large(value: ir.Value) -> bool:
    tensor = value.const_value
    return (
        value.is_initializer()
        and tensor is not None
        and tensor.dtype == ir.DataType.FLOAT
        and tensor.size >= _SMALLEST
    )


def _fits(value: ir.Value) -> bool:
    return bool(np.abs(_array(value)).max() <= _FP16_MAX)


def _array(value: ir.Value) -> Array:
    if value.const_value is None:
        raise TypeError(f"{value.name} is no initializer")
    return value.const_value.numpy()


def _replace(
    graph: ir.Graph, values: Iterable[ir.Value], decode: Callable[[ir.Value], list[ir.Node]]
) -> None:
    first = graph[0]
    for value in list(values):
        nodes = decode(value)
        for item in (*nodes[0].inputs, *nodes[-1].inputs[1:]):
            if item is not None:
                graph.register_initializer(item)
        ir.convenience.replace_all_uses_with(value, nodes[-1].outputs[0])
        graph.insert_before(first, nodes)
        graph.initializers.pop(str(value.name))


def _decode_int8(value: ir.Value, axis: int) -> list[ir.Node]:
    weight = _array(value).astype(np.float64)
    peak = np.abs(weight).max(axis=axis, keepdims=True)
    scale = np.where(peak > 0, peak / 127, 1.0)
    stored = _constant(f"{value.name}_int8", np.rint(weight / scale).astype(np.int8))
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})
    scales = _constant(f"{value.name}_scale", scale.astype(np.float32))
    return [cast, ir.node("Mul", [cast.outputs[0], scales])]


def _decode_fp16(value: ir.Value) -> list[ir.Node]:
    stored = _constant(f"{value.name}_fp16", _array(value).astype(np.float16))
    return [ir.node("Cast", [stored], {"to": ir.DataType.FLOAT.value})]


def _constant(name: str, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
