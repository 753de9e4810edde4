"""Export and validate healthy networks and count refusals and alarms: there must be none.

    python benchmarks/false_alarms.py --count 1000            # needs the [export] extra

Networks are drawn over the forms of ``healthy.py``, from a seed that is new each run and printed; ``--seed``
repeats a run and ``--only`` single networks of it. Each is exported, which verifies it, and validated with
``--quick``. Beside that, the float32 outputs of onnxruntime and PyTorch, on one and two threads, and of the
native engine where it covers the network are held to the same limits, and every seventh network is converted
to C, which compares that with onnxruntime. Exit status 1: something was refused, or raised an alarm.
"""

import argparse
import json
import multiprocessing
import platform
import secrets
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from healthy import FORMS, Network, draw_network

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.cases import CaseGenerator
from lstm_edge_exporters.numerics.floors import compare_outputs, expected
from lstm_edge_exporters.numerics.function import fixed_axes
from lstm_edge_exporters.numerics.reference import Signature, flatten_output
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError, MissingDependencyError, UnsupportedError
from lstm_edge_runtime.native.choice import compile_engine
from lstm_edge_runtime.onnx_reader import read_onnx
from lstm_edge_runtime.ort import SessionOptions, open_session

__all__ = ["Tally", "examine", "main"]

SIZES = ((1, 1), (3, 7), (2, 60))
"""``(N, L)`` that frameworks and threads are compared at."""
C_EVERY = 7
"""Of so many networks one is converted to C, as a compiler takes its time."""


@dataclass
class Tally:
    """What the networks of one form gave."""

    networks: int = 0
    checks: int = 0
    unverified: int = 0
    """Networks with an output that is too small to be verified."""
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The largest error of each network, in noise floors, by who computed."""
    in_c: int = 0
    """Networks compared in C."""
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count another tally's networks too."""
        self.networks += other.networks
        self.checks += other.checks
        self.unverified += other.unverified
        self.in_c += other.in_c
        self.problems += other.problems
        for who, ratios in other.ratios.items():
            self.ratios[who] += ratios


def main() -> int:
    """Examine ``--count`` networks and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, help="of an earlier run; new each time by default")
    options.add_argument("--only", type=int, nargs="*", help="these networks of the run, by their numbers")
    options.add_argument("--full", action="store_true", help="full validation instead of --quick")
    options.add_argument("--jobs", type=int, default=1, help="processes, with one thread each")
    options.add_argument("--json", type=Path, help="where to write the figures")
    chosen = options.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    tallies: dict[str, Tally] = defaultdict(Tally)
    began = time.perf_counter()
    numbers = range(chosen.count) if chosen.only is None else chosen.only
    with multiprocessing.get_context("spawn").Pool(chosen.jobs) as pool:
        each = partial(examine_number, seed, full=chosen.full)
        for done, (form, tally) in enumerate(pool.imap_unordered(each, numbers), start=1):
            tallies[form].add(tally)
            for problem in tally.problems:
                print(problem, flush=True)
            if done % 20 == 0:
                print(f"{done}/{len(numbers)}", file=sys.stderr, flush=True)
    print_table(tallies)
    print(
        f"\n{len(numbers)} networks, seed {seed}, {time.perf_counter() - began:.0f} s; Python "
        f"{platform.python_version()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"{platform.machine()}"
    )
    if chosen.json:
        chosen.json.write_text(json.dumps({form: vars(tally) for form, tally in tallies.items()}, indent=2))
    return int(any(tally.problems for tally in tallies.values()))


def examine_number(seed: int, number: int, *, full: bool = False) -> tuple[str, Tally]:
    """Return the form of network ``number`` of a run and what it gave."""
    torch.set_num_threads(1)
    form = FORMS[number % len(FORMS)]
    tally = Tally()
    examine(draw_network(form, np.random.default_rng((seed, number))), tally, number, full=full)
    tally.problems = [f"network {number}, {problem}" for problem in tally.problems]
    return form, tally


def examine(network: Network, tally: Tally, number: int, *, full: bool = False) -> list[str]:
    """Export, validate and measure one network; gives what was refused or raised an alarm."""
    tally.networks += 1
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            export(network.module, network.example, ExportConfig()).save(path)
        except LstmEdgeError as error:
            tally.problems.append(f"{network.about}: refused: {error}")
            return tally.problems[-1:]
        file = open_file(path)
        against = against_module(network.module, file, network.example)
        report = validate(file, against, ValidateConfig(seed=number, quick=not full))
        tally.checks += report.count("passed") + report.count("failed")
        found = [
            f"{network.about}: {group.title}: {check.name}: {check.message}"
            for group in report.groups
            for check in group.checks
            if check.status == "failed"
        ]
        tally.unverified += bool(file.manifest.equivalence.get("unverified"))
        native = None
        try:
            native = compile_engine(read_onnx(path.read_bytes()), file.manifest, 1)
        except CheckFailedError as error:
            found.append(f"{network.about}: native: {error}")
        except (UnsupportedError, MissingDependencyError):
            pass
        for who, record in _compare(network, file.manifest, file.graph64[0], path, native):
            tally.ratios[who].append(record.error / record.floor if record.floor else 0.0)
            if not record.ok:
                found.append(f"{network.about}: {who}: {record}")
        if number % C_EVERY == 0:
            try:
                to_c(path)
                tally.in_c += 1
            except CheckFailedError as error:
                found.append(f"{network.about}: C: {error}")
            except LstmEdgeError:
                pass
    tally.problems += found
    return found


def _compare(
    network: Network, manifest: Any, graph: Any, path: Path, native: Any
) -> Iterator[tuple[str, Any]]:
    """Compare every engine with the reference at each size; gives the worst output of each."""
    signature = Signature.of(network.module, network.example).as_float32()
    example = dict(zip(signature.names, (each.numpy() for each in signature.example), strict=True))
    sessions = {threads: open_session(str(path), SessionOptions(threads=threads)) for threads in (1, 2)}
    module = network.module.float()
    for n, length in SIZES:
        feeds = CaseGenerator.of(manifest, example).case(n, length, at_reset=True, full=True).feeds
        known = expected(graph, feeds, fixed_axes(manifest))
        if native:
            yield "native", _worst(manifest.all_outputs(*native.call(feeds)), known)
        for threads, session in sessions.items():
            names = [output.name for output in session.get_outputs()]
            got = dict(zip(names, session.run(names, dict(feeds)), strict=True))
            yield f"onnxruntime, {threads} threads", _worst(got, known)
            torch.set_num_threads(threads)
            with torch.no_grad():
                flat = flatten_output(
                    signature.call(module, [torch.from_numpy(feeds[each]) for each in signature.names])
                )
            torch.set_num_threads(1)
            own = dict(zip(known.ref64, (tensor.numpy() for _, tensor in flat), strict=False))
            yield f"PyTorch, {threads} threads", _worst(own, known)


def _worst(got: Mapping[str, Any], known: Any) -> Any:
    records = [each for each in compare_outputs({**known.ref64, **got}, known) if each.name in got]
    return max(records, key=lambda each: each.ratio)


def print_table(tallies: Mapping[str, Tally]) -> None:
    """Print a line a form: networks, checks, errors in noise floors, refusals and alarms."""
    print(
        "| form | networks | checks | onnxruntime: median, largest error in floors | PyTorch | native "
        "| in C | too small to verify | refused or alarms |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for form in filter(tallies.__contains__, FORMS):
        tally = tallies[form]
        errors = []
        for framework in ("onnxruntime", "PyTorch", "native"):
            found = [
                ratio for who, ratios in tally.ratios.items() if who.startswith(framework) for ratio in ratios
            ]
            errors.append(f"{np.median(found):.2f}, {max(found):.2f}" if found else "-")
        print(
            f"| {form} | {tally.networks} | {tally.checks} | {' | '.join(errors)} | {tally.in_c} "
            f"| {tally.unverified} | {len(tally.problems)} |"
        )


if __name__ == "__main__":
    sys.exit(main())
