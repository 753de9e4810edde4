"""The ways in which ``mutation.py`` spoils a file: classes of mutants, by group.

A class is a function that changes a model in place (``Draft``) with the given random generator, or raises
``NotApplicableError``. What a class does at random (which gate, which unit) differs from mutant to mutant.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from lstm_edge_runtime.manifest import KEY, SCHEMA, Array, AxisRange, Manifest, Task

__all__ = ["KINDS", "Draft", "Kind", "NotApplicableError"]

Rng = np.random.Generator

_RECURRENT = ("LSTM", "GRU", "RNN")
_GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}


class NotApplicableError(Exception):
    """The file has nothing that this class could spoil."""


class Draft:
    """A model that is being changed."""

    def __init__(self, content: bytes) -> None:
        self.model = onnx.load_model_from_string(content)
        self.graph = self.model.graph
        self.manifest = Manifest.from_json(next(p.value for p in self.model.metadata_props if p.key == KEY))
        self.schema = SCHEMA
        self._new = 0

    def content(self) -> bytes:
        """Return the changed file."""
        del self.model.metadata_props[:]
        text = json.dumps({**json.loads(self.manifest.to_json()), "schema": self.schema})
        self.model.metadata_props.add(key=KEY, value=text)
        return bytes(self.model.SerializeToString())

    def node(self, rng: Rng, *kinds: str) -> onnx.NodeProto:
        """Return one node of these kinds."""
        found = [node for node in self.graph.node if node.op_type in kinds]
        if not found:
            raise NotApplicableError
        return found[rng.integers(len(found))]

    def change(self, name: str, how: Callable[[Array], Array]) -> None:
        """Put ``how(array)`` in the place of an initializer."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                new = np.ascontiguousarray(how(array)).astype(array.dtype)
                tensor.CopyFrom(numpy_helper.from_array(new, name))
                return
        raise NotApplicableError

    def weight(self, rng: Rng, what: str) -> str:
        """Return the name of a weight: W, R or B of a recurrent node, a head's, or any."""
        if what in ("W", "R", "B"):
            node = self.node(rng, *_RECURRENT)
            place = 1 + "WRB".index(what)
            if place >= len(node.input) or not node.input[place]:
                raise NotApplicableError
            return node.input[place]
        held = {tensor.name for tensor in self.graph.initializer}
        names = []
        for node in self.graph.node:
            if what == "head" and node.op_type in ("Gemm", "MatMul", "Conv"):
                names += [name for name in node.input[1:2] if name in held]
            elif what == "head bias" and node.op_type in ("Gemm", "Conv", "Add"):
                names += [name for name in node.input[1 if node.op_type == "Add" else 2 :] if name in held]
            elif what == "embedding" and node.op_type == "Gather":
                names += [
                    name for name in node.input[:1] if name in held and self.initializer(name).ndim == 2
                ]
        if not names:
            raise NotApplicableError
        return names[rng.integers(len(names))]

    def initializer(self, name: str) -> Array:
        """Return an initializer's values."""
        return numpy_helper.to_array(next(each for each in self.graph.initializer if each.name == name))

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an initializer."""
        name = self.fresh()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def fresh(self) -> str:
        """Return a name that is not taken."""
        self._new += 1
        return f"mutant_{self._new}"

    def nodes(self, *nodes: tuple[Any, ...], first: bool = False, **attributes: Any) -> None:
        """Add nodes ``(op, inputs, output)`` at the end, or at the beginning."""
        made = [helper.make_node(op, list(ins), [out], **attributes) for op, ins, out in nodes]
        if first:
            for place, node in enumerate(made):
                self.graph.node.insert(place, node)
        else:
            self.graph.node.extend(made)

    def behind_input(self, name: str, *steps: tuple[str, tuple[str, ...]], **attributes: Any) -> None:
        """Let every reader of an input read what ``steps`` make of it; ``@`` is what was made so far."""
        current, made = name, []
        for op, inputs in steps:
            out = self.fresh()
            made.append((op, tuple(current if each == "@" else each for each in inputs), out))
            current = out
        for node in self.graph.node:
            for place, each in enumerate(node.input):
                if each == name:
                    node.input[place] = current
        self.nodes(*made, first=True, **attributes)

    def before_output(self, name: str, *steps: tuple[str, tuple[str, ...]], **attributes: Any) -> None:
        """Let an output be what ``steps`` make of it; ``@`` stands for what was made so far."""
        current = self.fresh()
        for node in self.graph.node:
            for place, each in enumerate(node.output):
                if each == name:
                    node.output[place] = current
            for place, each in enumerate(node.input):
                if each == name:
                    node.input[place] = current
        for number, (op, inputs) in enumerate(steps):
            out = name if number == len(steps) - 1 else self.fresh()
            self.nodes((op, tuple(current if each == "@" else each for each in inputs), out), **attributes)
            current = out

    def signal(self) -> tuple[str, tuple[int | str, ...]]:
        """Return the first float input that is no state."""
        for spec in self.manifest.inputs:
            if spec.dtype == "float32":
                return spec.name, spec.axes
        raise NotApplicableError

    def timed(self) -> tuple[str, int]:
        """Return the first input with a time axis, and which axis that is."""
        for spec in self.manifest.inputs:
            if self.manifest.sequence in spec.axes:
                return spec.name, spec.axes.index(self.manifest.sequence)
        raise NotApplicableError

    def batched(self) -> tuple[str, int]:
        """Return the first input with a batch axis, and which axis that is."""
        for spec in self.manifest.inputs:
            if self.manifest.batch in spec.axes and len(spec.axes) > 1:
                return spec.name, spec.axes.index(self.manifest.batch)
        raise NotApplicableError

    def state(self, rng: Rng) -> Any:
        """Return one of the states."""
        if not self.manifest.states:
            raise NotApplicableError
        return self.manifest.states[rng.integers(len(self.manifest.states))]

    def output(self, rng: Rng) -> str:
        """Return one of the outputs that are no states."""
        return self.manifest.outputs[rng.integers(len(self.manifest.outputs))].name


@dataclass(frozen=True)
class Kind:
    """A class of mutants."""

    group: str
    name: str
    spoil: Callable[[Draft, Rng], None] = field(repr=False)
    contract: bool = False
    """Whether it changes what the file says and not what it computes."""
    unread: bool = False
    """Whether it changes a field that nothing reads (``checks.claims.FIELDS``)."""


KINDS: list[Kind] = []


def _kind(
    group: str, name: str, *, contract: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def register(spoil: Callable[..., None]) -> Callable[..., None]:
        KINDS.append(Kind(group, name, spoil, contract))
        return spoil

    return register


def _gates(array: Array, count: int) -> Array:
    """View ``(D, count*H, ...)`` as ``(D, count, H, ...)``."""
    return array.reshape(array.shape[0], count, -1, *array.shape[2:])


def _at_random(array: Array, rng: Rng) -> tuple[int, ...]:
    return tuple(int(rng.integers(size)) for size in array.shape)


# Weights


def _one_weight(what: str, amount: float) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, rng: Rng) -> None:
        def change(array: Array) -> Array:
            array[_at_random(array, rng)] += amount * max(float(np.abs(array).max()), 1e-3)
            return array

        draft.change(draft.weight(rng, what), change)

    return spoil


def _whole_weight(what: str, change: Callable[[Array, Rng], Array]) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, rng: Rng) -> None:
        draft.change(draft.weight(rng, what), lambda array: change(array, rng))

    return spoil


def _round_to_bits(array: Array, bits: int) -> Array:
    """Keep so many bits of the significand."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)


def _swap_rows(array: Array, rng: Rng) -> Array:
    axis = 0 if array.ndim == 2 else min(1, array.ndim - 1)
    if array.shape[axis] < 2:
        raise NotApplicableError
    order = np.arange(array.shape[axis])
    one, two = rng.choice(len(order), 2, replace=False)
    order[[one, two]] = two, one
    return array.take(order, axis=axis)


def _transpose(array: Array, _: Rng) -> Array:
    if array.ndim < 2 or array.shape[-1] != array.shape[-2]:
        raise NotApplicableError
    return np.swapaxes(array, -1, -2)


def _sparse(array: Array, rng: Rng) -> Array:
    flat = array.reshape(-1)
    flat[rng.integers(flat.size)] = 0.0
    return array


for _what in ("W", "R", "B", "head", "head bias", "embedding"):
    for _amount in (0.3, 1e-2, 1e-3, 1e-4):
        KINDS.append(Kind("weights", f"one {_what} off by {_amount:g}", _one_weight(_what, _amount)))
_CHANGES: dict[str, Callable[[Array, Rng], Array]] = {
    "zeroed": lambda array, _: 0 * array,
    "times 1.001": lambda array, _: array * 1.001,
    "times 1.0001": lambda array, _: array * 1.0001,
    "sign turned": lambda array, _: -array,
    "rolled by one": lambda array, _: np.roll(array, 1, axis=-1),
    "two rows exchanged": _swap_rows,
    "one value zeroed": _sparse,
    "to 11 bits": lambda array, _: _round_to_bits(array, 11),
    "to 8 bits": lambda array, _: _round_to_bits(array, 8),
    "noise of 1e-4": lambda array, rng: array * (1 + 1e-4 * rng.standard_normal(array.shape)),
}
for _what in ("W", "R", "B", "head", "head bias"):
    for _name, _change in _CHANGES.items():
        KINDS.append(Kind("weights", f"{_what} {_name}", _whole_weight(_what, _change)))
KINDS.append(Kind("weights", "square head transposed", _whole_weight("head", _transpose)))


@_kind("weights", "first embedding row changed")
def _first_row(draft: Draft, rng: Rng) -> None:
    draft.change(draft.weight(rng, "embedding"), lambda a: np.concatenate([a[:1] + 0.5, a[1:]]))


@_kind("weights", "last embedding row changed")
def _last_row(draft: Draft, rng: Rng) -> None:
    draft.change(draft.weight(rng, "embedding"), lambda a: np.concatenate([a[:-1], a[-1:] + 0.5]))


@_kind("weights", "half of the bias dropped")
def _half_bias(draft: Draft, rng: Rng) -> None:
    half = int(rng.integers(2))

    def drop(bias: Array) -> Array:
        width = bias.shape[1] // 2
        bias[:, half * width : (half + 1) * width] = 0
        return bias

    draft.change(draft.weight(rng, "B"), drop)


@_kind("weights", "every float to fp16")
def _all_half(draft: Draft, _: Rng) -> None:
    for tensor in list(draft.graph.initializer):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            draft.change(tensor.name, lambda array: array.astype(np.float16))


# Gates


def _on_gates(
    draft: Draft, rng: Rng, kind: str, change: Callable[[Array, int], Array], only: str = "WRB"
) -> None:
    node, count = draft.node(rng, kind), len(_GATES[kind])
    for what in only:
        place, blocks = 1 + "WRB".index(what), 2 * count if what == "B" else count
        if place < len(node.input) and node.input[place]:

            def on_view(array: Array, blocks: int = blocks) -> Array:
                return change(_gates(array, blocks), count).reshape(array.shape)

            draft.change(node.input[place], on_view)


def _swap(one: int, two: int) -> Callable[[Array, int], Array]:
    def change(array: Array, count: int) -> Array:
        order = list(range(array.shape[1]))
        for start in range(0, array.shape[1], count):
            order[start + one], order[start + two] = start + two, start + one
        return array[:, order]

    return change


for _op in ("LSTM", "GRU"):
    for _one, _two in combinations(range(len(_GATES[_op])), 2):
        for _only in ("WRB", "W", "R", "B"):
            _pair = f"{_GATES[_op][_one]} and {_GATES[_op][_two]}"
            _where = "" if _only == "WRB" else f" in {_only}"
            KINDS.append(
                Kind(
                    "gates",
                    f"{_op} gates {_pair} exchanged{_where}",
                    lambda d, r, o=_op, a=_one, b=_two, w=_only: _on_gates(d, r, o, _swap(a, b), w),
                )
            )


def _nudge(gate: int, amount: float, unit: bool) -> Callable[[Array, int], Array]:
    def change(array: Array, _: int) -> Array:
        array[:, gate, 0 if unit else slice(None)] += amount
        return array

    return change


for _op in ("LSTM", "GRU", "RNN"):
    for _gate, _letter in enumerate(_GATES[_op]):
        for _amount, _unit in ((1e-4, False), (1e-4, True), (1e-2, True), (1.0, False)):
            _of = "one unit of " if _unit else ""
            KINDS.append(
                Kind(
                    "gates",
                    f"{_op} bias of {_of}gate {_letter} off by {_amount:g}",
                    lambda d, r, o=_op, g=_gate, a=_amount, u=_unit: _on_gates(d, r, o, _nudge(g, a, u), "B"),
                )
            )


@_kind("gates", "linear_before_reset turned")
def _before_reset(draft: Draft, rng: Rng) -> None:
    node = draft.node(rng, "GRU")
    now = next((each.i for each in node.attribute if each.name == "linear_before_reset"), 0)
    _set(node, "linear_before_reset", 1 - now)


@_kind("gates", "input_forget set")
def _coupled(draft: Draft, rng: Rng) -> None:
    _set(draft.node(rng, "LSTM"), "input_forget", 1)


def _set(node: onnx.NodeProto, name: str, value: Any) -> None:
    kept = [each for each in node.attribute if each.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


# Activations


def _directions(node: onnx.NodeProto) -> int:
    return 2 if any(each.s == b"bidirectional" for each in node.attribute) else 1


def _activation(op: str, usual: tuple[str, ...], place: int, other: str) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, rng: Rng) -> None:
        node = draft.node(rng, op)
        stated = [each.strings for each in node.attribute if each.name == "activations"]
        if stated and op == "RNN" and stated[0][0].decode() != usual[0]:
            raise NotApplicableError
        chosen = list(usual)
        chosen[place] = other
        _set(node, "activations", chosen * _directions(node))

    return spoil


for _op, _usual in (("LSTM", ("Sigmoid", "Tanh", "Tanh")), ("GRU", ("Sigmoid", "Tanh")), ("RNN", ("Tanh",))):
    for _place, _function in enumerate(_usual):
        for _other in (
            ("HardSigmoid", "Relu", "Softsign") if _function == "Sigmoid" else ("Sigmoid", "Relu", "Softsign")
        ):
            KINDS.append(
                Kind(
                    "activations",
                    f"{_op} {_function} {_place} is {_other}",
                    _activation(_op, _usual, _place, _other),
                )
            )
for _clip in (0.5, 2.0, 10.0):
    KINDS.append(
        Kind(
            "activations",
            f"gates clipped at {_clip:g}",
            lambda d, r, c=_clip: _set(d.node(r, *_RECURRENT), "clip", c),
        )
    )
_OTHERS = (
    ("Relu", "LeakyRelu"),
    ("Relu", "Identity"),
    ("Sigmoid", "HardSigmoid"),
    ("Tanh", "Softsign"),
    ("Softmax", "Sigmoid"),
    ("LogSoftmax", "Softmax"),
    ("Elu", "Selu"),
    ("Gelu", "Relu"),
)
for _before, _after in _OTHERS:

    def _replace(draft: Draft, rng: Rng, before: str = _before, after: str = _after) -> None:
        node = draft.node(rng, before)
        node.op_type = after
        del node.attribute[:]

    KINDS.append(Kind("activations", f"{_before} of the head is {_after}", _replace))
for _eps in (1e-2, 1e-4, 1e-7):

    def _epsilon(draft: Draft, rng: Rng, eps: float = _eps) -> None:
        node = draft.node(rng, "LayerNormalization", "BatchNormalization")
        _set(node, "epsilon", eps)

    KINDS.append(Kind("epsilon", f"epsilon of a norm {_eps:g}", _epsilon))


@_kind("epsilon", "softmax over another axis")
def _softmax_axis(draft: Draft, rng: Rng) -> None:
    _set(draft.node(rng, "Softmax", "LogSoftmax"), "axis", 1)


# Directions


@_kind("directions", "layer run backwards")
def _backwards(draft: Draft, rng: Rng) -> None:
    node = draft.node(rng, *_RECURRENT)
    if _directions(node) == 2:
        raise NotApplicableError
    _set(node, "direction", "reverse")


def _two_ways(draft: Draft, rng: Rng) -> onnx.NodeProto:
    found = [node for node in draft.graph.node if node.op_type in _RECURRENT and _directions(node) == 2]
    if not found:
        raise NotApplicableError
    return found[rng.integers(len(found))]


for _only in ("WRB", "W", "R", "B"):

    def _exchange(draft: Draft, rng: Rng, only: str = _only) -> None:
        node = _two_ways(draft, rng)
        for what in only:
            draft.change(node.input[1 + "WRB".index(what)], lambda array: array[::-1])

    KINDS.append(Kind("directions", f"directions exchanged in {_only}", _exchange))


@_kind("directions", "backward weights are the forward ones")
def _same_ways(draft: Draft, rng: Rng) -> None:
    node = _two_ways(draft, rng)
    for place in (1, 2, 3):
        draft.change(node.input[place], lambda array: np.stack([array[0], array[0]]))


# States


@_kind("states", "state output is what came in")
def _not_carried(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    for node in draft.graph.node:
        for place, name in enumerate(node.output):
            if name == state.output:
                node.output[place] = draft.fresh()
    draft.nodes(("Identity", (state.input,), state.output))


@_kind("states", "state input ignored")
def _ignored(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    draft.behind_input(state.input, ("Mul", ("@", draft.constant(0.0))))


@_kind("states", "state input times 0.999")
def _weaker(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    draft.behind_input(state.input, ("Mul", ("@", draft.constant(0.999))))


@_kind("states", "state output times 1.0001")
def _scaled_state(draft: Draft, rng: Rng) -> None:
    draft.before_output(draft.state(rng).output, ("Mul", ("@", draft.constant(1.0001))))


@_kind("states", "state output plus 1e-4")
def _shifted_state(draft: Draft, rng: Rng) -> None:
    draft.before_output(draft.state(rng).output, ("Add", ("@", draft.constant(1e-4))))


@_kind("states", "state output zeroed")
def _zero_state(draft: Draft, rng: Rng) -> None:
    draft.before_output(draft.state(rng).output, ("Mul", ("@", draft.constant(0.0))))


@_kind("states", "state input clipped at 1")
def _clipped_state(draft: Draft, rng: Rng) -> None:
    low, high = draft.constant(-1.0), draft.constant(1.0)
    draft.behind_input(draft.state(rng).input, ("Clip", ("@", low, high)))


@_kind("states", "state input in fp16")
def _half_state(draft: Draft, rng: Rng) -> None:
    _through_half(draft, draft.state(rng).input)


def _through_half(draft: Draft, name: str) -> None:
    half, back = draft.fresh(), draft.fresh()
    for node in draft.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = back
    draft.graph.node.insert(0, helper.make_node("Cast", [name], [half], to=onnx.TensorProto.FLOAT16))
    draft.graph.node.insert(1, helper.make_node("Cast", [half], [back], to=onnx.TensorProto.FLOAT))


def _alike(draft: Draft) -> tuple[Any, Any]:
    states = draft.manifest.states
    for one, two in combinations(states, 2):
        if one.axes == two.axes:
            return one, two
    raise NotApplicableError


@_kind("states", "two state inputs exchanged")
def _exchanged_inputs(draft: Draft, _: Rng) -> None:
    one, two = _alike(draft)
    for node in draft.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = {one.input: two.input, two.input: one.input}.get(name, name)


@_kind("states", "two state outputs exchanged")
def _exchanged_outputs(draft: Draft, _: Rng) -> None:
    one, two = _alike(draft)
    for node in draft.graph.node:
        for place, name in enumerate(node.output):
            node.output[place] = {one.output: two.output, two.output: one.output}.get(name, name)


@_kind("states", "layers of a state exchanged")
def _exchanged_layers(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    if not isinstance(state.axes[0], int) or state.axes[0] < 2:
        raise NotApplicableError
    order = draft.constant(list(range(state.axes[0]))[::-1], np.int64)
    draft.behind_input(state.input, ("Gather", ("@", order)), axis=0)


@_kind("states", "state of row 0 for every row")
def _first_rows_state(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    if draft.manifest.batch not in state.axes:
        raise NotApplicableError
    axis = state.axes.index(draft.manifest.batch)
    shape, first = draft.fresh(), draft.fresh()
    expanded = draft.fresh()
    for node in draft.graph.node:
        for place, each in enumerate(node.input):
            if each == state.input:
                node.input[place] = expanded
    zero = draft.constant([0], np.int64)
    for place, node in enumerate(
        (
            helper.make_node("Shape", [state.input], [shape]),
            helper.make_node("Gather", [state.input, zero], [first], axis=axis),
            helper.make_node("Expand", [first, shape], [expanded]),
        )
    ):
        draft.graph.node.insert(place, node)


# Sizes and lengths


def _slice(draft: Draft, name: str, axis: int, start: int, stop: int) -> None:
    bounds = [draft.constant([each], np.int64) for each in (start, stop, axis)]
    draft.behind_input(name, ("Slice", ("@", *bounds)))


for _steps in (12, 20, 64, 200, 512):

    def _only_first(draft: Draft, _: Rng, steps: int = _steps) -> None:
        _slice(draft, *draft.timed(), 0, steps)

    KINDS.append(Kind("sizes", f"only the first {_steps} steps are read", _only_first))


@_kind("sizes", "shape baked in, steps")
def _baked_steps(draft: Draft, _: Rng) -> None:
    name, axis = draft.timed()
    spec = next(spec for spec in draft.manifest.inputs if spec.name == name)
    golden = draft.manifest.golden
    assert golden is not None
    shape = [-1 if isinstance(each, str) else each for each in spec.axes]
    shape[axis] = golden.inputs[name].shape[axis]
    draft.behind_input(name, ("Reshape", ("@", draft.constant(shape, np.int64))))


@_kind("sizes", "shape baked in, rows")
def _baked_rows(draft: Draft, _: Rng) -> None:
    name, axis = draft.batched()
    spec = next(spec for spec in draft.manifest.inputs if spec.name == name)
    golden = draft.manifest.golden
    assert golden is not None
    shape = [-1 if isinstance(each, str) else each for each in spec.axes]
    shape[axis] = golden.inputs[name].shape[axis]
    draft.behind_input(name, ("Reshape", ("@", draft.constant(shape, np.int64))))


@_kind("contract", "batch fixed in the graph and the manifest", contract=True)
def _fixed_batch(draft: Draft, _: Rng) -> None:
    golden, batch = draft.manifest.golden, draft.manifest.batch
    assert golden is not None
    name, axis = draft.batched()
    _fix(draft, str(batch), golden.inputs[name].shape[axis])
    draft.manifest = draft.manifest._replace(batch=None)


@_kind("contract", "length fixed in the graph and the manifest", contract=True)
def _fixed_length(draft: Draft, _: Rng) -> None:
    golden, sequence = draft.manifest.golden, draft.manifest.sequence
    assert golden is not None
    name, axis = draft.timed()
    _fix(draft, str(sequence), golden.inputs[name].shape[axis])
    draft.manifest = draft.manifest._replace(sequence=None)


def _fix(draft: Draft, axis: str, size: int) -> None:
    def fixed(axes: tuple[int | str, ...]) -> tuple[int | str, ...]:
        factor = {axis: 1, **{f"{k}*{axis}": k for k in range(2, 9)}}
        return tuple(factor[each] * size if each in factor else each for each in axes)  # type: ignore[index]

    m = draft.manifest
    draft.manifest = m._replace(
        inputs=tuple(each._replace(axes=fixed(each.axes)) for each in m.inputs),
        outputs=tuple(each._replace(axes=fixed(each.axes)) for each in m.outputs),
        states=tuple(each._replace(axes=fixed(each.axes)) for each in m.states),
    )
    for value in (*draft.graph.input, *draft.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == axis:
                dim.dim_value = size


@_kind("sizes", "rows mixed by a thousandth")
def _mixed(draft: Draft, _: Rng) -> None:
    name, axis = draft.batched()
    if next(spec for spec in draft.manifest.inputs if spec.name == name).dtype != "float32":
        raise NotApplicableError
    mean, share, mixed = draft.fresh(), draft.fresh(), draft.fresh()
    for node in draft.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = mixed
    little, axes = draft.constant(1e-3), draft.constant([axis], np.int64)
    for place, node in enumerate(
        (
            helper.make_node("ReduceMean", [name, axes], [mean]),
            helper.make_node("Mul", [mean, little], [share]),
            helper.make_node("Add", [name, share], [mixed]),
        )
    ):
        draft.graph.node.insert(place, node)


@_kind("sizes", "steps in the wrong order")
def _reversed_steps(draft: Draft, _: Rng) -> None:
    name, axis = draft.timed()
    bounds = [draft.constant([each], np.int64) for each in (-1, np.iinfo(np.int64).min + 1, axis, -1)]
    draft.behind_input(name, ("Slice", ("@", *bounds)))


def _beyond(draft: Draft, name: str, axis: int, size: int) -> None:
    """Zero an output where an axis of the input is longer than ``size``."""
    shape, count, small = draft.fresh(), draft.fresh(), draft.fresh()
    bound, place = draft.constant(size + 1, np.int64), draft.constant(axis, np.int64)
    draft.nodes(
        ("Shape", (name,), shape),
        ("Gather", (shape, place), count),
        ("Less", (count, bound), small),
        first=True,
    )
    factor = draft.fresh()
    draft.graph.node.insert(3, helper.make_node("Cast", [small], [factor], to=onnx.TensorProto.FLOAT))
    for spec in draft.manifest.outputs:
        draft.before_output(spec.name, ("Mul", ("@", factor)))


for _size in (150, 300, 900):
    KINDS.append(
        Kind("sizes", f"wrong beyond {_size} steps", lambda d, _, s=_size: _beyond(d, *d.timed(), s))
    )
for _size in (5, 20, 128):
    KINDS.append(
        Kind("sizes", f"wrong beyond {_size} rows", lambda d, _, s=_size: _beyond(d, *d.batched(), s))
    )


def _lengths_input(draft: Draft) -> str:
    if draft.manifest.lengths is None:
        raise NotApplicableError
    return draft.manifest.lengths


@_kind("lengths", "lengths one less")
def _shorter(draft: Draft, _: Rng) -> None:
    one = draft.constant(1, np.int64)
    draft.behind_input(_lengths_input(draft), ("Sub", ("@", one)), ("Max", ("@", one)))


@_kind("lengths", "lengths at most 12")
def _capped(draft: Draft, _: Rng) -> None:
    draft.behind_input(_lengths_input(draft), ("Min", ("@", draft.constant(12, np.int64))))


@_kind("lengths", "lengths ignored by one layer")
def _deaf(draft: Draft, rng: Rng) -> None:
    _lengths_input(draft)
    node = draft.node(rng, *_RECURRENT)
    if len(node.input) < 5 or not node.input[4]:
        raise NotApplicableError
    node.input[4] = ""


@_kind("lengths", "the longest length for every row")
def _longest(draft: Draft, _: Rng) -> None:
    name = _lengths_input(draft)
    most, shape, spread = draft.fresh(), draft.fresh(), draft.fresh()
    for node in draft.graph.node:
        for place, each in enumerate(node.input):
            if each == name:
                node.input[place] = spread
    for place, node in enumerate(
        (
            helper.make_node("ReduceMax", [name], [most], keepdims=1),
            helper.make_node("Shape", [name], [shape]),
            helper.make_node("Expand", [most, shape], [spread]),
        )
    ):
        draft.graph.node.insert(place, node)


@_kind("lengths", "padding leaks where it is NaN")
def _leak(draft: Draft, _: Rng) -> None:
    _lengths_input(draft)
    name, _axes = draft.signal()
    total, leak = draft.fresh(), draft.fresh()
    draft.nodes(("ReduceSum", (name,), total), first=True, keepdims=0)
    draft.graph.node.insert(1, helper.make_node("Mul", [total, draft.constant(0.0)], [leak]))
    draft.before_output(draft.manifest.outputs[0].name, ("Add", ("@", leak)))


# What goes in and comes out


@_kind("values", "input times 1.0001")
def _scaled_input(draft: Draft, _: Rng) -> None:
    draft.behind_input(draft.signal()[0], ("Mul", ("@", draft.constant(1.0001))))


@_kind("values", "input in fp16")
def _half_input(draft: Draft, _: Rng) -> None:
    _through_half(draft, draft.signal()[0])


@_kind("values", "input clipped at 1,000 of its spread")
def _clipped_input(draft: Draft, _: Rng) -> None:
    name, _axes = draft.signal()
    golden = draft.manifest.golden
    assert golden is not None
    bound = 100 * float(np.abs(golden.inputs[name]).max())
    draft.behind_input(name, ("Clip", ("@", draft.constant(-bound), draft.constant(bound))))


@_kind("values", "two features exchanged")
def _exchanged_features(draft: Draft, rng: Rng) -> None:
    name, axes = draft.signal()
    if not isinstance(axes[-1], int) or axes[-1] < 2:
        raise NotApplicableError
    order = np.arange(axes[-1])
    one, two = rng.choice(len(order), 2, replace=False)
    order[[one, two]] = two, one
    draft.behind_input(name, ("Gather", ("@", draft.constant(order, np.int64))), axis=len(axes) - 1)


for _about, _value in (("times 1.0001", 1.0001), ("times -1", -1.0), ("zeroed", 0.0)):

    def _scaled_output(draft: Draft, rng: Rng, value: float = _value) -> None:
        draft.before_output(draft.output(rng), ("Mul", ("@", draft.constant(value))))

    KINDS.append(Kind("values", f"output {_about}", _scaled_output))


@_kind("values", "one channel of an output times 1.001")
def _scaled_channel(draft: Draft, rng: Rng) -> None:
    _channel(draft, rng, lambda factor, place: factor.__setitem__(place, 1.001))


@_kind("values", "one channel of an output zeroed")
def _zero_channel(draft: Draft, rng: Rng) -> None:
    _channel(draft, rng, lambda factor, place: factor.__setitem__(place, 0.0))


def _channel(draft: Draft, rng: Rng, change: Callable[[Array, int], None]) -> None:
    spec = draft.manifest.outputs[rng.integers(len(draft.manifest.outputs))]
    if not isinstance(spec.axes[-1], int) or spec.axes[-1] < 2:
        raise NotApplicableError
    factor = np.ones(spec.axes[-1], np.float32)
    change(factor, int(rng.integers(len(factor))))
    draft.before_output(spec.name, ("Mul", ("@", draft.constant(factor))))


@_kind("values", "two channels of an output exchanged")
def _exchanged_channels(draft: Draft, rng: Rng) -> None:
    spec = draft.manifest.outputs[rng.integers(len(draft.manifest.outputs))]
    if not isinstance(spec.axes[-1], int) or spec.axes[-1] < 2:
        raise NotApplicableError
    order = np.arange(spec.axes[-1])
    one, two = rng.choice(len(order), 2, replace=False)
    order[[one, two]] = two, one
    draft.before_output(
        spec.name, ("Gather", ("@", draft.constant(order, np.int64))), axis=len(spec.axes) - 1
    )


@_kind("values", "output rounded to 1e-3 of its largest")
def _rounded_output(draft: Draft, rng: Rng) -> None:
    name = draft.output(rng)
    golden = draft.manifest.golden
    assert golden is not None
    step = 1e-3 * float(np.abs(golden.outputs[name]).max())
    draft.before_output(
        name, ("Div", ("@", draft.constant(step))), ("Round", ("@",)), ("Mul", ("@", draft.constant(step)))
    )


# Contract


def _states(change: Callable[[Any, Rng], Any]) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, rng: Rng) -> None:
        states = list(draft.manifest.states)
        if not states:
            raise NotApplicableError
        place = int(rng.integers(len(states)))
        states[place] = change(states[place], rng)
        draft.manifest = draft.manifest._replace(states=tuple(states))

    return spoil


def _one_reset(state: Any, rng: Rng) -> Any:
    shape = [axis if isinstance(axis, int) else 1 for axis in state.axes]
    reset = np.broadcast_to(np.asarray(state.reset, np.float32), shape).copy()
    reset[_at_random(reset, rng)] += 0.5
    return state._replace(reset=reset)


_CONTRACT: dict[str, Callable[[Draft, Rng], None]] = {
    "reset value 0.5": _states(lambda state, _: state._replace(reset=0.5)),
    "reset value 1e-3": _states(lambda state, _: state._replace(reset=1e-3)),
    "one element of a reset value": _states(_one_reset),
}
for _name, _spoil in _CONTRACT.items():
    KINDS.append(Kind("contract", _name, _spoil, contract=True))


@_kind("contract", "state pairs exchanged", contract=True)
def _pairs(draft: Draft, _: Rng) -> None:
    one, two = _alike(draft)
    states = [
        state._replace(
            output={one.output: two.output, two.output: one.output}.get(state.output, state.output)
        )
        for state in draft.manifest.states
    ]
    draft.manifest = draft.manifest._replace(states=tuple(states))


@_kind("contract", "state declared as plain input and output", contract=True)
def _no_state(draft: Draft, rng: Rng) -> None:
    from lstm_edge_runtime.manifest import TensorSpec

    state, m = draft.state(rng), draft.manifest
    draft.manifest = m._replace(
        states=tuple(each for each in m.states if each != state),
        inputs=(*m.inputs, TensorSpec(state.input, state.dtype, state.axes)),
        outputs=(*m.outputs, TensorSpec(state.output, state.dtype, state.axes)),
    )


def _task(change: Callable[[Task], Task | None]) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, _: Rng) -> None:
        if draft.manifest.task is None:
            raise NotApplicableError
        new = change(draft.manifest.task)
        if new == draft.manifest.task:
            raise NotApplicableError
        draft.manifest = draft.manifest._replace(task=new)

    return spoil


def _replaced(**changes: Callable[[Manifest], Any]) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, _: Rng) -> None:
        new = draft.manifest._replace(**{name: change(draft.manifest) for name, change in changes.items()})
        if new.to_json() == draft.manifest.to_json():
            raise NotApplicableError
        draft.manifest = new

    return spoil


def _signal(**changes: Callable[[Any], Any]) -> Callable[[Draft, Rng], None]:
    return _replaced(
        signal=lambda m: (
            m.signal._replace(**{name: change(m.signal) for name, change in changes.items()})
            if m.signal.features
            else m.signal
        )
    )


def _golden(**changes: Callable[[Any], Any]) -> Callable[[Draft, Rng], None]:
    return _replaced(
        golden=lambda m: m.golden._replace(**{name: change(m.golden) for name, change in changes.items()})
    )


def _off(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: array + array.dtype.type(0.01) for name, array in arrays.items()}


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda limits: {name: factor * value for name, value in limits.items()}


def _ranged(role: str, found: AxisRange) -> Callable[[Draft, Rng], None]:
    def spoil(draft: Draft, _: Rng) -> None:
        axis = getattr(draft.manifest, role)
        if axis is None:
            raise NotApplicableError
        draft.manifest = draft.manifest._replace(ranges={**draft.manifest.ranges, axis: found})

    return spoil


def _provenance(**changes: Any) -> Callable[[Draft, Rng], None]:
    return _replaced(provenance=lambda m: {**m.provenance, **changes})


@_kind("contract", "schema 0", contract=True)
def _schema(draft: Draft, _: Rng) -> None:
    draft.schema = 0


@_kind("contract", "int8 by an unused tensor", contract=True)
def _unused_int8(draft: Draft, _: Rng) -> None:
    draft.constant(np.zeros(3), np.int8)
    draft.manifest = draft.manifest._replace(precision="int8")


for _name, _spoil in {
    "labels rotated": _task(lambda t: t._replace(labels=t.labels[1:] + t.labels[:1])),
    "two labels exchanged": _task(lambda t: t._replace(labels=t.labels[:-2] + t.labels[:-3:-1])),
    "a label renamed": _task(lambda t: t._replace(labels=(*t.labels[:-1], "other") if t.labels else ())),
    "labels missing": _task(lambda t: t._replace(labels=())),
    "task missing": _task(lambda t: None),  # noqa: ARG005
    "task is regression": _task(lambda t: t._replace(kind="regression")),
    "task is classification": _task(lambda t: t._replace(kind="classification", units=())),
    "units exchanged": _task(lambda t: t._replace(units=t.units[::-1])),
    "features reversed": _signal(features=lambda s: s.features[::-1]),
    "a feature renamed": _signal(features=lambda s: ("other", *s.features[1:])),
    "sampling rate doubled": _signal(sampling_rate=lambda s: s.sampling_rate and 2 * s.sampling_rate),
    "window one longer": _signal(window=lambda s: s.window and s.window + 1),
    "precision int8": _replaced(precision=lambda m: "int8"),  # noqa: ARG005
    "precision fp16": _replaced(precision=lambda m: "fp16"),  # noqa: ARG005
    "called unstreamable": _replaced(
        unstreamable=lambda m: m.unstreamable or ("so it is" if m.states else "")
    ),
    "called streamable": _replaced(unstreamable=lambda m: ""),  # noqa: ARG005
    "lengths null": _replaced(lengths=lambda m: None),  # noqa: ARG005
    "time axis null": _replaced(sequence=lambda m: None),  # noqa: ARG005
    "batch axis null": _replaced(batch=lambda m: None),  # noqa: ARG005
    "batch and time axis exchanged": _replaced(batch=lambda m: m.sequence, sequence=lambda m: m.batch),
    "states said to run on behind a length": _replaced(
        padded_states=lambda m: (
            not m.padded_states if m.lengths and m.states and not m.unstreamable else m.padded_states
        )
    ),
    "golden limits of 1e9": _golden(limit=lambda g: dict.fromkeys(g.outputs, 1e9)),
    "golden floors of 1": _golden(floor=lambda g: dict.fromkeys(g.outputs, 1.0)),
    "golden outputs off by 0.01": _golden(outputs=lambda g: _off(g.outputs)),
    "checkpoint of another": _replaced(
        provenance=lambda m: (
            {**m.provenance, "checkpoint_sha256": "f" * 64}
            if m.provenance.get("checkpoint_sha256")
            else m.provenance
        )
    ),
    "another opset": _provenance(opset=21),
    "checkpoint removed": _replaced(
        provenance=lambda m: (
            {name: value for name, value in m.provenance.items() if name != "checkpoint_sha256"}
            if m.provenance.get("checkpoint_sha256")
            else m.provenance
        )
    ),
    "outputs reversed": _replaced(outputs=lambda m: m.outputs[::-1]),
    "inputs reversed": _replaced(inputs=lambda m: m.inputs[::-1]),
    "rows from 1 to 2": _ranged("batch", AxisRange(1, 2)),
    "steps from 1 to 99": _ranged("sequence", AxisRange(1, 99)),
    "even steps only": _ranged("sequence", AxisRange(2, None, 2)),
    "an output that counts steps": _replaced(counts=lambda m: (m.outputs[0].name,)),
    "trained from reset": _replaced(trained=lambda m: m.trained and m.trained._replace(carry=False)),
    "half as many resets in training": _replaced(
        trained=lambda m: m.trained and m.trained._replace(reset=m.trained.reset / 2)
    ),
    "no golden case": _replaced(golden=lambda m: None),  # noqa: ARG005
    "no second golden case": _golden(more=lambda g: ()),  # noqa: ARG005
    "golden limits 9.9 times too wide": _golden(limits=lambda g: _scaled(9.9)(g.limits)),
    "golden floors 9.9 times too wide": _golden(floor=lambda g: _scaled(9.9)(g.floor)),
    "golden case without limits": _golden(limits=lambda g: {}),  # noqa: ARG005
    "golden case of zeros": _golden(inputs=lambda g: _scaled(0)(g.inputs)),
    "golden outputs off by a thousandth": _golden(outputs=lambda g: _scaled(1.001)(g.outputs)),
}.items():
    KINDS.append(Kind("contract", _name, _spoil, contract=True))
for _name, _spoil in {
    "other versions": _provenance(versions={"torch": "2.0"}),
    "a figure of the export": _replaced(equivalence=lambda m: {**m.equivalence, "max_abs": 0.5}),
    "what was done with missing features": _signal(missing=lambda s: "dropped"),  # noqa: ARG005
}.items():
    KINDS.append(Kind("contract", _name, _spoil, contract=True, unread=True))


@_kind("one ULP", "one weight off by one unit in the last place")
def _one_ulp(draft: Draft, rng: Rng) -> None:
    """Any float tensor, weights of recurrent nodes, heads and norms alike, and any element that is not 0."""
    floats = [each for each in draft.graph.initializer if each.data_type == onnx.TensorProto.FLOAT]
    name = floats[rng.integers(len(floats))].name

    def moved(array: Array) -> Array:
        places = np.flatnonzero(array)
        if not places.size:
            raise NotApplicableError
        place = rng.choice(places)
        array.reshape(-1)[place] = np.nextafter(array.reshape(-1)[place], np.float32(np.inf))
        return array

    draft.change(name, moved)
