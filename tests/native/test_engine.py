"""ONNX graphs on the native engine, beside onnxruntime."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.targets.native import to_native, uncovered
from lstm_edge_runtime import State, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    MissingDependencyError,
    StateError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native import installed, library
from lstm_edge_runtime.ort import sealed

pytestmark = pytest.mark.skipif(not installed(), reason="lstm-edge-native is not installed")

DATA = Path(__file__).parents[1] / "runtime" / "data"
Array = Any
FUNCTIONS = ("Relu", "Tanh", "Sigmoid", "Softsign", "Softplus", "HardSigmoid")


def graph(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, Array],
    width: int,
    hidden: int,
    cell: bool,
    out: int | None = None,
) -> bytes:
    """Return a file with x (L, N, width), states (1, N, hidden) and an output y (L, N, ...)."""
    floats = TensorProto.FLOAT
    states = ["h", "c"] if cell else ["h"]
    inputs = [helper.make_tensor_value_info("x", floats, ["L", "N", width])]
    inputs += [helper.make_tensor_value_info(f"{s}_0", floats, [1, "N", hidden]) for s in states]
    outputs = [helper.make_tensor_value_info("y", floats, ["L", "N", out])]
    outputs += [helper.make_tensor_value_info(f"{s}_n", floats, [1, "N", hidden]) for s in states]
    stored = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    made = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return described(helper.make_model(made, opset_imports=opsets, ir_version=9))


def described(model: onnx.ModelProto) -> bytes:
    """Return a file with its manifest; states are called ``h_0`` and ``h_n``, axes ``L`` and ``N``."""
    entering, leaving = (
        {each.name: each for each in side} for side in (model.graph.input, model.graph.output)
    )
    specs = {name: TensorSpec(name, "float32", dims(each)) for name, each in (entering | leaving).items()}
    states = [name.removesuffix("_0") for name in entering if name.endswith("_0")]
    feeds = {
        name: np.zeros([{"L": 2, "N": 1}.get(axis, axis) for axis in specs[name].axes], "float32")
        for name in entering
    }
    outputs = [name for name in leaving if not name.endswith("_n")]
    session = onnxruntime.InferenceSession(model.SerializeToString())
    for name, array in zip(outputs, session.run(outputs, feeds), strict=True):
        own = ("L", "N", array.shape[-1]) if array.ndim == 3 else ("N", array.shape[-1])
        specs[name] = specs[name]._replace(axes=own)
    manifest = Manifest(
        inputs=tuple(specs[name] for name in entering if not name.endswith("_0")),
        outputs=tuple(specs[name] for name in outputs),
        states=tuple(StateSpec(f"{s}_0", f"{s}_n", "float32", specs[f"{s}_0"].axes) for s in states),
    )
    return with_manifest(model, manifest)


def dims(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)


def recurrent(rng: np.random.Generator, kind: str, hidden: int = 7, **attributes: Any) -> bytes:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    tensors = {
        "W": rng.standard_normal((1, gates * hidden, 3)) * 0.4,
        "R": rng.standard_normal((1, gates * hidden, hidden)) * 0.3,
        "B": rng.standard_normal((1, 2 * gates * hidden)) * 0.3,
        "P": rng.standard_normal((1, 3 * hidden)) * 0.3,
    }
    tensors = {name: array.astype("float32") for name, array in tensors.items()}
    cell = kind == "LSTM"
    peepholes = attributes.pop("peepholes", False)
    inputs = ["x", "W", "R", "B", "", "h_0", *(["c_0"] if cell else []), *(["P"] if peepholes else [])]
    outputs = ["y4", "h_n", *(["c_n"] if cell else [])]
    nodes = [
        helper.make_node(kind, inputs, outputs, hidden_size=hidden, **attributes),
        helper.make_node("Squeeze", ["y4", "axes"], ["y"]),
    ]
    return graph(nodes, {**tensors, "axes": np.array([1])}, 3, hidden, cell)


def assert_agree(content: bytes, width: int = 3, atol: float = 2e-6) -> None:
    """Run steps, a chunk and rows of both engines from the same samples and compare them."""
    native, plain = load(to_native(content)), load(content)
    assert native.engine == "native"
    x = np.random.default_rng(0).standard_normal((9, width)).astype("float32")
    here, there = native.stream(), plain.stream()
    for sample in x:
        np.testing.assert_allclose(here.step(sample), there.step(sample), rtol=1e-5, atol=atol)
    there.restore(here.state)
    np.testing.assert_allclose(here.process(x), there.process(x), rtol=1e-5, atol=atol)
    for name, array in there.state.items():
        np.testing.assert_allclose(here.state[name], array, rtol=1e-5, atol=atol)
    rows, others = native.streams(9), plain.streams(9)
    ids, other = [rows.add() for _ in x], [others.add() for _ in x]
    for some in (slice(None), slice(1, 4), slice(None, None, -2)):
        got, expected = rows.step(x[some], ids[some]), others.step(x[some], other[some])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_every_activation_is_that_of_onnxruntime(kind: str, function: str) -> None:
    rest = {"LSTM": ["Tanh", "Sigmoid"], "GRU": ["Tanh"], "RNN": []}[kind]
    attributes: dict[str, Any] = {"activations": [function, *rest]}
    assert_agree(recurrent(np.random.default_rng(1), kind, **attributes), atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("LSTM", {"peepholes": True}),
        ("LSTM", {"clip": 0.4}),
        ("LSTM", {"peepholes": True, "clip": 0.4}),
        ("LSTM", {"input_forget": 1}),
        ("GRU", {"linear_before_reset": 1}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"clip": 0.4}),
        ("GRU", {"clip": 0.4, "linear_before_reset": 1}),
        ("RNN", {"clip": 0.4}),
    ],
    ids=str,
)
def test_every_option_is_that_of_onnxruntime(kind: str, attributes: dict[str, Any]) -> None:
    for hidden in (1, 7, 33):
        assert_agree(recurrent(np.random.default_rng(2), kind, hidden, **attributes))


HEADS: dict[str, list[tuple[str, list[str], dict[str, Any]]]] = {
    "matmul and bias": [("MatMul", ["h", "wt"], {}), ("Add", ["", "b"], {})],
    "bias that is no bias": [("MatMul", ["h", "wt"], {}), ("Sub", ["", "b"], {})],
    "norms": [("LayerNormalization", ["h", "g", "g"], {"axis": -1}), ("Softmax", [""], {})],
    "log softmax": [("LogSoftmax", ["h"], {"axis": -1})],
    "split": [("Slice", ["h", "one", "six", "last"], {}), ("Exp", [""], {})],
    "steps": [("Slice", ["h", "zero", "six", "last", "two"], {})],
    "gather": [("Gather", ["h", "picked"], {"axis": 2})],
    "mean": [("ReduceMean", ["h", "last"], {})],
    "sum over a middle axis": [
        ("Expand", ["h", "three of each"], {}),
        ("Mul", ["", "weights of three"], {}),
        ("ReduceSum", ["", "zero"], {"keepdims": 0}),
    ],
    "hard swish": [("HardSwish", ["h"], {})],
    "clip": [("Clip", ["h", "low", "high"], {})],
    "prelu": [("PRelu", ["h", "g"], {})],
    "power": [("Pow", ["h", "square"], {})],
    "gelu": [("Gelu", ["h"], {})],
    "gelu by tanh": [("Gelu", ["h"], {"approximate": "tanh"})],
    "unit length": [("ReduceL2", ["h", "last"], {"keepdims": 1}), ("Div", ["h", ""], {})],
    "squares": [("ReduceSumSquare", ["h", "last"], {"keepdims": 1}), ("Add", ["h", ""], {})],
    "magnitudes": [("ReduceL1", ["h", "last"], {"keepdims": 1}), ("Expand", ["", "seven"], {})],
    "where": [("Greater", ["h", "low"], {}), ("Where", ["", "h", "b7"], {})],
    "mask": [("Where", ["flags", "h", "low"], {})],
    "logic": [
        ("LessOrEqual", ["h", "low"], {}),
        ("Not", [""], {}),
        ("And", ["", "flags"], {}),
        ("Cast", [""], {"to": 1}),
    ],
    "truth": [("Cast", ["h"], {"to": 9}), ("Cast", [""], {"to": 1}), ("Add", ["", "h"], {})],
    "largest of three": [("Max", ["h", "low", "b7"], {})],
    "sum of three": [("Sum", ["h", "h", "b7"], {})],
    "stored part": [
        ("Shape", ["h"], {"end": 2}),
        ("Concat", ["", "two"], {"axis": 0}),
        ("Expand", ["high", ""], {}),
        ("Concat", ["h", ""], {"axis": 2}),
    ],
    "selu": [("Selu", ["h"], {}), ("Abs", [""], {}), ("Sqrt", [""], {})],
    "own square": [("Mul", ["h", "h"], {}), ("Div", ["", "g"], {})],
    "reversed": [("Sub", ["g", "h"], {}), ("Div", ["g", ""], {})],
}


@pytest.mark.parametrize("name", HEADS)
def test_every_kind_of_head_is_that_of_onnxruntime(name: str) -> None:
    rng = np.random.default_rng(3)
    hidden = 7
    tensors = {
        "wt": rng.standard_normal((hidden, 5)), "b": rng.standard_normal(5),
        "g": rng.uniform(1, 2, hidden), "low": -0.1, "high": 0.2, "square": 2.0, "scale": 0.01,
    }  # fmt: skip
    tensors = {key: np.asarray(value, "float32") for key, value in tensors.items()}
    whole = {"0": [0], "one": [1], "zero": [0], "two": [2], "six": [6], "last": [-1], "picked": [6, 0, 1, 3]}
    tensors |= {key: np.array(value) for key, value in whole.items()}
    tensors |= {
        "seven": np.array([1, 1, 7]), "three of each": np.array([3, 1, 1, 7]),
        "weights of three": rng.standard_normal((3, 1, 1, 1)).astype("float32"),
        "flags": np.arange(7) % 3 > 0,
        "b7": rng.standard_normal(7).astype("float32"),
    }  # fmt: skip
    recurrent_nodes = onnx.load_from_string(recurrent(rng, "LSTM", hidden)).graph
    nodes = list(recurrent_nodes.node[:1])
    stored = {each.name: numpy_helper.to_array(each) for each in recurrent_nodes.initializer}
    nodes.append(helper.make_node("Squeeze", ["y4", "axes"], ["h"]))
    value = "h"
    for index, (kind, inputs, attributes) in enumerate(HEADS[name]):
        result = f"v{index}"
        names = [each or value for each in inputs]
        nodes.append(helper.make_node(kind, names, [result], **attributes))
        value = result
    nodes.append(helper.make_node("Identity", [value], ["y"]))
    out = 9 if name == "stored part" else None  # what shape inference does not find
    assert_agree(graph(nodes, stored | tensors, 3, hidden, cell=True, out=out), atol=1e-5)


def padded(rng: np.random.Generator) -> bytes:
    """Return a file with lengths and heads: with a bias, times the input, last step and state, masked."""
    base = onnx.load_from_string(recurrent(rng, "LSTM"))
    graph = base.graph
    graph.node[0].input[4] = "lengths"
    graph.input.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ["N"]))
    tensors = {
        "wt": rng.standard_normal((7, 3)),
        "b": rng.standard_normal(3),
        "last": -1,
        "zero": 0,
        "one": 1,
    }
    tensors |= {"1": [1], "2": [2], "none": 0.0}
    for name, array in tensors.items():
        kind = "float32" if name in ("wt", "b", "none") else "int64"
        graph.initializer.append(numpy_helper.from_array(np.array(array, kind), name))
    for node in (
        helper.make_node("MatMul", ["y", "wt"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["head"]),
        helper.make_node("Mul", ["head", "x"], ["gated"]),
        helper.make_node("Gather", ["head", "last"], ["end"], axis=0),
        helper.make_node("Gather", ["h_n", "last"], ["top"], axis=0),
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["L"], axis=0),
        helper.make_node("Range", ["zero", "L", "one"], ["steps"]),
        helper.make_node("Unsqueeze", ["steps", "1"], ["column"]),
        helper.make_node("Cast", ["lengths"], ["wide"], to=TensorProto.INT64),
        helper.make_node("Less", ["column", "wide"], ["valid"]),
        helper.make_node("Unsqueeze", ["valid", "2"], ["mask"]),
        helper.make_node("Where", ["mask", "head", "none"], ["masked"]),
    ):
        graph.node.append(node)
    more = {name: ["L", "N", 3] for name in ("head", "gated", "masked")} | {"end": ["N", 3], "top": ["N", 7]}
    for name, axes in more.items():
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, axes))
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("L", "N", 3)), TensorSpec("lengths", "int32", ("N",))),
        outputs=tuple(
            TensorSpec(name, "float32", tuple(axes)) for name, axes in {"y": ["L", "N", 7], **more}.items()
        ),
        states=tuple(StateSpec(f"{s}_0", f"{s}_n", "float32", (1, "N", 7)) for s in "hc"),
        lengths="lengths",
    )
    base.metadata_props.add(key=KEY, value=manifest.to_json())
    return sealed(base.SerializeToString())


def test_a_graph_that_mixes_time_steps_is_refused() -> None:
    base = onnx.load_from_string(recurrent(np.random.default_rng(10), "GRU"))
    base.graph.node[1].output[0] = "before"
    base.graph.initializer.append(numpy_helper.from_array(np.array([0]), "time"))
    base.graph.node.append(helper.make_node("ReduceMean", ["before", "time"], ["y"], keepdims=0))
    base.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 7]))
    with pytest.raises(CheckFailedError, match=r"differs from the graph in .* whole: y"):
        to_native(described(base))


def test_a_node_that_is_not_covered_is_named() -> None:
    base = onnx.load_from_string(recurrent(np.random.default_rng(4), "LSTM"))
    base.graph.node[1].output[0] = "before"
    base.graph.node.append(helper.make_node("Tan", ["before"], ["y"], name="wave"))
    content = sealed(base.SerializeToString())
    with pytest.raises(UnsupportedError, match=r"node 'wave' \(Tan\): an operator that is not covered"):
        to_native(content)
    assert "Tan" in uncovered(content, load(content).manifest)


def test_a_golden_case_that_fails_is_an_error() -> None:
    model = onnx.load(DATA / "lstm.onnx")
    (entry,) = [prop for prop in model.metadata_props if prop.key == KEY]
    manifest = Manifest.from_json(entry.value)
    assert manifest.golden is not None
    wrong = {name: array + np.float32(0.1) for name, array in manifest.golden.outputs.items()}
    golden = manifest.golden._replace(outputs=wrong)
    entry.value = manifest._replace(golden=golden).to_json()
    with pytest.raises(CheckFailedError, match="the golden case fails on this device"):
        to_native(sealed(model.SerializeToString()))


def test_a_number_of_rows_that_is_computed_with_is_not_covered() -> None:
    base = onnx.load_from_string(recurrent(np.random.default_rng(11), "GRU"))
    base.graph.node[1].output[0] = "before"
    base.graph.initializer.append(numpy_helper.from_array(np.array(1), "rows"))
    base.graph.node.extend([
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "rows"], ["N"], axis=0),
        helper.make_node("Cast", ["N"], ["count"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["before", "count"], ["y"]),
    ])  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"\(Mul\): it computes with the number of rows or steps"):
        to_native(described(base))


def test_states_move_between_an_onnx_file_and_its_program(tmp_path: Path) -> None:
    native, plain = load(to_native(DATA / "lstm.onnx")), load(DATA / "lstm.onnx")
    assert native.identity == plain.identity
    x = np.random.default_rng(5).standard_normal((6, 3)).astype("float32")
    whole = plain.stream().process(x)
    for first, second in ((native, plain), (plain, native)):
        before, after = first.stream(), second.stream()
        before.process(x[:3])
        before.state.save(tmp_path / "s.npz")
        after.restore(State.load(tmp_path / "s.npz"))
        np.testing.assert_allclose(after.process(x[3:]), whole, atol=2e-6)
    other = load(to_native(DATA / "gru.onnx"))
    with pytest.raises(StateError, match="got a state of model"):
        other.stream().restore(native.stream().state)


def test_chunks_with_an_input_that_has_no_time_axis_are_those_of_onnxruntime() -> None:
    base = onnx.load_from_string(recurrent(np.random.default_rng(11), "GRU"))
    base.graph.node[1].output[0] = "before"
    base.graph.node.append(helper.make_node("Add", ["before", "shift"], ["y"]))
    base.graph.input.append(helper.make_tensor_value_info("shift", TensorProto.FLOAT, ["N", 7]))
    content = described(base)
    x, shift = np.ones((5, 3), np.float32), np.arange(7, dtype=np.float32)
    here, there = load(to_native(content)).stream(), load(content).stream()
    given = {"x": x, "shift": shift}
    np.testing.assert_allclose(here.process(given), there.process(given), atol=2e-6)
    step = {"x": x[0], "shift": shift}
    np.testing.assert_allclose(here.step(step), there.step(step), atol=2e-6)


def test_a_program_file_runs_in_python_and_in_c_without_onnxruntime(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lstm.lep"
    path.write_bytes(to_native(DATA / "lstm.onnx"))
    model = load(path)
    assert model.engine == "native"
    assert model.selftest().ok
    x = np.random.default_rng(6).standard_normal((5, 3)).astype("float32")
    stream = model.stream()
    expected = np.stack([stream.step(sample) for sample in x])
    assert np.array_equal(model.stream().process(x), expected[-1])
    text = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in x)
    ran = subprocess.run([folder / "stream", path], input=text, capture_output=True, text=True, check=True)
    assert "golden case at" in ran.stderr
    got = np.array([line.split() for line in ran.stdout.splitlines()], "float32")
    assert np.array_equal(got, expected)


def test_a_program_file_holds_each_channel_of_its_golden_case_to_a_limit_of_its_own() -> None:
    from lstm_edge_runtime.manifest import KEY, Manifest
    from lstm_edge_runtime.native import NativeEngine

    model = onnx.load(DATA / "lstm.onnx")
    (entry,) = [prop for prop in model.metadata_props if prop.key == KEY]
    manifest = Manifest.from_json(entry.value)
    assert manifest.golden is not None
    x = manifest.golden.inputs["x"][:1]
    zeros = {spec.input: np.zeros_like(manifest.golden.inputs[spec.input][:, :1]) for spec in manifest.states}
    plain = load(DATA / "lstm.onnx")
    outputs, after = plain.run(x)
    apart = np.abs(load(to_native(DATA / "lstm.onnx")).stream().process(x[0]) - outputs["logits"][0])
    assert apart.max() > 0
    limits = {name: np.ones(1) for name in manifest.golden.outputs}
    limits["logits"] = np.where(apart == apart.max(), 2 * apart, 1.0)[None]
    known = outputs | {spec.output: after[spec.input] for spec in manifest.states}
    golden = manifest.golden._replace(inputs={"x": x, **zeros}, outputs=known, limits=limits, more=())
    entry.value = manifest._replace(golden=golden).to_json()
    assert 0 < NativeEngine(to_native(sealed(model.SerializeToString())), 1).selftest() < 0.51


def test_a_damaged_program_file_is_one_line() -> None:
    content = to_native(DATA / "lstm.onnx")
    with pytest.raises(FileFormatError, match="truncated"):
        load(content[:-5])
    with pytest.raises(FileFormatError, match="checksum"):
        load(content[:3000] + b"\1" + content[3001:])


def test_a_state_with_an_axis_of_its_own_is_not_covered() -> None:
    model = onnx.load(DATA / "lstm.onnx")
    (entry,) = [prop for prop in model.metadata_props if prop.key == KEY]
    manifest = Manifest.from_json(entry.value)
    h, c = manifest.states
    entry.value = manifest._replace(states=(h, c._replace(axes=(2, "M", 8)))).to_json()
    for each in (model.graph.input[2], model.graph.output[2]):
        each.type.tensor_type.shape.dim[1].dim_param = "M"
    with pytest.raises(UnsupportedError, match=r"c_0 .* has a dynamic axis other than batch and time"):
        load(to_native(sealed(model.SerializeToString())))


def test_a_row_of_int8_does_not_depend_on_its_neighbors() -> None:
    model = load(to_native(DATA / "motions-int8.onnx"))
    x = np.random.default_rng(7).standard_normal((5, 6)).astype("float32")
    alone, batch = model.stream(reset_every="never"), model.streams(5, reset_every="never")
    ids = [batch.add() for _ in range(5)]
    x[1:] *= np.float32(1e6)
    x[4, 0] = np.nan
    assert np.array_equal(batch.step(x, ids)[0], alone.step(x[0]))


def test_a_library_of_an_earlier_version_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_edge_native.LIBRARY", "libm.so.6")  # it has none of the functions
    with pytest.raises(MissingDependencyError, match=r"can't be used \(.*lstm_edge_.*--upgrade"):
        library.__wrapped__()
