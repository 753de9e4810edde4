"""What each way to read weights gives a native step and a chunk where they do not fit a core's cache.

Steps alternate in the order in which they read the weights, keep these in large pages, and ask for them ahead
(native/src/internal.h). Here the library is built again with one of the three left out or set otherwise, and
timed beside the library without any. It needs cmake and a C compiler. Run it on a quiet machine, on one core:

    taskset -c 1 python -m benchmarks.speed.prefetch
"""

import argparse
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchmarks.speed.limits import build_tools
from benchmarks.speed.models import write_model
from benchmarks.speed.sizes import SIZES
from benchmarks.speed.stream_cases import Call, interleave
from benchmarks.speed.stream_native import COUNTS, load_on, ratio, steps_from_c
from lstm_edge_runtime.native.library import open_library

NATIVE = Path(__file__).parents[2] / "native"
Change = tuple[str, str, str]
"""A source file, what stands in it, and what stands there instead."""
SAME_ORDER: Change = ("stream.c", "w->backward = !w->backward;", "w->backward = false;")
SMALL_PAGES: Change = ("memory.c", "MADV_HUGEPAGE);", "MADV_NOHUGEPAGE);")
NOT_AHEAD: Change = ("kernels.c", "__builtin_prefetch((const char *)w + LE_AHEAD + i)", "(void)w")
SECOND_LEVEL: Change = ("kernels.c", "LE_AHEAD + i)", "LE_AHEAD + i, 0, 2)")
NONE = "none of the three"
VARIANTS: dict[str, tuple[Change, ...]] = {
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


def build(folder: Path, changes: Iterable[Change]) -> Path:
    """Build the library with changes in its sources.

    Raises:
        SystemExit: a source no longer holds what a change looks for.
    """
    shutil.copytree(NATIVE, folder)
    for name, old, new in changes:
        source = folder / "src" / name
        text = source.read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise SystemExit(f"{name} holds {old!r} {text.count(old)} times, expected once")
        source.write_text(text.replace(old, new), encoding="utf-8")
    made = folder / "build"
    subprocess.run(["cmake", "-S", folder, "-B", made], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", made], check=True, stdout=subprocess.DEVNULL)
    return next(made.glob("liblstm_edge.*"))


def main() -> None:
    """Print a table of ratios to the library without any."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=25, help="turns that each variant takes")
    repeats = parser.parse_args().repeats
    cells: dict[str, list[str]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tools = build_tools(folder)
        opened = {
            variant: open_library(build(folder / str(i), changes))
            for i, (variant, changes) in enumerate(VARIANTS.items())
        }
        for size in ("L", "XL"):
            path = write_model(folder, size)
            x = np.random.default_rng(1).normal(size=(256, SIZES[size][0])).astype(np.float32)
            steps: dict[str, Call] = {}
            chunks: dict[str, Call] = {}
            for variant, library in opened.items():
                model = load_on(library, path)
                steps[variant] = steps_from_c(tools, model, x[0], library)
                stream = model.stream()
                chunks[variant] = lambda count, s=stream, x=x: [s.process(x) for _ in range(count)]
            for calls, count in ((steps, COUNTS[size]), (chunks, 1)):
                times = interleave(calls, count, repeats)
                for variant in VARIANTS:
                    us = statistics.median(times[variant]) * 1e6
                    cells[variant].append(f"{ratio(times, variant, NONE):.2f} ({us:.0f} us)")
    print(
        "| | step, L | `process(256)`, L | step, XL | `process(256)`, XL |\n| --- | --- | --- | --- | --- |"
    )
    for variant, each in cells.items():
        print(f"| {variant} | " + " | ".join(each) + " |")


if __name__ == "__main__":
    main()
