"""Random networks, as a program and as its float64 reference."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from reference import Layer

from lstm_edge_exporters.targets.native.blocks import INT8_SHAPE, SHAPE
from lstm_edge_exporters.targets.native.program import (
    Binary,
    Code,
    Function,
    ProgramWriter,
)
from lstm_edge_runtime.native import Past

Array = Any

USUAL = {
    "LSTM": [
        (Function.SIGMOID, 0.0, 0.0),
        (Function.TANH, 0.0, 0.0),
        (Function.TANH, 0.0, 0.0),
    ],
    "GRU": [(Function.SIGMOID, 0.0, 0.0), (Function.TANH, 0.0, 0.0)],
    "RNN": [(Function.TANH, 0.0, 0.0)],
}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
PARAMETERS = {
    Function.AFFINE: (0.5, 0.1), Function.LEAKY_RELU: (0.1, 0.0), Function.THRESHOLDED_RELU: (0.05, 0.0),
    Function.SCALED_TANH: (1.2, 0.7), Function.HARD_SIGMOID: (0.2, 0.5), Function.ELU: (0.9, 0.0),
    Function.SELU: (1.6733, 1.0507), Function.CLIP: (-1.5, 2.5),
}  # fmt: skip
"""Alpha and beta of the functions that have them."""


def copy(
    writer: ProgramWriter, source: int, out: int, length: int, at: Sequence[int] = (0, 0), count: int = 1,
    strides: Sequence[int] = (0, 0),
) -> None:  # fmt: skip
    """Add copies of stretches of ``source`` from ``at[0]`` on to ``out`` from ``at[1]``
    on."""
    writer.operation(Code.COPY, source, out, *at, length, count, *strides)


def joined(writer: ProgramWriter, parts: Sequence[int]) -> int:
    """Return the concatenation of several buffers."""
    out = writer.buffer(sum(map(writer.width, parts)))
    start = 0
    for part in parts:
        copy(writer, part, out, writer.width(part), (0, start))
        start += writer.width(part)
    return out


class Network:
    """Stacked layers and a linear head with a residual sum."""

    def __init__(self, inputs: int, hidden: int, *, every_step: bool) -> None:
        self.inputs = inputs
        self.hidden = hidden
        self.every_step = every_step
        self.layers: list[Layer] = []
        self.head: tuple[Array, Array] = (np.zeros(0), np.zeros(0))
        self.writer = ProgramWriter()
        self.program = b""

    def __repr__(self) -> str:
        kinds = [layer.kind for layer in self.layers]
        return (
            f"Network({kinds}, I={self.inputs}, H={self.hidden},"
            f" every_step={self.every_step})"
        )

    @property
    def states(self) -> int:
        return sum(STATES[layer.kind] for layer in self.layers)

    def run(self, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        """Return the outputs ``(L, C)`` and the states after ``x (L, I)``, in
        float64."""
        outputs = []
        states = [state.astype("float64") for state in states]
        for sample in x.astype("float64"):
            value = sample
            at = 0
            for layer in self.layers:
                count = STATES[layer.kind]
                states[at : at + count] = layer.step(value, states[at : at + count])
                value = states[at]
                at = at + count
            weights, bias = self.head
            outputs.append(np.tanh(weights @ value + bias) + value[0])
        return np.array(outputs), states


def pruned(
    rng: np.random.Generator, weights: Array, density: float, *, int8: bool
) -> Array:
    """Return weights of which only some blocks are not zero; the first band has
    none."""
    rows, columns = INT8_SHAPE if int8 else SHAPE
    bands, width = len(weights) // rows, -(-weights.shape[1] // columns)
    kept = rng.random((bands, width)) < density
    kept[0] = False
    mask = np.kron(kept, np.ones((rows, columns), bool))
    return np.where(mask[:, : weights.shape[1]], weights, np.float32(0))


def make_network(
    rng: np.random.Generator,
    kinds: list[str],
    inputs: int,
    hidden: int,
    *,
    outputs: int = 5,
    int8: bool = False,
    stored: bool = False,
    plain: bool = True,
    every_step: bool = True,
    golden_steps: int = 0,
    density: float = 1.0,
) -> Network:
    """Return a random network; not ``plain`` means other functions, and layers without
    bias.

    ``stored``: the weights of a large program are int8 times a scale and its inputs
    float32. With a ``density`` below 1 the other blocks of a layer's weights are zero;
    ``hidden`` is a multiple of 16, or of 8 with ``int8``.
    """
    network = Network(inputs, hidden, every_step=every_step)
    writer = network.writer
    width = inputs
    k = 1 / np.sqrt(hidden)
    golden = (
        rng.standard_normal((golden_steps, inputs)).astype("float32")
        if golden_steps
        else None
    )
    value = writer.input("x", inputs)
    pairs = []
    inside = [
        function for function in Function if function <= Function.SOFTPLUS and function
    ]
    for kind in kinds:
        rows = GATES[kind] * hidden
        W, R = (
            rng.uniform(-k, k, (rows, n)).astype("float32") for n in (width, hidden)
        )
        if density < 1:
            W, R = (pruned(rng, w, density, int8=int8) for w in (W, R))
        bias = rng.uniform(-k, k, rows * (2 if kind == "GRU" else 1)).astype("float32")
        scales = None
        if int8 or stored:
            peaks = [np.abs(w).max(1).astype("float32") for w in (W, R)]
            scales = [np.where(peak > 0, peak, np.float32(1)) / 127 for peak in peaks]
            W, R = (
                np.rint(w / scale[:, None])
                for w, scale in zip((W, R), scales, strict=True)
            )
        if stored:
            W, R = (
                w.astype("float32") * scale[:, None]
                for w, scale in zip((W, R), scales, strict=True)
            )
            scales = None
            writer.manifest(" " * (1 << 18))
        drawn = [inside[int(rng.integers(len(inside)))] for _ in USUAL[kind]]
        functions = [
            (code, *map(float, np.float32(PARAMETERS.get(code, (0, 0)))))
            for code in drawn
        ]
        options = {"scales": scales, "flags": int(kind == "GRU" and rng.integers(2))}
        options |= {"functions": USUAL[kind] if plain else functions}
        bias = bias if plain or rng.integers(2) else None
        network.layers.append(Layer(kind, W, R, bias, **options))
        old = [writer.state(f"s{len(pairs) + i}", hidden) for i in range(STATES[kind])]
        new = writer.recurrent(Code[kind], value, old, (W, R), bias, **options)
        pairs += zip(old, new, strict=True)
        value = new[0]
        width = hidden
    network.head = (
        rng.uniform(-k, k, (outputs, hidden)).astype("float32"),
        rng.uniform(-1, 1, outputs),
    )
    network.head = network.head[0], network.head[1].astype("float32")
    first = writer.buffer(1)
    copy(writer, value, first, 1)
    result = writer.unary(writer.linear(value, *network.head), Function.TANH)
    for pair in pairs:
        writer.next_state(*pair)
    writer.output("y", writer.binary(Binary.ADD, result, first), every_step=every_step)
    if golden is not None:
        y, states = network.run(golden, [np.zeros(hidden)] * network.states)
        limit = 0.05 if int8 else 1e-5
        expected = {"y": (y if every_step else y[-1], limit)}
        writer.golden(
            {"x": golden},
            expected | {f"s{i}": (state, limit) for i, state in enumerate(states)},
        )
    network.program = writer.to_bytes()
    return network


class Reads:
    """A program that keeps ``frames`` of what a layer gives, and reads some of them in
    three ways.

    ``new`` of them come with every step.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        frames: int,
        every_step: bool = True,
        new: int = 1,
    ) -> None:
        self.width = int(rng.integers(1, 20))
        self.new = new
        self.first = int(rng.integers(0, frames + new))
        self.dilation = int(rng.integers(1, 4))
        self.count = (frames + new - 1 - self.first) // self.dilation + 1
        self.weights = rng.standard_normal((self.width, 3)).astype("float32")
        self.taps = rng.standard_normal((self.count, self.width)).astype("float32")
        self.past = Past(1, frames, self.width)
        self.reset = rng.standard_normal((1, frames, self.width)).astype("float32")
        writer = self.writer = ProgramWriter()
        value = writer.linear(writer.input("x", 3 * new), self.weights)
        ring = writer.past("past", self.past, self.reset)
        read = writer.window(value, ring, self.first, self.dilation, self.count, new)
        total = writer.depthwise(read, self.width, self.taps, self.taps[0])
        result = joined(writer, [read, total, writer.depthwise(read, self.width, None)])
        writer.operation(Code.PUSH, value, ring, frames, 1)
        writer.output("y", result, every_step=every_step)
        x = rng.standard_normal((5, 3 * new)).astype("float32")
        y = self.run(x)
        writer.golden({"x": x}, {"y": (y if every_step else y[-1], 1e-4)})

    def run(self, x: Array) -> Array:
        """Return the outputs of the steps ``x (L, new * 3)`` after a reset, in
        float64."""
        values = np.concatenate(
            [self.reset[0], x.reshape(-1, 3).astype("float64") @ self.weights.T]
        )
        rows = []
        for step in range(len(x)):
            read = values[step * self.new + self.first :: self.dilation][: self.count]
            total = (read * self.taps).sum(0) + self.taps[0]
            rows.append(np.concatenate([read.ravel(), total, read.max(0)]))
        return np.array(rows)


SIZES = st.one_of(st.sampled_from([1, 3, 4, 8, 15, 16, 17, 32, 64]), st.integers(1, 70))


@st.composite
def networks(
    draw: st.DrawFn, *, int8: bool | None = None, plain: bool | None = None
) -> Network:
    """Draw a network of one to three layers, I and H of 1 to 80; some are sparse."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.lists(st.sampled_from(list(GATES)), min_size=1, max_size=3))
    int8 = draw(st.booleans()) if int8 is None else int8
    sparse = draw(st.booleans())
    unit = INT8_SHAPE[0] if int8 else SHAPE[0]
    hidden = draw(st.integers(1, 5)) * unit if sparse else draw(SIZES)
    return make_network(
        rng,
        kinds,
        draw(SIZES),
        hidden,
        outputs=draw(SIZES),
        int8=int8,
        stored=not int8 and draw(st.booleans()),
        plain=draw(st.booleans()) if plain is None else plain,
        every_step=draw(st.booleans()),
        density=draw(st.sampled_from([0.0, 0.1, 0.3])) if sparse else 1.0,
    )
