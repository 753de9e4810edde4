"""The engines as streams see them: the states of their sources, and calls that are bound once per shape.

Inputs and outputs have rows (sources) first and time second, ``(K, L, ...)``, states the layout of the file.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from .axes import layouts
from .manifest import Array, Manifest

Arrays = Mapping[str, Array]


class Call(NamedTuple):
    """A call of one shape for all sources: write ``inputs``, ``run`` it, read ``outputs``."""

    inputs: dict[str, Array]
    run: Callable[[], object]
    """Takes the steps. What is true is a refusal, for which ``States.refusal`` returns the error."""
    outputs: dict[str, Array]


class States(Protocol):
    """The states of some sources, on the device that computes. For one thread at a time."""

    in_place: bool
    """Whether a step of all sources is quicker as a bound call than by ``run``."""

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Return a call of all sources for named axes of these sizes."""

    def run(self, rows: Array, inputs: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Take steps of the sources at the indices ``rows (K,)``; return the outputs by name.

        A refusal raises, and then no state has changed.
        """

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of the states of some sources."""

    def write(self, rows: Array, states: Arrays) -> None:
        """Set the states of some sources."""

    def refusal(self) -> Exception:
        """Return the error for a bound call that was refused."""


class Engine:
    """An opened model file. Nothing in it changes, so that any number of threads may share it."""

    couples_rows = False
    """Whether the rows of a call share the scales of quantized values, so that NaN in one reaches others."""

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the inputs that are neither states nor lengths, and the outputs."""
        self.manifest = manifest
        self.inputs = layouts(manifest.data_inputs, manifest)
        self.outputs = layouts(manifest.outputs, manifest)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run whole sequences from every input of the graph to every output, in the file's layout."""
        raise NotImplementedError

    def states(self, rows: int | None) -> States:
        """Return the states of ``rows`` sources at reset; None for the single one of a plain stream."""
        raise NotImplementedError
