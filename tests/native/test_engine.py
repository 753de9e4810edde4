"""ONNX graphs on the native engine, compared with onnxruntime."""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    MissingDependencyError,
    UnsupportedError,
)
from lstm_edge_runtime.manifest import KEY, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native import installed, library
from lstm_edge_runtime.ort import sealed

pytestmark = pytest.mark.skipif(
    not installed(), reason="lstm-edge-native is not installed"
)

DATA = Path(__file__).parents[1] / "runtime" / "data"
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STORED = {
    "b": np.arange(-2, 3), "g": np.arange(1, 8) / 4, "b7": np.arange(7) / 3 - 1, "low": -0.1, "high": 0.2,
    "square": 2.0, "wt": np.random.default_rng(3).standard_normal((7, 5)),
    "three_weights": np.arange(3).reshape(3, 1, 1, 1) - 0.5,
}  # fmt: skip
WHOLE = {
    "axes": [1], "one": [1], "zero": [0], "two": [2], "six": [6], "last": [-1], "picked": [6, 0, 1, 3],
    "three": [3, 1, 1, 7], "rows": 1,
}  # fmt: skip


def file(
    kind: str,
    head: str = "y = Identity(h)",
    hidden: int = 7,
    shift: bool = False,
    **attributes: Any,
) -> bytes:
    """Return a file of x (L, N, 3), a layer that gives h (L, N, hidden), and nodes that
    make y of it."""
    rng = np.random.default_rng(2)
    states = ["h", "c"] if kind == "LSTM" else ["h"]
    rows = GATES[kind] * hidden
    tensors = {
        "W": rng.standard_normal((1, rows, 3)) * 0.4,
        "R": rng.standard_normal((1, rows, hidden)) * 0.3,
    }
    tensors |= {"B": rng.standard_normal((1, 2 * rows)) * 0.3, **STORED}
    stored = [
        numpy_helper.from_array(np.asarray(array, "float32"), name)
        for name, array in tensors.items()
    ]
    stored += [
        numpy_helper.from_array(np.asarray(array, "int64"), name)
        for name, array in WHOLE.items()
    ]
    stored.append(numpy_helper.from_array(np.arange(7) % 3 > 0, "flags"))
    inputs = ["x", "W", "R", "B", "", *(f"{state}_0" for state in states)]
    layer = helper.make_node(
        kind,
        inputs,
        ["y4", *(f"{state}_n" for state in states)],
        hidden_size=hidden,
        **attributes,
    )
    nodes = [layer, helper.make_node("Squeeze", ["y4", "axes"], ["h"])]
    nodes += [onnx.parser.parse_node(text) for text in head.split(";")]
    axes: dict[str, tuple[int | str, ...]] = {"x": ("L", "N", 3)} | (
        {"shift": ("N", 7)} if shift else {}
    )
    axes |= {f"{state}_{end}": (1, "N", hidden) for state in states for end in "0n"}
    values = {
        key: helper.make_tensor_value_info(key, TensorProto.FLOAT, dims)
        for key, dims in axes.items()
    }
    entering = [name for name in axes if not name.endswith("_n")]
    leaving = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        *(values[f"{state}_n"] for state in states),
    ]
    graph = helper.make_graph(
        nodes, "g", [values[name] for name in entering], leaving, stored
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    feeds = {
        name: np.zeros(
            [{"L": 2, "N": 1}.get(axis, axis) for axis in axes[name]], "float32"
        )
        for name in entering
    }
    shape = (
        onnxruntime.InferenceSession(model.SerializeToString())
        .run(["y"], feeds)[0]
        .shape
    )
    manifest = Manifest(
        inputs=tuple(
            TensorSpec(name, "float32", axes[name])
            for name in entering
            if not name.endswith("_0")
        ),
        outputs=(
            TensorSpec(
                "y",
                "float32",
                ("L", "N", shape[-1]) if len(shape) == 3 else ("N", shape[-1]),
            ),
        ),
        states=tuple(
            StateSpec(f"{state}_0", f"{state}_n", "float32", axes[f"{state}_0"])
            for state in states
        ),
    )
    return with_manifest(model, manifest)


def altered(change: Any, name: str = "lstm") -> bytes:
    """Return a file of the runtime's tests with a manifest changed by ``change``."""
    model = onnx.load(DATA / f"{name}.onnx")
    (entry,) = [prop for prop in model.metadata_props if prop.key == KEY]
    manifest = json.loads(entry.value)
    change(manifest, model)
    del model.metadata_props[:]
    helper.set_model_props(model, {KEY: json.dumps(manifest)})
    return sealed(model.SerializeToString())


def assert_agree(content: bytes) -> None:
    """Compare steps, a chunk and rows of both engines on the same samples."""
    native = load(to_native(content))
    plain = load(content)
    assert native.engine == "native"
    x = np.random.default_rng(0).standard_normal((9, 3)).astype("float32")
    near = {
        "rtol": 1e-5,
        "atol": 1e-5,
    }
    stream = native.stream()
    reference = plain.stream()
    for sample in x:
        np.testing.assert_allclose(stream.step(sample), reference.step(sample), **near)
    reference.restore(stream.state)
    np.testing.assert_allclose(stream.process(x), reference.process(x), **near)
    for name, array in reference.state.items():
        np.testing.assert_allclose(stream.state[name], array, **near)
    rows = native.streams(9)
    others = plain.streams(9)
    ids = [rows.add() for _ in x]
    theirs = [others.add() for _ in x]
    for some in (slice(None), slice(1, 4), slice(None, None, -2)):
        np.testing.assert_allclose(
            rows.step(x[some], ids[some]), others.step(x[some], theirs[some]), **near
        )


LAYERS = [
    ("LSTM", {}), ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Softsign"]}),
    ("GRU", {"linear_before_reset": 1}), ("GRU", {"activations": ["HardSigmoid", "Softsign"]}),
    ("RNN", {}), ("RNN", {"activations": ["Relu"]}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "attributes"), LAYERS, ids=str)
def test_every_layer_is_that_of_onnxruntime(
    kind: str, attributes: dict[str, Any]
) -> None:
    for hidden in (1, 7, 33):
        assert_agree(file(kind, hidden=hidden, **attributes))


HEADS = """
v = MatMul(h, wt); y = Add(v, b)
v = LayerNormalization<axis = -1>(h, g, g); y = Softmax<axis = -1>(v)
y = LogSoftmax<axis = -1>(h)
y = Slice(h, zero, six, last, two)
y = Gather<axis = 2>(h, picked)
y = ReduceMean(h, last)
v = Expand(h, three); w = Mul(v, three_weights); y = ReduceSum<keepdims = 0>(w, zero)
y = HardSwish(h)
y = Pow(h, square)
y = Gelu<approximate = "tanh">(h)
v = ReduceL2<keepdims = 1>(h, last); y = Div(h, v)
v = ReduceSumSquare<keepdims = 1>(h, last); y = Add(h, v)
v = Greater(h, low); y = Where(v, h, b7)
y = Where(flags, h, low)
v = LessOrEqual(h, low); w = Not(v); y = Cast<to = 1>(w)
v = Clip(h, low, high); w = PRelu(v, g); u = Gelu(w); y = Exp(u)
y = Max(h, low, b7)
y = Sum(h, h, b7)
v = Shape<end = 2>(h); w = Concat<axis = 0>(v, two); u = Expand(high, w); y = Concat<axis = 2>(h, u)
v = Selu(h); w = Abs(v); y = Sqrt(w)
v = Mul(h, h); y = Div(v, g)
v = Sub(g, h); y = Div(g, v)
"""


@pytest.mark.parametrize("head", HEADS.strip().split("\n"))
def test_every_kind_of_head_is_that_of_onnxruntime(head: str) -> None:
    assert_agree(file("LSTM", head))


REFUSED = {
    r"\(Tan\): an operator that is not covered": ("LSTM", "y = Tan(h)", {}),
    r"\(LSTM\): clip 0\.4": ("LSTM", "", {"clip": 0.4}),
    r"\(LSTM\): input_forget 1": ("LSTM", "", {"input_forget": 1}),
    r"activations .'ThresholdedRelu'., expected": ("RNN", "", {"activations": ["ThresholdedRelu"]}),
    "without parameters": ("RNN", "", {"activations": ["Elu"], "activation_alpha": [0.5]}),
    r"\(Mul\): it computes with the number of rows or steps": (
        "GRU", "s = Shape(x); n = Gather<axis = 0>(s, rows); c = Cast<to = 1>(n); y = Mul(h, c)", {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_covered_is_named(message: str) -> None:
    kind, head, attributes = REFUSED[message]
    with pytest.raises(UnsupportedError, match=message):
        to_native(file(kind, head or "y = Identity(h)", **attributes))


def test_a_graph_that_mixes_time_steps_is_refused() -> None:
    with pytest.raises(
        CheckFailedError, match=r"differs from the graph in .* whole: y"
    ):
        to_native(file("GRU", "y = ReduceMean<keepdims = 0>(h, zero)"))


def rename(manifest: Any, model: onnx.ModelProto) -> None:
    manifest["states"][1]["axes"][1] = "M"
    for value in (model.graph.input[2], model.graph.output[2]):
        value.type.tensor_type.shape.dim[1].dim_param = "M"


def spoil(manifest: Any, model: onnx.ModelProto) -> None:
    outputs = manifest["golden"]["outputs"]
    outputs.update(h_n=outputs["c_n"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename, r"c_0 .* has an axis M, expected batch and time"),
        (spoil, "the golden case"),
    ],
)
def test_a_state_with_an_axis_of_its_own_or_a_golden_case_that_fails_is_refused(
    change: Any, message: str
) -> None:
    with pytest.raises((UnsupportedError, CheckFailedError), match=message):
        to_native(altered(change))


def test_chunks_with_an_input_that_has_no_time_axis_are_those_of_onnxruntime() -> None:
    content = file("GRU", "y = Add(h, shift)", shift=True)
    given = {"x": np.ones((5, 3), np.float32), "shift": np.arange(7, dtype=np.float32)}
    native = load(to_native(content)).stream()
    plain = load(content).stream()
    np.testing.assert_allclose(native.process(given), plain.process(given), atol=2e-6)
    given["x"] = given["x"][0]
    np.testing.assert_allclose(native.step(given), plain.step(given), atol=2e-6)


def test_a_program_file_runs_in_python_and_in_c_without_onnxruntime(
    folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "lstm.lep"
    path.write_bytes(to_native(DATA / "lstm.onnx"))
    model = load(path)
    assert model.selftest().ok
    x = np.random.default_rng(6).standard_normal((5, 3)).astype("float32")
    stream = model.stream()
    expected = np.stack([stream.step(sample) for sample in x])
    assert np.array_equal(model.stream().process(x), expected[-1])
    text = "\n".join(" ".join(f"{value:.9g}" for value in row) for row in x)
    ran = subprocess.run(
        [folder / "stream", path],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "golden case at" in ran.stderr
    got = np.array([line.split() for line in ran.stdout.splitlines()], "float32")
    assert np.array_equal(got, expected)


def test_the_example_refuses_other_than_one_input_of_floats(folder: Path) -> None:
    path = Path(__file__).parents[1] / "runtime" / "data" / "tokens.lep"
    ran = subprocess.run(
        [folder / "stream", path],
        input="1\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "one input of float32" in ran.stderr


def test_a_library_of_another_version_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("lstm_edge_runtime.__version__", "9.9.9")
    with pytest.raises(
        MissingDependencyError, match=r"version 0\..*, expected 9\.9\.9.*--upgrade"
    ):
        library.__wrapped__()


def test_a_library_of_an_earlier_version_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "lstm_edge_native.LIBRARY", "libm.so.6"
    )  # it has none of the functions
    with pytest.raises(
        MissingDependencyError, match=r"can't be used \(.*lstm_edge_.*--upgrade"
    ):
        library.__wrapped__()
