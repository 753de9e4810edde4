"""Where the time of a native step goes. Run it on a quiet machine, on one core.

    taskset -c 1 python -m benchmarks.speed.step limits|reading|neighbors|int8 [--repeats N] [--sizes S M]

``limits`` compares it with the most that one core of this machine can do: a step takes at least the time of
reading its weights once, and of its multiply-adds; both are measured by a few lines of C (``limits.c``).

``reading`` builds the library again with one of its three ways of reading weights left out or set otherwise
(alternating order, large pages, prefetching; native/src/internal.h), and compares it with a library without
any. It is of interest if the weights do not fit the core's cache (L and XL), and needs cmake.

``neighbors`` adds what people put around a recurrent layer (normalization before it; a layer of the hidden
width with bias and activation, and softmax after it) and leaves one out at a time: the most that fusing it
could save.

``int8`` changes the weights of LSTM and GRU layers: int8 weights and quantized activations (``int8``; ``7
bits``, which AVX2 multiplies faster), and int8 weights alone (``weights``), then the same with AVX2.
"""

import ctypes
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

import lstm_edge_runtime.native.engine as engine_module
from benchmarks.common import (
    CLASSES,
    ROOT,
    SIZES,
    Call,
    interleave,
    parser,
    print_machine,
    repeat,
    run,
    table,
)
from benchmarks.speed.models import write_model
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.native.library import library, open_library
from lstm_edge_runtime.native.program import Code, Function, ProgramWriter

__all__ = [
    "COUNTS",
    "build_tools",
    "least_seconds",
    "load_on",
    "open_avx2",
    "steps_from_c",
    "steps_from_python",
]

COUNTS = {"S": 600, "M": 300, "L": 40, "XL": 12}
"""Steps in a turn, which takes a few ms."""
FLAGS = ("-O3", "-D_GNU_SOURCE", "-march=native", "-mprefer-vector-width=512", "-shared", "-fPIC")
Change = tuple[str, str, str]
"""A source file, what it contains, and what replaces it."""
SAME_ORDER: Change = ("stream.c", "w->backward = !p->near && !w->backward;", "w->backward = false;")
SMALL_PAGES: Change = ("memory.c", "MADV_HUGEPAGE);", "MADV_NOHUGEPAGE);")
NOT_AHEAD: Change = ("kernels.c", "__builtin_prefetch((const char *)w + LE_AHEAD + i)", "(void)w")
SECOND_LEVEL: Change = ("kernels.c", "LE_AHEAD + i)", "LE_AHEAD + i, 0, 2)")
NONE = "none of the three"
READING: dict[str, tuple[Change, ...]] = {
    NONE: (SAME_ORDER, SMALL_PAGES, NOT_AHEAD),
    "alternating order, large pages and prefetching 2 kB ahead": (),
    "without alternating": (SAME_ORDER,),
    "without prefetching": (NOT_AHEAD,),
    "with pages of 4 kB": (SMALL_PAGES,),
    **{
        f"prefetching {ahead / 1024:g} kB ahead": (
            ("internal.h", "#define LE_AHEAD 2048u", f"#define LE_AHEAD {ahead}u"),
        )
        for ahead in (512, 1024, 4096, 8192)
    },
    "prefetching into the second-level cache only": (SECOND_LEVEL,),
}
LAYERS = {
    "LSTM": (4, 2, (Function.SIGMOID, Function.TANH, Function.TANH)),
    "GRU": (3, 1, (Function.SIGMOID, Function.TANH)),
}
"""Of each kind its gates, states and functions."""
FORMS = {"float32": 127, "int8": 127, "7 bits": 64, "weights": 127}
"""The largest weight of each form."""
NEIGHBORS = ("normalization before the LSTM", "bias", "activation after the dense layer", "softmax")


def build_tools(folder: Path) -> ctypes.CDLL:
    """Build and open ``limits.c``."""
    target = folder / "limits.so"
    run("cc", *FLAGS, Path(__file__).with_name("limits.c"), "-o", target)
    opened = ctypes.CDLL(str(target))
    opened.multiply_add.argtypes = [ctypes.c_size_t]
    opened.make_weights.argtypes, opened.make_weights.restype = [ctypes.c_size_t], ctypes.c_void_p
    opened.free.argtypes = [ctypes.c_void_p]
    opened.read_all.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
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
        return load(path, engine="native", threads=1)
    finally:
        engine_module.library = library


def _multiply_adds(size: str) -> int:
    """Return the multiply-adds of one step, the same number as its weights."""
    features, hidden, layers = SIZES[size]
    entering = [features, *[hidden] * (layers - 1)]
    return sum(4 * hidden * (width + hidden) for width in entering) + hidden * CLASSES


def _best(call: Callable[[], object]) -> float:
    """Return the least CPU time of a call in seconds."""
    times = []
    for _ in range(15):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def _peak_flops(tools: ctypes.CDLL) -> float:
    """Return the most multiply-adds, two operations each, that this core does in a second."""
    rounds = 2_000_000
    return 2 * 16 * 12 * rounds / _best(lambda: tools.multiply_add(rounds))


def _bandwidth(tools: ctypes.CDLL, size: str) -> float:
    """Return the bytes per second at which this core reads the bytes of a size's weights, back and forth."""
    count = 4 * _multiply_adds(size)
    data = tools.make_weights(count)
    again = max(2, 80_000_000 // count)
    fastest = _best(lambda: tools.read_all(data, count // 64, again))
    tools.free(data)
    return count * again / fastest


def least_seconds(tools: ctypes.CDLL, size: str) -> tuple[float, str]:
    """Return the least time of a step on this core, and what determines it."""
    weights = _multiply_adds(size)
    by_reading, by_computing = 4 * weights / _bandwidth(tools, size), 2 * weights / _peak_flops(tools)
    return (by_reading, "reading") if by_reading > by_computing else (by_computing, "multiply-adds")


def print_limits(tools: ctypes.CDLL, folder: Path, sizes: Sequence[str], _: int) -> None:
    """Print the core's limits, and each size's step and tick compared with them."""
    peak = _peak_flops(tools)
    print(f"{library().lstm_edge_isa().decode()}; multiply-adds at most {peak / 1e9:.0f} GFLOP/s\n")
    rows = []
    for size in sizes:
        weights, bandwidth = _multiply_adds(size), _bandwidth(tools, size)
        least, by = least_seconds(tools, size)
        model = load(write_model(folder, size), engine="native", threads=1)
        sample, count = np.zeros(SIZES[size][0], np.float32), max(20, 2_000_000 // weights)
        from_c, from_python = steps_from_c(tools, model, sample), steps_from_python(model, sample)
        inside, step = (_best(partial(call, count)) / count for call in (from_c, from_python))
        batch, x = model.streams(64), np.zeros((64, len(sample)), np.float32)
        tick = _best(partial(batch.step, x, [batch.add() for _ in range(64)]))
        us = f"{inside * 1e6:.2f}", f"{inside / least:.2f}", f"{step * 1e6:.2f}", f"{tick * 1e6:.0f}"
        of_tick = f"{tick / (64 * 2 * weights / peak):.2f}"
        rows.append([size, f"{bandwidth / 1e9:.0f}", f"{least * 1e6:.2f} ({by})", *us, of_tick])
    head = "size, reads GB/s, least us (by), from C us, of the least, `step` us, tick of 64 us, of its least"
    print(table(head.split(", "), rows))


def build(folder: Path, changes: Iterable[Change]) -> Path:
    """Build the library with changes in its sources.

    Raises:
        SystemExit: a source no longer contains what a change looks for.
    """
    shutil.copytree(ROOT / "native", folder)
    for name, old, new in changes:
        source = folder / "src" / name
        text = source.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{name} contains {old!r} {text.count(old)} times, expected once")
        source.write_text(text.replace(old, new), encoding="utf-8")
    made = folder / "build"
    run("cmake", "-S", folder, "-B", made)
    run("cmake", "--build", made)
    return next(made.glob("liblstm_edge.*"))


def print_reading(tools: ctypes.CDLL, folder: Path, sizes: Sequence[str], repeats: int) -> None:
    """Print steps and chunks of each variant of the library as ratios to the one without any."""
    cells: dict[str, list[str]] = {name: [] for name in READING}
    opened = {
        variant: open_library(build(folder / str(i), changes))
        for i, (variant, changes) in enumerate(READING.items())
    }
    for size in sizes:
        path = write_model(folder, size)
        x = np.random.default_rng(1).normal(size=(256, SIZES[size][0])).astype(np.float32)
        models = {variant: load_on(each, path) for variant, each in opened.items()}
        steps = {each: steps_from_c(tools, models[each], x[0], opened[each]) for each in READING}
        chunks = {variant: repeat(model.stream().process, x) for variant, model in models.items()}
        for calls, count in ((steps, COUNTS[size]), (chunks, 1)):
            times = interleave(calls, count, repeats)
            for each in READING:
                cells[each].append(f"{times.ratio(each, NONE):.2f} ({times.us(each):.0f} us)")
    head = [f"{what}, {size}" for size in sizes for what in ("step", "`process(256)`")]
    print(table(["", *head], ([variant, *row] for variant, row in cells.items())))


def write_neighbors(folder: Path, size: str, without: str | None) -> Path:
    """Write ``size``'s network with all its neighbors but one."""
    features, hidden, _ = SIZES[size]
    rng = np.random.default_rng(1)
    normalization, bias, activation, softmax = NEIGHBORS
    before = ["centered = Sub (x, mean)", "normalized = Div (centered, deviation)"]
    chain = [("", "MatMul", ", dense"), (bias, "Add", ", bias"), (activation, "Relu", "")]
    chain += [("", "MatMul", ", head"), (softmax, "Softmax", "")]
    kept = [(operator, weight) for name, operator, weight in chain if not name or name != without]
    names = ["top", *(f"after_{i}" for i in range(1, len(kept))), "logits"]
    after = [f"{names[i + 1]} = {operator} ({names[i]}{weight})" for i, (operator, weight) in enumerate(kept)]
    shapes = {"mean": (features,), "deviation": (features,), "dense": (hidden, hidden), "bias": (hidden,)}
    arrays = {name: rng.uniform(0.1, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    return write_model(folder, size, [] if without == normalization else before, after, **arrays)


def print_neighbors(tools: ctypes.CDLL, folder: Path, sizes: Sequence[str], repeats: int) -> None:
    """Print what leaving out each neighbor saves, as a fraction of the step."""
    rows: dict[str, list[str]] = {name: [] for name in ("the whole step", *NEIGHBORS)}
    for size in sizes:
        sample = np.random.default_rng(1).normal(size=SIZES[size][0]).astype(np.float32)
        calls = {}
        for name in (None, *NEIGHBORS):
            model = load(write_neighbors(folder, size, name), engine="native", threads=1)
            calls[str(name)] = steps_from_c(tools, model, sample)
        times = interleave(calls, COUNTS[size], repeats)
        rows["the whole step"].append(f"{times.us('None'):.2f} us")
        for name in NEIGHBORS:
            rows[name].append(f"{1 - times.ratio(name, 'None'):.1%}")
    print(table(["", *sizes], ([name, *cells] for name, cells in rows.items())))


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


def print_int8(tools: ctypes.CDLL, _: Path, sizes: Sequence[str], repeats: int) -> None:
    """Print a table for the best instruction set of this machine, and one for AVX2."""
    for opened in filter(None, (library(), open_avx2())):
        print_forms(tools, opened, sizes, repeats)


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


QUESTIONS = {
    "limits": (print_limits, tuple(SIZES)),
    "reading": (print_reading, ("L", "XL")),
    "neighbors": (print_neighbors, tuple(SIZES)),
    "int8": (print_int8, ("M", "L", "XL")),
}
"""What answers each, and the sizes by default."""


def main() -> None:
    """Answer one question."""
    arguments = parser(__doc__)
    arguments.add_argument("question", choices=QUESTIONS)
    arguments.add_argument("--repeats", type=int, default=45, help="turns that each variant takes")
    arguments.add_argument("--sizes", nargs="*", choices=SIZES, help="by default all that the docs have")
    options = arguments.parse_args()
    show, sizes = QUESTIONS[options.question]
    with tempfile.TemporaryDirectory() as name:
        show(build_tools(Path(name)), Path(name), options.sizes or sizes, options.repeats)
    print_machine("numpy", "lstm-edge-native")


if __name__ == "__main__":
    main()
