"""Makes the model files of this folder: ``python tests/runtime/data/make.py``. The same
bytes each time.

Runtime tests read the files and need neither torch nor onnx.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from lstm_edge_exporters.graph import with_manifest
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.manifest import (
    Golden,
    Manifest,
    Signal,
    StateSpec,
    Task,
    TensorSpec,
    Trained,
)

HERE = Path(__file__).parent
TYPES = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}


def save(
    name: str, text: str, weights: Any, states: Any, reset: Any = 0.0, **more: Any
) -> None:
    """Write ``name.onnx``; ``states`` maps inputs of the graph ``text`` to outputs."""
    model = onnx.parser.parse_model(
        f'<ir_version: 9, opset_import: ["": 18]> {name} {text}'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(array), key)
        for key, array in weights.items()
    )
    specs = {}
    for value in (*model.graph.input, *model.graph.output):
        dims = value.type.tensor_type.shape.dim
        for dim in dims:
            if dim.dim_param == "N2":  # the parser takes no other name
                dim.dim_param = "2*N"
        axes = tuple(dim.dim_param or dim.dim_value for dim in dims)
        specs[value.name] = TensorSpec(
            value.name, TYPES[value.type.tensor_type.elem_type], axes
        )
    onnx.checker.check_model(model, full_check=True)
    manifest = Manifest(
        inputs=tuple(
            specs[value.name] for value in model.graph.input if value.name not in states
        ),
        outputs=tuple(
            specs[value.name]
            for value in model.graph.output
            if value.name not in states.values()
        ),
        states=tuple(
            StateSpec(a, b, "float32", specs[a].axes, reset) for a, b in states.items()
        ),
        **more,
    )
    (HERE / f"{name}.onnx").write_bytes(with_manifest(model, manifest))


def lstm() -> None:
    """A classifier of two layers, batch first, and the same file with a state output
    that is missing."""
    torch.manual_seed(7)
    layers = torch.nn.LSTM(3, 8, 2, batch_first=True)
    head = torch.nn.Linear(8, 4)
    weights: dict[str, Any] = {
        "one": [1],
        "last": 1,
        "head": head.weight.detach(),
        "bias": head.bias.detach(),
    }
    for layer in range(2):
        for name, kinds in {
            "W": ["weight_ih"],
            "R": ["weight_hh"],
            "B": ["bias_ih", "bias_hh"],
        }.items():
            gates = [
                np.split(getattr(layers, f"{kind}_l{layer}").detach().numpy(), 4)
                for kind in kinds
            ]
            weights[f"{name}{layer}"] = np.concatenate(
                [part[i] for part in gates for i in (0, 3, 1, 2)]
            )[None]
    weights = {
        name: array.detach().numpy() if torch.is_tensor(array) else array
        for name, array in weights.items()
    }
    runs = " ".join(
        f"y{i}, h{i}, c{i} = LSTM <hidden_size = 8> (s{i}, W{i}, R{i}, B{i}, \"\", hi{i}, ci{i}) "
        f"s{i + 1} = Squeeze (y{i}, one)"
        for i in range(2)
    )  # fmt: skip
    text = f"""(float[N, L, 3] x, float[2, N, 8] h_0, float[2, N, 8] c_0)
        => (float[N, 4] logits, float[2, N, 8] h_n, float[2, N, 8] c_n) {{
        s0 = Transpose <perm = [1, 0, 2]> (x)
        hi0, hi1 = Split <num_outputs = 2> (h_0) ci0, ci1 = Split <num_outputs = 2> (c_0) {runs}
        h_n = Concat <axis = 0> (h0, h1) c_n = Concat <axis = 0> (c0, c1)
        top = Gather <axis = 0> (h_n, last) logits = Gemm <transB = 1> (top, head, bias) }}"""
    rng = np.random.default_rng(3)
    shapes = {"x": (2, 6, 3), "h_0": (2, 2, 8), "c_0": (2, 2, 8)}
    inputs = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
    }

    def run(dtype: torch.dtype) -> dict[str, np.ndarray]:
        x, h, c = (torch.from_numpy(array).to(dtype) for array in inputs.values())
        with torch.no_grad():
            _, (h, c) = layers.to(dtype)(x, (h, c))
            return {
                "logits": head.to(dtype)(h[-1]).numpy(),
                "h_n": h.numpy(),
                "c_n": c.numpy(),
            }

    exact = run(torch.float64)
    plain = run(torch.float32)
    limits = {
        name: np.full([1] * array.ndim, 1e-6 * np.abs(array).max())
        for name, array in exact.items()
    }
    save(
        "lstm", text, weights, {"h_0": "h_n", "c_0": "c_n"},
        task=Task("classification", "logits", labels=("rest", "walk", "run", "fall")),
        signal=Signal(features=("ax", "ay", "az"), sampling_rate=50.0, window=20),
        trained=Trained(carry=True, window=20, reset=0.5),
        provenance={"made_by": "tests/runtime/data/make.py"},
        golden=Golden(inputs, plain, limits=limits),
    )  # fmt: skip
    model = onnx.load(HERE / "lstm.onnx")
    stored = read_manifest(
        next(prop.value for prop in model.metadata_props if prop.key == "lstm_edge")
    )
    broken = stored.states[0]._replace(output="h_last")
    (HERE / "broken.onnx").write_bytes(
        with_manifest(model, stored._replace(states=(broken,), golden=None))
    )


def main() -> None:
    """Write every file."""
    lstm()
    rng = np.random.default_rng(5)
    w, r = (
        rng.normal(size=(1, 24, width)).astype(np.float32) * np.float32(0.4)
        for width in (4, 8)
    )
    # lengths, an output of every step, stacked rows and two inputs, batch in the middle
    save(
        "gru",
        """(float[L, N, 3] x, float[L, N, 1] gain, int64[N] lengths, float[1, N, 8] h_0)
        => (float[N2, 8] logits, float[L, N, 8] output, float[1, N, 8] h_n) {
        both = Concat <axis = 2> (x, gain) valid = Cast <to = 6> (lengths)
        y, h_n = GRU <hidden_size = 8, linear_before_reset = 1> (both, W, R, "", valid, h_0)
        output = Squeeze (y, one) minus = Neg (h_n)
        stack = Concat <axis = 0> (h_n, minus) logits = Reshape (stack, rows) }""",
        {"W": w, "R": r, "one": [1], "rows": [-1, 8]}, {"h_0": "h_n"},
        np.full((1, 1, 8), 0.25, np.float32), lengths="lengths",
    )  # fmt: skip
    save(  # one stream that takes one step per call
        "step",
        """(float[1, 3] input, float[1, 3] state) => (float[1, 3] result, float[1, 3] stateN) {
        sum = Add (input, state) stateN = Tanh (sum) result = Neg (stateN) }""",
        {}, {"state": "stateN"}, batch=None, sequence=None,
    )  # fmt: skip
    save(  # no batch axis: a running sum, which is the state too
        "unbatched",
        """(float[L, 3] x, float[3] h_0) => (float[3] total, float[3] h_n) {
        sum = ReduceSum <keepdims = 0> (x, zero) h_n = Add (sum, h_0) total = Identity (h_n) }""",
        {"zero": [0]}, {"h_0": "h_n"}, batch=None, task=Task("regression", "total", units=("m", "m", "m")),
    )  # fmt: skip


if __name__ == "__main__":
    main()
