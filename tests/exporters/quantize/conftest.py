"""Small float files with a manifest, made with onnx.helper, as an export would write
them."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_runtime import load
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.manifest import (
    KEY,
    Golden,
    Manifest,
    StateSpec,
    Task,
    TensorSpec,
)


def make_model(text, weights):
    """Return a model of a graph in ONNX's text form; floats of ``weights`` are stored
    in float32."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
    arrays = {
        n: a.astype(np.float32) if a.dtype.kind == "f" else a
        for n, a in weights.items()
    }
    model.graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in arrays.items()
    )
    return model


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
    """Bytes of ``x -> kind -> Linear -> logits`` with states in and out, and a golden
    case.

    ``edit(graph)`` may change the graph before the manifest goes in.
    """
    rng = np.random.default_rng(0)
    gates = GATES[kind] * hidden
    bound = 1 / np.sqrt(hidden)
    letters = "hc" if kind == "LSTM" else "h"
    shapes = {
        "W0": (1, gates, features),
        "R0": (1, gates, hidden),
        "B0": (1, 2 * gates),
        "b": (classes,),
    }
    weights = {
        name: rng.uniform(-bound, bound, shape) for name, shape in shapes.items()
    }
    weights["V"] = rng.uniform(-1, 1, (classes, hidden))
    starts, ends = ([f"{letter}_{suffix}" for letter in letters] for suffix in "0n")
    weights["rows"] = np.array([-1, hidden])
    options = ", linear_before_reset = 1" if kind == "GRU" else ""
    states = ", ".join(f"float[1,N,{hidden}] {name}" for name in starts)
    model = make_model(
        f"""g (float[N,L,{features}] x, {states}) => (float[N,{classes}] logits,
        {states.replace("_0", "_n")}) {{
            steps = Transpose <perm = [1, 0, 2]> (x)
            Y0, {", ".join(ends)} = {kind} <hidden_size = {hidden}{options}>
                (steps, W0, R0, B0, , {", ".join(starts)})
            last = Reshape (h_n, rows)
            logits = Gemm <transB = 1> (last, V, b)
        }}""",
        weights,
    )
    if edit:
        edit(model.graph)
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", features)),),
        outputs=(TensorSpec("logits", "float32", ("N", classes)),),
        states=tuple(
            StateSpec(*names, "float32", (1, "N", hidden))
            for names in zip(starts, ends, strict=True)
        ),
        task=Task("classification", "logits", labels=tuple("abcdefgh"[:classes])),
        provenance={"opset": 18, "versions": {"torch": "2.13"}},
    )
    content = with_manifest(model, manifest)
    return (
        with_manifest(model, manifest._replace(golden=_golden(content, features)))
        if golden
        else content
    )


def _changed(content, **fields):
    """Bytes of the same file with other manifest fields."""
    model = onnx.load_model_from_string(content)
    manifest = read_manifest(
        next(prop.value for prop in model.metadata_props if prop.key == KEY)
    )
    return with_manifest(model, manifest._replace(**fields))


def _golden(content, features):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 12, features)).astype(np.float32)
    model = load(content)
    start = model.run(rng.normal(size=(3, 4, features)).astype(np.float32))[1]
    outputs, state = model.run(x, start)
    results = {**outputs, **{spec.output: state[spec.input] for spec in model.states}}
    limits = {name: np.full([1] * array.ndim, 3e-6) for name, array in results.items()}
    return Golden({"x": x, **start}, results, limits=limits)
