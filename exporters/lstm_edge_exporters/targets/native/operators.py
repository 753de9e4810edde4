"""How each ONNX operator becomes operations of a program.

A function of the table takes the memory, the node and its inputs: a ``Value`` is
computed at run time, an array is known when the graph is compiled, None is left out.
What an operator does not take is refused; the compiler adds the node's name.
"""

# ruff: noqa: ARG001  every function of the table takes the same arguments

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ...graph import constant
from .evaluate import attribute
from .memory import PADDING, Memory, Value
from .operations import Code
from .program import Binary, Function, in_int8

In = Value | Array | None
Out = Value | Array
Lower = Callable[..., Out | list[Out]]
LOWER: dict[tuple[str, str], Lower] = {}
"""By domain and name."""
MICROSOFT = "com.microsoft"
MOVES = (
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Transpose",
    "Slice",
    "Split",
    "Expand",
    "Tile",
)
"""Operators that move the numbers of their first input, as the others say."""
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_USUAL = {
    "LSTM": ("Sigmoid", "Tanh", "Tanh"),
    "GRU": ("Sigmoid", "Tanh"),
    "RNN": ("Tanh",),
}
_INSIDE = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSigmoid",
    "Softsign",
    "Softplus",
    "Elu",
    "LeakyRelu",
)
"""Functions of numbers that a recurrent layer may have inside."""
_PARAMETERS: Mapping[str, Sequence[tuple[str, float]]] = {
    "LeakyRelu": [("alpha", 0.01)],
    "ThresholdedRelu": [("alpha", 1.0)],
    "HardSigmoid": [("alpha", 0.2), ("beta", 0.5)],
    "Elu": [("alpha", 1.0)],
    "Selu": [("alpha", 1.6732632423543772), ("gamma", 1.0507009873554805)],
}
"""Attributes of elementwise operators that are alpha and beta, with their defaults."""
_UNARY = {
    name: Function["NEGATE" if name == "Neg" else re.sub("(?<=[a-z])(?=[A-Z])", "_", name).upper()]
    for name in (*_INSIDE, "ThresholdedRelu", "Selu", "Gelu", "Abs", "Neg", "Exp", "Log", "Sqrt",
                 "Reciprocal", "Erf", "Floor", "Ceil", "Round", "Sin", "Cos")
}  # fmt: skip
_BINARY = {
    "Add": Binary.ADD, "Sub": Binary.SUBTRACT, "Mul": Binary.MULTIPLY, "Div": Binary.DIVIDE,
    "Max": Binary.MAXIMUM, "Min": Binary.MINIMUM, "PRelu": Binary.PRELU, "Pow": Binary.POWER,
    "Sum": Binary.ADD, "Less": Binary.LESS, "LessOrEqual": Binary.LESS_EQUAL, "Greater": Binary.LESS,
    "GreaterOrEqual": Binary.LESS_EQUAL, "Equal": Binary.EQUAL,
}  # fmt: skip
"""Greater and GreaterOrEqual take their inputs the other way around."""


def lowers(*names: str, domain: str = "") -> Callable[[Lower], Lower]:
    """Return a decorator for the function that lowers some operators."""

    def register(lower: Lower) -> Lower:
        LOWER.update({(domain, name): lower for name in names})
        return lower

    return register


# inputs


def _value(given: In) -> Value:
    if not isinstance(given, Value):
        raise UnsupportedError("expected a runtime value, got a constant")
    return given


def floats(given: In) -> Value:
    """Return an input of float32 that is computed at run time; raises
    ``UnsupportedError`` for others.
    """
    value = _value(given)
    if value.dtype != "float32":
        raise UnsupportedError(f"an input of {value.dtype}, expected float32")
    return value


def as_array(given: In, what: str) -> Array:
    """Return an input that is stored in the file; raises ``UnsupportedError`` for
    others.
    """
    if not isinstance(given, np.ndarray):
        raise UnsupportedError(f"{what} that is not stored in the file")
    return given


def optional(given: In, what: str) -> Array | None:
    """Return an input as ``as_array`` does, or None if it is left out."""
    return None if given is None else as_array(given, what)


def _filled(memory: Memory, given: In) -> Value:
    """Return a value, or a buffer with what is stored in the file."""
    if (
        isinstance(given, np.ndarray)
        and given.dtype in (np.float32, np.bool_)
        and given.size
    ):
        return memory.stored(given)
    value = _value(given)
    return value if value.dtype == "bool" else floats(value)


# numbers one by one


def _function(name: str, node: ir.Node | None = None) -> tuple[Function, float, float]:
    """Return an operator's function with alpha and beta: those of a node, or the usual
    ones.
    """
    numbers = [
        num if node is None else attribute(node, key, num)
        for key, num in _PARAMETERS.get(name, ())
    ]
    alpha, beta, *_ = [*map(float, numbers), 0.0, 0.0]
    return _UNARY[name], alpha, beta


@lowers(*_UNARY)
@lowers("Gelu", domain=MICROSOFT)
def _unary(memory: Memory, node: ir.Node, given: In) -> Out:
    function, alpha, beta = _function(node.op_type, node)
    if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "tanh":
        function = Function.GELU_TANH
    return _map(memory, floats(given), function, alpha, beta)


def _map(
    memory: Memory,
    value: Value,
    function: Function,
    alpha: float = 0.0,
    beta: float = 0.0,
    dtype: str = "",
) -> Value:
    return memory.map(
        value, lambda buffer: memory.writer.unary(buffer, function, alpha, beta), dtype
    )


@lowers("Clip")
def _clip(
    memory: Memory, node: ir.Node, given: In, least: In = None, most: In = None
) -> Out:
    low, high = (
        float(
            attribute(
                node,
                name,
                default if limit is None else as_array(limit, "a limit").item(),
            )
        )
        for name, limit, default in (("min", least, -np.inf), ("max", most, np.inf))
    )
    return _map(memory, floats(given), Function.CLIP, low, high)


@lowers("HardSwish")
def _hard_swish(memory: Memory, node: ir.Node, given: In) -> Out:
    value = floats(given)
    return _combine(
        memory,
        Binary.MULTIPLY,
        value,
        _map(memory, value, Function.HARD_SIGMOID, 1 / 6, 0.5),
    )


@lowers(*_BINARY)
def _binary(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    """Combine the inputs, from the first to the last."""
    if node in memory.fused:
        return next(input_ for input_ in inputs if isinstance(input_, Value))
    first, *rest = inputs[::-1] if node.op_type.startswith("Greater") else inputs
    for operand in rest:
        first = _combine(memory, _BINARY[node.op_type], first, operand)
    return _value(first)


def _combine(memory: Memory, kind: Binary, a: In, b: In) -> Value:
    """Return a function of two values of float32, or of whole numbers; one of them may
    be stored.

    It is computed in the order in which the numbers of one of the two lie, so that they
    are not copied.
    """
    swap = not isinstance(a, Value)
    lead, other = (_value(b), a) if swap else (_value(a), b)
    if other is None:
        raise UnsupportedError("an input that is left out")
    whole = lead.dtype == "int64" and kind not in (Binary.PRELU, Binary.POWER)
    if (
        isinstance(other, Value)
        and other.dtype != (lead if whole else floats(lead)).dtype
    ):
        raise UnsupportedError(f"{lead.dtype} with {other.dtype}")
    shape = np.broadcast_shapes(lead.shape, other.shape)
    if (
        kind is Binary.ADD
        and isinstance(other, np.ndarray)
        and lead.shape == shape
        and not other.any()
    ):
        return lead
    size = prod(shape)
    if isinstance(other, Value) and (
        lead.size == 1 or (other.size == size and memory.lying(lead) is None)
    ):
        lead, other, swap = other, lead, not swap
    lying = memory.lying(lead) if lead.size == size else None
    row, order = lying or (
        _spread(memory, lead, shape, np.arange(size)),
        np.arange(size),
    )
    if isinstance(other, Value):
        out = memory.writer.binary(
            kind, row, _spread(memory, other, shape, order), swap=swap
        )
    else:
        stored = np.broadcast_to(np.asarray(other, lead.dtype), shape).reshape(-1)[
            order
        ]
        same = (stored == stored[:1]).all() and memory.writer.width(row) == size
        out = memory.writer.binary(kind, row, stored[:1] if same else stored, swap=swap)
    places = np.empty(size, np.int64)
    places[order] = memory.at(out)
    result = Value(places.reshape(shape), lead.dtype)
    if kind not in (Binary.LESS, Binary.LESS_EQUAL, Binary.EQUAL):
        return result
    return (
        memory.map(result, memory.writer.cast, "bool")
        if whole
        else result._replace(dtype="bool")
    )


def _spread(memory: Memory, value: Value, shape: Sequence[int], order: Array) -> int:
    """Return a row of a value that is broadcast, in some order; a single number stays
    alone.
    """
    places = (
        value.places
        if value.size == 1
        else np.broadcast_to(value.places, shape).reshape(-1)[order]
    )
    return memory.row(Value(places, value.dtype))


@lowers("Not")
def _not(memory: Memory, node: ir.Node, given: In) -> Out:
    return _map(memory, _filled(memory, given), Function.AFFINE, -1.0, 1.0, "bool")


@lowers("Where")
def _where(memory: Memory, node: ir.Node, *given: In) -> Out:
    values = [_filled(memory, operand) for operand in given]
    shape = np.broadcast_shapes(*(value.shape for value in values))
    rows = [memory.row(Value(np.broadcast_to(value.places, shape))) for value in values]
    out = memory.writer.buffer(prod(shape))
    memory.writer.operation(Code.WHERE, *rows, out)
    return memory.value(out, shape)


@lowers("BatchNormalization")
def _batch_norm(memory: Memory, node: ir.Node, given: In, *parameters: In) -> Out:
    value = floats(given)
    scale, bias, mean, variance = (
        as_array(part, "a parameter").astype("float64") for part in parameters
    )
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    shape = (-1, *[1] * (len(value.shape) - 2))
    scaled = _combine(memory, Binary.MULTIPLY, value, factor.reshape(shape))
    return _combine(memory, Binary.ADD, scaled, (bias - mean * factor).reshape(shape))


@lowers("Cast")
def _cast(memory: Memory, node: ir.Node, given: In) -> Out:
    value = _value(given)
    to = ir.DataType(attribute(node, "to")).numpy().name
    is_float = value.dtype in ("float32", "bool")
    if to in ("int64", "int32") and not is_float:
        return value
    if to == "int64":
        return memory.map(
            value, lambda buffer: memory.writer.cast(buffer, "int64"), "int64"
        )
    if to != "float32" and to != value.dtype:
        raise UnsupportedError(f"from {value.dtype} to {to}")
    if not is_float:
        value = memory.map(value, memory.writer.cast, "float32")
    return value._replace(dtype=to)


# rows of numbers


def _product(
    memory: Memory,
    node: ir.Node,
    source: Value,
    weights: Array,
    scales: Array | None = None,
) -> Value:
    """Return ``source @ weights.T``, with a stored bias that the one reader of the
    product adds to it.
    """
    readers = [*node.outputs[0].uses()]
    adding = (
        readers[0].node
        if len(readers) == 1 and not node.outputs[0].is_graph_output()
        else node
    )
    bias = (
        constant(adding.inputs[1 - readers[0].idx]) if adding.op_type == "Add" else None
    )
    bias = None if bias is None or bias.shape != (len(weights),) else bias
    if bias is not None:
        memory.fused.add(adding)
    row = memory.writer.linear(memory.row(source), weights, bias, scales)
    return memory.value(row, (*source.shape[:-1], len(weights)))


@lowers("Gemm")
def _gemm(
    memory: Memory, node: ir.Node, given: In, matrix: In, added: In = None
) -> Out:
    source = floats(given)
    weights = as_array(matrix, "weights")
    if attribute(node, "transA", 0) or any(
        attribute(node, name, 1.0) != 1.0 for name in ("alpha", "beta")
    ):
        raise UnsupportedError("transA, alpha or beta")
    weights = weights if attribute(node, "transB", 0) else weights.T
    bias = np.zeros(1, "float32") if added is None else as_array(added, "a bias")
    if bias.ndim > 1 and len(bias) > 1:
        raise UnsupportedError("a bias that differs between rows")
    row = memory.writer.linear(
        memory.row(source), weights, np.broadcast_to(bias.reshape(-1), len(weights))
    )
    return memory.value(row, (source.shape[0], len(weights)))


@lowers("MatMul")
def _matmul(memory: Memory, node: ir.Node, given: In, matrix: In) -> Out:
    return _product(memory, node, floats(given), _matrix(matrix).T)


def _matrix(given: In) -> Array:
    """Return stored weights as ``(K, M)``."""
    weights = as_array(given, "weights")
    if weights.ndim < 2 or prod(weights.shape[:-2]) != 1:
        raise UnsupportedError(f"weights {weights.shape}, expected a matrix")
    return weights.reshape(weights.shape[-2:])


@lowers("Softmax", "LogSoftmax")
def _softmax(memory: Memory, node: ir.Node, given: In) -> Out:
    value = floats(given)
    axis = attribute(node, "axis", -1)
    moved = np.moveaxis(value.places, axis, -1)
    options = (value.shape[axis], int(node.op_type == "LogSoftmax"))
    row = memory.writer.add(Code.SOFTMAX, memory.row(Value(moved)), *options)
    return Value(np.moveaxis(memory.at(row).reshape(moved.shape), -1, axis))


@lowers("LayerNormalization")
def _layer_norm(
    memory: Memory, node: ir.Node, given: In, scale: In = None, bias: In = None
) -> Out:
    value = floats(given)
    inner = value.shape[attribute(node, "axis", -1) :]
    parameters = [
        memory.writer.optional(
            None
            if vector is None
            else np.broadcast_to(as_array(vector, "a scale"), inner).reshape(-1)
        )
        for vector in (scale, bias)
    ]
    options = (prod(inner), float(attribute(node, "epsilon", 1e-5)), *parameters)
    return memory.value(
        memory.writer.add(Code.NORMALIZE, memory.row(value), *options), value.shape
    )


@lowers("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2")
def _reduce(memory: Memory, node: ir.Node, given: In, axes: In = None) -> Out:
    value = floats(given)
    kind = node.op_type
    rank = len(value.shape)
    stored = (
        attribute(node, "axes", ())
        if axes is None
        else as_array(axes, "axes").reshape(-1).tolist()
    )
    if attribute(node, "noop_with_empty_axes", 0):
        raise UnsupportedError("noop_with_empty_axes")
    inner = sorted({axis % rank for axis in stored} or range(rank))
    outer = [axis for axis in range(rank) if axis not in inner]
    kept = [1 if axis in inner else size for axis, size in enumerate(value.shape)]
    shape = kept if attribute(node, "keepdims", 1) else [kept[axis] for axis in outer]
    length = prod(value.shape[axis] for axis in inner)
    if kind in ("ReduceL2", "ReduceSumSquare"):
        value = _combine(memory, Binary.MULTIPLY, value, value)
    if length > 1:
        factor = np.full(
            (1, length), 1 / length if kind == "ReduceMean" else 1, "float32"
        )
        row = memory.row(Value(value.places.transpose(*outer, *inner)))
        value = memory.value(memory.writer.linear(row, factor), shape)
    total = value._replace(places=value.places.reshape(shape))
    return _map(memory, total, Function.SQRT) if kind == "ReduceL2" else total


@lowers("CumSum")
def _cumulative_sum(memory: Memory, node: ir.Node, given: In, along: In) -> Out:
    value = floats(given)
    sums = list[Value]()
    if attribute(node, "reverse", 0) or attribute(node, "exclusive", 0):
        raise UnsupportedError("reverse or exclusive")
    axis = as_array(along, "an axis").item()
    for frame in np.moveaxis(value.places, axis, 0):
        sums.append(
            _combine(memory, Binary.ADD, sums[-1], Value(frame))
            if sums
            else Value(frame)
        )
    return Value(np.moveaxis(np.stack([total.places for total in sums]), 0, axis))


# numbers that are moved


@lowers("Identity", "Dropout")
def _identity(memory: Memory, node: ir.Node, given: In, *_: In) -> Out:
    return _value(given)


@lowers("Concat")
def _concat(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    given = [
        input_ for input_ in inputs if not isinstance(input_, np.ndarray) or input_.size
    ]
    values = [_filled(memory, operand) for operand in given]
    return Value(
        np.concatenate([value.places for value in values], attribute(node, "axis")),
        values[0].dtype,
    )


@lowers("Gather")
def _gather(memory: Memory, node: ir.Node, data: In, index: In) -> Out:
    axis = attribute(node, "axis", 0)
    if isinstance(data, Value):
        return data._replace(places=data.places.take(as_array(index, "places"), axis))
    table = as_array(data, "a table")
    value = _value(index)
    axis %= table.ndim
    inputs = {port.buffer for port in memory.writer.ports("inputs")}
    if value.dtype == "float32" or not inputs.issuperset(memory.buffers(value) or [-1]):
        raise UnsupportedError("an index that is no input: it may be beyond the table")
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    gathered = memory.at(memory.writer.gather(memory.row(value), rows))
    outer = table.shape[:axis]
    inner = table.shape[axis + 1 :]
    places = gathered.reshape(*value.shape, *outer, *inner)
    rank = len(value.shape)
    return Value(np.moveaxis(places, range(rank), range(axis, axis + rank)))


@lowers("Pad")
def _pad(
    memory: Memory,
    node: ir.Node,
    given: In,
    pads: In = None,
    fill: In = None,
    axes: In = None,
) -> Out:
    value = floats(given)
    mode = attribute(node, "mode", "constant")
    around = as_array(pads, "pads").reshape(-1).tolist()
    number = 0.0 if fill is None else float(as_array(fill, "a value").item())
    widths = [(0, 0)] * len(value.shape)
    chosen = (
        range(len(widths))
        if axes is None
        else as_array(axes, "axes").reshape(-1).tolist()
    )
    for index, axis in enumerate(chosen):
        widths[axis % len(widths)] = (around[index], around[index + len(around) // 2])
    if mode != "constant" or min(map(min, widths)) < 0:
        raise UnsupportedError(f"pads of {widths} and mode {mode}")
    padded = Value(np.pad(value.places, widths, constant_values=PADDING))
    return memory.value(memory.row(padded, number), padded.shape)


@lowers("Resize")
def _resize(
    memory: Memory, node: ir.Node, given: In, roi: In = None, scales: In = None, *_: In
) -> Out:
    """Repeat frames: nearest neighbors, upsampled by whole numbers."""
    names = ("mode", "coordinate_transformation_mode", "nearest_mode")
    modes = [attribute(node, name, "") for name in names]
    if modes != ["nearest", "asymmetric", "floor"] or scales is None:
        raise UnsupportedError(
            f"{modes}, expected nearest, asymmetric, floor and scales"
        )
    places = floats(given).places
    for axis, scale in enumerate(as_array(scales, "scales").tolist()):
        if scale != int(scale) or scale < 1:
            raise UnsupportedError(f"a scale of {scale}")
        places = np.repeat(places, int(scale), axis)
    return Value(places)


# recurrent layers


@lowers(*_GATES)
def _recurrent(
    memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In
) -> list[Out]:
    weights = [as_array(matrix, "weights") for matrix in (w, r)]
    scales: list[Array | None] = [None, None]
    for index, weight in enumerate(
        weights if memory.int8 and node.op_type != "LSTM" else ()
    ):
        if (stored := in_int8(weight[0])) is not None:
            weights[index] = stored[0][None]
            scales[index] = stored[1]
    return _layer(memory, node, node.op_type, x, weights, scales, *rest)


@lowers("DynamicQuantizeLSTM", domain=MICROSOFT)
def _int8_lstm(
    memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In
) -> list[Out]:
    *others, w_scale, w_zero, r_scale, r_zero = rest
    weights = []
    scales = []
    for given, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
        raw = as_array(given, "weights")
        weights.append(_shift(raw, zero).transpose(0, 2, 1))
        scales.append(_vector(as_array(scale, "a scale"), raw.shape[2]))
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
    *states: In,
) -> list[Out]:
    hidden = weights[1].shape[2]
    count = 2 if kind == "LSTM" else 1
    for name, expected in {
        "direction": "forward",
        "layout": 0,
        "clip": 0.0,
        "input_forget": 0,
    }.items():
        if (given := attribute(node, name, expected)) != expected:
            raise UnsupportedError(f"{name} {given}")
    if len(states) < count or any(state is not None for state in states[count:]):
        raise UnsupportedError("peepholes, or no states")
    optional(lengths, "lengths")
    if (both := optional(bias, "a bias")) is not None:
        both = both.reshape(2, _GATES[kind] * hidden)
        both = both.reshape(-1) if kind == "GRU" else both[0] + both[1]
    rows = [memory.row(Value(frame)) for frame in floats(x).places]
    news = memory.writer.recurrent(
        Code[kind],
        rows[0],
        [memory.row(floats(state)) for state in states[:count]],
        [weight[0] for weight in weights],
        both,
        scales=scales,
        flags=int(bool(attribute(node, "linear_before_reset", 0))),
        functions=_activations(kind, node),
    )
    first = len(memory.writer.operations) - 1
    steps = [news[0]]
    for row in rows[1:]:
        news = memory.writer.recurrent_again(first, row, news)
        steps.append(news[0])
    shape = (1, 1, hidden)
    y = Value(np.stack([memory.at(new).reshape(shape) for new in steps]))
    return [y, *(memory.value(new, shape) for new in news)]


def _activations(kind: str, node: ir.Node) -> list[tuple[Function, float, float]]:
    """Return the functions inside a layer, each with alpha and beta."""
    names = [str(name) for name in attribute(node, "activations") or _USUAL[kind]]
    parameters = attribute(node, "activation_alpha") or attribute(
        node, "activation_beta"
    )
    if parameters or len(names) != len(_USUAL[kind]) or not set(names) <= set(_INSIDE):
        raise UnsupportedError(
            f"activations {names}, expected {[*_INSIDE]} without parameters"
        )
    return [_function(name) for name in names]


# int8 products


@lowers("DynamicQuantizeMatMul", domain=MICROSOFT)
def _int8_matmul(
    memory: Memory, node: ir.Node, given: In, matrix: In, scale: In, zero: In = None
) -> Out:
    """Multiply by int8 weights; the compiler puts this in the place of the nodes that
    ``quantize`` writes.
    """
    weights = _shift(_matrix(matrix), zero).T
    return _product(
        memory,
        node,
        floats(given),
        weights,
        _vector(as_array(scale, "a scale"), len(weights)),
    )


def _shift(raw: Array, zero: In) -> Array:
    """Return quantized weights ``(..., K, M)`` without their zero points, as int8."""
    point = (
        np.zeros(1, "int16")
        if zero is None
        else as_array(zero, "a zero point").astype("int16").ravel()
    )
    shifted = raw.astype("int16") - point
    if shifted.min() < -128 or shifted.max() > 127:
        raise UnsupportedError(
            "weights that do not fit into int8 without their zero points"
        )
    return np.asarray(shifted.astype("int8"))


def _vector(scales: Array, size: int) -> Array:
    return np.broadcast_to(np.asarray(scales, "float32").reshape(-1), size)
