"""What the demo's network costs in C: flash, RAM and instructions a step on a Cortex-M, and time a step here.

The Cortex-M figures come from QEMU, which counts instructions (one a nanosecond); they are the same on every
machine. The times here are the best of rounds alternately, C beside onnxruntime from Python.

    taskset -c 1 python -m benchmarks.targets.c_steps

Needs ``lstm-edge[cpu,export]``, gcc, make, arm-none-eabi-gcc with newlib, and qemu-system-arm.
"""

import ctypes
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, interleave, parser, print_machine, repeat, run, table
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_runtime import Stream, load

EXAMPLE = ROOT / "examples" / "cortex_m"
BOARDS = {
    "m0": "Cortex-M0+",
    "m3": "Cortex-M3, no FPU",
    "m4f": "Cortex-M4F",
    "m7": "Cortex-M7",
    "m33": "Cortex-M33",
    "m55": "Cortex-M55",
}
ROUNDS, STEPS = 200, 200
STEPPER = """
#include "har.h"
static har_state state;
void begin(void) { har_reset(&state); }
void steps(int count)
{
    float x[HAR_INPUTS] = {0}, y[HAR_OUTPUTS];
    for (int i = 0; i < count; ++i) har_step(&state, x, y);
}
"""


def on_board(board: str, network: Path, out: Path) -> tuple[int, int, int]:
    """Return instructions a step, bytes of flash and bytes of RAM."""
    said = run("make", "-s", "-C", EXAMPLE, "run", f"BOARD={board}", f"HAR={network}", f"OUT={out}")
    steps, million, flash, ram = (
        int(re.search(rf"{words}:? (\d+)", said)[1])  # type: ignore[index]
        for words in ("100 steps", "1000000 instructions", "flash", "RAM")
    )
    return round(steps * 10_000 / million), flash, ram


def times_here(network: Path, stream: Stream, out: Path) -> tuple[float, float]:
    """Return the least microseconds of a step in C and from Python."""
    source, library = out / "steps.c", out / f"{network.name}.so"
    source.write_text(STEPPER)
    files = sorted((network / "src").glob("*.c"))
    run("gcc", "-O2", "-shared", "-fPIC", f"-I{network / 'src'}", *files, source, "-lm", "-o", library)
    opened = ctypes.CDLL(str(library))
    opened.begin()
    calls = {"c": opened.steps, "python": repeat(stream.step, np.zeros(6, np.float32))}
    times = interleave(calls, STEPS, ROUNDS, time.perf_counter)
    return min(times["c"]) * 1e6, min(times["python"]) * 1e6


def main() -> None:
    """Print two tables in Markdown."""
    parser(__doc__).parse_args()
    print_machine("onnxruntime")
    for program in ("arm-none-eabi-gcc", "qemu-system-arm", "gcc"):
        print(run(program, "--version").splitlines()[0])
    print()
    with tempfile.TemporaryDirectory() as folder:
        root, lstm_edge = Path(folder), Path(sys.executable).with_name("lstm-edge")
        run(lstm_edge, "demo", "-o", root)
        files = {"fp32": root / "basic_motions.onnx", "int8": root / "int8.onnx"}
        run(lstm_edge, "quantize", files["fp32"], "-o", files["int8"])
        made = {kind: to_c(path, name="har") for kind, path in files.items()}
        networks = {kind: library.save(root / f"{kind}_c") for kind, library in made.items()}
        rows = []
        for board, name in BOARDS.items():
            for kind, network in networks.items():
                counts = on_board(board, network, root / f"{board}-{kind}")
                rows.append([name, kind, *(f"{count:,}" for count in counts)])
        print(
            table(["processor", "", "instructions per step", "flash, bytes", "RAM, bytes"], rows), end="\n\n"
        )
        rows = []
        for kind, network in networks.items():
            with load(files[kind]) as model:
                in_c, in_python = times_here(network, model.stream(), root)
            rows.append([kind, f"{in_c:.1f} us", f"{in_python:.1f} us", f"{made[kind].difference:.2g}"])
        print("\n" + table(["", "C", "onnxruntime, from Python", "largest difference"], rows))


if __name__ == "__main__":
    main()
