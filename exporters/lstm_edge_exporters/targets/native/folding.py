"""Constant folding with numpy: values that follow from shapes and stored tensors alone."""

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ...onnx_reader import Node, Tensor

_MOST = 1 << 24
"""Numbers that a folded value may have: sizes come from the file."""
CASTS = {
    1: "float32", 2: "uint8", 3: "int8", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64",
}  # fmt: skip
"""The data types that a Cast names."""


def shape_after(node: Node, shape: tuple[int, ...], inputs: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape that a node which changes only the shape turns ``shape`` into."""
    rank, attributes = len(shape), node.attributes
    if node.op_type == "Reshape":
        wanted = _ints(inputs[0]) if inputs else list(attributes["shape"])
        if not attributes.get("allowzero", 0):
            wanted = [shape[i] if size == 0 and i < rank else size for i, size in enumerate(wanted)]
        return tuple(np.broadcast_to(np.int8(0), shape).reshape(wanted).shape)
    if node.op_type == "Flatten":
        axis = attributes.get("axis", 1)
        axis += rank if axis < 0 else 0
        return (int(np.prod(shape[:axis])), int(np.prod(shape[axis:])))
    if node.op_type in ("Squeeze", "Unsqueeze"):
        given = inputs[0] if inputs and inputs[0] is not None else attributes.get("axes")
        axes = None if given is None else _ints(given)
        if node.op_type == "Unsqueeze":
            return np.expand_dims(np.broadcast_to(np.int8(0), shape), tuple(axes or ())).shape
        return np.broadcast_to(np.int8(0), shape).squeeze(None if axes is None else tuple(axes)).shape
    return shape


def slices(node: Node, shape: tuple[int, ...], inputs: Sequence[Any]) -> Iterator[tuple[int, slice]]:
    """Return the axes that a Slice cuts, and where."""
    if inputs:
        starts, ends, axes, steps = ([None if e is None else _ints(e) for e in inputs] + [None, None])[:4]
    else:
        starts, ends = list(node.attributes["starts"]), list(node.attributes["ends"])
        axes, steps = node.attributes.get("axes"), None
    if starts is None or ends is None:
        raise UnsupportedError("a slice without its ends")
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = (axes[index] if axes is not None else index) % len(shape)
        step = steps[index] if steps is not None else 1
        if step < 0 and end < -shape[axis]:
            yield axis, slice(start, None, step)
        else:
            yield axis, slice(start, end, step)


def fold(node: Node, inputs: list[Array | None]) -> list[Array]:
    """Return the outputs of a node whose inputs are all known.

    Raises:
        UnsupportedError: an operator that is not folded.
    """
    try:
        if node.op_type == "Split":
            data, axis = _data(inputs), node.attributes.get("axis", 0)
            own = parts(node, data.shape[axis], inputs[1] if len(inputs) > 1 else None)
            return [data.take(part, axis) for part in own]
        if node.op_type in ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"):
            data = _data(inputs)
            return [data.reshape(shape_after(node, data.shape, inputs[1:]))]
        if node.op_type not in _FOLD:
            raise UnsupportedError("an operator of stored tensors that is not covered")
        with np.errstate(all="ignore"):
            return [np.asarray(_FOLD[node.op_type](node, inputs))]
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError) as error:
        if isinstance(error, UnsupportedError):
            raise
        raise UnsupportedError(f"stored tensors that do not fit ({error})") from error


def _ints(value: Any) -> list[int]:
    if isinstance(value, np.ndarray):
        return [int(each) for each in value.reshape(-1)]
    if isinstance(value, tuple | list):
        return [int(each) for each in value]
    raise UnsupportedError("a shape, axis or place that depends on the input")


def _data(inputs: list[Array | None]) -> Array:
    if not inputs or inputs[0] is None:
        raise UnsupportedError("no input")
    return inputs[0]


def _small(array: Array) -> Array:
    if array.size > _MOST:
        raise UnsupportedError(f"a tensor of {array.size} numbers")
    return array


def _constant(node: Node, inputs: list[Array | None]) -> Array:
    for name, value in node.attributes.items():
        if isinstance(value, Tensor):
            return value.array()
        if name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    raise UnsupportedError("a constant that is no tensor of numbers")


def _filled(node: Node, inputs: list[Array | None]) -> Array:
    value = node.attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else value.array()
    return np.full(_bounded(_ints(inputs[0])), fill.reshape(-1)[0], fill.dtype)


def _bounded(shape: list[int]) -> list[int]:
    if any(size < 0 for size in shape) or np.prod([float(size) for size in shape]) > _MOST:
        raise UnsupportedError(f"a tensor of shape {shape}")
    return shape


def _expand(node: Node, inputs: list[Array | None]) -> Array:
    data = _data(inputs)
    shape = np.broadcast_shapes(data.shape, tuple(_bounded(_ints(inputs[1]))))
    return np.broadcast_to(data, shape)


def _slice(node: Node, inputs: list[Array | None]) -> Array:
    data = _data(inputs)
    for axis, places in slices(node, data.shape, inputs[1:]):
        data = data[(slice(None),) * axis + (places,)]
    return data


def parts(node: Node, size: int, given: Any) -> list[range]:
    """Return the parts of an axis of ``size`` that a Split gives, where its sizes may be an input."""
    count = len(node.outputs)
    sizes = _ints(given) if given is not None else node.attributes.get("split")
    if sizes is None:
        each = -(-size // count)
        sizes = [min(each, size - each * index) for index in range(count)]
    if len(sizes) != count or min(sizes) < 0 or sum(sizes) != size:
        raise ValueError(f"parts of {sizes}, expected {count} of {size}")
    return [range(end - own, end) for own, end in zip(sizes, accumulate(sizes), strict=True)]


def _range(node: Node, inputs: list[Array | None]) -> Array:
    start, limit, step = (each.item() for each in inputs if each is not None)
    if step == 0 or (limit - start) / step > _MOST:
        raise UnsupportedError("a range without an end")
    values: Array = np.arange(start, limit, step).astype(_data(inputs).dtype)
    return values


def _cast(node: Node, inputs: list[Array | None]) -> Array:
    to = CASTS.get(node.attributes.get("to", 0))
    if to is None:
        raise UnsupportedError(f"a conversion to type {node.attributes.get('to')}")
    return _data(inputs).astype(to)


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):
        whole: Array = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
        return whole.astype(a.dtype)
    quotient: Array = a / b
    return quotient


def _two(function: Callable[[Array, Array], Array]) -> Callable[[Node, list[Array | None]], Array]:
    def apply(node: Node, inputs: list[Array | None]) -> Array:
        a, b = inputs
        assert a is not None
        assert b is not None
        np.broadcast_shapes(a.shape, b.shape)
        return _small(np.asarray(function(a, b)))

    return apply


def _one(function: Callable[[Array], Array]) -> Callable[[Node, list[Array | None]], Array]:
    return lambda node, inputs: np.asarray(function(_data(inputs)))


_FOLD: dict[str, Callable[[Node, list[Array | None]], Array]] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Slice": _slice,
    "Range": _range,
    "Cast": _cast,
    "Shape": lambda node, inputs: np.array(
        _data(inputs).shape[node.attributes.get("start", 0) : node.attributes.get("end")], np.int64
    ),
    "Size": _one(lambda a: np.array(a.size, np.int64)),
    "Transpose": lambda node, inputs: _data(inputs).transpose(node.attributes.get("perm")),
    "Concat": lambda node, inputs: np.concatenate(
        [each for each in inputs if each is not None], node.attributes["axis"]
    ),
    "Gather": lambda node, inputs: np.take(
        _data(inputs), np.asarray(inputs[1]), node.attributes.get("axis", 0)
    ),
    "Where": lambda node, inputs: np.where(*[np.asarray(each) for each in inputs]),
    "Add": _two(np.add),
    "Sub": _two(np.subtract),
    "Mul": _two(np.multiply),
    "Div": _two(_divide),
    "Max": _two(np.maximum),
    "Min": _two(np.minimum),
    "Equal": _two(np.equal),
    "Less": _two(np.less),
    "Greater": _two(np.greater),
    "Neg": _one(np.negative),
    "Floor": _one(np.floor),
    "Ceil": _one(np.ceil),
    "Sqrt": _one(np.sqrt),
    "Not": _one(np.logical_not),
}
