"""What does validation find? Healthy networks, spoiled in hundreds of ways, and validated in three modes.

Run it with ``python benchmarks/mutation.py --processes 2``. Every network of ``mutation_networks.py`` is
exported and every class of ``mutation_kinds.py`` applied to the file. How much a mutant truly differs is
judged apart from validation: the file and the float64 module are run on cases of other seeds and sizes, whole
and in pieces, and compared channel by channel, in limits (three noise floors).

Each mutant is validated with ``--quick``, in full, and without a reference. A validation is stopped at its
first failed group. The full mode is only run where the quick one found nothing: all quick checks are among
the full ones but for the long run, a tenth as long.

Prints a table in Markdown and every mutant that survived, and exits with 1 where a target is missed.
"""

import argparse
import contextlib
import json
import math
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mutation_kinds import KINDS, Draft, Kind, NotApplicableError
from mutation_networks import NETWORKS

from lstm_edge_exporters import export
from lstm_edge_exporters.numerics.cases import CaseGenerator, Procedure, in_chunks, whole
from lstm_edge_exporters.numerics.floors import Expected, expected
from lstm_edge_exporters.numerics.function import fixed_axes
from lstm_edge_exporters.numerics.graph64 import Graph64
from lstm_edge_exporters.validate import ReferenceModel, ValidateConfig, open_file
from lstm_edge_exporters.validate.engine import Validation
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import SessionOptions, open_session, run_by_name
from lstm_edge_runtime.tolerance import MULTIPLE

__all__ = ["Bench", "Mutant", "main"]

_SIZES = ((1, 1), (2, 7), (3, 19), (45, 6), (2, 260), (1, 1000), (300, 3))
_SEED = 77_000
"""Of the cases that tell how much a mutant differs; validation draws others."""
_LOUD = 30.0
"""One case has its inputs so many times larger than usual."""
_CHUNKS = (1, 1, 7, 1, 16)
_CRASH = "crash:"
_MODES = ("full", "quick", "alone")
_TARGETS = {"full": 0.995, "quick": 0.99, "alone": 0.95}
"""The least share found of mutants that differ by more than three limits."""


@dataclass
class Mutant:
    """One spoiled file and what became of it."""

    network: str
    group: str
    kind: str
    contract: bool
    draw: int
    ratio: float
    """The largest true difference of a channel, in limits; infinite where it does not run or is NaN."""
    where: str
    quick: str
    """The group that found it; empty where none did."""
    full: str
    alone: str


@dataclass
class Bench:
    """One healthy network."""

    name: str
    content: bytes
    path: Path
    reference: ReferenceModel
    cases: list[tuple[Mapping[str, Array], Procedure, Expected]]

    @classmethod
    def make(cls, name: str, folder: Path) -> "Bench":
        """Export the network and run its float64 module on the cases that tell differences."""
        torch.manual_seed(sum(map(ord, name)))
        module, example, config = NETWORKS[name]()
        artifact = export(module.eval(), example, config)
        path = folder / f"{sum(map(ord, name))}.onnx"
        artifact.save(path)
        file = open_file(path)
        reference = against_module(module, file, example, config=config)
        graph = file.graph64[0]
        assert graph is not None
        return cls(name, path.read_bytes(), path, reference, list(_cases(reference, graph)))

    def judge(self, content: bytes) -> tuple[float, str] | None:
        """Return how many limits a file truly differs by, and where; None where it can't be loaded."""
        try:
            session = open_session(content, SessionOptions())
        except LstmEdgeError:
            return None
        worst, where = 0.0, ""
        for number, (feeds, procedure, known) in enumerate(self.cases):
            try:
                got = procedure(lambda feeds: run_by_name(session, feeds), feeds)
            except Exception:  # noqa: BLE001  onnxruntime raises kinds of its own
                return math.inf, f"case {number} does not run"
            for name, exact in known.ref64.items():
                ratio = _ratio(got[name], exact, MULTIPLE * known.floors[name])
                if ratio > worst:
                    worst, where = ratio, f"{name} in case {number}"
        return worst, where

    def spoil(self, kind: Kind, draw: int, *, modes: Sequence[str] = _MODES) -> Mutant | None:
        """Make one mutant and validate it; None where the class does not apply, or makes no file."""
        rng = np.random.default_rng((draw, *map(ord, self.name + kind.name)))
        draft = Draft(self.content)
        try:
            kind.spoil(draft, rng)
            content = draft.content()
        except (NotApplicableError, IndexError, ValueError):
            return None
        found = (math.inf, "what the file says") if kind.contract else self.judge(content)
        if found is None:
            return None
        self.path.write_bytes(content)
        quick = self.find("quick") if "quick" in modes else ""
        return Mutant(
            self.name,
            kind.group,
            kind.name,
            kind.contract,
            draw,
            *found,
            quick=quick,
            full=quick or (self.find("full") if "full" in modes else ""),
            alone=self.find("alone") if "alone" in modes else "",
        )

    def find(self, mode: str) -> str:
        """Return the first group of checks that fails on the file as it stands; empty where none does."""
        against = None if mode == "alone" else self.reference
        config = ValidateConfig(quick=mode != "full")
        try:
            groups = Validation(open_file(self.path), against, config).groups()
            return next((group.key for group in groups if group.failed), "")
        except LstmEdgeError as error:
            return type(error).__name__
        except Exception as error:  # noqa: BLE001  a bug of validation, and to be seen as one
            return f"{_CRASH} {type(error).__name__}: {error}"


def _cases(
    reference: ReferenceModel, graph: Graph64
) -> Iterator[tuple[Mapping[str, Array], Procedure, Expected]]:
    manifest = reference.manifest
    cases = CaseGenerator.of(manifest, reference.examples, reference.values, _SEED)
    chosen: list[tuple[dict[str, Array], Procedure]] = []
    for place, (n, length) in enumerate(_SIZES):
        case = cases.case(n, length, at_reset=place % 3 == 1, offset=place, full=True)
        chosen.append((dict(case.feeds), whole))
    loud = dict(cases.case(3, 12, at_reset=False, offset=20, full=True).feeds)
    for spec in manifest.data_inputs:
        if np.dtype(spec.dtype).kind == "f":
            loud[spec.name] = loud[spec.name] * np.float32(_LOUD)
    chosen.append((loud, whole))
    steps = sum(_CHUNKS)
    feeds = dict(cases.case(2, steps, at_reset=True, offset=30, full=True).feeds)
    if manifest.lengths is not None:
        feeds[manifest.lengths] = np.full_like(feeds[manifest.lengths], steps)
        chosen.append((_with_nan(manifest, dict(chosen[2][0])), whole))
    if manifest.states and manifest.sequence is not None:
        chosen.append((feeds, in_chunks(manifest, _CHUNKS)))
    for feeds, procedure in chosen:
        with contextlib.suppress(RuntimeError, ValueError, IndexError):  # a size that the network refuses
            yield feeds, procedure, expected(graph, feeds, fixed_axes(manifest), procedure)


def _with_nan(manifest: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    """Put NaN behind every row's length."""
    lengths = feeds[manifest.lengths]
    for spec in manifest.data_inputs:
        batch, time_axis = manifest.batch_axis(spec.axes), manifest.time_axis(spec.axes)
        if batch is not None and time_axis is not None and np.dtype(spec.dtype).kind == "f":
            moved = np.moveaxis(feeds[spec.name].copy(), (batch, time_axis), (0, 1))
            for row, length in enumerate(lengths):
                moved[row, int(length) :] = np.nan
            feeds[spec.name] = np.moveaxis(moved, (0, 1), (batch, time_axis))
    return feeds


def _ratio(got: Array, exact: Array, limits: Array) -> float:
    if got.shape != exact.shape:
        return math.inf
    if not exact.size:
        return 0.0
    difference = np.abs(got.astype(np.float64) - exact)
    difference = np.where(np.isnan(got) & np.isnan(exact), 0.0, difference)
    if np.isnan(difference).any():
        return math.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(difference == 0, 0.0, difference / limits)
    return float(ratio.max())


def _run(name: str, draws: int, kinds: Sequence[int], results: Path | None) -> list[Mutant]:
    """Spoil one network in every way."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(name, Path(folder))
        assert bench.judge(bench.content) is not None
        for index in kinds:
            for draw in range(draws):
                mutant = bench.spoil(KINDS[index], draw)
                if mutant is None:
                    break
                found.append(mutant)
                if results is not None:
                    with results.open("a") as file:
                        file.write(json.dumps(asdict(mutant)) + "\n")
    return found


def _retry(mutants: Sequence[Mutant]) -> list[Mutant]:
    """Validate the mutants of one network again in the modes that they survived in."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    kinds = {kind.name: kind for kind in KINDS}
    found: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(mutants[0].network, Path(folder))
        for mutant in mutants:
            missed = [mode for mode in _MODES if not _finds(mutant, mode)]
            again = bench.spoil(kinds[mutant.kind], mutant.draw, modes=missed) if missed else None
            changes = {mode: getattr(again, mode) for mode in missed} if again else {}
            if changes.get("quick") and "full" in missed:
                changes["full"] = changes["quick"]
            found.append(replace(mutant, **changes))
    return found


def main() -> int:
    """Spoil, validate, and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--draws", type=int, default=1, help="mutants of each class and network")
    options.add_argument("--every", type=int, default=1, help="take each so-manieth class only")
    options.add_argument("--networks", nargs="*", default=list(NETWORKS))
    options.add_argument("--results", type=Path, help="append one JSON line a mutant here")
    options.add_argument("--retry", type=Path, help="validate again what survived in such a file, and add it")
    options.add_argument("--read", type=Path, help="print the table of such a file instead")
    chosen = options.parse_args()
    began = time.perf_counter()
    if chosen.read or chosen.retry:
        lines = (chosen.read or chosen.retry).read_text().splitlines()
        mutants = [Mutant(**json.loads(line)) for line in lines]
    if chosen.retry:
        again = defaultdict(list)
        for mutant in mutants:
            again[mutant.network].append(mutant)
        with ProcessPoolExecutor(chosen.processes) as pool:
            mutants = [mutant for found in pool.map(_retry, again.values()) for mutant in found]
        if chosen.results:
            chosen.results.write_text("".join(json.dumps(asdict(mutant)) + "\n" for mutant in mutants))
    elif not chosen.read:
        kinds = range(0, len(KINDS), chosen.every)
        run = partial(_run, draws=chosen.draws, kinds=kinds, results=chosen.results)
        with ProcessPoolExecutor(chosen.processes) as pool:
            mutants = [mutant for found in pool.map(run, chosen.networks) for mutant in found]
    ok = _print(mutants)
    print(f"\n{len({m.network for m in mutants})} networks, {len({m.kind for m in mutants})} classes, "
          f"{len(mutants)} mutants, {time.perf_counter() - began:.0f} s")  # fmt: skip
    return int(not ok)


def _print(mutants: Sequence[Mutant]) -> bool:
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups[mutant.group].append(mutant)
    computing = [mutant for mutant in mutants if not mutant.contract]
    rows = [(name, found) for name, found in groups.items() if name != "contract"]
    rows += [("**all of these**", computing), ("contract", groups["contract"])]
    print("| group | mutants | within 1 limit | 1 to 3 | beyond 3 | full | --quick | no reference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, found in rows:
        count = Counter(_class(mutant) for mutant in found)
        different = [mutant for mutant in found if mutant.ratio > 3]
        shares = " | ".join(_share(different, mode) for mode in _MODES)
        print(f"| {name} | {len(found)} | {count['same']} | {count['near']} | {len(different)} | {shares} |")
    beyond_ten = [mutant for mutant in computing if mutant.ratio > 10]
    print(f"\nbeyond 10 limits: {', '.join(f'{mode} {_share(beyond_ten, mode)}' for mode in _MODES)}")
    for mode in _MODES:
        for mutant in mutants:
            asked = not (mode == "alone" and mutant.contract)  # only a reference knows these
            if asked and mutant.ratio > 3 and not _finds(mutant, mode):
                about = f"{mutant.ratio:.3g} limits ({mutant.where}) {getattr(mutant, mode)}"
                print(f"- {mode}: {mutant.network}: {mutant.kind}: {about}")
    different = [mutant for mutant in computing if mutant.ratio > 3]
    reached = [_found(different, mode) >= least for mode, least in _TARGETS.items()]
    return all([*reached, _found(beyond_ten, "full") == 1, _found(groups["contract"], "full") == 1])


def _class(mutant: Mutant) -> str:
    return "same" if mutant.ratio <= 1 else "near" if mutant.ratio <= 3 else "different"


def _found(mutants: Sequence[Mutant], mode: str) -> float:
    return sum(_finds(mutant, mode) for mutant in mutants) / len(mutants) if mutants else 1.0


def _finds(mutant: Mutant, mode: str) -> bool:
    found = getattr(mutant, mode)
    return bool(found) and not found.startswith(_CRASH)


def _share(mutants: Sequence[Mutant], mode: str) -> str:
    return f"{_found(mutants, mode):.1%}" if mutants else ""


if __name__ == "__main__":
    sys.exit(main())
