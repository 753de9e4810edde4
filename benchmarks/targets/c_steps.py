"""Cost of the demo's network in C on a Cortex-M: flash, RAM and instructions per step.

The figures come from QEMU, which counts instructions (one a nanosecond); they are the
same on every machine.

    python -m benchmarks.targets.c_steps

Needs ``lstm-edge[cpu,export]``, gcc, make, arm-none-eabi-gcc with newlib, and
qemu-system-arm.
"""

import re
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, parser, print_machine, run, table
from lstm_edge_exporters.targets.c import to_c

EXAMPLE = ROOT / "examples" / "cortex_m"
BOARDS = {
    "m0": "Cortex-M0+",
    "m3": "Cortex-M3, no FPU",
    "m4f": "Cortex-M4F",
    "m7": "Cortex-M7",
    "m33": "Cortex-M33",
    "m55": "Cortex-M55",
}


def on_board(board: str, network: Path, out: Path) -> tuple[int, int, int]:
    """Return instructions a step, bytes of flash and bytes of RAM."""
    output = run(
        "make",
        "-s",
        "-C",
        EXAMPLE,
        "run",
        f"BOARD={board}",
        f"HAR={network}",
        f"OUT={out}",
    )
    steps, million, flash, ram = (
        int(re.search(rf"{words}:? (\d+)", output)[1])  # type: ignore[index]
        for words in ("100 steps", "1000000 instructions", "flash", "RAM")
    )
    return round(steps * 10_000 / million), flash, ram


def main() -> None:
    """Print two tables in Markdown."""
    parser(__doc__).parse_args()
    print_machine("onnxruntime")
    for program in ("arm-none-eabi-gcc", "qemu-system-arm", "gcc"):
        print(run(program, "--version").splitlines()[0])
    print()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lstm_edge = Path(sys.executable).with_name("lstm-edge")
        run(lstm_edge, "demo", "-o", root)
        files = {"fp32": root / "basic_motions.onnx", "int8": root / "int8.onnx"}
        run(lstm_edge, "quantize", files["fp32"], "-o", files["int8"])
        made = {kind: to_c(path, name="har") for kind, path in files.items()}
        networks = {
            kind: library.save(root / f"{kind}_c") for kind, library in made.items()
        }
        rows = []
        for board, name in BOARDS.items():
            for kind, network in networks.items():
                counts = on_board(board, network, root / f"{board}-{kind}")
                rows.append([name, kind, *(f"{count:,}" for count in counts)])
        print(
            table(
                [
                    "processor",
                    "",
                    "instructions per step",
                    "flash, bytes",
                    "RAM, bytes",
                ],
                rows,
            )
        )


if __name__ == "__main__":
    main()
