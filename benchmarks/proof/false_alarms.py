"""Is a healthy network ever refused? Export, validate and run random ones; there must be no alarm.

    python -m benchmarks.proof.false_alarms --count 100 --python OLD/bin/python    # needs lstm-edge[export]

Networks are drawn over the forms of ``healthy.py``, from a seed that is new each run and printed; ``--seed``
repeats a run. Each is exported, which verifies it, and validated with ``--quick``. Its golden cases and cases
of other sizes then run on onnxruntime of this interpreter, on those of each ``--python``, and, where covered,
on the C library, and are compared by the same limits. Exit status 1: a refusal or an alarm.
"""

import contextlib
import itertools
import secrets
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.common import parser, print_machine, quiet, run, table
from benchmarks.proof.healthy import FORMS, draw_network
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.verify.cases import full_length
from lstm_edge_exporters.verify.compare import Pair, compare_all
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_exporters.verify.expected import Expected, against_module
from lstm_edge_exporters.verify.file import ModelFile, open_file
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_exporters.verify.validate import validate
from lstm_edge_runtime.errors import LstmEdgeError, MissingDependencyError, UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.selftest import selftest

SIZES = ((1, 1), (3, 7), (2, 60))
"""``(N, L)`` that engines are compared at."""
Feeds = Mapping[str, Array]
_OLD = """
import sys
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.log_severity_level = 1, 4
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
np.savez(sys.argv[3], **dict(zip(names, session.run(names, dict(np.load(sys.argv[2]))))))
"""


class Result(NamedTuple):
    """One network's checks, the engines that ran it with their largest error by its limit, and its alarms."""

    form: str
    checks: int
    errors: Mapping[str, float]
    alarms: Sequence[str]


def main() -> int:
    """Examine ``--count`` networks and print the tables."""
    options = parser(__doc__)
    options.add_argument("--count", type=int, default=100)
    options.add_argument("--seed", type=int, help="of an earlier run; new each time by default")
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--python", nargs="*", default=[], help="interpreters with other onnxruntimes")
    chosen = options.parse_args()
    seed = secrets.randbits(32) if chosen.seed is None else chosen.seed
    began = time.perf_counter()
    with ProcessPoolExecutor(chosen.processes, get_context("spawn")) as pool:
        results = list(pool.map(partial(examine, seed, chosen.python), range(chosen.count)))
    for result in results:
        for alarm in result.alarms:
            print(f"{result.form}: {alarm}")
    counts, alarms = (Counter(r.form for r in results), Counter(r.form for r in results if r.alarms))
    print(table(["form", "networks", "with alarms"], [[form, counts[form], alarms[form]] for form in counts]))
    ran = Counter(name for result in results for name in result.errors)
    worst = {name: max(result.errors.get(name, 0.0) for result in results) for name in ran}
    print("\n" + table(["engine", "networks", "largest error / limit"],
                       [[name, ran[name], f"{worst[name]:.2f}"] for name in ran]))  # fmt: skip
    checks = sum(result.checks for result in results)
    print(f"\n{chosen.count} networks, {checks} checks, seed {seed}, {time.perf_counter() - began:.0f} s")
    print_machine("onnxruntime", "torch")
    return int(bool(alarms))


def examine(seed: int, pythons: Sequence[str], number: int) -> Result:
    """Export, validate and run network ``number`` of a seed."""
    quiet()
    form, rng = FORMS[number % len(FORMS)], np.random.default_rng((seed, number))
    network = draw_network(form, rng)
    errors: dict[str, float] = {}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        try:
            export(network.module, network.example, ExportConfig()).save(path)
        except LstmEdgeError as error:
            return Result(form, 0, errors, [f"network {number}, {network.about}: refused: {error}"])
        file = open_file(path)
        against = against_module(network.module, file, network.example)
        report = validate(file, against, ValidateConfig(seed=number, quick=True))
        checks = [(group.title, check) for group in report.groups for check in group.checks]
        alarms = [
            f"{title}: {each.name}: {each.message}" for title, each in checks if each.status == "failed"
        ]
        alarms += _run_engines(file, against, pythons, errors)
    return Result(
        form, len(checks), errors, [f"network {number}, {network.about}: {each}" for each in alarms]
    )


def _engines(file: ModelFile, pythons: Sequence[str]) -> Iterator[tuple[str, Callable[[Feeds], Feeds]]]:
    yield "onnxruntime", file.runner()
    with contextlib.suppress(UnsupportedError, MissingDependencyError):
        yield ".lep", file.native_runner()
    for python in pythons:
        yield _version(python), partial(_run_old, python, file.path)


def _version(python: str) -> str:
    return f"onnxruntime {run(python, '-c', 'import onnxruntime; print(onnxruntime.__version__)').strip()}"


def _run_old(python: str, path: Path, feeds: Feeds) -> Feeds:
    calls, results = path.with_suffix(".calls.npz"), path.with_suffix(".results.npz")
    np.savez(calls, **feeds)
    subprocess.run([python, "-c", _OLD, path, calls, results], check=True)
    with np.load(results) as arrays:
        return dict(arrays)


def _run_engines(
    file: ModelFile, against: Expected, pythons: Sequence[str], errors: dict[str, float]
) -> Iterator[str]:
    """Compare every engine with the graph in float64, and replay the golden cases in each."""
    pair = Pair(file.manifest, Graph64(against.exact), against.reference, file.runner())
    cases = [against.cases.case(n, length, at_reset=True, full=True).feeds for n, length in SIZES]
    for name, engine in _engines(file, pythons):
        records = [*itertools.chain(*selftest(file.manifest, engine).cases)]
        # the native engine gives zeros beyond a row's length
        for feeds in [full_length(file.manifest, each) for each in cases] if name == ".lep" else cases:
            records += compare_all(engine(feeds), pair.exact(feeds), pair.limits(feeds))
        errors[name] = max(each.ratio for each in records)
        yield from (f"{name}: {record}" for record in records if not record.ok)


if __name__ == "__main__":
    sys.exit(main())
