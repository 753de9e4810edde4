"""An ONNX graph as the reference: onnxruntime in float32, numpy in float64, and perturbed node by node."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from lstm_edge_runtime.errors import UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.state import Runner

from ..recurrent import gru, lstm, rnn
from .noise import EXACT, TINY, UNIT, Exact, Layout, Rounding

__all__ = ["GRU", "LSTM", "RNN", "OnnxReference", "widened"]

_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
_MOVES = frozenset(
    """Abs ArgMax ArgMin Cast CastLike Ceil Clip Compress Concat ConcatFromSequence Constant
    ConstantOfShape CenterCropPad Col2Im DepthToSpace Expand EyeLike Flatten Floor Gather GatherElements
    GatherND GlobalMaxPool Identity Max MaxPool Min Neg NonZero OneHot Optional OptionalGetElement Pad
    Range ReduceMax ReduceMin Relu Reshape ReverseSequence Round ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert Shape Sign Size Slice SpaceToDepth
    Split SplitToSequence Squeeze Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where If Loop Scan
    SequenceMap GRU LSTM RNN""".split()  # noqa: SIM905
)
"""Operators that move, select or compare values, and those that round inside: bodies and recurrent nodes."""
_BOUNDED = frozenset({"Sigmoid", "Tanh", "Erf", "Sin", "Cos"})
_GATED = frozenset(
    "Celu Elu Gelu HardSigmoid HardSwish Mish Selu Softplus Softsign Swish ThresholdedRelu".split()  # noqa: SIM905
)
_ELEMENTARY = frozenset(
    """Acos Acosh Asin Asinh Atan Atanh Cosh Exp Log Pow Sinh Sqrt Tan Reciprocal Softmax LogSoftmax
    ReduceLogSumExp""".split()  # noqa: SIM905
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
_SUMS = frozenset(
    "ReduceSum ReduceMean CumSum AveragePool GlobalAveragePool ReduceL1 Sum Mean".split()  # noqa: SIM905
)
_NORMS = frozenset(
    [
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MeanVarianceNormalization",
        "RMSNormalization",
    ]
)


class OnnxReference:
    """An ONNX graph as the reference."""

    def __init__(
        self,
        model: onnx.ModelProto,
        run: Runner,
        layout: Layout = Layout(),  # noqa: B008  frozen
        name: str = "the reference",
    ) -> None:
        """Prepare the float64 evaluation.

        Args:
            model: the graph with its weights.
            run: runs it in float32, as onnxruntime does on the CPU with one thread.
            layout: where rows and channels lie in the arrays.
            name: of the file, for errors.

        Raises:
            UnsupportedError: an operator that can't be evaluated in float64.
        """
        self.layout = layout
        self._run = run
        self._rounding: Exact = EXACT
        foreign = sorted({node.domain for node in model.graph.node} - {"", "ai.onnx"})
        if foreign:
            raise UnsupportedError(
                f"{name} uses operators of {', '.join(foreign)}, which have no float64 run; "
                "compare with the float file or the PyTorch module that it was made from"
            )
        operators = [type(each.__name__, (each,), {"reference": self}) for each in (LSTM, GRU, RNN)]
        try:
            self._evaluator = ReferenceEvaluator(widened(model), new_ops=operators)
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise UnsupportedError(f"{name} can't be evaluated in float64: {first_line(error)}") from error
        self._wrap(self._evaluator)
        self._names = [output.name for output in model.graph.output]

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return every output in float32.

        Raises:
            RuntimeError: the file does not run on ``feeds``.
        """
        try:
            return self._run(feeds)
        except Exception as error:
            raise RuntimeError(first_line(error)) from error

    def run64(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output in float64; raises as ``run``."""
        wide = {
            name: array.astype(np.float64) if array.dtype.kind == "f" else array
            for name, array in feeds.items()
        }
        try:
            with np.errstate(all="ignore"):
                return dict(zip(self._names, self._evaluator.run(None, wide), strict=True))
        except Exception as error:
            raise RuntimeError(first_line(error)) from error

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> dict[str, Array]:
        """Return every output in float64 as float32 may give it; raises as ``run``."""
        with self._rounded(rounding):
            return self.run64(feeds)

    @property
    def rounding(self) -> Exact:
        """How the evaluation that is under way rounds."""
        return self._rounding

    @contextmanager
    def _rounded(self, rounding: Rounding) -> Iterator[None]:
        self._rounding = rounding
        try:
            yield
        finally:
            self._rounding = EXACT

    def _wrap(self, evaluator: ReferenceEvaluator) -> None:
        """Let every node of ``evaluator``, and of the bodies in it, round what it gives."""
        for node in evaluator.rt_nodes_:
            for name, value in vars(node).items():
                if isinstance(value, ReferenceEvaluator) and name != "parent":
                    self._wrap(value)
            body = getattr(node, "impl_", None)  # the node itself where it is made when it runs
            if node.op_type not in _MOVES and not isinstance(body, ReferenceEvaluator):
                node.run = self._rounding_run(node, node.run)

    def _rounding_run(self, node: OpRun, run: Callable[..., Any]) -> Callable[..., Any]:
        def rounding_run(*inputs: Any, **options: Any) -> Any:
            results = run(*inputs, **options)
            rounding = self._rounding
            if not isinstance(rounding, Rounding):
                return results
            rounded = (_rounded(node, run, inputs, options, each, rounding) for each in results)
            return tuple(rounded)

        return rounding_run


def _rounded(
    node: OpRun,
    run: Callable[..., Any],
    inputs: Sequence[Any],
    options: Mapping[str, Any],
    result: Any,
    rounding: Rounding,
) -> Any:
    """Perturb one result of a node; see ``noise.Rounding``."""
    if not isinstance(result, np.ndarray) or result.dtype.kind != "f":
        return result
    kind = node.op_type
    if kind in _PRODUCTS or kind in _SUMS:
        data = inputs if kind not in ("Gemm", "Conv", "ConvTranspose") else inputs[:2]
        (terms,) = run(*(np.abs(each) if _is_float(each) else each for each in data), **options)
        spread = UNIT * math.sqrt(_terms(node, inputs, result)) * (np.abs(terms) + TINY)
        result = result + rounding.signs(result.shape) * spread
        return rounding.relative(result) if len(data) < len(inputs) else result
    if kind in _BOUNDED:
        return rounding.absolute(result)
    if kind in _GATED:
        return rounding.absolute(result, np.maximum(1.0, np.abs(inputs[0])))
    if kind == "BatchNormalization":
        x, scale, bias, mean, variance = inputs
        (terms, *_) = run(np.abs(x), np.abs(scale), np.abs(bias), -np.abs(mean), variance, **options)
        return rounding.relative(result + UNIT * rounding.signs(result.shape) * terms)
    if kind in _NORMS:
        return rounding.absolute(result, np.abs(result).max(axis=-1, keepdims=True, initial=0.0))
    return rounding.relative(result, 2.0 if kind in _ELEMENTARY else 1.0)


def _is_float(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _terms(node: OpRun, inputs: Sequence[Any], result: Array) -> float:
    """Return how many terms each sum of a node has."""
    if node.op_type == "MatMul":
        return float(inputs[0].shape[-1])
    if node.op_type == "Gemm":
        return float(inputs[0].shape[0 if getattr(node, "transA", 0) else -1])
    if node.op_type in ("Conv", "ConvTranspose"):
        return float(np.prod(inputs[1].shape[1:]))
    return float(max(1.0, max(each.size for each in inputs if _is_float(each)) / max(1, result.size)))


class _Recurrent(OpRun):
    """What the three have in common."""

    op_domain = ""
    reference: OnnxReference
    """Whose rounding holds."""
    compute: Callable[..., tuple[Array, ...]]

    def _run(
        self,
        *inputs: Array | None,
        layout: int = 0,
        input_forget: int = 0,
        hidden_size: int | None = None,  # noqa: ARG002  W and R say it
        activation_alpha: Any = None,  # noqa: ARG002
        activation_beta: Any = None,  # noqa: ARG002
        **options: Any,
    ) -> tuple[Array, ...]:
        if layout or input_forget:
            raise NotImplementedError("layout=1 and input_forget=1")
        results = self.compute(*inputs, **options, rounding=self.reference.rounding)
        return results[: len(self.onnx_node.output)]


class LSTM(_Recurrent):
    """ONNX's ``LSTM``."""

    compute = staticmethod(lstm)


class GRU(_Recurrent):
    """ONNX's ``GRU``."""

    compute = staticmethod(gru)


class RNN(_Recurrent):
    """ONNX's ``RNN``."""

    compute = staticmethod(rnn)


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose every float tensor, input, output and cast is float64."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    del wide.graph.value_info[:]
    for value in (*wide.graph.input, *wide.graph.output):
        kind = value.type.tensor_type
        if kind.elem_type in _FLOATS:
            kind.elem_type = onnx.TensorProto.DOUBLE
    _widen_graph(wide.graph)
    return wide


def _widen_graph(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _widen_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = onnx.TensorProto.DOUBLE
            for inner in (attribute.g, *attribute.graphs):
                _widen_graph(inner)


def _widen_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = onnx.numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
