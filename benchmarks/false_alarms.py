"""Export and validate healthy networks and count refusals and alarms: there must be none.

    python benchmarks/false_alarms.py --count 1000            # needs the [export] extra

Networks are drawn over the forms of ``healthy.py``, from a seed that is new each run and printed; ``--seed``
repeats a run and ``--only`` single networks of it. Each is exported, which verifies it, and validated with
``--quick``. Beside that, onnxruntime's and PyTorch's own float32 outputs, on one and two threads, are held to
the same limits. Exit status 1: something was refused, or raised an alarm.
"""

import argparse
import json
import platform
import secrets
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from healthy import FORMS, Network, draw_network

from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.call import Signature, flatten_output
from lstm_edge_exporters.numerics.cases import CaseGenerator
from lstm_edge_exporters.numerics.noise import expected
from lstm_edge_exporters.numerics.verify import compare_outputs
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.ort import SessionOptions, open_session

__all__ = ["Tally", "examine", "main"]

SIZES = ((1, 1), (3, 7), (2, 60))
"""``(N, L)`` that frameworks and threads are compared at."""


@dataclass
class Tally:
    """What the networks of one form gave."""

    networks: int = 0
    checks: int = 0
    unverified: int = 0
    """Networks with an output that is too small to be verified."""
    ratios: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The largest error of each network, in noise floors, by who computed."""
    problems: list[str] = field(default_factory=list)


def main() -> int:
    """Examine ``--count`` networks and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, help="of an earlier run; new each time by default")
    options.add_argument("--only", type=int, nargs="*", help="these networks of the run, by their numbers")
    options.add_argument("--full", action="store_true", help="full validation instead of --quick")
    options.add_argument("--json", type=Path, help="where to write the figures")
    chosen = options.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)
    tallies = {form: Tally() for form in FORMS}
    began = time.perf_counter()
    numbers = range(chosen.count) if chosen.only is None else chosen.only
    for done, number in enumerate(numbers, start=1):
        form = FORMS[number % len(FORMS)]
        problems = examine(
            draw_network(form, np.random.default_rng((seed, number))), tallies[form], number, full=chosen.full
        )
        for problem in problems:
            print(f"network {number}, {problem}", flush=True)
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
        for who, record in _compare(network, file.manifest, against.computation, path):
            tally.ratios[who].append(record.error / record.floor if record.floor else 0.0)
            if not record.ok:
                found.append(f"{network.about}: {who}: {record}")
    tally.problems += found
    return found


def _compare(network: Network, manifest: Any, reference: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Compare onnxruntime and PyTorch, on one and two threads, at each size; the worst output of each."""
    signature = Signature.of(network.module, network.example).as_float32()
    example = dict(zip(signature.names, (each.numpy() for each in signature.example), strict=True))
    sessions = {threads: open_session(str(path), SessionOptions(threads=threads)) for threads in (1, 2)}
    module = network.module.float()
    for n, length in SIZES:
        feeds = CaseGenerator.of(manifest, example).case(n, length, at_reset=True, full=True).feeds
        known = expected(reference, feeds)
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
    records = [each for each in compare_outputs({**known.ref32, **got}, known) if each.name in got]
    return max(records, key=lambda each: each.ratio)


def print_table(tallies: Mapping[str, Tally]) -> None:
    """Print a line a form: networks, checks, errors in noise floors, refusals and alarms."""
    print(
        "| form | networks | checks | onnxruntime: median, largest error in floors | PyTorch "
        "| too small to verify | refused or alarms |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for form, tally in tallies.items():
        if not tally.networks:
            continue
        errors = []
        for framework in ("onnxruntime", "PyTorch"):
            found = [
                ratio for who, ratios in tally.ratios.items() if who.startswith(framework) for ratio in ratios
            ]
            errors.append(f"{np.median(found):.2f}, {max(found):.2f}" if found else "-")
        print(
            f"| {form} | {tally.networks} | {tally.checks} | {errors[0]} | {errors[1]} | {tally.unverified} "
            f"| {len(tally.problems)} |"
        )


if __name__ == "__main__":
    sys.exit(main())
