"""How often does validation alarm on healthy files? Random networks of every kind, exported and validated.

Run it with ``python benchmarks/false_alarms.py --models 200``. Three families take turns: the generated
forms of a recurrent layer (``recurrent_matrix.py``), ``LSTM1`` with random options, sizes and sensor
scales, and modules written the way people write them (``tests/exporters/people.py``). Their weights are
PyTorch's initial ones times a random factor from 0.3 to 4, so that gates saturate and states run free in
some.
A network that the exporter refuses is reported and replaced by another.
Prints a table in Markdown and exits with 1 on any alarm.
"""

import argparse
import importlib.util
import itertools
import json
import sys
import tempfile
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, Scale
from lstm_edge.deploy import deployable
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.validate import ValidateConfig, open_file, validate
from lstm_edge_exporters.validate.module import against_module
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import Task

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
Made = tuple[nn.Module, Any, ExportConfig]


@dataclass
class Tally:
    """What one family's models gave."""

    models: int = 0
    checks: int = 0
    skipped: int = 0
    redrawn: int = 0
    alarms: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    ratios: list[float] = field(default_factory=list)
    nearest: str = ""
    """The passed check that was nearest to its limit."""


def main() -> int:
    """Validate ``--models`` random networks and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--models", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, nargs="*", help="these models of the run, by their numbers")
    options.add_argument("--full", action="store_true", help="full validation instead of --quick")
    options.add_argument("--json", type=Path, help="where to write the figures")
    chosen = options.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    families: dict[str, Callable[[np.random.Generator], Made]] = {
        "recurrent forms": _form,
        "LSTM1": _lstm1,
        "people's modules": _person,
    }
    tallies: dict[str, Tally] = defaultdict(Tally)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        for number in chosen.only or itertools.count():
            name = list(families)[number % len(families)]
            rng = np.random.default_rng((chosen.seed, number))
            torch.manual_seed(int(rng.integers(2**31)))
            _examine(tallies[name], families[name](rng), path, number, quick=not chosen.full)
            done = sum(tally.models for tally in tallies.values())
            print(f"\r{done}/{chosen.models}", end="", file=sys.stderr, flush=True)
            if done == chosen.models:
                break
    print(file=sys.stderr)
    _print(tallies)
    print(f"\n{'full' if chosen.full else 'quick'} validation, seed {chosen.seed}, "
          f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    if chosen.json:
        figures = {name: vars(tally) for name, tally in tallies.items()}
        chosen.json.write_text(json.dumps(figures, indent=2, default=dict))
    return int(any(tally.alarms for tally in tallies.values()))


def _examine(tally: Tally, made: Made, path: Path, number: int, *, quick: bool) -> None:
    module, example, config = made
    try:
        export(module, example, config).save(path)
    except LstmEdgeError as error:
        tally.refused[f"model {number}: {error}"] += 1
        return
    file = open_file(path)
    report = validate(file, against_module(module, file, example), ValidateConfig(seed=number, quick=quick))
    tally.models += 1
    tally.checks += report.count("passed") + report.count("failed")
    tally.skipped += report.count("skipped")
    tally.redrawn += report.redrawn
    for group in report.groups:
        for check in group.checks:
            if check.worst:
                if check.worst.ratio >= max(tally.ratios, default=0.0):
                    tally.nearest = f"model {number}: {group.title}: {check.name}: {check.worst}"
                tally.ratios.append(check.worst.ratio)
    tally.alarms += [
        f"model {number}: {group.title}: {check.name}: {check.message}" for group, check in report.failures
    ]


def _print(tallies: dict[str, Tally]) -> None:
    print("| family | models | checks | floors redrawn | median of limit | largest of limit | alarms |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, tally in tallies.items():
        median, largest = np.median(tally.ratios), max(tally.ratios, default=0.0)
        print(
            f"| {name} | {tally.models} | {tally.checks} | {tally.redrawn} | {median:.2f} | {largest:.2f} "
            f"| {len(tally.alarms)} |"
        )
    for tally in tallies.values():
        for line in (f"nearest: {tally.nearest}", *tally.alarms, *tally.refused):
            print(f"- {line}")


def _form(rng: np.random.Generator) -> Made:
    matrix = _load(ROOT / "benchmarks" / "recurrent_matrix.py")
    every = list(matrix.cells())
    cell = every[rng.integers(len(every))]
    module = matrix.Recurrent(cell).eval()
    return (
        _scaled(module, rng),
        matrix.draw(cell, *matrix.TRACED, torch.Generator().manual_seed(1)),
        ExportConfig(),
    )


def _lstm1(rng: np.random.Generator) -> Made:
    hidden, width = int(rng.choice([1, 3, 8, 32, 128])), int(rng.integers(1, 17))
    layers = int(rng.integers(1, 4))
    options = {
        "readout": str(rng.choice(["stacked", "last"])),
        "bias": bool(rng.random() < 0.8),
        "batch_first": bool(rng.random() < 0.8),
        "bidirectional": bool(rng.random() < 0.3),
        "proj_size": int(rng.integers(1, hidden)) if hidden > 1 and rng.random() < 0.3 else 0,
    }
    classes = int(rng.integers(1, 9))
    network = _scaled(LSTM1(classes, width, hidden, layers, 50, **options).eval(), rng)
    scales = [
        Scale(tuple(rng.normal(0, 100, size)), tuple(10.0 ** rng.uniform(-3, 3, size)))
        if rng.random() < 0.5
        else None
        for size in (width, classes)
    ]
    kind = "classification" if scales[1] is None else "regression"
    run = Run(network, task=Task(kind, "logits"), inputs=scales[0], targets=scales[1])
    return deployable(run, lengths=bool(rng.random() < 0.5))


def _person(rng: np.random.Generator) -> Made:
    people = _load(ROOT / "tests" / "exporters" / "people.py").PEOPLE
    person = people[rng.integers(len(people))]
    return _scaled(person.module().eval(), rng), person.example, ExportConfig()


def _scaled(module: nn.Module, rng: np.random.Generator) -> Any:
    """Multiply the weights by one factor; what has trained statistics stays as it is."""
    factor = float(np.exp(rng.uniform(np.log(0.3), np.log(4.0))))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter *= factor
    return module


def _load(path: Path) -> Any:
    if path.stem not in sys.modules:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None  # noqa: PT018
        sys.modules[path.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[path.stem])
    return sys.modules[path.stem]


if __name__ == "__main__":
    sys.exit(main())
