"""What every group works on: the file, its reference, and cases drawn for both."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Manifest

from ..numerics.cases import CaseGenerator
from ..numerics.noise import PerturbableReference, whole
from ..quantization import Samples
from ._budgets import usual_scale
from ._file import ModelFile, Runner
from ._judge import Feeds, FileFailedError, Judge, Measured, Protocol, RefusedError
from ._rows import row_by_row
from .config import ValidateConfig
from .report import Check

__all__ = ["Against", "Subject"]

Array = npt.NDArray[Any]

_SALT = 9000
"""Draws that belong to no group."""
_USUAL = 32
"""How many samples of the data say what is usual."""


@dataclass(frozen=True)
class Against:
    """What a file is compared with."""

    reference: PerturbableReference
    about: str
    """What it is, in words."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: Mapping[str, int] = field(default_factory=dict)
    """How many recurrent layers of each kind (``LSTM``, ``GRU``, ``RNN``) it has."""
    examples: Mapping[str, Array] = field(default_factory=dict)
    """Values as they really come, by input name."""
    values: Mapping[str, int] = field(default_factory=dict)
    """How many values are valid, by the name of an input that is an index."""
    sha256: str = ""
    """Of the checkpoint, where there is one."""


class Subject:
    """A file that can be fed, beside its reference."""

    def __init__(self, file: ModelFile, against: Against, config: ValidateConfig) -> None:
        self.file = file
        self.contract = file.contract
        self.against = against
        self.config = config
        self.run = file.runner()
        """The file, in one call."""
        self.figures: dict[str, Any] = {}
        """Filled by the groups: the fields of ``Figures``."""
        self._cases = _case_generator(self.contract, against, config.seed)
        self.judge = Judge(against.reference, self.contract, config, self._scales(against.reference))
        self.run_alone = row_by_row(self.contract, self.run) if self.judge.budgets else self.run
        """The file with no rows that share a call where that changes results, as ranges in int8 do."""

    def draw(
        self, n: int, length: int, salt: int, *, fresh: bool = False, full: bool = True
    ) -> dict[str, Array]:
        """Draw the inputs of a case of ``n`` rows and ``length`` steps; the same ones for the same salt."""
        return dict(self._cases.case(n, length, at_reset=fresh, offset=salt, full=full).feeds)

    def rng(self, *key: int) -> np.random.Generator:
        """Return a generator of its own for ``key``."""
        return np.random.default_rng((self.config.seed, *key))

    def signals(self) -> list[str]:
        """Return the names of the float inputs that are neither states nor lengths."""
        return [
            spec.name
            for spec in self.contract.inputs
            if spec.name != self.contract.lengths and np.dtype(spec.dtype).kind == "f"
        ]

    def check(self, name: str, feeds: Feeds, protocol: Protocol = whole, run: Runner | None = None) -> Check:
        """Compare the file with its reference on one case.

        A case that the reference itself refuses or overflows on is skipped with the reason; one that the
        file can't run has failed.
        """
        began = time.perf_counter()
        try:
            measured = self.judge.measure(run or self.run, feeds, protocol)
        except RefusedError as error:
            return Check(name, "skipped", str(error))
        except FileFailedError as error:
            return Check(name, "failed", str(error))
        return self.verdict(name, measured, began)

    def verdict(self, name: str, measured: Measured, began: float) -> Check:
        """Return the check of what was measured since ``began`` (``time.perf_counter``)."""
        failed = [str(each) for each in measured.records if not each.ok]
        if not failed and (lost := self.judge.lost(measured)):
            return Check(name, "skipped", lost)
        return Check(
            name,
            "failed" if failed else "passed",
            "; ".join(failed),
            measured.worst,
            time.perf_counter() - began,
        )

    def sample_batches(self, most: int, size: int) -> Iterator[tuple[list[int], dict[str, Array]]]:
        """Return at most ``most`` samples of the data, evenly spread, in batches from reset states.

        Samples of unequal length share a batch only where the file takes lengths.

        Raises:
            InputError: the data's inputs are not the file's.
        """
        data = self.config.data
        assert data is not None
        wanted = {spec.name for spec in self.contract.inputs} - {self.contract.lengths}
        if set(data.inputs) != wanted:
            raise InputError(
                f"the data has {sorted(data.inputs)}, the file takes {sorted(wanted)}; name each once"
            )
        count = len(next(iter(data.inputs.values())))
        chosen = [round(place) for place in np.linspace(0, count - 1, min(count, most))]
        lengths = None if self.contract.lengths is not None else data.lengths
        by_length: dict[int, list[int]] = {}
        for index in chosen:
            by_length.setdefault(0 if lengths is None else int(lengths[index]), []).append(index)
        size = size if self.contract.batch is not None else 1
        for length, indices in by_length.items():
            for start in range(0, len(indices), size):
                part = indices[start : start + size]
                yield part, self._samples(data, part, length)

    def timeline(self, steps: int) -> dict[str, Array]:
        """Return one row of ``steps`` time steps of the data, its samples on end, from reset states."""
        contract = self.contract
        samples = [feeds for _, feeds in self.sample_batches(steps, 1)]
        joined = dict(samples[0])
        for spec in contract.inputs:
            if contract.sequence in spec.axes:
                axis = spec.axes.index(contract.sequence)
                every = np.concatenate([self._valid(feeds, spec.name, axis) for feeds in samples], axis)
                joined[spec.name] = every.take(np.arange(steps) % every.shape[axis], axis)
        return joined

    def _samples(self, data: Samples, indices: Sequence[int], length: int) -> dict[str, Array]:
        contract = self.contract
        feeds = self.draw(len(indices), 1, _SALT, fresh=True)
        for spec in contract.inputs:
            if spec.name == contract.lengths:
                continue
            rows = data.inputs[spec.name][indices]
            row_axes = [axis for axis in spec.axes if axis != contract.batch]
            if contract.sequence in row_axes:
                along = 1 + row_axes.index(contract.sequence)
                steps = rows.shape[along]
                rows = rows.take(range(length or steps), axis=along)
                if contract.lengths is not None:
                    valid = np.full(len(indices), steps) if data.lengths is None else data.lengths[indices]
                    feeds[contract.lengths] = np.asarray(valid, dtype=feeds[contract.lengths].dtype)
            if contract.batch in spec.axes:
                rows = np.moveaxis(rows, 0, spec.axes.index(contract.batch))
            else:
                rows = rows[0]
            feeds[spec.name] = rows.astype(spec.dtype)
        return feeds

    def _valid(self, feeds: Feeds, name: str, axis: int) -> Array:
        """Return what of a sample is not padding."""
        if self.contract.lengths is None:
            return feeds[name]
        return feeds[name].take(range(int(feeds[self.contract.lengths][0])), axis)

    def _scales(self, reference: PerturbableReference) -> dict[str, float]:
        """Return each output's usual scale, on a drawn batch and on data where it is given."""
        states = {state.output for state in self.contract.states}
        scales: dict[str, float] = {}
        cases = [self.draw(8, 32, _SALT + 1, fresh=True)]
        if self.config.data is not None:
            cases += [feeds for _, feeds in self.sample_batches(_USUAL, _USUAL)]
        for feeds in cases:
            with contextlib.suppress(RuntimeError, ValueError, IndexError):  # a reference of fixed sizes
                for name, array in reference.run(feeds).items():
                    if array.size:
                        scale = usual_scale(array, state=name in states)
                        scales[name] = max(scale, scales.get(name, 0.0))
        return scales


def _case_generator(contract: Manifest, against: Against, seed: int) -> CaseGenerator:
    """Generate at the scale of the reference's example, or of the golden case's inputs."""
    examples = dict(contract.golden.inputs if contract.golden else {}) | dict(against.examples)
    cases = CaseGenerator.of(contract, examples, against.values, seed)
    try:
        for offset in range(3):
            against.reference.run(cases.case(4, 9, at_reset=True, offset=offset).feeds)
    except RuntimeError as error:
        if "enforce_sorted" in str(error):
            return cases.with_sorted_lengths()
    except Exception:  # noqa: BLE001 - a size that the reference refuses; the groups will say so
        return cases
    return cases
