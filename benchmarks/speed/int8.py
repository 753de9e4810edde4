"""What int8 weights, and int8 activations, change for a step of an LSTM or GRU on the native engine, from C.

    taskset -c 1 python -m benchmarks.speed.int8 [--repeats N] [--sizes M L]

The layers of each size have random weights. Every form is timed alternately with float32: int8 weights and
quantized activations (``int8``; ``7 bits``, which AVX2 multiplies faster), and int8 weights alone
(``weights``). Then the same with AVX2.
"""

import ctypes
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.common import SIZES, Call, interleave, parser, print_machine, table
from benchmarks.speed.step import COUNTS, build_tools
from benchmarks.speed.stream import open_avx2
from lstm_edge_runtime.native.library import library
from lstm_edge_runtime.native.program import Code, Function, ProgramWriter

LAYERS = {
    "LSTM": (4, 2, (Function.SIGMOID, Function.TANH, Function.TANH)),
    "GRU": (3, 1, (Function.SIGMOID, Function.TANH)),
}
"""Of each kind its gates, states and functions."""
FORMS = {"float32": 127, "int8": 127, "7 bits": 64, "weights": 127}
"""The largest weight of each form."""


def make_program(kind: str, size: str, form: str) -> bytes:
    """Return a program of the layers alone; the output is the last one's."""
    features, hidden, layers = SIZES[size]
    gates, states, functions = LAYERS[kind]
    rng, writer, bound = np.random.default_rng(0), ProgramWriter(), hidden**-0.5
    value, width = writer.input("x", features), features
    quantized = form in ("int8", "7 bits")
    for layer in range(layers):
        weights, scales = [], []
        for each in (width, hidden):
            array = rng.uniform(-bound, bound, (gates * hidden, each)).astype("float32")
            scale = np.abs(array).max(1) / np.float32(FORMS[form])
            scales.append(scale * np.float32(bound))
            whole = np.rint(array / scale[:, None]).astype("float32")
            exact = whole * scale[:, None]
            # float32 has a last bit that no int8 and scale give
            floats = np.nextafter(exact, np.float32(1)) if form == "float32" else exact
            weights.append(whole if quantized else floats)
        old = [writer.state(f"s{layer}{place}", hidden) for place in range(states)]
        new = writer.recurrent(
            Code[kind],
            value,
            old,
            weights,
            np.zeros(gates * hidden * (2 if kind == "GRU" else 1), "float32"),
            scales=scales if quantized else None,
            flags=2 if kind == "GRU" else 0,
            functions=[(each, 0.0, 0.0) for each in functions],
        )
        for before, after in zip(old, new, strict=True):
            writer.next_state(before, after)
        value, width = new[0], hidden
    writer.output("y", value, every_step=True)
    return writer.to_bytes()


def steps(tools: ctypes.CDLL, opened: ctypes.CDLL, program: bytes) -> Call:
    """Return steps in a loop of C on a stream of the program."""
    loaded = opened.lstm_edge_load(program, len(program))
    if not loaded:
        raise SystemExit(opened.lstm_edge_last_error().decode())
    stream = opened.lstm_edge_stream_new(loaded)
    return partial(tools.take_steps, ctypes.cast(opened.lstm_edge_step, ctypes.c_void_p), stream)


def print_forms(tools: ctypes.CDLL, opened: ctypes.CDLL, sizes: Sequence[str], repeats: int) -> None:
    """Print a step of each form as a fraction of float32's, and the programs' bytes."""
    cells: dict[tuple[str, str], list[str]] = {}
    for kind in LAYERS:
        for size in sizes:
            programs = {form: make_program(kind, size, form) for form in FORMS}
            calls = {form: steps(tools, opened, program) for form, program in programs.items()}
            times = interleave(calls, COUNTS[size], repeats)
            for form in FORMS:
                cell = f"{times.ratio(form, 'float32'):.2f} ({len(programs[form]) // 1000:,} kB)"
                cells.setdefault((kind, form), []).append(cell)
    print(f"\n{opened.lstm_edge_isa().decode()}\n")
    print(table(["", *sizes], ([f"{kind}, {form}", *row] for (kind, form), row in cells.items())))


def main() -> None:
    """Print a table for the best instruction set of this machine, and one for AVX2."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=41)
    arguments.add_argument("--sizes", nargs="+", default=["M", "L", "XL"], choices=list(SIZES))
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tools = build_tools(Path(name))
        for opened in filter(None, (library(), open_avx2())):
            print_forms(tools, opened, options.sizes, options.repeats)
    print_machine("lstm-edge", "numpy")


if __name__ == "__main__":
    main()
