"""A program as a table of operations in C, compiled and run."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge_exporters.targets.c.table import Table
from lstm_edge_exporters.targets.native.program import ProgramWriter

Array = Any
CORE = Path(__file__).parents[2] / "native" / "core"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
HARNESS = """
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include "lstm_edge_core.h"
%(definitions)s%(lines)s
int main(void) {
    static float memory[%(memory)d], state[%(states)d];
    static int16_t quantized[%(quantized)d];
    static %(type)s x[%(inputs)d];
    static float %(outputs)s;
    const lc_base base[] = {%(pools)s, {.to = memory}, {.to = quantized}, {.to = state}, {.from = x},
                            %(bases)s};
    while (fread(x, sizeof x, 1, stdin) == 1) {
        if (lc_run(operations, %(count)d, base) != 0) return 1;
        %(writes)s
        fwrite(state, sizeof *state, %(written)d, stdout);
    }
    return 0;
}
"""


def c_of(writer: ProgramWriter) -> str:
    """Return a C program of ``writer``'s one input, which reads samples and writes all
    outputs and states."""
    table, (port,) = Table(writer), writer.ports("inputs")
    widths = [writer.width(port.buffer) for port in writer.ports("outputs")]
    return HARNESS % {
        "definitions": "".join(array.definition() for array in table.arrays),
        "pools": ", ".join(
            f"{{.from = {pool.symbol if pool.size else 'NULL'}}}"
            for pool in table.pools
        ),
        "lines": "\n".join(table.lines),
        "memory": table.memory,
        "states": max(1, table.states),
        "written": table.states,
        "quantized": max(1, table.quantized),
        "type": "float" if writer.dtype(port.buffer) == "float32" else "int32_t",
        "inputs": writer.width(port.buffer),
        "outputs": ", ".join(f"y{i}[{width}]" for i, width in enumerate(widths)),
        "bases": ", ".join(f"{{.to = y{i}}}" for i in range(len(widths))),
        "writes": " ".join(
            f"fwrite(y{i}, sizeof y{i}, 1, stdout);" for i in range(len(widths))
        ),
        "count": table.count,
    }


def run_in_c(
    writer: ProgramWriter,
    x: Array,
    folder: Path,
    compiler: Sequence[str],
    emulator: Sequence[str] = (),
) -> Array:
    """Return all outputs and states after each of the samples ``x (L, width)``, side by
    side."""
    (folder / "net.c").write_text(c_of(writer))
    program = folder / "net"
    sources = [folder / "net.c", CORE / "lstm_edge_core.c"]
    command = [*compiler, *WARNINGS, f"-I{CORE}", *sources, "-o", program, "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ran = subprocess.run(
        [*emulator, program], input=x.tobytes(), capture_output=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return np.frombuffer(ran.stdout, np.float32).reshape(len(x), -1).copy()
