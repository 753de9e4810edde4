"""The engine that runs an ``.lep`` file, a compiled program, on the C library of ``lstm-edge-native``."""

import ctypes as C
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from ..arrays import reset_states
from ..engine import Arrays, Call
from ..errors import FileFormatError, InputError, ManifestError, UnsupportedError
from ..graph_check import check_contract
from ..layout import Layout, layout, layouts
from ..manifest import Array, Manifest
from .library import INPUT, OUTPUT, STATE, TYPES, Port, Rows, library, quick_step
from .past import Past

_WIDE = np.dtype(np.uintp).itemsize == 8
_QUICK = 2**19
"""Bytes of the smallest program whose steps let other threads run: smaller ones take less than 5 us."""


class _Part(NamedTuple):
    """A state of the program: one of the file, or a layer of it."""

    layout: Layout
    layer: int | None
    width: int
    past: Past | None

    @property
    def key(self) -> tuple[str, int, str]:
        """What the program must say of it."""
        name = self.layout.name if self.layer is None else f"{self.layout.name}[{self.layer}]"
        return name, prod(self.layout.inner) + bool(self.past), self.layout.dtype

    def to_rows(self, states: Arrays) -> Array:
        """Return the rows ``(K, width)`` of states in the file's layout."""
        array = states[self.layout.name] if self.layer is None else states[self.layout.name][self.layer]
        rows = self.layout.from_file(array)
        return rows.reshape(len(rows), -1) if self.past is None else self.past.to_rows(rows)

    def from_rows(self, rows: Array) -> Array:
        """Return the part in the file's layout of rows ``(K, width)``."""
        rows = rows if self.past is None else self.past.from_rows(rows)
        return self.layout.to_file(rows.reshape(len(rows), *self.layout.inner))


class NativeEngine:
    """A loaded program and its manifest; see ``Engine``."""

    couples_rows = False

    def __init__(self, program: bytes, threads: int) -> None:
        """Load a program file and match it with its manifest.

        Raises:
            MissingDependencyError: no ``lstm-edge-native``.
            FileFormatError: the library refuses it, or its inputs, outputs and states are not the manifest's.
            ManifestError: it carries none, or one that can't be meant.
            UnsupportedError: too many threads.
        """
        self.library = library()
        self.handle: int | None = self.library.lstm_edge_load(program, len(program))
        if not self.handle:
            raise FileFormatError(f"the native program is refused: {self._reason()}")
        text = self.library.lstm_edge_manifest(self.handle)
        if text is None:
            raise ManifestError("the native program carries no manifest; convert the model again")
        manifest = self.manifest = Manifest.from_json(text.decode(errors="replace"))
        check_contract(manifest)
        if self.library.lstm_edge_set_threads(self.handle, threads):
            raise UnsupportedError(f"the native engine does not support {self._reason()}; use threads=1")
        self.inputs, self.outputs = (
            layouts(manifest.data_inputs, manifest),
            layouts(manifest.outputs, manifest),
        )
        self.parts = [self._part(port) for port in self._ports(STATE)]
        self._check()
        self.step: Callable[[int], int] = self.library.lstm_edge_step
        if len(program) < _QUICK:
            self.step = quick_step(self.library)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.lstm_edge_free(self.handle)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Run whole sequences; see ``Engine``."""
        manifest = self.manifest
        steps = sizes.get(manifest.sequence or "", 1)
        if steps % manifest.unit:
            raise InputError(
                f"got {steps} steps, expected a multiple of {manifest.unit}, the unit of this file"
            )
        rows = np.arange(sizes.get(manifest.batch or "", 1))
        states = NativeStates(self, len(rows), feeds)
        inputs = {each.name: each.from_file(feeds[each.name]) for each in self.inputs}
        outputs = states.run(rows, inputs, sizes, feeds.get(manifest.lengths or ""))
        after = states.read(rows)
        results = {each.name: each.to_file(outputs[each.name]) for each in self.outputs}
        return results | {spec.output: after[spec.input] for spec in manifest.states}

    def states(self, rows: int | None) -> "NativeStates":
        """Return the states of sources at reset; see ``Engine``."""
        return NativeStates(self, rows)

    def selftest(self) -> float:
        """Replay the program's own golden case; return the largest difference over what is allowed.

        Raises:
            InputError: the program carries no golden case.
        """
        worst = C.c_double()
        if self.library.lstm_edge_selftest(self.handle, C.byref(worst)):
            raise self.refusal()
        return worst.value

    def refusal(self) -> InputError:
        """Return the error for the last call that the library refused."""
        return InputError(self._reason())

    def _reason(self) -> str:
        reason: bytes = self.library.lstm_edge_last_error()
        return reason.decode(errors="replace")

    def _ports(self, kind: int) -> list[Port]:
        ports = [Port() for _ in range(self.library.lstm_edge_count(self.handle, kind))]
        for index, port in enumerate(ports):
            self.library.lstm_edge_describe(self.handle, kind, index, C.byref(port))
        return ports

    def _part(self, port: Port) -> _Part:
        """Return which state of the manifest a state of the program, ``h_0`` or ``h_0[1]``, is a part of."""
        name = port.name.decode(errors="replace")
        whole, _, layer = name.removesuffix("]").rpartition("[")
        for spec in self.manifest.states:
            if spec.input in (name, whole):
                layered = spec.input != name
                own = layout(spec.input, spec.dtype, spec.axes[layered:], self.manifest)
                frame = port.frames * port.groups
                past = Past(port.groups, port.frames, (port.width - 1) // frame) if frame else None
                return _Part(own, int(layer) if layered else None, port.width, past)
        raise FileFormatError(f"the native program has a state {name!r} that its manifest does not name")

    def _check(self) -> None:
        """Raise where the program would read or write other memory than what its manifest describes."""
        manifest, parts = self.manifest, self.parts
        expected = [
            [(each.name, prod(each.inner), each.dtype.replace("bool", "uint8")) for each in self.inputs],
            [(each.name, prod(each.inner), "float32") for each in self.outputs],
            [part.key for part in parts],
        ]
        same = [
            [(port.name.decode(errors="replace"), port.width, TYPES[port.type]) for port in self._ports(kind)]
            for kind in (INPUT, OUTPUT, STATE)
        ] == expected
        pace = [(each.timed, each.frames if each.timed else 0) for each in self.outputs]
        same &= pace == [(bool(port.every_step), port.frames) for port in self._ports(OUTPUT)]
        same &= self.library.lstm_edge_unit(self.handle) == manifest.unit
        same &= all(each.dtype == "float32" for each in self.outputs)
        for spec in manifest.states:
            layers = [part.layer for part in parts if part.layout.name == spec.input]
            whole = layers == [*range(len(layers))] and spec.axes[:1] == (len(layers),)
            same &= layers == [None] or whole
        for each in (*self.inputs, *self.outputs, *(part.layout for part in parts)):
            names = [axis for axis in each.given[1:] if isinstance(axis, str)]  # but for that of the rows
            same &= len(names) == each.timed and not (each.factor and each not in self.outputs)
        if not same or (
            manifest.sequence and not any(manifest.sequence in each.axes for each in self.inputs)
        ):
            raise FileFormatError("the native program is not as its manifest says; convert the model again")


class NativeStates:
    """States of a single source in memory of the C library, with which a step is quickest; else a pool."""

    __slots__ = ("_engine", "_inputs", "_outputs", "_pool", "_stream", "_views")
    in_place = True

    def __init__(self, engine: NativeEngine, rows: int | None, states: Arrays | None = None) -> None:
        """Open a stream of the library, or allocate a pool; at ``states``, or at reset."""
        self._engine = engine
        buffered = (
            engine.manifest.is_buffered
        )  # a stream of the library keeps steps and drops frames by itself
        self._stream = _Stream(engine) if rows is None and not buffered else None
        self._inputs: Any = None
        self._outputs: Any = None
        self._pool: list[Array] = []
        self._views: Any = None
        if self._stream is None:
            states = states or reset_states(engine.manifest, rows or 1)
            self._pool = [
                np.array(part.to_rows(states), part.layout.dtype, order="C") for part in engine.parts
            ]
            self._views = _rows(self._pool)

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Bind a call of all sources; see ``States``."""
        engine, stream, states = self._engine, self._stream, self._states()
        rows = len(states[0]) if states else 1
        units = sizes.get(engine.manifest.sequence or "", 1) // engine.manifest.unit
        inputs = [_room(each, rows, units) for each in engine.inputs]
        outputs = [_room(each, rows, units) for each in engine.outputs]
        if stream is not None and units == 1:
            inputs = [stream.view(INPUT, index, array) for index, array in enumerate(inputs)]
            outputs = [stream.view(OUTPUT, index, array) for index, array in enumerate(outputs)]
            run: Callable[[], object] = MethodType(engine.step, stream.handle)  # smaller than a partial
        else:
            views = (Rows * len(inputs))(), _rows(states), (Rows * len(outputs))()
            _fill(views[0], engine.inputs, inputs)
            _fill(views[2], engine.outputs, outputs)
            run = partial(engine.library.lstm_edge_run, engine.handle, rows, units, None, *views)
        return Call(_by_name(engine.inputs, inputs), run, _by_name(engine.outputs, outputs))

    def run(
        self, rows: Array, inputs: Arrays, sizes: Mapping[str, int], lengths: Array | None
    ) -> dict[str, Array]:
        """Take steps of some sources; see ``States``. Rows of each length run together."""
        engine, manifest = self._engine, self._engine.manifest
        steps = sizes.get(manifest.sequence or "", 1)
        given = [np.ascontiguousarray(inputs[each.name]) for each in engine.inputs]
        units = steps // manifest.unit
        outputs = [_room(each, len(rows), units) for each in engine.outputs]
        if lengths is None or (lengths == steps).all():
            self._take(rows, given, units, outputs)
            return _by_name(engine.outputs, outputs)
        for length in np.unique(lengths).tolist():
            own = np.flatnonzero(lengths == length)
            made = [_room(each, len(own), length) for each in engine.outputs]
            parts = [
                array[own, :length] if each.timed else array[own]
                for each, array in zip(engine.inputs, given, strict=True)
            ]
            self._take(rows[own], parts, length, made)
            for each, array, part in zip(engine.outputs, outputs, made, strict=True):
                array[(own, slice(length)) if each.timed else own] = part
        return _by_name(engine.outputs, outputs)

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of states; see ``States``."""
        found: dict[str, list[Array]] = {}
        for part, array in zip(self._engine.parts, self._states(), strict=True):
            own = part.from_rows(array[rows])
            found.setdefault(part.layout.name, []).append(own if part.layer is None else own[None])
        return {spec.input: np.concatenate(found[spec.input]) for spec in self._engine.manifest.states}

    def write(self, rows: Array, states: Arrays) -> None:
        """Set states; see ``States``."""
        for part, array in zip(self._engine.parts, self._states(), strict=True):
            array[rows] = part.to_rows(states)

    def refusal(self) -> Exception:
        """Return the error for a call that was refused; see ``States``."""
        return self._engine.refusal()

    def _states(self) -> list[Array]:
        """Return the states themselves, ``(rows, width)`` of each part."""
        if self._stream is None:
            return self._pool
        likes = [np.empty((1, part.width), part.layout.dtype) for part in self._engine.parts]
        return [self._stream.view(STATE, index, like) for index, like in enumerate(likes)]

    def _take(self, rows: Array, inputs: Sequence[Array], units: int, outputs: Sequence[Array]) -> None:
        engine = self._engine
        if self._inputs is None:
            self._inputs, self._outputs = (Rows * len(inputs))(), (Rows * len(outputs))()
        _fill(self._inputs, engine.inputs, inputs)
        _fill(self._outputs, engine.outputs, outputs)
        states = _rows(self._states()) if self._stream else self._views
        places = rows.view(np.uintp) if _WIDE else rows.astype(np.uintp)
        if engine.library.lstm_edge_run(
            engine.handle, len(places), units, _address(places), self._inputs, states, self._outputs
        ):
            raise engine.refusal()


class _Stream:
    """A stream of the library; it lives as long as an array of its memory."""

    __slots__ = ("engine", "handle")

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.handle: int | None = engine.library.lstm_edge_stream_new(engine.handle)
        if not self.handle:
            raise MemoryError("no memory for another stream")

    def __del__(self) -> None:
        if self.handle:
            self.engine.library.lstm_edge_stream_free(self.handle)

    def view(self, kind: int, index: int, like: Array) -> Array:
        """Return the memory of an input, output or state as an array of the shape and dtype of ``like``."""
        library = self.engine.library
        find = (library.lstm_edge_input, library.lstm_edge_output, library.lstm_edge_state)[kind]
        memory: Any = (C.c_char * like.nbytes).from_address(find(self.handle, index))
        memory.stream = self
        return np.frombuffer(memory, like.dtype).reshape(like.shape)


def _room(layout: Layout, rows: int, units: int) -> Array:
    """Return an array ``(rows, L, ...)``, or ``(rows, ...)`` without a time axis."""
    front = (rows, units * layout.frames) if layout.timed else (rows,)
    return np.zeros((*front, *layout.inner), layout.dtype)


def _by_name(layouts: Sequence[Layout], arrays: Sequence[Array]) -> dict[str, Array]:
    return {each.name: array for each, array in zip(layouts, arrays, strict=True)}


def _fill(views: Any, layouts: Sequence[Layout], arrays: Sequence[Array]) -> None:
    """Say to the library where arrays as of ``_room`` lie, which the caller keeps."""
    for view, each, array in zip(views, layouts, arrays, strict=True):
        strides = array.strides
        view.data, view.row_stride = _address(array), strides[0]
        if each.timed and array.shape[1] > each.frames:  # the stride of a single unit is not used
            view.step_stride = strides[1] * each.frames


def _rows(arrays: Sequence[Array]) -> Any:
    """Return where arrays ``(K, width)`` lie, for the library; it keeps them."""
    views: Any = (Rows * len(arrays))(*[Rows(_address(each), each.strides[0], 0) for each in arrays])
    views.arrays = arrays
    return views


def _address(array: Array) -> int:
    try:
        return C.addressof(C.c_char.from_buffer(array))  # type: ignore[arg-type]  # a third of numpy's own time
    except (TypeError, BufferError, ValueError):  # it is read-only or has gaps
        return int(array.ctypes.data)
