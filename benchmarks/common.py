"""What the benchmarks share: the sizes of the networks, timing in turns, tables and command lines."""

import argparse
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

__all__ = ["CLASSES", "ROOT", "SIZES", "Call", "interleave", "parser", "print_machine", "ratio", "table"]

ROOT = Path(__file__).parents[1]
SIZES = {"S": (8, 32, 1), "M": (16, 128, 1), "L": (64, 256, 2), "XL": (128, 512, 2)}
"""Features, hidden width and layers of the networks that are timed."""
CLASSES = 6
Call = Callable[[int], object]
"""Does what is timed that number of times."""


def interleave(
    calls: Mapping[str, Call], count: int, repeats: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Time every call ``count`` times, alternately; return seconds per call, one entry per repeat.

    Time is by default the process's CPU time: on one thread the wall time of a quiet machine, less disturbed
    by a busy one. The order is drawn again for each repeat, so that no call always follows the same one.
    """
    for call in calls.values():
        call(max(1, count // 10))
    times: dict[str, list[float]] = {name: [] for name in calls}
    rng = random.Random(4)  # noqa: S311  no secret
    for _ in range(repeats):
        for name in rng.sample(list(calls), len(calls)):
            start = clock()
            calls[name](count)
            times[name].append((clock() - start) / count)
    return times


def ratio(times: Mapping[str, Sequence[float]], name: str, baseline: str) -> float:
    """Return the median over the repeats of the time divided by the baseline's in the same repeat."""
    return statistics.median(a / b for a, b in zip(times[name], times[baseline], strict=True))


def table(columns: Iterable[object], rows: Iterable[Iterable[object]] = ()) -> str:
    """Return a table in Markdown."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser whose help is the script's docstring."""
    return argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)


def print_machine(*packages: str) -> None:
    """Print the processor, and the versions of packages."""
    from lstm_edge_runtime.cpu import describe_cpu

    cpu = describe_cpu()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(f"\n{cpu['processor']} ({cpu['machine']}), {cpu['cores']} cores; {versions}", end=", ")
    print(f"Python {platform.python_version()}")
