"""Comparing a measurement with a stored one: regressions beyond noise, or that noise hides the answer.

The two were not measured side by side, so each round's time is first divided by the time of the calibration
workload in that round: a machine that is slower as a whole today does not look like a regression.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge.host import describe_host
from lstm_edge_exporters.bootstrap import Interval, ratio_interval
from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.json_reader import malformed_as, read_json

from .measure import FORMAT

ALLOWED = 0.10
"""Growth that is ignored: two processes of the same program differ by several percent, depending on their
memory layout, and no number of rounds in one process shows that."""


@dataclass(frozen=True)
class Change:
    """One measure of one file against the baseline."""

    file: str
    measure: str
    interval: Interval

    @property
    def slower(self) -> bool:
        """Whether it is slower beyond noise and beyond what is allowed."""
        return self.interval.low > 1 + ALLOWED

    @property
    def unclear(self) -> bool:
        """Whether noise hides a regression: the interval includes both none and a large one."""
        return not self.slower and self.interval.high > 1 + 2 * ALLOWED and self.interval.ratio > 1 + ALLOWED

    def __str__(self) -> str:
        return f"{self.file}: {self.measure} takes {self.interval} times the baseline"


def read_baseline(path: Path, names: Sequence[str], chunk: int) -> dict[str, Any]:
    """Read the output of ``lstm-edge bench --json``.

    Args:
        path: where.
        names: of the files that are to be compared with it.
        chunk: time steps of the chunk that is to be compared with its own.

    Raises:
        NotFoundError: no such file.
        FileFormatError: something else.
        InputError: it was taken on a machine that can't be compared with this one, with another chunk, or of
            none of these files.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; create it with lstm-edge bench --json")
    with malformed_as(FileFormatError, f"{path} is not a measurement", "create it with bench --json"):
        document = read_json(path.read_bytes())
        _check_measures(document)
        host, steps = dict(document["host"]), document["settings"]["plan"]["chunk"]
        common = _pairs(document["files"], [{"name": name} for name in names])
    here = describe_host()
    for key in ("machine", "processor", "cores"):
        if host.get(key) != here[key]:
            raise InputError(
                f"the baseline's {key} is {host.get(key)!r}, this machine's {here[key]!r}; measure one here"
            )
    if steps != chunk:
        raise InputError(f"the baseline's chunk has {steps} steps, not {chunk}; use --chunk {steps}")
    if not common:
        raise InputError(f"the baseline has none of {', '.join(names)}; measure it again")
    return dict(document)


def _check_measures(document: dict[str, Any]) -> None:
    if document["format"] != FORMAT or document["schema"] != 1:
        raise ValueError(f"format {document['format']!r} {document['schema']!r}, expected {FORMAT!r} 1")
    if not [_normalized(document, file, name) for file in document["files"] for name in file["latency_us"]]:
        raise ValueError("it contains no measurements")


def compare_with(baseline: dict[str, Any], now: dict[str, Any]) -> list[Change]:
    """Compare every measure that both have, files by name, or by position if each has only one.

    Raises:
        InputError: they have no measure in common.
    """
    changes = [
        Change(
            new["name"],
            name,
            ratio_interval(_normalized(now, new, name), _normalized(baseline, old, name), paired=False),
        )
        for old, new in _pairs(baseline["files"], now["files"])
        for name in new["latency_us"]
        if name in old["latency_us"]
    ]
    if not changes:
        raise InputError("the baseline and this run have no file and measurement in common; measure it again")
    return changes


def _pairs(old: list[Any], new: list[Any]) -> list[tuple[Any, Any]]:
    if len(old) == len(new) == 1:
        return [(old[0], new[0])]
    by_name = {file["name"]: file for file in old}
    return [(by_name[file["name"]], file) for file in new if file["name"] in by_name]


def _normalized(document: dict[str, Any], file: dict[str, Any], name: str) -> npt.NDArray[np.float64]:
    rounds = np.array(file["latency_us"][name]["rounds_us"], np.float64)
    fixed = np.array(document["calibration_us"], np.float64)
    positive = all((np.isfinite(times) & (times > 0)).all() for times in (rounds, fixed))
    if not rounds.shape == fixed.shape != (0,) or not positive:
        raise ValueError(f"{name}: {rounds.shape} rounds, but {fixed.shape} of the calibration")
    return rounds / fixed
