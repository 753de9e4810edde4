"""int8 and fp16: how weights are stored and arithmetic is done, for which device, and
which weights are smaller.

onnxruntime's dynamic quantizer makes LSTM and Linear int8. It has no kernel for GRU and
RNN: their weights, and embedding tables, are *stored* in int8 behind ``Cast`` and
``Mul`` by a scale per row, which a session evaluates once, at load (a
``DequantizeLinear`` would be paid for at every call). On x86 without VNNI products are
summed in saturating 16-bit pairs, so weights keep to 7 bits there. Its CPU has no
half-precision LSTM, GRU or RNN either: fp16 for a CPU only stores weights; for a GPU
the file is float16 throughout.
"""

import platform
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import NameFixPass

from lstm_edge_runtime.errors import CheckFailedError, InputError
from lstm_edge_runtime.manifest import Array

from ..cpu import read_cpuinfo
from ..graph import Builder
from ..recurrent import MIN_INT8_ELEMENTS, OPERATORS, QUANTIZED

_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
"""Metadata that keeps the quantizer from a warning."""
_FP16_MAX = float(np.finfo(np.float16).max)
_ROWS: Mapping[str, Mapping[int, int]] = {
    **{op: {1: -1, 2: -1} for op in OPERATORS},
    "Gather": {0: -1},
    "MatMul": {1: -2},
    "Gemm": {1: -2},
}
"""Per operator: its weight inputs, and the axis that one scale spans (the last of a
transposed weight)."""
_IN_LOOPS = ("Gemm", "MatMul")
"""Operators in loops whose weights are stored in int8: no engine has integer arithmetic
there."""
_ARITHMETIC = {QUANTIZED: "LSTM", "MatMulInteger": "Linear"}
_STORED = (ir.DataType.INT8, ir.DataType.FLOAT16)
_VNNI = {"avx512_vnni", "avx_vnni"}
_ARM = {"aarch64", "arm64", "armv7l", "armv8l", "arm"}


class Scheme(NamedTuple):
    """One way to map float weights to integers."""

    per_channel: bool
    """True for one scale per gate row, False for one per weight tensor."""
    reduce_range: bool
    """True for 7 bits instead of 8."""

    @property
    def description(self) -> str:
        """Description for messages."""
        scales = (
            "one scale per gate row" if self.per_channel else "one scale per tensor"
        )
        bits = "7 bits (no VNNI)" if self.reduce_range else "8 bits"
        return f"int8 signed, {scales}, {bits}"


def schemes(target: str) -> tuple[Scheme, Scheme]:
    """Return the schemes for a target, the faster first; the next is tried if one
    exceeds its budget.
    """
    return Scheme(False, target == "x86"), Scheme(True, target == "x86")


def int8_dynamic(model: ir.Model, scheme: Scheme) -> onnx.ModelProto:
    """Return ``model`` (prepared, float32; changed in place) with int8 arithmetic if
    there is a kernel.

    Raises:
        InputError: the folder for temporary files can't be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    store_int8(model, {"GRU", "RNN", "Gather"})
    NameFixPass()(model)  # products that are left out are named
    proto = ir.to_proto(model)
    # the quantizer turns Gemm's weights around and forgets their shapes
    del proto.graph.value_info[:]
    excluded = _excluded_products(proto.graph, scheme)
    metadata = list(proto.metadata_props)
    proto.metadata_props.add(key=_PREPARED[0], value=_PREPARED[1])
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "int8.onnx"
            quantize_dynamic(
                proto,
                path,
                op_types_to_quantize=["LSTM", "MatMul"],
                nodes_to_exclude=excluded,
                per_channel=scheme.per_channel,
                reduce_range=scheme.reduce_range,
                weight_type=QuantType.QInt8,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            quantized = onnx.load(path)
    except OSError as error:
        raise InputError(
            f"the temporary folder can't be written: {error.strerror or error}"
        ) from error
    quantized.producer_name = proto.producer_name
    quantized.producer_version = proto.producer_version
    del quantized.metadata_props[:]
    quantized.metadata_props.extend(metadata)
    return quantized


def _excluded_products(graph: onnx.GraphProto, scheme: Scheme) -> list[str]:
    """Return the names of products that onnxruntime can't run: with vectors, and per
    channel with weights of three axes.
    """
    ranks = (2,) if scheme.per_channel else (2, 3, 4)
    weights = {
        weight.name for weight in graph.initializer if len(weight.dims) not in ranks
    }
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul" and weights.intersection(node.input)
    ]


def int8_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with every large weight stored in int8 and
    float arithmetic.
    """
    store_int8(model, {*OPERATORS, "Gemm", "MatMul", "Gather"})
    return ir.to_proto(model)


def fp16_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with float16 weights and float32 arithmetic.

    A weight with a value beyond float16's range is unchanged.
    """
    for value in list(model.graph.initializers.values()):
        if not _is_large(value):
            continue
        weight = _array(value)
        if np.abs(weight).max() <= _FP16_MAX:
            _store(model.graph, value, weight.astype(np.float16))
    return ir.to_proto(model)


def fp16_compute(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` with float16 arithmetic; inputs, outputs and states stay
    float32.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = ir.from_proto(
        convert_float_to_float16(ir.to_proto(model), keep_io_types=True)  # type: ignore[no-untyped-call]
    )
    converted.graph.sort()  # the casts of inputs come last
    return ir.to_proto(converted)


def store_int8(model: ir.Model, operators: set[str]) -> None:
    """Store the weights of ``operators`` (the table of ``Gather``), and of products in
    loops, as int8 with a scale per row, in place.
    """
    axes = {}
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        is_in_loop = node.graph is not model.graph and node.op_type in _IN_LOOPS
        is_chosen = node.op_type in operators or is_in_loop
        if not is_chosen or node.domain:
            continue
        is_transposed = bool(node.attributes.get_int("transB", 0))
        for index, axis in _ROWS.get(node.op_type, {}).items():
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and _is_large(value):
                axes[value] = -1 if is_transposed else axis
    for value, axis in axes.items():
        weight = _array(value).astype(np.float64)
        largest = np.abs(weight).max(axis=max(axis, -weight.ndim), keepdims=True)
        scale = np.where(largest > 0, largest / 127, 1.0)
        stored = np.rint(weight / scale).astype(np.int8)
        _store(model.graph, value, stored=stored, scale=scale.astype(np.float32))


def _is_large(value: ir.Value) -> bool:
    """Return True for float weights that are worth quantizing."""
    tensor = value.const_value
    if not value.is_initializer() or tensor is None:
        return False
    return tensor.dtype == ir.DataType.FLOAT and tensor.size >= MIN_INT8_ELEMENTS


def _array(value: ir.Value) -> Array:
    """Return the array of an initializer."""
    assert value.const_value is not None
    return value.const_value.numpy()


def _store(
    graph: ir.Graph, value: ir.Value, stored: Array, scale: Array | None = None
) -> None:
    """Replace a weight by a smaller one, followed by a cast and a product with
    ``scale``.
    """
    build = Builder(graph[0], str(value.name))
    decoded = build.cast(build.constant(stored, stored.dtype.name), ir.DataType.FLOAT)
    if scale is not None:
        decoded = build.value("Mul", [decoded, build.constant(scale, "scale")])
    ir.convenience.replace_all_uses_with(value, decoded)
    graph.initializers.pop(str(value.name))


_PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Operators whose weights make most of a loop's body."""
Count = dict[str, int]
"""Number of nodes by kind of reduction: ``{"LSTM int8": 2, "GRU stored": 1}``."""


def count_quantized(model: onnx.ModelProto, precision: str) -> Count:
    """Count the nodes of a smaller file that are smaller than they were.

    Raises:
        CheckFailedError: none is; or there are recurrent layers and none of them is.
    """
    counts: Counter[str] = Counter()
    left: list[ir.Node] = []
    for node in ir.traversal.RecursiveGraphIterator(ir.from_proto(model).graph):
        if node.op_type in _ARITHMETIC:
            counts[f"{_ARITHMETIC[node.op_type]} {precision}"] += 1
        elif _is_smaller(node):
            counts[f"{node.op_type} stored"] += 1
        elif node.op_type in OPERATORS or _is_float_loop(node):
            left.append(node)
    has_layers_left = any(node.op_type in OPERATORS for node in left)
    has_smaller_layers = any(name.startswith(OPERATORS) for name in counts)
    if not counts or (has_layers_left and not has_smaller_layers):
        raise CheckFailedError(_why_nothing(left, precision))
    return dict(counts) | ({"recurrent left float": len(left)} if left else {})


def _why_nothing(left: Sequence[ir.Node], precision: str) -> str:
    """Return why no recurrent node, or no node at all, became smaller."""
    loops = [node for node in left if node.op_type == "Scan"]
    if loops and precision == "int8":
        why = (
            f"int8 takes the weights of a loop (node {loops[0].name!r}, Scan) if they"
            f" are factors of matrix products, of {MIN_INT8_ELEMENTS} elements or more"
        )
    else:
        why = (
            "weights must be float32 constants, of"
            f" {MIN_INT8_ELEMENTS} elements or more to be stored"
        )
    what = "nothing recurrent" if left else "nothing"
    advice = "use fp16, or keep" if precision == "int8" else "keep"
    return f"{what} could be quantized: {why}; {advice} the float file"


def _is_smaller(node: ir.Node) -> bool:
    """Return True if a node reads weights that are stored as less than float32."""
    return node.op_type not in ("Cast", "Mul") and any(map(_is_stored, node.inputs[:3]))


def _is_float_loop(node: ir.Node) -> bool:
    """Return True for a loop over time with products, all of float32 weights."""
    body = [*node.attributes["body"].as_graph()] if node.op_type == "Scan" else []
    has_products = any(inner.op_type in _PRODUCTS for inner in body)
    return has_products and not any(map(_is_smaller, body))


def _is_stored(value: ir.Value | None) -> bool:
    """Return True if a weight is stored small, seen through Cast and Mul."""
    while value is not None:
        node = value.producer()
        if node is None or node.op_type not in ("Cast", "Mul"):
            break
        value = node.inputs[0]
    return value is not None and value.is_initializer() and value.dtype in _STORED


def detect_target() -> str:
    """Return the target of this machine; an x86 one without ``/proc/cpuinfo`` counts as
    without VNNI.
    """
    if platform.machine().lower() in _ARM:
        return "arm"
    facts = " ".join(read_cpuinfo().values()).split()
    return "x86" if _VNNI.isdisjoint(facts) else "x86-vnni"
