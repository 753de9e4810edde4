"""Run streams and batches with a native program, on arrays in the file's own layout."""

import ctypes as C
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from math import prod
from types import MethodType
from typing import Any, NamedTuple

import numpy as np

from ..axes import all_ones, check_array, check_lengths, describe, resolve, row_factor, unit_shape
from ..errors import ContractError, FileFormatError, InputError, ManifestError, UnsupportedError, counted
from ..graph_check import check_contract
from ..manifest import Array, Axes, Manifest, StateSpec, TensorSpec
from .library import INPUT, OUTPUT, STATE, TYPES, Port, Rows, library, quick_step
from .past import Past

_QUICK = 2**19
"""Bytes of the smallest program whose steps let other threads run: smaller ones take less than 5 us."""
_OLD = 2**40
"""Units after which no state is held: ages and samples that don't fill a unit are kept here, not in C."""


class _Port(NamedTuple):
    """An input, output or state of the program; see ``lstm_edge_port``."""

    name: str
    width: int
    dtype: str
    every_step: bool
    frames: int = 0
    groups: int = 0
    delay: int = 0


class _Part(NamedTuple):
    """A state of the program: the file's, or one layer of it."""

    spec: StateSpec
    layer: int | None
    width: int
    past: Past | None = None
    dtype: str = "float32"


class NativeEngine:
    """A loaded program. Nothing in it changes, so that any number of threads may share it."""

    def __init__(self, program: bytes, threads: int) -> None:
        """Load a program file and match it with its manifest.

        Raises:
            FileFormatError: the library refuses it, or its inputs, outputs and states are not the manifest's.
            ContractError: as ``check_contract``.
            UnsupportedError: a state whose rows are not contiguous, or too many threads.
        """
        self.library = library()
        self._handle = self._load(program)
        text = self.library.lstm_edge_manifest(self._handle)
        if text is None:
            raise ManifestError("the native program carries no manifest; convert the model again")
        manifest = self.manifest = Manifest.from_json(text.decode(errors="replace"))
        check_contract(manifest)
        if self.library.lstm_edge_set_threads(self._handle, threads):
            raise UnsupportedError(f"the native engine does not support {self._reason()}; use threads=1")
        self._check_ports()
        self.parts = self._match_states()
        self.sizes = [
            [
                prod(unit_shape(spec.axes, manifest)) * np.dtype(spec.dtype).itemsize
                for spec in manifest.data_inputs
            ],
            [4 * port.width * max(1, port.frames) for port in self._ports(OUTPUT)],
            [part.width * np.dtype(part.dtype).itemsize for part in self.parts],
        ]
        """Bytes of a row of each input, output and state in one step, or in one unit."""
        self.step: Callable[[int], int] = self.library.lstm_edge_step
        if len(program) < _QUICK:
            self.step = quick_step(self.library)

    def __del__(self) -> None:
        if handle := getattr(self, "_handle", None):
            self.library.lstm_edge_free(handle)

    def _load(self, program: bytes) -> int:
        handle: int | None = self.library.lstm_edge_load(program, len(program))
        if not handle:
            raise FileFormatError(f"the native program is refused: {self._reason()}")
        return handle

    def _ports(self, kind: int) -> list[_Port]:
        handle, ports, port = self._handle, [], Port()
        for index in range(self.library.lstm_edge_count(handle, kind)):
            self._check(self.library.lstm_edge_describe(handle, kind, index, C.byref(port)))
            name, dtype = port.name.decode(errors="replace"), TYPES[port.type]
            pace = port.frames, port.groups, port.delay
            ports.append(_Port(name, port.width, dtype, bool(port.every_step), *pace))
        return ports

    def _check_ports(self) -> None:
        """Raise where the program would read or write other memory than what its manifest describes."""
        manifest = self.manifest
        inputs = [
            (spec.name, prod(all_ones(spec.axes)), "uint8" if spec.dtype == "bool" else spec.dtype)
            for spec in manifest.data_inputs
        ]
        outputs = []
        for spec in manifest.outputs:
            every, delay = self._every_step(spec), manifest.delays.get(spec.name, 0)
            frames = manifest.frames_a_unit.get(spec.name, 1) if every else 0
            width = prod(self._inner(spec.axes))
            outputs.append(_Port(spec.name, width, spec.dtype, every, frames, 0, delay))
        found, given = self._ports(INPUT), self._ports(OUTPUT)
        unit = self.library.lstm_edge_unit(self._handle)
        if [port[:3] for port in found] != inputs or given != outputs or unit != manifest.unit:
            names = [port.name for port in (*found, *given)]
            raise FileFormatError(
                f"the native program's inputs and outputs {names} are not those of its manifest; "
                "convert the model again"
            )
        self._check_axes()

    def _every_step(self, spec: TensorSpec) -> bool:
        return self.manifest.time_axis(spec.axes) is not None

    def _check_axes(self) -> None:
        """Raise if an axis of the manifest is none that a native program has."""
        manifest = self.manifest
        if manifest.sequence is not None and not any(
            manifest.sequence in spec.axes for spec in manifest.data_inputs
        ):
            raise FileFormatError(f"no input has the time axis {manifest.sequence}; convert the model again")
        for name, axes in manifest.axes.items():
            factors = [row_factor(axis, manifest.batch) for axis in axes]
            rows, time = name in manifest.output_names, manifest.time_axis(axes)
            named = (manifest.batch, None if time is None else axes[time])
            for axis, factor in zip(axes, factors, strict=True):
                known = isinstance(axis, int) or axis in named
                if not known and not (rows and factor):
                    raise FileFormatError(
                        f"{name} {describe(axes)} has axis {axis}, which native programs don't support; "
                        "convert the model again"
                    )
            if len(factors) - factors.count(None) > 1 or (*axes, None).count(manifest.sequence) > 1:
                raise FileFormatError(
                    f"{name} {describe(axes)} has its rows or its steps on two axes, which no native program "
                    "has; convert the model again"
                )

    def _match_states(self) -> tuple[_Part, ...]:
        specs = {spec.input: spec for spec in self.manifest.states}
        parts = []
        for name, width, dtype, _, frames, groups, _ in self._ports(STATE):
            match = re.fullmatch(r"(.*)\[(\d+)\]", name)
            if name in specs:
                past = Past(groups, frames, (width - 1) // frames // groups) if frames else None
                parts.append(_Part(specs[name], None, width, past, dtype))
            elif match is not None and match[1] in specs:
                parts.append(_Part(specs[match[1]], int(match[2]), width))
            else:
                raise FileFormatError(
                    f"the native program has a state {name!r} that its manifest does not name"
                )
        for spec in specs.values():
            self._check_state(spec, [part for part in parts if part.spec is spec])
        return tuple(parts)

    def _check_state(self, spec: StateSpec, parts: Sequence[_Part]) -> None:
        """Raise if a state is not whole in its parts: one, or one for each layer."""
        layers = [part.layer for part in parts]
        layered = layers == [*range(len(parts))] and spec.axes[:1] == (len(parts),)
        inner = spec.axes[1:] if layered else spec.axes
        width = prod(all_ones(inner))
        whole = (layered or layers == [None]) and all(part.width - bool(part.past) == width for part in parts)
        if not whole or any(part.dtype != spec.dtype for part in parts):
            raise FileFormatError(
                f"the native program does not hold all of state {spec.input} {spec.dtype} "
                f"{describe(spec.axes)}; convert the model again"
            )

    def _reason(self) -> str:
        reason: bytes = self.library.lstm_edge_last_error()
        return reason.decode(errors="replace")

    def _check(self, status: int) -> None:
        if status:
            raise InputError(self._reason())

    def refusal(self) -> InputError:
        """Return the exception for a step that the library refused."""
        return InputError(self._reason())

    def selftest(self) -> float:
        """Replay the program's own golden case; return the largest difference over what is allowed.

        Raises:
            InputError: the program carries no golden case.
        """
        worst = C.c_double()
        self._check(self.library.lstm_edge_selftest(self._handle, C.byref(worst)))
        return worst.value

    @cached_property
    def _layout(self) -> tuple[int, int, list[list[int]]]:
        """How far before its first input a stream's memory begins, its size, and where each part begins."""
        starts, unit = _Handle(self).starts(), self.manifest.unit
        first = min(start for each in starts for start in each)
        rows = [[size // unit for size in self.sizes[INPUT]], *self.sizes[1:]]
        ends = [
            start + size
            for each, sizes in zip(starts, rows, strict=True)
            for start, size in zip(each, sizes, strict=True)
        ]
        offsets = [[start - first for start in each] for each in starts]
        return starts[INPUT][0] - first, max(ends) - first, offsets

    @property
    def offsets(self) -> list[list[int]]:
        """Where each input, output and state begins in a stream's memory, by kind."""
        return self._layout[2]

    def span(self, handle: "_Handle") -> tuple[int, int]:
        """Return the address and the size of a stream's memory."""
        before, size, _ = self._layout
        return self.library.lstm_edge_input(handle.address, 0) - before, size

    def stream(self) -> "NativeStates":
        """Open a stream of the library at the reset state."""
        return NativeStates(self)

    def pool(self, states: Mapping[str, Array]) -> "NativePool":
        """Return a pool of the sources whose states are given in the file's layout, which are copied."""
        return NativePool(self, states)

    def call(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run whole sequences from every input and state in the file's layout; raises as ``tick``.

        Returns:
            The outputs by name, and the new states by input name.
        """
        pool = self.pool({spec.input: feeds[spec.input] for spec in self.manifest.states})
        sizes: dict[str, int] = {}
        self._check_inputs(feeds, sizes)
        slots = np.arange(sizes.get(self.manifest.batch or "", 1))
        outputs = self.tick(feeds, pool, slots)
        return outputs, pool.gather()

    def _check_inputs(self, feeds: Mapping[str, Array], sizes: dict[str, int]) -> None:
        """Check what is read of the inputs; add to ``sizes`` what the named axes turn out to be."""
        for spec in self.manifest.data_inputs:
            check_array(spec, feeds[spec.name], sizes)

    def tick(self, feeds: Mapping[str, Array], pool: "NativePool", slots: Array) -> dict[str, Array]:
        """Run some rows of a pool of states, which are updated in place; return the outputs.

        Args:
            feeds: the data inputs in the file's layout, and ``lengths`` where the file takes it.
            pool: the states of each place.
            slots: the place in the pool of each row, ``(N,)``.

        Raises:
            ContractError: more rows than a state has.
            InputError: an array of another shape or dtype, a length outside 1..L, a slot outside the pool or
                given twice, or an index outside an embedding table; no state has changed then.
        """
        manifest, rows = self.manifest, len(slots)
        sizes = {manifest.batch or "": rows}
        self._check_inputs(feeds, sizes)
        pool.check(slots)
        steps, over = divmod(sizes.get(manifest.sequence or "", 1), manifest.unit)
        if over:
            raise InputError(
                f"got a chunk that is no multiple of {manifest.unit} steps, the unit of this file"
            )
        inputs = [self._in_order(spec, feeds[spec.name]) for spec in manifest.data_inputs]
        inputs = [np.broadcast_to(array, (rows, steps, array.shape[2])) for array in inputs]
        outputs = [self._room(spec, rows, steps) for spec in manifest.outputs]
        lengths = feeds.get(manifest.lengths or "")
        if lengths is not None:
            assert manifest.lengths_input is not None
            check_array(manifest.lengths_input, lengths, sizes)
            check_lengths(manifest.lengths_input.name, lengths, steps)
        if lengths is None or (lengths == steps).all():
            self._run(slots, steps, inputs, pool.rows, outputs)
        else:
            before = [array[slots] for array in pool.rows]
            try:
                self._run_unequal(slots, lengths, inputs, pool.rows, outputs)
            except InputError:
                for array, old in zip(pool.rows, before, strict=True):
                    array[slots] = old
                raise
        return {
            spec.name: self._to_file(spec, array, rows, steps)
            for spec, array in zip(manifest.outputs, outputs, strict=True)
        }

    def _run_unequal(
        self,
        slots: Array,
        lengths: Array,
        inputs: Sequence[Array],
        pool: Sequence[Array],
        outputs: Sequence[Array],
    ) -> None:
        """Run the rows of each length together; outputs of steps beyond it are zeros."""
        for count in np.unique(lengths).tolist():
            rows = np.flatnonzero(lengths == count)
            given = [array[rows, :count] for array in inputs]
            made = [array[rows, :count] if array.ndim == 3 else array[rows] for array in outputs]
            self._run(slots[rows], count, given, pool, made)
            for array, part in zip(outputs, made, strict=True):
                array[(rows, slice(count)) if array.ndim == 3 else rows] = part

    def _run(
        self,
        slots: Array,
        steps: int,
        inputs: Sequence[Array],
        pool: Sequence[Array],
        outputs: Sequence[Array],
    ) -> None:
        places = np.ascontiguousarray(slots, np.uintp)
        views = [(Rows * len(group))(*map(_view, group)) for group in (inputs, pool, outputs)]
        self._check(self.library.lstm_edge_run(self._handle, len(places), steps, places.ctypes.data, *views))

    def _in_order(self, spec: TensorSpec, array: Array) -> Array:
        """Return an input as ``(N, units, width)``, a view if the numbers of a row are contiguous."""
        names = (self.manifest.batch, self.manifest.sequence)
        places = [spec.axes.index(name) for name in names if name in spec.axes]
        array = np.moveaxis(array, places, range(len(places)))
        array = np.expand_dims(array, [at for at, name in enumerate(names) if name not in spec.axes])
        rows = array.reshape(len(array), -1, self.manifest.unit * prod(array.shape[2:]))
        return np.ascontiguousarray(rows) if rows.strides[2] != rows.itemsize else rows

    def _room(self, spec: TensorSpec, rows: int, steps: int) -> Array:
        """Return room for an output, ``(N, L, width)``, or ``(N, width)`` of the last step."""
        width = prod(self._inner(spec.axes)) * self.manifest.frames_a_unit.get(spec.name, 1)
        return np.zeros((rows, steps, width) if self._every_step(spec) else (rows, width), "float32")

    def _inner(self, axes: Axes) -> list[int]:
        """Return the sizes of an output's axes without batch and time; ``k*N`` rows are k."""
        batch, time = self.manifest.batch, self.manifest.time_axis(axes)
        factors = [
            axis if isinstance(axis, int) else row_factor(axis, batch)
            for place, axis in enumerate(axes)
            if axis != batch and place != time
        ]
        return [factor or 1 for factor in factors]

    def _to_file(self, spec: TensorSpec, array: Array, rows: int, steps: int) -> Array:
        """Return an output in the file's layout."""
        manifest, batch, axes = self.manifest, self.manifest.batch, spec.axes
        time_sizes = manifest.time_sizes(steps * manifest.unit)
        sizes = {batch or "": rows, manifest.sequence or "": steps * manifest.unit, **time_sizes}
        shape, time = resolve(axes, sizes), manifest.time_axis(axes)
        assert shape is not None
        if array.size != prod(shape):
            raise ManifestError(
                f"the native program gives {spec.name} {array.shape}, its manifest says {describe(axes)}"
            )
        front = (rows,) if time is None else (rows, shape[time])
        full = array.reshape(*front, *self._inner(axes))
        own = next((place for place, axis in enumerate(axes) if row_factor(axis, batch) is not None), 0)
        if time is not None:  # its place among the axes without that of the rows, if they have one
            full = np.moveaxis(full, 1, 1 + time - (axes[own] == batch and own < time))
        blocks = bool(axes) and bool(row_factor(axes[own], batch))  # k blocks of N rows
        return np.moveaxis(full, 0, own + blocks).reshape(shape)

    def to_rows(self, part: _Part, states: Mapping[str, Array]) -> Array:
        """Return the rows ``(N, width)`` of a part of states in the file's layout."""
        array, axes = states[part.spec.input], part.spec.axes
        if part.layer is not None:
            array, axes = array[part.layer], axes[1:]
        batch = self.manifest.batch
        array = np.moveaxis(array, axes.index(batch), 0) if batch in axes else array[None]
        return array.reshape(len(array), -1) if part.past is None else part.past.to_rows(array)

    def from_rows(self, rows: Sequence[Array]) -> dict[str, Array]:
        """Return the states of all parts' rows in the file's layout, by input name."""
        found: dict[str, list[Array]] = {spec.input: [] for spec in self.manifest.states}
        for part, each in zip(self.parts, rows, strict=True):
            axes = part.spec.axes if part.layer is None else part.spec.axes[1:]
            inner = all_ones(tuple(axis for axis in axes if axis != self.manifest.batch))
            array = each if part.past is None else part.past.from_rows(each)
            array = array.reshape(len(array), *inner)
            if self.manifest.batch in axes:
                array = np.moveaxis(array, 0, axes.index(self.manifest.batch))
            else:
                array = array[0]
            found[part.spec.input].append(array if part.layer is None else array[None])
        return {name: np.concatenate(arrays) for name, arrays in found.items()}


class NativePool:
    """The states of many sources, a row a source."""

    def __init__(self, engine: NativeEngine, states: Mapping[str, Array]) -> None:
        """Take states in the file's layout, which are copied.

        Raises:
            ContractError: they are of another shape.
            InputError: they are of another dtype.
        """
        self.engine = engine
        parts = zip(engine.parts, self._convert(states), strict=True)
        self.rows = [np.array(rows, part.dtype, order="C") for part, rows in parts]
        """Of each part of the program, ``(capacity, width)``."""
        self.nbytes = sum(rows.nbytes for rows in self.rows)

    def _convert(self, states: Mapping[str, Array]) -> list[Array]:
        sizes: dict[str, int] = {}
        for spec in self.engine.manifest.states:
            check_array(TensorSpec(f"state {spec.input}", spec.dtype, spec.axes), states[spec.input], sizes)
        return [self.engine.to_rows(part, states) for part in self.engine.parts]

    def gather(self, slots: Any = slice(None)) -> dict[str, Array]:
        """Return the states of ``slots`` in their order, in the file's layout."""
        return self.engine.from_rows([rows[slots] for rows in self.rows])

    def single_step(self) -> "NativeTick":
        """Return what takes single steps of its rows."""
        return NativeTick(self)

    def scatter(self, slots: Array, states: Mapping[str, Array]) -> None:
        """Write ``states`` to ``slots``."""
        for rows, given in zip(self.rows, self._convert(states), strict=True):
            rows[slots] = given

    def check(self, slots: Array) -> None:
        """Raise where ``slots`` are not places of the pool, each once."""
        fewest = min(map(len, self.rows), default=len(slots))
        if fewest < len(slots):
            raise ContractError(f"got {counted(len(slots), 'row')} and a state of {fewest}")
        if len(np.unique(slots)) < len(slots) or slots.min(initial=0) < 0 or slots.max(initial=0) >= fewest:
            raise InputError(f"got slots {slots.tolist()!s:.60}, expected 0..{fewest - 1}, each once")


class NativeTick:
    """One step of some rows of a pool, samples and outputs a row a source. Not for two threads at once."""

    def __init__(self, pool: NativePool) -> None:
        """Take a pool, which is updated in place."""
        engine = pool.engine
        manifest = engine.manifest
        self._engine, self._kept = engine, pool.rows
        self._states = (Rows * len(self._kept))(*map(_view, self._kept))
        self._inputs = (Rows * len(manifest.data_inputs))()
        self._outputs = (Rows * len(manifest.outputs))()
        self._shapes = [(spec.name, tuple(engine._inner(spec.axes))) for spec in manifest.outputs]

    def run(self, arrays: Sequence[Array], slots: Array | None, rows: int) -> dict[str, Array]:
        """Take the step; return the outputs ``(rows, ...)`` by name.

        Args:
            arrays: each data input, ``(rows, ...)`` in C order.
            slots: the place in the pool of each row, below its capacity; None for 0, 1, 2 and so on.
            rows: how many there are.

        Raises:
            InputError: an array of another size, or an index outside an embedding table; no state has changed
                then.
        """
        for view, array, size in zip(self._inputs, arrays, self._engine.sizes[INPUT], strict=True):
            if array.nbytes != rows * size or not array.flags.c_contiguous:
                raise InputError(f"got {array.nbytes} bytes of {rows} rows, expected {size} a row")
            view.data, view.row_stride = _address(array), size
        outputs = {}
        for view, (name, shape) in zip(self._outputs, self._shapes, strict=True):
            made = outputs[name] = np.empty((rows, *shape), np.float32)
            view.data, view.row_stride = _address(made), made.nbytes // rows
        places = None if slots is None else np.ascontiguousarray(slots, np.uintp)
        engine = self._engine
        engine._check(
            engine.library.lstm_edge_run(
                engine._handle,
                rows,
                1,
                None if places is None else _address(places),
                self._inputs,
                self._states,
                self._outputs,
            )
        )
        return outputs


class _Handle:
    """A stream of the library; it is freed with the last view of its memory, which is one block."""

    __slots__ = ("address", "engine")

    def __init__(self, engine: NativeEngine) -> None:
        self.engine = engine
        self.address = engine.library.lstm_edge_stream_new(engine._handle)
        if not self.address:
            raise MemoryError(engine._reason())

    def __del__(self) -> None:
        if self.address:
            self.engine.library.lstm_edge_stream_free(self.address)

    def starts(self) -> list[list[int]]:
        """Return the address of each input, output and state, by kind."""
        library = self.engine.library
        places = (library.lstm_edge_input, library.lstm_edge_output, library.lstm_edge_state)
        return [
            [place(self.address, index) for index in range(len(sizes))]
            for place, sizes in zip(places, self.engine.sizes, strict=True)
        ]

    @property
    def __array_interface__(self) -> dict[str, Any]:
        """All of its memory as bytes, from which ``np.asarray`` makes an array that keeps it."""
        first, size = self.engine.span(self)
        return {"data": (first, False), "shape": (size,), "typestr": "|u1", "version": 3}


class NativeStates:
    """A stream of the library, its states in place of onnxruntime's two sets."""

    __slots__ = ("_block", "engine", "handle")

    def __init__(self, engine: NativeEngine) -> None:
        """Open it at the reset state."""
        self.engine = engine
        self.handle = _Handle(engine)
        if engine.manifest.is_buffered:
            engine.library.lstm_edge_set_age(self.handle.address, _OLD * engine.manifest.unit)
        self._block = np.asarray(self.handle)

    @property
    def nbytes(self) -> int:
        """Of the states."""
        return sum(self.engine.sizes[STATE])

    def view(self, kind: int, index: int, shape: tuple[int, ...], dtype: str) -> Array:
        """Return a view of an input's, output's or state's memory."""
        start = self.engine.offsets[kind][index]
        size = prod(shape) * np.dtype(dtype).itemsize
        found: Array = self._block[start : start + size].view(dtype).reshape(shape)
        return found

    def _states(self) -> list[Array]:
        return [
            self.view(STATE, index, (part.width,), part.dtype) for index, part in enumerate(self.engine.parts)
        ]

    def call(self, inputs: Mapping[str, Array], sizes: Mapping[str, int]) -> "NativeCall":
        """Return a call with these data inputs in it, for named axes of these sizes."""
        return NativeCall(self, inputs, sizes)

    def read(self) -> dict[str, Array]:
        """Return the states by input name, as copies."""
        return self.engine.from_rows([view[None] for view in self._states()])

    def write(self, arrays: Mapping[str, Array]) -> None:
        """Make ``arrays`` the states."""
        for part, view in zip(self.engine.parts, self._states(), strict=True):
            view[:] = self.engine.to_rows(part, arrays)[0]


class NativeCall:
    """A call of one shape of a stream: write its ``inputs``, ``run`` it, read its ``outputs``."""

    def __init__(self, states: NativeStates, inputs: Mapping[str, Array], sizes: Mapping[str, int]) -> None:
        """Take the data inputs, which are copied, and the sizes of the named axes."""
        engine, manifest, lib = states.engine, states.engine.manifest, states.engine.library
        steps = sizes.get(manifest.sequence or "", 1)
        sizes = {**sizes, manifest.batch or "": 1}
        engine._check_inputs(inputs, {**sizes})
        steady: list[tuple[Array, Array]] = []  # rows that are the same at every step, and their input
        pointers: list[list[int]] = [[], []]

        def room(kind: int, index: int, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
            """Return an array of a shape in the file's layout, whose memory is frame after frame."""
            time = manifest.time_axis(spec.axes)
            lying = shape if time is None else (shape[time], *shape[:time], *shape[time + 1 :])
            if steps == 1:
                memory = states.view(kind, index, lying, spec.dtype)
            else:
                memory = np.zeros(lying, spec.dtype)
                rows = memory
                if time is None and kind == INPUT:
                    rows = np.zeros((steps, *shape), spec.dtype)
                    steady.append((rows, memory))
                pointers[kind].append(int(rows.ctypes.data))
            return memory if time is None else np.moveaxis(memory, 0, time)

        self.inputs = {
            spec.name: room(INPUT, index, spec, inputs[spec.name].shape)
            for index, spec in enumerate(manifest.data_inputs)
        }
        self.outputs = {
            spec.name: room(OUTPUT, index, spec, resolve(spec.axes, sizes) or ())
            for index, spec in enumerate(manifest.outputs)
        }
        for name, array in inputs.items():
            self.inputs[name][...] = array
        self.run: Callable[[], int]
        """Takes the steps; a status other than 0 is a refusal, and no state has changed then."""
        if steps == 1:
            self.run = MethodType(engine.step, states.handle.address)  # smaller than a partial
            return
        arrays = [(C.c_void_p * len(group))(*group) for group in pointers]
        self.run = partial(lib.lstm_edge_chunk, states.handle.address, arrays[0], steps, arrays[1])
        if steady:
            self.run = partial(_filling, self.run, steady)


def _filling(call: Callable[[], int], steady: Sequence[tuple[Array, Array]]) -> int:
    for rows, array in steady:
        rows[...] = array
    return call()


def _address(array: Array) -> int:
    """Return the address of an array in C order."""
    try:
        # A third of what numpy's own ways take.
        return C.addressof(C.c_char.from_buffer(array))  # type: ignore[arg-type]
    except TypeError:  # it is read-only
        return int(array.ctypes.data)


def _view(array: Array) -> Rows:
    return Rows(array.ctypes.data, array.strides[0], array.strides[1] if array.ndim == 3 else 0)
