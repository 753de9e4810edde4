"""Small float files with a manifest, made with onnx.helper, as an export would write them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import Golden, Manifest, StateSpec, Task, TensorSpec


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


def _network(
    kind="LSTM",
    features=8,
    hidden=64,
    layers=1,
    classes=4,
    directions=1,
    lengths=False,
    edit=None,
    seed=0,
    golden=True,
    head=True,
):
    """Bytes of ``x -> kind -> Linear -> logits`` with states in and out, and a golden case of its own.

    ``lengths`` is False, or that input's dtype; ``edit(graph)`` may change the graph before the manifest goes
    in.
    """
    rng = np.random.default_rng(seed)
    nodes, weights = [], []

    def weight(name, *shape, scale=None):
        bound = scale or 1 / np.sqrt(hidden)
        weights.append(numpy_helper.from_array(rng.uniform(-bound, bound, shape).astype(np.float32), name))
        return name

    letters = "hc" if kind == "LSTM" else "h"
    nodes.append(helper.make_node("Transpose", ["x"], ["step_first"], perm=[1, 0, 2]))
    if lengths:
        nodes.append(helper.make_node("Cast", ["lengths"], ["valid"], to=TensorProto.INT32))
    if layers > 1:
        for letter in letters:
            parts = [f"{letter}_0_{layer}" for layer in range(layers)]
            nodes.append(helper.make_node("Split", [f"{letter}_0"], parts, axis=0, num_outputs=layers))
        weights.append(numpy_helper.from_array(np.array([0, 0, -1]), "merged"))
    source, ends = "step_first", {letter: [] for letter in letters}
    for layer in range(layers):
        suffix = f"_{layer}" if layers > 1 else ""
        for letter in letters:
            ends[letter].append(f"{letter}_n{suffix}")
        width = features if layer == 0 else hidden * directions
        gates = GATES[kind] * hidden
        inputs = [
            source,
            weight(f"W{layer}", directions, gates, width),
            weight(f"R{layer}", directions, gates, hidden),
            weight(f"B{layer}", directions, 2 * gates),
            "valid" if lengths else "",
            *(f"{letter}_0{suffix}" for letter in letters),
        ]
        outputs = [f"Y{layer}", *(ends[letter][-1] for letter in letters)]
        nodes.append(
            helper.make_node(
                kind,
                inputs,
                outputs,
                hidden_size=hidden,
                direction="forward" if directions == 1 else "bidirectional",
                **({"linear_before_reset": 1} if kind == "GRU" else {}),
            )
        )
        if layer < layers - 1:
            nodes.append(helper.make_node("Transpose", [f"Y{layer}"], [f"T{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"T{layer}", "merged"], [f"X{layer}"]))
            source = f"X{layer}"
    if layers > 1:
        nodes += [helper.make_node("Concat", ends[letter], [f"{letter}_n"], axis=0) for letter in letters]
    if head:
        weights.append(numpy_helper.from_array(np.array([-1, hidden]), "rows"))
        nodes += [
            helper.make_node("Reshape", ["h_n", "rows"], ["last"]),
            helper.make_node(
                "Gemm",
                ["last", weight("V", classes, hidden, scale=1.0), weight("b", classes)],
                ["logits"],
                transB=1,
            ),
        ]
    else:
        nodes.append(helper.make_node("Identity", ["Y0"], ["logits"]))
    info = helper.make_tensor_value_info
    state = [layers * directions, "N", hidden]
    rows = "N" if layers * directions == 1 else f"{layers * directions}*N"
    logits = [rows, classes] if head else ["L", directions, "N", hidden]
    graph = helper.make_graph(
        nodes,
        "main",
        [
            info("x", TensorProto.FLOAT, ["N", "L", features]),
            *([info("lengths", TensorProto.DataType.Value(lengths.upper()), ["N"])] if lengths else []),
            *(info(f"{letter}_0", TensorProto.FLOAT, state) for letter in letters),
        ],
        [
            info("logits", TensorProto.FLOAT, logits),
            *(info(f"{letter}_n", TensorProto.FLOAT, state) for letter in letters),
        ],
        weights,
    )
    if edit:
        edit(graph)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    manifest = Manifest(
        inputs=(
            TensorSpec("x", "float32", ("N", "L", features)),
            *([TensorSpec("lengths", lengths, ("N",))] if lengths else []),
        ),
        outputs=(TensorSpec("logits", "float32", tuple(logits)),),
        states=tuple(StateSpec(f"{letter}_0", f"{letter}_n", "float32", tuple(state)) for letter in letters),
        lengths="lengths" if lengths else None,
        unstreamable="layer rnn is bidirectional" if directions > 1 else "",
        task=Task("classification", "logits", labels=tuple("abcdefgh"[:classes])) if head else None,
        provenance={"opset": 18, "versions": {"torch": "2.13"}},
        equivalence={"cases": ["(1, 5)"], "max_abs": 1e-7},
    )
    content = _signed(model, manifest)
    return (
        _signed(model, manifest._replace(golden=_golden(content, features, lengths))) if golden else content
    )


def _signed(model, manifest):
    """Bytes of ``model`` with ``manifest`` in it."""
    return with_manifest(model, manifest)


def _changed(content, **fields):
    """Bytes of the same file with other manifest fields."""
    model = onnx.load_model_from_string(content)
    manifest = Manifest.from_json(model.metadata_props[0].value)
    return _signed(model, manifest._replace(**fields))


def _golden(content, features, lengths):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 12, features)).astype(np.float32)
    model = load(content)
    valid = np.array([12, 5, 9], lengths) if lengths else None
    start = model.run(rng.normal(size=(3, 4, features)).astype(np.float32))[1]
    outputs, state = model.run(x, start, valid)
    found = {**outputs, **{spec.output: state[spec.input] for spec in model.states}}
    inputs = {"x": x, **start, **({"lengths": valid} if lengths else {})}
    return Golden(inputs, found, dict.fromkeys(found, 1e-7))
