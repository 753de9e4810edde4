"""Build the C library for WebAssembly: python native/build_wasm.py OUT.wasm. Needs
ziglang from PyPI.
"""

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = (
    "program",
    "stream",
    "state",
    "memory",
    "workspace",
    "error",
    "pool",
    "isa",
    "kernels",
)
FLAGS = (
    "-target", "wasm32-wasi", "-mexec-model=reactor", "-msimd128", "-O3", "-ffp-contract=off",
    "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-Wconversion", "-Wno-psabi", "-DNDEBUG",
    "-D_GNU_SOURCE",
    "-DLE_ISA=wasm", '-DLE_NAME="wasm"', "-DLE_LANES=4", "-DLE_ROWS=3", "-Wl,--strip-all",
)  # fmt: skip


def main(out: Path) -> None:
    """Compile every function of the header into ``out``."""
    header = (HERE / "include" / "lstm_edge.h").read_text(encoding="utf-8")
    functions = re.findall(r"^LSTM_EDGE_API .*?(lstm_edge_\w+)\(", header, re.MULTILINE)
    wanted = set(functions) - {
        "lstm_edge_open",
        "lstm_edge_run",
        "lstm_edge_set_threads",
    }
    exports = [f"-Wl,--export={name}" for name in ("malloc", "free", *sorted(wanted))]
    sources = [str(HERE / "src" / f"{name}.c") for name in SOURCES]
    command = [
        sys.executable,
        "-m",
        "ziglang",
        "cc",
        *FLAGS,
        f"-I{HERE / 'include'}",
        *sources,
        *exports,
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    sys.exit(subprocess.run([*command, "-o", str(out)], check=False).returncode)  # noqa: S603


if __name__ == "__main__":
    main(Path(sys.argv[1]))
