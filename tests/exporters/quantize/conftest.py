"""Small float files with a manifest, made with onnx.helper, as an export would write them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import KEY, Golden, Manifest, StateSpec, Task, TensorSpec


@pytest.fixture(scope="session")
def network():
    """Make the bytes of a float file; see ``_network``."""
    return _network


@pytest.fixture(scope="session")
def changed():
    """Return the bytes of the same file with other manifest fields."""
    return _changed


@pytest.fixture
def write(tmp_path):
    """Write bytes to a file and give its path."""

    def put(content, name="float.onnx"):
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return put


GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _network(kind="LSTM", features=8, hidden=64, classes=4, edit=None, golden=True):
    """Bytes of ``x -> kind -> Linear -> logits`` with states in and out, and a golden case of its own.

    ``edit(graph)`` may change the graph before the manifest goes in.
    """
    rng = np.random.default_rng(0)
    gates, bound, letters = GATES[kind] * hidden, 1 / np.sqrt(hidden), "hc" if kind == "LSTM" else "h"
    shapes = {"W0": (1, gates, features), "R0": (1, gates, hidden), "B0": (1, 2 * gates), "b": (classes,)}
    weights = {name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()}
    weights["V"] = rng.uniform(-1, 1, (classes, hidden))
    starts, ends = ([f"{letter}_{place}" for letter in letters] for place in "0n")
    options = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        helper.make_node("Transpose", ["x"], ["steps"], perm=[1, 0, 2]),
        helper.make_node(
            kind, ["steps", "W0", "R0", "B0", "", *starts], ["Y0", *ends], hidden_size=hidden, **options
        ),
        helper.make_node("Reshape", ["h_n", "rows"], ["last"]),
        helper.make_node("Gemm", ["last", "V", "b"], ["logits"], transB=1),
    ]
    info, state = helper.make_tensor_value_info, (1, "N", hidden)
    graph = helper.make_graph(
        nodes,
        "main",
        [info("x", TensorProto.FLOAT, ["N", "L", features])]
        + [info(name, TensorProto.FLOAT, state) for name in starts],
        [info("logits", TensorProto.FLOAT, ["N", classes])]
        + [info(name, TensorProto.FLOAT, state) for name in ends],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.array([-1, hidden]), "rows")],
    )
    if edit:
        edit(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", features)),),
        outputs=(TensorSpec("logits", "float32", ("N", classes)),),
        states=tuple(StateSpec(*names, "float32", state) for names in zip(starts, ends, strict=True)),
        task=Task("classification", "logits", labels=tuple("abcdefgh"[:classes])),
        provenance={"opset": 18, "versions": {"torch": "2.13"}},
    )
    content = with_manifest(model, manifest)
    return with_manifest(model, manifest._replace(golden=_golden(content, features))) if golden else content


def _changed(content, **fields):
    """Bytes of the same file with other manifest fields."""
    model = onnx.load_model_from_string(content)
    manifest = Manifest.from_json(next(prop.value for prop in model.metadata_props if prop.key == KEY))
    return with_manifest(model, manifest._replace(**fields))


def _golden(content, features):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 12, features)).astype(np.float32)
    model = load(content)
    start = model.run(rng.normal(size=(3, 4, features)).astype(np.float32))[1]
    outputs, state = model.run(x, start)
    found = {**outputs, **{spec.output: state[spec.input] for spec in model.states}}
    return Golden({"x": x, **start}, found, dict.fromkeys(found, 1e-7))
