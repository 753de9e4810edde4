"""fp16: half the file for a CPU, half-precision arithmetic for a GPU.

onnxruntime's CPU has no half-precision LSTM, GRU or RNN: it computes them in float32 between casts, which it
runs on every call (measured: a step 1.03 to 1.16 times a float one). So a file for a CPU only *stores* its
weights in float16 and says float32 everywhere else, which costs nothing at run time. A file for a GPU is
float16 throughout.
"""

import onnx
import onnx_ir as ir

from .storage import store_fp16

__all__ = ["fp16_compute", "fp16_storage"]


def fp16_storage(model: ir.Model) -> onnx.ModelProto:
    """Return ``model`` (changed in place) with float16 weights and float32 arithmetic."""
    store_fp16(model)
    return ir.to_proto(model)


def fp16_compute(model: ir.Model, *, keep_io: bool) -> onnx.ModelProto:
    """Return ``model`` with float16 arithmetic; inputs, outputs and states stay float32 with ``keep_io``."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(  # type: ignore[no-untyped-call]
        ir.to_proto(model), keep_io_types=keep_io
    )
    return converted
