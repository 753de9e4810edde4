"""int8 and fp16 files compared with the float file: size, time, load time.

    taskset -c 1 python -m benchmarks.speed.precision [--rounds N] [--sizes S M]

Every ratio is measured in one process, on one thread, alternately with the float file,
of networks with random weights.
"""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import (
    SIZES,
    Call,
    interleave,
    parser,
    print_machine,
    repeat,
    table,
)
from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import export
from lstm_edge_exporters.quantize import Budget, QuantizeConfig, quantize
from lstm_edge_exporters.quantize.precision import detect_target
from lstm_edge_runtime import load

VARIANTS = {
    "int8": QuantizeConfig("int8"),
    "int8 weights only": QuantizeConfig("int8", weights_only=True),
    "fp16": QuantizeConfig("fp16"),
}
CHUNK = 256


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


def measure(
    name: str, paths: dict[str, Path], rounds: int
) -> dict[str, dict[str, float]]:
    """Return, for each file of a size, bytes, step, chunk and load as ratios to the
    float file.
    """
    models = {variant: load(path) for variant, path in paths.items()}
    x = np.random.default_rng(0).normal(size=(CHUNK, SIZES[name][0])).astype(np.float32)
    calls: dict[str, dict[str, Call]] = {"step": {}, "chunk": {}, "load": {}}
    for variant, model in models.items():
        calls["step"][variant] = repeat(model.stream().step, x[0])
        calls["chunk"][variant] = repeat(model.stream().process, x)
        calls["load"][variant] = repeat(load, paths[variant])
    ratios = {
        variant: {"bytes": path.stat().st_size / paths["float"].stat().st_size}
        for variant, path in paths.items()
    }
    for what, call in calls.items():
        duration = 1e6 * min(interleave({"float": call["float"]}, 1, 5)["float"])
        count = 1 if what == "load" else max(1, int(2e3 / duration))
        times = interleave(
            call, count, rounds if what != "load" else max(5, rounds // 3)
        )
        for variant in paths:
            ratios[variant][what] = times.ratio(variant, "float")
    return ratios


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=51)
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    options = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sizes:
            paths = files_of(name, Path(folder))
            for variant, ratios in measure(name, paths, options.rounds).items():
                cells = [f"{value:.3f}" for value in ratios.values()]
                rows.append(
                    [
                        f"{name} {variant}",
                        *cells,
                        f"{paths[variant].stat().st_size:,} B",
                    ]
                )
    print(
        table(
            [
                "ratio to the float file",
                "bytes",
                "step",
                "chunk of 256",
                "load",
                "size",
            ],
            rows,
        )
    )
    print("quantized for", detect_target())
    print_machine("onnxruntime", "torch")


if __name__ == "__main__":
    main()
