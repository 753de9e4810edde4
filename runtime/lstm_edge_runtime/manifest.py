"""The manifest: the description of an artifact, stored in its ONNX ``metadata_props``.

One JSON text under the key ``lstm_edge``, so that onnxruntime alone can read it
(``session.get_modelmeta().custom_metadata_map["lstm_edge"]``). ``docs/manifest.md`` describes it for
readers in other languages. Nothing in it depends on the clock or the machine: the same model gives the
same text.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import InputError, ManifestError, UnsupportedError, counted
from .json_reader import (
    decode_array,
    encode_array,
    malformed_as,
    number,
    read_json,
    text,
    text_or_none,
    texts,
)

KEY = "lstm_edge"
"""The key in ``metadata_props``."""
SCHEMA = 1
"""The schema version; a reader refuses any other."""

LONGEST = "longest"
"""The axis of an output that ends with the longest row: the time axis where one row is full."""

Axes = tuple[int | str, ...]
"""One entry an axis: an int where it is fixed, a name where it is dynamic (``"N"``, ``"L"``), or a sum of
multiples of names where it follows from other axes (``"2*N"``, ``"4*L"``, ``"L+P"``)."""
Array = npt.NDArray[Any]
_NOTHING: Mapping[str, Any] = {}


def channel_axis(axes: Axes) -> int:
    """Return the index of the features or classes, counted from the end: the last axis of fixed size."""
    return next((place for place in range(-1, -len(axes) - 1, -1) if isinstance(axes[place], int)), -1)


# named tuples, not dataclasses: making one of those takes 0.4 ms of the time to load
class AxisRange(NamedTuple):
    """The range of sizes of a dynamic axis."""

    least: int = 1
    most: int | None = None
    """None if there is no upper limit."""
    multiple: int = 1
    """Every size is a multiple of it."""

    def nearest(self, size: int) -> int:
        """Return the allowed size nearest to ``size``, of two the larger; ``size`` itself where allowed."""
        low = -(-self.least // self.multiple)
        rounded = max(low, -(-size // self.multiple))
        if self.most is not None:
            rounded = min(rounded, self.most // self.multiple)
        return rounded * self.multiple

    @classmethod
    def parse(cls, text: str) -> "AxisRange":
        """Read ``16..``, ``16..4096`` or ``16..4096:4``.

        Raises:
            InputError: it is none of these, or holds no size.
        """
        ends, _, multiple = text.partition(":")
        least, mark, most = ends.partition("..")
        numbers = [part for part in (least, most, multiple) if part]
        if mark and least and all(part.isascii() and part.isdecimal() and int(part) for part in numbers):
            found = cls(int(least), int(most) if most else None, int(multiple or 1))
            if found.nearest(1) >= found.least:
                return found
        raise InputError(f"got range {text!r}, expected LEAST..[MOST][:MULTIPLE] such as 16.. or 16..4096:4")

    def __str__(self) -> str:
        """Return the range as ``lstm-edge export --input`` takes it: ``16..``, ``16..4096:4``."""
        step = f":{self.multiple}" if self.multiple > 1 else ""
        return f"{self.least}..{'' if self.most is None else self.most}{step}"


class TensorSpec(NamedTuple):
    """A graph input or output that is not a state."""

    name: str
    dtype: str
    """numpy's name: ``float32``, ``int64``."""
    axes: Axes

    @property
    def width(self) -> int | str | None:
        """The size of the axis of features or classes, see ``channel_axis``; None without axes."""
        return self.axes[channel_axis(self.axes)] if self.axes else None


class StateSpec(NamedTuple):
    """One state: its input, its output, and its reset value."""

    input: str
    output: str
    dtype: str
    axes: Axes
    """For LSTM1 ``(layers*D, "N", H)``; the batch axis is the one named as ``batch``."""
    reset: float | Array = 0.0
    """One number for all elements, or an array of the axes' shape with size 1 for the batch axis."""


class Task(NamedTuple):
    """The meaning of the main output."""

    kind: str
    """``classification`` (logits) or ``regression``."""
    output: str
    """The name of the output that carries the logits or the predicted values, ``(rows, C)``."""
    labels: tuple[str, ...] = ()
    """Class names in the order of the logits, for classification."""
    units: tuple[str, ...] = ()
    """The unit of each predicted value, for regression; empty where unknown."""


class Signal(NamedTuple):
    """The input signal; the graph takes raw samples, in these units."""

    features: tuple[str, ...] = ()
    sampling_rate: float | None = None
    """Hertz."""
    window: int | None = None
    """Time steps in a training window."""
    missing: str = ""
    """How missing features of the training data were handled; empty if none were missing."""


class Trained(NamedTuple):
    """States in training: whether a stream may carry them, and for how long."""

    carry: bool
    """Whether states were carried from one window to the next; if not, each window started from reset."""
    window: int | None
    """Time steps of a window; None if whole samples of varying length were used."""
    reset: float
    """Fraction of the lanes that started from reset, 0 to 1; 1 for windows from reset."""

    @classmethod
    def decode(cls, raw: Mapping[str, Any]) -> "Trained":
        """Read what ``_asdict`` gave from JSON; ``TypeError`` or ``KeyError`` for all else."""
        carry, window, reset = raw["carry"], raw["window"], number(raw["reset"])
        size = window is None or (type(window) is int and 0 < window < 1 << 31)
        if type(carry) is not bool or not size or not 0 <= reset <= 1:
            raise TypeError(f"trained {raw!r:.80}")
        return cls(carry, window, reset)

    def __str__(self) -> str:
        """Return it in words."""
        what = "whole samples" if self.window is None else f"windows of {counted(self.window, 'step')}"
        return (
            f"{what}, {f'states carried, {100 * self.reset:g}% from reset' if self.carry else 'from reset'}"
        )


class Golden(NamedTuple):
    """A small recorded case with which a device can be verified from the file alone."""

    inputs: Mapping[str, Array]
    """Every graph input, states and lengths included; more than one time step where the file has any."""
    outputs: Mapping[str, Array]
    """The reference's outputs: its float64 run, rounded to the file's dtype."""
    floor: Mapping[str, float]
    """Per output: the largest noise floor of its channels."""
    limit: Mapping[str, float] = _NOTHING
    """Per output: an absolute limit that replaces the policy's (int8 and fp16 budgets)."""
    limits: Mapping[str, Array] = _NOTHING
    """Per output: the policy's absolute limits, one a channel; each broadcasts against its output."""
    more: tuple["Golden", ...] = ()
    """Further cases, of other sizes."""


class Manifest(NamedTuple):
    """The complete description of one artifact."""

    inputs: tuple[TensorSpec, ...]
    """Inputs that are not states, in graph order; ``lengths`` (int64 or int32 ``(N,)``) is among them."""
    outputs: tuple[TensorSpec, ...]
    states: tuple[StateSpec, ...] = ()
    batch: str | None = "N"
    """The name of the batch axis; None for an unbatched file."""
    sequence: str | None = "L"
    """The name of the time axis; None if one call is one step."""
    ranges: Mapping[str, AxisRange] = _NOTHING
    """The sizes that a dynamic axis may have, by its name; an axis left out takes any size from 1."""
    lengths: str | None = None
    """The name of the input with the number of valid steps of each row, if any."""
    padded_states: bool = True
    """Whether a row's states stop at its length; where not, unequal chunks can't be padded to one."""
    counts: tuple[str, ...] = ()
    """Outputs that count a call's steps, such as the lengths that an encoder passes on: those of chunks add
    up."""
    unstreamable: str = ""
    """Why chunks with carried states do not equal the whole sequence (a bidirectional layer, say); empty
    where they do."""
    task: Task | None = None
    signal: Signal = Signal()
    trained: Trained | None = None
    """None if unknown."""
    precision: str = "fp32"
    """``fp32``, ``fp64``, ``fp16`` or ``int8``."""
    int8_activations: bool = False
    """Whether engines may quantize what goes into GRU and RNN layers with int8 weights, each row and step by
    itself, as in an int8 LSTM; onnxruntime has no such layers."""
    provenance: Mapping[str, Any] = _NOTHING
    """``checkpoint_sha256``, ``versions`` (package to version), ``opset``, notes of the exporter."""
    equivalence: Mapping[str, Any] = _NOTHING
    """Measurements at export: ``cases``, ``max_abs``, ``max_rel``, ``floor``, ``ratio``, ``worst``."""
    golden: Golden | None = None
    identity: str = ""
    """In a converted file, the identity of the ``.onnx`` file that it was made from: states move between
    them."""
    unit: int = 1
    """A call takes a multiple of this number of steps."""
    delays: Mapping[str, int] = _NOTHING
    """Delay of each output that has one, in frames (in units for outputs without a time axis): frame j of
    the full sequence is frame ``j + delay`` of a stream, and those in front of the first one mean nothing."""

    def to_json(self) -> str:
        """Return the JSON text: sorted keys, no clock, the same bytes for the same content."""
        import json

        return json.dumps(
            _encode(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Read what ``to_json`` wrote.

        Raises:
            ManifestError: not JSON, an unknown schema, or a field that is missing or of another type.
        """
        with malformed_as(ManifestError, "the manifest is not JSON", "export the model again"):
            raw = read_json(text)
        if not isinstance(raw, dict) or type(raw.get("schema")) is not int:
            raise ManifestError("the manifest has no integer 'schema'; export the model again")
        if raw["schema"] != SCHEMA:
            raise ManifestError(
                f"the manifest has schema {raw['schema']}, expected {SCHEMA}; export the model again"
            )
        with malformed_as(ManifestError, "the manifest is malformed", "export the model again"):
            return _decode(raw)

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
        return (*(spec.name for spec in self.inputs), *(state.input for state in self.states))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Every output of the graph, the states' last."""
        return (*(spec.name for spec in self.outputs), *(state.output for state in self.states))

    @property
    def axes(self) -> dict[str, Axes]:
        """The axes of every input and output of the graph by name."""
        axes = {spec.name: spec.axes for spec in (*self.inputs, *self.outputs)}
        return axes | {name: state.axes for state in self.states for name in (state.input, state.output)}

    @property
    def streamable(self) -> bool:
        """Whether chunks with carried states equal the whole sequence."""
        return bool(self.states) and not self.unstreamable

    @property
    def frames_a_unit(self) -> dict[str, int]:
        """Frames of each output per unit; 1 for one without a time axis."""
        return {spec.name: self.frames_in_unit(spec.axes) for spec in self.outputs}

    def frames_in_unit(self, axes: Axes) -> int:
        """Return the steps or frames on the time axis of ``axes`` in a unit; 1 without one."""
        return max(self._frames(axes, self.unit).values(), default=1)

    @property
    def is_buffered(self) -> bool:
        """True if a stream keeps steps up to a unit, drops first frames, or has other frames than steps."""
        return self.unit > 1 or bool(self.delays) or any(n > 1 for n in self.frames_a_unit.values())

    @property
    def delay_steps(self) -> int:
        """Number of steps by which the outputs of a stream lag, rounded up."""
        frames = self.frames_a_unit
        return max((-(-delay * self.unit // frames[name]) for name, delay in self.delays.items()), default=0)

    @property
    def pace(self) -> str:
        """When a stream gives frames: ``one frame every 160 samples, 2 frames (20 ms) delay``."""
        frames = self.frames_a_unit
        name = max(frames, key=lambda each: self.delays.get(each, 0) / frames[each], default="")
        delay, count, unit = self.delays.get(name, 0), frames.get(name, 1), self.unit
        each = gcd(count, unit)
        many = "one frame" if count == each else f"{count // each} frames"
        pace = f"{many} a step" if unit == each else f"{many} every {unit // each} samples"
        at_once = f", {count} at a time" if each > 1 else ""
        rate = self.signal.sampling_rate
        time = f" ({1000 * delay * unit / count / rate:.3g} ms)" if rate else ""
        return pace + at_once + (f", {counted(delay, 'frame')}{time} delay" if delay else "")

    def require_no_delay(
        self,
        what: str,
        instead: str = "use stream() or streams() of lstm_edge_runtime, or run() on whole sequences",
    ) -> None:
        """Raise ``UnsupportedError`` for a file with a delay or a unit, which ``what`` can't have."""
        if self.is_buffered:
            raise UnsupportedError(f"this file streams {self.pace}, which {what} does not support; {instead}")

    @property
    def chunk_ranges(self) -> Mapping[str, AxisRange]:
        """The ranges of what a stream takes: chunks of any length, as it keeps steps up to a unit."""
        if self.unit == 1:
            return self.ranges
        return {name: sizes for name, sizes in self.ranges.items() if name != self.sequence}

    @property
    def window(self) -> int | None:
        """Time steps of a window in training; None where unknown, or where samples were taken whole."""
        return self.signal.window if self.trained is None else self.trained.window

    @property
    def from_reset(self) -> bool:
        """Whether each window started from reset in training, so that states that live longer are unknown.

        Of files that do not say how they were trained, those with a window were.
        """
        known = self.window is not None if self.trained is None else not self.trained.carry
        return known and bool(self.states)

    @property
    def reset_every(self) -> int | None:
        """Number of steps after which a stream should be reset, as in training; None for never."""
        return self.window if self.from_reset else None

    def batch_axis(self, axes: Axes) -> int | None:
        """Return the index of the batch axis in ``axes``, or None."""
        return axes.index(self.batch) if self.batch in axes else None

    def time_axis(self, axes: Axes) -> int | None:
        """Return the index of the time axis in ``axes``, or None."""
        names = (self.sequence, LONGEST if self.lengths else None, *self._frames(axes, 1))
        return next((place for place, axis in enumerate(axes) if axis in names), None)

    def time_sizes(self, steps: int) -> dict[str, int]:
        """Return the frames of ``steps`` by the name of each time axis of the graph that streams."""
        return {name: size for spec in self.outputs for name, size in self._frames(spec.axes, steps).items()}

    def _frames(self, axes: Axes, steps: int) -> dict[str, int]:
        """Return the frames of ``steps`` on an axis ``L``, ``L/8`` or ``2*L``."""
        if self.sequence is None:
            return {}
        rates = {axis: _rate_of(axis, self.sequence) for axis in axes if isinstance(axis, str)}
        return {
            axis: rate[0] * steps // rate[1]
            for axis, rate in rates.items()
            if rate and not self.unit % rate[1]
        }

    @property
    def time_axes(self) -> dict[str, int]:
        """The index of the time axis by the name of each input and output that has one, states left out."""
        places = ((spec.name, self.time_axis(spec.axes)) for spec in (*self.inputs, *self.outputs))
        return {name: place for name, place in places if place is not None}

    @property
    def batch_axes(self) -> dict[str, int]:
        """The index of the batch axis by the name of each input, output and state that has one."""
        return {name: axes.index(self.batch) for name, axes in self.axes.items() if self.batch in axes}

    def steps(self, feeds: Mapping[str, Array]) -> int:
        """Return the time steps of a call's inputs; 1 where none has a time axis."""
        return next((feeds[name].shape[axis] for name, axis in self.time_axes.items() if name in feeds), 1)

    def states_in(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the states among a call's inputs, by input name."""
        return {state.input: feeds[state.input] for state in self.states}

    def states_out(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the states among a call's outputs by input name: what the next call takes."""
        return {state.input: outputs[state.output] for state in self.states}

    def all_outputs(self, outputs: Mapping[str, Array], states: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output of the graph by its name, from what ``Model.run`` returned."""
        return {**outputs, **{state.output: states[state.input] for state in self.states}}


def _without_usual(fields: Mapping[str, Any], **usual: Any) -> dict[str, Any]:
    """Return the fields but for those with these values: texts stay the same when there are new fields."""
    return {name: value for name, value in fields.items() if name not in usual or value != usual[name]}


def _encode(manifest: Manifest) -> dict[str, Any]:
    golden, task, trained = manifest.golden, manifest.task, manifest.trained
    fields = manifest._asdict()
    axes = {name: fields.pop(name) for name in ("batch", "sequence")}
    axes["ranges"] = {name: each._asdict() for name, each in fields.pop("ranges").items()}
    fields |= {
        "schema": SCHEMA,
        "inputs": [spec._asdict() for spec in manifest.inputs],
        "outputs": [spec._asdict() for spec in manifest.outputs],
        "states": [_encode_state(state, manifest) for state in manifest.states],
        "axes": _without_usual(axes, ranges={}),
        "task": task and task._asdict(),
        "signal": _without_usual(manifest.signal._asdict(), missing=""),
        "trained": trained and trained._asdict(),
        "golden": golden and _encode_golden(golden),
    }
    return _without_usual(
        fields,
        padded_states=True,
        counts=(),
        identity="",
        trained=None,
        int8_activations=False,
        unit=1,
        delays={},
    )


def _encode_state(state: StateSpec, manifest: Manifest) -> dict[str, Any]:
    reset = encode_array(state.reset) if isinstance(state.reset, np.ndarray) else float(state.reset)
    return {**state._asdict(), "batch_axis": manifest.batch_axis(state.axes), "reset": reset}


def _decode_state(raw: Mapping[str, Any]) -> StateSpec:
    return StateSpec(
        input=text(raw["input"]),
        output=text(raw["output"]),
        dtype=_dtype(text(raw["dtype"])),
        axes=_axes(raw["axes"]),
        reset=decode_array(raw["reset"]) if isinstance(raw["reset"], dict) else number(raw["reset"]),
    )


def rate_name(sequence: str, frames: int, steps: int) -> str:
    """Return the name of a time axis with ``frames`` in ``steps``: ``L``, ``L/8``, ``2*L``, ``3*L/2``."""
    return (f"{frames}*" if frames > 1 else "") + sequence + (f"/{steps}" if steps > 1 else "")


@lru_cache(64)
def _rate_of(axis: str, sequence: str) -> tuple[int, int] | None:
    """Return the frames and steps that ``rate_name`` made a name of; None for any other name."""
    found = re.fullmatch(rf"(?:([1-9]\d{{0,8}})\*)?{re.escape(sequence)}(?:/([1-9]\d{{0,8}}))?", axis)
    return None if found is None else (int(found[1] or 1), int(found[2] or 1))


def _count(raw: Any) -> int:
    if type(raw) is not int or not 0 <= raw < 1 << 31:
        raise TypeError(f"{raw!r:.60}, expected a whole number from 0")
    return raw


def _encode_golden(golden: Golden) -> dict[str, Any]:
    limits = {
        name: {"shape": list(array.shape), "values": [float(f"{value:.3e}") for value in array.ravel()]}
        for name, array in golden.limits.items()
    }
    fields = {
        "inputs": {name: encode_array(array) for name, array in golden.inputs.items()},
        "outputs": {name: encode_array(array) for name, array in golden.outputs.items()},
        "floor": golden.floor,
        "limit": golden.limit,
        "limits": limits,
        "more": [*map(_encode_golden, golden.more)],
    }
    return _without_usual(fields, limits={}, more=[])


def _decode_golden(raw: Mapping[str, Any]) -> Golden:
    outputs = {name: decode_array(value) for name, value in raw["outputs"].items()}
    limits = {
        name: np.array([number(value) for value in each["values"]]).reshape(each["shape"])
        for name, each in raw.get("limits", {}).items()
    }
    for name, array in limits.items():
        np.broadcast_to(array, outputs[name].shape)
    return Golden(
        inputs={name: decode_array(value) for name, value in raw["inputs"].items()},
        outputs=outputs,
        floor={name: number(value) for name, value in raw["floor"].items()},
        limit={name: number(value) for name, value in raw["limit"].items()},
        limits=limits,
    )


def _decode(raw: Mapping[str, Any]) -> Manifest:
    task, signal, axes, golden = raw["task"], raw["signal"], raw["axes"], raw["golden"]
    return Manifest(
        inputs=tuple(_decode_tensor(spec) for spec in raw["inputs"]),
        outputs=tuple(_decode_tensor(spec) for spec in raw["outputs"]),
        states=tuple(map(_decode_state, raw["states"])),
        batch=text_or_none(axes["batch"]),
        sequence=text_or_none(axes["sequence"]),
        ranges={name: _decode_range(each) for name, each in axes.get("ranges", {}).items()},
        lengths=text_or_none(raw["lengths"]),
        padded_states=raw.get("padded_states", True) is True,
        counts=texts(raw.get("counts", [])),
        unstreamable=text(raw["unstreamable"]),
        unit=_count(raw.get("unit", 1)),
        delays={text(name): _count(delay) for name, delay in raw.get("delays", {}).items()},
        task=None
        if task is None
        else Task(
            kind=text(task["kind"]),
            output=text(task["output"]),
            labels=texts(task["labels"]),
            units=texts(task["units"]),
        ),
        signal=Signal(
            features=texts(signal["features"]),
            sampling_rate=signal["sampling_rate"] and _at_least(1e-9, signal["sampling_rate"]),
            window=signal["window"] and int(_at_least(1, signal["window"])),
            missing=text(signal.get("missing", "")),
        ),
        trained=Trained.decode(raw["trained"]) if "trained" in raw else None,
        precision=text(raw["precision"]),
        int8_activations=raw.get("int8_activations", False) is True,
        provenance=dict(raw["provenance"]),
        equivalence=dict(raw["equivalence"]),
        golden=None
        if golden is None
        else _decode_golden(golden)._replace(more=tuple(map(_decode_golden, golden.get("more", [])))),
        identity=text(raw.get("identity", "")),
    )


@lru_cache(64)
def _dtype(name: str) -> str:
    return str(np.dtype(name).name)


def _at_least(least: float, raw: Any) -> float:
    if not least <= (found := number(raw)) < 1 << 31:
        raise TypeError(f"{raw!r:.60}, expected a number from {least:g}")
    return found


def _decode_tensor(raw: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(text(raw["name"]), _dtype(text(raw["dtype"])), _axes(raw["axes"]))


def _decode_range(raw: Mapping[str, Any]) -> AxisRange:
    least, most, multiple = raw["least"], raw["most"], raw["multiple"]
    found = AxisRange(least, most, multiple)
    sizes = [size for size in found if size is not None]
    if not all(type(size) is int and 0 < size < 1 << 31 for size in sizes) or found.nearest(1) < least:
        raise TypeError(f"range {raw!r:.60}")
    return found


def _axes(raw: list[Any]) -> Axes:
    if not isinstance(raw, list) or not all(
        isinstance(axis, str) or (type(axis) is int and 0 < axis < 1 << 31) for axis in raw
    ):
        raise TypeError(f"axes {raw!r:.60}")
    return tuple(raw)
