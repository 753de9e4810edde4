"""What does validation find? Healthy networks, spoiled in hundreds of ways, and validated in several modes.

    python -m benchmarks.proof.mutation --processes 2

Every network of ``mutation_networks.py`` is exported and every class of ``mutation_kinds.py`` applied to the
file, that of one unit in the last place ``--ulps`` times. How much a mutant truly differs is judged apart
from validation: its graph is evaluated in float64 on cases of other seeds and sizes, whole and in chunks, and
compared with the healthy graph, as a fraction of each channel's largest value. A mutant that moves by 1e-9
or more differs. One that only float32 shows, as a number that passes through
float16, is judged by the errors of onnxruntime, in limits.

The modes: ``quick`` and ``full`` are ``validate --against`` the module, ``file`` the same against the healthy
file, ``alone`` is ``validate`` without a reference, ``selftest`` the device's. A validation is stopped at its
first failed check, and those that run the file come first. The full mode is only run where the quick one
found nothing.

Prints a table in Markdown and every mutant that survived, and exits with 1 where a target is missed.
"""

import contextlib
import math
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch

from benchmarks.common import parser, print_machine, table
from benchmarks.proof.mutation_kinds import KINDS, Draft, Kind, NotApplicableError
from benchmarks.proof.mutation_networks import NETWORKS
from lstm_edge_exporters import export
from lstm_edge_exporters.export.cast import widened
from lstm_edge_exporters.verify.cases import (
    Procedure,
    fill_rows,
    full_length,
    in_chunks,
    whole,
)
from lstm_edge_exporters.verify.compare import Pair
from lstm_edge_exporters.verify.config import ValidateConfig
from lstm_edge_exporters.verify.expected import Expected, against_file, against_module
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_exporters.verify.validate import Validation
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import LstmEdgeError, UnsupportedError
from lstm_edge_runtime.manifest import Array
from lstm_edge_runtime.ort import SessionOptions, open_session, run_by_name
from lstm_edge_runtime.tolerance import distance

__all__ = ["DIFFERS", "Bench", "Mutant", "main"]

DIFFERS = 1e-9
"""A mutant whose float64 outputs move by this fraction of their range differs."""
_LIMITS = 3.0
"""One that float64 does not show differs if onnxruntime's error exceeds the limit by this factor."""
_SIZES = ((1, 1), (2, 7), (3, 19), (45, 6), (2, 260), (300, 3))
_SEED = 77_000
"""Of the cases that tell how much a mutant differs; validation draws others."""
_LOUD = 30.0
"""One case has its inputs so many times larger than usual."""
_CHUNKS = (1, 1, 7, 1, 16)
_CRASH = "crash:"
_MODES = ("quick", "full", "file", "alone", "selftest")
_TARGETS = {"quick": 1.0, "full": 1.0, "file": 1.0, "alone": 0.95, "selftest": 0.90}
"""The least share found of the mutants that differ; contract mutants are for the first three alone."""


@dataclass
class Mutant:
    """One spoiled file and what became of it."""

    network: str
    name: str
    """Of its class."""
    draw: int
    moved: float
    """The largest difference in float64 as a fraction of its element's range; infinite if it does not run."""
    limits: float
    """The largest error of onnxruntime, in limits."""
    found: dict[str, str]
    """By mode that was run the group or error that found it; empty where none did."""

    @property
    def kind(self) -> Kind:
        """Its class."""
        return next(kind for kind in KINDS if kind.name == self.name)

    @property
    def differs(self) -> bool:
        """Whether it must be found."""
        return self.kind.contract or self.moved >= DIFFERS or self.limits > _LIMITS


@dataclass
class Bench:
    """One healthy network."""

    name: str
    content: bytes
    path: Path
    healthy: Path
    reference: Expected
    pair: Pair
    """The healthy graph."""
    cases: list[tuple[Mapping[str, Array], Procedure, Mapping[str, Array], Mapping[str, Array]]]
    """Inputs, how they are fed, what the healthy graph gives in float64, and the limits of an engine."""

    @classmethod
    def make(cls, name: str, folder: Path) -> "Bench":
        """Export the network and evaluate its graph on the cases that tell differences."""
        torch.manual_seed(sum(map(ord, name)))
        module, example, config = NETWORKS[name]()
        artifact = export(module.eval(), example, config)
        healthy, path = folder / "healthy.onnx", folder / "mutant.onnx"
        artifact.save(healthy)
        file = open_file(healthy)
        reference = against_module(module, file, example, config=config)
        pair = Pair(reference.manifest, Graph64(reference.exact), reference.reference, file.runner())
        return cls(name, artifact.model, path, healthy, reference, pair, list(_cases(reference, pair)))

    def judge(self, content: bytes) -> tuple[float, float] | None:
        """Return how far a file moves in float64, and its error in limits; None where it can't be loaded."""
        try:
            session = open_session(content, SessionOptions())
            graph = Graph64(widened(onnx.load_from_string(content), self.reference.exact))
        except LstmEdgeError as error:
            return (0.0, math.inf) if isinstance(error, UnsupportedError) else None
        moved = limits = 0.0
        for feeds, procedure, known, allowed in self.cases:
            try:
                exact = procedure(graph, feeds)
                got = procedure(lambda feeds: run_by_name(session, feeds), feeds)
            except Exception:  # noqa: BLE001  onnxruntime raises kinds of its own
                return math.inf, math.inf
            for name, healthy in known.items():
                if exact[name].shape != healthy.shape:
                    return math.inf, math.inf
                away = distance(exact[name], healthy)
                moved = max(moved, _largest_ratio(away, self.pair.largest(name, healthy)))
                limits = max(limits, _largest_ratio(distance(got[name], healthy), allowed[name]))
        return moved, limits

    def spoil(self, kind: Kind, draw: int, *, modes: Sequence[str] = _MODES) -> Mutant | None:
        """Make one mutant and validate it; None where the class does not apply, or makes no file."""
        rng = np.random.default_rng((draw, *map(ord, self.name + kind.name)))
        draft = Draft(self.content)
        try:
            kind.spoil(draft, rng)
            content = draft.content()
        except (NotApplicableError, IndexError, ValueError):
            return None
        judged = (math.inf, math.inf) if kind.contract else self.judge(content)
        if judged is None:
            return None
        self.path.write_bytes(content)
        mutant = Mutant(self.name, kind.name, draw, *judged, {})
        for mode in modes if mutant.differs else ():
            if mode != "file" or kind.contract:
                known = mutant.found.get("quick", "") if mode == "full" else ""
                mutant.found[mode] = known or self.find(mode)
        return mutant

    def find(self, mode: str) -> str:
        """Return what is found on the file as it stands; empty where nothing is."""
        try:
            if mode == "selftest":
                with load(self.path) as model:
                    return "" if model.selftest().ok else "selftest"
            file = open_file(self.path)
            against = None if mode == "alone" else self.reference
            if mode == "file":
                against = against_file(self.healthy, file)
            groups = Validation(file, against, ValidateConfig(quick=mode != "full")).groups()
            return next((group.key for group in groups if group.failed), "")
        except LstmEdgeError as error:
            return type(error).__name__
        except Exception as error:  # noqa: BLE001  a bug of validation, and to be seen as one
            return f"{_CRASH} {type(error).__name__}: {error}"


def _cases(
    reference: Expected, pair: Pair
) -> Iterator[tuple[Mapping[str, Array], Procedure, Mapping[str, Array], Mapping[str, Array]]]:
    manifest, cases = reference.manifest, replace(reference.cases, seed=_SEED)

    def draw(n: int, length: int, offset: int, *, at_reset: bool) -> dict[str, Array]:
        return dict(cases.case(n, length, at_reset=at_reset, offset=offset, full=True).feeds)

    chosen: list[tuple[Mapping[str, Array], Procedure]] = [
        (draw(*size, place, at_reset=place % 3 == 1), whole) for place, size in enumerate(_SIZES)
    ]
    loud = draw(3, 12, 20, at_reset=False)
    signals = [spec.name for spec in manifest.data_inputs if np.dtype(spec.dtype).kind == "f"]
    chosen.append((loud | {name: loud[name] * np.float32(_LOUD) for name in signals}, whole))
    if manifest.lengths is not None:
        chosen.append((fill_rows(manifest, chosen[2][0], np.nan, chosen[2][0][manifest.lengths]), whole))
    if manifest.states and manifest.sequence is not None:
        feeds = full_length(manifest, draw(2, sum(_CHUNKS), 30, at_reset=True))
        chosen.append((feeds, in_chunks(manifest, _CHUNKS)))
    for feeds, procedure in chosen:
        with contextlib.suppress(RuntimeError, ValueError, IndexError):  # a size that the network refuses
            yield feeds, procedure, procedure(pair.graph, feeds), pair.limits(feeds, procedure)


def _largest_ratio(differences: Array, scales: Array) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(differences == 0, 0.0, differences / scales).max(initial=0.0))


def _run(name: str, draws: int, ulps: int, kinds: Sequence[int], modes: Sequence[str]) -> list[Mutant]:
    """Spoil one network in every way."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    found: list[Mutant] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench.make(name, Path(folder))
        assert bench.judge(bench.content) is not None
        for index in kinds:
            for draw in range(ulps if KINDS[index].group == "one ULP" else draws):
                mutant = bench.spoil(KINDS[index], draw, modes=modes)
                if mutant is None:
                    break
                found.append(mutant)
    return found


def main() -> int:
    """Spoil, validate, and print the table."""
    options = parser(__doc__)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--draws", type=int, default=1, help="mutants of each class and network")
    options.add_argument("--ulps", type=int, default=20, help="weights of a network to move by one unit")
    options.add_argument("--every", type=int, default=1, help="use every n-th class only")
    options.add_argument("--group", nargs="*", help="classes of these groups only")
    options.add_argument("--modes", nargs="*", choices=_MODES, default=_MODES)
    options.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    chosen = options.parse_args()
    began = time.perf_counter()
    kinds = [
        index
        for index, kind in enumerate(KINDS)
        if index % chosen.every == 0 and (not chosen.group or kind.group in chosen.group)
    ]
    run = partial(_run, draws=chosen.draws, ulps=chosen.ulps, kinds=kinds, modes=chosen.modes)
    with ProcessPoolExecutor(chosen.processes) as pool:
        mutants = [mutant for found in pool.map(run, chosen.networks) for mutant in found]
    missed = _print(mutants)
    print(f"\n{len({m.network for m in mutants})} networks, {len({m.name for m in mutants})} classes, "
          f"{len(mutants)} mutants, {time.perf_counter() - began:.0f} s")  # fmt: skip
    print_machine("onnxruntime", "torch")
    return int(missed)


def _print(mutants: Sequence[Mutant]) -> bool:
    """Print the shares and the survivors; return whether a target is missed."""
    groups: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in mutants:
        groups["fields that nothing reads" if mutant.kind.unread else mutant.kind.group].append(mutant)
    computing = [mutant for mutant in mutants if not mutant.kind.contract]
    groups["**all that compute otherwise**"] = computing
    rows = []
    for name, found in groups.items():
        different = [mutant for mutant in found if mutant.differs]
        rows.append([name, len(found), len(different), *(_share(different, mode) for mode in _MODES)])
    print(table(["group", "mutants", "that differ", *_MODES], rows))
    smallest = min((m.moved for m in computing if m.moved >= DIFFERS), default=math.nan)
    print(f"\nThe smallest move: {smallest:.2g} of a range.")
    below = False
    for kind, found in (("compute otherwise", computing), ("say what is not so", groups["contract"])):
        for mode in _MODES if found is computing else ("quick", "full", "file"):
            ran = [mutant for mutant in found if mutant.differs and mode in mutant.found]
            missed = [mutant for mutant in ran if not _is_found(mutant, mode)]
            if not ran:
                continue
            below |= 1 - len(missed) / len(ran) < _TARGETS[mode]
            print(f"\n{mode}: {len(missed)} of {len(ran)} mutants that {kind} survived")
            for mutant in sorted(missed, key=lambda mutant: -mutant.moved):
                about = (
                    "" if mutant.kind.contract else f", moves {mutant.moved:.2g}, {mutant.limits:.2g} limits"
                )
                crash = mutant.found[mode] and f" ({mutant.found[mode]})"
                print(f"- {mutant.name} in {mutant.network}, draw {mutant.draw}{about}{crash}")
    return below


def _is_found(mutant: Mutant, mode: str) -> bool:
    return bool(mutant.found[mode]) and not mutant.found[mode].startswith(_CRASH)


def _share(mutants: Sequence[Mutant], mode: str) -> str:
    ran = [mutant for mutant in mutants if mode in mutant.found]
    return f"{sum(_is_found(mutant, mode) for mutant in ran) / len(ran):.1%}" if ran else ""


if __name__ == "__main__":
    sys.exit(main())
