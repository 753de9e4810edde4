"""Time a file in Chromium, in Node and in Python, alternately on one machine: load, first step, steps.

    (cd web && npm ci) && python -m benchmarks.targets.browser

Prints the table of docs/web.md. A round visits every place once, so that what disturbs the machine disturbs
all; a cell is the median over the rounds, but p99 that of the quietest round. Each load is in a fresh process
or browser profile and includes the start of onnxruntime.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.speed.models import write_model
from benchmarks.speed.sizes import SIZES
from lstm_edge_runtime import load
from lstm_edge_runtime.manifest import KEY, Manifest

PLACES = {
    "one": "Chromium, one thread",
    "two": "Chromium, two threads",
    "node": "Node",
    "python": "Python",
}
Times = dict[str, Any]


def write(folder: Path, size: str) -> None:
    """Write a size's file, with the manifest that the browser's runtime reads."""
    path = write_model(folder, size)
    with load(path) as model:
        manifest = Manifest(inputs=model.inputs, outputs=model.outputs, states=model.states)
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {KEY: manifest.to_json()})
    onnx.save(proto, path)


def measure_python(path: Path, width: int, steps: int) -> Times:
    """Do what measure() of browser.mjs does; times in milliseconds."""
    started = time.perf_counter()

    def lap() -> float:
        nonlocal started
        now = time.perf_counter()
        took, started = (now - started) * 1e3, now
        return took

    model = load(path, device="cpu", threads=1)
    stream, loaded = model.stream(), lap()
    sample = np.full(width, 0.1, dtype=np.float32)
    lap()
    stream.step(sample)
    first = lap()
    for _ in range(steps // 4):
        stream.step(sample)
    times = []
    for _ in range(steps):
        lap()
        stream.step(sample)
        times.append(lap())
    return {"loaded": loaded, "first": first, "times": times}


def ask(place: str, folder: Path, steps: int) -> Times:
    """Measure every size in a place; a process a size, but for Chromium, which has a profile a size."""
    here = Path(__file__)
    words = [f"{size}={SIZES[size][0]}" for size in SIZES]
    program = [sys.executable, str(here)] if place == "python" else ["node", str(here.with_suffix(".mjs"))]
    found: Times = {}
    for part in [words] if place in ("one", "two") else [[word] for word in words]:
        command = [*program, place, str(folder), str(steps), *part]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise SystemExit(ran.stderr)
        found.update(json.loads(ran.stdout))
    return found


def table(rounds: list[dict[str, Times]]) -> str:
    """Return the medians as a Markdown table."""
    lines = [
        "| | place | load, ms | first step, ms | step, µs: median | p99 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for size in SIZES:
        for place, name in PLACES.items():
            runs = [each[place][size] for each in rounds]

            def middle(values: Any) -> float:
                return statistics.median(values)

            cells = [
                f"{middle(run['loaded'] for run in runs):.0f}",
                f"{middle(run['first'] for run in runs):.1f}",
                f"{middle(middle(run['times']) for run in runs) * 1e3:.0f}",
                f"{min(np.percentile(run['times'], 99) for run in runs) * 1e3:.0f}",
            ]
            lines.append(f"| {size} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for size in SIZES:
            write(Path(name), size)
        rounds = [
            {place: ask(place, Path(name), options.steps) for place in PLACES} for _ in range(options.rounds)
        ]
    print(table(rounds))
    one = rounds[0]
    web = json.loads((Path(__file__).parents[2] / "web" / "package.json").read_text())["devDependencies"]
    print(
        f"\nChromium {one['one']['chromium']}, Node {one['node']['node']}, "
        f"onnxruntime-web {web['onnxruntime-web']}, "
        f"onnxruntime-node {web['onnxruntime-node']}, Python {platform.python_version()} with "
        f"onnxruntime {one['python']['onnxruntime']}, {platform.machine()}"
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["python"]:
        _, _, folder, count, word = sys.argv
        size, features = word.split("=")
        timed = measure_python(Path(folder) / f"{size}.onnx", int(features), int(count))
        import onnxruntime

        print(json.dumps({size: timed, "onnxruntime": onnxruntime.__version__}))
    else:
        main()
