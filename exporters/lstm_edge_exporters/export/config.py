"""Export options: everything that can't be read off the module and its example."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes, Signal, Task, Trained

from ..options import (
    check_options,
    is_axis_name,
    option,
    seed_option,
    stream_option,
)


@dataclass(frozen=True)
class ExportConfig:
    """Options of one export; the defaults suit a module with recurrent layers."""

    inputs: Mapping[str, Axes] = field(default_factory=dict)
    """Axes by parameter of ``forward``, an int if fixed, a name if dynamic:
    ``{"x": ("N", "L", 8)}``. Of an input left out, those axes are dynamic that a
    recurrent layer sees as batch and time."""
    outputs: tuple[str, ...] = ()
    """Names of the outputs, flattened in order. An empty name, or no names at all, takes
    keys and fields, ``h_n`` for the next value of a state ``h_0``, and ``output``,
    ``output_1`` for the rest."""
    states: Mapping[str, str] | None = None
    """Input name to output name of all states among the arguments; None finds them by
    graph and names."""
    stream: bool = stream_option()
    stateless: bool = option(
        False, "Keep absent, zero and learned initial states inside the graph."
    )
    task: Task | None = None
    """Meaning of an output; an empty ``Task.output`` is the first output that is no
    state."""
    signal: Signal = field(default_factory=Signal)
    """Names, sampling rate and window of the input signal."""
    trained: Trained | None = None
    """States in training; None if unknown."""
    checkpoint_sha256: str | None = None
    """Hex digest of the checkpoint of the weights, recorded in the provenance."""
    seed: int = seed_option()

    def __post_init__(self) -> None:
        """Refuse axes, names and seeds out of range; raises InputError."""
        check_options(self)
        if isinstance(self.outputs, str) or not _are_texts(self.outputs):
            raise InputError(
                f'outputs {self.outputs!r}: give a tuple of names, such as ("logits",)'
            )
        if not isinstance(self.inputs, Mapping):
            raise InputError(
                f"inputs {self.inputs!r}: give axes by input name, such as"
                ' {"x": ("N", "L", 8)}'
            )
        for name, axes in self.inputs.items():
            _check_input(name, axes)
        if self.states is not None and not (
            isinstance(self.states, Mapping) and _are_texts(self.states.values())
        ):
            raise InputError(
                f"states {self.states!r}: give output names by input name, such as"
                ' {"h_0": "h_n"}'
            )

    def given_axes(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Axes]:
        """Return the axes of the inputs whose axes are given; ``shapes`` are those of
        the example.
        """
        for name, axes in self.inputs.items():
            if name not in shapes:
                raise InputError(f"input {name!r} is not one of {', '.join(shapes)}")
            pairs = zip(axes, shapes[name], strict=False)
            names = [a for a in axes if isinstance(a, str)]
            fixed = all(isinstance(axis, str) or axis == size for axis, size in pairs)
            if (
                not fixed
                or len(axes) != len(shapes[name])
                or len({*names}) < len(names)
            ):
                raise InputError(
                    f"input {name}: axes {', '.join(map(str, axes))} do not fit the"
                    f" example's {list(shapes[name])}, or one is named twice"
                )
        return {
            name: tuple(self.inputs[name]) for name in shapes if name in self.inputs
        }


def _are_texts(names: object) -> bool:
    """Return True for an iterable of texts."""
    return isinstance(names, Iterable) and all(isinstance(name, str) for name in names)


def _check_input(name: str, axes: object) -> None:
    """Raise InputError if ``axes`` are not numbers and names."""
    is_tuple = isinstance(axes, Sequence) and not isinstance(axes, str)
    if not is_tuple or not all(map(_is_axis, axes)):  # type: ignore[call-overload]
        raise InputError(
            f"input {name}: got axes {axes!r}, expected a positive number for each fixed"
            ' axis and a name for each dynamic one: ("N", "L", 8)'
        )


def _is_axis(axis: object) -> bool:
    """Return True for a positive number and for a name of an axis."""
    if isinstance(axis, str):
        return is_axis_name(axis)
    return isinstance(axis, int) and not isinstance(axis, bool) and axis > 0
