"""The manifest: the description of an artifact in its metadata; ``docs/manifest.md``
describes all fields.
"""

import base64
import json
import math
import re
from collections.abc import Mapping
from functools import lru_cache
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

KEY = "lstm_edge"
"""The key in ``metadata_props``."""
SCHEMA = 1
"""The schema version; a reader refuses any other."""

LONGEST = "longest"
"""The axis of an output that ends with the longest row: the time axis if one row is
full."""

Axes = tuple[int | str, ...]
"""Per axis its size, its name if it is dynamic, or a sum of multiples of names:
``"2*N"``, ``"L+P"``."""
Array = npt.NDArray[Any]
_NOTHING: Mapping[str, Any] = {}


def channel_axis(axes: Axes) -> int:
    """Return the index of the features or classes, counted from the end: the last axis
    of fixed size.
    """
    for index in range(-1, -len(axes) - 1, -1):
        if isinstance(axes[index], int):
            return index
    return -1


# named tuples, not dataclasses: making one of those takes 0.4 ms of the time to load
class AxisRange(NamedTuple):
    """The range of sizes of a dynamic axis."""

    least: int = 1
    """Smallest size."""
    most: int | None = None
    """Largest size; None if there is no limit."""
    multiple: int = 1
    """The size is a multiple of this."""

    def nearest(self, size: int) -> int:
        """Return the allowed size nearest to ``size``, the larger of two; ``size``
        itself if allowed.
        """
        low = -(-self.least // self.multiple)
        rounded = max(low, -(-size // self.multiple))
        if self.most is not None:
            rounded = min(rounded, self.most // self.multiple)
        return rounded * self.multiple

    def __str__(self) -> str:
        """Return the range as ``lstm-edge export --input`` takes it: ``16..``,
        ``16..4096:4``.
        """
        step = f":{self.multiple}" if self.multiple > 1 else ""
        return f"{self.least}..{'' if self.most is None else self.most}{step}"


class TensorSpec(NamedTuple):
    """A graph input or output that is not a state."""

    name: str
    """Name in the graph."""
    dtype: str
    """NumPy's name of the element type."""
    axes: Axes
    """Size of each axis, or its name if it is dynamic."""

    @property
    def width(self) -> int | str | None:
        """The size of the axis of features or classes, see ``channel_axis``; None
        without axes.
        """
        return self.axes[channel_axis(self.axes)] if self.axes else None


class StateSpec(NamedTuple):
    """One state: its input, its output, and its reset value."""

    input: str
    """Name of the input."""
    output: str
    """Name of the output with the next value."""
    dtype: str
    """NumPy's name of the element type."""
    axes: Axes
    """Size of each axis, or its name if it is dynamic."""
    reset: float | Array = 0.0
    """One number for all elements, or an array with size 1 for the batch axis."""


class Task(NamedTuple):
    """The meaning of the main output."""

    kind: str
    """``classification`` or ``regression``."""
    output: str = ""
    """Name of the output; for ``export`` empty for the first one."""
    labels: tuple[str, ...] = ()
    """Class names of a classification, or names of values; empty if unknown."""
    units: tuple[str, ...] = ()
    """Units of a regression's values; empty if unknown."""


class Signal(NamedTuple):
    """The input signal; the graph takes raw samples, in these units."""

    features: tuple[str, ...] = ()
    """Names of the input columns."""
    sampling_rate: float | None = None
    """Hertz."""
    window: int | None = None
    """Time steps of a window in training; None if unknown."""
    missing: str = ""
    """How missing values in the training data were handled; empty if there were
    none."""
    full_scale: float | None = None
    """Largest sample of sound: 1.0 for a network trained on WAV files; None if
    unknown."""


class Trained(NamedTuple):
    """States in training: whether a stream may carry them, and for how long."""

    carry: bool
    """True if states were carried from one window to the next; if not, each window
    started from reset."""
    window: int | None
    """Time steps of a window; None for whole samples of several lengths."""
    reset: float
    """Fraction of the training that started from reset, 0 to 1."""


class Golden(NamedTuple):
    """A small recorded case, with which a file verifies any device."""

    inputs: Mapping[str, Array]
    """Every input of the graph."""
    outputs: Mapping[str, Array]
    """Every input and output of the graph; the outputs are rounded from float64."""
    limit: Mapping[str, float] = _NOTHING
    """The absolute limit of an output (int8 and fp16 budgets), instead of
    ``limits``."""
    limits: Mapping[str, Array] = _NOTHING
    """The absolute limits of each output, one per channel, broadcastable against it."""
    more: "tuple[Golden, ...]" = ()
    """Further golden cases."""


ARITHMETIC = ("float32", "float16", "int8", "int8-native")
"""Values of a manifest's ``arithmetic``."""


class Manifest(NamedTuple):
    """The complete description of one artifact."""

    inputs: tuple[TensorSpec, ...]
    """Inputs that are not states, in graph order; ``lengths`` is among them."""
    outputs: tuple[TensorSpec, ...]
    """Outputs that are not states, in graph order."""
    states: tuple[StateSpec, ...] = ()
    """States, in graph order of their inputs."""
    batch: str | None = "N"
    """The name of the batch axis; None for an unbatched file."""
    sequence: str | None = "L"
    """The name of the time axis; None if one call is one step."""
    ranges: Mapping[str, AxisRange] = _NOTHING
    """Range of each dynamic axis that does not take every size."""
    lengths: str | None = None
    """Name of the input with the number of steps of each row, if there is one."""
    padded_states: bool = True
    """True if ``lengths`` stops the layers, so that final states do not include the
    padding."""
    counts: tuple[str, ...] = ()
    """Outputs that count the steps of a call; those of chunks are added up."""
    unstreamable: str = ""
    """Why the file can't be fed in chunks; empty if it can."""
    task: Task | None = None
    """Meaning of the main output; None if unknown."""
    signal: Signal = Signal()
    """The input signal."""
    trained: Trained | None = None
    """States in training; None if unknown."""
    reset_every: int | None = None
    """Number of steps after which a stream is reset, as in training; None for never."""
    precision: str = "fp32"
    """How weights are stored."""
    arithmetic: str = "float32"
    """How engines compute. ``int8``: inputs of layers with int8 weights are quantized,
    by onnxruntime with one scale for all rows of a call. ``int8-native``: by the native
    engine and C alone, per row; onnxruntime computes in float32. Weights that are
    decoded at load are ``float32``."""
    provenance: Mapping[str, Any] = _NOTHING
    """Checkpoint and package versions that the file was made from."""
    equivalence: Mapping[str, Any] = _NOTHING
    """Differences from the reference, measured at export."""
    golden: Golden | None = None
    """The golden case; None if none was recorded."""
    identity: str = ""
    """In native programs, the hash of the ``.onnx`` file that it was made from."""
    unit: int = 1
    """A call takes a multiple of this number of steps."""
    delays: Mapping[str, int] = _NOTHING
    """Delay of each output that has one, in frames (in units for outputs without a time
    axis)."""

    def to_json(self) -> str:
        """Return the JSON text: sorted keys, no clock, the same bytes for the same
        content.
        """
        fields = _encode(self)
        fields["schema"] = SCHEMA
        fields["axes"] = {
            name: fields.pop(name) for name in ("batch", "sequence", "ranges")
        }
        for state, spec in zip(fields["states"], self.states, strict=True):
            state["batch_axis"] = self.batch_axis(spec.axes)
        return json.dumps(
            fields,
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=True,
            allow_nan=False,
        )

    @property
    def data_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs that are neither states nor lengths."""
        return tuple(spec for spec in self.inputs if spec.name != self.lengths)

    @property
    def lengths_input(self) -> TensorSpec | None:
        """The input with each row's count of valid steps, if any."""
        return next((spec for spec in self.inputs if spec.name == self.lengths), None)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Every input of the graph, the states' last."""
        return (
            *(spec.name for spec in self.inputs),
            *(state.input for state in self.states),
        )

    @property
    def output_names(self) -> tuple[str, ...]:
        """Every output of the graph, the states' last."""
        return (
            *(spec.name for spec in self.outputs),
            *(state.output for state in self.states),
        )

    @property
    def axes(self) -> dict[str, Axes]:
        """The axes of every input and output of the graph by name."""
        axes = {spec.name: spec.axes for spec in (*self.inputs, *self.outputs)}
        for state in self.states:
            axes[state.input] = axes[state.output] = state.axes
        return axes

    @property
    def streamable(self) -> bool:
        """True if chunks with carried states equal the full sequence."""
        return bool(self.states) and not self.unstreamable

    @property
    def frames_per_unit(self) -> dict[str, int]:
        """Frames of each output per unit; 1 for one without a time axis."""
        return {spec.name: self.frames_in_unit(spec.axes) for spec in self.outputs}

    def frames_in_unit(self, axes: Axes) -> int:
        """Return the steps or frames on the time axis of ``axes`` per unit; 1 without a
        time axis.
        """
        return max(self._frames(axes, self.unit).values(), default=1)

    @property
    def is_buffered(self) -> bool:
        """True if a stream keeps steps up to a unit, drops first frames, or has other
        frames than steps.
        """
        if self.unit > 1 or self.delays:
            return True
        return any(frames > 1 for frames in self.frames_per_unit.values())

    @property
    def delay_steps(self) -> int:
        """Number of steps by which the outputs of a stream lag, rounded up."""
        frames = self.frames_per_unit
        steps = [
            -(-delay * self.unit // frames[name]) for name, delay in self.delays.items()
        ]
        return max(steps, default=0)

    @property
    def from_reset(self) -> bool:
        """True if training started each window from reset; if unknown, True if it had
        windows.
        """
        if self.trained is None:
            return self.signal.window is not None
        return not self.trained.carry

    def batch_axis(self, axes: Axes) -> int | None:
        """Return the index of the batch axis in ``axes``, or None."""
        return axes.index(self.batch) if self.batch in axes else None

    def time_axis(self, axes: Axes) -> int | None:
        """Return the index of the time axis in ``axes``, or None."""
        names = {self.sequence, *self._frames(axes, 1)}
        if self.lengths:
            names.add(LONGEST)
        indices = [index for index, axis in enumerate(axes) if axis in names]
        return indices[0] if indices else None

    def time_sizes(self, steps: int) -> dict[str, int]:
        """Return the frames of ``steps`` by the name of each time axis of the graph
        that streams.
        """
        sizes: dict[str, int] = {}
        for spec in self.outputs:
            sizes |= self._frames(spec.axes, steps)
        return sizes

    def _frames(self, axes: Axes, steps: int) -> dict[str, int]:
        """Return the frames of ``steps`` on an axis ``L``, ``L/8`` or ``2*L``."""
        sizes: dict[str, int] = {}
        if self.sequence is None:
            return sizes
        for axis in axes:
            rate = _rate_of(axis, self.sequence) if isinstance(axis, str) else None
            if rate is None:
                continue
            frames, per_steps = rate
            if self.unit % per_steps == 0:
                sizes[str(axis)] = frames * steps // per_steps
        return sizes

    @property
    def time_axes(self) -> dict[str, int]:
        """The index of the time axis by the name of each input and output that has one,
        states left out.
        """
        indices = {}
        for spec in (*self.inputs, *self.outputs):
            index = self.time_axis(spec.axes)
            if index is not None:
                indices[spec.name] = index
        return indices

    def rows_of(self, sizes: Mapping[str, int]) -> int:
        """Return the rows of a call with axes of these sizes; 1 without a batch axis."""
        return 1 if self.batch is None else sizes.get(self.batch, 1)

    def steps_of(self, sizes: Mapping[str, int]) -> int:
        """Return the time steps of a call with axes of these sizes; 1 without a time
        axis.
        """
        return 1 if self.sequence is None else sizes.get(self.sequence, 1)

    def axis_sizes(
        self, *, rows: int | None = None, steps: int | None = None
    ) -> dict[str, int]:
        """Return these sizes by the names of the batch and the time axis; an axis
        without a name is left out.
        """
        sizes = {}
        if rows is not None and self.batch is not None:
            sizes[self.batch] = rows
        if steps is not None and self.sequence is not None:
            sizes[self.sequence] = steps
        return sizes

    def lengths_in(self, feeds: Mapping[str, Array]) -> Array | None:
        """Return the valid steps of each row among a call's inputs; None if they are
        not there.
        """
        return None if self.lengths is None else feeds.get(self.lengths)

    def steps(self, feeds: Mapping[str, Array]) -> int:
        """Return the time steps of a call's inputs; 1 if none has a time axis."""
        for name, axis in self.time_axes.items():
            if name in feeds:
                return int(feeds[name].shape[axis])
        return 1

    def states_out(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the states among a call's outputs by input name, for the next call."""
        return {state.input: outputs[state.output] for state in self.states}

    def all_outputs(
        self, outputs: Mapping[str, Array], states: Mapping[str, Array]
    ) -> dict[str, Array]:
        """Return every output of the graph by its name, from what ``Model.run``
        returned.
        """
        last_states = {state.output: states[state.input] for state in self.states}
        return {**outputs, **last_states}


@lru_cache(64)
def _rate_of(axis: str, sequence: str) -> tuple[int, int] | None:
    """Return the frames and steps of an axis ``L``, ``L/8``, ``2*L``, ``3*L/2``; None
    for any other.
    """
    number = r"([1-9]\d{0,8})"
    pattern = rf"(?:{number}\*)?{re.escape(sequence)}(?:/{number})?"
    match = re.fullmatch(pattern, axis)
    return None if match is None else (int(match[1] or 1), int(match[2] or 1))


def _encode(value: Any) -> Any:
    """Return the JSON value of a field."""
    if isinstance(value, np.ndarray):
        little = value.astype(value.dtype.newbyteorder("<"))
        data = base64.b64encode(little.tobytes()).decode("ascii")
        return {"dtype": value.dtype.name, "shape": [*value.shape], "data": data}
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: _encode(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_encode(inner) for inner in value]
    return value


def decode(hint: Any, raw: Any) -> Any:
    """Return JSON as a value of a type: a named tuple, a tuple, a mapping, an array, one
    of several types, or a plain type.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: ``raw`` is of another type.
    """
    if hint is Any:
        return raw
    if hint == Array:
        return _decode_array(raw)
    if hasattr(hint, "_fields"):
        return _decode_fields(hint, raw)
    origin = get_origin(hint)
    types = get_args(hint)
    if origin is UnionType:
        return _decode_union(types, raw)
    if origin is tuple and isinstance(raw, list):
        return tuple(decode(types[0], item) for item in raw)
    if origin is Mapping and isinstance(raw, dict):
        return {name: decode(types[1], item) for name, item in raw.items()}
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:  # a bool is not an int here
        raise TypeError(f"{raw!r:.60}, expected {getattr(hint, '__name__', hint)}")
    return raw


def _decode_fields(record_type: Any, raw: Any) -> Any:
    """Return a named tuple; entries that are not fields are left out."""
    types = _hints(record_type)
    fields = {}
    for name, item in raw.items():
        if name in types:
            fields[name] = decode(types[name], item)
    return record_type(**fields)


def _decode_union(types: tuple[Any, ...], raw: Any) -> Any:
    """Return a value of one of several types: a mapping is of the last, anything else of
    the first.
    """
    if type(raw) in types:
        return raw
    others = [other for other in types if other is not type(None)]
    return decode(others[-1] if isinstance(raw, dict) else others[0], raw)


def _decode_array(raw: Any) -> Array:
    """Return an array from its dtype, shape and base64 bytes."""
    dtype = np.dtype(raw["dtype"])
    shape = raw["shape"]
    data = base64.b64decode(raw["data"], validate=True)
    size = math.prod(shape) * dtype.itemsize
    if dtype.kind not in "fiub" or len(data) != size:
        raise ValueError(f"{len(data)} bytes for {raw['dtype']!r:.40} {shape!r:.40}")
    little = np.frombuffer(data, dtype.newbyteorder("<"))
    array: Array = little.astype(dtype).reshape(shape)
    return array


_hints = lru_cache(get_type_hints)
