"""Time a file in Chromium, in Node and in Python, alternately on one machine: load, first step, steps.

    (cd web && npm ci) && python -m benchmarks.targets.browser

Prints the table of docs/web.md. A round visits every place once, so that what disturbs the machine disturbs
all; a cell is the median over the rounds, but p99 that of the quietest round. Each load is in a fresh process
or browser profile and includes the start of onnxruntime.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.common import ROOT, SIZES, parser, print_machine, run, table
from benchmarks.speed.models import write_model
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
    sample = np.full(width, 0.1, dtype=np.float32)

    def took(call: Callable[..., Any], *arguments: object) -> tuple[float, Any]:
        started = time.perf_counter()
        result = call(*arguments)
        return (time.perf_counter() - started) * 1e3, result

    loaded, stream = took(lambda: load(path, device="cpu", threads=1).stream())
    first, _ = took(stream.step, sample)
    times = [took(stream.step, sample)[0] for _ in range(steps // 4 + steps)]
    return {"loaded": loaded, "first": first, "times": times[steps // 4 :]}


def ask(place: str, folder: Path, steps: int) -> Times:
    """Measure every size in a place; a process a size, but for Chromium, which has a profile a size."""
    words = [f"{size}={SIZES[size][0]}" for size in SIZES]
    program = ["node", str(Path(__file__).with_suffix(".mjs"))]
    if place == "python":
        program = [sys.executable, "-m", "benchmarks.targets.browser"]
    found: Times = {}
    for part in [words] if place in ("one", "two") else [[word] for word in words]:
        found |= json.loads(run(*program, place, folder, steps, *part))
    return found


def rows_of(rounds: list[dict[str, Times]]) -> Iterator[list[str]]:
    """Yield the medians of each size and place."""
    for size in SIZES:
        for place, name in PLACES.items():
            runs = [each[place][size] for each in rounds]
            loaded, first = (statistics.median(run[what] for run in runs) for what in ("loaded", "first"))
            step = statistics.median(statistics.median(run["times"]) for run in runs) * 1e3
            p99 = min(np.percentile(run["times"], 99) for run in runs) * 1e3
            yield [size, name, f"{loaded:.0f}", f"{first:.1f}", f"{step:.0f}", f"{p99:.0f}"]


def main() -> None:
    """Measure and print."""
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--steps", type=int, default=400)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for size in SIZES:
            write(Path(name), size)
        rounds = [
            {place: ask(place, Path(name), options.steps) for place in PLACES} for _ in range(options.rounds)
        ]
    head = ["", "platform", "load, ms", "first step, ms", "step, µs: median", "p99"]
    print(table(head, rows_of(rounds)))
    web = json.loads((ROOT / "web" / "package.json").read_text())["devDependencies"]
    print(f"\nChromium {rounds[0]['one']['chromium']}, Node {rounds[0]['node']['node']}, ", end="")
    print(*(f"{name} {web[name]}" for name in ("onnxruntime-web", "onnxruntime-node")), sep=", ")
    print_machine("onnxruntime")


if __name__ == "__main__":
    if sys.argv[1:2] == ["python"]:
        _, _, folder, count, word = sys.argv
        size, features = word.split("=")
        timed = measure_python(Path(folder) / f"{size}.onnx", int(features), int(count))
        print(json.dumps({size: timed}))
    else:
        main()
