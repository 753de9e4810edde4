"""Models of four sizes with random weights, as ONNX files."""

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.common import CLASSES, SIZES

__all__ = ["write_model"]


def write_model(folder: Path, size: str) -> Path:
    """Write ``size``'s file into ``folder``: standard LSTM nodes and a linear head on the last step."""
    features, hidden, layers = SIZES[size]
    several = range(layers) if layers > 1 else ()
    entering = {name: [f"{name}_in_{i}" for i in several] or [f"{name}_0"] for name in "hc"}
    leaving = {name: [f"{name}_out_{i}" for i in several] or [f"{name}_n"] for name in "hc"}
    nodes = ["y_0 = Transpose <perm = [1, 0, 2]> (x)"]
    shapes: dict[str, tuple[int, ...]] = {}
    if several:
        nodes += [
            f"{', '.join(entering[k])} = Split <axis = 0, num_outputs = {layers}> ({k}_0)" for k in "hc"
        ]
    for i in range(layers):
        shapes |= {f"W{i}": (1, 4 * hidden, hidden if i else features), f"R{i}": (1, 4 * hidden, hidden)}
        shapes[f"B{i}"] = (1, 8 * hidden)
        inputs = f'y_{i}, W{i}, R{i}, B{i}, "", {entering["h"][i]}, {entering["c"][i]}'
        outputs = f"Y_{i}, {leaving['h'][i]}, {leaving['c'][i]}"
        nodes.append(f"{outputs} = LSTM <hidden_size = {hidden}> ({inputs})")
        if i + 1 < layers:
            nodes.append(f"y_{i + 1} = Squeeze (Y_{i}, one)")
    if several:
        nodes += [f"{k}_n = Concat <axis = 0> ({', '.join(leaving[k])})" for k in "hc"]
    nodes += ["top = Gather <axis = 0> (h_n, last)", "logits = MatMul (top, head)"]
    state = f"float[{layers}, N, {hidden}]"
    model = onnx.parser.parse_model(f"""
        <ir_version: 9, opset_import: ["": 18]>
        {size} (float[N, L, {features}] x, {state} h_0, {state} c_0)
            => (float[N, {CLASSES}] logits, {state} h_n, {state} c_n) {{ {" ".join(nodes)} }}
    """)
    rng, bound = np.random.default_rng(0), hidden**-0.5
    shapes["head"] = (hidden, CLASSES)
    weights = {name: rng.uniform(-bound, bound, each).astype(np.float32) for name, each in shapes.items()}
    weights |= {"last": np.array(layers - 1)} | ({"one": np.array([1])} if several else {})
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    path = folder / f"{size}.onnx"
    onnx.save(model, path)
    return path
