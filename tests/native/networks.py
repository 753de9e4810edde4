"""Random networks, as a program and as its float64 reference."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from reference import Layer

from lstm_edge_exporters.targets.native.program import Binary, Code, Function, ProgramWriter
from lstm_edge_runtime.native import Past

Array = Any

USUAL = {
    "LSTM": [(Function.SIGMOID, 0.0, 0.0), (Function.TANH, 0.0, 0.0), (Function.TANH, 0.0, 0.0)],
    "GRU": [(Function.SIGMOID, 0.0, 0.0), (Function.TANH, 0.0, 0.0)],
    "RNN": [(Function.TANH, 0.0, 0.0)],
}
STATES = {"LSTM": 2, "GRU": 1, "RNN": 1}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
IN_CELLS = [
    (Function.RELU, 0.0, 0.0),
    (Function.SIGMOID, 0.0, 0.0),
    (Function.TANH, 0.0, 0.0),
    (Function.AFFINE, 0.5, 0.1),
    (Function.LEAKY_RELU, 0.1, 0.0),
    (Function.THRESHOLDED_RELU, 0.05, 0.0),
    (Function.SCALED_TANH, 1.2, 0.7),
    (Function.HARD_SIGMOID, 0.2, 0.5),
    (Function.ELU, 0.9, 0.0),
    (Function.SOFTSIGN, 0.0, 0.0),
    (Function.SOFTPLUS, 0.0, 0.0),
]
"""The functions that ONNX allows in a recurrent operator."""


class Network:
    """Layers one on the other and a linear head with a residual sum."""

    def __init__(self, inputs: int, hidden: int, *, every_step: bool) -> None:
        self.inputs, self.hidden, self.every_step = inputs, hidden, every_step
        self.layers: list[Layer] = []
        self.head: tuple[Array, Array] = (np.zeros(0), np.zeros(0))
        self.writer = ProgramWriter()
        self.program = b""

    def __repr__(self) -> str:
        return f"Network({self.kinds}, I={self.inputs}, H={self.hidden}, every_step={self.every_step})"

    @property
    def kinds(self) -> list[str]:
        return [layer.kind for layer in self.layers]

    @property
    def states(self) -> int:
        return sum(STATES[kind] for kind in self.kinds)

    def run(self, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
        """Return the outputs ``(L, C)`` and the states after ``x (L, I)``, in float64."""
        outputs, states = [], [state.astype("float64") for state in states]
        for sample in x.astype("float64"):
            value, at = sample, 0
            for layer in self.layers:
                count = STATES[layer.kind]
                states[at : at + count] = layer.step(value, states[at : at + count])
                value, at = states[at], at + count
            weights, bias = self.head
            outputs.append(np.tanh(weights @ value + bias) + value[0])
        return np.array(outputs), states


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
) -> Network:
    """Return a random network; not ``plain`` means other functions, clip, peepholes and flags.

    ``stored``: the weights of a large program are int8 times a scale and its inputs float32.
    """
    network = Network(inputs, hidden, every_step=every_step)
    writer, width, k = network.writer, inputs, 1 / np.sqrt(hidden)
    golden = rng.standard_normal((golden_steps, inputs)).astype("float32") if golden_steps else None
    value = writer.input("x", inputs)
    pairs = []
    for kind in kinds:
        rows = GATES[kind] * hidden
        W, R = (rng.uniform(-k, k, (rows, n)).astype("float32") for n in (width, hidden))
        bias = rng.uniform(-k, k, rows * (2 if kind == "GRU" else 1)).astype("float32")
        scales = None
        if int8 or stored:
            scales = [np.abs(w).max(1).astype("float32") / 127 for w in (W, R)]
            W, R = (np.rint(w / scale[:, None]) for w, scale in zip((W, R), scales, strict=True))
        if stored:
            W, R = (w.astype("float32") * scale[:, None] for w, scale in zip((W, R), scales, strict=True))
            scales = None
            writer.manifest(" " * (1 << 18))
        odd = not plain
        drawn = [IN_CELLS[int(rng.integers(len(IN_CELLS)))] for _ in USUAL[kind]]
        peepholes = rng.uniform(-k, k, 3 * hidden).astype("float32") if odd and kind == "LSTM" else None
        flags = {"LSTM": int(odd and rng.integers(2)), "GRU": 2 * int(rng.integers(2)), "RNN": 0}[kind]
        clip = float(np.float32(rng.uniform(0.3, 2))) if odd and rng.integers(2) else 0.0
        functions = drawn if odd else USUAL[kind]
        functions = [(f, float(np.float32(a)), float(np.float32(b))) for f, a, b in functions]
        bias = None if odd and rng.integers(2) else bias
        options = {"peepholes": peepholes, "scales": scales, "clip": clip, "flags": flags}
        network.layers.append(Layer(kind, W, R, bias, functions=functions, **options))
        old = [writer.state(f"s{len(pairs) + i}", hidden) for i in range(STATES[kind])]
        new = writer.recurrent(Code[kind], value, old, (W, R), bias, functions=functions, **options)
        pairs += zip(old, new, strict=True)
        value, width = new[0], hidden
    network.head = rng.uniform(-k, k, (outputs, hidden)).astype("float32"), rng.uniform(-1, 1, outputs)
    network.head = network.head[0], network.head[1].astype("float32")
    first = writer.buffer(1)
    writer.copy(value, first, length=1)
    result = writer.unary(writer.linear(value, *network.head), Function.TANH)
    result = writer.binary(Binary.ADD, result, first)
    for old_state, new_state in pairs:
        writer.next_state(old_state, new_state)
    writer.output("y", result, every_step=every_step)
    if golden is not None:
        y, states = network.run(golden, [np.zeros(hidden)] * network.states)
        limit = 0.05 if int8 else 1e-5
        expected = {"y": (y if every_step else y[-1], limit)}
        writer.golden({"x": golden}, expected | {f"s{i}": (state, limit) for i, state in enumerate(states)})
    network.program = writer.to_bytes()
    return network


def make_convolutions(rng: np.random.Generator, inputs: int, *, golden_steps: int = 0) -> ProgramWriter:
    """Return a causal convolution, a depthwise one and the largest of three frames, one after another."""
    writer, width = ProgramWriter(), 7
    value = writer.input("x", inputs)
    weights = rng.standard_normal((width, 3 * inputs)).astype("float32") / np.sqrt(inputs)
    taps, bias = (rng.standard_normal(size).astype("float32") for size in ((4, width), width))
    rings = [Past(1, 4, inputs), Past(1, 3, width), Past(1, 2, width)]
    values, pasts = (
        [],
        [
            writer.past(f"s{place}", each, np.zeros((1, each.frames, each.inner), "float32"))
            for place, each in enumerate(rings)
        ],
    )
    for place, dilation in enumerate((2, 1, 1)):
        count = rings[place].frames // dilation + 1
        read = writer.window(value, pasts[place], 0, dilation, count)
        values.append(value)
        if place == 0:
            value = writer.unary(writer.linear(read, weights, bias), Function.TANH)
        else:
            value = writer.depthwise(read, width, taps if place == 1 else None, bias if place == 1 else None)
    for each in zip(values, pasts, rings, strict=True):
        writer.push(*each)
    writer.output("y", value, every_step=True)
    if golden_steps:
        x = rng.standard_normal((golden_steps, inputs)).astype("float32")
        steps: list[Array] = [x.astype("float64")]
        for place, (dilation, ring) in enumerate(zip((2, 1, 1), rings, strict=True)):
            before = np.concatenate([np.zeros((ring.frames, ring.inner)), steps[-1]])
            read = np.array([before[at : at + ring.frames + 1 : dilation] for at in range(golden_steps)])
            if place == 0:
                made = np.tanh(read.reshape(golden_steps, -1) @ weights.T + bias)
            else:
                made = (read * taps).sum(1) + bias if place == 1 else read.max(1)
            steps.append(made)
        expected = {
            f"s{place}": (
                ring.to_rows(
                    np.concatenate([np.zeros((ring.frames, ring.inner)), steps[place]])[-ring.frames :],
                    golden_steps,
                )[0],
                1e-5,
            )
            for place, ring in enumerate(rings)
        }
        writer.golden({"x": x}, {"y": (steps[-1], 1e-5), **expected})
    return writer


SIZES = st.one_of(st.sampled_from([1, 3, 4, 8, 15, 16, 17, 32, 64]), st.integers(1, 70))


@st.composite
def networks(draw: st.DrawFn, *, int8: bool | None = None, plain: bool | None = None) -> Network:
    """Draw a network of one to three layers, I and H of 1 to 70."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kinds = draw(st.lists(st.sampled_from(list(GATES)), min_size=1, max_size=3))
    int8 = draw(st.booleans()) if int8 is None else int8
    return make_network(
        rng,
        kinds,
        draw(SIZES),
        draw(SIZES),
        outputs=draw(SIZES),
        int8=int8,
        stored=not int8 and draw(st.booleans()),
        plain=draw(st.booleans()) if plain is None else plain,
        every_step=draw(st.booleans()),
    )
