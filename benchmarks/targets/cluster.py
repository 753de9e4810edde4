"""Samples a second of ``lstm-edge score``: one process, Ray with one core and with two; cost as data grow.

    python -m benchmarks.targets.cluster [MODEL.onnx] [--millions 1 10]

Each row is a fresh process on a data set of random samples of many devices, split over files by time. Memory
is the largest resident set of any of the run's processes that score (those of Ray's own services are left
out). Needs pyarrow and duckdb, and ray for its rows. 100 million samples of six features take 4 GB of disk,
and as much again while they are scored.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from benchmarks.common import ROOT, parser, print_machine, table
from lstm_edge_runtime import load

DEVICES = 2_000
FILE_ROWS = 1_000_000
WAYS = {
    "one process": ("0", ["--workers", "1"]),
    "Ray, one core": ("0", ["--workers", "1"]),
    "Ray, two cores": ("0,1", ["--workers", "2"]),
}
"""The cores each way is pinned to, and its options."""
_PROGRAM = """
import sys
from pathlib import Path
from lstm_edge.score import engines, pipeline
if sys.argv[1].startswith("Ray"):
    pipeline.open_engine = engines.open_ray
from lstm_edge.cli import cli
cli.main(sys.argv[2:])
"""


def make_data(folder: Path, names: tuple[str, ...], samples: int) -> None:
    """Write samples of all devices in the order of time, a million a file."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    devices = pa.array([f"device-{number:05d}" for number in range(DEVICES)])
    for begin in range(0, samples, FILE_ROWS):
        place = np.arange(begin, min(begin + FILE_ROWS, samples))
        columns = {"series": devices.take(pa.array(place % DEVICES)), "order": place // DEVICES}
        x = rng.standard_normal((len(names), len(place)), dtype=np.float32)
        columns |= dict(zip(names, x, strict=True))
        parquet.write_table(pa.table(columns), folder / f"{begin // FILE_ROWS:05d}.parquet")


def _scoring(root: int) -> list[int]:
    """Return the processes of a run that score: itself, and Ray's workers."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        if stat := _text(int(path.name), "stat"):
            parents[int(path.name)] = int(stat.rpartition(")")[2].split()[1])
    family = {root}
    while more := {pid for pid, parent in parents.items() if parent in family} - family:
        family |= more
    return [pid for pid in family if pid == root or _text(pid, "cmdline").startswith("ray::")]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def measure(way: str, data: Path, model: Path, output: Path) -> tuple[dict[str, object], int]:
    """Return what a run reported, and the largest memory of its processes in MB."""
    cores, options = WAYS[way]
    line = ["score", str(data), "-m", str(model), "-o", str(output), "--json", *options]
    process = subprocess.Popen(
        ["taskset", "-c", cores, sys.executable, "-c", _PROGRAM, way, *line],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    peak = 0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            for pid in _scoring(process.pid):
                found = re.search(r"VmHWM:\s+(\d+)", _text(pid, "status"))
                peak = max(peak, int(found[1]) // 1024 if found else 0)
            time.sleep(0.5)

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert process.stdout is not None
    report = json.loads(process.stdout.read())
    process.wait()
    watcher.join()
    shutil.rmtree(output)
    return report, peak


def main() -> None:
    """Print the tables of docs/cluster.md."""
    arguments = parser(__doc__)
    arguments.add_argument("model", nargs="?", type=Path, default=ROOT / "tests/runtime/data/lstm.onnx")
    arguments.add_argument(
        "--millions", type=float, nargs="*", default=[1, 10], help="samples in one process"
    )
    arguments.add_argument("--ray", type=float, default=10, help="millions of samples for Ray; 0: without it")
    arguments.add_argument("--folder", type=Path, help="where the data sets are made")
    options = arguments.parse_args()
    opened = load(options.model, device="cpu", threads=1)
    names = opened.interface.signal.features or tuple(f"x{k}" for k in range(opened.inputs[0].axes[-1]))
    jobs = [("one process", size) for size in options.millions]
    jobs += [(way, options.ray) for way in list(WAYS)[1:] if options.ray]
    rows = []
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for size in sorted({size for _, size in jobs}):
            make_data(folder / "data", names, int(size * 1_000_000))
            for way, _ in (job for job in jobs if job[1] == size):
                report, peak = measure(way, folder / "data", options.model, folder / "out")
                stages = ", ".join(f"{stage['seconds']:.1f}" for stage in report["stages"])
                seconds, rate = report["seconds"], report["rows_per_second"]
                rows.append([way, f"{size:g}", f"{seconds:.1f}", f"{rate:,.0f}", stages, peak])
            shutil.rmtree(folder / "data")
    head = "mode, million samples, seconds, samples/s, read and score and write s, MB of memory"
    print(table(head.split(", "), rows))
    print(f"\n{options.model.name}, {len(names)} features, {DEVICES:,} devices, engine {opened.engine}")
    print_machine("pyarrow", "duckdb", "onnxruntime", *(["ray"] if options.ray else []))


if __name__ == "__main__":
    main()
