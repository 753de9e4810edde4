"""Convolutions, pooling and the last frames of a value: onnxruntime's numbers, and
numpy's in float64."""

import ctypes as C
import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from engine import LibraryError, Program, Stream
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from networks import Reads
from onnx import numpy_helper

from lstm_edge_exporters.targets.native.compiler import compile_program
from lstm_edge_exporters.targets.native.operations import NONE, Code
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native import NativeEngine, Past, installed

Array = Any
quick = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
WIDE = 9
"""Number of features of a kernel's second axis."""


def over_time(
    node: str,
    channels: int,
    weights: list[Array],
    kernel: list[int],
    dilation: int,
    **attributes: Any,
) -> tuple[bytes, Manifest]:
    """A node over time and features of x (N, channels, L, WIDE); its past (K - 1) D
    frames are a state."""
    frames = (kernel[0] - 1) * dilation
    stored = {f"w{index}": weight for index, weight in enumerate(weights)}
    call = f"({', '.join(['joined' if frames else 'x', *stored])})"
    ring = f", float[N,{channels},{frames},{WIDE}] past" if frames else ""
    options = ", ".join(
        f"{name} = {json.dumps(value)}" for name, value in attributes.items()
    )
    nodes = f"y = {node}<{options}>{call}"
    if frames:
        stored |= {
            "start": np.array([-frames]),
            "end": np.array([2**62]),
            "axis": np.array([2]),
        }
        nodes = (
            "joined = Concat<axis = 2>(past, x) past_n = Slice(joined, start, end,"
            f" axis) {nodes}"
        )
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 20]> g (float[N,{channels},L,{WIDE}]'
        f" x{ring})"
        f" => (float[N,made,L,wide] y{ring and ring + '_n'}) {{ {nodes} }}"
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), name) for name, a in stored.items()
    )
    content = model.SerializeToString()
    x = np.zeros((1, channels, 1, WIDE), "float32")
    feeds = {"x": x} | (
        {"past": np.zeros((1, channels, frames, WIDE), "float32")} if frames else {}
    )
    shape = onnxruntime.InferenceSession(content).run(["y"], feeds)[0].shape
    state = StateSpec("past", "past_n", "float32", ("N", channels, frames, WIDE))
    manifest = Manifest(
        (TensorSpec("x", "float32", ("N", channels, "L", WIDE)),),
        (TensorSpec("y", "float32", ("N", shape[1], "L", shape[3])),),
        (state,) * bool(frames),
    )
    return content, manifest


def assert_agrees(
    content: bytes, manifest: Manifest, seed: int, limit: float = 2e-5
) -> None:
    """Whole sequences of three rows and their single steps, from a state that is not at
    reset."""
    writer = compile_program(
        ir.from_proto(onnx.load_from_string(content)), manifest
    ).writer
    writer.manifest(manifest.to_json())
    native = NativeEngine(writer.to_bytes(), 1)
    rng = np.random.default_rng(seed)
    session = onnxruntime.InferenceSession(content)
    specs = {spec.name: spec.axes for spec in manifest.inputs}
    specs |= {state.input: state.axes for state in manifest.states}
    feeds = {
        name: (
            rng.standard_normal(
                [{"N": 3, "L": 5}.get(axis, axis) for axis in axes]
            ).astype("float32")
        )
        for name, axes in specs.items()
    }
    names = [output.name for output in session.get_outputs()]
    expected = dict(zip(names, session.run(names, feeds), strict=True))
    got = native.call(feeds, {"N": 3, "L": 5})
    for name, array in expected.items():
        np.testing.assert_allclose(
            got[name], array, rtol=1e-5, atol=limit, err_msg=name
        )
    states = {state.input: feeds[state.input] for state in manifest.states}
    for step in range(5):
        made = native.call(
            {"x": feeds["x"][:, :, step : step + 1], **states}, {"N": 3, "L": 1}
        )
        assert np.array_equal(made["y"], got["y"][:, :, step : step + 1])
        states = {state.input: made[state.output] for state in manifest.states}
    for state in manifest.states:
        assert np.array_equal(states[state.input], got[state.output])


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
@quick
@given(
    kind=st.sampled_from(["Conv", "Conv", "MaxPool", "AveragePool"]),
    channels=st.sampled_from([1, 2, 4, 6]),
    made=st.integers(1, 3),
    grouped=st.sampled_from(["one", "two", "depthwise"]),
    kernel=st.tuples(st.integers(1, 4), st.integers(2, 3)),
    dilations=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    stride=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    flag=st.booleans(),
    seed=st.integers(0, 99),
)
def test_convolutions_and_pooling_over_time_and_features_are_those_of_onnxruntime(
    kind: str, channels: int, made: int, grouped: str, kernel: tuple[int, int], dilations: tuple[int, int],
    stride: int, pads: tuple[int, int], flag: bool, seed: int,
) -> None:  # fmt: skip
    """``flag``: a bias, or padding that a mean counts."""
    groups = {"one": 1, "two": 2, "depthwise": channels}[grouped]
    assume(channels % groups == 0)
    rng = np.random.default_rng(seed)
    weights = list[Array]()
    dilations = dilations if kind == "Conv" else (1, 1)
    options: dict[str, Any] = {"strides": [1, stride], "pads": [0, pads[0], 0, pads[1]]}
    if kind == "Conv":
        weights = [
            rng.standard_normal((made * groups, channels // groups, *kernel)).astype(
                "float32"
            )
        ]
        weights += [rng.standard_normal(made * groups).astype("float32")] * flag
        options |= {"group": groups, "dilations": dilations}
    else:
        options |= {"kernel_shape": kernel} | (
            {"count_include_pad": int(flag)} if kind == "AveragePool" else {}
        )
    assert_agrees(
        *over_time(kind, channels, weights, [*kernel], dilations[0], **options), seed
    )


@pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")
@quick
@given(
    groups=st.sampled_from([1, 2]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    pads=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    seed=st.integers(0, 99),
)
def test_transposed_convolutions_over_features_are_those_of_onnxruntime(
    groups: int, kernel: int, stride: int, pads: tuple[int, int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((4, 3, 1, kernel)).astype("float32")
    content, manifest = over_time(
        "ConvTranspose",
        channels=4,
        weights=[weight],
        kernel=[1, kernel],
        dilation=1,
        strides=[1, stride],
        pads=[0, pads[0], 0, pads[1]],
        group=groups,
    )
    assert_agrees(content, manifest, seed)


@quick
@given(
    seed=st.integers(0, 9999),
    frames=st.integers(1, 70),
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    every_step=st.booleans(),
    new=st.integers(1, 5),
)
def test_steps_chunks_and_the_whole_read_the_same_frames(
    library: C.CDLL, seed: int, frames: int, cuts: list[int], every_step: bool, new: int
) -> None:
    rng = np.random.default_rng(seed)
    net = Reads(rng, frames, every_step, new)
    x = rng.standard_normal((sum(cuts), 3 * new)).astype("float32")
    expected = net.run(x)
    program = Program(library, net.writer.to_bytes())
    chunks = Stream(program)
    steps = Stream(program)
    at = 0
    got = []
    for cut in cuts:
        got.append(chunks.chunk(x[at : at + cut]))
        at += cut
    singles = np.array([steps.step(sample) for sample in x])
    assert np.abs(singles - expected).max() <= 1e-4
    assert np.array_equal(
        np.concatenate(got) if every_step else got[-1],
        singles if every_step else singles[-1],
    )
    assert np.array_equal(chunks.states[0], steps.states[0])
    last = np.concatenate(
        [net.reset[0], x.reshape(-1, 3).astype("float64") @ net.weights.T]
    )[-frames:]
    assert np.abs(net.past.from_rows(steps.states[0][None])[0, 0] - last).max() <= 1e-4


@quick
@given(
    seed=st.integers(0, 9999), rows=st.integers(2, 60), threads=st.sampled_from([1, 2])
)
def test_rows_of_different_age_share_a_call(
    library: C.CDLL, seed: int, rows: int, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    net = Reads(rng, int(rng.integers(1, 12)), every_step=True)
    program = Program(library, net.writer.to_bytes(), threads)
    ages = rng.integers(0, 15, rows)
    x = rng.standard_normal((rows, 20, 3)).astype("float32")
    pool = [np.repeat(net.past.to_rows(net.reset), rows, 0)]
    for row, age in enumerate(ages):
        if age:
            states = [pool[0][row : row + 1]]
            program.run(x[row : row + 1, :age], states)
    slots = rng.permutation(rows)
    new = np.stack([x[row, ages[row] : ages[row] + 5] for row in slots])
    (y,) = program.run(new, pool, slots)
    for index in {0, rows // 2, rows - 1}:
        row = slots[index]
        assert np.abs(y[index] - net.run(x[row, : ages[row] + 5])[-5:]).max() <= 1e-4


def test_a_place_that_is_none_is_the_first(library: C.CDLL) -> None:
    """No number that a caller writes into a state reads other memory."""
    net = Reads(np.random.default_rng(3), 5, every_step=True)
    program = Program(library, net.writer.to_bytes())
    x = np.ones((1, 7, 3), "float32")
    expected = program.run(x, [net.past.to_rows(net.reset)])[0]
    for position in (-1.0, 5.0, 1e30, np.inf, np.nan):
        rows = net.past.to_rows(net.reset)
        rows[0, -1] = position
        assert np.array_equal(program.run(x, [rows])[0], expected)
        assert rows[0, -1] == 2


WRONG = {
    "frames that are not there": [
        (Code.WINDOW, 0, 1, 18, 0, 1, 6), (Code.WINDOW, 0, 1, 3, 5, 0, 1),
        (Code.WINDOW, 0, 1, 16, 0, 1, 16, 3), (Code.WINDOW, 0, 1, 9, 1, 2**31, 3),
    ],
    "do not fit its input": [(Code.WINDOW, 0, 1, 3, 0, 1, 1, 2)],
    "a past that is not there": [(Code.WINDOW, 0, 0, 3, 0, 1, 1)],
    "do not fit its output": [(Code.WINDOW, 0, 1, 4, 0, 1, 1), (Code.DEPTHWISE, 0, 2, NONE, NONE)],
    "a past that is read as a row of numbers": [(Code.UNARY, 1, 13, 0, 0, 0)],
    "written twice": [(Code.COPY, 0, -1, 0, 0, 3, 1, 0, 0)],
    "frames that do not fit a past": [(Code.PUSH, 0, 1, 3, 1), (Code.PUSH, 0, 1, 4, 2)],
}  # fmt: skip
"""Operations on an input 0 of three numbers and a past 1 of four frames: a width stands
for a new buffer."""


@pytest.mark.parametrize(
    "message", [*WRONG, "after its PUSH", "a past without a PUSH", "can't be an output"]
)
def test_a_program_that_would_read_other_frames_is_refused(
    best: C.CDLL, message: str
) -> None:
    for code, *arguments in WRONG.get(message, [(Code.UNARY, 0, 3, 0, 0, 0)]):
        writer = ProgramWriter()
        x = writer.input("x", 3)
        past = writer.past("past", Past(1, 4, 3), np.zeros((1, 4, 3), "float32"))
        writer.output("y", writer.window(x, past, 0, 2, 3), every_step=True)
        out = {Code.WINDOW: 2, Code.DEPTHWISE: 1, Code.UNARY: 1}.get(code)
        if out is not None:
            arguments[out] = writer.buffer(arguments[out])
        elif code is Code.COPY:
            arguments[1] = past
        writer.operation(code, *arguments)
        if message != "a past without a PUSH" and code is not Code.PUSH:
            writer.operation(Code.PUSH, x, past, 4, 1)
        if message == "after its PUSH":
            writer.window(x, past, 0, 1, 1)
        elif message == "can't be an output":
            writer.output("z", past, every_step=True)
        with pytest.raises(LibraryError, match=message):
            Program(best, writer.to_bytes())
