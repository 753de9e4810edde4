"""What int8 and fp16 change compared with the float file: size, time, load time, accuracy.

    taskset -c 1 python -m benchmarks.speed.precision [--rounds N] [--sizes S M]

Every ratio is measured in one process, on one thread, alternately with the float file. The demo's network
gives the accuracy; the weights of the other networks are random.
"""

import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import ROOT, SIZES, Call, interleave, parser, print_machine, repeat, table
from lstm_edge import LSTM1, train
from lstm_edge.checkpoint import Run, deployable
from lstm_edge.demo import TRAINING
from lstm_edge_exporters import export
from lstm_edge_exporters.quantize import Budget, QuantizeConfig, Samples, quantize
from lstm_edge_exporters.quantize.precision import detect_target
from lstm_edge_runtime import load

VARIANTS = {
    "int8": QuantizeConfig("int8"),
    "int8 weights only": QuantizeConfig("int8", weights_only=True),
    "fp16": QuantizeConfig("fp16"),
}
TARGETS = {
    ("int8", "bytes"): {"M": 0.35, "L": 0.28, "XL": 0.27},
    ("int8", "chunk"): {"M": 0.55, "L": 0.40, "XL": 0.35},
    ("int8", "step"): {"L": 0.70, "XL": 0.45},
}
CHUNK = 256
DATA = ROOT / "lstm_edge" / "data" / "basic_motions.npz"


def files_of(name: str, folder: Path) -> dict[str, Path]:
    """Write the float file of a size and every variant of it."""
    features, hidden, layers = SIZES[name]
    torch.manual_seed(0)
    module = LSTM1(6, features, hidden, layers, CHUNK).eval()
    made = {"float": folder / f"{name}.onnx"}
    export(*deployable(Run(module))).save(made["float"])
    for variant, config in VARIANTS.items():
        made[variant] = folder / f"{name}-{variant.replace(' ', '-')}.onnx"
        loose = replace(config, budget=Budget(agreement=0, drift=9, change=9))
        quantize(made["float"], loose).save(made[variant])
    return made


def measure(name: str, paths: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Return, for each file of a size, bytes, step, chunk and load as ratios to the float file."""
    models = {variant: load(path) for variant, path in paths.items()}
    x = np.random.default_rng(0).normal(size=(CHUNK, SIZES[name][0])).astype(np.float32)
    calls: dict[str, dict[str, Call]] = {"step": {}, "chunk": {}, "load": {}}
    for variant, model in models.items():
        calls["step"][variant] = repeat(model.stream().step, x[0])
        calls["chunk"][variant] = repeat(model.stream().process, x)
        calls["load"][variant] = repeat(load, paths[variant])
    found = {
        variant: {"bytes": path.stat().st_size / paths["float"].stat().st_size}
        for variant, path in paths.items()
    }
    for what, each in calls.items():
        one = interleave({"float": each["float"]}, 1, 5).us("float")
        count = 1 if what == "load" else max(1, int(2e3 / one))
        times = interleave(each, count, rounds if what != "load" else max(5, rounds // 3))
        for variant in paths:
            found[variant][what] = times.ratio(variant, "float")
    return found


def judge_demo(folder: Path) -> dict[str, dict[str, Any]]:
    """Train the demo's network, and judge every variant on the 40 recordings it never saw."""
    run = train(DATA, folder / "run", config=TRAINING)
    source = folder / "demo.onnx"
    export(*deployable(run)).save(source)
    with np.load(DATA) as data:
        held_out = data["split"] == "test"
        samples = Samples({"x": data["x"][held_out]}, targets=data["y"][held_out])
    made = {variant: quantize(source, config, samples) for variant, config in VARIANTS.items()}
    return {
        variant: {"bytes": len(each.model) / each.bytes_before, **asdict(each.judgement)}
        for variant, each in made.items()
    }


def print_demo(judged: dict[str, dict[str, Any]]) -> int:
    """Print the accuracy of each variant; return the number of variants that lose too much."""
    rows, missed = [], 0
    for variant, found in judged.items():
        before, after = found["accuracy"]
        missed += found["agreement"] < 0.975 or (before - after) * found["cases"] > 1
        drift = max(found["drift"].values())
        figures = (f"{value:.4g}" for value in (found["agreement"], before, after, drift, found["bytes"]))
        rows.append([variant, *figures])
    print(table(["demo", "labels that agree", "accuracy, float", "accuracy", "state drift", "bytes"], rows))
    return missed


def main() -> int:
    """Measure and print; exits with 1 if a target is missed."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=51)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    options = arguments.parse_args()
    rows, missed = [], []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes:
            paths = files_of(name, Path(folder))
            for variant, ratios in measure(name, paths, options.rounds).items():
                cells = [f"{value:.3f}" for value in ratios.values()]
                rows.append([f"{name} {variant}", *cells, f"{paths[variant].stat().st_size:,} B"])
                missed += [
                    f"{name} {variant} {what}: {value:.3f}, target {TARGETS[variant, what][name]}"
                    for what, value in ratios.items()
                    if value > TARGETS.get((variant, what), {}).get(name, np.inf)
                ]
        judged = judge_demo(Path(folder))
    print(table(["ratio to the float file", "bytes", "step", "chunk of 256", "load", "size"], rows))
    lost = print_demo(judged)
    print(*missed, sep="\n")
    print("quantized for", detect_target())
    print_machine("onnxruntime", "torch")
    return int(bool(missed or lost))


if __name__ == "__main__":
    raise SystemExit(main())
