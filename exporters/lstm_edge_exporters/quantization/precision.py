"""int8: onnxruntime's dynamic quantizer on LSTM and Linear, stored weights for GRU and RNN.

The quantizer turns LSTM into ``DynamicQuantizeLSTM`` (int8 weights, activations quantized on the fly) and
Linear into ``DynamicQuantizeLinear`` with ``MatMulInteger``. It has no kernel for GRU and RNN: their weights,
and embedding tables, are stored in int8 and computed in float. Convolutions stay as they are.

LSTM weights are always signed (onnxruntime 1.32 fixes that), activations always unsigned. On x86 without
VNNI the product of the two is summed in saturating 16-bit pairs, so the weights keep to 7 bits there:
run on an emulated Haswell, a full-range file was off by 3.6e-2 in ``h_n`` where a 7-bit one was by 1.7e-3.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError

from .storage import store_int8

__all__ = ["SCHEMES", "Scheme", "int8_dynamic", "int8_storage"]

_PREPARED = ("onnx.quant.pre_process", "onnxruntime.quant")
_MARKS = (_PREPARED[0], "onnx.infer")
"""Metadata that the quantizer reads and leaves behind."""


@dataclass(frozen=True)
class Scheme:
    """One way to map float weights to integers."""

    per_channel: bool
    """A scale for each gate row, or one for a whole weight tensor."""
    reduce_range: bool
    """7 bits in place of 8."""

    def __str__(self) -> str:
        """Say it in words."""
        return (
            f"int8 signed, {'a scale per gate row' if self.per_channel else 'one scale a tensor'}, "
            f"{'7 bits (no VNNI)' if self.reduce_range else '8 bits'}"
        )


SCHEMES = {
    "x86-vnni": (Scheme(False, False), Scheme(True, False)),
    "x86": (Scheme(False, True), Scheme(True, True)),
    "arm": (Scheme(False, False), Scheme(True, False)),
}
"""Per target, the fastest first; the next is tried where one does not keep to its budget."""


def int8_dynamic(model: ir.Model, scheme: Scheme) -> onnx.ModelProto:
    """Return ``model`` (prepared, float32; changed in place) with int8 arithmetic where there is a kernel.

    Raises:
        InputError: the folder for temporary files can't be written.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    store_int8(model, {"GRU", "RNN", "Gather"})
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


def _drop_shapes_of_weights(graph: onnx.GraphProto) -> None:
    """Leave a weight's shape to the weight: the quantizer turns Gemm's around and forgets the copy."""
    weights = {weight.name for weight in graph.initializer}
    kept = [info for info in graph.value_info if info.name not in weights]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def int8_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with every large weight stored in int8 and float arithmetic."""
    store_int8(model, {"LSTM", "GRU", "RNN", "Gemm", "MatMul", "Gather"})
    return ir.to_proto(model)
