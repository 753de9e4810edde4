"""The engine that runs an ``.lep`` file, a compiled program, on the C library; see
``lstm_edge.h``.
"""

import ctypes as C
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from math import prod
from os import PathLike
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from .arrays import reset_states
from .axes import Layout, layout
from .checks import read_manifest
from .engine import Arrays, Call, Engine
from .errors import (
    FileFormatError,
    InputError,
    LstmEdgeError,
    ManifestError,
    MissingDependencyError,
    UnsupportedError,
    install_command,
)
from .manifest import Array, StateSpec
from .state import STATE_TYPES

SIZE = C.c_size_t
_P = C.c_void_p
INPUT = 0
OUTPUT = 1
STATE = 2
TYPES = ("float32", "int64", "int32", "int16", "int8", "uint8")
"""Types of elements; the index in this list is the number of the type in the
library."""
OUTPUT_TYPES = ("float32", "int64", "int32", "bool")
"""Types of outputs in the file; those of a program are float32."""
_WIDE = np.dtype(np.uintp).itemsize == 8
_OLD = 2**40
"""An age above every delay."""
_QUICK = 2**19
"""Smallest program, in bytes, whose steps release the interpreter's lock: smaller ones
take less than 5 us."""


class Rows(C.Structure):
    """``lstm_edge_rows``: address and strides of the rows of an array."""

    _fields_ = (("data", _P), ("row_stride", SIZE), ("step_stride", SIZE))


class Port(C.Structure):
    """``lstm_edge_port``: one input, output or state."""

    _fields_ = (
        ("name", C.c_char_p), ("width", SIZE), ("type", C.c_int), ("every_step", C.c_int),
        ("frames", SIZE), ("groups", SIZE), ("delay", SIZE),
    )  # fmt: skip


_FUNCTIONS: Mapping[str, tuple[Any, ...]] = {
    "version isa last_error": (C.c_char_p,),
    "last_status": (C.c_int,),
    "load": (_P, C.c_char_p, SIZE),
    "free stream_free reset": (None, _P),
    "set_threads": (C.c_int, _P, SIZE),
    "count": (SIZE, _P, C.c_int),
    "describe": (C.c_int, _P, C.c_int, SIZE, C.POINTER(Port)),
    "manifest": (C.c_char_p, _P),
    "selftest": (C.c_int, _P, C.POINTER(C.c_double)),
    "stream_new": (_P, _P),
    "input output state": (_P, _P, SIZE),
    "step": (C.c_int, _P),
    "chunk": (C.c_int, _P, _P, SIZE, _P),
    "unit delay": (SIZE, _P),
    "frames": (SIZE, _P, SIZE),
    "age": (C.c_uint64, _P),
    "set_age set_reset_every": (C.c_int, _P, C.c_uint64),
    "run": (C.c_int, _P, SIZE, SIZE, _P, _P, _P, _P),
    "trace": (C.c_int, _P, SIZE, SIZE, _P, _P, _P, _P, SIZE),
}
"""The types of the result and the arguments of each function."""


def open_library(path: "str | PathLike[str]") -> C.CDLL:
    """Return the library at ``path`` with its functions' types declared."""
    opened = C.CDLL(str(path))
    for names, (result, *arguments) in _FUNCTIONS.items():
        for name in names.split():
            function = getattr(opened, f"lstm_edge_{name}")
            function.restype = result
            function.argtypes = arguments
    return opened


def installed() -> bool:
    """Return True if ``lstm-edge-native`` is installed; it is not opened."""
    return find_spec("lstm_edge_native") is not None


@cache
def library() -> C.CDLL:
    """Return the installed library; ``MissingDependencyError`` if it can't be used."""
    try:
        from lstm_edge_native import LIBRARY

        opened = open_library(LIBRARY)
    except (ImportError, OSError, AttributeError) as error:
        raise _unusable(error) from error
    version = opened.lstm_edge_version().decode()
    expected = import_module("lstm_edge_runtime").__version__
    if version != expected:
        raise _unusable(f"version {version}, expected {expected}")
    return opened


def _unusable(reason: object) -> MissingDependencyError:
    """Return the error for a library that is not there, or not of this version."""
    return MissingDependencyError(
        f"the native engine can't be used ({reason}); {install_command('native')}"
        " --upgrade"
    )


@cache
def _quick_step() -> Callable[[int], int]:
    """Return ``lstm_edge_step`` as a function that keeps the interpreter's lock, which
    takes 0.07 us less.
    """
    step_type = C.PYFUNCTYPE(C.c_int, _P)
    address = C.cast(library().lstm_edge_step, _P).value
    return step_type(address or 0)


class Past(NamedTuple):
    """A state ``(groups, frames, inner)`` that is a ring in the program: its frames, and
    the index of the oldest.
    """

    groups: int
    """Product of the axes before the frames."""
    frames: int
    """Number of frames."""
    inner: int
    """Product of the axes after the frames."""

    def to_rows(self, array: Array) -> Array:
        """Return rows ``(N, width)`` of states ``(N, ...)``, whose first frame is the
        oldest.
        """
        states = array.reshape(-1, self.groups, self.frames, self.inner)
        rows = states.swapaxes(1, 2).reshape(len(states), -1)
        oldest = np.zeros((len(rows), 1), "float32")
        return np.concatenate([rows, oldest], 1)

    def from_rows(self, rows: Array) -> Array:
        """Return the states ``(N, groups, frames, inner)`` of rows, the oldest frame
        first.
        """
        numbers = rows[:, :-1]
        frames = numbers.reshape(len(rows), self.frames, self.groups, self.inner)
        oldest = rows[:, -1:].astype(np.int64)
        order = (oldest + np.arange(self.frames)) % self.frames
        indices = order[:, :, None, None]
        ordered = np.take_along_axis(frames, indices, 1)
        states: Array = ordered.swapaxes(1, 2)
        return states


class _ProgramState(NamedTuple):
    """A state of the program: one of the file, or a layer of it."""

    layout: Layout
    """Layout of the state, without the axis of layers."""
    layer: int | None
    """Index along the state's first axis; None for the state itself."""
    width: int
    """Number of elements per source in the program."""
    past: Past | None
    """Ring of past frames; None for a row of numbers."""

    @property
    def key(self) -> tuple[str, int, str]:
        """The name, width and type that the program must give it."""
        name = self.layout.name
        if self.layer is not None:
            name = f"{name}[{self.layer}]"
        width = prod(self.layout.inner)
        if self.past is not None:
            width += 1  # the index of the oldest frame
        return name, width, self.dtype

    @property
    def dtype(self) -> str:
        """The type of the elements in the program."""
        return STATE_TYPES.get(self.layout.dtype, "")

    def to_rows(self, states: Arrays) -> Array:
        """Return the rows ``(K, width)`` of states in the file's layout."""
        state = states[self.layout.name]
        if self.layer is not None:
            state = state[self.layer]
        rows = self.layout.from_file(state)
        if self.past is not None:
            return self.past.to_rows(rows)
        return rows.reshape(len(rows), -1)

    def from_rows(self, rows: Array) -> Array:
        """Return the state in the file's layout of rows ``(K, width)``."""
        if self.past is not None:
            rows = self.past.from_rows(rows)
        states = rows.reshape(len(rows), *self.layout.inner)
        return self.layout.to_file(states).astype(self.layout.dtype, copy=False)


class NativeEngine(Engine):
    """A loaded program and its manifest; see ``Engine``."""

    name = "native"
    reads_windows = True

    def __init__(self, program: bytes, threads: int) -> None:
        """Load a program file and match it with its manifest; raises as ``load``."""
        self.library = library()
        self.handle: int | None = self.library.lstm_edge_load(program, len(program))
        if not self.handle:
            raise FileFormatError(f"the native program is refused: {self.refusal()}")
        text = self.library.lstm_edge_manifest(self.handle)
        if text is None:
            raise ManifestError(
                "the native program carries no manifest; convert the model again"
            )
        super().__init__(read_manifest(text.decode(errors="replace")))
        if self.library.lstm_edge_set_threads(self.handle, threads):
            raise UnsupportedError(
                f"the native engine does not support {self.refusal()}; use threads=1"
            )
        self.program_states = [self._state_of_port(port) for port in self._ports(STATE)]
        if not self._fits_manifest():
            raise FileFormatError(
                "the native program is not as its manifest says; convert the model"
                " again"
            )
        self.step: Callable[[int], int] = self.library.lstm_edge_step
        if len(program) < _QUICK:
            self.step = _quick_step()

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.lstm_edge_free(self.handle)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run whole sequences; see ``Engine``. Rows of each length run together."""
        manifest = self.manifest
        steps = manifest.steps_of(sizes)
        if steps % manifest.unit:
            raise InputError(
                f"got {steps} steps, expected a multiple of {manifest.unit}, the unit of"
                " this file"
            )
        rows = np.arange(manifest.rows_of(sizes))
        states = NativeStates(self, len(rows), feeds)
        inputs = {}
        for tensor in self.inputs:
            inputs[tensor.name] = tensor.from_file(feeds[tensor.name])
        lengths = manifest.lengths_in(feeds)
        if lengths is None or (lengths == steps).all():
            outputs = states.run(rows, inputs, sizes)
        else:
            outputs = self._run_by_length(states, inputs, lengths=lengths, sizes=sizes)
        last_states = states.read(rows)
        results = {}
        for tensor in self.outputs:
            results[tensor.name] = tensor.to_file(outputs[tensor.name])
        for spec in manifest.states:
            results[spec.output] = last_states[spec.input]
        return results

    def _run_by_length(
        self,
        states: "NativeStates",
        inputs: Arrays,
        lengths: Array,
        sizes: Mapping[str, int],
    ) -> dict[str, Array]:
        """Run the rows of each length together; frames beyond a length are zeros."""
        manifest = self.manifest
        units = manifest.steps_of(sizes) // manifest.unit
        outputs = {}
        for tensor in self.outputs:
            outputs[tensor.name] = _room(tensor, len(lengths), units)
        for length in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == length)
            inputs_of_length = {}
            for tensor in self.inputs:
                steps = _first_steps(tensor, rows, length)
                inputs_of_length[tensor.name] = inputs[tensor.name][steps]
            sizes_of_length = {**sizes, **manifest.axis_sizes(steps=length)}
            results = states.run(rows, inputs_of_length, sizes_of_length)
            for output in self.outputs:
                frames = _first_steps(output, rows, length)
                outputs[output.name][frames] = results[output.name]
        return outputs

    def states(self, rows: int | None) -> "NativeStates":
        """Return the states of sources at reset; see ``Engine``."""
        return NativeStates(self, rows)

    def window(self, samples: Array, steps: int) -> "NativeWindow":
        """Return calls of windows of ``samples``; see ``Engine``."""
        return NativeWindow(self, samples, steps // self.manifest.unit)

    def selftest(self) -> float:
        """Return the largest difference from the program's own golden case, as a
        fraction of its limit.
        """
        worst = C.c_double()
        if self.library.lstm_edge_selftest(self.handle, C.byref(worst)):
            raise self.refusal()
        return worst.value

    def refusal(self) -> LstmEdgeError:
        """Return the error for the last call that the library refused."""
        return InputError(self.library.lstm_edge_last_error().decode(errors="replace"))

    def _ports(self, role: int) -> list[Port]:
        """Return the library's description of all inputs, outputs or states."""
        count = self.library.lstm_edge_count(self.handle, role)
        ports = []
        for index in range(count):
            port = Port()
            self.library.lstm_edge_describe(self.handle, role, index, C.byref(port))
            ports.append(port)
        return ports

    def _state_of_port(self, port: Port) -> _ProgramState:
        """Return the state of the manifest, or the layer of it, that a state of the
        program is: ``h_0`` or ``h_0[1]``.
        """
        name = port.name.decode(errors="replace")
        stem, _, layer = name.removesuffix("]").rpartition("[")
        for spec in self.manifest.states:
            if spec.input == name:
                return self._new_state(spec, port, None)
            if spec.input == stem:
                is_number = layer.isdecimal() and len(layer) < 6
                return self._new_state(spec, port, int(layer) if is_number else -1)
        raise FileFormatError(
            f"the native program has a state {name!r} that its manifest does not name"
        )

    def _new_state(
        self, spec: StateSpec, port: Port, layer: int | None
    ) -> _ProgramState:
        """Return the layer of ``spec`` that a state of the program holds."""
        axes = spec.axes if layer is None else spec.axes[1:]
        tensor = layout(spec.input, spec.dtype, axes=axes, manifest=self.manifest)
        numbers = port.frames * port.groups
        past = None
        if numbers:
            past = Past(port.groups, port.frames, (port.width - 1) // numbers)
        return _ProgramState(layout=tensor, layer=layer, width=port.width, past=past)

    def _fits_manifest(self) -> bool:
        """Return False if the program would read or write other memory than its
        manifest describes.
        """
        return (
            self._has_ports()
            and self._has_pace()
            and all(map(self._has_layers, self.manifest.states))
            and self._has_equal_rows()
            and all(map(self._takes_unit, self.inputs))
            and all(map(_has_known_axes, self._tensors()))
            and not any(tensor.factor for tensor in self._tensors_of_sources())
        )

    def _has_ports(self) -> bool:
        """Return True if names, widths and types of all ports are the manifest's."""
        states = [state.key for state in self.program_states]
        return (
            self._keys(INPUT) == list(map(_input_key, self.inputs))
            and self._keys(OUTPUT) == list(map(_output_key, self.outputs))
            and all(tensor.dtype in OUTPUT_TYPES for tensor in self.outputs)
            and self._keys(STATE) == states
        )

    def _has_pace(self) -> bool:
        """Return True if the unit, and the frames of outputs per unit, are the
        manifest's.
        """
        for tensor, port in zip(self.outputs, self._ports(OUTPUT), strict=True):
            frames = tensor.frames if tensor.timed else 0
            if bool(port.every_step) != tensor.timed or port.frames != frames:
                return False
        if self.library.lstm_edge_unit(self.handle) != self.manifest.unit:
            return False
        sequence = self.manifest.sequence
        return not sequence or any(sequence in tensor.axes for tensor in self.inputs)

    def _has_layers(self, spec: StateSpec) -> bool:
        """Return True if the program has the state, or all its layers in order."""
        name = spec.input
        states = [state for state in self.program_states if state.layout.name == name]
        layers = [state.layer for state in states]
        if layers == [None]:
            return True
        in_order = layers == list(range(len(layers)))
        return in_order and spec.axes[:1] == (len(layers),)

    def _has_equal_rows(self) -> bool:
        """Return True if all tensors have a batch axis, or none has one."""
        tensors = self._tensors()
        with_batch = [tensor for tensor in tensors if tensor.batch is not None]
        return len(with_batch) in (0, len(tensors))

    def _takes_unit(self, tensor: Layout) -> bool:
        """Return True if a unit takes as many steps of an input as it has."""
        is_sequence = self.manifest.sequence in tensor.axes
        has_steps = not tensor.timed or is_sequence
        return has_steps and tensor.frames == self.manifest.unit

    def _tensors_of_sources(self) -> tuple[Layout, ...]:
        """Return the layouts of inputs and states: they have one row per source."""
        return (*self.inputs, *(state.layout for state in self.program_states))

    def _tensors(self) -> tuple[Layout, ...]:
        """Return all layouts."""
        return (*self.outputs, *self._tensors_of_sources())

    def _keys(self, role: int) -> list[tuple[str, int, str]]:
        """Return name, width and type of the program's inputs, outputs or states."""
        keys = []
        for port in self._ports(role):
            name = port.name.decode(errors="replace")
            keys.append((name, port.width, TYPES[port.type]))
        return keys


class NativeStates:
    """States of a single source in memory of the C library, which is fastest for a
    step; else a pool.
    """

    __slots__ = ("_engine", "_inputs", "_outputs", "_pool", "_stream", "_views")
    in_place = True

    def __init__(
        self, engine: NativeEngine, rows: int | None, states: Arrays | None = None
    ) -> None:
        """Open a stream of the library, or allocate a pool; at ``states``, or at
        reset.
        """
        self._engine = engine
        # a stream of the library would keep the steps of a unit by itself
        is_alone = rows is None and engine.manifest.unit == 1
        self._stream = _Stream(engine) if is_alone else None
        self._inputs = (Rows * len(engine.inputs))()
        self._outputs = (Rows * len(engine.outputs))()
        self._pool: list[Array] = []
        if self._stream is None:
            states = states or reset_states(engine.manifest, rows or 1)
            for state in engine.program_states:
                state_rows = state.to_rows(states)
                pool = np.array(state_rows, state.dtype, order="C")
                self._pool.append(pool)
            self._views = _rows(self._pool)

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Bind a call of all sources; see ``OrtStates``."""
        manifest = self._engine.manifest
        units = manifest.steps_of(sizes) // manifest.unit
        if self._stream is not None and units == 1:
            return self._bind_step(self._stream, sizes)
        return self._bind_run(units, sizes)

    def _bind_step(self, stream: "_Stream", sizes: Mapping[str, int]) -> Call:
        """Bind a step in the memory of a stream of the library."""
        engine = self._engine
        inputs = stream.views(INPUT, engine.inputs)
        outputs = stream.views(OUTPUT, engine.outputs)
        run = MethodType(engine.step, stream.handle)  # smaller than a partial
        return self._call(inputs, run, outputs=outputs, sizes=sizes)

    def _bind_run(self, units: int, sizes: Mapping[str, int]) -> Call:
        """Bind a call of some units of all sources."""
        engine = self._engine
        states = self._states()
        rows = len(states[0]) if states else 1
        inputs = [_room(tensor, rows, units) for tensor in engine.inputs]
        outputs = _rooms(engine.outputs, rows, units)
        run = partial(
            engine.library.lstm_edge_run,
            engine.handle,
            rows,
            units,
            None,
            _views(engine.inputs, inputs),
            _rows(states),
            _views(engine.outputs, outputs),
        )
        return self._call(inputs, run, outputs=outputs, sizes=sizes)

    def _call(
        self,
        inputs: Sequence[Array],
        run: Callable[[], object],
        outputs: Sequence[Array],
        sizes: Mapping[str, int],
    ) -> Call:
        """Return the call that computes ``outputs`` from ``inputs``."""
        results, run = _converted(self._engine.outputs, outputs, run)
        return Call(
            inputs=_by_name(self._engine.inputs, inputs),
            run=run,
            outputs=_by_name(self._engine.outputs, results),
            sizes=sizes,
        )

    def run(
        self, rows: Array, inputs: Arrays, sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take steps of some sources; see ``OrtStates``."""
        engine = self._engine
        manifest = self._engine.manifest
        units = manifest.steps_of(sizes) // manifest.unit
        arrays = [np.ascontiguousarray(inputs[input_.name]) for input_ in engine.inputs]
        outputs = _rooms(engine.outputs, len(rows), units)
        _fill(self._inputs, engine.inputs, arrays)
        _fill(self._outputs, engine.outputs, outputs)
        states = _rows(self._states()) if self._stream else self._views
        indices = rows.view(np.uintp) if _WIDE else rows.astype(np.uintp)
        views = (_address(indices), self._inputs, states, self._outputs)
        run = engine.library.lstm_edge_run
        if run(engine.handle, len(indices), units, *views):
            raise engine.refusal()
        results = {}
        for output, array in zip(engine.outputs, outputs, strict=True):
            results[output.name] = array.astype(output.dtype, copy=False)
        return results

    def trace(self, inputs: Arrays, values: Sequence[Array]) -> None:
        """Take steps of all sources as ``run`` does, and fill ``values (rows, units,
        width)``, one for each buffer of the program; those of rings are unchanged.
        """
        engine = self._engine
        rows, units = values[0].shape[:2]
        arrays = [np.ascontiguousarray(inputs[input_.name]) for input_ in engine.inputs]
        outputs = _rooms(engine.outputs, rows, units)
        buffers = [Rows(_address(array), *array.strides[:2]) for array in values]
        views = (
            _views(engine.inputs, arrays),
            _rows(self._states()),
            _views(engine.outputs, outputs),
            (Rows * len(buffers))(*buffers),
        )
        trace = engine.library.lstm_edge_trace
        if trace(engine.handle, rows, units, *views, len(buffers)):
            raise engine.refusal()

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of states; see ``OrtStates``."""
        layers: dict[str, list[Array]] = {}
        pairs = zip(self._engine.program_states, self._states(), strict=True)
        for program_state, array in pairs:
            state = program_state.from_rows(array[rows])
            if program_state.layer is not None:
                state = state[None]
            layers.setdefault(program_state.layout.name, []).append(state)
        states = {}
        for spec in self._engine.manifest.states:
            states[spec.input] = np.concatenate(layers[spec.input])
        return states

    def write(self, rows: Array, states: Arrays) -> None:
        """Set states; see ``OrtStates``."""
        pairs = zip(self._engine.program_states, self._states(), strict=True)
        for program_state, array in pairs:
            array[rows] = program_state.to_rows(states)

    def _states(self) -> list[Array]:
        """Return the states themselves, ``(rows, width)`` each."""
        if self._stream is None:
            return self._pool
        states = []
        for index, state in enumerate(self._engine.program_states):
            like = np.empty((1, state.width), state.dtype)
            states.append(self._stream.view(STATE, index, like))
        return states


class NativeWindow:
    """Calls of a full window, each from the reset state, on samples of the caller."""

    def __init__(self, engine: NativeEngine, samples: Array, units: int) -> None:
        """Bind calls of ``units`` units among ``samples (1, steps, ...)``."""
        self._engine = engine
        self._states = NativeStates(engine, 1)._pool
        self._reset = [state.copy() for state in self._states]
        self._samples = samples
        self._inputs = _views(engine.inputs, [samples])
        self._start = self._inputs[0].data
        self._stride = samples.strides[1]
        outputs = _rooms(engine.outputs, 1, units)
        run = partial(
            engine.library.lstm_edge_run,
            engine.handle,
            1,
            units,
            None,
            self._inputs,
            _rows(self._states),
            _views(engine.outputs, outputs),
        )
        results, self._run = _converted(engine.outputs, outputs, run)
        self.outputs = _by_name(engine.outputs, results)
        """The outputs of the last call, rows first."""

    def run(self, start: int) -> None:
        """Run the window that begins with sample ``start``."""
        for state, reset in zip(self._states, self._reset, strict=True):
            state[...] = reset
        self._inputs[0].data = self._start + start * self._stride
        if self._run():
            raise self._engine.refusal()


class _Stream:
    """A stream of the library; it lives as long as an array of its memory."""

    __slots__ = ("engine", "handle")

    def __init__(self, engine: NativeEngine) -> None:
        """Open a stream in the library."""
        self.engine = engine
        self.handle: int | None = engine.library.lstm_edge_stream_new(engine.handle)
        if not self.handle:
            raise MemoryError("no memory for another stream")
        # old enough that the library drops no first frames; the caller does, and resets
        engine.library.lstm_edge_set_reset_every(self.handle, 0)
        engine.library.lstm_edge_set_age(self.handle, _OLD)

    def __del__(self) -> None:
        if self.handle:
            self.engine.library.lstm_edge_stream_free(self.handle)

    def views(self, role: int, layouts: Sequence[Layout]) -> list[Array]:
        """Return the memory of one step of all inputs or outputs."""
        arrays = []
        for index, tensor in enumerate(layouts):
            dtype = "float32" if role == OUTPUT else tensor.dtype
            arrays.append(self.view(role, index, _room(tensor, 1, 1, dtype)))
        return arrays

    def view(self, role: int, index: int, like: Array) -> Array:
        """Return the memory of an input, output or state as an array of the shape and
        dtype of ``like``.
        """
        library = self.engine.library
        functions = {
            INPUT: library.lstm_edge_input,
            OUTPUT: library.lstm_edge_output,
            STATE: library.lstm_edge_state,
        }
        address = functions[role](self.handle, index)
        memory: Any = (C.c_char * like.nbytes).from_address(address)
        memory.stream = self
        return np.frombuffer(memory, like.dtype).reshape(like.shape)


def _output_key(tensor: Layout) -> tuple[str, int, str]:
    """Return name, width and type that the program must give an output."""
    return tensor.name, prod(tensor.inner), "float32"


def _input_key(tensor: Layout) -> tuple[str, int, str]:
    """Return the same of an input: truth values are bytes in the program."""
    dtype = tensor.dtype.replace("bool", "uint8")
    return tensor.name, prod(tensor.inner), dtype


def _has_known_axes(tensor: Layout) -> bool:
    """Return True if no axis but those of rows and time has a name."""
    names = [axis for axis in tensor.caller_axes[1:] if isinstance(axis, str)]
    return len(names) == tensor.timed


def _first_steps(layout: Layout, rows: Array, steps: int) -> Any:
    """Return the index of the first steps of some rows; of the rows without a time
    axis.
    """
    return (rows, slice(steps)) if layout.timed else rows


def _room(layout: Layout, rows: int, units: int, dtype: str = "") -> Array:
    """Return an array ``(rows, L, ...)``, or ``(rows, ...)`` without a time axis; of
    the type of the file by default.
    """
    front = (rows, units * layout.frames) if layout.timed else (rows,)
    return np.zeros((*front, *layout.inner), dtype or layout.dtype)


def _rooms(outputs: Sequence[Layout], rows: int, units: int) -> list[Array]:
    """Return an array for each output, of the type in the program."""
    return [_room(output, rows, units, "float32") for output in outputs]


def _converted(
    outputs: Sequence[Layout], arrays: Sequence[Array], run: Callable[[], object]
) -> tuple[list[Array], Callable[[], object]]:
    """Return arrays of the types of the file, and ``run`` with ``arrays`` converted into
    them; those of float32 are the same.
    """
    results = []
    conversions = []
    for output, array in zip(outputs, arrays, strict=True):
        if output.dtype == "float32":
            results.append(array)
            continue
        result = np.zeros(array.shape, output.dtype)
        results.append(result)
        conversions.append((result, array))
    if not conversions:
        return results, run

    def run_and_convert() -> object:
        """Run, and convert the outputs."""
        refusal = run()
        for result, array in conversions:
            result[...] = array
        return refusal

    return results, run_and_convert


def _by_name(layouts: Sequence[Layout], arrays: Sequence[Array]) -> dict[str, Array]:
    """Map the names of the layouts to their arrays."""
    return {tensor.name: array for tensor, array in zip(layouts, arrays, strict=True)}


def _views(layouts: Sequence[Layout], arrays: Sequence[Array]) -> Any:
    """Return addresses and strides of arrays as ``_room`` makes them, for the
    library.
    """
    views = (Rows * len(layouts))()
    _fill(views, layouts, arrays)
    return views


def _fill(views: Any, layouts: Sequence[Layout], arrays: Sequence[Array]) -> None:
    """Fill ``views`` with the addresses and strides of arrays as ``_room`` makes them;
    the caller keeps the arrays alive.
    """
    for view, tensor, array in zip(views, layouts, arrays, strict=True):
        strides = array.strides
        view.data = _address(array)
        view.row_stride = strides[0]
        # the stride of a single unit is not used
        if tensor.timed and array.shape[1] > tensor.frames:
            view.step_stride = strides[1] * tensor.frames


def _rows(arrays: Sequence[Array]) -> Any:
    """Return addresses and strides of arrays ``(K, width)``, for the library; the result
    keeps the arrays alive.
    """
    rows = [Rows(_address(array), array.strides[0], 0) for array in arrays]
    views: Any = (Rows * len(rows))(*rows)
    views.arrays = arrays
    return views


def _address(array: Array) -> int:
    """Return the address of an array's first element."""
    try:
        # takes a third of the time of array.ctypes
        return C.addressof(C.c_char.from_buffer(array))  # type: ignore[arg-type]
    except (TypeError, BufferError, ValueError):  # read-only, or has gaps
        return int(array.ctypes.data)
