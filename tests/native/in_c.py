"""A program as generated C, compiled and run."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge_exporters.targets.c import _generate
from lstm_edge_exporters.targets.c._interface import Interface, StateArray, StepArray
from lstm_edge_exporters.targets.native.compiler import Compiled, StatePart
from lstm_edge_exporters.targets.native.program import ProgramWriter
from lstm_edge_runtime.manifest import Manifest, StateSpec

Array = Any
KERNELS = Path(_generate.__file__).parent / "templates"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")
HARNESS = """
#include <stdio.h>
#include "kernels.h"
typedef struct {{ {states} }} net_state;
typedef struct {{ float memory[{memory}]; int16_t quantized[{quantized} + 1]; }} net_work;
{constants}
static int net_step_with(net_state *state, net_work *work, {parameters})
{{
    (void)state;
{body}
    return 0;
}}
int main(void)
{{
    static net_state state;
    static net_work work;
    static {buffers};
    while (fread(x, sizeof x, 1, stdin) == 1) {{
        if (net_step_with(&state, &work, {symbols}) != 0) return 1;
        {writes}
    }}
    return 0;
}}
"""


def c_of(writer: ProgramWriter) -> str:
    """Return a C program of ``writer``'s one input, which reads samples and writes all outputs and states."""
    (port,) = writer.ports("inputs")
    x = StepArray("x", "x", writer.dtype(port.buffer), (1, writer.width(port.buffer)), None)
    ports = writer.ports("outputs")
    outputs = [
        StepArray(f"y{i}", f"y{i}", "float32", (1, writer.width(port.buffer)), None)
        for i, port in enumerate(ports)
    ]
    states, parts = [], []
    for i, port in enumerate(writer.ports("states")):
        shape = (1, writer.width(port.buffer))
        states.append(StateArray(f"s{i}", f"s{i}", "float32", shape, None, f"n{i}", np.zeros(shape, "f4")))
        parts.append(StatePart(StateSpec(f"s{i}", f"n{i}", "float32", shape), None))
    interface = Interface("net", 1, (x,), tuple(outputs), tuple(states), None, Manifest((), ()))
    step = _generate.write_step(Compiled(writer, tuple(parts)), interface)
    arrays = [f"{each.c_type} {each.symbol}[{each.size}]" for each in (x, *outputs)]
    written = [*(y.symbol for y in outputs), *(f"state.{state.symbol}" for state in states)]
    return HARNESS.format(
        states=" ".join(f"float {state.symbol}[{state.size}];" for state in states) or "int none;",
        memory=step.memory,
        quantized=step.quantized,
        constants=step.constants,
        body=step.body,
        parameters=", ".join([f"const {arrays[0]}", *arrays[1:]]),
        buffers="; static ".join(arrays),
        symbols=", ".join(["x", *(y.symbol for y in outputs)]),
        writes=" ".join(f"fwrite({name}, sizeof {name}, 1, stdout);" for name in written),
    )


def run_in_c(
    writer: ProgramWriter, x: Array, folder: Path, compiler: Sequence[str], emulator: Sequence[str] = ()
) -> Array:
    """Return all outputs and states after each of the samples ``x (L, width)``, side by side."""
    (folder / "net.c").write_text(c_of(writer))
    program = folder / "net"
    command = [*compiler, *WARNINGS, f"-I{KERNELS}", folder / "net.c", "-o", program, "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    ran = subprocess.run([*emulator, program], input=x.tobytes(), capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return np.frombuffer(ran.stdout, np.float32).reshape(len(x), -1).copy()
