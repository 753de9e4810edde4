"""A graph in float64, evaluated by onnx's reference evaluator, and perturbed by one
ULP.

Overridden is what the evaluator computes otherwise: recurrent layers with lengths,
clips or peepholes, ``Erf`` (in float32), ``Selu``, ``Celu`` and ``HardSwish``
(constants of float32), ``Softplus`` (overflows), ``LogSoftmax`` (infinite for large
inputs), ``ReduceLogSumExp`` (NaN for infinite inputs), ``ConvTranspose`` with groups,
``MaxPool`` without strides, ``Pad`` by negative numbers, ``CumSum`` with an axis of
one element, ``GatherElements`` of more than 64 values, ``LpNormalization`` (of signed
sums), and a ``Loop`` that collects values (along an axis that is there).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_max_pool import MaxPool

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array

from ..graph import is_data_free, walk
from ..padding import pad
from ..recurrent import ACTIVATIONS
from .cases import Feeds

DECIDING: Mapping[str, frozenset[int]] = {
    "Equal": frozenset({0, 1}),
    "Greater": frozenset({0, 1}),
    "GreaterOrEqual": frozenset({0, 1}),
    "Less": frozenset({0, 1}),
    "LessOrEqual": frozenset({0, 1}),
    "Mod": frozenset({1}),
    "OneHot": frozenset({1}),
    "Pow": frozenset({1}),
    "Range": frozenset({0, 1, 2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}
"""Operands that decide which function is computed: exponents, thresholds, periods,
sizes. If rounding changes these, the function is another one, or undefined."""


class Graph64:
    """A graph in float64 as a function of arrays by name."""

    def __init__(
        self, model: ir.Model, constants: Mapping[str, Array] | None = None
    ) -> None:
        """Prepare ``model``, whose floats are float64, with ``constants`` instead of
        its own, by name.

        Raises:
            UnsupportedError: a node can't be evaluated; it is named.
        """
        self.model = model
        proto = ir.to_proto(model)
        replaced = dict(constants or {})
        for tensor in proto.graph.initializer:
            if tensor.name in replaced:
                array = ir.tensor(replaced[tensor.name], name=tensor.name)
                tensor.CopyFrom(ir.to_proto(array))
        _name_outputs(proto.graph)
        try:
            self.evaluator = ReferenceEvaluator(proto, new_ops=_OPERATORS)
        except (NotImplementedError, RuntimeError, TypeError) as error:
            raise UnsupportedError(
                f"the graph can't be evaluated in float64: {first_line(error)}"
            ) from error
        for run, node in _runs(self.evaluator, model.graph):
            for name, attribute in node.attributes.items():
                if attribute.type is ir.AttributeType.FLOAT:  # a file has it in float32
                    setattr(run, name, attribute.as_float())
        self._moves: dict[tuple[int, float], Graph64] = {}
        self._inputs = {str(value.name) for value in model.graph.inputs}
        self._outputs = [str(value.name) for value in model.graph.outputs]

    def __call__(self, feeds: Feeds) -> dict[str, Array]:
        """Return every output in float64; inputs that the graph does not take are left
        out.

        Raises:
            RuntimeError: the graph does not run on ``feeds``.
        """
        values = self.values(feeds)
        return {name: values[name] for name in self._outputs}

    def values(self, feeds: Feeds) -> dict[str, Any]:
        """Return every value of the graph, except in bodies of loops; raises as a call."""
        taken = {name: feeds[name] for name in feeds if name in self._inputs}
        feeds64 = {name: _as_float64(array) for name, array in taken.items()}
        try:
            with np.errstate(all="ignore"):
                return dict(self.evaluator.run(None, feeds64, intermediate=True))
        except Exception as error:  # the evaluator's exceptions share no base class
            raise RuntimeError(first_line(error)) from error

    def differences(
        self, feeds: Feeds, others: Feeds, differs: Callable[[Any, Any], bool]
    ) -> Iterator[ir.Value]:
        """Yield the results of nodes for which ``differs(value, other)`` is True.
        Raises as a call.
        """
        values = self.values(feeds)
        other_values = self.values(others)
        for node in self.model.graph:
            for output in node.outputs:
                name = str(output.name)
                is_known = name in values and name in other_values
                if is_known and differs(values[name], other_values[name]):
                    yield output

    def moved(self, seed: int, ulp: float) -> Runner:
        """Return the graph with constants and inputs moved up or down at random by
        ``ulp`` of themselves.

        Constants that decide instead of measure are not moved, see ``DECIDING``. Gates
        of recurrent layers move by ``ulp``, each unit's at every step alike: a state
        that leaks slowly adds up that error of sigmoid, near 1 and near 0. The variance
        of layer norm moves by ``ulp`` of the mean square.
        """
        if (seed, ulp) not in self._moves:
            self._moves[seed, ulp] = self._with_moved_constants(seed, ulp)
        graph = self._moves[seed, ulp]

        def run(feeds: Feeds) -> dict[str, Array]:
            """Run on moved inputs."""
            return graph({name: nudged(x, seed, ulp) for name, x in feeds.items()})

        return run

    def _with_moved_constants(self, seed: int, ulp: float) -> "Graph64":
        """Return the graph with moved constants, gates and variances."""
        rng = np.random.default_rng(seed)
        initializers = self.model.graph.initializers
        constants = {}
        for name, array in constants_of(self.model):
            if not _decides(initializers[name]):
                constants[name] = _moved(array, rng, ulp)
        graph = Graph64(self.model, constants)
        for run, _ in _runs(graph.evaluator, self.model.graph):
            run.move = ulp, seed
        return graph


def _runs(evaluator: Any, graph: ir.Graph) -> Iterator[tuple[Any, ir.Node]]:
    """Yield what the evaluator runs for each node, those in bodies included."""
    for run, node in zip(evaluator.rt_nodes_, graph, strict=True):
        yield run, node
        for name, attribute in node.attributes.items():
            if attribute.type is ir.AttributeType.GRAPH:
                yield from _runs(getattr(run, name), attribute.as_graph())


def _name_outputs(graph: onnx.GraphProto) -> None:
    """Name every output of a node, in place: the evaluator passes outputs without a name
    to omitted inputs.
    """
    for number, node in enumerate(_nodes(graph)):
        for index, name in enumerate(node.output):
            node.output[index] = name or f"unnamed {number} {index}"


def _as_float64(array: Array) -> Array:
    """Return floats in float64; other dtypes are unchanged."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph, and of the bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            yield from _nodes(attribute.g)


def constants_of(model: ir.Model) -> Iterator[tuple[str, Array]]:
    """Yield name and values of every float64 initializer that data meet; others are for
    sizes.
    """
    for name, value in model.graph.initializers.items():
        is_float64 = value.dtype == ir.DataType.DOUBLE
        if is_float64 and value.const_value is not None and _meets_data(value):
            yield name, value.const_value.numpy()


def _meets_data(constant: ir.Value) -> bool:
    """Return True if a node combines a constant with data."""
    for node, index in constant.uses():
        is_size = is_data_free(node.outputs[0])
        is_scale = node.op_type == "Resize" and index > 0
        if not is_size and not is_scale:
            return True
    return False


def _decides(constant: ir.Value) -> bool:
    """Return True if a node takes ``constant``, or a value computed from constants
    including it, as a deciding operand.
    """

    def computed(value: ir.Value) -> Iterator[ir.Value]:
        """Yield the outputs of the value's readers that depend on no data."""
        for node, _ in value.uses():
            yield from (output for output in node.outputs if is_data_free(output))

    return any(
        index in DECIDING.get(node.op_type, ())
        for value in walk([constant], computed)
        for node, index in value.uses()
    )


def nudged(array: Array, seed: int, ulp: float) -> Array:
    """Return floats changed up or down at random by ``ulp`` of themselves, in float64;
    other dtypes are unchanged.

    Whole numbers that may be indices, which the graph casts, stay.
    """
    if array.dtype.kind != "f":
        return array
    whole = (array == np.round(array)) & (np.abs(array) < 2.0**24)
    return np.where(whole, array, _moved(array, np.random.default_rng(seed), ulp))


def _moved(array: Array, rng: np.random.Generator, ulp: float) -> Array:
    """Return floats changed up or down at random by ``ulp`` of themselves."""
    signs = rng.choice([-1.0, 1.0], array.shape)
    return np.asarray(array * (1.0 + ulp * signs), np.float64)


def _sigmoid(x: Array) -> Array:
    """Return the logistic function."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


_ACTIVATIONS: Mapping[str, tuple[Callable[..., Array], tuple[float, ...]]] = {
    "sigmoid": (_sigmoid, ()),
    "tanh": (np.tanh, ()),
    "relu": (lambda x: np.maximum(x, 0.0), ()),
    "softsign": (lambda x: x / (1.0 + np.abs(x)), ()),
    "softplus": (lambda x: np.logaddexp(x, 0.0), ()),
    "elu": (lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x), (1.0,)),
    "leakyrelu": (lambda x, alpha: np.where(x < 0, alpha * x, x), (0.01,)),
    "thresholdedrelu": (lambda x, alpha: np.where(x > alpha, x, 0.0), (1.0,)),
    "hardsigmoid": (lambda x, a, b: np.clip(a * x + b, 0.0, 1.0), (0.2, 0.5)),
    "affine": (lambda x, alpha, beta: alpha * x + beta, (1.0, 0.0)),
    "scaledtanh": (lambda x, alpha, beta: alpha * np.tanh(beta * x), (1.0, 1.0)),
}
"""Activations of recurrent layers, with the defaults of alpha and beta if they have
these."""


def _activations(names: Sequence[str], options: Mapping[str, Any]) -> list[Any]:
    """Return the functions of a layer; alpha and beta are consumed in the order of
    those that have them.
    """
    alphas = iter(options.get("activation_alpha") or ())
    betas = iter(options.get("activation_beta") or ())
    functions = list[Any]()
    for name in names:
        if name.lower() not in _ACTIVATIONS:
            raise NotImplementedError(f"a layer with activation {name}")
        function, defaults = _ACTIVATIONS[name.lower()]
        both = zip((alphas, betas), defaults, strict=False)
        parameters = [next(given, default) for given, default in both]
        functions.append(partial(_with_parameters, function, parameters))
    return functions


def _with_parameters(
    function: Callable[..., Array], parameters: Sequence[float], x: Array
) -> Array:
    """Return an activation of ``x``."""
    return function(x, *parameters)


def _moved_sigmoid(gates: int, ulp: float, seed: int) -> Callable[[Array], Array]:
    """Return sigmoid with an error of ``ulp`` up or down, the same at every step."""
    errors = np.random.default_rng(seed).choice([-ulp, ulp], gates)
    return lambda x: _sigmoid(x) + errors[: x.shape[-1]]


def _clipped(
    function: Callable[[Array], Array], clip: float
) -> Callable[[Array], Array]:
    """Return a function of numbers that are clipped first."""
    return lambda x: function(np.clip(x, -clip, clip))


class _Direction:
    """One direction of a recurrent layer: its weights and how it goes from step to
    step.
    """

    def __init__(
        self,
        functions: Sequence[Callable[[Array], Array]],
        r: Array,
        bias: Array,
        options: Mapping[str, Any],
    ):
        """Choose the activations; ``clip`` bounds what enters them."""
        functions = [*functions]
        ulp, seed = options["move"]
        if ulp and options["gate"] == "sigmoid":
            functions[0] = _moved_sigmoid(r.shape[-1], ulp, seed)
        clip = options.get("clip")
        if clip:
            bounded = [_clipped(function, clip) for function in functions[:2]]
            functions = [*bounded, *functions[2:]]
        self.functions = functions
        self.r = r
        self.bias = bias
        self.peepholes: Array | None = None
        self.coupled = options.get("input_forget")
        self.linear = options.get("linear_before_reset")

    def lstm(self, z: Array, h: Array, c: Array) -> tuple[Array, ...]:
        """Return h and c after one step; ``z`` is the product of the input."""
        f, g, last = self.functions
        gates = (z + h @ self.r + self.bias).reshape(len(z), 4, -1)
        gates_with_cell = gates
        if self.peepholes is not None:
            gates_with_cell = gates + self.peepholes * c[:, None]
        i = f(gates_with_cell[:, 0])
        forget = 1.0 - i if self.coupled else f(gates_with_cell[:, 2])
        c = forget * c + i * g(gates[:, 3])
        o = gates[:, 1]
        if self.peepholes is not None:
            o = o + self.peepholes[1] * c
        return f(o) * last(c), c

    def gru(self, z: Array, h: Array) -> tuple[Array, ...]:
        """Return h after one step; ``z`` is the product of the input."""
        f, g = self.functions
        width = h.shape[-1]
        both = 2 * width
        gates = f(z[:, :both] + h @ self.r[:, :both] + self.bias[:both])
        update = gates[:, :width]
        reset = gates[:, width:]
        r = self.r[:, both:]
        bias = self.bias[both:]
        inner = reset * (h @ r + bias) if self.linear else (reset * h) @ r + bias
        return ((1.0 - update) * g(z[:, both:] + inner) + update * h,)

    def rnn(self, z: Array, h: Array) -> tuple[Array, ...]:
        """Return h after one step; ``z`` is the product of the input."""
        return (self.functions[0](z + h @ self.r + self.bias),)


def _recurrent(
    op_type: str,
    *inputs: Any,
    activations: Sequence[str] = (),
    direction: str = "forward",
    layout: int = 0,
    **options: Any,
) -> tuple[Array, ...]:
    """Run a layer of G gates: ``x (L, N, I)`` to ``Y (L, D, N, H)``, ``Y_h (D, N, H)``,
    ``Y_c (D, N, H)``.

    Inputs, formulas and the layout of weights are those of the operators' specification
    (https://onnx.ai/onnx/operators/).
    """
    if layout:
        raise NotImplementedError("layout=1")
    operands: Any = (*inputs, *[None] * 8)[:8]
    x, w, r, b, lengths, h, c, peepholes = operands
    steps, rows = x.shape[:2]
    directions = r.shape[0]
    width = r.shape[-1]
    zeros = np.zeros((directions, rows, width))
    starts = [zeros if h is None else h]
    if op_type == "LSTM":
        starts.append(zeros if c is None else c)
    y = np.zeros((steps, directions, rows, width))
    ends = []
    usual = ACTIVATIONS[op_type]
    names = [*(activations or usual * directions)]
    functions = _activations(names, options)
    for number in range(directions):
        first = number * len(usual)
        biases = np.zeros(2 * w.shape[1]) if b is None else b[number]
        w_bias, r_bias = np.split(biases, 2)
        layer = _Direction(
            functions=functions[first : first + len(usual)],
            r=r[number].T,
            bias=r_bias,
            options={**options, "gate": names[first].lower()},
        )
        if peepholes is not None:
            by_gate = peepholes[number].reshape(3, -1)
            layer.peepholes = np.pad(by_gate, ((0, 1), (0, 0)))
        is_backward = direction == "reverse" or number == 1
        y[:, number], states = _run_steps(
            step=getattr(layer, op_type.lower()),
            z=x @ w[number].T + w_bias,
            states=tuple(start[number] for start in starts),
            lengths=lengths,
            is_backward=is_backward,
        )
        ends.append(states)
    last_states = [np.stack(state) for state in zip(*ends, strict=True)]
    return y, *last_states


def _run_steps(
    *,
    step: Callable[..., tuple[Array, ...]],
    z: Array,
    states: tuple[Array, ...],
    lengths: Array | None,
    is_backward: bool,
) -> tuple[Array, tuple[Array, ...]]:
    """Return the outputs ``(L, N, H)`` of one direction and its last states.

    Args:
        step: computes new states, the output first.
        z: products of the input and W, ``(L, N, G*H)``.
        states: the initial states.
        lengths: steps after which a row keeps its states and gives zeros.
        is_backward: run from the last step to the first.
    """
    outputs = np.zeros((len(z), *states[0].shape))
    times = range(len(z))
    for time in reversed(times) if is_backward else times:
        new = step(z[time], *states)
        if lengths is None:
            states = new
            outputs[time] = new[0]
        else:
            is_valid = (time < lengths)[:, None]
            pairs = zip(new, states, strict=True)
            states = tuple(np.where(is_valid, *pair) for pair in pairs)
            outputs[time] = np.where(is_valid, new[0], 0.0)
    return outputs, states


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array, approximate: str = "none") -> Array:
    """Gelu with the exact error function, which onnx's evaluator approximates."""
    if approximate == "tanh":
        inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        inner = _exact_erf(x / math.sqrt(2))
    return np.asarray(0.5 * x * (1 + inner))


def _exact_erf(x: Array) -> Array:
    """Erf of arrays of any size, also of none."""
    return np.asarray(_erf(x) if x.size else x)


def _selu(x: Array, **_: Any) -> Array:
    """Selu with its usual factors in float64; a file has them in float32."""
    positive = np.maximum(x, 0.0)
    negative = np.expm1(np.minimum(x, 0.0))
    return np.asarray(
        1.0507009873554804934 * positive + 1.7580993408473768599 * negative
    )


def _celu(x: Array, alpha: float = 1.0) -> Array:
    """Celu."""
    negative = np.expm1(np.minimum(x / alpha, 0.0))
    return np.asarray(np.maximum(x, 0.0) + alpha * negative)


def _softplus(x: Array) -> Array:
    """Softplus, which is the identity above 20, as in PyTorch."""
    return np.where(x > 20.0, x, np.logaddexp(0.0, x))


def _log_softmax(x: Array, axis: int = -1) -> Array:
    """LogSoftmax, whose results stay finite for large inputs."""
    if not x.size:
        return x
    shifted = x - x.max(axis, keepdims=True)
    total = np.exp(shifted).sum(axis, keepdims=True)
    return np.asarray(shifted - np.log(total))


def _reduce_log_sum_exp(
    x: Array,
    axes: Any = None,
    keepdims: int = 1,
    noop_with_empty_axes: int = 0,
) -> Array:
    """ReduceLogSumExp, also of infinite numbers."""
    chosen = () if axes is None else tuple(np.ravel(axes).tolist())
    if not chosen and not noop_with_empty_axes:
        chosen = tuple(range(x.ndim))
    largest = x.max(chosen, keepdims=True, initial=-np.inf)
    offset = np.where(np.isfinite(largest), largest, 0.0)
    total = np.log(np.exp(x - offset).sum(chosen, keepdims=True)) + offset
    return np.asarray(total if keepdims else np.squeeze(total, chosen))


def _hard_swish(x: Array) -> Array:
    """HardSwish."""
    return np.asarray(x * np.clip(x / 6.0 + 0.5, 0.0, 1.0))


def _layer_norm(
    x: Array,
    scale: Array,
    bias: Array | float = 0.0,
    *,
    move: tuple[float, int],
    **options: Any,
) -> tuple[Array, ...]:
    """Move the variance by ``move`` of the mean square: engines subtract the mean's
    square from it.
    """
    axes = tuple(range(options["axis"] % x.ndim, x.ndim))
    mean = x.mean(axes, keepdims=True)
    square = (x * x).mean(axes, keepdims=True)
    ulp, seed = move
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], mean.shape)
    moved = x.var(axes, keepdims=True) + ulp * signs * square
    variance = np.maximum(moved, 0.0)
    factor = 1.0 / np.sqrt(variance + options["epsilon"])
    return (x - mean) * factor * scale + bias, mean, factor


def _gather_elements(data: Array, indices: Array, axis: int = 0) -> Array:
    """GatherElements also where the indices are smaller than the data."""
    axis %= data.ndim
    within = [slice(size) for size in indices.shape]
    within[axis] = slice(None)
    return np.take_along_axis(data[tuple(within)], indices, axis)


def _lp_normalization(x: Array, axis: int = -1, p: int = 2) -> Array:
    """LpNormalization; a vector of zeros stays zeros."""
    norm = np.linalg.norm(x, p, axis, keepdims=True)
    return np.asarray(x / np.where(norm > 0, norm, 1.0))


def _cum_sum(x: Array, axis: Array, exclusive: int = 0, reverse: int = 0) -> Array:
    """CumSum with both of its options."""
    index = int(np.asarray(axis).item())
    x = np.flip(x, index) if reverse else x
    total = np.cumsum(x, index) - (x if exclusive else 0)
    return np.flip(total, index) if reverse else total


def _pad(
    data: Array,
    pads: Any,
    value: Any = None,
    axes: Any = None,
    mode: Any = "constant",
) -> Array:
    """Pad; a negative number of pads drops elements."""
    starts, ends = np.reshape(pads, (2, -1)).tolist()
    widths = [(0, 0)] * data.ndim
    which = range(data.ndim) if axes is None else np.ravel(axes).tolist()
    for axis, start, end in zip(which, starts, ends, strict=True):
        widths[axis] = (start, end)
    options = {}
    if mode == "constant" and value is not None:
        options["constant_values"] = value
    return pad(data, widths, mode, **options)


def _conv_transpose(
    x: Array, w: Array, bias: Array | None = None, **options: Any
) -> Array:
    """Add the contributions of all frames for each tap of the kernel: ``(N, C, *S)`` to
    ``(N, M, *T)``.
    """
    if options.get("output_shape") or options.get("auto_pad", "NOTSET") != "NOTSET":
        raise NotImplementedError("ConvTranspose with auto_pad or output_shape")
    rank = x.ndim - 2
    strides = np.array(options.get("strides") or [1] * rank)
    dilations = np.array(options.get("dilations") or [1] * rank)
    extra = np.array(options.get("output_padding") or [0] * rank)
    pads = np.array(options.get("pads") or [0] * 2 * rank)
    groups = int(options.get("group") or 1)
    spans = (np.array(x.shape[2:]) - 1) * strides + 1
    ends = spans + (np.array(w.shape[2:]) - 1) * dilations + extra
    data = x.reshape(len(x), groups, -1, math.prod(x.shape[2:]))
    weights = w.reshape(groups, -1, *w.shape[1:])
    total = np.zeros((len(x), groups * w.shape[1], *ends))
    for tap in np.ndindex(*w.shape[2:]):
        kernel: Any = (..., *tap)
        products = np.swapaxes(weights[kernel], 1, 2) @ data
        first = tap * dilations
        frames: Any = (..., *map(slice, first, first + spans, strides))
        reached = total[frames]
        reached += products.reshape(reached.shape)
    inside: Any = (..., *map(slice, pads[:rank], ends - pads[rank:]))
    result: Array = total[inside]
    return result if bias is None else result + bias.reshape(-1, *[1] * rank)


def _operator(name: str, compute: Callable[..., Any]) -> type[OpRun]:
    """Return a class for onnx's evaluator that runs ``compute``."""

    def run(self: Any, *inputs: Any, **options: Any) -> tuple[Any, ...]:
        """Run ``compute`` with the node's attributes as keywords."""
        if name in (*ACTIVATIONS, "LayerNormalization"):
            options["move"] = getattr(self, "move", (0.0, 0))
        result = compute(*inputs, **options)
        if isinstance(result, tuple):
            return result[: len(self.onnx_node.output)]
        return (np.asarray(result),)

    return type(name, (OpRun,), {"op_domain": "", "_run": run})


class _MaxPool(MaxPool):
    """Passes NaN on, as frameworks do; onnx's own does not, and its shortcut pads
    wrongly.
    """

    op_domain = ""

    def _run(self, *inputs: Any, **options: Any) -> tuple[Any, ...]:
        """Take the maximum of strided windows; other forms are left to onnx."""
        (x,) = inputs
        kernel = options["kernel_shape"]
        rank = len(kernel)
        gives_indices = len(self.onnx_node.output) > 1
        pads_by_length = options.get("auto_pad", "NOTSET") != "NOTSET"
        if options.get("ceil_mode") or pads_by_length or gives_indices:
            run: Any = self._max_pool
            return tuple(run(x, **options))
        strides = options.get("strides") or [1] * rank
        dilations = options.get("dilations") or [1] * rank
        pads = options.get("pads") or [0] * 2 * rank
        sides = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        taps = zip(kernel, dilations, strict=True)
        spans = [(count - 1) * dilation + 1 for count, dilation in taps]
        least = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
        padded = np.pad(x, sides, constant_values=least)
        spatial = tuple(range(2, 2 + rank))
        windows = np.lib.stride_tricks.sliding_window_view(padded, spans, spatial)
        steps = tuple(slice(None, None, step) for step in (1, 1, *strides, *dilations))
        return (windows[steps].max(tuple(range(-rank, 0))),)


class _Loop(OpRun):
    """Stacks the values that it collects along a new axis."""

    op_domain = ""
    body: Any

    def need_context(self) -> bool:
        """Return True: the body may read values of the outer graph."""
        return True

    def _run(
        self,
        count: Array | None,
        condition: Array | None,
        *states: Any,
        context: Mapping[str, Any],
        **_: Any,
    ) -> tuple[Any, ...]:
        """Run the body until its condition or the count ends it."""
        states_count = len(states)
        rows = list[list[Any]]()
        steps = math.inf if count is None else int(count.item())
        go = condition is None or bool(condition.item())
        while go and len(rows) < steps:
            inputs = (np.array(len(rows)), np.array(go), *states)
            values = dict(zip(self.body.input_names, inputs, strict=True))
            again, *results = self.body.run(None, {**context, **values})
            go = bool(again.item())
            states = tuple(results[:states_count])
            rows.append(results[states_count:])
        if not rows and len(self.onnx_node.output) > states_count:
            raise NotImplementedError("Loop of no steps that collects values")
        collected = [np.stack(of_steps) for of_steps in zip(*rows, strict=True)]
        return (*states, *collected)


_MaxPool.__name__ = "MaxPool"
_Loop.__name__ = "Loop"
_COMPUTED: Mapping[str, Callable[..., Any]] = {
    **{op_type: partial(_recurrent, op_type) for op_type in ACTIVATIONS},
    "Erf": _exact_erf,
    "Gelu": _gelu,
    "Selu": _selu,
    "Celu": _celu,
    "Softplus": _softplus,
    "LogSoftmax": _log_softmax,
    "ReduceLogSumExp": _reduce_log_sum_exp,
    "HardSwish": _hard_swish,
    "CumSum": _cum_sum,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_normalization,
    "GatherElements": _gather_elements,
    "ConvTranspose": _conv_transpose,
    "Pad": _pad,
}
_OPERATORS: list[type[OpRun]] = [
    *(_operator(*entry) for entry in _COMPUTED.items()),
    _MaxPool,
    _Loop,
]
