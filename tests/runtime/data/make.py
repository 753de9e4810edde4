"""Makes the model files beside it: ``python tests/runtime/data/make.py``. The same bytes each time.

Runtime tests read the files and need neither torch nor onnx.
"""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_runtime.manifest import Golden, Manifest, Signal, StateSpec, Task, TensorSpec, Trained

HERE = Path(__file__).parent
WIDTH, H, C, LAYERS = 3, 8, 4, 2
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def main() -> None:
    """Write every file."""
    torch.manual_seed(7)
    lstm = torch.nn.LSTM(WIDTH, H, LAYERS, batch_first=True)
    head = torch.nn.Linear(H, C)
    np.savez(
        HERE / "lstm.npz",
        **{name.replace(".", "_"): value.detach().numpy() for name, value in lstm.named_parameters()},
    )
    nodes, weights = lstm_nodes(lstm, head)
    whole = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "L", WIDTH)),),
        outputs=(TensorSpec("logits", "float32", ("N", C)),),
        states=tuple(StateSpec(f"{k}_0", f"{k}_n", "float32", (LAYERS, "N", H)) for k in "hc"),
        task=Task("classification", "logits", labels=("rest", "walk", "run", "fall")),
        signal=Signal(features=("ax", "ay", "az"), sampling_rate=50.0, window=20),
        trained=Trained(carry=True, window=20, reset=0.5),
        provenance={"made_by": "tests/runtime/data/make.py"},
        golden=golden(lstm, head),
    )
    state = [LAYERS, "N", H]
    save(
        "lstm", nodes, weights, [("x", FLOAT, ["N", "L", WIDTH])], [("logits", FLOAT, ["N", C])], state, whole
    )
    broken = Manifest(whole.inputs, whole.outputs, (StateSpec("h_0", "h_last", "float32", tuple(state)),))
    save(
        "broken",
        nodes,
        weights,
        [("x", FLOAT, ["N", "L", WIDTH])],
        [("logits", FLOAT, ["N", C])],
        state,
        broken,
    )
    gru()
    step()
    unbatched()
    wide()


def lstm_nodes(
    lstm: torch.nn.LSTM, head: torch.nn.Linear
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return ONNX nodes and weights for a batch-first LSTM and a head on its last step."""
    nodes = [helper.make_node("Transpose", ["x"], ["seq_0"], perm=[1, 0, 2])]
    weights = [tensor("one", np.array([1]))]
    nodes += [
        helper.make_node("Split", [f"{k}_0"], [f"{k}_in_{i}" for i in range(LAYERS)], num_outputs=LAYERS)
        for k in "hc"
    ]
    for i in range(LAYERS):
        w, r = (getattr(lstm, f"weight_{kind}_l{i}").detach().numpy() for kind in ("ih", "hh"))
        b = [getattr(lstm, f"bias_{kind}_l{i}").detach().numpy() for kind in ("ih", "hh")]
        weights += [
            tensor(f"W{i}", reorder(w)[None]),
            tensor(f"R{i}", reorder(r)[None]),
            tensor(f"B{i}", np.concatenate([reorder(part) for part in b])[None]),
        ]
        nodes += [
            helper.make_node(
                "LSTM",
                [f"seq_{i}", f"W{i}", f"R{i}", f"B{i}", "", f"h_in_{i}", f"c_in_{i}"],
                [f"y_{i}", f"h_out_{i}", f"c_out_{i}"],
                hidden_size=H,
            ),
            helper.make_node("Squeeze", [f"y_{i}", "one"], [f"seq_{i + 1}"]),
        ]
    for k in "hc":
        nodes.append(helper.make_node("Concat", [f"{k}_out_{i}" for i in range(LAYERS)], [f"{k}_n"], axis=0))
    nodes += [
        helper.make_node("Gather", ["h_n", "last"], ["top"], axis=0),
        helper.make_node("Gemm", ["top", "head", "bias"], ["logits"], transB=1),
    ]
    weights += [
        tensor("last", np.array(LAYERS - 1)),
        tensor("head", head.weight.detach().numpy()),
        tensor("bias", head.bias.detach().numpy()),
    ]
    return nodes, weights


def golden(lstm: torch.nn.LSTM, head: torch.nn.Linear) -> Golden:
    """Record PyTorch's own outputs, and how far they are from its float64 ones."""
    rng = np.random.default_rng(3)
    inputs = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in {"x": (2, 6, WIDTH), "h_0": (LAYERS, 2, H), "c_0": (LAYERS, 2, H)}.items()
    }

    def run(dtype: torch.dtype) -> dict[str, np.ndarray]:
        x, h, c = (torch.from_numpy(inputs[name]).to(dtype) for name in ("x", "h_0", "c_0"))
        with torch.no_grad():
            _, (h, c) = lstm.to(dtype)(x, (h, c))
            return {"logits": head.to(dtype)(h[-1]).numpy(), "h_n": h.numpy(), "c_n": c.numpy()}

    exact, plain = run(torch.float64), run(torch.float32)
    return Golden(inputs, plain, {name: float(np.abs(plain[name] - exact[name]).max()) for name in plain})


def gru() -> None:
    """A file with ``lengths``, a sequence output, stacked rows and two inputs, batch in the middle."""
    rng = np.random.default_rng(5)
    weights = [
        tensor("W", rng.normal(size=(1, 3 * H, WIDTH + 1)).astype(np.float32) * 0.4),
        tensor("R", rng.normal(size=(1, 3 * H, H)).astype(np.float32) * 0.4),
        tensor("one", np.array([1])),
    ]
    nodes = [
        helper.make_node("Concat", ["x", "gain"], ["both"], axis=2),
        helper.make_node("Cast", ["lengths"], ["valid"], to=TensorProto.INT32),
        helper.make_node(
            "GRU", ["both", "W", "R", "", "valid", "h_0"], ["y", "h_n"], hidden_size=H, linear_before_reset=1
        ),
        helper.make_node("Squeeze", ["y", "one"], ["output"]),
        helper.make_node("Neg", ["h_n"], ["minus"]),
        helper.make_node("Concat", ["h_n", "minus"], ["stack"], axis=0),
        helper.make_node("Reshape", ["stack", "rows"], ["logits"]),
    ]
    weights.append(tensor("rows", np.array([-1, H])))
    manifest = Manifest(
        inputs=(
            TensorSpec("x", "float32", ("L", "N", WIDTH)),
            TensorSpec("gain", "float32", ("L", "N", 1)),
            TensorSpec("lengths", "int64", ("N",)),
        ),
        outputs=(TensorSpec("logits", "float32", ("2*N", H)), TensorSpec("output", "float32", ("L", "N", H))),
        states=(
            StateSpec("h_0", "h_n", "float32", (1, "N", H), reset=np.full((1, 1, H), 0.25, dtype=np.float32)),
        ),
        lengths="lengths",
    )
    save(
        "gru",
        nodes,
        weights,
        [("x", FLOAT, ["L", "N", WIDTH]), ("gain", FLOAT, ["L", "N", 1]), ("lengths", INT64, ["N"])],
        [("logits", FLOAT, ["2*N", H]), ("output", FLOAT, ["L", "N", H])],
        [1, "N", H],
        manifest,
        names={"h_0": "h_0", "h_n": "h_n"},
    )


def step() -> None:
    """A file of one stream that takes one step a call: ``s' = tanh(s + x)``."""
    nodes = [
        helper.make_node("Add", ["input", "state"], ["sum"]),
        helper.make_node("Tanh", ["sum"], ["stateN"]),
        helper.make_node("Neg", ["stateN"], ["result"]),
    ]
    save(
        "step",
        nodes,
        [],
        [("input", FLOAT, [1, WIDTH])],
        [("result", FLOAT, [1, WIDTH])],
        [1, WIDTH],
        Manifest(
            inputs=(TensorSpec("input", "float32", (1, WIDTH)),),
            outputs=(TensorSpec("result", "float32", (1, WIDTH)),),
            states=(StateSpec("state", "stateN", "float32", (1, WIDTH)),),
            batch=None,
            sequence=None,
        ),
        names={"state": "state", "stateN": "stateN"},
    )


def unbatched() -> None:
    """A file without a batch axis: ``x (L, WIDTH)``, a running sum that is its state too."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "zero"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "h_0"], ["h_n"]),
        helper.make_node("Identity", ["h_n"], ["total"]),
    ]
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("L", WIDTH)),),
        outputs=(TensorSpec("total", "float32", (WIDTH,)),),
        states=(StateSpec("h_0", "h_n", "float32", (WIDTH,)),),
        batch=None,
        task=Task("regression", "total", units=("m", "m", "m")),
    )
    save(
        "unbatched",
        nodes,
        [tensor("zero", np.array([0]))],
        [("x", FLOAT, ["L", WIDTH])],
        [("total", FLOAT, [WIDTH])],
        [WIDTH],
        manifest,
        names={"h_0": "h_0", "h_n": "h_n"},
    )


def wide() -> None:
    """A file whose feature axis has a name: ``x (N, F)``, its sum added to each of three running totals."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "one"], ["sum"], keepdims=1),
        helper.make_node("Add", ["h_0", "sum"], ["h_n"]),
        helper.make_node("Identity", ["h_n"], ["total"]),
    ]
    manifest = Manifest(
        inputs=(TensorSpec("x", "float32", ("N", "F")),),
        outputs=(TensorSpec("total", "float32", ("N", WIDTH)),),
        states=(StateSpec("h_0", "h_n", "float32", ("N", WIDTH)),),
        sequence=None,
    )
    save(
        "wide",
        nodes,
        [tensor("one", np.array([1]))],
        [("x", FLOAT, ["N", "F"])],
        [("total", FLOAT, ["N", WIDTH])],
        ["N", WIDTH],
        manifest,
        names={"h_0": "h_0", "h_n": "h_n"},
    )


def save(name, nodes, weights, inputs, outputs, state, manifest, names=None) -> None:
    """Write ``name.onnx``; ``names`` maps the states' usual names to the file's own."""
    names = names or {k: k for k in ("h_0", "h_n", "c_0", "c_n")}
    value = helper.make_tensor_value_info
    entering = [value(to, FLOAT, state) for key, to in names.items() if not key.endswith(("n", "N"))]
    leaving = [value(to, FLOAT, state) for key, to in names.items() if key.endswith(("n", "N"))]
    graph = helper.make_graph(
        nodes,
        name,
        [*(value(*spec) for spec in inputs), *entering],
        [*(value(*spec) for spec in outputs), *leaving],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="lstm-edge tests"
    )
    onnx.checker.check_model(model, full_check=True)
    (HERE / f"{name}.onnx").write_bytes(with_manifest(model, manifest))


def reorder(gates: np.ndarray) -> np.ndarray:
    """PyTorch's i f g o as ONNX's i o f c."""
    i, f, g, o = np.split(gates, 4)
    return np.concatenate([i, o, f, g])


def tensor(name: str, array: np.ndarray) -> onnx.TensorProto:
    """Return an initializer."""
    return numpy_helper.from_array(array, name)


if __name__ == "__main__":
    main()
