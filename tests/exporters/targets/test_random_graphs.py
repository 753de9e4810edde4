"""Random graphs of whole numbers, flags and floats: onnxruntime, programs, C99 and
WebAssembly give the same numbers, also at the limits of a type, or refuse the graph.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.numpy_helper import to_array

from lstm_edge_exporters.lift import lift
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import UnsupportedError

from .c.conftest import driver, sources

ROOT = Path(__file__).parents[3]

TYPES = {
    "f": (TensorProto.FLOAT, np.float32),
    "l": (TensorProto.INT64, np.int64),
    "i": (TensorProto.INT32, np.int32),
    "b": (TensorProto.BOOL, np.bool_),
}
INPUTS = {"x": "f", "k": "l", "j": "i"}
"""Type of each input; they have the axes (N, L, 3)."""
ARITHMETIC = ("Add", "Sub", "Mul", "Max", "Min")
COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
FLOATS = [-2.5, -1.0, 0.0, 0.5, 1.0, 3.0, 7e4, 3e9, -3e9, 1e19, -1e30, np.inf, -np.inf, np.nan]  # fmt: skip
WHOLE = [-7, -1, 0, 1, 2, 5, 300, 2**24 + 1, 2**31 - 1, -(2**31)]
LONG = [*WHOLE, 2**31, -(2**40) - 3, 2**63 - 1, -(2**63)]
STEPS = 24


class Graph:
    """Nodes over values of known types."""

    def __init__(self):
        self.nodes = []
        self.stored = []
        self.kinds = dict(INPUTS)

    def __repr__(self) -> str:
        lines = [f"{tensor.name} = {to_array(tensor)}" for tensor in self.stored]
        lines += [f"{x.output[0]} = {x.op_type}{[*x.input]}" for x in self.nodes]
        return "; ".join(lines)

    def add(self, op: str, inputs: Sequence[str], kind: str, **attributes) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.kinds[name] = kind
        return name

    def store(self, value, kind: str) -> str:
        name = f"c{len(self.stored)}"
        array = np.asarray(value, TYPES[kind][1])
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def cast(self, name: str, kind: str) -> str:
        return self.add("Cast", [name], kind, to=TYPES[kind][0])

    def of(self, draw, kinds: str) -> str:
        """Draw a value of one of these types."""
        return draw(st.sampled_from([v for v, k in self.kinds.items() if k in kinds]))


def operand(graph, draw, kind):
    """Draw a value, or a number of its type."""
    if draw(st.booleans()):
        return graph.of(draw, kind)
    numbers = {"f": FLOATS, "l": LONG, "i": WHOLE}[kind]
    return graph.store([draw(st.sampled_from(numbers))], kind)


def arithmetic(graph, draw):
    value = graph.of(draw, "fli")
    kind = graph.kinds[value]
    pair = [value, operand(graph, draw, kind)]
    op = draw(st.sampled_from((*ARITHMETIC, *COMPARISONS)))
    graph.add(op, draw(st.permutations(pair)), "b" if op in COMPARISONS else kind)


def division(graph, draw):
    value = graph.of(draw, "li")
    kind = graph.kinds[value]
    divisor = draw(st.sampled_from([2, 3, 10, -3, 2**31 - 1, -(2**31)]))
    op = draw(st.sampled_from(("Div", "Mod")))
    graph.add(op, [value, graph.store([divisor], kind)], kind)


def cast(graph, draw):
    value = graph.of(draw, "flib")
    kind = draw(st.sampled_from("flib"))
    if kind != graph.kinds[value]:
        graph.cast(value, kind)


def one_operand(graph, draw):
    value = graph.of(draw, "fli")
    op = draw(st.sampled_from(("Neg", "Abs", "Clip")))
    inputs = [value]
    if op == "Clip":
        inputs += [graph.store(limit, graph.kinds[value]) for limit in (-5, 300)]
    graph.add(op, inputs, graph.kinds[value])


def choice(graph, draw):
    kind = draw(st.sampled_from("fli"))
    inputs = [graph.of(draw, "b"), graph.of(draw, kind), operand(graph, draw, kind)]
    graph.add("Where", inputs, kind)


def logic(graph, draw):
    op = draw(st.sampled_from(("And", "Or", "Xor", "Not")))
    flags = [graph.of(draw, "b") for _ in range(1 if op == "Not" else 2)]
    graph.add(op, flags, "b")


def reduction(graph, draw):
    value = graph.of(draw, "li")
    op = draw(st.sampled_from(("ReduceSum", "ReduceMax", "ReduceMin")))
    if op == "ReduceSum":  # onnxruntime adds whole numbers in float64
        modulus = graph.store([65521], graph.kinds[value])
        value = graph.add("Mod", [value, modulus], graph.kinds[value])
    graph.add(op, [value, graph.store([2], "l")], graph.kinds[value], keepdims=1)


ADDED = (arithmetic, arithmetic, division, cast, one_operand, choice, logic, reduction)


@st.composite
def graphs(draw):
    """Draw a graph of some operators."""
    graph = Graph()
    graph.cast(graph.of(draw, "fli"), "b")
    for _ in range(draw(st.integers(3, 12))):
        draw(st.sampled_from(ADDED))(graph, draw)
    return graph


def feeds_of(whole):
    """Return random inputs, whose int64 are taken from ``whole``."""
    rng = np.random.default_rng(0)
    feeds = {}
    for name, numbers in (("x", FLOATS), ("k", whole), ("j", WHOLE)):
        chosen = rng.choice(len(numbers), (1, STEPS, 3))
        feeds[name] = np.array(numbers, TYPES[INPUTS[name]][1])[chosen]
    feeds["u"] = rng.normal(size=(1, STEPS, 2)).astype(np.float32)
    return feeds


def model_of(graph):
    """Return an ONNX file with every computed value as an output, in float32."""
    outputs = []
    for name, kind in [*graph.kinds.items()]:
        if name[0] == "v":
            outputs.append(name if kind == "f" else graph.cast(name, "f"))
        if name[0] == "v" and kind in "li":  # what float32 does not hold
            rest = graph.add("Mod", [name, graph.store([65521], kind)], kind)
            outputs.append(graph.cast(rest, "f"))
    rng = np.random.default_rng(0)
    for name, shape in (("w", (1, 9, 2)), ("r", (1, 9, 3))):
        weights = rng.normal(size=shape).astype(np.float32)
        graph.stored.append(numpy_helper.from_array(weights, name))
    graph.nodes += [
        helper.make_node("Transpose", ["u"], ["ut"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["ut", "w", "r"], ["y", ""], hidden_size=3),
        helper.make_node("Squeeze", ["y", graph.store([1], "l")], ["ys"]),
        helper.make_node("Transpose", ["ys"], ["h"], perm=[1, 0, 2]),
    ]
    widths = dict.fromkeys((*INPUTS, "u"), 3) | {"u": 2}
    types = {name: TYPES[kind][0] for name, kind in (*INPUTS.items(), ("u", "f"))}
    inputs = [
        helper.make_tensor_value_info(name, types[name], ["N", "L", width])
        for name, width in widths.items()
    ]
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        for name in ("h", *dict.fromkeys(outputs))
    ]
    body = helper.make_graph(graph.nodes, "g", inputs, results, graph.stored)
    opset = [helper.make_opsetid("", 18)]
    proto = helper.make_model(body, opset_imports=opset, ir_version=8)
    return onnx.shape_inference.infer_shapes(proto).SerializeToString()


def assert_equal(got, expected):
    """Compare outputs by name; the recurrent layer's may round."""
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        atol = 1e-6 if name == "h" else 0
        shaped = np.asarray(got[name]).reshape(array.shape)
        np.testing.assert_allclose(shaped, array, rtol=0, atol=atol, err_msg=name)


def stepped(model, feeds):
    """Return the outputs of a stream, step by step."""
    stream = model.stream(reset_every="never")
    steps = [
        stream.step({name: x[0, step] for name, x in feeds.items()})
        for step in range(STEPS)
    ]
    return {name: np.stack([step[name] for step in steps])[None] for name in steps[0]}


SETTINGS = settings(
    max_examples=10,
    deadline=None,
    phases=[Phase.generate],
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def check(graph, in_c=None, in_node=None):
    """Compare the targets of a graph with its file.

    ``in_c`` and ``in_node`` run it there.
    """
    lifted = lift(model_of(graph)).model
    try:
        program = to_native(lifted)
    except UnsupportedError:
        with pytest.raises(UnsupportedError, match=r"\A[^\n]*\Z"):
            to_c(lifted, name="net")
        return
    with load(lifted) as model, load(program) as native:
        for feeds in (feeds_of(LONG), feeds_of(WHOLE)):
            expected = model.run(feeds)[0]
            assert_equal(native.run(feeds)[0], expected)
            assert_equal(stepped(native, feeds), expected)
            if in_node:
                assert_equal(in_node(program, feeds), expected)
        if in_c:  # where int64 are numbers of 32 bits
            joined = np.concatenate([*expected.values()], -1)
            np.testing.assert_allclose(
                in_c(lifted, feeds), joined[0], rtol=0, atol=1e-6
            )


SANITIZED = (
    *("-std=c99", "-O1", "-g"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)


def in_c(find_program, folder):
    """Return a function that runs C99 of a file under sanitizers."""

    def run(lifted, feeds):
        saved = to_c(lifted, name="net").save(folder / "net")
        (folder / "main.c").write_text(driver(saved))
        program = folder / "main"
        files = [*sources(saved), folder / "main.c", "-lm", "-o", program]
        subprocess.run([find_program("gcc"), *SANITIZED, *files], check=True)
        samples = b""
        for step in range(STEPS):
            for x in feeds.values():
                dtype = np.int32 if x.dtype.kind == "i" else np.float32
                samples += x[0, step].astype(dtype).tobytes()
        ran = subprocess.run([program], input=samples, capture_output=True, check=True)
        return np.frombuffer(ran.stdout, np.float32).reshape(STEPS, -1)

    return run


NODE = """
import { readFileSync } from "node:fs";
import { load } from "%s";
const [, , file, given] = process.argv;
const arrays = JSON.parse(readFileSync(given, "utf8"));
const model = await load(file);
const result = model.stream().process(Object.fromEntries(
  Object.entries(arrays).map(([name, [whole, numbers]]) => [name, numbers.map(whole ? BigInt : Number)])));
console.log(JSON.stringify(Object.fromEntries(
  Object.entries(result).map(([name, array]) => [name, Array.from(array, String)]))));
"""


def in_node(find_program, folder):
    """Return a function that runs the program of a file in WebAssembly."""
    (folder / "run.mjs").write_text(NODE % (ROOT / "web/site/lstm-edge/index.js"))

    def run(program, feeds):
        (folder / "net.lep").write_bytes(program)
        arrays = {
            name: (x.dtype.kind == "i", [str(number) for number in x.ravel().tolist()])
            for name, x in feeds.items()
        }
        text = json.dumps(arrays).replace("inf", "Infinity").replace("nan", "NaN")
        (folder / "given.json").write_text(text)
        files = [folder / name for name in ("run.mjs", "net.lep", "given.json")]
        ran = subprocess.run(
            [find_program("node"), *files], capture_output=True, text=True, check=True
        )
        outputs = json.loads(ran.stdout).items()
        return {name: np.array(numbers, np.float32) for name, numbers in outputs}

    return run


@SETTINGS
@given(graphs())
def test_a_program_gives_the_numbers_of_its_graph(graph):
    check(graph)


@pytest.mark.system
@settings(SETTINGS, max_examples=6)
@given(graphs())
def test_c_and_webassembly_give_the_numbers_of_a_graph(
    find_program, wasm, tmp_path_factory, graph
):
    folder = tmp_path_factory.mktemp("targets")
    check(graph, in_c(find_program, folder), in_node(find_program, folder))


@pytest.mark.slow
@settings(SETTINGS, max_examples=300)
@given(graphs())
def test_many_graphs(find_program, wasm, tmp_path_factory, graph):
    folder = tmp_path_factory.mktemp("targets")
    check(graph, in_c(find_program, folder), in_node(find_program, folder))
