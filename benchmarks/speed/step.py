"""Steps of LSTM and GRU layers with int8 weights, compared with float32; steps in a loop of C.

    taskset -c 1 python -m benchmarks.speed.step [--repeats N] [--sizes M L XL]

``int8`` has int8 weights and quantized activations, ``7 bits`` the same in the range that AVX2 multiplies
faster, ``weights`` int8 weights alone. Run it on a quiet machine, on one core.
"""

import ctypes
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

import lstm_edge_runtime.native.engine as engine_module
from benchmarks.common import SIZES, Call, interleave, parser, print_machine, repeat, run, table
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_exporters.targets.native.program import Code, Function, ProgramWriter
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.native.library import library, open_library

__all__ = [
    "COUNTS",
    "build_tools",
    "load_on",
    "open_avx2",
    "steps_from_c",
    "steps_from_python",
]

COUNTS = {"S": 600, "M": 300, "L": 40, "XL": 12}
"""Steps in a turn, which takes a few ms."""
LAYERS = {
    "LSTM": (4, 2, (Function.SIGMOID, Function.TANH, Function.TANH)),
    "GRU": (3, 1, (Function.SIGMOID, Function.TANH)),
}
"""Gates, states and functions of each kind."""
FORMS = {"float32": 127, "int8": 127, "7 bits": 64, "weights": 127}
"""The largest weight of each form."""
_TAKE_STEPS = """
#include <stddef.h>
void take_steps(int (*step)(void *), void *stream, size_t count) {
    for (size_t i = 0; i < count; i++) step(stream);
}
"""


def build_tools(folder: Path) -> ctypes.CDLL:
    """Build and open ``take_steps(step, stream, count)``, which calls ``step`` as a program in C does."""
    source, target = folder / "take_steps.c", folder / "take_steps.so"
    source.write_text(_TAKE_STEPS, encoding="utf-8")
    run("cc", "-O3", "-shared", "-fPIC", source, "-o", target)
    opened = ctypes.CDLL(str(target))
    opened.take_steps.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    return opened


def steps_from_python(model: Model, sample: np.ndarray) -> Call:
    """Return calls of ``Stream.step`` on a stream of the model."""
    return repeat(model.stream().step, sample)


def steps_from_c(
    tools: ctypes.CDLL, model: Model, sample: np.ndarray, opened: ctypes.CDLL | None = None
) -> Call:
    """Return steps in a loop of C on a stream of the model; ``opened`` is the library it is loaded on."""
    stream = model.stream()
    stream.step(sample)
    handle = stream._sets.handle
    function = ctypes.cast((opened or library()).lstm_edge_step, ctypes.c_void_p)
    return lambda count: (tools.take_steps(function, handle.address, count), stream)


def open_avx2() -> ctypes.CDLL | None:
    """Open a copy of the library that is forced to AVX2; None if the machine has none."""
    from lstm_edge_native import LIBRARY

    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copy(LIBRARY, Path(folder) / "avx2.so")
        os.environ["LSTM_EDGE_ISA"] = "avx2"
        forced = open_library(copy)
        found = forced.lstm_edge_isa()
        del os.environ["LSTM_EDGE_ISA"]
    return None if found is None else forced


def load_on(opened: ctypes.CDLL, path: Path) -> Model:
    """Load a file on a library of its own."""
    engine_module.library = lambda: opened
    try:
        return load(to_native(path))
    finally:
        engine_module.library = library


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


def steps_of_program(tools: ctypes.CDLL, opened: ctypes.CDLL, program: bytes) -> Call:
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
            calls = {form: steps_of_program(tools, opened, program) for form, program in programs.items()}
            times = interleave(calls, COUNTS[size], repeats)
            for form in FORMS:
                cell = f"{times.ratio(form, 'float32'):.2f} ({len(programs[form]) // 1000:,} kB)"
                cells.setdefault((kind, form), []).append(cell)
    print(f"\n{opened.lstm_edge_isa().decode()}\n")
    print(table(["", *sizes], ([f"{kind}, {form}", *row] for (kind, form), row in cells.items())))


def main() -> None:
    """Print a table for the best instruction set of this machine, and one for AVX2."""
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=45, help="turns that each variant takes")
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, default=["M", "L", "XL"])
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as name:
        tools = build_tools(Path(name))
        for opened in filter(None, (library(), open_avx2())):
            print_forms(tools, opened, options.sizes, options.repeats)
    print_machine("numpy", "lstm-edge-native")


if __name__ == "__main__":
    main()
