"""Export and validate healthy networks and count refusals and alarms: there must be none.

    python -m benchmarks.proof.false_alarms --count 2000 --python OLD/bin/python    # needs lstm-edge[export]

Networks are drawn over the forms of ``healthy.py``, from a seed that is new each run and printed; ``--seed``
repeats a run and ``--only`` single networks of it. Four in a row differ in their weights and examples alone.
Each is exported, which verifies it, and validated with ``--quick``. Its golden cases and cases of other sizes
are then run in every engine, each in a process of its own, and compared by the same limits: onnxruntime of
this interpreter and of each ``--python``, and the native engine with each instruction set of this machine,
where it covers the network. Every twentieth network is converted to C, which compares that with onnxruntime.
Exit status 1: a refusal or an alarm.
"""

import multiprocessing
import secrets
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.common import parser, print_machine, table
from benchmarks.proof.engines import Engine, EngineError, open_engines
from benchmarks.proof.healthy import FORMS, Network, draw_network
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.targets.c import to_c
from lstm_edge_exporters.verify.compare import Pair, compare_all
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_exporters.verify.expected import Expected, against_module
from lstm_edge_exporters.verify.file import ModelFile, open_file
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_exporters.verify.validate import validate
from lstm_edge_runtime.errors import CheckFailedError, LstmEdgeError
from lstm_edge_runtime.selftest import compare_golden
from lstm_edge_runtime.tolerance import Comparison

__all__ = ["Tally", "examine", "main"]

SIZES = ((1, 1), (3, 7), (2, 60))
"""``(N, L)`` that engines are compared at."""
DRAWS = 4
"""Networks in a row that differ in weights and example alone."""
C_EVERY = 20
"""One in this number of networks is converted to C, as compiling takes long."""


@dataclass
class Tally:
    """What the networks of one form gave."""

    networks: int = 0
    checks: int = 0
    in_c: int = 0
    """Networks compared in C."""
    ran: Counter[str] = field(default_factory=Counter)
    """Networks that an engine ran, by its name."""
    worst: dict[str, float] = field(default_factory=dict)
    """The largest error, as a fraction of its limit, by engine."""
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Count another tally's networks too."""
        for name in ("networks", "checks", "in_c", "problems"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.ran += other.ran
        for name, ratio in other.worst.items():
            self.worst[name] = max(ratio, self.worst.get(name, 0.0))


def main() -> int:
    """Examine ``--count`` networks and print the table."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, help="of an earlier run; new each time by default")
    options.add_argument("--only", type=int, nargs="*", help="these networks of the run, by their numbers")
    options.add_argument("--jobs", type=int, default=1, help="processes, with one thread each")
    options.add_argument("--python", nargs="*", default=[], help="interpreters with other onnxruntimes")
    chosen = options.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    tallies: dict[str, Tally] = defaultdict(Tally)
    began, done = time.perf_counter(), 0
    numbers = range(chosen.count) if chosen.only is None else chosen.only
    context = multiprocessing.get_context("spawn")
    with context.Pool(chosen.jobs, initializer=_start, initargs=(chosen.python,)) as pool:
        each = partial(examine_number, seed)
        for form, tally in pool.imap_unordered(each, numbers, chunksize=DRAWS):
            tallies[form].add(tally)
            done += 1
            for problem in tally.problems:
                print(problem, flush=True)
            if done % 20 == 0:
                print(f"{done}/{len(numbers)}", file=sys.stderr, flush=True)
    print_tables(tallies)
    print(f"\n{done} networks, seed {seed}, {time.perf_counter() - began:.0f} s")
    print_machine("torch")
    return int(any(tally.problems for tally in tallies.values()))


def _start(pythons: Sequence[str]) -> None:
    torch.set_num_threads(1)
    _engines.extend(open_engines(pythons))


_engines: list[Engine] = []
"""Of this process."""


def examine_number(seed: int, number: int) -> tuple[str, Tally]:
    """Return the form of network ``number`` of a run and what it gave."""
    layers, rng = number // DRAWS, np.random.default_rng
    form, tally = FORMS[layers % len(FORMS)], Tally()
    examine(draw_network(form, rng((seed, layers)), rng((seed, number))), tally, number, _engines)
    tally.problems = [f"network {number}, {problem}" for problem in tally.problems]
    return form, tally


def examine(network: Network, tally: Tally, number: int, engines: Sequence[Engine] = ()) -> list[str]:
    """Export, validate and measure one network; gives what was refused or raised an alarm."""
    tally.networks += 1
    found = []
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
        report = validate(file, against, ValidateConfig(seed=number, quick=True))
        tally.checks += report.count("passed") + report.count("failed")
        checks = ((group.title, check) for group in report.groups for check in group.checks)
        found += [
            f"{title}: {each.name}: {each.message}" for title, each in checks if each.status == "failed"
        ]
        found += _compare(file, against, engines, tally)
        if number % C_EVERY == 0:
            try:
                to_c(path)
                tally.in_c += 1
            except CheckFailedError as error:
                found.append(f"C: {error}")
            except LstmEdgeError:
                pass
    found = [f"{network.about}: {each}" for each in found]
    tally.problems += found
    return found


def _compare(file: ModelFile, against: Expected, engines: Sequence[Engine], tally: Tally) -> Iterator[str]:
    """Compare every engine with the graph in float64, and replay the golden cases in each."""
    manifest = file.manifest
    assert manifest.golden is not None
    pair = Pair(manifest, Graph64(against.exact), against.reference, file.runner())
    recorded = (manifest.golden, *manifest.golden.more)
    calls = [against.cases.case(n, length, at_reset=True, full=True).feeds for n, length in SIZES]
    known = [(pair.exact(feeds), pair.limits(feeds)) for feeds in calls]
    for engine in engines:
        try:
            results = engine.run(file.path.read_bytes(), [each.inputs for each in recorded] + calls)
        except EngineError as error:
            if error.kind not in ("UnsupportedError", "MissingDependencyError"):
                yield f"{engine.name}: {error}"
            continue
        tally.ran[engine.name] += 1
        for golden, got in zip(recorded, results, strict=False):
            yield from _judge(engine, tally, "golden case", compare_golden(golden, got))
        for feeds, (exact, limits), got in zip(calls, known, results[len(recorded) :], strict=True):
            records = compare_all(got, exact, limits)
            yield from _judge(engine, tally, f"{manifest.steps(feeds)} steps", records)


def _judge(engine: Engine, tally: Tally, what: str, records: Sequence[Comparison]) -> Iterator[str]:
    tally.worst[engine.name] = max(tally.worst.get(engine.name, 0.0), *(each.ratio for each in records))
    yield from (f"{engine.name}, {what}: {record}" for record in records if not record.ok)


def print_tables(tallies: Mapping[str, Tally]) -> None:
    """Print one line per form, and one per engine."""
    rows, total = [], Tally()
    for form in filter(tallies.__contains__, FORMS):
        tally = tallies[form]
        total.add(tally)
        counts = (tally.networks, tally.checks, tally.in_c)
        rows.append([form, *counts, len(tally.problems)])
    head = ["form", "networks", "checks", "in C", "alarms"]
    print(table(head, rows))
    rows = []
    for name, count in total.ran.items():
        alarms = sum(f": {name}, " in problem or f": {name}: " in problem for problem in total.problems)
        rows.append([name, count, f"{total.worst[name]:.2f}", alarms])
    print("\n" + table(["engine", "networks", "largest error by its limit", "alarms"], rows))


if __name__ == "__main__":
    sys.exit(main())
