"""Shared parts of the benchmarks: sizes of networks, interleaved timing, tables,
command lines, processes.
"""

import argparse
import logging
import platform
import random
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
SIZES = {"S": (8, 32, 1), "M": (16, 128, 1), "L": (64, 256, 2), "XL": (128, 512, 2)}
"""Features, hidden width and layers of the networks that are timed."""
Call = Callable[[int], object]
"""Does what is timed that number of times."""


class Times(dict[str, list[float]]):
    """Seconds per call of each contestant, one entry per repeat."""

    def ratio(self, name: str, baseline: str) -> float:
        """Return the median of the time divided by the baseline's in the same
        repeat.
        """
        return statistics.median(
            a / b for a, b in zip(self[name], self[baseline], strict=True)
        )


def repeat(function: Callable[..., object], *arguments: object) -> Call:
    """Return what calls a function a number of times."""

    def calls(count: int) -> None:
        for _ in range(count):
            function(*arguments)

    return calls


def interleave(
    calls: Mapping[str, Call],
    count: int,
    repeats: int,
    clock: Callable[[], float] = time.process_time,
) -> Times:
    """Time every call ``count`` times, alternately.

    Time is by default the process's CPU time: on one thread the wall time of a quiet
    machine, less disturbed by a busy one. The order is drawn again for each repeat, so
    that no call always follows the same one.
    """
    for call in calls.values():
        call(max(1, count // 10))
    times = Times((name, []) for name in calls)
    rng = random.Random(4)  # noqa: S311  no secret
    for _ in range(repeats):
        for name in rng.sample(list(calls), len(calls)):
            start = clock()
            calls[name](count)
            times[name].append((clock() - start) / count)
    return times


def spread(times: Iterable[float]) -> str:
    """Return minimum, median and maximum of seconds, in microseconds."""
    quantiles = np.quantile([*times], (0, 0.5, 1)) * 1e6
    return " / ".join(f"{value:.3g}" for value in quantiles)


def table(columns: Iterable[object], rows: Iterable[Iterable[object]] = ()) -> str:
    """Return a table in Markdown."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose help is the script's docstring."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def print_machine(*packages: str) -> None:
    """Print the processor, and the versions of packages."""
    from lstm_edge_exporters.cpu import describe_cpu

    cpu = describe_cpu()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    print(
        f"\n{cpu['processor']} ({cpu['machine']}), {cpu['cores']} cores; {versions}",
        end=", ",
    )
    print(f"Python {platform.python_version()}")


def run(*command: object) -> str:
    """Return what a command printed.

    Raises:
        SystemExit: it failed, with what it said.
    """
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command[0]}: {done.stderr or done.stdout}")
    return done.stdout


def apart(got: Any, expected: Any) -> float:
    """Return the largest difference of two arrays, as a fraction of the expected one's
    largest value.
    """
    if got.shape != expected.shape:
        return float("inf")
    scale = max(float(np.abs(expected).max(initial=0.0)), 1e-6)
    return float(np.abs(got.astype(np.float64) - expected).max(initial=0.0)) / scale


def quiet() -> None:
    """Silence warnings and logs of exporters, and keep PyTorch to one thread."""
    import onnxruntime
    import torch

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    torch.set_num_threads(1)
