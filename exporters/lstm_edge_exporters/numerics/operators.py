"""ONNX operators in float64, decomposed into the primitives of ``noise``.

onnx's own evaluator has all others. Those that are here it has not (recurrent layers with lengths, reversed
scans), or has in float32 (``Erf``), or in one piece that hides where a kernel rounds.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv_transpose import ConvTranspose
from onnx.reference.ops.op_max_pool import MaxPool

from lstm_edge_runtime.manifest import Array

from .cells import CELLS, recurrent
from .noise import EXACT, Rounding

_MOVES = frozenset(
    """Abs ArgMax ArgMin Cast CastLike Ceil Clip Compress Concat ConcatFromSequence Constant
    ConstantOfShape CenterCropPad Col2Im DepthToSpace Expand EyeLike Flatten Floor Gather GatherElements
    GatherND GlobalMaxPool Identity Max MaxPool Min Neg NonZero OneHot Optional OptionalGetElement Pad
    Range ReduceMax ReduceMin Relu Reshape ReverseSequence Round ScatterElements ScatterND SequenceAt
    SequenceConstruct SequenceEmpty SequenceErase SequenceInsert Shape Sign Size Slice SpaceToDepth
    Split SplitToSequence Squeeze Tile TopK Transpose Trilu Unique Unsqueeze Upsample Where If Loop Scan
    SequenceMap""".split()  # noqa: SIM905
)
"""Operators that move, select or compare values, and those whose bodies round inside."""
_BOUNDED = frozenset({"Tanh", "Sin", "Cos"})
_GATED = frozenset(
    "Celu Elu HardSigmoid HardSwish Mish Selu Softplus Softsign Swish ThresholdedRelu".split()  # noqa: SIM905
)
_ELEMENTARY = frozenset(
    "Acos Acosh Asin Asinh Atan Atanh Cosh Exp Log Pow Sinh Sqrt Tan Reciprocal".split()  # noqa: SIM905
)
_PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum"})
_SUMS = frozenset(
    "ReduceSum ReduceMean AveragePool GlobalAveragePool ReduceL1 Sum Mean".split()  # noqa: SIM905
)
_EXACT_SOFTPLUS = 20.0
"""Beyond it PyTorch's softplus is x itself; no float32 tells the two apart."""


Rounds = Callable[[], Rounding]
"""Gives how the evaluation that is under way rounds."""


def round_results(evaluator: ReferenceEvaluator, rounds: Rounds, exact: Container[str] = ()) -> None:
    """Let every node of ``evaluator`` that is not decomposed, and of the bodies in it, round its results.

    Those of the main graph whose results are named in ``exact`` do not.
    """
    for node in evaluator.rt_nodes_:
        for name, value in vars(node).items():
            if isinstance(value, ReferenceEvaluator) and name != "parent":
                round_results(value, rounds)
        body = getattr(node, "impl_", None)  # the node itself where it is made when it runs
        inside = node.op_type in _MOVES or node.op_type in _OPERATORS or node.output[0] in exact
        if not inside and not isinstance(body, ReferenceEvaluator):
            node.run = _rounding_run(node, node.run, rounds)


def _rounding_run(node: OpRun, run: Callable[..., Any], rounds: Rounds) -> Callable[..., Any]:
    kind = node.op_type

    def perturbed(result: Any, rounding: Rounding, inputs: Sequence[Any], options: Mapping[str, Any]) -> Any:
        if not _is_float(result):
            return result
        if kind in _PRODUCTS or kind in _SUMS:
            data = inputs if kind not in ("Gemm", "Conv", "ConvTranspose") else inputs[:2]
            (terms,) = run(*(np.abs(each) if _is_float(each) else each for each in data), **options)
            result = rounding.summed(result, terms, _terms(node, inputs, result), alike=kind in _SUMS)
            return rounding.relative(result) if len(data) < len(inputs) else result
        if kind in _BOUNDED:
            return rounding.absolute(result)
        if kind in _GATED:
            return rounding.absolute(result, np.maximum(1.0, np.abs(inputs[0])))
        if kind.endswith("Normalization"):
            return rounding.absolute(result, np.abs(result).max(axis=-1, keepdims=True, initial=0.0))
        if kind.startswith("Reduce"):  # of terms that cancel nothing
            count = max(1.0, inputs[0].size / max(1, result.size))
            return rounding.relative(result, 2.0 * math.sqrt(count))
        return rounding.relative(result, 2.0 if kind in _ELEMENTARY else 1.0)

    def rounding_run(*inputs: Any, **options: Any) -> Any:
        results, rounding = run(*inputs, **options), rounds()
        if rounding is EXACT:
            return results
        return tuple(perturbed(each, rounding, inputs, options) for each in results)

    return rounding_run


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


def operators(rounds: Rounds) -> list[type[OpRun]]:
    """Return the operators of this module as onnx's evaluator takes them."""

    def make(name: str, compute: Callable[..., Any]) -> type[OpRun]:
        def run(self: Any, *inputs: Any, **options: Any) -> tuple[Any, ...]:
            result = compute(rounds(), *inputs, **options)
            return (result,) if isinstance(result, np.ndarray) else result[: len(self.onnx_node.output)]

        return type(name, (OpRun,), {"op_domain": "", "_run": run})

    classes = {"Loop": _Loop, "Scan": _Scan, "MaxPool": _MaxPool, "ConvTranspose": _ConvTranspose}
    return [
        *(make(name, compute) for name, compute in _OPERATORS.items()),
        *(
            type(name, (each,), {"op_domain": "", "rounds": staticmethod(rounds)})
            for name, each in classes.items()
        ),
    ]


def _softmax_parts(r: Rounding, x: Array, axis: int) -> tuple[Array, Array, Array]:
    """Return ``x`` less its largest value, the exponentials, and their sum."""
    shifted = r.relative(x - x.max(axis=axis, keepdims=True)) if x.size else x
    powers = r.relative(np.exp(shifted), 2.0)
    return shifted, powers, r.total(powers, axis)


def _softmax(r: Rounding, x: Array, axis: int = -1) -> Array:
    _, powers, total = _softmax_parts(r, x, axis)
    return r.relative(powers / total)


def _log_softmax(r: Rounding, x: Array, axis: int = -1) -> Array:
    shifted, _, total = _softmax_parts(r, x, axis)
    return r.relative(shifted - r.relative(np.log(total), 2.0))


def _cum_sum(r: Rounding, x: Array, axis: Array, exclusive: int = 0, reverse: int = 0) -> Array:
    place = int(axis)
    x = np.flip(x, place) if reverse else x
    if exclusive:
        pad = [(0, 0)] * x.ndim
        pad[place] = (1, 0)
        x = np.pad(x.take(range(x.shape[place] - 1), place), pad)
    result = r.running(x, place) if x.dtype.kind == "f" else np.cumsum(x, place)
    return np.flip(result, place) if reverse else result


def _centered(r: Rounding, x: Array, axes: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Return the mean over ``axes``, ``x`` less it, and the variance."""
    count = math.prod(x.shape[axis] for axis in axes)
    mean = r.relative(r.total(x, axes) / count)
    apart = r.relative(x - mean)
    return mean, apart, r.relative(r.total(r.relative(apart * apart), axes) / count)


def _layer_norm(
    r: Rounding, x: Array, scale: Array, bias: Any = None, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> tuple[Array, ...]:
    mean, apart, variance = _centered(r, x, tuple(range(axis % x.ndim, x.ndim)))
    deviation = r.relative(1 / r.relative(np.sqrt(r.relative(variance + epsilon))))
    y = r.relative(r.relative(apart * deviation) * scale)
    return (y if bias is None else r.relative(y + bias), mean, deviation)


def _rms_norm(r: Rounding, x: Array, scale: Array, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Array:
    axes = tuple(range(axis % x.ndim, x.ndim))
    square = r.relative(r.total(r.relative(x * x), axes) / math.prod(x.shape[each] for each in axes))
    return r.relative(r.relative(x / r.relative(np.sqrt(r.relative(square + epsilon)))) * scale)


def _affine(r: Rounding, x: Array, parameters: Sequence[Array], epsilon: float) -> Array:
    """Return ``x * factor + shift``, as kernels do: they cancel where ``x`` varies little around a mean."""
    shape = (-1, *[1] * (x.ndim - 2))
    scale, bias, mean, variance = (each.reshape(shape) if each.ndim == 1 else each for each in parameters)
    if r is EXACT:  # the same without cancellation
        return (x - mean) / np.sqrt(variance + epsilon) * scale + bias
    factor = r.relative(scale / r.relative(np.sqrt(variance + epsilon)))
    shift = r.relative(bias - r.relative(mean * factor))
    return r.relative(r.relative(x * factor) + shift)


def _instance_norm(r: Rounding, x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    mean, _, variance = _centered(r, x, tuple(range(2, x.ndim)))
    return _affine(r, x, (scale, bias, mean, variance), epsilon)


def _batch_norm(
    r: Rounding, x: Array, *parameters: Array, epsilon: float = 1e-5, training_mode: int = 0, **_: Any
) -> Array:
    if training_mode:
        raise NotImplementedError("training_mode=1")
    return _affine(r, x, parameters, epsilon)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(r: Rounding, x: Array, approximate: str = "none") -> Array:
    if approximate == "tanh":
        share = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        share = _erf(x / math.sqrt(2)) if x.size else x
    return r.absolute(0.5 * x * (1 + share), np.maximum(1.0, np.abs(x)))


def _softplus(r: Rounding, x: Array) -> Array:
    exact = np.where(x > _EXACT_SOFTPLUS, x, np.logaddexp(0.0, x))
    return r.absolute(exact, np.maximum(1.0, np.abs(x)))


def _hard_swish(r: Rounding, x: Array) -> Array:
    return r.absolute(x * np.clip(x / 6 + 0.5, 0, 1), np.maximum(1.0, np.abs(x)))


def _gather_elements(_: Rounding, data: Array, indices: Array, axis: int = 0) -> Array:
    """Return what onnx's own does for at most 64 values along the axis, and without wrapping indices."""
    place = axis % data.ndim
    within = tuple(slice(None if each == place else size) for each, size in enumerate(indices.shape))
    return np.take_along_axis(data[within], indices, place)


_OPERATORS: Mapping[str, Callable[..., Any]] = {
    **{kind: partial(recurrent, kind) for kind in CELLS},
    "Softmax": _softmax,
    "LogSoftmax": _log_softmax,
    "CumSum": _cum_sum,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "BatchNormalization": _batch_norm,
    "Sigmoid": lambda r, x: r.absolute(1 / (1 + np.exp(-x))),
    "Erf": lambda r, x: r.absolute(_erf(x) if x.size else x),
    "Gelu": _gelu,
    "GatherElements": _gather_elements,
    "Softplus": _softplus,
    "HardSwish": _hard_swish,
}


class _MaxPool(MaxPool):
    """ONNX's ``MaxPool``; where it has no stride, onnx's own pads wrongly and counts indices by channel."""

    def _run(self, *inputs: Any, **options: Any) -> tuple[Any, ...]:
        run: Any = self._max_pool
        found: tuple[Any, ...] = run(*inputs, **options)
        return found


class _ConvTranspose(ConvTranspose):
    """ONNX's ``ConvTranspose``; onnx's own mixes up groups, and adds element by element."""

    def _run(self, *inputs: Any, **options: Any) -> tuple[Any, ...]:
        if options.get("output_shape") or options.get("auto_pad", "NOTSET") != "NOTSET":
            run: Any = super()._run
            return (run(*inputs, **options)[0],)
        x, w, *bias = inputs
        sizes, kernel, rank = x.shape[2:], w.shape[2:], x.ndim - 2
        strides, dilations, extra, pads, groups = (
            np.array(options.get(name) or usual)
            for name, usual in (
                ("strides", [1] * rank),
                ("dilations", [1] * rank),
                ("output_padding", [0] * rank),
                ("pads", [0] * 2 * rank),
                ("group", 1),
            )
        )
        spans = (np.array(sizes) - 1) * strides + 1
        ends = spans + (np.array(kernel) - 1) * dilations + extra
        grouped = x.reshape(len(x), groups, -1, math.prod(sizes))
        weights, all_channels = w.reshape(groups, -1, *w.shape[1:]), (slice(None),) * 2
        whole = np.zeros((len(x), int(groups) * w.shape[1], *ends), x.dtype)
        for at in np.ndindex(*kernel):
            part = np.swapaxes(weights[(slice(None),) * 3 + at], 1, 2) @ grouped
            starts = at * dilations
            reached = whole[all_channels + tuple(map(slice, starts, starts + spans, strides))]
            reached += part.reshape(reached.shape)
        found = whole[all_channels + tuple(map(slice, pads[:rank], ends - pads[rank:]))]
        return (sum((each.reshape(-1, *[1] * rank) for each in bias if each is not None), found),)


class _Repeated(OpRun):
    """A body that is run again and again."""

    rounds: Rounds
    body: Any

    def need_context(self) -> bool:
        return True

    def steps(self, context: Mapping[str, Any]) -> Callable[..., list[Any]]:
        """Return what runs the body once on its inputs."""
        rounding = self.rounds()
        mark = rounding.mark()

        def step(*values: Any) -> list[Any]:
            rounding.go_back(mark)
            found: list[Any] = self.body.run(
                None, {**context, **dict(zip(self.body.input_names, values, strict=True))}
            )
            return found

        return step

    def stacked(self, rows: Sequence[Sequence[Any]], states: int) -> list[Array]:
        """Return the values that were collected at every step."""
        if not rows and len(self.onnx_node.output) > states:
            raise NotImplementedError(f"{self.op_type} of no steps that collects values")
        return [np.stack(parts) for parts in zip(*rows, strict=True)]


class _Loop(_Repeated):
    """ONNX's ``Loop``; onnx's own joins what it collects along an axis that is there already."""

    def _run(
        self, count: Array | None, condition: Array | None, *states: Any, context: Mapping[str, Any], **_: Any
    ) -> tuple[Any, ...]:
        run, wanted, rows = self.steps(context), len(states), list[list[Any]]()
        steps = math.inf if count is None else int(count.item())
        go = condition is None or bool(condition.item())
        while go and len(rows) < steps:
            again, *results = run(np.array(len(rows)), np.array(go), *states)
            go, states = bool(again.item()), tuple(results[:wanted])
            rows.append(results[wanted:])
        return (*states, *self.stacked(rows, wanted))


class _Scan(_Repeated):
    """ONNX's ``Scan``; onnx's own takes the first axis alone, and forwards."""

    def _run(
        self, *inputs: Array, context: Mapping[str, Any], num_scan_inputs: int = 0, **options: Any
    ) -> tuple[Array, ...]:
        def ways(arrays: Sequence[Array], side: str) -> Iterator[tuple[Array, int, int]]:
            """Yield each array with its axis of time, and 1 or -1 for the direction."""
            named = (options.get(f"scan_{side}_{what}") for what in ("axes", "directions"))
            axes, backwards = (each or [0] * len(arrays) for each in named)
            return zip(arrays, axes, (-1 if each else 1 for each in backwards), strict=True)

        run, wanted, rows = self.steps(context), len(inputs) - num_scan_inputs, list[list[Array]]()
        states = inputs[:wanted]
        parts = (np.moveaxis(x, axis, 0)[::way] for x, axis, way in ways(inputs[wanted:], "input"))
        for step in zip(*parts, strict=True):
            results = run(*states, *step)
            states = tuple(results[:wanted])
            rows.append(results[wanted:])
        collected = ways(self.stacked(rows, wanted), "output")
        return (*states, *(np.moveaxis(y[::way], 0, axis) for y, axis, way in collected))
