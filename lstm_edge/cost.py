"""Cost of one time step of a file: stored parameters and floating-point operations.

The counting rule: a multiplication, an addition and an activation are one operation each, so a multiply-add
is two. Every value's shape at ``N = 1, L = 1`` (L a unit for the graph of a stream) is taken from a run of
the file itself in onnxruntime, with each inner value made an output; so no shape is guessed. Per step and
direction, from the equations of the ONNX operators (https://onnx.ai/onnx/operators/, LSTM, GRU, RNN), with I
inputs and H hidden units:

- LSTM: ``2*4H(I+H)`` products, ``2*4H`` biases, ``5H`` activations, ``4H`` for the cell and the output;
- GRU: ``2*3H(I+H)`` products, ``2*3H`` biases, ``3H`` activations, ``5H`` for the gates' mixing;
- RNN: ``2*H(I+H)`` products, ``2*H`` biases, ``H`` activations;
- MatMul and Gemm ``(M, K) x (K, C)``: ``2*M*K*C``, and ``M*C`` for a Gemm's bias;
- Conv: ``2 * outputs * K * channels/groups``, and the bias; ConvTranspose: the same of its inputs;
- STFT: ``2 * outputs * window``, as the product that a DFT is;
- pooling: one an element of each window; CumSum: one an element;
- element by element and reducing operators: one an element of the larger side.

Moving data (Transpose, Reshape, Gather ...) and (de)quantizing count nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.onnx_reader import Graph, Node, OnnxFile, add_outputs
from lstm_edge_runtime.ort import SessionOptions, open_session, run_by_name

_Shapes = Mapping[str, tuple[int, ...]]

_WEIGHT_DTYPES = {"float32", "float64", "float16", "bfloat16", "int8", "uint8", "int4", "uint4"}
_MIXING = {"LSTM": 9, "GRU": 8, "RNN": 1}
"""Operations a hidden unit beyond products and biases: activations, and how the gates are combined."""
_PRODUCTS = {
    "MatMul", "MatMulInteger", "QLinearMatMul", "DynamicQuantizeMatMul", "MatMulIntegerToFloat",
    "FusedMatMul", "Gemm", "FusedGemm", "QGemm",
}  # fmt: skip
_ELEMENTWISE = {
    "Abs", "Add", "BatchNormalization", "Clip", "CumSum", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid",
    "HardSwish", "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "Max", "Mean", "Min", "Mul", "Neg",
    "PRelu", "Pow", "Reciprocal", "ReduceL1", "ReduceL2",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare", "Relu", "Selu",
    "Sigmoid", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tanh",
}  # fmt: skip
_FREE = {
    "Cast", "CastLike", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "DynamicQuantizeLinear",
    "Dropout", "Equal", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Greater", "Identity",
    "Less", "Not", "Pad", "QuantizeLinear", "Range", "Reshape", "ReverseSequence", "ScatterElements",
    "ScatterND", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """Parameters and operations of a file."""

    parameters: int
    """Elements of every stored floating-point or 8-bit tensor; normalization constants are among them."""
    flops: int | None
    """Floating-point operations of one call with every dynamic axis at 1, or as large as given: one time
    step, or unit, of one stream if the time axis is dynamic. None if the file can't run so."""
    uncounted: tuple[str, ...] = ()
    """Operators that the rule does not know and that count nothing above."""
    reason: str = ""
    """Why ``flops`` is not known."""


def measure_cost(content: bytes, file: OnnxFile, sizes: Mapping[str, int] | None = None) -> Cost:
    """Count a file's parameters and the operations of one call; the file is run once, with zeros.

    Args:
        content: the bytes of the ``.onnx`` file.
        file: the result of ``read_onnx``.
        sizes: of named axes; the others are 1.
    """
    parameters = sum(tensor.size for tensor in file.every_tensor() if tensor.dtype in _WEIGHT_DTYPES)
    try:
        shapes = _run_for_shapes(content, file.graph, sizes or {})
    except Exception as error:  # noqa: BLE001  onnxruntime's errors share no base but this
        reason = f"it does not run with one step of one stream: {first_line(error)}"
        return Cost(parameters, None, reason=reason)
    counts = [(node.op_type, _flops(node, shapes)) for node in file.graph.nodes]
    uncounted = tuple(sorted({op for op, count in counts if count is None}))
    return Cost(parameters, sum(count or 0 for _, count in counts), uncounted)


def _run_for_shapes(content: bytes, graph: Graph, sizes: Mapping[str, int]) -> _Shapes:
    """Return the shape of every named value, from a run of the file with each inner value an output."""
    outputs = {output.name for output in graph.outputs}
    inner = sorted({name for node in graph.nodes for name in node.outputs if name} - outputs)
    session = open_session(add_outputs(content, inner), SessionOptions(optimization="DISABLE_ALL"))
    feeds = {
        tensor.name: np.full(
            [axis if isinstance(axis, int) else sizes.get(str(axis), 1) for axis in tensor.axes],
            int(tensor.dtype.startswith("int")),  # lengths are 1; everything else is 0
            tensor.dtype,
        )
        for tensor in graph.inputs
    }
    shapes = {name: tensor.shape for name, tensor in graph.initializers.items()}
    shapes |= {name: array.shape for name, array in feeds.items()}
    return shapes | {name: array.shape for name, array in run_by_name(session, feeds).items()}


def _flops(node: Node, shapes: _Shapes) -> int | None:
    """Count one node; None for unknown operators."""
    into = [shapes.get(name, ()) for name in node.inputs]
    out = shapes.get(node.outputs[0], ()) if node.outputs else ()
    op = node.op_type.removeprefix("DynamicQuantize")
    if op in _MIXING:
        steps, batch, features = into[0]
        hidden, directions = int(node.attributes["hidden_size"]), into[2][0]
        gates = prod(into[1]) // (directions * hidden * features)
        cell = 2 * gates * hidden * (features + hidden + 1) + _MIXING[op] * hidden
        return steps * batch * directions * cell
    bias = prod(out) if len(node.inputs) > 2 else 0
    if node.op_type in _PRODUCTS:
        inner = into[0][0 if node.attributes.get("transA", 0) else -1]
        return 2 * prod(out) * inner + (bias if "Gemm" in node.op_type else 0)
    if node.op_type in ("Conv", "ConvTranspose"):
        return 2 * prod(out if node.op_type == "Conv" else into[0]) * prod(into[1][1:]) + bias
    if node.op_type == "STFT" and len(into) > 2 and into[2]:
        return 2 * prod(out) * into[2][0]
    if node.op_type in ("AveragePool", "MaxPool"):
        return prod(out) * prod(node.attributes["kernel_shape"])
    if node.op_type in _ELEMENTWISE:
        return max(map(prod, [out, *into]))
    return 0 if node.op_type in _FREE else None
