"""The engine that runs an ``.lep`` file, a compiled program, on the C library; see
``lstm_edge.h``.
"""

import ctypes as C
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
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
from .manifest import Array

SIZE = C.c_size_t
_P = C.c_void_p
INPUT = 0
OUTPUT = 1
STATE = 2
TYPES = ("float32", "int64", "int32", "int16", "int8", "uint8")
"""Types of elements; the index in this list is the number of the type in the
library."""
_WIDE = np.dtype(np.uintp).itemsize == 8
_OLD = 2**40
"""An age above every delay."""
_QUICK = 2**19
"""Bytes of the smallest program whose steps let other threads run: smaller ones take
less than 5 us."""


class Rows(C.Structure):
    """``lstm_edge_rows``: where the rows of one array lie."""

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
    "input output state rest": (_P, _P, SIZE),
    "step": (C.c_int, _P),
    "chunk": (C.c_int, _P, _P, SIZE, _P),
    "unit delay": (SIZE, _P),
    "frames": (SIZE, _P, SIZE),
    "age": (C.c_uint64, _P),
    "set_age": (C.c_int, _P, C.c_uint64),
    "run": (C.c_int, _P, SIZE, SIZE, _P, _P, _P, _P),
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
    """Return whether ``lstm-edge-native`` is there, without opening it."""
    return find_spec("lstm_edge_native") is not None


@cache
def library() -> C.CDLL:
    """Return the installed library; ``MissingDependencyError`` if it can't be used."""
    try:
        from lstm_edge_native import LIBRARY

        return open_library(LIBRARY)
    except (ImportError, OSError, AttributeError) as error:
        raise MissingDependencyError(
            f"the native engine can't be used ({error}); {install_command('native')}"
            " --upgrade"
        ) from error


@cache
def _quick_step() -> Callable[[int], int]:
    """Return ``lstm_edge_step`` as a function that keeps the interpreter's lock, which
    takes 0.07 us less.
    """
    return C.PYFUNCTYPE(C.c_int, _P)(C.cast(library().lstm_edge_step, _P).value or 0)


class Past(NamedTuple):
    """A state ``(groups, frames, inner)`` that is a ring in the program: frames and the
    oldest's index.
    """

    groups: int
    frames: int
    inner: int

    def to_rows(self, array: Array) -> Array:
        """Return rows ``(N, width)`` of states ``(N, ...)``, whose first frame is the
        oldest.
        """
        frames = array.reshape(-1, self.groups, self.frames, self.inner).swapaxes(1, 2)
        return np.concatenate(
            [frames.reshape(len(frames), -1), np.zeros((len(frames), 1), "float32")], 1
        )

    def from_rows(self, rows: Array) -> Array:
        """Return the states ``(N, groups, frames, inner)`` of rows, the oldest frame
        first.
        """
        frames = rows[:, :-1].reshape(len(rows), self.frames, self.groups, self.inner)
        order = (rows[:, -1:].astype(np.int64) + np.arange(self.frames)) % self.frames
        ordered: Array = np.take_along_axis(
            frames, order[:, :, None, None], 1
        ).swapaxes(1, 2)
        return ordered


class _Part(NamedTuple):
    """A state of the program: one of the file, or a layer of it."""

    layout: Layout
    layer: int | None
    width: int
    past: Past | None

    @property
    def key(self) -> tuple[str, int, str]:
        """The name, width and type that the program must give it."""
        name = (
            self.layout.name
            if self.layer is None
            else f"{self.layout.name}[{self.layer}]"
        )
        return name, prod(self.layout.inner) + bool(self.past), self.layout.dtype

    def to_rows(self, states: Arrays) -> Array:
        """Return the rows ``(K, width)`` of states in the file's layout."""
        array = (
            states[self.layout.name]
            if self.layer is None
            else states[self.layout.name][self.layer]
        )
        rows = self.layout.from_file(array)
        return (
            rows.reshape(len(rows), -1)
            if self.past is None
            else self.past.to_rows(rows)
        )

    def from_rows(self, rows: Array) -> Array:
        """Return the part in the file's layout of rows ``(K, width)``."""
        rows = rows if self.past is None else self.past.from_rows(rows)
        return self.layout.to_file(rows.reshape(len(rows), *self.layout.inner))


class NativeEngine(Engine):
    """A loaded program and its manifest; see ``Engine``."""

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
        self.parts = [self._part(port) for port in self._ports(STATE)]
        if not all(self._matches()):
            raise FileFormatError(
                "the native program is not as its manifest says; convert the model"
                " again"
            )
        self.step = (
            _quick_step() if len(program) < _QUICK else self.library.lstm_edge_step
        )

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.lstm_edge_free(self.handle)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run whole sequences; see ``Engine``. Rows of each length run together."""
        manifest = self.manifest
        unit = self.manifest.unit
        steps = sizes.get(manifest.sequence or "", 1)
        lengths = feeds.get(manifest.lengths or "")
        if steps % unit:
            raise InputError(
                f"got {steps} steps, expected a multiple of {unit}, the unit of this"
                " file"
            )
        rows = np.arange(sizes.get(manifest.batch or "", 1))
        states = NativeStates(self, len(rows), feeds)
        inputs = {
            layout.name: layout.from_file(feeds[layout.name]) for layout in self.inputs
        }
        if lengths is None or (lengths == steps).all():
            outputs = states.run(rows, inputs, sizes)
        else:
            outputs = {
                layout.name: _room(layout, len(rows), steps // unit)
                for layout in self.outputs
            }
            for length in np.unique(lengths).tolist():
                equal = np.flatnonzero(lengths == length)
                given = {}
                for layout in self.inputs:
                    part: Any = (equal, slice(length)) if layout.timed else equal
                    given[layout.name] = inputs[layout.name][part]
                results = states.run(
                    equal, given, {**sizes, manifest.sequence or "": length}
                )
                for output in self.outputs:
                    part = (equal, slice(length)) if output.timed else equal
                    outputs[output.name][part] = results[output.name]
        after = states.read(rows)
        results = {
            layout.name: layout.to_file(outputs[layout.name]) for layout in self.outputs
        }
        return results | {spec.output: after[spec.input] for spec in manifest.states}

    def states(self, rows: int | None) -> "NativeStates":
        """Return the states of sources at reset; see ``Engine``."""
        return NativeStates(self, rows)

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

    def _ports(self, kind: int) -> list[Port]:
        ports = [Port() for _ in range(self.library.lstm_edge_count(self.handle, kind))]
        for index, port in enumerate(ports):
            self.library.lstm_edge_describe(self.handle, kind, index, C.byref(port))
        return ports

    def _part(self, port: Port) -> _Part:
        """Return which state of the manifest a state of the program, ``h_0`` or
        ``h_0[1]``, is a part of.
        """
        name = port.name.decode(errors="replace")
        whole, _, layer = name.removesuffix("]").rpartition("[")
        for spec in self.manifest.states:
            if spec.input in (name, whole):
                layered = spec.input != name
                tensor = layout(
                    spec.input, spec.dtype, spec.axes[layered:], self.manifest
                )
                frame = port.frames * port.groups
                past = (
                    Past(port.groups, port.frames, (port.width - 1) // frame)
                    if frame
                    else None
                )
                number = None
                if layered:
                    number = int(layer) if layer.isdecimal() and len(layer) < 6 else -1
                return _Part(tensor, number, port.width, past)
        raise FileFormatError(
            f"the native program has a state {name!r} that its manifest does not name"
        )

    def _matches(self) -> Iterator[bool]:
        """Yield False where the program would read or write other memory than its
        manifest describes.
        """
        manifest = self.manifest
        parts = self.parts
        inputs = self.inputs
        outputs = self.outputs
        yield self._keys(INPUT) == [
            (i.name, prod(i.inner), i.dtype.replace("bool", "uint8")) for i in inputs
        ]
        yield self._keys(OUTPUT) == [(o.name, prod(o.inner), o.dtype) for o in outputs]
        yield self._keys(STATE) == [part.key for part in parts]
        pace = [
            (output.timed, output.frames if output.timed else 0) for output in outputs
        ]
        yield pace == [
            (bool(port.every_step), port.frames) for port in self._ports(OUTPUT)
        ]
        yield self.library.lstm_edge_unit(self.handle) == manifest.unit
        for spec in manifest.states:
            layers = [part.layer for part in parts if part.layout.name == spec.input]
            yield layers == [None] or (
                layers == [*range(len(layers))] and spec.axes[:1] == (len(layers),)
            )
        tensors = (*inputs, *outputs, *(part.layout for part in parts))
        with_batch = [tensor for tensor in tensors if tensor.batch is not None]
        # a call has as many rows of each tensor as the batch axis says
        yield len(with_batch) in (0, len(tensors))
        for tensor in inputs:  # a unit takes so many steps of each input
            yield tensor.frames == manifest.unit
            yield not tensor.timed or manifest.sequence in tensor.axes
        for tensor in tensors:
            names = [
                axis for axis in tensor.given[1:] if isinstance(axis, str)
            ]  # without the batch axis
            yield len(names) == tensor.timed and not (
                tensor.factor and tensor not in outputs
            )
        yield not manifest.sequence or any(
            manifest.sequence in layout.axes for layout in inputs
        )

    def _keys(self, kind: int) -> list[tuple[str, int, str]]:
        ports = self._ports(kind)
        return [
            (port.name.decode(errors="replace"), port.width, TYPES[port.type])
            for port in ports
        ]


class NativeStates:
    """States of a single source in memory of the C library, with which a step is
    quickest; else a pool.
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
        self._inputs, self._outputs = (
            (Rows * len(side))() for side in (engine.inputs, engine.outputs)
        )
        self._pool: list[Array] = []
        if self._stream is None:
            states = states or reset_states(engine.manifest, rows or 1)
            self._pool = [
                np.array(p.to_rows(states), p.layout.dtype, order="C")
                for p in engine.parts
            ]
            self._views = _rows(self._pool)

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Bind a call of all sources; see ``OrtStates``."""
        engine = self._engine
        stream = self._stream
        states = self._states()
        rows = len(states[0]) if states else 1
        units = sizes.get(engine.manifest.sequence or "", 1) // engine.manifest.unit
        layouts = engine.inputs, engine.outputs
        arrays = [[_room(tensor, rows, units) for tensor in side] for side in layouts]
        if stream is not None and units == 1:
            sides = enumerate(arrays)
            arrays = [
                [stream.view(kind, *port) for port in enumerate(side)]
                for kind, side in sides
            ]
            run: Callable[[], object] = MethodType(
                engine.step, stream.handle
            )  # smaller than a partial
        else:
            inputs, outputs = views = [(Rows * len(side))() for side in layouts]
            for view, side, memory in zip(views, layouts, arrays, strict=True):
                _fill(view, side, memory)
            arguments = engine.handle, rows, units, None, inputs, _rows(states), outputs
            run = partial(engine.library.lstm_edge_run, *arguments)
        return Call(
            _by_name(layouts[INPUT], arrays[INPUT]),
            run,
            _by_name(layouts[OUTPUT], arrays[OUTPUT]),
            sizes,
        )

    def run(
        self, rows: Array, inputs: Arrays, sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take steps of some sources; see ``OrtStates``."""
        engine = self._engine
        manifest = self._engine.manifest
        units = sizes.get(manifest.sequence or "", 1) // manifest.unit
        given = [np.ascontiguousarray(inputs[input_.name]) for input_ in engine.inputs]
        outputs = [_room(output, len(rows), units) for output in engine.outputs]
        _fill(self._inputs, engine.inputs, given)
        _fill(self._outputs, engine.outputs, outputs)
        states = _rows(self._states()) if self._stream else self._views
        indices = rows.view(np.uintp) if _WIDE else rows.astype(np.uintp)
        views = _address(indices), self._inputs, states, self._outputs
        if engine.library.lstm_edge_run(engine.handle, len(indices), units, *views):
            raise engine.refusal()
        return _by_name(engine.outputs, outputs)

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of states; see ``OrtStates``."""
        states: dict[str, list[Array]] = {}
        for part, array in zip(self._engine.parts, self._states(), strict=True):
            state = part.from_rows(array[rows])
            states.setdefault(part.layout.name, []).append(
                state if part.layer is None else state[None]
            )
        return {
            spec.input: np.concatenate(states[spec.input])
            for spec in self._engine.manifest.states
        }

    def write(self, rows: Array, states: Arrays) -> None:
        """Set states; see ``OrtStates``."""
        for part, array in zip(self._engine.parts, self._states(), strict=True):
            array[rows] = part.to_rows(states)

    def _states(self) -> list[Array]:
        """Return the states themselves, ``(rows, width)`` of each part."""
        if self._stream is None:
            return self._pool
        likes = [
            np.empty((1, part.width), part.layout.dtype) for part in self._engine.parts
        ]
        return [
            self._stream.view(STATE, index, like) for index, like in enumerate(likes)
        ]


class _Stream:
    """A stream of the library; it lives as long as an array of its memory."""

    __slots__ = ("engine", "handle")

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.handle: int | None = engine.library.lstm_edge_stream_new(engine.handle)
        if not self.handle:
            raise MemoryError("no memory for another stream")
        # old enough that the library drops no first frames, which the caller does
        engine.library.lstm_edge_set_age(self.handle, _OLD)

    def __del__(self) -> None:
        if self.handle:
            self.engine.library.lstm_edge_stream_free(self.handle)

    def view(self, kind: int, index: int, like: Array) -> Array:
        """Return the memory of an input, output or state as an array of the shape and
        dtype of ``like``.
        """
        library = self.engine.library
        find = (
            library.lstm_edge_input,
            library.lstm_edge_output,
            library.lstm_edge_state,
        )[kind]
        memory: Any = (C.c_char * like.nbytes).from_address(find(self.handle, index))
        memory.stream = self
        return np.frombuffer(memory, like.dtype).reshape(like.shape)


def _room(layout: Layout, rows: int, units: int) -> Array:
    """Return an array ``(rows, L, ...)``, or ``(rows, ...)`` without a time axis."""
    front = (rows, units * layout.frames) if layout.timed else (rows,)
    return np.zeros((*front, *layout.inner), layout.dtype)


def _by_name(layouts: Sequence[Layout], arrays: Sequence[Array]) -> dict[str, Array]:
    return {tensor.name: array for tensor, array in zip(layouts, arrays, strict=True)}


def _fill(views: Any, layouts: Sequence[Layout], arrays: Sequence[Array]) -> None:
    """Say to the library where arrays as of ``_room`` lie, which the caller keeps."""
    for view, tensor, array in zip(views, layouts, arrays, strict=True):
        strides = array.strides
        view.data = _address(array)
        view.row_stride = strides[0]
        if (
            tensor.timed and array.shape[1] > tensor.frames
        ):  # the stride of a single unit is not used
            view.step_stride = strides[1] * tensor.frames


def _rows(arrays: Sequence[Array]) -> Any:
    """Return where arrays ``(K, width)`` lie, for the library; it keeps them."""
    views: Any = (Rows * len(arrays))(
        *[Rows(_address(array), array.strides[0], 0) for array in arrays]
    )
    views.arrays = arrays
    return views


def _address(array: Array) -> int:
    try:
        return C.addressof(C.c_char.from_buffer(array))  # type: ignore[arg-type]  # a third of numpy's own time
    except (TypeError, BufferError, ValueError):  # it is read-only or has gaps
        return int(array.ctypes.data)
