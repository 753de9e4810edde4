"""An engine as streams see it.

Inputs and outputs have rows (sources) first and time second, ``(K, L, ...)``, states
the layout of the file.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from .axes import layouts
from .errors import LstmEdgeError
from .manifest import Array, Manifest

Arrays = Mapping[str, Array]


class Call(NamedTuple):
    """A call of one shape for all sources: write ``inputs``, ``run`` it, read
    ``outputs``.
    """

    inputs: dict[str, Array]
    """Arrays to write the inputs to, by name."""
    run: Callable[[], object]
    """Runs the steps, or raises; a true result is a refusal, and ``Engine.refusal``
    returns its error."""
    outputs: dict[str, Array]
    """Arrays with the outputs, by name; the next run overwrites them."""
    sizes: Mapping[str, int]
    """The sizes of the named axes."""


class States(Protocol):
    """The states of some sources, for one thread at a time."""

    @property
    def in_place(self) -> bool:
        """True if a step of all sources is faster as a bound call than by ``run``."""
        ...

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Return a call of all sources for named axes of these sizes."""
        ...

    def run(
        self, rows: Array, inputs: Arrays, sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take steps of the sources at ``rows (K,)``, or raise and change no state;
        return the outputs.
        """
        ...

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of the states of some sources, in the layout of the file."""
        ...

    def write(self, rows: Array, states: Arrays) -> None:
        """Set the states of some sources."""
        ...


class Window(Protocol):
    """Calls of full windows of the samples of one source."""

    @property
    def outputs(self) -> Arrays:
        """The outputs of the last call, rows first."""
        ...

    def run(self, start: int) -> None:
        """Run the window from sample ``start`` on, from the reset state, or raise."""
        ...


class Engine:
    """An opened model file. Nothing in it changes, so that any number of threads may
    share it.
    """

    name: str
    """``onnxruntime`` or ``native``."""
    couples_rows = False
    """True if the rows of a call share the scales of quantized values, so that NaN in
    one reaches others."""
    reads_windows = False
    """True if ``window`` runs windows in memory of the caller."""

    def __init__(self, manifest: Manifest) -> None:
        """Lay out the inputs that are neither states nor lengths, and the outputs."""
        self.manifest = manifest
        self.inputs = layouts(manifest.data_inputs, manifest)
        self.outputs = layouts(manifest.outputs, manifest)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run whole sequences from every input of the graph to every output, in the
        file's layout.
        """
        raise NotImplementedError

    def states(self, rows: int | None) -> States:
        """Return the states of ``rows`` sources at reset; None stands for a single
        source.
        """
        raise NotImplementedError

    def window(self, samples: Array, steps: int) -> Window:
        """Return calls of windows of ``steps`` of the only input, which lie in
        ``samples (1, L, ...)``, where ``reads_windows`` is true.
        """
        raise NotImplementedError

    def refusal(self) -> LstmEdgeError:
        """Return the error for a bound call whose result was true."""
        raise NotImplementedError
