"""onnxruntime: quiet sessions with our options, and the engine that runs an ``.onnx``
file on CPU or CUDA.
"""

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import reset_states
from .axes import Layout, describe, fits, layouts, resolve
from .engine import Arrays, Call, Engine
from .errors import (
    ContractError,
    FileFormatError,
    ManifestError,
    MissingDependencyError,
    ProviderError,
    UnsupportedError,
    first_line,
    install_command,
)
from .manifest import KEY, LONGEST, Array, Manifest, TensorSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_EXACT = {CUDA: {"use_tf32": "0"}}
"""TF32 is off by default: it keeps 10 bits of a factor, which exceeds any tolerance for
float32."""
_CRASHING = ["FuseFp16InitializerToFp32NodeTransformer"]
"""Disabled: on the CPU, onnxruntime 1.32 crashes with it at a float16 product after an
LSTM."""
_SILENT = 4
"""Log level FATAL: onnxruntime logs nothing else."""
_TYPE_NAMES = {"float32": "float", "float64": "double"}
"""onnxruntime's names of dtypes that differ from NumPy's."""
_BLOCK = 256
"""Number of rows per call, so that the working memory stays in the cache."""
DIGEST = "lstm_edge_sha256"
"""Key of the property with the sha256 in hex."""
_FRONT = b"\x72\x54\n\x10" + DIGEST.encode() + b"\x12\x40"
"""Field 14 of the message, 84 bytes long, with the key and what precedes the value."""
_SIZE = len(_FRONT) + 64


def sealed(content: bytes) -> bytes:
    """Return a file's bytes with a seal at the end, which replaces an earlier one."""
    content = content[:-_SIZE] if content[-_SIZE:].startswith(_FRONT) else content
    return content + _FRONT + hashlib.sha256(content).hexdigest().encode()


def check_seal(content: bytes, name: str) -> str:
    """Return the identity of a file: the sha256 in hex of all bytes in front of its
    seal; raises as ``load``.

    The digest is checked first because some damaged files crash onnxruntime.
    """
    identity = hashlib.sha256(memoryview(content)[:-_SIZE]).hexdigest()
    if content[-_SIZE:] != _FRONT + identity.encode():
        if not _is_whole_model(content):
            raise FileFormatError(
                "truncated, or not an ONNX file; export or copy it again"
            )
        if KEY.encode() not in content:
            command = f"lstm-edge lift {name} -o lifted.onnx"
            raise ManifestError(f"it has no manifest; make one with: {command}")
        raise FileFormatError(
            "damaged, or edited after it was exported; export or copy it again"
        )
    if b"\n\x08location\x12" in content:  # a tensor names the file of its values
        raise UnsupportedError(
            "its weights are in another file, but an artifact is one; lift it again"
        )
    return identity


def _is_whole_model(content: bytes) -> bool:
    """Return True if the fields of a message ``ModelProto``, a graph among them, end
    where ``content`` ends.
    """
    position = 0
    has_graph = False
    while position < len(content):
        tag, position = _varint(content, position)
        number = tag >> 3
        wire_type = tag & 7
        size = 0
        if wire_type == 0:  # a number
            _, position = _varint(content, position)
        elif wire_type == 2:  # bytes behind their length
            size, position = _varint(content, position)
        else:  # ModelProto has no others
            return False
        position += size
        has_graph = has_graph or (number == 7 and size > 0)
    return has_graph and position == len(content)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Return the number at ``position`` and the position after it, which is beyond
    ``content`` if the number is cut off.
    """
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(content):
            return 0, len(content) + 1
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    return 0, len(content) + 1


def open_session(
    source: str | bytes,
    providers: Sequence[str] = (CPU,),
    threads: int = 1,
    *,
    name: str = "the model",
) -> "InferenceSession":
    """Open a session on a path, or on a file's bytes with a name for messages.

    Each operator uses ``threads`` threads. The CPU takes nodes that other providers do
    not.

    Raises:
        FileFormatError: onnxruntime can't read the file.
        ProviderError: a provider is not in use.
        MissingDependencyError: no onnxruntime.
    """
    ort = import_onnxruntime()
    names = list(providers)
    for provider in names:
        if provider not in ort.get_available_providers():
            raise _not_in_use(
                provider, ort.get_available_providers(), "is not in this wheel"
            )
    try:
        session = ort.InferenceSession(
            source,
            _settings(ort, threads),
            providers=[(name, _EXACT.get(name, {})) for name in names],
            disabled_optimizers=_CRASHING,
            # onnxruntime's own prints, and goes on without the provider
            enable_fallback=0,
        )
    except Exception as error:
        if names != [CPU]:
            raise _not_in_use(
                names[0], [CPU], f"did not start ({first_line(error)})"
            ) from error
        what = source if isinstance(source, str) else name
        raise FileFormatError(
            f"{what} can't be opened by onnxruntime {ort.__version__}:"
            f" {first_line(error)}; export it again, or for a lower opset"
        ) from error
    for provider in names:
        if provider not in session.get_providers():
            raise _not_in_use(provider, session.get_providers(), "did not start")
    session._model_bytes = None  # kept for set_providers, which nothing here calls
    return session  # type: ignore[no-any-return]


def _settings(ort: Any, threads: int) -> Any:
    """Return the session options: quiet, and fast for small steps."""
    settings = ort.SessionOptions()
    settings.log_severity_level = _SILENT
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.enable_cpu_mem_arena = False  # a small step is about 1 us quicker without
    settings.enable_mem_pattern = False  # plans that grow with every new chunk length
    settings.add_session_config_entry("session.set_denormal_as_zero", "1")
    for float_type in (np.float16, np.float32, np.float64):
        # numpy 2.2 and older look once, and warn where they find denormals flushed
        np.finfo(float_type)
    for pool in ("intra_op", "inter_op"):  # a spinning thread wastes a core
        settings.add_session_config_entry(f"session.{pool}.allow_spinning", "0")
    return settings


def run_by_name(
    session: "InferenceSession", feeds: Arrays, outputs: Sequence[str] | None = None
) -> dict[str, Array]:
    """Run once and return ``outputs`` by name, or all of them; onnxruntime's errors
    pass through.
    """
    if outputs is None:
        outputs = [output.name for output in session.get_outputs()]
    names = list(outputs)
    arrays = map(np.asarray, session.run(names, dict(feeds)))
    return dict(zip(names, arrays, strict=True))


def import_onnxruntime() -> Any:
    """Import onnxruntime; ``MissingDependencyError`` if it is not installed, or does
    not start.
    """
    first = "onnxruntime" not in sys.modules
    try:
        import onnxruntime

        onnxruntime.InferenceSession  # noqa: B018  what pip leaves of two wheels is an empty package
        if (
            first
        ):  # what it can't do it raises as well; who imports it first may want its log
            onnxruntime.set_default_logger_severity(_SILENT)
    except Exception as error:  # a broken wheel may raise anything
        missing = isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime"
        install = install_command("cpu")
        if not missing:
            install = f"pip uninstall onnxruntime onnxruntime-gpu, then {install}"
        raise MissingDependencyError(
            f"onnxruntime {'is missing' if missing else 'does not start'}"
            f" ({first_line(error)}); {install}, or [cuda] for a GPU"
        ) from error
    return onnxruntime


def _not_in_use(name: str, available: Sequence[str], why: str) -> ProviderError:
    """Return the error for a provider that onnxruntime does not use."""
    return ProviderError(
        f"{name} {why}; available: {', '.join(available)}; check its drivers, or"
        f" {install_command('cuda' if name == CUDA else 'cpu')} instead of the other"
        " onnxruntime wheel"
    )


def check_graph(session: "InferenceSession", manifest: Manifest) -> None:
    """Raise ``ContractError`` if inputs, outputs and states of graph and manifest
    differ.
    """
    inputs = session.get_inputs()
    graph = {arg.name: arg for arg in (*inputs, *session.get_outputs())}
    specs = [*manifest.inputs, *manifest.outputs]
    for state in manifest.states:
        specs.append(TensorSpec(state.input, state.dtype, state.axes))
        specs.append(TensorSpec(state.output, state.dtype, state.axes))
    for spec in specs:
        got = "missing"
        is_same = False
        if spec.name in graph:
            arg = graph[spec.name]
            axes = tuple(axis or "?" for axis in arg.shape)
            got = f"{arg.type} {describe(axes)}"
            type_name = _TYPE_NAMES.get(spec.dtype, spec.dtype)
            is_same = arg.type == f"tensor({type_name})" and fits(axes, spec.axes)
        if not is_same:
            expected = describe(spec.axes)
            raise ContractError(
                f"{spec.name} is {got} in the graph, expected {spec.dtype} {expected}"
            )
    more = {arg.name for arg in inputs}.difference(manifest.input_names)
    if more:
        raise ContractError(
            f"inputs {sorted(more)} are not in the manifest; export the model again"
        )


class OrtEngine(Engine):
    """A session and the manifest of its file; see ``Engine``."""

    name = "onnxruntime"

    def __init__(
        self, session: "InferenceSession", manifest: Manifest, device: str
    ) -> None:
        """Wrap a session whose graph fits its manifest; ``device`` is ``cpu`` or
        ``cuda``.
        """
        super().__init__(manifest)
        self.session = session
        self.device = device
        self.couples_rows = manifest.arithmetic == "int8"
        self.state_layouts = layouts(manifest.states, manifest)
        self.reads_windows = device == "cpu" and self._knows_all_sizes()

    def _knows_all_sizes(self) -> bool:
        """Return True if rows and steps are the only sizes that the arrays need."""
        sizes = _all_sizes(self.manifest, rows=1, steps=self.manifest.unit)
        specs = (*self.manifest.inputs, *self.manifest.outputs)
        return all(resolve(spec.axes, sizes) is not None for spec in specs)

    def call(self, feeds: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:  # noqa: ARG002
        """Run whole sequences; see ``Engine``. ``ContractError`` if a new state has
        another shape.
        """
        try:
            results = run_by_name(self.session, feeds, self.manifest.output_names)
        except Exception as error:
            raise _run_error(error) from error
        for spec in self.manifest.states:
            new = results[spec.output].shape
            old = feeds[spec.input].shape
            if new != old:
                raise ContractError(
                    f"the new state {spec.input} has shape {new}, expected {old} as"
                    " before"
                )
        return results

    def states(self, rows: int | None) -> "OrtStates":
        """Return the states of sources at reset; see ``Engine``."""
        return OrtStates(self, rows or 1)

    def window(self, samples: Array, steps: int) -> "OrtWindow":
        """Return calls of windows of ``samples``; see ``Engine``."""
        return OrtWindow(self, samples, steps)


class OrtStates:
    """The states of some sources, for one thread at a time, in two sets of buffers.

    A bound call reads one set and writes the other, then they change places; one that
    fails changes nothing.
    """

    in_place: bool
    """True if a step of all sources is faster as a bound call than by ``run``."""

    def __init__(self, engine: OrtEngine, rows: int) -> None:
        """Allocate the buffers, the second set when the first call is bound."""
        self._engine = engine
        self._rows = rows
        self._front = 0
        self._host = [reset_states(engine.manifest, rows)]
        self._values = [self._on_device(self._host[0])]
        self._bytes = sum(array.nbytes for array in self._host[0].values())
        self.in_place = rows <= _BLOCK

    def bind(self, sizes: Mapping[str, int]) -> Call:
        """Return a call of all sources for named axes of these sizes."""
        engine = self._engine
        steps = engine.manifest.steps_of(sizes)
        feeds, outputs = self._new_arrays(sizes, steps)
        self._allocate_back()
        _retain_heap(self._bytes * steps)
        run = self._bound_run(feeds, outputs)
        inputs = _in_engine_order(engine.inputs, feeds)
        results = _in_engine_order(engine.outputs, outputs)
        return Call(inputs=inputs, run=run, outputs=results, sizes=sizes)

    def _new_arrays(
        self, sizes: Mapping[str, int], steps: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return arrays for the inputs, with full lengths, and for the outputs.

        Raises:
            UnsupportedError: the size of an axis is unknown.
        """
        manifest = self._engine.manifest
        all_sizes = {**sizes, **_all_sizes(manifest, rows=self._rows, steps=steps)}
        feeds = {spec.name: _zeros(spec, all_sizes) for spec in manifest.inputs}
        outputs = {spec.name: _zeros(spec, all_sizes) for spec in manifest.outputs}
        if manifest.lengths is not None:
            feeds[manifest.lengths][...] = steps
        return feeds, outputs

    def _allocate_back(self) -> None:
        """Allocate the second set of buffers, once."""
        if len(self._host) > 1:
            return
        front = self._host[0]
        self._host.append({name: np.empty_like(front[name]) for name in front})
        self._values.append(self._on_device(self._host[1]))

    def _bound_run(self, feeds: Arrays, outputs: Arrays) -> Callable[[], None]:
        """Return a function that runs a step and exchanges the sets of buffers."""
        values = self._on_device(feeds)
        copied = self._engine.device != "cpu"
        runs = [self._bound(front, values, outputs) for front in (0, 1)]

        def run() -> None:  # keeps ``values`` alive, which a binding does not
            """Run the session once and swap the two sets of states."""
            try:
                if copied:
                    for name, value in values.items():
                        value.update_inplace(feeds[name])
                runs[self._front]()
            except Exception as error:
                raise _run_error(error) from error
            self._front = 1 - self._front

        return run

    def run(
        self, rows: Array, inputs: Arrays, sizes: Mapping[str, int]
    ) -> dict[str, Array]:
        """Take steps of the sources at ``rows (K,)``, or raise and change no state;
        return outputs.
        """
        engine = self._engine
        manifest = self._engine.manifest
        calls = list[dict[str, Array]]()
        steps = manifest.steps_of(sizes)
        _retain_heap(self._bytes * steps)
        starts = range(0, len(rows), _BLOCK)
        slices = [slice(start, start + _BLOCK) for start in starts]
        for block in slices:
            feeds = self.read(rows[block])
            for input_ in engine.inputs:
                array = input_.to_file(inputs[input_.name][block])
                feeds[input_.name] = np.ascontiguousarray(array)
            spec = manifest.lengths_input
            if spec is not None:
                feeds[spec.name] = np.full(len(rows[block]), steps, spec.dtype)
            calls.append(engine.call(feeds, sizes))
        for block, results in zip(slices, calls, strict=True):
            self.write(rows[block], manifest.states_out(results))
        outputs = {}
        for output in engine.outputs:
            blocks = [output.from_file(results[output.name]) for results in calls]
            is_one = len(blocks) == 1
            outputs[output.name] = blocks[0] if is_one else np.concatenate(blocks)
        return outputs

    def read(self, rows: Array) -> dict[str, Array]:
        """Return copies of the states of some sources."""
        arrays = self._read_all()
        states = {}
        for layout in self._engine.state_layouts:
            array = arrays[layout.name]
            if _is_whole(layout):
                states[layout.name] = array.copy()
            else:
                states[layout.name] = array.take(rows, layout.batch)
        return states

    def write(self, rows: Array, states: Arrays) -> None:
        """Set the states of some sources."""
        arrays = self._read_all()
        for layout in self._engine.state_layouts:
            array = arrays[layout.name]
            if _is_whole(layout):
                array[...] = states[layout.name]
            else:
                by_rows = np.moveaxis(array, layout.batch or 0, 0)  # a view
                by_rows[rows] = np.moveaxis(states[layout.name], layout.batch or 0, 0)
            if self._engine.device != "cpu":
                self._values[self._front][layout.name].update_inplace(array)

    def set_all(self, states: Arrays) -> None:
        """Set the states of all sources, in memory of the CPU."""
        for name, array in self._host[self._front].items():
            array[...] = states[name]

    def _read_all(self) -> Arrays:
        """Return the current states: on the CPU the memory itself, else a copy."""
        if self._engine.device == "cpu":
            return self._host[self._front]
        return {
            name: np.array(value.numpy())
            for name, value in self._values[self._front].items()
        }

    def _on_device(self, arrays: Arrays) -> dict[str, Any]:
        """Copy arrays to the engine's device."""
        make = import_onnxruntime().OrtValue.ortvalue_from_numpy
        return {
            name: make(array, self._engine.device, 0) for name, array in arrays.items()
        }

    def _bound(
        self, front: int, inputs: Mapping[str, Any], outputs: Arrays
    ) -> Callable[[], None]:
        """Return a bound call that reads one set of states and writes the other."""
        session: Any = self._engine.session
        before = self._values[front]
        after = self._values[1 - front]
        binding: Any = session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        make = import_onnxruntime().OrtValue.ortvalue_from_numpy
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, make(array))
        for spec in self._engine.manifest.states:
            binding.bind_ortvalue_input(spec.input, before[spec.input])
            binding.bind_ortvalue_output(spec.output, after[spec.input])
        # past onnxruntime's wrapper in Python a step takes 0.3 us less
        return partial(session._sess.run_with_iobinding, binding._iobinding, None)


class OrtWindow:
    """Calls of a full window, each from the reset state, on a copy of its samples."""

    def __init__(self, engine: OrtEngine, samples: Array, steps: int) -> None:
        """Bind calls of ``steps`` among ``samples (1, L, ...)``."""
        self._states = OrtStates(engine, 1)
        self._reset = reset_states(engine.manifest, 1)
        call = self._states.bind(engine.manifest.axis_sizes(steps=steps))
        (self._input,) = call.inputs.values()
        self._samples = samples
        self._steps = steps
        self._run = call.run
        self.outputs = call.outputs
        """The outputs of the last call, rows first."""

    def run(self, start: int) -> None:
        """Run the window that begins with sample ``start``."""
        self._input[...] = self._samples[:, start : start + self._steps]
        self._states.set_all(self._reset)
        self._run()


def _all_sizes(manifest: Manifest, rows: int, steps: int) -> dict[str, int]:
    """Return the sizes that follow from the numbers of rows and steps, by axis."""
    sizes = {**manifest.time_sizes(steps), LONGEST: steps}
    return {**sizes, **manifest.axis_sizes(rows=rows, steps=steps)}


def _in_engine_order(layouts: Sequence[Layout], arrays: Arrays) -> dict[str, Array]:
    """Return views of arrays of the file in the order of engines, by name."""
    views = {}
    for tensor in layouts:
        views[tensor.name] = tensor.from_file(arrays[tensor.name])
    return views


def _is_whole(layout: Layout) -> bool:
    """Return True if a state is not divided into the rows of sources."""
    return layout.batch is None or layout.factor > 0


def _zeros(spec: TensorSpec, sizes: Mapping[str, int]) -> Array:
    """Return zeros for an input or output."""
    shape = resolve(spec.axes, sizes)
    if shape is None:
        raise UnsupportedError(f"{spec.name} has an axis of unknown size; use run()")
    return np.zeros(shape, spec.dtype)


def _retain_heap(size: int) -> None:
    """Let glibc see a block freed that is larger than an LSTM call with ``size`` bytes
    of states allocates.

    It then keeps as much for the next call: a tick of 1,000 sources takes 0.7 of the
    time.
    """
    np.empty(min(8 * size, 31 << 20), np.uint8)  # it learns from blocks below 32 MiB


def _run_error(error: Exception) -> ContractError:
    """Return the error for a failed run of onnxruntime."""
    return ContractError(
        f"onnxruntime could not run the file: {first_line(error)}; no state has changed"
    )
