"""Rows per second and peak memory of ``lstm-edge score``, next to a loop over ``streams``.

    python -m benchmarks.speed.score_rows [ROWS] [SOURCES] [MASTER]

Writes ROWS rows (20 million) of SOURCES sources (10,000) with 6 features in files of a
million rows, in order of time, and scores them with an LSTM of 32 units: in one process
with DuckDB, on Spark with MASTER (``local[2]``; ``-`` to leave it out), and by a loop over
``model.streams``, which holds all rows in memory and calls the model once per time.
Memory is the sum of all processes' resident sets at their peak.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet
from torch import nn

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.native import to_native

ROWS, SOURCES = (int(text) for text in [*sys.argv[1:3], *("20000000", "10000")][:2])
MASTER = sys.argv[3] if len(sys.argv) > 3 else "local[2]"
FEATURES = [f"x{axis}" for axis in range(6)]
FILE = 1_000_000
LOOP = """
import sys, time
import numpy as np
from pyarrow import dataset
from lstm_edge_runtime import load
begun = time.monotonic()
table = dataset.dataset(sys.argv[1]).to_table()
x = np.stack([table[f"x{axis}"].to_numpy() for axis in range(6)], axis=1)
sources = table["series"].to_numpy()
order = np.lexsort((sources, table["order"].to_numpy()))
model = load(sys.argv[2])
count = int(sources.max()) + 1
batch = model.streams(count)
ids = np.array([batch.add() for _ in range(count)])
x = x[order].reshape(-1, count, 6)
y = np.stack([batch.step(rows, ids) for rows in x])
print("seconds", time.monotonic() - begun)
"""


class Net(nn.Module):
    """An LSTM and the logits of its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 32, batch_first=True)
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits after the last step."""
        return self.head(self.lstm(x)[0][:, -1])


def write_data(folder: Path) -> None:
    """Write the rows, all sources at one time after the other."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for start in range(0, ROWS, FILE):
        rows = np.arange(start, min(start + FILE, ROWS))
        columns = {"series": rows % SOURCES, "order": rows // SOURCES}
        for name in FEATURES:
            columns[name] = rng.normal(size=len(rows)).astype(np.float32)
        parquet.write_table(pa.table(columns), folder / f"{start:012d}.parquet")


def resident(group: int) -> int:
    """Return the bytes in memory of all processes of a group."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            total += int(fields[21]) * 4096
    return total


def measure(name: str, command: list[object]) -> None:
    """Run a command, and print rows per second and peak memory."""
    begun = time.monotonic()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            list(map(str, command)),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, resident(process.pid))
            time.sleep(0.2)
        if process.returncode:
            errors.seek(0)
            sys.exit(errors.read()[-2000:].decode())
    seconds = time.monotonic() - begun
    print(
        f"{name:24} {ROWS / seconds:12,.0f} rows/s {peak / 2**20:8,.0f} MiB", flush=True
    )


def main() -> None:
    """Measure every way with both forms of the model."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        write_data(work / "data")
        path = work / "m.onnx"
        config = ExportConfig(inputs={"x": ("N", "L", 6)})
        export(Net().eval(), torch.randn(2, 9, 6), config).save(path)
        (work / "m.lep").write_bytes(to_native(path))
        for model in (work / "m.onnx", work / "m.lep"):
            suffix = model.suffix
            loop = [sys.executable, "-c", LOOP, work / "data", model]
            measure(f"loop over streams {suffix}", loop)
            score = [
                Path(sys.executable).with_name("lstm-edge"),
                "score",
                work / "data",
            ]
            score += ["-m", model, "--features", ",".join(FEATURES)]
            measure(f"DuckDB {suffix}", [*score, "-o", work / f"duckdb{suffix}"])
            if MASTER != "-":
                spark = ["-o", work / f"spark{suffix}", "--spark", MASTER]
                measure(f"Spark {MASTER} {suffix}", [*score, *spark])


if __name__ == "__main__":
    main()
