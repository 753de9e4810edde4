"""Instructions of steps, ticks and chunks on aarch64, with each instruction set.

    python -m benchmarks.speed.aarch64

QEMU runs one instruction at a time and logs each; the figures are the same on every
machine. A count says little about time where instructions take unequal numbers of
cycles. Needs CMake, aarch64-linux-gnu-gcc and qemu-aarch64.
"""

import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, parser, print_machine, run, table
from benchmarks.speed.sparse import program_of

ISAS = ("neon", "neon-dotprod", "neon-i8mm")
CALLS = {"step": (1, 1), "tick of 2": (2, 1), "tick of 16": (16, 1)}
CALLS |= {"tick of 48": (48, 1), "chunk of 48": (1, 48)}
"""Rows and steps of each call."""


def build(folder: Path) -> Path:
    """Cross-compile the library and the driver; return the driver."""
    native = ROOT / "native"
    run(
        *("cmake", "-S", native, "-B", folder, "-DCMAKE_SYSTEM_NAME=Linux"),
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        "-DCMAKE_C_COMPILER=aarch64-linux-gnu-gcc",
    )
    run("cmake", "--build", folder, "--parallel", "2")
    driver = folder / "driver"
    source = Path(__file__).with_suffix(".c")
    library = folder / "liblstm_edge.so"
    include = native / "include"
    run("aarch64-linux-gnu-gcc", "-O1", f"-I{include}", source, library, "-o", driver)
    return driver


def instructions(driver: Path, isa: str, program: Path, rows: int, steps: int) -> int:
    """Return the instructions of a call: those of two calls less those of one."""
    counts = []
    for calls in (1, 2):
        command = [
            *("qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"),
            *("-E", f"LD_LIBRARY_PATH={driver.parent},LSTM_EDGE_ISA={isa}"),
            *("-one-insn-per-tb", "-d", "exec,nochain", "-D", "/dev/stdout"),
            *(driver, program, str(calls), str(rows), str(steps)),
        ]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            counts.append(sum(line.startswith(b"Trace") for line in process.stdout))  # type: ignore[union-attr]
        if process.returncode != 0:
            raise subprocess.CalledProcessError(process.returncode, command)
    return counts[1] - counts[0]


def main() -> None:
    """Print a table of counts."""
    parser(__doc__).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        driver = build(Path(folder) / "build")
        for int8, density in ((False, 1.0), (False, 0.2), (True, 1.0), (True, 0.2)):
            program = Path(folder) / "program.lep"
            program.write_bytes(program_of("M", density, int8=int8))
            for isa in ISAS if int8 else ISAS[:1]:
                counts = [
                    instructions(driver, isa, program, *call) for call in CALLS.values()
                ]
                kind = "int8" if int8 else "float32"
                blocks = "" if density == 1 else ", density 0.2"
                rows.append([f"{kind}{blocks}", isa, *(f"{n:,}" for n in counts)])
    print(table(["instructions", "", *CALLS], rows))
    print_machine("lstm-edge-native")


if __name__ == "__main__":
    main()
