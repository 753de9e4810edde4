"""int8 and fp16: how weights are stored and arithmetic done, for which device, and what was made smaller.

int8: onnxruntime's dynamic quantizer turns LSTM into ``DynamicQuantizeLSTM`` (int8 weights, activations
quantized on the fly) and Linear into ``DynamicQuantizeLinear`` with ``MatMulInteger``. It has no kernel for
GRU and RNN: their weights, and embedding tables, are stored in int8 and computed in float. Convolutions stay
as they are. LSTM weights are always signed (onnxruntime 1.32 fixes that), activations always unsigned. On x86
without VNNI the product of the two is summed in saturating 16-bit pairs, so the weights keep to 7 bits there:
run on an emulated Haswell, a full-range file was off by 3.6e-2 in ``h_n`` where a 7-bit one was by 1.7e-3.

fp16: onnxruntime's CPU has no half-precision LSTM, GRU or RNN: it computes them in float32 between casts,
which it runs on every call (measured: a step 1.03 to 1.16 times a float one). So a file for a CPU only
*stores* its weights in float16 and says float32 everywhere else. A file for a GPU is float16 throughout.

A stored weight is an int8 or float16 initializer behind ``Cast`` (and ``Mul`` by a scale per row). These are
ordinary nodes over constants, so a session evaluates them once, at load; a ``DequantizeLinear`` in their
place is kept by onnxruntime and paid for at every call (measured on a GRU: 1.5 times a float step).
"""

import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import Array

from ..cpu import read_cpuinfo
from ..graph import Builder, data_inputs, walk
from ..recurrent import LENGTHS, OPERATORS, QUANTIZED, recurrent_nodes

_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
_MARKS = (_PREPARED[0], "onnx.infer")
"""Metadata that the quantizer reads and does not remove."""


@dataclass(frozen=True)
class Scheme:
    """One way to map float weights to integers."""

    per_channel: bool
    """A scale for each gate row, or one for a whole weight tensor."""
    reduce_range: bool
    """7 bits in place of 8."""

    def __str__(self) -> str:
        """Return it in words."""
        return (
            f"int8 signed, {'a scale per gate row' if self.per_channel else 'one scale a tensor'}, "
            f"{'7 bits (no VNNI)' if self.reduce_range else '8 bits'}"
        )


SCHEMES = {
    "x86-vnni": (Scheme(False, False), Scheme(True, False)),
    "x86": (Scheme(False, True), Scheme(True, True)),
    "arm": (Scheme(False, False), Scheme(True, False)),
}
"""Per target, the fastest first; the next is tried if one exceeds its budget."""


def int8_dynamic(model: ir.Model, scheme: Scheme) -> onnx.ModelProto:
    """Return ``model`` (prepared, float32; changed in place) with int8 arithmetic if there is a kernel.

    Raises:
        InputError: the folder for temporary files can't be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    store_int8(model, {"GRU", "RNN", "Gather"})
    NameFixPass()(model)  # products that are left out are named
    padded = _keep_padding_out(model)
    proto = ir.to_proto(model)
    _drop_shapes_of_weights(proto.graph)
    producer = proto.producer_name, proto.producer_version
    proto.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(
                proto,
                path,
                op_types_to_quantize=["LSTM", "MatMul"],
                nodes_to_exclude=padded + (_thick_products(proto.graph) if scheme.per_channel else []),
                per_channel=scheme.per_channel,
                reduce_range=scheme.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            quantized = onnx.load(path)
    except OSError as error:
        raise InputError(f"the temporary folder can't be written: {error.strerror or error}") from error
    quantized.producer_name, quantized.producer_version = producer
    kept = [prop for prop in quantized.metadata_props if prop.key not in _MARKS]
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(kept)
    return quantized


def _thick_products(graph: onnx.GraphProto) -> list[str]:
    """Return the names of products with weights of three axes.

    A projection's are; onnxruntime quantizes them with a scale per channel, and then refuses to run them.
    """
    thick = {weight.name for weight in graph.initializer if len(weight.dims) > 2}
    return [node.name for node in graph.node if node.op_type == "MatMul" and thick.intersection(node.input)]


def _keep_padding_out(model: ir.Model) -> list[str]:
    """Keep steps beyond a row's length, whatever is in them, out of the ranges that are quantized over.

    An LSTM takes the range of all of X: padding that reaches it becomes 0, in place. Products that padding
    reaches are returned by name; they stay in float.
    """
    ends = [node for node in recurrent_nodes(model) if len(node.inputs) > LENGTHS and node.inputs[LENGTHS]]
    inputs = [value for value in data_inputs(model.graph) if value.dtype == ir.DataType.FLOAT]

    def passed_on(value: ir.Value) -> list[ir.Value]:
        return [output for node, _ in value.uses() if node not in ends for output in node.outputs]

    reached = set(walk(inputs, passed_on)) if ends else set[ir.Value]()
    for node in ends:
        x, lengths = node.inputs[0], node.inputs[LENGTHS]
        if node.op_type != "LSTM" or x not in reached or x is None or lengths is None:
            continue
        build = Builder(node, str(node.name))
        (shape,) = build.node("Shape", [x])
        shape.dtype = ir.DataType.INT64
        (steps,) = build.node("Gather", [shape, build.constant(np.array(0), "axis")])
        start, apart = (build.constant(np.array(each, np.int32), "number") for each in (0, 1))
        (places,) = build.node("Range", [start, build.cast(steps, ir.DataType.INT32), apart])
        valid = [build.reshape(places, (-1, 1, 1)), build.reshape(lengths, (-1, 1))]
        (before,) = build.node("Less", valid)
        before.dtype = ir.DataType.BOOL
        (kept,) = build.node("Where", [before, x, build.constant(np.float32(0).reshape(()), "padding")])
        kept.type = x.type
        node.replace_input_with(0, kept)
    return [str(node.name) for node in model.graph if node.op_type == "MatMul" and node.inputs[0] in reached]


def _drop_shapes_of_weights(graph: onnx.GraphProto) -> None:
    """Leave a weight's shape to the weight: the quantizer turns Gemm's around and forgets the copy."""
    weights = {weight.name for weight in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def int8_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with every large weight stored in int8 and float arithmetic."""
    store_int8(model, {*OPERATORS, "Gemm", "MatMul", "Gather"})
    return ir.to_proto(model)


def fp16_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with float16 weights and float32 arithmetic.

    A weight with a value beyond float16's range is unchanged.
    """
    values = [value for value in model.graph.initializers.values() if _is_large(value) and _fits(value)]
    _replace(model.graph, values, _decode_fp16)
    return ir.to_proto(model)


def fp16_compute(model: ir.Model, *, keep_io: bool) -> onnx.ModelProto:
    """Return ``model`` with float16 arithmetic; inputs, outputs and states stay float32 with ``keep_io``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = ir.from_proto(
        convert_float_to_float16(ir.to_proto(model), keep_io_types=keep_io)  # type: ignore[no-untyped-call]
    )
    converted.graph.sort()  # the casts of inputs come last
    return ir.to_proto(converted)


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


def store_int8(model: ir.Model, operators: set[str]) -> None:
    """Store the weights of ``operators`` as int8 with a scale per row, in place.

    ``Gather`` counts with its table (an embedding), ``Gemm`` and ``MatMul`` with their second input.
    """
    axes = {
        value: axis
        for node in model.graph
        if node.op_type in operators and node.domain == ""
        for index, axis in _weight_inputs(node)
        if index < len(node.inputs) and (value := node.inputs[index]) is not None and _is_large(value)
    }
    _replace(model.graph, axes, lambda value: _decode_int8(value, axes[value]))


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


_ARITHMETIC = {QUANTIZED: "LSTM", "MatMulInteger": "Linear"}
_STORED = (ir.DataType.INT8, ir.DataType.FLOAT16)

Count = dict[str, int]
"""Number of nodes by kind of reduction: ``{"LSTM int8": 2, "GRU stored": 1}``."""


def count_quantized(model: onnx.ModelProto, what: str) -> Count:
    """Count the nodes that are smaller than they were.

    Args:
        model: the smaller file.
        what: its precision, for words.

    Raises:
        CheckFailedError: none is; or there are recurrent nodes and none of them is.
    """
    found: Counter[str] = Counter()
    left: list[str] = []
    for node in ir.traversal.RecursiveGraphIterator(ir.from_proto(model).graph):
        if node.op_type in _ARITHMETIC:
            found[f"{_ARITHMETIC[node.op_type]} {what}"] += 1
        elif node.op_type not in ("Cast", "Mul") and any(map(_is_stored, node.inputs[:3])):
            found[f"{node.op_type} stored"] += 1
        elif node.op_type in OPERATORS:
            left.append(f"{node.op_type} {node.name or node.outputs[0].name}")
    recurrent = [name for name in found if name.split()[0] in OPERATORS]
    if not found or (left and not recurrent):
        names = f" ({', '.join(left)})" if left else ""
        raise CheckFailedError(
            f"nothing {'recurrent ' if left else ''}could be quantized{names}: weights must be float32 "
            "constants in the main graph (and of 256 elements or more to be stored); keep the float file"
        )
    if left:
        found["recurrent left float"] = len(left)
    return dict(found)


def _is_stored(value: ir.Value | None) -> bool:
    """Return whether a weight is stored small, seen through Cast and Mul."""
    while value is not None and (node := value.producer()) is not None and node.op_type in ("Cast", "Mul"):
        value = node.inputs[0]
    return value is not None and value.is_initializer() and value.dtype in _STORED


_VNNI = {"avx512_vnni", "avx_vnni"}
_ARM = {"aarch64", "arm64", "armv7l", "armv8l", "arm"}


def detect_target() -> str:
    """Return which target the machine at hand is.

    Without ``/proc/cpuinfo`` (another system) an x86 machine counts as one without VNNI, whose files are
    right on both kinds.
    """
    if platform.machine().lower() in _ARM:
        return "arm"
    return "x86-vnni" if _VNNI & set(" ".join(read_cpuinfo().values()).split()) else "x86"
