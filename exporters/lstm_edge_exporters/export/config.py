"""Export options: everything that can't be read off the module and its example."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes, AxisRange, Signal, Task, Trained

from ..options import check_options, option, seed_option, stream_option


@dataclass(frozen=True)
class ExportConfig:
    """Options of one export; the defaults serve a module whose ``forward`` names its arguments well."""

    inputs: Mapping[str, Axes] = field(default_factory=dict)
    """Axes by input name, an int where fixed, a name where dynamic and a sum of multiples of names where it
    follows from others: ``{"x": ("N", "L", 8), "wave": ("N", "4*L")}``. The names of the inputs
    are those of ``forward``'s parameters. The axes of an input left out are found by tracing: those that a
    recurrent layer sees as its batch and its time are dynamic, the others fixed."""
    ranges: Mapping[str, AxisRange] = field(default_factory=dict)
    """The sizes that dynamic axes shall have, by axis: ``{"L": AxisRange(16, 4096, 4)}``. Those of an axis
    left out are the ones that tracing promises."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs, flattened in order; empty takes dict keys and dataclass fields, ``h_n`` for the
    partner of a state input ``h_0``, and ``output``, ``output_1`` for the rest."""
    states: Mapping[str, str] | None = None
    """Input name to output name of all states that are arguments of ``forward``; None finds them by the graph
    and by names."""
    reset: Mapping[str, float | npt.NDArray[Any]] = field(default_factory=dict)
    """What a state input is at the start of a stream, by input name; 0 where left out."""
    lengths: str | None = None
    """The input with each row's count of valid steps; None takes the one that packing uses."""
    batch: str = "N"
    """The name of the batch axis."""
    sequence: str = "L"
    """The name of the time axis."""
    stream: bool = stream_option()
    stateless: bool = option(False, "Keep absent, zero and learned initial states inside the graph.")
    task: Task | None = None
    """What an output means; with an empty ``Task.output`` it is the first that is no state."""
    signal: Signal = field(default_factory=Signal)
    trained: Trained | None = None
    """Whether training carried states, and over which windows; None where unknown."""
    checkpoint_sha256: str | None = None
    """Hex digest of the checkpoint that the weights come from, kept in the provenance."""
    seed: int = seed_option()

    def __post_init__(self) -> None:
        """Refuse what no export can honor.

        Raises:
            InputError: an axis, name or seed that is out of range, or a reset that is not
                finite.
        """
        check_options(self)
        for role, name in (("batch", self.batch), ("sequence", self.sequence)):
            if not name.isidentifier():
                raise InputError(f"{role} {name!r}: an axis has a plain name, such as N")
        if self.batch == self.sequence:
            raise InputError(f"batch and sequence are both called {self.batch}; name two axes")
        if isinstance(self.outputs, str) or not all(self.outputs):
            raise InputError(f'outputs {self.outputs!r}: give a tuple of names, such as ("logits",)')
        for name, axes in self.inputs.items():
            _check_names(name, axes)
        named = _names(self.inputs)
        for name in (name for name in self.ranges if self.inputs and name not in named):
            raise InputError(f"range {self.ranges[name]} of axis {name}: it is in none of the inputs")
        for name in (name for name, value in self.reset.items() if not np.all(np.isfinite(value))):
            raise InputError(f"reset of {name} is not finite")

    def given_axes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Axes]:
        """Return the axes of the inputs whose axes are given.

        Args:
            shapes: each input's shape in the example.

        Raises:
            InputError: axes for an input that is not there, or that do not fit the example, or none of them
                is called as ``batch`` or ``sequence`` says.
        """
        for name, axes in self.inputs.items():
            _check_axes(name, tuple(axes), shapes)
        known = _names(self.inputs)
        for name, usual in ((self.batch, "N"), (self.sequence, "L")):
            if name != usual and known and name not in known:
                raise InputError(f"axis {name} is in none of the inputs: {', '.join(known)}")
        return {name: tuple(self.inputs[name]) for name in shapes if name in self.inputs}


def _names(inputs: Mapping[str, Axes]) -> dict[str, None]:
    """Return every name in the axes, those inside sums and multiples included."""
    axes = (axis for each in inputs.values() for axis in each if isinstance(axis, str))
    return dict.fromkeys(name for axis in axes for name in parse_sum(axis)[0])


def _check_names(name: str, axes: Axes) -> None:
    if isinstance(axes, str):
        raise InputError(f'input {name}: got axes {axes!r}, expected a tuple such as ("N", "L", 8)')
    for axis in axes:
        fixed = isinstance(axis, int) and axis > 0
        if not fixed and not (isinstance(axis, str) and all(map(str.isidentifier, parse_sum(axis)[0]))):
            raise InputError(
                f"input {name}: axis {axis!r} is neither a positive int nor a plain name, nor a sum "
                "of multiples of names such as 4*L"
            )


def _check_axes(name: str, axes: Axes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if name not in shapes:
        raise InputError(f"input {name!r} is not one of {', '.join(shapes)}")
    fits = len(axes) == len(shapes[name]) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(axes, shapes[name], strict=True)
    )
    if not fits:
        raise InputError(
            f"input {name}: axes {', '.join(map(str, axes))} do not fit the example's {list(shapes[name])}"
        )
    names = [axis for axis in axes if isinstance(axis, str)]
    if len(set(names)) < len(names):
        raise InputError(f"input {name}: axis {max(names, key=names.count)} is named twice")
