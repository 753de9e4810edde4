"""How each ONNX operator becomes operations of a program.

A function of the table takes the memory, the node and its inputs: a ``Value`` is
computed at run time, an array is known when the graph is compiled, None is left out.
What an operator does not take is refused; the compiler adds the node's name.
"""

# ruff: noqa: ARG001  every function of the table takes the same arguments

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ...graph import constant
from ...padding import pad
from ...recurrent import ACTIVATIONS, GATES
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
"""Operators that move the elements of their first input; other inputs say how."""
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
_COMPARISONS = (Binary.LESS, Binary.LESS_EQUAL, Binary.EQUAL)
_WHOLE = ("int64", "int32")
"""Types of whole numbers; computed ones are int64."""


def lowers(*names: str, domain: str = "") -> Callable[[Lower], Lower]:
    """Return a decorator for the function that lowers some operators."""

    def register(lower: Lower) -> Lower:
        """Enter ``lower`` in the table under each name."""
        LOWER.update({(domain, name): lower for name in names})
        return lower

    return register


# inputs


def _value(operand: In) -> Value:
    """Return the operand as a value of the run time; refuse constants."""
    if not isinstance(operand, Value):
        raise UnsupportedError(
            "an input that is a constant, expected one that is computed of the samples"
        )
    return operand


def floats(operand: In) -> Value:
    """Return an input of float32 that is computed at run time; raises
    ``UnsupportedError`` for others.
    """
    value = _value(operand)
    if value.dtype != "float32":
        raise UnsupportedError(f"an input of {value.dtype}, expected float32")
    return value


def numbers_of(operand: In) -> Value:
    """Return an input of float32 or int64 that is computed at run time; raises
    ``UnsupportedError`` for others.
    """
    value = _value(operand)
    return value if value.dtype == "int64" else floats(value)


def as_array(operand: In, what: str) -> Array:
    """Return an input that is stored in the file; raises ``UnsupportedError`` for
    others.
    """
    if not isinstance(operand, np.ndarray):
        raise UnsupportedError(f"{what} that is not stored in the file")
    return operand


def optional(operand: In, what: str) -> Array | None:
    """Return an input as ``as_array`` does, or None if it is left out."""
    return None if operand is None else as_array(operand, what)


def _filled(memory: Memory, operand: In) -> Value:
    """Return a value; a stored array becomes a buffer."""
    if isinstance(operand, np.ndarray):
        is_float_or_bool = operand.dtype in (np.float32, np.bool_)
        if not is_float_or_bool:
            raise UnsupportedError(
                f"a stored input of {operand.dtype}, expected float32"
            )
        if operand.size:
            return memory.stored(operand)
    return _value(operand)


# numbers one by one


def _function(name: str, node: ir.Node | None = None) -> tuple[Function, float, float]:
    """Return an operator's function with alpha and beta: those of a node, or the usual
    ones.
    """
    numbers = []
    for key, default in _PARAMETERS.get(name, ()):
        number = default if node is None else attribute(node, key, default)
        numbers.append(float(number))
    alpha, beta = [*numbers, 0.0, 0.0][:2]
    return _UNARY[name], alpha, beta


@lowers(*_UNARY)
@lowers("Gelu", domain=MICROSOFT)
def _unary(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower a function of one number."""
    value = numbers_of(operand)
    if value.dtype == "int64":
        return _whole_unary(memory, node.op_type, value)
    function, alpha, beta = _function(node.op_type, node)
    if node.op_type == "Gelu" and attribute(node, "approximate", "none") == "tanh":
        function = Function.GELU_TANH
    return map_each(memory, value, function=function, alpha=alpha, beta=beta)


def _whole_unary(memory: Memory, op_type: str, value: Value) -> Value:
    """Return ``-x`` or ``abs(x)`` of whole numbers."""
    if op_type not in ("Neg", "Abs"):
        raise UnsupportedError(f"an input of {value.dtype}, expected float32")
    negative = combine(memory, Binary.SUBTRACT, (np.zeros(1), value))
    if op_type == "Neg":
        return negative
    return combine(memory, Binary.MAXIMUM, (value, negative))


def map_each(
    memory: Memory,
    value: Value,
    function: Function,
    alpha: float = 0.0,
    beta: float = 0.0,
    dtype: str = "",
) -> Value:
    """Apply a function of one number to each element."""
    return memory.map(
        value,
        lambda buffer: memory.writer.unary(buffer, function, alpha=alpha, beta=beta),
        dtype,
    )


@lowers("Clip")
def _clip(
    memory: Memory, node: ir.Node, operand: In, least: In = None, most: In = None
) -> Out:
    """Lower Clip."""
    value = numbers_of(operand)
    if value.dtype == "int64":
        for function, limit in ((Binary.MAXIMUM, least), (Binary.MINIMUM, most)):
            if limit is not None:
                value = combine(memory, function, (value, limit))
        return value
    low = -np.inf if least is None else as_array(least, "a limit").item()
    high = np.inf if most is None else as_array(most, "a limit").item()
    return map_each(memory, value, function=Function.CLIP, alpha=low, beta=high)


@lowers("HardSwish")
def _hard_swish(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower HardSwish to ``x * hard_sigmoid(x)``."""
    value = floats(operand)
    share = map_each(
        memory, value, function=Function.HARD_SIGMOID, alpha=1 / 6, beta=0.5
    )
    return combine(memory, Binary.MULTIPLY, (value, share))


@lowers("Mish")
def _mish(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower Mish to ``x * tanh(softplus(x))``."""
    value = floats(operand)
    share = map_each(memory, value, Function.SOFTPLUS)
    share = map_each(memory, share, Function.TANH)
    return combine(memory, Binary.MULTIPLY, (value, share))


@lowers("Celu")
def _celu(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower Celu to ``alpha * elu(x / alpha)``."""
    alpha = float(attribute(node, "alpha", 1.0))
    if alpha <= 0:
        raise UnsupportedError(f"alpha {alpha:g}, expected above 0")
    scaled = combine(memory, Binary.DIVIDE, (floats(operand), np.array(alpha)))
    bent = map_each(memory, scaled, Function.ELU, alpha=1.0)
    return combine(memory, Binary.MULTIPLY, (bent, np.array(alpha)))


@lowers("Sign")
def _sign(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower Sign to ``(0 < x) - (x < 0)``."""
    value = numbers_of(operand)
    zero = np.zeros(1)
    is_below = combine(memory, Binary.LESS, (value, zero))
    is_above = combine(memory, Binary.LESS, (zero, value))
    pair = (as_floats(is_above), as_floats(is_below))
    sign = combine(memory, Binary.SUBTRACT, pair)
    return to_int64(memory, sign) if value.dtype == "int64" else sign


@lowers("IsNaN")
def _is_nan(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower IsNaN."""
    return is_nan(memory, floats(operand))


@lowers("IsInf")
def _is_infinite(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower IsInf."""
    value = floats(operand)
    names = ("detect_negative", "detect_positive")
    if not all(attribute(node, name, 1) for name in names):
        raise UnsupportedError("infinity of one sign: compare with it")
    size = map_each(memory, value, Function.ABS)
    return combine(memory, Binary.EQUAL, (size, np.array(np.inf)))


def is_nan(memory: Memory, value: Value) -> Value:
    """Return bools: elements that do not equal themselves."""
    return inverted(memory, combine(memory, Binary.EQUAL, (value, value)))


@lowers(*_BINARY)
def _binary(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    """Combine the inputs, from the first to the last."""
    if node in memory.fused:
        return next(input_ for input_ in inputs if isinstance(input_, Value))
    operands = [*map(_flags_as_floats, inputs)]
    first, *rest = operands[::-1] if node.op_type.startswith("Greater") else operands
    for operand in rest:
        first = combine(memory, _BINARY[node.op_type], (first, operand))
    return _value(first)


def _flags_as_floats(operand: In) -> In:
    """Return a bool of the run time as the 0 and 1 that it is; any other as it is."""
    if isinstance(operand, Value) and operand.dtype == "bool":
        return as_floats(operand)
    return operand


def combine(memory: Memory, function: Binary, operands: tuple[In, In]) -> Value:
    """Return a function of two values of float32, or of whole numbers; one of them may
    be stored.
    """
    a, b = operands
    pair = _Pair(a, b) if isinstance(a, Value) else _Pair(_value(b), a, swap=True)
    pair.check(function)
    if function is Binary.ADD and pair.adds_nothing():
        return pair.lead
    pair = pair.widened(memory)
    pair = _lead_by_layout(memory, pair)
    dtype = pair.lead.dtype
    result = _add_binary(memory, function, pair)
    if function not in _COMPARISONS:
        return result
    if dtype == "int64":
        return memory.map(result, memory.writer.cast, "bool")
    return result._replace(dtype="bool")


@lowers("Mod")
def _remainder(memory: Memory, node: ir.Node, *operands: In) -> Out:
    """Take the remainder of whole numbers, with the sign of ``a``, or of ``b``."""
    a, b = operands
    if any(operand is None or operand.dtype not in _WHOLE for operand in operands):
        raise UnsupportedError(
            "a remainder of floats with the sign of the dividend: write"
            " x - y * torch.floor(x / y), or x % y"
        )
    result = _truncated_remainder(memory, a, b)
    if attribute(node, "fmod", 0):
        return result
    # b is added where the signs differ, so that the sum does not wrap
    signs = [_sign_of(memory, result), b if b is None else _sign_of(memory, b)]
    product = combine(memory, Binary.MULTIPLY, (signs[0], signs[1]))
    differs = combine(memory, Binary.LESS, (product, np.zeros(1, np.int64)))
    added = combine(memory, Binary.MULTIPLY, (to_int64(memory, differs), b))
    return combine(memory, Binary.ADD, (result, added))


def _sign_of(memory: Memory, operand: In) -> In:
    """Return -1, 0 or 1 for each whole number."""
    if isinstance(operand, np.ndarray):
        return np.sign(operand)
    one = np.ones(1, np.int64)
    positive = combine(memory, Binary.MINIMUM, (operand, one))
    return combine(memory, Binary.MAXIMUM, (positive, -one))


def _truncated_remainder(memory: Memory, a: In, b: In) -> Value:
    """Return the remainder of whole numbers with the sign of ``a``."""
    quotient = combine(memory, Binary.DIVIDE, (a, b))
    product = combine(memory, Binary.MULTIPLY, (quotient, b))
    return combine(memory, Binary.SUBTRACT, (a, product))


class _Pair(NamedTuple):
    """The operands of an elementwise function."""

    lead: Value
    """The operand in whose order of elements the result is computed."""
    other: In
    """The other operand, which may be stored."""
    swap: bool = False
    """True if ``lead`` is the second operand."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        assert self.other is not None
        return np.broadcast_shapes(self.lead.shape, self.other.shape)

    def check(self, function: Binary) -> None:
        """Refuse operands that are left out, or whose dtypes do not fit."""
        if self.other is None:
            raise UnsupportedError("an input that is left out")
        takes_whole = function not in (Binary.PRELU, Binary.POWER)
        if self.lead.dtype != "int64" or not takes_whole:
            floats(self.lead)
        is_computed = isinstance(self.other, Value)
        if is_computed and self.other.dtype != self.lead.dtype:
            raise UnsupportedError(f"{self.lead.dtype} with {self.other.dtype}")

    def widened(self, memory: Memory) -> "_Pair":
        """Return the operands with int64 in the place of inputs of whole numbers."""
        other = self.other
        if isinstance(other, Value):
            other = memory.widened(other)
        return self._replace(lead=memory.widened(self.lead), other=other)

    def adds_nothing(self) -> bool:
        """Return True if a sum of the two is ``lead`` itself."""
        if not isinstance(self.other, np.ndarray):
            return False
        return self.lead.shape == self.shape and not self.other.any()


def _lead_by_layout(memory: Memory, pair: _Pair) -> _Pair:
    """Exchange the operands if that saves copying the elements of one of them."""
    lead, other, swap = pair
    if not isinstance(other, Value):
        return pair
    is_full = other.size == prod(pair.shape)
    if lead.size == 1 or (is_full and memory.lying(lead) is None):
        return _Pair(other, lead, not swap)
    return pair


def _add_binary(memory: Memory, function: Binary, pair: _Pair) -> Value:
    """Add the operation for two operands."""
    lead, other, swap = pair
    shape = pair.shape
    size = prod(shape)
    order = np.arange(size)
    lying = memory.lying(lead) if lead.size == size else None
    if lying is None:
        row = _spread(memory, lead, shape=shape, order=order)
    else:
        row, order = lying
    if isinstance(other, Value):
        operand = _spread(memory, other, shape=shape, order=order)
        out = memory.writer.binary(function, row, operand, swap=swap)
    else:
        stored = np.broadcast_to(np.asarray(other, lead.dtype), shape)
        numbers = stored.reshape(-1)[order]
        is_equal = (numbers == numbers[:1]).all() and memory.writer.width(row) == size
        numbers = numbers[:1] if is_equal else numbers
        out = memory.writer.binary(function, row, numbers, swap=swap)
    addresses = np.empty(size, np.int64)
    addresses[order] = memory.at(out)
    return Value(addresses.reshape(shape), lead.dtype)


def _spread(memory: Memory, value: Value, shape: Sequence[int], order: Array) -> int:
    """Return a row of a broadcast value in a given order; a single number stays one
    number.
    """
    addresses = value.addresses
    if value.size > 1:
        addresses = np.broadcast_to(addresses, shape).reshape(-1)[order]
    return memory.row(Value(addresses, value.dtype))


@lowers("Not")
def _not(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower Not."""
    return inverted(memory, _filled(memory, operand))


def inverted(memory: Memory, value: Value) -> Value:
    """Return ``1 - x`` of a bool."""
    return map_each(
        memory,
        value,
        function=Function.AFFINE,
        alpha=-1.0,
        beta=1.0,
        dtype="bool",
    )


@lowers("And", "Or", "Xor")
def _logical(memory: Memory, node: ir.Node, a: In, b: In) -> Out:
    """Combine bools as the 0 and 1 that they are in a program."""
    pair = (as_floats(_filled(memory, a)), as_floats(_filled(memory, b)))
    if node.op_type == "Xor":
        return inverted(memory, combine(memory, Binary.EQUAL, pair))
    function = Binary.MULTIPLY if node.op_type == "And" else Binary.MAXIMUM
    return combine(memory, function, pair)._replace(dtype="bool")


@lowers("Where")
def _where(memory: Memory, node: ir.Node, *operands: In) -> Out:
    """Lower Where on operands of any shapes that broadcast."""
    condition, chosen, other = operands
    if chosen is not None and chosen.dtype in _WHOLE:
        return _where_whole(memory, _filled(memory, condition), chosen, other)
    values = [_filled(memory, operand) for operand in operands]
    shape = np.broadcast_shapes(*(value.shape for value in values))
    rows = [
        memory.row(Value(np.broadcast_to(value.addresses, shape))) for value in values
    ]
    out = memory.writer.buffer(prod(shape))
    memory.writer.operation(Code.WHERE, *rows, out)
    return memory.value(out, shape, values[1].dtype)


def _where_whole(memory: Memory, condition: Value, chosen: In, other: In) -> Value:
    """Return ``other + condition * (chosen - other)`` of whole numbers."""
    if isinstance(chosen, np.ndarray) and isinstance(other, np.ndarray):
        difference: In = chosen.astype("int64") - other  # may wrap, as the sum does
    else:
        difference = combine(memory, Binary.SUBTRACT, (chosen, other))
    flags = to_int64(memory, condition)
    added = combine(memory, Binary.MULTIPLY, (flags, difference))
    return combine(memory, Binary.ADD, (added, other))


@lowers("BatchNormalization")
def _batch_norm(memory: Memory, node: ir.Node, operand: In, *parameters: In) -> Out:
    """Lower BatchNormalization to one factor and one addend per channel."""
    value = floats(operand)
    scale, bias, mean, variance = (
        as_array(parameter, "a parameter").astype("float64") for parameter in parameters
    )
    factor = scale / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
    shape = (-1, *[1] * (len(value.shape) - 2))
    scaled = combine(memory, Binary.MULTIPLY, (value, factor.reshape(shape)))
    return combine(memory, Binary.ADD, (scaled, (bias - mean * factor).reshape(shape)))


@lowers("Cast")
def _cast(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Convert to float32, int64, int32 in an int64, or bool."""
    value = _value(operand)
    to = ir.DataType(attribute(node, "to")).numpy().name
    is_float = value.dtype in ("float32", "bool")
    if to == "int32" and value.dtype != "bool":
        return to_int64(memory, value, is_narrow=True)
    if to in _WHOLE:
        return to_int64(memory, value) if is_float else value
    if to == "bool" and value.dtype != "bool":
        return inverted(memory, combine(memory, Binary.EQUAL, (value, np.zeros(1))))
    if to != "float32" and to != value.dtype:
        raise UnsupportedError(f"from {value.dtype} to {to}")
    if not is_float:
        value = memory.map(value, memory.writer.cast, "float32")
    return value._replace(dtype=to)


def to_int64(memory: Memory, value: Value, *, is_narrow: bool = False) -> Value:
    """Convert to whole numbers, of the range of int32 if ``is_narrow``."""
    return memory.map(
        value,
        lambda buffer: memory.writer.cast(buffer, "int64", is_narrow=is_narrow),
        "int64",
    )


def as_floats(flags: Value) -> Value:
    """Return bools as the 0 and 1 that they are in a program."""
    return flags._replace(dtype="float32")


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
    bias = _fuse_bias(memory, node.outputs[0], len(weights))
    row = memory.writer.linear(memory.row(source), weights, bias=bias, scales=scales)
    return memory.value(row, (*source.shape[:-1], len(weights)))


def _fuse_bias(memory: Memory, product: ir.Value, width: int) -> Array | None:
    """Return the stored bias that the only reader of a product adds, and mark the reader
    as done; None if there is none.
    """
    readers = [*product.uses()]
    if len(readers) != 1 or product.is_graph_output():
        return None
    adding, index = readers[0]
    bias = constant(adding.inputs[1 - index]) if adding.op_type == "Add" else None
    if bias is None or bias.shape != (width,):
        return None
    memory.fused.add(adding)
    return bias


@lowers("Gemm")
def _gemm(
    memory: Memory, node: ir.Node, operand: In, matrix: In, addend: In = None
) -> Out:
    """Multiply by stored weights and add a bias, stored or computed."""
    source = floats(operand)
    weights = as_array(matrix, "weights")
    factors = [attribute(node, name, 1.0) for name in ("alpha", "beta")]
    if attribute(node, "transA", 0) or factors != [1.0, 1.0]:
        raise UnsupportedError("transA, alpha or beta")
    weights = weights if attribute(node, "transB", 0) else weights.T
    is_stored = addend is not None and not isinstance(addend, Value)
    bias = as_array(addend, "a bias") if is_stored else np.zeros(1, "float32")
    if bias.ndim > 1 and len(bias) > 1:
        raise UnsupportedError("a bias that differs between rows")
    bias = np.broadcast_to(bias.reshape(-1), len(weights))
    row = memory.writer.linear(memory.row(source), weights, bias)
    product = memory.value(row, (source.shape[0], len(weights)))
    if isinstance(addend, Value):
        return combine(memory, Binary.ADD, (product, addend))
    return product


@lowers("MatMul")
def _matmul(memory: Memory, node: ir.Node, operand: In, matrix: In) -> Out:
    """Lower a product with a constant matrix."""
    return _product(memory, node, source=floats(operand), weights=_matrix(matrix).T)


def _matrix(operand: In) -> Array:
    """Return stored weights as ``(K, M)``."""
    weights = as_array(operand, "weights")
    if weights.ndim < 2 or prod(weights.shape[:-2]) != 1:
        raise UnsupportedError(f"weights {weights.shape}, expected a matrix")
    return weights.reshape(weights.shape[-2:])


@lowers("Softmax", "LogSoftmax")
def _softmax(memory: Memory, node: ir.Node, operand: In) -> Out:
    """Lower Softmax and LogSoftmax along any axis."""
    value = floats(operand)
    axis = attribute(node, "axis", -1)
    moved = np.moveaxis(value.addresses, axis, -1)
    options = (value.shape[axis], int(node.op_type == "LogSoftmax"))
    row = memory.writer.add(Code.SOFTMAX, memory.row(Value(moved)), *options)
    return Value(np.moveaxis(memory.at(row).reshape(moved.shape), -1, axis))


@lowers("LayerNormalization")
def _layer_norm(
    memory: Memory, node: ir.Node, operand: In, scale: In = None, bias: In = None
) -> Out:
    """Normalize over the last axes, with stored scale and bias."""
    value = floats(operand)
    inner = value.shape[attribute(node, "axis", -1) :]
    parameters = []
    for given_vector in (scale, bias):
        vector = optional(given_vector, "a scale")
        if vector is not None:
            vector = np.broadcast_to(vector, inner).reshape(-1)
        parameters.append(memory.writer.optional(vector))
    options = (prod(inner), float(attribute(node, "epsilon", 1e-5)), *parameters)
    row = memory.writer.add(Code.NORMALIZE, memory.row(value), *options)
    return memory.value(row, value.shape)


# numbers that are moved


@lowers("Identity", "Dropout")
def _identity(memory: Memory, node: ir.Node, operand: In, *_: In) -> Out:
    """Lower operators that do nothing at inference."""
    return _value(operand)


@lowers("Concat")
def _concat(memory: Memory, node: ir.Node, *inputs: In) -> Out:
    """Lower Concat: only addresses change, no number is copied."""
    values = [_filled(memory, operand) for operand in inputs if not _is_empty(operand)]
    addresses = [value.addresses for value in values]
    return Value(np.concatenate(addresses, attribute(node, "axis")), values[0].dtype)


def _is_empty(operand: In) -> bool:
    """Return True for a stored array without elements."""
    return isinstance(operand, np.ndarray) and not operand.size


@lowers("Gather")
def _gather(memory: Memory, node: ir.Node, data: In, index: In) -> Out:
    """Take elements of a value, or look up rows of a stored table."""
    axis = attribute(node, "axis", 0)
    if isinstance(data, Value):
        return data._replace(
            addresses=data.addresses.take(as_array(index, "indices"), axis)
        )
    table = as_array(data, "a table")
    value = _value(index)
    axis %= table.ndim
    inputs = [port.buffer for port in memory.writer.ports("inputs")]
    (buffer, *others) = memory.buffers(value) or [-1]
    if value.dtype != "int64" or buffer not in inputs or others:
        raise UnsupportedError(
            "an index that is not an input: it may be beyond the table"
        )
    rows = np.moveaxis(table, axis, 0).reshape(table.shape[axis], -1)
    gathered = memory.at(memory.writer.gather(buffer, rows)).reshape(value.size, -1)
    outer = table.shape[:axis]
    inner = table.shape[axis + 1 :]
    in_order = gathered[value.addresses.reshape(-1) - memory.at(buffer)[0]]
    addresses = in_order.reshape(*value.shape, *outer, *inner)
    rank = len(value.shape)
    return Value(np.moveaxis(addresses, range(rank), range(axis, axis + rank)))


@lowers("ScatterND", "ScatterElements")
def _scatter(memory: Memory, node: ir.Node, data: In, indices: In, updates: In) -> Out:
    """Put elements into a value at stored indices: only addresses change."""
    if attribute(node, "reduction", "none") != "none":
        raise UnsupportedError("a reduction, expected elements that replace others")
    value = _filled(memory, data)
    numbers = as_array(indices, "indices")
    if node.op_type == "ScatterND":
        places = [*np.moveaxis(numbers, -1, 0)]
    else:
        places = [*np.indices(numbers.shape)]
        places[attribute(node, "axis", 0)] = numbers
    addresses = value.addresses.copy()
    addresses[tuple(places)] = _filled(memory, updates).addresses
    return value._replace(addresses=addresses)


@lowers("Pad")
def _pad(
    memory: Memory,
    node: ir.Node,
    operand: In,
    pads: In = None,
    fill: In = None,
    axes: In = None,
) -> Out:
    """Pad with a constant, along any axes; a negative number of pads drops elements."""
    value = floats(operand)
    mode = attribute(node, "mode", "constant")
    around = as_array(pads, "pads").reshape(-1).tolist()
    number = 0.0 if fill is None else float(as_array(fill, "a value").item())
    widths = [(0, 0)] * len(value.shape)
    chosen = range(len(widths))
    if axes is not None:
        chosen = as_array(axes, "axes").reshape(-1).tolist()
    for index, axis in enumerate(chosen):
        widths[axis % len(widths)] = (around[index], around[index + len(around) // 2])
    if mode != "constant":
        raise UnsupportedError(f"mode {mode}, expected constant")
    padded = Value(pad(value.addresses, widths, constant_values=PADDING))
    return memory.value(memory.row(padded, number), padded.shape)


@lowers("Resize")
def _resize(
    memory: Memory,
    node: ir.Node,
    operand: In,
    roi: In = None,
    scales: In = None,
    *_: In,
) -> Out:
    """Repeat frames: nearest neighbors, upsampled by whole numbers."""
    names = ("mode", "coordinate_transformation_mode", "nearest_mode")
    modes = [attribute(node, name, "") for name in names]
    if modes != ["nearest", "asymmetric", "floor"] or scales is None:
        raise UnsupportedError(
            f"{modes}, expected nearest, asymmetric, floor and scales"
        )
    addresses = floats(operand).addresses
    for axis, scale in enumerate(as_array(scales, "scales").tolist()):
        if scale != int(scale) or scale < 1:
            raise UnsupportedError(f"a scale of {scale}")
        addresses = np.repeat(addresses, int(scale), axis)
    return Value(addresses)


# recurrent layers


@lowers(*GATES)
def _recurrent(
    memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In
) -> list[Out]:
    """Add an LSTM, GRU or RNN; weights of GRU and RNN that are stored as int8 stay
    int8.
    """
    weights = [as_array(matrix, "weights") for matrix in (w, r)]
    scales: list[Array | None] = [None, None]
    if memory.int8 and node.op_type != "LSTM":
        for index, weight in enumerate(weights):
            stored = in_int8(weight[0])
            if stored is not None:
                weights[index] = stored[0][None]
                scales[index] = stored[1]
    return _layer(memory, node, node.op_type, x, weights, scales, *rest)


@lowers("DynamicQuantizeLSTM", domain=MICROSOFT)
def _int8_lstm(
    memory: Memory, node: ir.Node, x: In, w: In, r: In, *rest: In
) -> list[Out]:
    """Lower onnxruntime's LSTM with int8 weights."""
    *others, w_scale, w_zero, r_scale, r_zero = rest
    weights = []
    scales = []
    for weight, scale, zero in ((w, w_scale, w_zero), (r, r_scale, r_zero)):
        raw = as_array(weight, "weights")
        weights.append(_shift(raw, zero).transpose(0, 2, 1))
        scales.append(_vector(as_array(scale, "a scale"), raw.shape[2]))
    return _layer(memory, node, "LSTM", x, weights, scales, *others)


def _layer(
    memory: Memory,
    node: ir.Node,
    op_type: str,
    x: In,
    weights: Sequence[Array],
    scales: Sequence[Array | None],
    bias: In = None,
    lengths: In = None,
    *states: In,
) -> list[Out]:
    """Add a recurrent layer for each step of a unit; return Y and the last states."""
    hidden = weights[1].shape[2]
    _refuse_options(node)
    count = 2 if op_type == "LSTM" else 1
    if len(states) < count or any(state is not None for state in states[count:]):
        raise UnsupportedError("peepholes, or no states")
    optional(lengths, "lengths")
    source = floats(_filled(memory, x))
    rows = [memory.row(Value(frame)) for frame in source.addresses]
    news = memory.writer.recurrent(
        Code[op_type],
        rows[0],
        states=[memory.row(floats(_filled(memory, state))) for state in states[:count]],
        weights=[weight[0] for weight in weights],
        bias=_bias(op_type, optional(bias, "a bias")),
        scales=scales,
        flags=int(bool(attribute(node, "linear_before_reset", 0))),
        functions=_activations(op_type, node),
    )
    first = len(memory.writer.operations) - 1
    steps = [news[0]]
    for row in rows[1:]:
        news = memory.writer.recurrent_again(first, row, news)
        steps.append(news[0])
    shape = (1, 1, hidden)
    y = Value(np.stack([memory.at(new).reshape(shape) for new in steps]))
    return [y, *(memory.value(new, shape) for new in news)]


def _refuse_options(node: ir.Node) -> None:
    """Refuse attributes of a recurrent layer that change what it computes."""
    usual = {"direction": "forward", "layout": 0, "clip": 0.0, "input_forget": 0}
    for name, expected in usual.items():
        value = attribute(node, name, expected)
        if value != expected:
            raise UnsupportedError(f"{name} {value}")


def _bias(op_type: str, bias: Array | None) -> Array | None:
    """Return the biases of a layer as the program has them: both of a GRU, else their
    sum.
    """
    if bias is None:
        return None
    both = bias.reshape(2, -1)
    return both.reshape(-1) if op_type == "GRU" else both[0] + both[1]


def _activations(op_type: str, node: ir.Node) -> list[tuple[Function, float, float]]:
    """Return the functions inside a layer, each with alpha and beta."""
    names = [
        str(name) for name in attribute(node, "activations") or ACTIVATIONS[op_type]
    ]
    alphas = attribute(node, "activation_alpha")
    betas = attribute(node, "activation_beta")
    is_covered = set(names) <= set(_INSIDE) and len(names) == len(ACTIVATIONS[op_type])
    if alphas or betas or not is_covered:
        raise UnsupportedError(
            f"activations {names}, expected {[*_INSIDE]} without parameters"
        )
    return [_function(name) for name in names]


# int8 products


@lowers("DynamicQuantizeMatMul", domain=MICROSOFT)
def _int8_matmul(
    memory: Memory, node: ir.Node, operand: In, matrix: In, scale: In, zero: In = None
) -> Out:
    """Multiply by int8 weights; the compiler puts this in place of the nodes that
    ``quantize`` writes.
    """
    weights = _shift(_matrix(matrix), zero).T
    scales = _vector(as_array(scale, "a scale"), len(weights))
    return _product(
        memory, node, source=floats(operand), weights=weights, scales=scales
    )


def _shift(raw: Array, zero: In) -> Array:
    """Return quantized weights ``(..., K, M)`` without their zero points, as int8."""
    point = np.zeros(1, "int16")
    if zero is not None:
        point = as_array(zero, "a zero point").astype("int16").ravel()
    shifted = raw.astype("int16") - point
    if shifted.min() < -128 or shifted.max() > 127:
        raise UnsupportedError(
            "weights that do not fit into int8 without their zero points"
        )
    return np.asarray(shifted.astype("int8"))


def _vector(scales: Array, size: int) -> Array:
    """Return one scale per channel; a single scale is repeated."""
    return np.broadcast_to(np.asarray(scales, "float32").reshape(-1), size)
