"""How each ONNX operator becomes operations of a program.

A function of the table takes the memory, the node and its inputs: a ``Value`` is computed at run time, an
array is known when the graph is compiled, None is left out. What an operator does not take is refused; the
compiler adds the node's name.
"""
# ruff: noqa: ARG001  every function of the table takes the same arguments

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from .evaluate import attribute
from .memory import PADDING, Memory, Value
from .program import Binary, Code, Function, in_int8


class Quantized(NamedTuple):
    """What DynamicQuantizeLinear makes of a value, and what follows from it up to the product's scale."""

    source: Value
    role: str
    """``quantized``, ``scale``, ``zero``, ``product`` or ``product_scale``."""
    weights: Array | None = None
    """int8 ``(M, K)`` of a product."""
    scales: Array | None = None
    """``(M,)`` or one, of a product's scale."""


In = Value | Quantized | Array | None
Out = Value | Quantized | Array
Lower = Callable[..., Out | list[Out]]
LOWER: dict[tuple[str, str], Lower] = {}
"""By domain and name."""
MICROSOFT = "com.microsoft"
MOVES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Expand", "Tile")
"""Operators that move the numbers of their first input, as the others say."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_PARAMETERS: Mapping[str, Sequence[tuple[str, float]]] = {
    "LeakyRelu": [("alpha", 0.01)],
    "ThresholdedRelu": [("alpha", 1.0)],
    "HardSigmoid": [("alpha", 0.2), ("beta", 0.5)],
    "Elu": [("alpha", 1.0)],
    "Selu": [("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805)],
}
"""Of operators of one number the attributes that are alpha and beta, with their defaults."""
_UNARY: Mapping[str, tuple[Function, Sequence[tuple[str, float]]]] = {
    name: (Function[named or name.upper()], _PARAMETERS.get(name, ()))
    for name, named in {
        "Relu": "", "Sigmoid": "", "Tanh": "", "LeakyRelu": "LEAKY_RELU", "HardSigmoid": "HARD_SIGMOID",
        "ThresholdedRelu": "THRESHOLDED_RELU", "Elu": "", "Selu": "", "Softsign": "", "Softplus": "",
        "Gelu": "", "Abs": "", "Neg": "NEGATE", "Exp": "", "Log": "", "Sqrt": "", "Reciprocal": "",
        "Erf": "", "Floor": "", "Ceil": "", "Round": "", "Sin": "", "Cos": "",
    }.items()
}  # fmt: skip
"""An operator to its function, and the attributes that are alpha and beta with their defaults."""
_BINARY = {
    "Add": Binary.ADD, "Sub": Binary.SUBTRACT, "Mul": Binary.MULTIPLY, "Div": Binary.DIVIDE,
    "Max": Binary.MAXIMUM, "Min": Binary.MINIMUM, "PRelu": Binary.PRELU, "Pow": Binary.POWER,
    "Sum": Binary.ADD, "Mod": Binary.REMAINDER, "Less": Binary.LESS, "LessOrEqual": Binary.LESS_EQUAL,
    "Greater": Binary.LESS, "GreaterOrEqual": Binary.LESS_EQUAL, "Equal": Binary.EQUAL,
    "And": Binary.MULTIPLY, "Or": Binary.MAXIMUM, "Xor": Binary.EQUAL,
}  # fmt: skip
"""Greater and GreaterOrEqual take their inputs the other way around, and Xor is negated."""
_COMPARES = (Binary.LESS, Binary.LESS_EQUAL, Binary.EQUAL)


def lowers(*names: str, domain: str = "") -> Callable[[Lower], Lower]:
    """Return a decorator for the function that lowers some operators."""

    def register(lower: Lower) -> Lower:
        LOWER.update({(domain, name): lower for name in names})
        return lower

    return register


# inputs


def _value(given: In) -> Value:
    if not isinstance(given, Value):
        raise UnsupportedError("expected a runtime value, got a constant or a quantized value")
    return given


def floats(given: In) -> Value:
    """Return an input of float32 that is computed at run time; raises ``UnsupportedError`` for others."""
    value = _value(given)
    if value.dtype != "float32":
        raise UnsupportedError(f"an input of {value.dtype}, expected float32")
    return value


def known(given: In, what: str) -> Array:
    """Return an input that is stored in the file; raises ``UnsupportedError`` for others."""
    if not isinstance(given, np.ndarray):
        raise UnsupportedError(f"{what} that is not stored in the file")
    return given


def optional(given: In, what: str) -> Array | None:
    """Return an input as ``known`` does, None where it is left out."""
    return None if given is None else known(given, what)


def _filled(memory: Memory, given: In) -> Value:
    """Return a value, or a buffer with what is stored in the file."""
    if isinstance(given, np.ndarray) and given.dtype in (np.float32, np.bool_) and given.size:
        return memory.stored(given)
    value = _value(given)
    return value if value.dtype == "bool" else floats(value)


def _axis(node: ir.Node, default: int, rank: int) -> int:
    return int(attribute(node, "axis", default)) % rank


# numbers one by one


@lowers(*_UNARY)
@lowers("Gelu", domain=MICROSOFT)
def _unary(memory: Memory, node: ir.Node, given: In) -> Out:
    function, names = _UNARY[node.op_type]
    alpha, beta, *_ = [*(float(attribute(node, name, default)) for name, default in names), 0.0, 0.0]
    if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "tanh":
        function = Function.GELU_TANH
    return _each(memory, floats(given), function, alpha, beta)


def _each(
    memory: Memory, value: Value, function: Function, alpha: float = 0.0, beta: float = 0.0, dtype: str = ""
) -> Value:
    return memory.each(value, lambda buffer: memory.writer.unary(buffer, function, alpha, beta), dtype)


@lowers("Clip")
def _clip(memory: Memory, node: ir.Node, given: In, least: In = None, most: In = None) -> Out:
    low, high = (
        float(attribute(node, name, default if limit is None else known(limit, "a limit").item()))
        for name, limit, default in (("min", least, -np.inf), ("max", most, np.inf))
    )
    return _each(memory, floats(given), Function.CLIP, low, high)


@lowers("HardSwish")
def _hard_swish(memory: Memory, node: ir.Node, given: In) -> Out:
    value = floats(given)
    return _combine(memory, Binary.MULTIPLY, value, _each(memory, value, Function.HARD_SIGMOID, 1 / 6, 0.5))


@lowers(*_BINARY)
def _binary(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    """Combine the inputs, from the first to the last."""
    if any(isinstance(value, Quantized) for value in inputs):
        return _scale_product(memory, *inputs)
    kind, given = _BINARY[node.op_type], list(inputs)
    if node.op_type in ("And", "Or", "Xor"):
        given = [_filled(memory, each)._replace(dtype="float32") for each in given]
    if kind is Binary.REMAINDER and attribute(node, "fmod", 0):
        raise UnsupportedError("fmod")
    if kind is Binary.ADD and len(given) == 2 and (fused := _fuse_bias(memory, node, *given)) is not None:
        return fused
    first, *rest = given[::-1] if node.op_type.startswith("Greater") else given
    for other in rest:
        first = _combine(memory, kind, first, other)
    found = _value(first)
    if node.op_type == "Xor":
        return _negated(memory, found)
    return found._replace(dtype="bool") if node.op_type in ("And", "Or") else found


def _combine(memory: Memory, kind: Binary, a: In, b: In) -> Value:
    """Return a function of two values of float32, or of whole numbers; one of them may be stored."""
    swap = not isinstance(a, Value)
    value, other = _value(b if swap else a), a if swap else b
    whole = value.dtype == "int64"
    if not whole:
        floats(value)
        if kind is Binary.REMAINDER:
            raise UnsupportedError("a remainder of float32")
    elif kind in (Binary.PRELU, Binary.POWER):
        raise UnsupportedError("an operator of whole numbers that is not covered")
    if isinstance(other, np.ndarray):
        found = _combine_stored(memory, kind, value, np.asarray(other, value.dtype), swap=swap)
    elif _value(other).dtype != value.dtype:
        raise UnsupportedError(f"{value.dtype} with {_value(other).dtype}")
    else:
        found = _combine_values(memory, kind, value, _value(other))
    if kind not in _COMPARES:
        return found
    return memory.each(found, memory.writer.cast, "bool") if whole else found._replace(dtype="bool")


def _combine_stored(memory: Memory, kind: Binary, value: Value, stored: Array, *, swap: bool) -> Value:
    shape = np.broadcast_shapes(value.shape, stored.shape)
    if kind is Binary.ADD and value.shape == shape and not stored.any():
        return value
    row, order, laid = _laid(memory, value, shape)
    flat = np.broadcast_to(stored, shape).reshape(-1)[order]
    if (flat == flat[:1]).all() and memory.writer.width(row) == flat.size:
        flat = flat[:1]
    return laid(memory.writer.binary(kind, row, flat, swap=swap))


def _combine_values(memory: Memory, kind: Binary, a: Value, b: Value) -> Value:
    shape = np.broadcast_shapes(a.shape, b.shape)
    lead = b if a.size == 1 or (b.shape == shape and memory.lying(a) is None) else a
    row, order, laid = _laid(memory, lead, shape)
    other = a if lead is b else b
    if other.size > 1:
        places = np.broadcast_to(other.places, shape).reshape(-1)[order]
        other = Value(places, other.dtype)
    rows = (row, memory.row(other))
    return laid(memory.writer.binary(kind, *(rows if lead is a else rows[::-1])))


def _laid(memory: Memory, value: Value, shape: tuple[int, ...]) -> tuple[int, Array, Callable[[int], Value]]:
    """Return a row of a value that is broadcast, in the order that takes no copies.

    Returns:
        The row (one number where the value has one), the indices into the flat result that its numbers are
        of, and what makes the result of a row in that order.
    """
    size = prod(shape)
    lying = memory.lying(value) if value.size == size else None
    if lying is not None:
        row, order = lying
    else:
        spread = value if value.size == 1 else Value(np.broadcast_to(value.places, shape), value.dtype)
        row, order = memory.row(spread), np.arange(size)

    def laid(result: int) -> Value:
        places = np.empty(size, np.int64)
        places[order] = memory.at(result)
        return Value(places.reshape(shape), value.dtype)

    return row, order, laid


def _fuse_bias(memory: Memory, node: ir.Node, a: In, b: In) -> Value | None:
    """Add a stored bias to a product that nothing else uses; return the sum, None where there is no such."""
    place = 0 if isinstance(a, Value) else 1
    value, bias = (a, b)[place], (b, a)[place]
    name = node.inputs[place]
    if not isinstance(value, Value) or not isinstance(bias, np.ndarray) or name is None:
        return None
    lying = memory.lying(value) if str(name.name) in memory.exclusive else None
    columns = memory.writer.linear_rows(lying[0]) if lying is not None else 0
    if lying is None or not columns or np.broadcast_shapes(value.shape, bias.shape) != value.shape:
        return None
    rows = np.broadcast_to(bias, value.shape).reshape(-1)[lying[1]].reshape(-1, columns)
    if not (rows == rows[:1]).all():
        return None
    memory.writer.fuse_bias(lying[0], rows[0])
    return value


@lowers("Not")
def _not(memory: Memory, node: ir.Node, given: In) -> Out:
    return _negated(memory, _filled(memory, given))


def _negated(memory: Memory, value: Value) -> Value:
    return _each(memory, value, Function.AFFINE, -1.0, 1.0, "bool")


@lowers("Where")
def _where(memory: Memory, node: ir.Node, *given: In) -> Out:
    values = [_filled(memory, each) for each in given]
    shape = np.broadcast_shapes(*(value.shape for value in values))
    rows = [memory.row(Value(np.broadcast_to(value.places, shape))) for value in values]
    return memory.value(memory.writer.where(*rows), shape)


@lowers("BatchNormalization")
def _batch_norm(memory: Memory, node: ir.Node, given: In, *parameters: In) -> Out:
    value = floats(given)
    if attribute(node, "training_mode", 0):
        raise UnsupportedError("training mode")
    scale, bias, mean, variance = (known(each, "a parameter").astype("float64") for each in parameters)
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    shape = (-1, *[1] * (len(value.shape) - 2))
    scaled = _combine(memory, Binary.MULTIPLY, value, factor.reshape(shape))
    return _combine(memory, Binary.ADD, scaled, (bias - mean * factor).reshape(shape))


@lowers("Cast")
def _cast(memory: Memory, node: ir.Node, given: In) -> Out:
    to = ir.DataType(attribute(node, "to")).numpy().name
    if isinstance(given, Quantized) and given.role == "product" and to == "float32":
        return given
    value = _value(given)
    is_float = value.dtype in ("float32", "bool")
    if to in ("int64", "int32") and not is_float:
        return value
    if to == "int64":
        return memory.each(value, lambda buffer: memory.writer.cast(buffer, "int64"), "int64")
    if to not in ("float32", "bool"):
        raise UnsupportedError(f"from {value.dtype} to {to}")
    if not is_float:
        value = memory.each(value, memory.writer.cast, "float32")
    if to == "float32" or value.dtype == "bool":
        return value._replace(dtype=to)
    return _negated(memory, _combine(memory, Binary.EQUAL, value, np.zeros(1, "float32")))


# rows of numbers


def _product(
    memory: Memory,
    source: Value,
    weights: Array,
    bias: Array | None,
    shape: Sequence[int],
    scales: Array | None = None,
) -> Value:
    return memory.value(memory.writer.linear(memory.row(source), weights, bias, scales), shape)


@lowers("Gemm")
def _gemm(memory: Memory, node: ir.Node, given: In, matrix: In, added: In = None) -> Out:
    source, weights = floats(given), known(matrix, "weights")
    if attribute(node, "transA", 0):
        source = source._replace(places=source.places.T)
    weights = weights if attribute(node, "transB", 0) else weights.T
    shape = (source.shape[0], weights.shape[0])
    if (alpha := attribute(node, "alpha", 1.0)) != 1.0:
        weights = np.float32(alpha) * weights
    bias = optional(added, "a bias")
    if bias is not None:
        rows = np.broadcast_to(bias * np.float32(attribute(node, "beta", 1.0)), shape)
        if not (rows == rows[:1]).all():
            raise UnsupportedError("a bias that differs between rows")
        bias = rows[0]
    return _product(memory, source, weights, bias, shape)


@lowers("MatMul")
def _matmul(memory: Memory, node: ir.Node, given: In, matrix: In) -> Out:
    source, weights = floats(given), _matrix(matrix)
    return _product(memory, source, weights.T, None, (*source.shape[:-1], weights.shape[1]))


def _matrix(given: In) -> Array:
    """Return stored weights as ``(K, M)``."""
    weights = known(given, "weights")
    if weights.ndim < 2 or prod(weights.shape[:-2]) != 1:
        raise UnsupportedError(f"weights {weights.shape}, expected a matrix")
    return weights.reshape(weights.shape[-2:])


@lowers("Softmax", "LogSoftmax")
def _softmax(memory: Memory, node: ir.Node, given: In) -> Out:
    value = floats(given)
    axis = _axis(node, -1, len(value.shape))
    moved = np.moveaxis(value.places, axis, -1)
    logarithm = node.op_type == "LogSoftmax"
    row = memory.writer.softmax(memory.row(Value(moved)), value.shape[axis], logarithm=logarithm)
    return Value(np.moveaxis(memory.at(row).reshape(moved.shape), -1, axis))


@lowers("LayerNormalization")
def _layer_norm(memory: Memory, node: ir.Node, given: In, scale: In = None, bias: In = None) -> Out:
    value = floats(given)
    inner = value.shape[_axis(node, -1, len(value.shape)) :]
    parameters = [
        None if each is None else np.broadcast_to(known(each, "a scale"), inner).reshape(-1)
        for each in (scale, bias)
    ]
    epsilon = float(attribute(node, "epsilon", 1e-5))
    row = memory.writer.normalize(memory.row(value), prod(inner), epsilon, *parameters)
    return memory.value(row, value.shape)


@lowers("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2")
def _reduce(memory: Memory, node: ir.Node, given: In, axes: In = None) -> Out:
    value, kind = floats(given), node.op_type
    rank = len(value.shape)
    stored = attribute(node, "axes", ()) if axes is None else known(axes, "axes").reshape(-1).tolist()
    if not stored and attribute(node, "noop_with_empty_axes", 0):
        return value
    inner = sorted({axis % rank for axis in stored} or range(rank))
    outer = [axis for axis in range(rank) if axis not in inner]
    kept = [1 if axis in inner else size for axis, size in enumerate(value.shape)]
    shape = kept if attribute(node, "keepdims", 1) else [kept[axis] for axis in outer]
    length = prod(value.shape[axis] for axis in inner)
    if kind in ("ReduceL2", "ReduceSumSquare"):
        value = _combine(memory, Binary.MULTIPLY, value, value)
    elif kind == "ReduceL1":
        value = _each(memory, value, Function.ABS)
    if length > 1:
        factor = np.full((1, length), 1 / length if kind == "ReduceMean" else 1, "float32")
        value = _product(memory, Value(value.places.transpose(*outer, *inner)), factor, None, shape)
    total = value._replace(places=value.places.reshape(shape))
    return _each(memory, total, Function.SQRT) if kind == "ReduceL2" else total


@lowers("CumSum")
def _cumulative_sum(memory: Memory, node: ir.Node, given: In, along: In) -> Out:
    value = floats(given)
    axis = known(along, "an axis").item() % len(value.shape)
    if attribute(node, "reverse", 0):
        raise UnsupportedError("a sum from the end")
    frames = np.moveaxis(value.places, axis, 0)
    sums = [memory.stored(np.zeros(frames.shape[1:], "float32"))] * bool(attribute(node, "exclusive", 0))
    for frame in frames[: len(frames) - len(sums)]:
        own = Value(frame)
        sums.append(_combine(memory, Binary.ADD, sums[-1], own) if sums else own)
    return Value(np.moveaxis(np.stack([each.places for each in sums]), 0, axis))


# numbers that are moved


@lowers("Identity", "Dropout")
def _identity(memory: Memory, node: ir.Node, given: In, *_: In) -> Out:
    return _value(given)


@lowers("Concat")
def _concat(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    given = [each for each in inputs if not isinstance(each, np.ndarray) or each.size]
    values = [_filled(memory, each) for each in given]
    return Value(np.concatenate([each.places for each in values], attribute(node, "axis")), values[0].dtype)


@lowers("Gather")
def _gather(memory: Memory, node: ir.Node, data: In, index: In) -> Out:
    axis = attribute(node, "axis", 0)
    if isinstance(data, Value):
        return data._replace(places=data.places.take(known(index, "places"), axis))
    table, value = known(data, "a table"), _value(index)
    axis %= table.ndim
    inputs = {port.buffer for port in memory.writer.ports("inputs")}
    if value.dtype == "float32" or not inputs.issuperset(memory.buffers(value) or [-1]):
        raise UnsupportedError("an index that is no input: it may be beyond the table")
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    found = memory.at(memory.writer.gather(memory.row(value), rows))
    outer, inner = table.shape[:axis], table.shape[axis + 1 :]
    places = found.reshape(*value.shape, *outer, *inner)
    rank = len(value.shape)
    return Value(np.moveaxis(places, range(rank), range(axis, axis + rank)))


@lowers("Pad")
def _pad(memory: Memory, node: ir.Node, given: In, pads: In = None, fill: In = None, axes: In = None) -> Out:
    value = floats(given)
    mode = attribute(node, "mode", "constant")
    around = known(pads, "pads").reshape(-1).tolist()
    number = 0.0 if fill is None else float(known(fill, "a value").item())
    widths = [(0, 0)] * len(value.shape)
    own = range(len(widths)) if axes is None else known(axes, "axes").reshape(-1).tolist()
    for place, axis in enumerate(own):
        widths[axis % len(widths)] = (around[place], around[place + len(around) // 2])
    if mode != "constant" or min(map(min, widths)) < 0:
        raise UnsupportedError(f"pads of {widths} and mode {mode}")
    if any(size == 1 and any(each) for size, each in zip(value.shape, widths, strict=True)):
        raise UnsupportedError(f"pads of {widths} around one step or number")
    padded = Value(np.pad(value.places, widths, constant_values=PADDING))
    return memory.value(memory.row(padded, number), padded.shape)


@lowers("Resize")
def _resize(memory: Memory, node: ir.Node, given: In, roi: In = None, scales: In = None, *_: In) -> Out:
    """Repeat frames: nearest neighbors, upsampled by whole numbers."""
    expected = {
        "mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor",
    }  # fmt: skip
    found = {name: attribute(node, name, "") for name in expected}
    if found != expected or scales is None:
        raise UnsupportedError(f"{found}, expected {expected} and scales")
    places = floats(given).places
    for axis, scale in enumerate(known(scales, "scales").tolist()):
        if scale != int(scale) or scale < 1:
            raise UnsupportedError(f"a scale of {scale}")
        places = np.repeat(places, int(scale), axis)
    return Value(places)


# recurrent layers


@lowers(*_GATES)
def _recurrent(memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In) -> list[Out]:
    weights = [known(each, "weights") for each in (w, r)]
    scales: list[Array | None] = [None, None]
    for place, each in enumerate(weights if memory.int8 and node.op_type != "LSTM" else ()):
        if (found := in_int8(each[0])) is not None:
            weights[place], scales[place] = found[0][None], found[1]
    return _layer(memory, node, node.op_type, x, weights, scales, *rest)


@lowers("DynamicQuantizeLSTM", domain=MICROSOFT)
def _int8_lstm(memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In) -> list[Out]:
    *others, w_scale, w_zero, r_scale, r_zero = rest
    weights, scales = [], []
    for given, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
        raw = known(given, "weights")
        weights.append(_shift(raw, zero).transpose(0, 2, 1))
        scales.append(_vector(known(scale, "a scale"), raw.shape[2]))
    return _layer(memory, node, "LSTM", x, weights, scales, *others)


def _layer(
    memory: Memory,
    node: ir.Node,
    kind: str,
    x: In,
    weights: Sequence[Array],
    scales: Sequence[Array | None],
    bias: In = None,
    lengths: In = None,
    h: In = None,
    c: In = None,
    peepholes: In = None,
) -> list[Out]:
    direction, hidden = attribute(node, "direction", "forward"), weights[1].shape[2]
    if direction != "forward" or weights[0].shape[0] != 1:
        raise UnsupportedError(f"direction {direction!r}")
    if attribute(node, "layout", 0) != 0:
        raise UnsupportedError("layout 1")
    optional(lengths, "lengths")
    states = [memory.row(floats(each)) for each in ((h, c) if kind == "LSTM" else (h,))]
    if (both := optional(bias, "a bias")) is not None:
        both = both.reshape(2, _GATES[kind] * hidden)
        both = both.reshape(-1) if kind == "GRU" else both[0] + both[1]
    flag = {"GRU": ("linear_before_reset", 2), "LSTM": ("input_forget", 1)}.get(kind, ("", 0))
    rows = [memory.row(Value(frame)) for frame in floats(x).places]
    news = memory.writer.recurrent(
        Code[kind],
        rows[0],
        states,
        [each[0] for each in weights],
        both,
        peepholes=optional(peepholes, "peepholes"),
        scales=scales,
        clip=float(attribute(node, "clip", 0.0)),
        flags=flag[1] * bool(attribute(node, flag[0], 0)),
        functions=_activations(kind, node),
    )
    first, every = len(memory.writer.operations) - 1, [news[0]]
    for row in rows[1:]:
        news = memory.writer.recurrent_again(first, row, news)
        every.append(news[0])
    shape = (1, 1, hidden)
    y = Value(np.stack([memory.at(new).reshape(shape) for new in every]))
    return [y, *(memory.value(new, shape) for new in news)]


def _activations(kind: str, node: ir.Node) -> list[tuple[Function, float, float]]:
    """Return the functions inside a layer, each with alpha and beta."""
    if attribute(node, "activation_alpha") or attribute(node, "activation_beta"):
        raise UnsupportedError("activations with parameters")
    names = attribute(node, "activations") or _USUAL[kind]
    found = [_UNARY.get(str(name), (Function.COS, ())) for name in names]
    if len(names) != len(_USUAL[kind]) or any(function > Function.SOFTPLUS for function, _ in found):
        raise UnsupportedError(f"activations {list(names)}")
    defaults = [[*(value for _, value in numbers), 0.0, 0.0] for _, numbers in found]
    return [(function, own[0], own[1]) for (function, _), own in zip(found, defaults, strict=True)]


# int8 products


@lowers("DynamicQuantizeLinear")
def _quantize(memory: Memory, node: ir.Node, given: In) -> list[Out]:
    return [Quantized(floats(given), role) for role in ("quantized", "scale", "zero")]


@lowers("MatMulInteger")
def _integer_product(
    memory: Memory, node: ir.Node, source: In, matrix: In, _: In = None, zero: In = None
) -> Out:
    if not isinstance(source, Quantized) or source.role != "quantized":
        raise UnsupportedError("an input that DynamicQuantizeLinear did not make")
    return Quantized(source.source, "product", _shift(_matrix(matrix), zero).T)


def _scale_product(memory: Memory, *inputs: In) -> Out:
    """Multiply the scale of an input with that of weights, or an integer product with both."""
    by_role = {each.role if isinstance(each, Quantized) else "": each for each in inputs}
    scale, stored, product = (by_role.get(role) for role in ("scale", "", "product"))
    if isinstance(scale, Quantized) and isinstance(stored, np.ndarray):
        return scale._replace(role="product_scale", scales=stored.reshape(-1))
    scale = by_role.get("product_scale")
    if isinstance(product, Quantized) and isinstance(scale, Quantized) and product.source is scale.source:
        assert product.weights is not None
        assert scale.scales is not None
        shape = (*product.source.shape[:-1], len(product.weights))
        scales = _vector(scale.scales, len(product.weights))
        return _product(memory, product.source, product.weights, None, shape, scales)
    raise UnsupportedError("a quantized input")


def _shift(raw: Array, zero: In) -> Array:
    """Return quantized weights ``(..., K, M)`` without their zero points, as int8."""
    point = np.zeros(1, "int16") if zero is None else known(zero, "a zero point").astype("int16").reshape(-1)
    shifted = raw.astype("int16") - point
    if shifted.min() < -128 or shifted.max() > 127:
        raise UnsupportedError("weights that do not fit into int8 without their zero points")
    narrow: Array = shifted.astype("int8")
    return narrow


def _vector(scales: Array, size: int) -> Array:
    return np.broadcast_to(np.asarray(scales, "float32").reshape(-1), size)
