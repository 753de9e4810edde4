"""Time a step of the C library in WebAssembly, in Node and Chromium, next to
onnxruntime-web.

make wasm && (cd web && npm ci) && python -m benchmarks.targets.wasm
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, SIZES, parser, print_machine, run, table
from benchmarks.speed.stream import ONNXRUNTIME, write_files
from lstm_edge_exporters.quantize import Budget, QuantizeConfig, Samples, quantize
from lstm_edge_exporters.targets.native import to_native


def write(folder: Path, size: str) -> None:
    """Write a size's ONNX file and its programs in float32 and int8."""
    path = write_files(size, folder)[ONNXRUNTIME]
    loose = QuantizeConfig("int8", budget=Budget(agreement=0, drift=9, change=9))
    x = np.random.default_rng(0).normal(size=(4, 16, SIZES[size][0])).astype(np.float32)
    quantize(path, loose, Samples({"x": x})).save(folder / f"{size}-int8.onnx")
    (folder / f"{size}-int8.lep").write_bytes(to_native(folder / f"{size}-int8.onnx"))


def main() -> None:
    """Print a table in Markdown."""
    parser(__doc__).parse_args()
    print_machine("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            write(Path(folder), size)
        times: dict[str, list[list[float]]] = {}
        for line in run(
            "node", ROOT / "benchmarks/targets/wasm.mjs", f"{folder}/", *SIZES
        ).splitlines():
            times |= json.loads(line)
    rows = [
        [
            runtime,
            name,
            *(f"{value:.3g}" for value in (ort, fp32, int8)),
            f"{fp32 / ort:.2f}",
            f"{int8 / fp32:.2f}",
        ]
        for runtime, sizes in times.items()
        for name, ort, fp32, int8 in sizes
    ]
    head = [
        "",
        "",
        "onnxruntime-web",
        "float32",
        "int8",
        "float32 / onnxruntime-web",
        "int8 / float32",
    ]
    print(table(head, rows))


if __name__ == "__main__":
    main()
