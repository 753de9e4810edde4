"""The search: one option at a time, each tried beside the best so far, and at the end beside the defaults."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lstm_edge_exporters.numerics.bootstrap import Interval, ratio_interval
from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    ContractError,
    InputError,
    LstmEdgeError,
    UnsupportedError,
)
from lstm_edge_runtime.ort import SessionOptions
from lstm_edge_runtime.profile import Profile

from .calls import TimedModel
from .objective import Objective
from .rounds import Call

__all__ = ["Candidate", "Outcome", "Trial", "tune"]

_ROUNDS = 9
_GAIN = 0.98
"""A change is kept where all of its interval is below this share of the best so far."""
_SWITCHES = 5
"""Candidates that differ in spinning, arena, memory pattern or optimization; about as many are tried."""
_FINAL_SHARE = 0.25
"""Of the time budget, kept for the last comparison."""


@dataclass(frozen=True)
class Candidate:
    """A file and the options that it is opened with."""

    path: Path
    options: SessionOptions
    engine: str = "onnxruntime"

    def profile(self, goal: str = "", measured: Mapping[str, Any] | None = None) -> Profile:
        """Return the profile that opens the file so."""
        identity = hashlib.sha256(self.path.read_bytes()).hexdigest()
        return Profile(identity, self.options, engine=self.engine, goal=goal, measured=measured or {})

    def open(self) -> Model:
        """Open the file and replay its golden case where it has one.

        Raises:
            LstmEdgeError: it can't be opened so.
            CheckFailedError: its self-test fails so.
        """
        model = load(self.path, profile=self.profile())
        if model.manifest is not None and model.manifest.golden is not None:
            model.selftest().require()
        if model.engine != self.engine:
            raise UnsupportedError(f"the {self.engine} engine does not run it")
        return model

    def __str__(self) -> str:
        options = self.options
        providers = [each if isinstance(each, str) else each[0] for each in options.providers]
        words = [self.path.name, providers[0].removesuffix("ExecutionProvider"), f"threads {options.threads}"]
        words += ["native engine"] if self.engine == "native" else []
        words += [name for name in ("spinning", "arena", "memory_pattern") if getattr(options, name)]
        return ", ".join([*words, options.optimization])


@dataclass(frozen=True)
class Trial:
    """One candidate beside the best so far."""

    candidate: Candidate
    interval: Interval | None
    """Its cost as a share of the best's; None where it was not measured."""
    verdict: str
    """``kept``, ``no gain``, ``not clear``, or why it was not measured."""


@dataclass(frozen=True)
class Outcome:
    """What was found."""

    default: Candidate
    chosen: Candidate
    """The default where nothing beats it."""
    trials: tuple[Trial, ...]
    final: Interval | None
    """The chosen one's cost as a share of the default's, measured again; None where it is the default."""
    cost: float
    """The chosen one's, in the objective's unit."""
    default_cost: float

    @property
    def better(self) -> bool:
        """Whether something beats the defaults beyond noise."""
        return self.chosen != self.default


def tune(
    paths: Sequence[Path],
    objective: Objective,
    seconds: float,
    providers: Sequence[str],
    cores: int,
    engines: Sequence[str] = ("onnxruntime",),
    progress: Callable[[float, str], None] = lambda *_: None,
) -> Outcome:
    """Search the options and files for the smallest cost.

    Args:
        paths: the file, and variants of it that may take its place.
        objective: what to measure.
        seconds: the time budget; candidates that do not fit into it are left out and named.
        providers: those that really work here.
        cores: the most threads to try.
        engines: what may take the steps, the one of the defaults first.
        progress: told the share that is done and what is tried.

    Raises:
        LstmEdgeError: the file can't be opened or streamed as it is.
        ContractError: a variant takes or gives other tensors, or carries no golden case to be verified by.
        InputError: at the objective's rate, two comparisons take longer than the budget.
    """
    started = time.monotonic()
    least = objective.least_seconds * _ROUNDS * 2
    if seconds < 2 * least:
        raise InputError(
            f"at {objective.rate:g} Hz two comparisons take {2 * least:g} s; give --seconds {2 * least:g} "
            "or more"
        )
    with load(paths[0]) as model:
        default = Candidate(paths[0], model.options, engines[0])
    _require_same_interface(paths)
    best = default
    trials: list[Trial] = []
    final = max(seconds * _FINAL_SHARE, least)
    search_end = started + seconds - final
    steps = len(paths) + len(engines) + len(providers) + len(_thread_counts(cores)) + _SWITCHES - 2
    share = max((seconds - final) / steps, least)
    for candidates in _dimensions(paths[1:], providers, cores, engines[1:]):
        base = best
        for candidate in candidates(base):
            progress(min(1.0, len(trials) / steps) * (1 - _FINAL_SHARE), str(candidate))
            if time.monotonic() + share > search_end + share / 2:
                trials.append(Trial(candidate, None, "not tried: the time budget is spent"))
                continue
            trial = _try(candidate, best, objective, share)
            trials.append(trial)
            best = candidate if trial.verdict == "kept" else best
    progress(1 - _FINAL_SHARE, "the best beside the defaults")
    # the search picked the best for being lucky, too
    interval, cost, default_cost = _beside(best, default, objective, final)
    if best == default or interval.high >= 1:
        return Outcome(default, default, tuple(trials), None, default_cost, default_cost)
    return Outcome(default, best, tuple(trials), interval, cost, default_cost)


def _dimensions(
    variants: Sequence[Path], providers: Sequence[str], cores: int, engines: Sequence[str]
) -> Iterator[Callable[[Candidate], list[Candidate]]]:
    """Give, one option after the other, what turns the best so far into candidates."""
    yield lambda best: [replace(best, path=path) for path in variants]
    yield lambda best: [replace(best, engine=name) for name in engines]
    chains = [tuple(dict.fromkeys((name, "CPUExecutionProvider"))) for name in providers]
    yield lambda best: _vary(best, "providers", chains)  # with the CPU behind for what they can't run
    yield lambda best: _vary(best, "threads", _thread_counts(cores))
    yield lambda best: _vary(best, "spinning", [True]) if best.options.threads > 1 else []
    yield lambda best: _vary(best, "arena", [True])
    yield lambda best: _vary(best, "memory_pattern", [True])
    yield lambda best: _vary(best, "optimization", ["EXTENDED", "BASIC", "DISABLE_ALL"])


def _vary(best: Candidate, name: str, values: Sequence[Any]) -> list[Candidate]:
    if best.engine == "native" and name not in ("providers", "threads"):
        return []  # what onnxruntime alone is told
    others = [value for value in values if value != getattr(best.options, name)]
    engine = "onnxruntime" if name == "providers" else best.engine
    return [replace(best, engine=engine, options=best.options._replace(**{name: value})) for value in others]


def _thread_counts(cores: int) -> list[int]:
    return sorted({*(count for count in (1, 2, 4, 8, 16, 32, 64) if count < cores), cores})


def _try(candidate: Candidate, best: Candidate, objective: Objective, seconds: float) -> Trial:
    try:
        interval, _, _ = _beside(candidate, best, objective, seconds)
    except CheckFailedError as error:
        return Trial(candidate, None, f"fails its self-test: {error}")
    except LstmEdgeError as error:
        return Trial(candidate, None, f"does not run: {error}")
    if interval.high < _GAIN:
        return Trial(candidate, interval, "kept")
    verdict = "no gain" if interval.ratio > _GAIN else "not clear: give --seconds more"
    return Trial(candidate, interval, verdict)


def _beside(
    new: Candidate, old: Candidate, objective: Objective, seconds: float
) -> tuple[Interval, float, float]:
    """Measure two candidates in turn; gives the ratio of their costs and the median cost of each."""
    with new.open() as first, old.open() as second:
        calls: list[Call] = []
        for candidate, model in ((new, first), (old, second)):
            calls.append(objective.call(TimedModel(candidate.path.name, candidate.path, model)))
        costs = np.empty((2, _ROUNDS))
        for call in calls:
            call()
        for index in range(_ROUNDS):
            for which in (0, 1) if index % 2 else (1, 0):
                costs[which, index] = objective.cost(calls[which], seconds / _ROUNDS / 2)
    cost, old_cost = (float(value) for value in np.median(costs, axis=1))
    return ratio_interval(costs[0], costs[1], paired=True), cost, old_cost


def _require_same_interface(paths: Sequence[Path]) -> None:
    def shape(path: Path) -> object:
        with load(path, device="cpu", threads=1) as model:
            if len(paths) > 1 and (model.manifest is None or model.manifest.golden is None):
                raise ContractError(
                    f"{path} carries no golden case, so that it can't be verified as a variant"
                )
            return model.inputs, model.outputs, [(state.input, state.axes) for state in model.states]

    first = shape(paths[0])
    for path in paths[1:]:
        if shape(path) != first:
            raise ContractError(
                f"{path} takes or gives other tensors than {paths[0]}; it is no variant of it"
            )
