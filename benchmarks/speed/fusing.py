"""What a native step spends on the neighbors of its recurrent layers: the most that fusing them could save.

The networks of ``stream.py``, each with what people put around one: inputs less their mean by their deviation
in front, and behind it a layer of the hidden width with bias and an activation, and softmax. Each neighbor is
left out in turn; the steps are taken by C. Run it on a quiet machine, on one core:

    taskset -c 1 python -m benchmarks.speed.fusing
"""

import argparse
import os
import platform
import statistics
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from benchmarks.speed.limits import build_tools
from benchmarks.speed.models import write_model
from benchmarks.speed.sizes import CLASSES, SIZES
from benchmarks.speed.stream_cases import interleave
from benchmarks.speed.stream_native import COUNTS, ratio, steps_from_c
from lstm_edge_runtime import load

NEIGHBORS = ("normalization in front", "bias", "activation", "softmax")


def write_variant(folder: Path, size: str, without: str | None) -> Path:
    """Write ``size``'s network with all its neighbors but one."""
    model = onnx.load(write_model(folder, size))
    hidden, rng = SIZES[size][1], np.random.default_rng(1)
    features = SIZES[size][0]

    def constant(name: str, *shape: int) -> str:
        model.graph.initializer.append(
            numpy_helper.from_array(rng.uniform(0.1, 0.2, shape).astype(np.float32), name)
        )
        return name

    nodes = list(model.graph.node)
    if without != "normalization in front":
        nodes[0].input[0] = "normalized"
        nodes[:0] = [
            helper.make_node("Sub", ["x", constant("mean", features)], ["centered"]),
            helper.make_node("Div", ["centered", constant("deviation", features)], ["normalized"]),
        ]
    del nodes[-1]  # the head
    value = "top"

    def then(operator: str, *weights: str) -> None:
        nonlocal value
        nodes.append(helper.make_node(operator, [value, *weights], [f"after {value}"]))
        value = f"after {value}"

    then("MatMul", constant("dense", hidden, hidden))
    if without != "bias":
        then("Add", constant("bias", hidden))
    if without != "activation":
        then("Relu")
    then("MatMul", "head")
    if without != "softmax":
        then("Softmax")
    nodes[-1].output[0] = "logits"
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    path = folder / f"{size} without {without}.onnx"
    onnx.save(model, path)
    return path


def main() -> None:
    """Print a table, and the versions and the machine that made it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=45, help="turns that each variant takes")
    options = parser.parse_args()
    shares: dict[str, list[str]] = {name: [] for name in NEIGHBORS}
    whole = []
    with tempfile.TemporaryDirectory() as folder:
        tools = build_tools(Path(folder))
        for size in SIZES:
            sample = np.random.default_rng(1).normal(size=SIZES[size][0]).astype(np.float32)
            calls = {
                str(name): steps_from_c(
                    tools,
                    load(write_variant(Path(folder), size, name), engine="native", threads=1),
                    sample,
                )
                for name in (None, *NEIGHBORS)
            }
            times = interleave(calls, COUNTS[size], options.repeats)
            whole.append(f"{statistics.median(times['None']) * 1e6:.2f} us")
            for name in NEIGHBORS:
                shares[name].append(f"{1 - ratio(times, name, 'None'):+.1%}")
    print("| share of a step from C | " + " | ".join(SIZES) + " |\n| --- |" + " --- |" * len(SIZES))
    for name, each in {"the whole step": whole, **shares}.items():
        print(f"| {name} | " + " | ".join(each) + " |")
    print(
        f"\n{CLASSES} classes; numpy {metadata.version('numpy')}, {platform.machine()}, "
        f"{len(os.sched_getaffinity(0))} cores"
    )


if __name__ == "__main__":
    main()
