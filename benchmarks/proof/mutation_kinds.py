"""The ways in which ``mutation.py`` spoils a file: classes of mutants, by group.

A class is a function that changes a model in place (``Draft``) with the given random generator, or raises
``NotApplicableError``. What a class does at random (which gate, which unit) differs from mutant to mutant.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_runtime.manifest import KEY, SCHEMA, Array, AxisRange, Manifest, TensorSpec

__all__ = ["KINDS", "Draft", "Kind", "NotApplicableError"]

Rng = np.random.Generator

_RECURRENT = ("LSTM", "GRU", "RNN")
_GATES = {"LSTM": "iofc", "GRU": "zrh", "RNN": "h"}


class NotApplicableError(Exception):
    """The file has nothing that this class could spoil."""


def _require(applicable: object) -> None:
    if not applicable:
        raise NotApplicableError


def _pick(found: Sequence[Any], rng: Rng) -> Any:
    _require(found)
    return found[rng.integers(len(found))]


class Draft:
    """A model that is being changed.

    New nodes are written as expressions: tuples of an operator, its inputs and, optionally, a dict of
    attributes. An input is the name of a tensor, ``$`` for the tensor that is being replaced, an expression,
    or a number or list, which becomes an initializer (float32 or int64).
    """

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

    def node(self, rng: Rng, *kinds: str, ways: int = 0) -> onnx.NodeProto:
        """Return one node of these kinds, with that number of directions if it matters."""
        nodes = (node for node in self.graph.node if node.op_type in kinds)
        return _pick([node for node in nodes if ways in (0, _directions(node))], rng)

    def change(self, name: str, how: Callable[[Array], Array]) -> None:
        """Replace an initializer by ``how(array)``."""
        for tensor in self.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                new = np.ascontiguousarray(how(array)).astype(array.dtype)
                tensor.CopyFrom(numpy_helper.from_array(new, name))
                return
        raise NotApplicableError

    def weight(self, rng: Rng, what: str) -> str:
        """Return the name of a weight: W, R or B of a recurrent node, a head's, or an embedding."""
        if what in _PLACES:
            node = self.node(rng, *_RECURRENT)
            _require(len(node.input) > _PLACES[what] and node.input[_PLACES[what]])
            return node.input[_PLACES[what]]
        sizes = {tensor.name: len(tensor.dims) for tensor in self.graph.initializer}
        places = _WEIGHTS[what]
        found = [
            name
            for node in self.graph.node
            if node.op_type in places
            for name in node.input[places[node.op_type]]
            if name in sizes and (what != "embedding" or sizes[name] == 2)
        ]
        return _pick(found, rng)

    def fresh(self) -> str:
        """Return a name that is not used."""
        self._new += 1
        return f"mutant_{self._new}"

    def compute(self, expression: Any, replaced: str, nodes: list[onnx.NodeProto]) -> str:
        """Append the nodes of an expression to ``nodes`` and return the name of its value."""
        if isinstance(expression, str):
            return replaced if expression == "$" else expression
        if not isinstance(expression, tuple):
            value = np.asarray(expression)
            dtype = np.float32 if value.dtype.kind == "f" else np.int64
            self.graph.initializer.append(numpy_helper.from_array(value.astype(dtype), name := self.fresh()))
            return name
        operator, *inputs = expression
        attributes = inputs.pop() if inputs and isinstance(inputs[-1], dict) else {}
        names = [self.compute(each, replaced, nodes) for each in inputs]
        nodes.append(helper.make_node(operator, names, [name := self.fresh()], **attributes))
        return name

    def insert(self, expression: Any, replaced: str = "") -> str:
        """Put the nodes of an expression first, and return the name of its value."""
        nodes: list[onnx.NodeProto] = []
        value = self.compute(expression, replaced, nodes)
        for place, node in enumerate(nodes):
            self.graph.node.insert(place, node)
        return value

    def rename(self, names: dict[str, str], *, inputs: bool = True, outputs: bool = False) -> None:
        """Rename tensors where nodes read them, and where nodes make them."""
        for node in self.graph.node:
            for given in ([node.input] if inputs else []) + ([node.output] if outputs else []):
                given[:] = [names.get(each, each) for each in given]

    def replace_input(self, name: str, expression: Any) -> None:
        """Let every reader of an input read an expression of it."""
        self.rename({name: (value := self.fresh())})
        made = self.insert(expression, name)
        self.rename({made: value}, inputs=False, outputs=True)

    def replace_output(self, name: str, expression: Any) -> None:
        """Let an output be an expression of what it was."""
        self.rename({name: (before := self.fresh())}, outputs=True)
        nodes: list[onnx.NodeProto] = []
        self.compute(expression, before, nodes)
        nodes[-1].output[0] = name
        self.graph.node.extend(nodes)

    def find(self, what: str, rng: Rng) -> TensorSpec:
        """Return a tensor: a state coming in or going out, an output that is none, or an input.

        Inputs: the lengths, the first ``float`` one, the first one with steps (``sequence``) or rows
        (``batch``).
        """
        m = self.manifest
        if what in ("state in", "state out"):
            state = self.state(rng)
            return TensorSpec(state.input if what == "state in" else state.output, state.dtype, state.axes)
        if what == "output":
            return _pick(m.outputs, rng)
        suits: dict[str, Callable[[TensorSpec], bool]] = {
            "lengths": lambda spec: spec.name == m.lengths,
            "float": lambda spec: spec.dtype == "float32",
            "sequence": lambda spec: m.sequence in spec.axes,
            "batch": lambda spec: m.batch in spec.axes and len(spec.axes) > 1,
        }
        found = list(filter(suits[what], m.inputs))
        _require(found)
        return found[0]

    def state(self, rng: Rng) -> Any:
        """Return one of the states."""
        return _pick(self.manifest.states, rng)

    def exchange(self, side: str) -> dict[str, str]:
        """Return the names of two states of the same axes, ``input`` or ``output``, each for the other."""
        pairs = [pair for pair in combinations(self.manifest.states, 2) if pair[0].axes == pair[1].axes]
        _require(pairs)
        one, two = (getattr(state, side) for state in pairs[0])
        return {one: two, two: one}

    @property
    def golden(self) -> Any:
        """The golden case."""
        assert self.manifest.golden is not None
        return self.manifest.golden


Spoil = Callable[[Draft, Rng], object]
_PLACES = {"W": 1, "R": 2, "B": 3}
_WEIGHTS: dict[str, dict[str, slice]] = {
    "head": dict.fromkeys(("Gemm", "MatMul", "Conv"), slice(1, 2)),
    "head bias": {"Gemm": slice(2, None), "Conv": slice(2, None), "Add": slice(1, None)},
    "embedding": {"Gather": slice(0, 1)},
}
"""Which inputs of which nodes are weights of a kind."""


@dataclass(frozen=True)
class Kind:
    """A class of mutants."""

    group: str
    name: str
    spoil: Spoil = field(repr=False)
    contract: bool = False
    """Whether it changes what the file says and not what it computes."""
    unread: bool = False
    """Whether it changes a field that nothing reads (``FIELDS`` in test_claims.py)."""


def _at_random(array: Array, rng: Rng) -> tuple[int, ...]:
    return tuple(int(rng.integers(size)) for size in array.shape)


def _exchange_two(size: int, rng: Rng) -> Array:
    """Return an order in which two places are exchanged."""
    order = np.arange(size)
    one, two = rng.choice(size, 2, replace=False)
    order[[one, two]] = two, one
    return order


class Place(NamedTuple):
    """The tensor that an expression replaces."""

    draft: Draft
    rng: Rng
    spec: TensorSpec

    @property
    def recorded(self) -> Array:
        """The tensor in the golden case."""
        golden = self.draft.golden
        return {**golden.inputs, **golden.outputs}[self.spec.name]

    def axis(self, role: str) -> int:
        """Return the place of the axis of rows (``batch``) or steps (``sequence``)."""
        return self.spec.axes.index(getattr(self.draft.manifest, role))

    def size(self, axis: int) -> int:
        """Return the size of an axis that has at least 2."""
        size = self.spec.axes[axis]
        _require(isinstance(size, int) and size >= 2)
        return int(size)


def _replace(what: str, *expression: Any) -> Spoil:
    """Replace a tensor (``Draft.find``) by an expression, or by what a function of its ``Place`` gives."""

    def spoil(draft: Draft, rng: Rng) -> None:
        place = Place(draft, rng, draft.find(what, rng))
        replace = draft.replace_output if what in ("output", "state out") else draft.replace_input
        replace(place.spec.name, expression[0](place) if callable(expression[0]) else expression)

    return spoil


def _set(node: onnx.NodeProto, **attributes: Any) -> None:
    kept = [each for each in node.attribute if each.name not in attributes]
    made = [helper.make_attribute(name, value) for name, value in attributes.items()]
    del node.attribute[:]
    node.attribute.extend([*kept, *made])


def _directions(node: onnx.NodeProto) -> int:
    return 2 if any(each.s == b"bidirectional" for each in node.attribute) else 1


# Weights


def _on_weight(what: str, change: Callable[[Array, Rng], Array]) -> Spoil:
    return lambda draft, rng: draft.change(draft.weight(rng, what), lambda array: change(array, rng))


def _off_by(amount: float) -> Callable[[Array, Rng], Array]:
    def change(array: Array, rng: Rng) -> Array:
        array[_at_random(array, rng)] += amount * max(float(np.abs(array).max()), 1e-3)
        return array

    return change


def _round_to_bits(array: Array, bits: int) -> Array:
    """Keep that number of bits of the significand."""
    mantissa, exponent = np.frexp(array)
    return np.ldexp(np.round(mantissa * 2**bits) / 2**bits, exponent)


def _swap_rows(array: Array, rng: Rng) -> Array:
    axis = 0 if array.ndim == 2 else min(1, array.ndim - 1)
    _require(array.shape[axis] >= 2)
    return array.take(_exchange_two(array.shape[axis], rng), axis=axis)


def _transpose(array: Array, _: Rng) -> Array:
    _require(array.ndim >= 2 and array.shape[-1] == array.shape[-2])
    return np.swapaxes(array, -1, -2)


def _sparse(array: Array, rng: Rng) -> Array:
    flat = array.reshape(-1)
    flat[rng.integers(flat.size)] = 0.0
    return array


def _half(array: Array, rng: Rng) -> Array:
    np.split(array, 2, axis=1)[rng.integers(2)][:] = 0
    return array


def _all_half(draft: Draft, _: Rng) -> None:
    for tensor in list(draft.graph.initializer):
        if tensor.data_type == TensorProto.FLOAT:
            draft.change(tensor.name, lambda array: array.astype(np.float16))


def _one_ulp(draft: Draft, rng: Rng) -> None:
    """Any float tensor, weights of recurrent nodes, heads and norms alike, and any element that is not 0."""
    floats = [each for each in draft.graph.initializer if each.data_type == TensorProto.FLOAT]

    def moved(array: Array) -> Array:
        places = np.flatnonzero(array)
        _require(places.size)
        place = rng.choice(places)
        array.reshape(-1)[place] = np.nextafter(array.reshape(-1)[place], np.float32(np.inf))
        return array

    draft.change(_pick(floats, rng).name, moved)


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
_TENSORS = ("W", "R", "B", "head", "head bias")
_WEIGHT_KINDS: dict[str, Spoil] = {
    **{
        f"one {what} off by {amount:g}": _on_weight(what, _off_by(amount))
        for what in (*_TENSORS, "embedding")
        for amount in (0.3, 1e-2, 1e-3, 1e-4)
    },
    **{f"{what} {name}": _on_weight(what, change) for what in _TENSORS for name, change in _CHANGES.items()},
    "square head transposed": _on_weight("head", _transpose),
    "first embedding row changed": _on_weight("embedding", lambda a, _: np.concatenate([a[:1] + 0.5, a[1:]])),
    "last embedding row changed": _on_weight(
        "embedding", lambda a, _: np.concatenate([a[:-1], a[-1:] + 0.5])
    ),
    "half of the bias dropped": _on_weight("B", _half),
    "every float to fp16": _all_half,
}

# Gates


def _on_gates(kind: str, change: Callable[[Array, int], Array], only: str = "WRB") -> Spoil:
    """Change a node's weights, viewed as ``(D, blocks of gates, H, ...)``; a bias has two blocks."""

    def spoil(draft: Draft, rng: Rng) -> None:
        node, count = draft.node(rng, kind), len(_GATES[kind])
        for what in only:
            blocks = 2 * count if what == "B" else count
            if _PLACES[what] < len(node.input) and node.input[_PLACES[what]]:

                def on_view(array: Array, blocks: int = blocks) -> Array:
                    view = array.reshape(array.shape[0], blocks, -1, *array.shape[2:])
                    return change(view, count).reshape(array.shape)

                draft.change(node.input[_PLACES[what]], on_view)

    return spoil


def _swap(one: int, two: int) -> Callable[[Array, int], Array]:
    def change(array: Array, count: int) -> Array:
        order = np.arange(array.shape[1]).reshape(-1, count)
        order[:, [one, two]] = order[:, [two, one]]
        return array[:, order.ravel()]

    return change


def _nudge(gate: int, amount: float, unit: bool) -> Callable[[Array, int], Array]:
    def change(array: Array, _: int) -> Array:
        array[:, gate, 0 if unit else slice(None)] += amount
        return array

    return change


def _before_reset(draft: Draft, rng: Rng) -> None:
    node = draft.node(rng, "GRU")
    now = next((each.i for each in node.attribute if each.name == "linear_before_reset"), 0)
    _set(node, linear_before_reset=1 - now)


_GATE_KINDS: dict[str, Spoil] = {
    **{
        f"{op} gates {letters[one]} and {letters[two]} exchanged{where}": _on_gates(op, _swap(one, two), only)
        for op, letters in _GATES.items()
        for one, two in combinations(range(len(letters)), 2)
        for only, where in (("WRB", ""), ("W", " in W"), ("R", " in R"), ("B", " in B"))
    },
    **{
        f"{op} bias of {'one unit of ' if unit else ''}gate {letter} off by {amount:g}": _on_gates(
            op, _nudge(gate, amount, unit), "B"
        )
        for op, letters in _GATES.items()
        for gate, letter in enumerate(letters)
        for amount, unit in ((1e-4, False), (1e-4, True), (1e-2, True), (1.0, False))
    },
    "linear_before_reset turned": _before_reset,
    "input_forget set": lambda d, r: _set(d.node(r, "LSTM"), input_forget=1),
}

# Activations, norms and directions


def _activation(op: str, usual: tuple[str, ...], place: int, other: str) -> Spoil:
    def spoil(draft: Draft, rng: Rng) -> None:
        node = draft.node(rng, op)
        stated = [each.strings for each in node.attribute if each.name == "activations"]
        _require(not (stated and op == "RNN" and stated[0][0].decode() != usual[0]))
        chosen = [*usual[:place], other, *usual[place + 1 :]]
        _set(node, activations=chosen * _directions(node))

    return spoil


def _become(before: str, after: str) -> Spoil:
    def spoil(draft: Draft, rng: Rng) -> None:
        node = draft.node(rng, before)
        node.op_type = after
        del node.attribute[:]

    return spoil


_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_BECOMES = {
    "Relu": "LeakyRelu Identity", "Sigmoid": "HardSigmoid", "Tanh": "Softsign", "Softmax": "Sigmoid",
    "LogSoftmax": "Softmax", "Elu": "Selu", "Gelu": "Relu",
}  # fmt: skip
_ACTIVATIONS: dict[str, Spoil] = {
    **{
        f"{op} {function} {place} is {other}": _activation(op, usual, place, other)
        for op, usual in _USUAL.items()
        for place, function in enumerate(usual)
        for other in ("HardSigmoid" if function == "Sigmoid" else "Sigmoid", "Relu", "Softsign")
    },
    **{
        f"gates clipped at {clip:g}": lambda d, r, c=clip: _set(d.node(r, *_RECURRENT), clip=c)
        for clip in (0.5, 2.0, 10.0)
    },
    **{
        f"{op} of the head is {other}": _become(op, other)
        for op, others in _BECOMES.items()
        for other in others.split()
    },
}
_EPSILONS: dict[str, Spoil] = {
    **{
        f"epsilon of a norm {eps:g}": lambda d, r, e=eps: _set(
            d.node(r, "LayerNormalization", "BatchNormalization"), epsilon=e
        )
        for eps in (1e-2, 1e-4, 1e-7)
    },
    "softmax over another axis": lambda d, r: _set(d.node(r, "Softmax", "LogSoftmax"), axis=1),
}


def _on_directions(change: Callable[[Array], Array], only: str = "WRB") -> Spoil:
    def spoil(draft: Draft, rng: Rng) -> None:
        node = draft.node(rng, *_RECURRENT, ways=2)
        for what in only:
            draft.change(node.input[_PLACES[what]], change)

    return spoil


def _backwards(draft: Draft, rng: Rng) -> None:
    node = draft.node(rng, *_RECURRENT)
    _require(_directions(node) == 1)
    _set(node, direction="reverse")


_DIRECTIONS: dict[str, Spoil] = {
    "layer run backwards": _backwards,
    "backward weights are the forward ones": _on_directions(lambda array: np.stack([array[0], array[0]])),
    **{
        f"directions exchanged in {only}": _on_directions(lambda array: array[::-1], only)
        for only in ("WRB", "W", "R", "B")
    },
}

# States, sizes, lengths and values

_FP16 = ("Cast", ("Cast", "$", {"to": TensorProto.FLOAT16}), {"to": TensorProto.FLOAT})


def _not_carried(draft: Draft, rng: Rng) -> None:
    state = draft.state(rng)
    draft.rename({state.output: draft.fresh()}, inputs=False, outputs=True)
    draft.graph.node.append(helper.make_node("Identity", [state.input], [state.output]))


def _bake(role: str) -> Spoil:
    """Fix an axis of an input at the golden case's size."""

    def shape(place: Place) -> list[int]:
        free = [-1 if isinstance(each, str) else each for each in place.spec.axes]
        free[place.axis(role)] = place.recorded.shape[place.axis(role)]
        return free

    return _replace(role, lambda place: ("Reshape", "$", shape(place)))


def _mix_rows(place: Place) -> Any:
    _require(place.spec.dtype == "float32")
    return "Add", "$", ("Mul", ("ReduceMean", "$", [place.axis("batch")]), 1e-3)


def _beyond(role: str, size: int) -> Spoil:
    """Zero the outputs if an axis of the input is longer than ``size``."""

    def spoil(draft: Draft, rng: Rng) -> None:
        place = Place(draft, rng, draft.find(role, rng))
        small = ("Less", ("Gather", ("Shape", place.spec.name), place.axis(role)), size + 1)
        factor = draft.insert(("Cast", small, {"to": TensorProto.FLOAT}))
        for output in draft.manifest.outputs:
            draft.replace_output(output.name, ("Mul", "$", factor))

    return spoil


def _deaf(draft: Draft, rng: Rng) -> None:
    _require(draft.manifest.lengths)
    node = draft.node(rng, *_RECURRENT)
    _require(len(node.input) > 4 and node.input[4])
    node.input[4] = ""


def _leak(draft: Draft, rng: Rng) -> None:
    _require(draft.manifest.lengths)
    leak = draft.insert(("Mul", ("ReduceSum", draft.find("float", rng).name, {"keepdims": 0}), 0.0))
    draft.replace_output(draft.manifest.outputs[0].name, ("Add", "$", leak))


def _clip(place: Place) -> Any:
    bound = 100 * float(np.abs(place.recorded).max())
    return "Clip", "$", -bound, bound


def _exchange_channels(place: Place) -> Any:
    return "Gather", "$", _exchange_two(place.size(-1), place.rng), {"axis": len(place.spec.axes) - 1}


def _scale_channel(value: float) -> Spoil:
    def factors(place: Place) -> Array:
        found = np.ones(place.size(-1))
        found[int(place.rng.integers(len(found)))] = value
        return found

    return _replace("output", lambda place: ("Mul", "$", factors(place)))


def _round(place: Place) -> Any:
    step = 1e-3 * float(np.abs(place.recorded).max())
    return "Mul", ("Round", ("Div", "$", step)), step


_STATES: dict[str, Spoil] = {
    "state output is what came in": _not_carried,
    "state input ignored": _replace("state in", "Mul", "$", 0.0),
    "state input times 0.999": _replace("state in", "Mul", "$", 0.999),
    "state output times 1.0001": _replace("state out", "Mul", "$", 1.0001),
    "state output plus 1e-4": _replace("state out", "Add", "$", 1e-4),
    "state output zeroed": _replace("state out", "Mul", "$", 0.0),
    "state input clipped at 1": _replace("state in", "Clip", "$", -1.0, 1.0),
    "state input in fp16": _replace("state in", *_FP16),
    "two state inputs exchanged": lambda d, _: d.rename(d.exchange("input")),
    "two state outputs exchanged": lambda d, _: d.rename(d.exchange("output"), inputs=False, outputs=True),
    "layers of a state exchanged": _replace(
        "state in", lambda place: ("Gather", "$", list(range(place.size(0)))[::-1], {"axis": 0})
    ),
    "state of row 0 for every row": _replace(
        "state in",
        lambda place: ("Expand", ("Gather", "$", [0], {"axis": place.axis("batch")}), ("Shape", "$")),
    ),
}
_SIZES: dict[str, Spoil] = {
    **{
        f"only the first {steps} steps are read": _replace(
            "sequence", lambda place, end=steps: ("Slice", "$", [0], [end], [place.axis("sequence")])
        )
        for steps in (12, 20, 64, 200, 512)
    },
    "shape baked in, steps": _bake("sequence"),
    "shape baked in, rows": _bake("batch"),
    "rows mixed by a thousandth": _replace("batch", _mix_rows),
    "steps in the wrong order": _replace(
        "sequence",
        lambda place: ("Slice", "$", [-1], [np.iinfo(np.int64).min + 1], [place.axis("sequence")], [-1]),
    ),
    **{f"wrong beyond {size} steps": _beyond("sequence", size) for size in (150, 300, 900)},
    **{f"wrong beyond {size} rows": _beyond("batch", size) for size in (5, 20, 128)},
}
_LENGTHS: dict[str, Spoil] = {
    "lengths one less": _replace("lengths", "Max", ("Sub", "$", 1), 1),
    "lengths at most 12": _replace("lengths", "Min", "$", 12),
    "lengths ignored by one layer": _deaf,
    "the longest length for every row": _replace(
        "lengths", "Expand", ("ReduceMax", "$", {"keepdims": 1}), ("Shape", "$")
    ),
    "padding leaks where it is NaN": _leak,
}
_VALUES: dict[str, Spoil] = {
    "input times 1.0001": _replace("float", "Mul", "$", 1.0001),
    "input in fp16": _replace("float", *_FP16),
    "input clipped at 1,000 of its spread": _replace("float", _clip),
    "two features exchanged": _replace("float", _exchange_channels),
    "output times 1.0001": _replace("output", "Mul", "$", 1.0001),
    "output times -1": _replace("output", "Mul", "$", -1.0),
    "output zeroed": _replace("output", "Mul", "$", 0.0),
    "one channel of an output times 1.001": _scale_channel(1.001),
    "one channel of an output zeroed": _scale_channel(0.0),
    "two channels of an output exchanged": _replace("output", _exchange_channels),
    "output rounded to 1e-3 of its largest": _replace("output", _round),
}

# What the manifest claims


def _fix(role: str) -> Spoil:
    """Fix an axis in the graph and in the manifest."""

    def spoil(draft: Draft, rng: Rng) -> None:
        place = Place(draft, rng, draft.find(role, rng))
        m, axis = draft.manifest, str(getattr(draft.manifest, role))
        size = place.recorded.shape[place.axis(role)]
        sizes = {axis: size, **{f"{k}*{axis}": k * size for k in range(2, 9)}}
        fixed = {
            what: tuple(
                s._replace(axes=tuple(sizes.get(each, each) for each in s.axes)) for s in getattr(m, what)
            )
            for what in ("inputs", "outputs", "states")
        }
        for value in (*draft.graph.input, *draft.graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param == axis:
                    dim.dim_value = size
        draft.manifest = m._replace(**fixed, **{role: None})

    return spoil


def _claim(owner: str = "", **changes: Any) -> Spoil:
    """Change fields of the manifest, or of a part of it, to values or to functions of their owner.

    Not applicable if the part is missing, or nothing changes.
    """

    def spoil(draft: Draft, _: Rng) -> None:
        m = draft.manifest
        part: Any = getattr(m, owner) if owner else m
        _require(part is not None)
        made = {name: change(part) if callable(change) else change for name, change in changes.items()}
        new = {**part, **made} if isinstance(part, Mapping) else part._replace(**made)
        draft.manifest = m._replace(**{owner: new}) if owner else new
        _require(draft.manifest.to_json() != m.to_json())

    return spoil


def _claim_state(change: Callable[[Any, Rng], Any]) -> Spoil:
    def spoil(draft: Draft, rng: Rng) -> None:
        chosen = draft.state(rng)
        states = (change(each, rng) if each == chosen else each for each in draft.manifest.states)
        draft.manifest = draft.manifest._replace(states=tuple(states))

    return spoil


def _one_reset(state: Any, rng: Rng) -> Any:
    shape = [axis if isinstance(axis, int) else 1 for axis in state.axes]
    reset = np.broadcast_to(np.asarray(state.reset, np.float32), shape).copy()
    reset[_at_random(reset, rng)] += 0.5
    return state._replace(reset=reset)


def _pairs(draft: Draft, _: Rng) -> None:
    names, m = draft.exchange("output"), draft.manifest
    states = (each._replace(output=names.get(each.output, each.output)) for each in m.states)
    draft.manifest = m._replace(states=tuple(states))


def _no_state(draft: Draft, rng: Rng) -> None:
    state, m = draft.state(rng), draft.manifest
    draft.manifest = m._replace(
        states=tuple(each for each in m.states if each != state),
        inputs=(*m.inputs, TensorSpec(state.input, state.dtype, state.axes)),
        outputs=(*m.outputs, TensorSpec(state.output, state.dtype, state.axes)),
    )


def _ranged(role: str, found: AxisRange) -> Spoil:
    def ranges(m: Manifest) -> Any:
        axis = getattr(m, role)
        return m.ranges if axis is None else {**m.ranges, axis: found}

    return _claim(ranges=ranges)


def _scaled(name: str, factor: float) -> Callable[[Any], Any]:
    return lambda golden: {key: factor * value for key, value in getattr(golden, name).items()}


def _checkpoint(**changes: str) -> Spoil:
    """Replace or remove the checksum of the checkpoint, if there is one."""

    def provenance(m: Manifest) -> Any:
        rest = {name: value for name, value in m.provenance.items() if name != "checkpoint_sha256"}
        return rest | changes if m.provenance.get("checkpoint_sha256") else m.provenance

    return _claim(provenance=provenance)


def _unused_int8(draft: Draft, _: Rng) -> None:
    draft.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.int8), draft.fresh()))
    draft.manifest = draft.manifest._replace(precision="int8")


_CONTRACT: dict[str, Spoil] = {
    "batch fixed in the graph and the manifest": _fix("batch"),
    "length fixed in the graph and the manifest": _fix("sequence"),
    "reset value 0.5": _claim_state(lambda state, _: state._replace(reset=0.5)),
    "reset value 1e-3": _claim_state(lambda state, _: state._replace(reset=1e-3)),
    "one element of a reset value": _claim_state(_one_reset),
    "state pairs exchanged": _pairs,
    "state declared as plain input and output": _no_state,
    "schema 0": lambda draft, _: setattr(draft, "schema", 0),
    "int8 by an unused tensor": _unused_int8,
    "labels rotated": _claim("task", labels=lambda t: t.labels[1:] + t.labels[:1]),
    "two labels exchanged": _claim("task", labels=lambda t: t.labels[:-2] + t.labels[:-3:-1]),
    "a label renamed": _claim("task", labels=lambda t: (*t.labels[:-1], "other") if t.labels else ()),
    "labels missing": _claim("task", labels=()),
    "task missing": _claim(task=None),
    "task is regression": _claim("task", kind="regression"),
    "task is classification": _claim("task", kind="classification", units=()),
    "units exchanged": _claim("task", units=lambda t: t.units[::-1]),
    "features reversed": _claim("signal", features=lambda s: s.features[::-1]),
    "a feature renamed": _claim(
        "signal", features=lambda s: ("other", *s.features[1:]) if s.features else ()
    ),
    "sampling rate doubled": _claim(
        "signal", sampling_rate=lambda s: s.sampling_rate and 2 * s.sampling_rate
    ),
    "window one longer": _claim("signal", window=lambda s: s.window and s.window + 1),
    "precision int8": _claim(precision="int8"),
    "precision fp16": _claim(precision="fp16"),
    "called unstreamable": _claim(unstreamable=lambda m: m.unstreamable or ("so it is" if m.states else "")),
    "called streamable": _claim(unstreamable=""),
    "lengths null": _claim(lengths=None),
    "time axis null": _claim(sequence=None),
    "batch axis null": _claim(batch=None),
    "batch and time axis exchanged": _claim(batch=lambda m: m.sequence, sequence=lambda m: m.batch),
    "states said to run on behind a length": _claim(
        padded_states=lambda m: m.padded_states != bool(m.lengths and m.states and not m.unstreamable)
    ),
    "golden limits of 1e9": _claim("golden", limit=lambda g: dict.fromkeys(g.outputs, 1e9)),
    "golden floors of 1": _claim("golden", floor=lambda g: dict.fromkeys(g.outputs, 1.0)),
    "golden outputs off by 0.01": _claim(
        "golden", outputs=lambda g: {name: each + each.dtype.type(0.01) for name, each in g.outputs.items()}
    ),
    "checkpoint of another": _checkpoint(checkpoint_sha256="f" * 64),
    "another opset": _claim("provenance", opset=21),
    "checkpoint removed": _checkpoint(),
    "outputs reversed": _claim(outputs=lambda m: m.outputs[::-1]),
    "inputs reversed": _claim(inputs=lambda m: m.inputs[::-1]),
    "rows from 1 to 2": _ranged("batch", AxisRange(1, 2)),
    "steps from 1 to 99": _ranged("sequence", AxisRange(1, 99)),
    "even steps only": _ranged("sequence", AxisRange(2, None, 2)),
    "an output that counts steps": _claim(counts=lambda m: (m.outputs[0].name,)),
    "trained from reset": _claim("trained", carry=False),
    "half as many resets in training": _claim("trained", reset=lambda t: t.reset / 2),
    "no golden case": _claim(golden=None),
    "no second golden case": _claim("golden", more=()),
    "golden limits 9.9 times too wide": _claim("golden", limits=_scaled("limits", 9.9)),
    "golden floors 9.9 times too wide": _claim("golden", floor=_scaled("floor", 9.9)),
    "golden case without limits": _claim("golden", limits={}),
    "golden case of zeros": _claim("golden", inputs=_scaled("inputs", 0)),
    "golden outputs off by a thousandth": _claim("golden", outputs=_scaled("outputs", 1.001)),
}
_UNREAD = {
    "other versions": _claim("provenance", versions={"torch": "2.0"}),
    "a figure of the export": _claim("equivalence", max_abs=0.5),
    "what was done with missing features": _claim(
        "signal", missing=lambda s: "dropped" if s.features else s.missing
    ),
}
KINDS = [
    Kind(group, name, spoil, contract=group == "contract", unread=name in _UNREAD)
    for group, table in {
        "weights": _WEIGHT_KINDS,
        "gates": _GATE_KINDS,
        "activations": _ACTIVATIONS,
        "epsilon": _EPSILONS,
        "directions": _DIRECTIONS,
        "states": _STATES,
        "sizes": _SIZES,
        "lengths": _LENGTHS,
        "values": _VALUES,
        "contract": {**_CONTRACT, **_UNREAD},
        "one ULP": {"one weight off by one unit in the last place": _one_ulp},
    }.items()
    for name, spoil in table.items()
]
