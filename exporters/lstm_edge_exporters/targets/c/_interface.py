"""What a model is in C: the arrays that a step takes and gives, the states, and their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lstm_edge_exporters.targets.native.compiler import StatePart
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Axes, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.native.past import Past

from ..names import c_identifier, check_project_name

_C_TYPES = {
    "float32": "float",
    "float64": "double",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}_t" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_LOCALS = "all best call difference i lengths next passed state status value work worst wrong"
"""What the templates call their own variables; constants and kernels begin with ``le_``."""


@dataclass(frozen=True)
class StepArray:
    """One array that a step takes or gives."""

    name: str
    """In the ONNX file."""
    symbol: str
    """In C."""
    dtype: str
    """numpy's name."""
    shape: tuple[int, ...]
    """With the batch at 1 and the time axis at the chunk."""
    time_axis: int | None
    """Where time runs in ``shape``; None where it does not."""

    @property
    def size(self) -> int:
        """The number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def c_type(self) -> str:
        """An element's type in C."""
        return _C_TYPES[self.dtype]

    def from_c(self, flat: Array) -> Array:
        """Return an array of C, of ``shape``."""
        array: Array = flat.reshape(self.shape)
        return array


@dataclass(frozen=True)
class StateArray(StepArray):
    """One state, a member of the struct."""

    output: str
    """The graph output that it leaves by."""
    reset: Array
    """Its value at reset, of ``shape``."""
    past: Past | None = None
    """How it is a ring of frames in C."""

    @property
    def size(self) -> int:
        """The number of elements in C."""
        return super().size if self.past is None else self.past.width

    @property
    def start(self) -> Array:
        """Its value at reset in C, ``(size,)``."""
        row: Array = self.to_c(self.reset)[0]
        return row

    def to_c(self, states: Array, steps: int = 0) -> Array:
        """Return states ``(N, ...)`` or ``shape`` of the file as C has them, ``(N, size)``.

        Args:
            states: their values.
            steps: how many there have been since the reset.
        """
        if self.past is not None:
            return self.past.to_rows(states, steps)
        return states.reshape(-1, self.size)

    def from_c(self, flat: Array) -> Array:
        """Return a state of C, of ``shape``."""
        return super().from_c(flat if self.past is None else self.past.from_rows(flat[None]))


@dataclass(frozen=True)
class Interface:
    """The C interface of one model."""

    name: str
    """The prefix of all names, and the header's name."""
    chunk: int
    """Time steps in one call."""
    inputs: tuple[StepArray, ...]
    outputs: tuple[StepArray, ...]
    states: tuple[StateArray, ...]
    lengths: StepArray | None
    """The input with the count of valid steps, always ``chunk``."""
    manifest: Manifest

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each axis that is pinned."""
        return _sizes(self.manifest, self.chunk)

    @property
    def runs(self) -> int:
        """How often a call runs the program: once for each step, or for each unit of steps."""
        return self.chunk // self.manifest.unit

    def frames(self, array: StepArray) -> int:
        """Return how many frames of an input or output belong to one run; 1 where it has no time axis."""
        return 1 if array.time_axis is None else array.shape[array.time_axis] // self.runs

    def early(self, array: StepArray) -> int:
        """Return the age in runs from which on all frames that a call gives of an output mean something."""
        delay = self.manifest.delays.get(array.name, 0)
        if array.time_axis is None:  # it is the last run's
            return max(0, delay - self.runs + 1)
        return -(-delay // self.frames(array))

    @property
    def classes(self) -> StepArray | None:
        """The output with one logit a label; None where the task or the read-out is another."""
        task = self.manifest.task
        if task is None or not task.labels:
            return None
        return next(
            (port for port in self.outputs if port.name == task.output and port.size == len(task.labels)),
            None,
        )


def model_name(given: str) -> str:
    """Return the prefix for a model called ``given``, with ``-``, ``.`` and spaces as ``_``.

    Raises:
        InputError: it is no identifier, a keyword of C or C++, or the name of another header or CMake target.
    """
    advice = "rename the file or give --name"
    name = c_identifier(re.sub(r"[-. ]", "_", given), "the model's name", advice)
    check_project_name(name, advice)
    return name


def build_interface(manifest: Manifest, name: str, chunk: int, parts: Sequence[StatePart] = ()) -> Interface:
    """Work out the interface of a file.

    Args:
        manifest: the file's contract.
        name: the prefix, which ``model_name`` gave.
        chunk: time steps in one call.
        parts: the states of the native program.

    Raises:
        InputError: a state's name that C can't take, or a chunk without a time axis.
        UnsupportedError: an axis that is neither batch nor time, or a dtype that C99 has not.
    """
    if chunk > 1 and manifest.sequence is None:
        raise InputError(f"the chunk is {chunk}, and the file takes one step a call; leave --chunk out")
    if chunk % manifest.unit:
        raise InputError(
            f"the chunk is {chunk}, expected a multiple of {manifest.unit}, the steps of a unit of this file"
        )
    data = list(manifest.data_inputs)
    lengths = [manifest.lengths_input] if manifest.lengths_input else []
    ports = _Ports(manifest, _sizes(manifest, chunk))
    pasts = {part.state.input: part.past for part in parts}
    return Interface(
        name=name,
        chunk=chunk,
        inputs=ports.open(data, "x"),
        outputs=ports.open(manifest.outputs, "y"),
        states=tuple(  # wide numbers first, so that nothing lies between the members of the struct
            sorted(
                (ports.state(spec, pasts.get(spec.input)) for spec in manifest.states),
                key=lambda state: -np.dtype(state.dtype).itemsize,
            )
        ),
        lengths=ports.port(lengths[0], "lengths") if lengths else None,
        manifest=manifest,
    )


def _sizes(manifest: Manifest, chunk: int) -> dict[str, int]:
    sizes = {axis: size for axis, size in ((manifest.batch, 1), (manifest.sequence, chunk)) if axis}
    return sizes | manifest.time_sizes(chunk)


class _Ports:
    """Makes ports of specs, each with a symbol of its own."""

    def __init__(self, manifest: Manifest, sizes: Mapping[str, int]) -> None:
        self._manifest = manifest
        self._sizes = sizes
        self._symbols: dict[str, str] = {}

    def open(self, specs: list[TensorSpec] | tuple[TensorSpec, ...], single: str) -> tuple[StepArray, ...]:
        """Return the ports of all inputs or outputs; one alone is called ``single``."""
        return tuple(
            self.port(spec, single if len(specs) == 1 else self._parameter(spec.name)) for spec in specs
        )

    def port(self, spec: TensorSpec, symbol: str) -> StepArray:
        return StepArray(spec.name, symbol, *self._array(spec.name, spec.dtype, spec.axes))

    def state(self, spec: StateSpec, past: Past | None) -> StateArray:
        dtype, shape, time_axis = self._array(spec.input, spec.dtype, spec.axes)
        reset = np.empty(shape, dtype)
        reset[...] = spec.reset
        symbol = self._symbol(spec.input)
        return StateArray(spec.input, symbol, dtype, shape, time_axis, spec.output, reset, past)

    def _array(self, name: str, dtype: str, axes: Axes) -> tuple[str, tuple[int, ...], int | None]:
        if dtype not in _C_TYPES:
            raise UnsupportedError(f"{name} is {dtype}, which C99 has not; convert the float32 file")
        shape = resolve(axes, self._sizes)
        if shape is None:
            free = next(axis for axis in axes if resolve((axis,), self._sizes) is None)
            raise UnsupportedError(
                f"the axis {free!r} of {name} is free, and C needs its size: only batch and time can be "
                "pinned; export the file with a fixed size there"
            )
        return dtype, shape, self._manifest.time_axis(axes)

    def _parameter(self, name: str) -> str:
        symbol = self._symbol(name)
        return f"{symbol}_" if symbol in _LOCALS.split() or symbol.startswith("le_") else symbol

    def _symbol(self, name: str) -> str:
        symbol = re.sub(r"[^A-Za-z0-9_]", "_", name, flags=re.ASCII).strip("_")
        c_identifier(symbol, f"the name of {name!r} in C", "name it otherwise at export")
        if self._symbols.setdefault(symbol, name) != name:
            raise InputError(
                f"{self._symbols[symbol]!r} and {name!r} are both {symbol} in C; name one otherwise at export"
            )
        return symbol
