"""What int8, fp16 and ORT format give against the float file: size, time, load time, accuracy.

Every ratio is measured in one process, on one thread, beside the float file; it is the median over the
rounds of a file's time by the float file's time beside it. Time is the process's CPU time: on one thread that
is the wall time of a quiet machine, and other programs disturb it less.

    python -m benchmarks.speed.precision [--rough] [--sizes S,M] [--json out.json]
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from lstm_edge import LSTM1, train
from lstm_edge.checkpoint import Run
from lstm_edge.demo import TRAINING
from lstm_edge.deploy import deployable
from lstm_edge_exporters import export
from lstm_edge_exporters.quantization import Budget, QuantizeConfig, Samples, quantize
from lstm_edge_exporters.quantization.precision import detect_target
from lstm_edge_exporters.targets.ort import to_ort
from lstm_edge_runtime import load

SIZES = {"S": (8, 32, 1), "M": (16, 128, 1), "L": (64, 256, 2), "XL": (128, 512, 2)}
"""Features, hidden width, layers."""
VARIANTS = {
    "int8": QuantizeConfig("int8"),
    "int8 weights": QuantizeConfig("int8", weights_only=True),
    "fp16": QuantizeConfig("fp16"),
}
TARGETS = {
    ("int8", "bytes"): {"M": 0.35, "L": 0.28, "XL": 0.27},
    ("int8", "chunk"): {"M": 0.55, "L": 0.40, "XL": 0.35},
    ("int8", "step"): {"L": 0.70, "XL": 0.45},
}
CHUNK = 256
Call = Callable[[], Any]
DATA = Path(__file__).parents[2] / "lstm_edge" / "data" / "basic_motions.npz"


def files_of(name: str, folder: Path) -> dict[str, Path]:
    """Make the float file of a size, and every variant of it, each as .onnx and .ort.

    The weights are random, so their accuracy says nothing and the budget is opened wide.
    """
    features, hidden, layers = SIZES[name]
    torch.manual_seed(0)
    module = LSTM1(6, features, hidden, layers, CHUNK).eval()
    made = {"float": folder / f"{name}.onnx"}
    export(*deployable(Run(module))).save(made["float"])
    for variant, config in VARIANTS.items():
        made[variant] = folder / f"{name}-{variant.replace(' ', '-')}.onnx"
        loose = replace(config, budget=Budget(agreement=0, drift=9, change=9))
        quantize(made["float"], loose).save(made[variant], force=True)
    for variant in ("float", "int8"):
        made[f"{variant} .ort"] = made[variant].with_suffix(".ort")
        to_ort(made[variant]).save(made[f"{variant} .ort"])
    return made


def in_turns(calls: dict[str, Call], rounds: int, block: float) -> dict[str, tuple[float, float]]:
    """Time each call beside the first one; gives its median seconds and median ratio to the first."""
    base = next(iter(calls.values()))
    found = {}
    for name, call in calls.items():
        counts = [max(1, int(block / max(_seconds(each, 3), 1e-9))) for each in (base, call)]
        pairs = [(_seconds(base, counts[0]), _seconds(call, counts[1])) for _ in range(rounds)]
        times = np.array(pairs)
        found[name] = (float(np.median(times[:, 1])), float(np.median(times[:, 1] / times[:, 0])))
    return found


def _seconds(call: Call, repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def measure(name: str, paths: dict[str, Path], rounds: int) -> dict[str, dict[str, float]]:
    """Give, per file of a size, bytes, step, chunk and load as ratios to the float file, and its times."""
    models = {variant: load(path, device="cpu", threads=1) for variant, path in paths.items()}
    x = np.random.default_rng(0).normal(size=(CHUNK, SIZES[name][0])).astype(np.float32)
    steppers = {variant: model.stream() for variant, model in models.items()}
    chunkers = {variant: model.stream() for variant, model in models.items()}
    timed = {
        "step": in_turns({v: (lambda s=s: s.step(x[0])) for v, s in steppers.items()}, rounds, 2e-3),
        "chunk": in_turns({v: (lambda s=s: s.process(x)) for v, s in chunkers.items()}, rounds, 2e-3),
        "load": in_turns(
            {v: (lambda p=p: load(p, device="cpu", threads=1)) for v, p in paths.items()},
            max(5, rounds // 3),
            0,
        ),
    }
    whole = paths["float"].stat().st_size
    return {
        variant: {
            "bytes": path.stat().st_size / whole,
            "bytes_absolute": path.stat().st_size,
            **{what: found[variant][1] for what, found in timed.items()},
            **{f"{what}_seconds": found[variant][0] for what, found in timed.items()},
        }
        for variant, path in paths.items()
    }


def demo(folder: Path) -> dict[str, dict[str, Any]]:
    """Train the demo's network, and judge every variant on the 40 recordings it never saw."""
    run = train(DATA, folder / "run", config=TRAINING)
    source = folder / "demo.onnx"
    export(*deployable(run)).save(source)
    with np.load(DATA) as data:
        held_out = data["split"] == "test"
        samples = Samples({"x": data["x"][held_out]}, targets=data["y"][held_out])
    found = {}
    for variant, config in VARIANTS.items():
        made = quantize(source, config, samples)
        found[variant] = {"bytes": len(made.model) / made.bytes_before, **made.judgement.to_dict()}
    return found


def report(sizes: dict[str, Any], judged: dict[str, Any]) -> int:
    """Print the tables and the targets; gives the number of targets that were missed."""
    missed = 0
    print(
        f"{'':4} {'file':14} {'bytes':>7} {'step':>7} {'chunk':>7} {'load':>7}   (ratios to the float file)"
    )
    for name, variants in sizes.items():
        for variant, found in variants.items():
            cells = " ".join(f"{found[what]:7.3f}" for what in ("bytes", "step", "chunk", "load"))
            print(f"{name:4} {variant:14} {cells}   {found['bytes_absolute']:>10,} B")
    for (variant, what), limits in TARGETS.items():
        for name, limit in limits.items():
            if name in sizes:
                ratio = sizes[name][variant][what]
                missed += ratio > limit
                verdict = "ok" if ratio <= limit else "MISSED"
                print(f"{variant} {what} {name}: {ratio:.3f} (must reach {limit}) {verdict}")
    for variant, found in judged.items():
        before, after = found["accuracy"]
        good = found["agreement"] >= 0.975 and (before - after) * found["cases"] <= 1
        missed += not good
        drift = max(state["share"] for state in found["drift"].values())
        print(
            f"demo {variant}: {found['agreement']:.3f} of labels agree, accuracy {before:.3f} to {after:.3f},"
            f" state drift {drift:.4f}, bytes {found['bytes']:.3f} {'ok' if good else 'MISSED'}"
        )
    return missed


def main() -> int:
    """Measure, print, and keep the figures as JSON where asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rough", action="store_true", help="a few rounds only")
    parser.add_argument("--sizes", default=",".join(SIZES), help="which sizes")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    rounds = 9 if options.rough else 51
    with tempfile.TemporaryDirectory() as folder:
        files = {name: files_of(name, Path(folder)) for name in options.sizes.split(",")}
        sizes = {name: measure(name, paths, rounds) for name, paths in files.items()}
        judged = demo(Path(folder))
    setting = {
        "target": detect_target(),
        "machine": platform.machine(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "rounds": rounds,
        "threads": 1,
    }
    print(setting)
    missed = report(sizes, judged)
    if options.json:
        document = {"setting": setting, "sizes": sizes, "demo": judged}
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(missed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
