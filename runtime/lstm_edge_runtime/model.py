"""A model file, opened for running: refused if unsafe, its session opened, its manifest checked.

The loaded model is immutable and shared between threads, with the state always in the caller's hands.
"""

import mmap
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy.typing as npt

from ._core import Core, FileStamp, Identity, InputArrays
from .axes import describe
from .chunks import Runner
from .errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    MissingDependencyError,
    NotFoundError,
    ProviderError,
    StateWarning,
    UnsupportedError,
    counted,
)
from .graph_check import (
    check_manifest,
    graph_specs,
    infer_manifest,
    read_manifest,
    refuse_windows,
)
from .manifest import Array, Manifest, StateSpec, TensorSpec
from .onnx_reader import OnnxFile, read_onnx
from .ort import CPU, MAX_THREADS, Provider, SessionOptions, auto_threads, open_session, resolve_providers
from .reading import open_regular
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativeEngine
    from .prediction import Prediction
    from .selftest import SelfTest
    from .sliding import SlidingStream
    from .stream import Stream
    from .stream_batch import StreamBatch


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | mmap.mmap
ResetEvery = int | Literal["window", "never"]
"""Number of steps after which a stream is reset."""


def load(
    source: Source,
    *,
    device: str = "auto",
    providers: Sequence[Provider] | None = None,
    threads: int | Literal["auto"] = "auto",
    states: Mapping[str, str] | None = None,
    check: bool = False,
    engine: Literal["auto", "onnxruntime", "native"] = "auto",
) -> "Model":
    """Open a model file.

    Args:
        source: the path of an ``.onnx`` file or of a native program, or its content (bytes, or a
            memory map).
        device: ``"cpu"``; ``"cuda"``, which is an error if CUDA is not actually used; or ``"auto"``: CUDA
            if the wheel supports it and it starts, otherwise the CPU with a ``RuntimeWarning``.
        providers: an explicit list of onnxruntime's execution providers, each of which must be in use.
        threads: number of threads per operator; ``"auto"`` is one below 8 MiB of weights (and for int8, whose
            results depend on it), otherwise the number of physical cores.
        states: output of each state input (``{"h": "hn"}``), for a file without a manifest whose states
            can't be paired by name and shape.
        check: whether to check every sample for NaN and infinity (about 4 us per step; off by default).
        engine: engine of streams and batches. ``"auto"`` is the native engine if ``lstm-edge-native`` is
            installed, every node is covered, the device is the CPU, ``providers`` is not given, and the
            golden cases replay within their limits on both engines (otherwise onnxruntime, with a
            ``RuntimeWarning``); ``run`` and ``predict`` then use onnxruntime. ``"native"`` runs these as
            well, and is an error if it does not support the file.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, or with external data outside the file's own folder.
        ContractError: the graph does not keep its state contract, or its states can't be paired.
        ProviderError: a requested provider is not in use.
        MissingDependencyError: no onnxruntime, or no native engine where it was asked for.
        UnsupportedError: ``engine="native"``, and a node is not covered.
        CheckFailedError: ``engine="native"``, and the golden case is beyond its limits there.
        InputError: an argument that is none of the above.
    """
    _check_arguments(device, threads, engine)
    name, data, stamp = _content(source)
    if data[:8] == b"LSTMEDGE":
        return _load_program(
            name,
            data,
            device,
            threads,
            check=check,
            onnxruntime=engine == "onnxruntime" or providers is not None,
        )
    file = _parse(name, data, source)
    beside = [FileStamp(path) for path in sorted(file.external_paths())]
    size = len(data) + sum(each.size for each in beside)
    # the content that was read, as the path may lead to another by now; external data are found by path alone
    target = name if beside else data
    count = auto_threads(size) if threads == "auto" else threads
    wanted = resolve_providers(device, providers)
    options = SessionOptions(providers=wanted, threads=count)
    session, options = _open(target, name, options, device, providers)
    manifest = read_manifest(session)
    if manifest is not None and manifest.precision == "int8" and threads == "auto" and count > 1:
        session, options = _open(target, name, SessionOptions(providers=wanted), device, providers)
    if beside and stamp:
        for each in (stamp, *beside):
            each.check()
    interface = _read_interface(session, manifest, states, file)
    given = providers is not None
    core = Core(
        session,
        interface,
        Identity(data, beside, ""),
        has_manifest=manifest is not None,
        check=check,
        open_native=_native(engine, session, file, interface, options.threads, given=given),
        native_calls=engine == "native",
    )
    return Model(core, options)


def _check_arguments(device: object, threads: object, engine: object) -> None:
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'auto', 'cpu' or 'cuda'")
    if threads != "auto" and (type(threads) is not int or not 1 <= threads <= MAX_THREADS):
        raise InputError(f"threads is {threads!r}, expected 'auto' or a whole number from 1 to {MAX_THREADS}")
    if engine not in ("auto", "onnxruntime", "native"):
        raise InputError(f"engine is {engine!r}, expected 'auto', 'onnxruntime' or 'native'")


def _read_interface(
    session: Any,
    manifest: Manifest | None,
    states: Mapping[str, str] | None,
    file: OnnxFile,
) -> Manifest:
    """Return the file's manifest, checked against its graph, or one that is inferred from the graph."""
    inputs, outputs = graph_specs(session.get_inputs()), graph_specs(session.get_outputs())
    if manifest is None:
        return infer_manifest(inputs, outputs, states, file)
    if states is not None:
        raise InputError("got states=, but the file has a manifest that names its states; remove it")
    check_manifest(manifest, inputs, outputs)
    return refuse_windows(manifest, file)


class Model:
    """A model file opened for running; created by ``load``.

    It is immutable, so any number of threads may share it.
    """

    def __init__(self, core: Core, options: SessionOptions) -> None:
        """Take what ``load`` opened and checked, and the options of its session."""
        self._core: Core | None = core
        self._interface = core.manifest
        self._has_manifest = core.has_manifest
        self._source = core.source
        self._options = options
        self._told = False
        """Whether a stream was opened that warned of its states."""

    @property
    def manifest(self) -> Manifest | None:
        """The file's manifest; None for a file made elsewhere."""
        return self._interface if self._has_manifest else None

    @property
    def interface(self) -> Manifest:
        """The file's manifest, or what was inferred from the graph of a file made elsewhere."""
        return self._interface

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that are not states, including ``lengths`` if the file has it."""
        return self._interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs that are not states."""
        return self._interface.outputs

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The states, each with its input and its output."""
        return self._interface.states

    @property
    def engine(self) -> str:
        """Engine of streams and batches: ``native`` or ``onnxruntime``.

        The native engine is created on first use of this property, or with the first stream.
        """
        return "onnxruntime" if self._open().native is None else "native"

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers in use, in order of preference; none for a native program."""
        session = self._open().session
        return () if session is None else tuple(session.get_providers())

    @property
    def options(self) -> SessionOptions:
        """The session's options, ``threads="auto"`` and the like resolved."""
        return self._options

    @property
    def identity(self) -> str:
        """The sha256 in hex of the ``.onnx`` file and its external data; carried by its states.

        A file that was converted from an ``.onnx`` file has that one's.
        """
        return self._source.digest

    @property
    def sha256(self) -> str:
        """The sha256 of the file itself, in hex."""
        return self._source.sha256

    def run(
        self, x: InputArrays, state: State | None = None, lengths: npt.ArrayLike | None = None
    ) -> tuple[dict[str, Array], State]:
        """Run the file once.

        Args:
            x: the samples, for example float32 ``(N, L, I)``; a mapping by name if there are several
                inputs. Integers and wider floats are converted.
            state: the initial state; None for the reset values.
            lengths: integers ``(N,)``, number of valid steps of each row, 1 to L; None for L.

        Returns:
            The outputs that are not states, by name, and the new state.

        Raises:
            InputError: an input of another name, rank, width or dtype; empty; lengths out of range; NaN or
                infinity where the model was loaded with ``check=True``.
            StateError: a state of another model, or of another batch size.
            ContractError: the file gave a state of another shape than it took.
        """
        return self._open().run(x, state, lengths)

    def predict(self, x: InputArrays, lengths: npt.ArrayLike | None = None) -> "Prediction":
        """Run from the reset state and return labels and probabilities, or values, according to the task.

        Raises:
            InputError: as ``run``; or the file has no task.
        """
        task = self._interface.task
        if task is None:
            raise InputError("this file does not describe its outputs; use run()")
        from .prediction import interpret

        return interpret(self.run(x, lengths=lengths)[0][task.output], task)

    @overload
    def stream(self, *, reset_every: ResetEvery | None = None) -> "Stream": ...

    @overload
    def stream(self, *, window: int) -> "SlidingStream": ...

    def stream(
        self, *, reset_every: ResetEvery | None = None, window: int | None = None
    ) -> "Stream | SlidingStream":
        """Open a stream: one source of samples that owns its state.

        Args:
            window: run the last ``window`` samples from the reset state at every step, as in a training on
                windows; for networks trained on windows from reset, and for bidirectional ones.
            reset_every: number of steps after which the state is reset: an integer; ``"window"``, the
                training window; or ``"never"``. None is ``"never"``, with a ``StateWarning`` the first
                time if each training window started from reset: such a network was not trained to
                carry states beyond its window.

        Raises:
            ContractError: the file carries no states, or chunks would not equal the whole sequence.
            InputError: ``reset_every`` is none of these, or the window is not known.
        """
        if window is not None:
            from .sliding import SlidingStream

            if reset_every is not None:
                raise InputError("a sliding window starts from reset at every step; remove reset_every")
            return SlidingStream(self._interface, self.run, window)
        kind: type[Stream]
        if self._interface.is_buffered:
            from .delayed import DelayedStream

            kind = DelayedStream
        else:
            from .stream import Stream as PlainStream

            kind = PlainStream
        stream = kind(self._open(), reset_every)
        if reset_every is None:
            self._warn("stream(")
        return stream

    def streams(self, capacity: int, *, reset_every: ResetEvery | None = None) -> "StreamBatch":
        """Open a batch of up to ``capacity`` streams with one call into the engine per tick.

        Args:
            capacity: maximum number of sources.
            reset_every: as for ``stream``; each source counts its own steps.

        Raises:
            ContractError: as ``stream``; or the file has no batch axis.
            InputError: ``capacity`` is not a whole number from 1; as ``stream``.
        """
        kind: type[StreamBatch]
        if self._interface.is_buffered:
            from .delayed import DelayedBatch

            kind = DelayedBatch
        else:
            from .stream_batch import StreamBatch as PlainBatch

            kind = PlainBatch
        batch = kind(self._open(), capacity, reset_every)
        if reset_every is None:
            self._warn(f"streams({capacity}, ")
        return batch

    def _warn(self, call: str) -> None:
        """Warn, once, where states would outlive what was trained."""
        if self._interface.from_reset and not self._told:
            self._told = True
            window = self._interface.window
            what = f"windows of {counted(window, 'step')}" if window else "whole samples"
            every = '"window"' if window else "STEPS"
            sliding = f"model.stream(window={window}) for a result at every step, " if window else ""
            warnings.warn(
                f"this model was trained on {what}, each from the reset state; longer streams may be wrong. "
                f'Use model.{call}reset_every={every}), {sliding}or "never" to silence this warning',
                StateWarning,
                stacklevel=3,
            )

    def selftest(self) -> "SelfTest":
        """Replay the golden case in the file on this device, whole and in chunks with carried states.

        Raises:
            InputError: the file has no golden case.
            ManifestError: an input, an output or a state is missing in the golden case.
        """
        from .selftest import selftest

        return selftest(self._open())

    def warm_up(self) -> None:
        """Run zeros from the reset state and open a stream, so that the first real ones are not the slowest.

        A stream that is opened compiles the native engine and tries it, where that takes the steps. It leaves
        no trace: the model has no state.
        """
        core = self._open()
        core.run(core.zero_inputs())
        if core.manifest.streamable:
            self.stream(reset_every="never")

    def close(self) -> None:
        """Release the session; open streams keep it until they are deleted."""
        self._core = None

    def __enter__(self) -> "Model":  # noqa: PYI034
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Core:
        if self._core is None:
            return _closed()
        return self._core

    def __repr__(self) -> str:
        inputs = ", ".join(f"{spec.name} {describe(spec.axes)}" for spec in self.inputs)
        return f"Model({inputs}; states {[spec.input for spec in self.states]})"


def _closed() -> Core:
    raise InputError("this model is closed; load it again")


def runner(model: Model) -> Runner:
    """Return a function that runs ``model`` on inputs by name and returns every output of the graph.

    States that are left out are at reset, rows without lengths full.
    """
    interface = model.interface

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        state = None
        if model.states and all(spec.input in feeds for spec in model.states):
            arrays = {spec.input: feeds[spec.input].astype(spec.dtype) for spec in model.states}
            state = State(arrays, model.identity)
        data = {spec.name: feeds[spec.name] for spec in interface.data_inputs}
        outputs, after = model.run(data, state, feeds.get(interface.lengths or ""))
        return interface.all_outputs(outputs, after)

    return run


def read_model(source: Source) -> tuple[bytes, OnnxFile]:
    """Return an ONNX file's content and its graph.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign, or with external data outside the file's own folder.
    """
    name, data, _ = _content(source)
    return data, _parse(name, data, source)


def content_of(model: Model, path: str | os.PathLike[str]) -> bytes:
    """Return the content of the file that ``model`` was loaded from, for what is made of it besides.

    Raises:
        NotFoundError, FileFormatError: the file is not there any more, or is another one now.
    """
    name, content, _ = _content(path)
    if Identity(content).sha256 != model.sha256:
        raise FileFormatError(f"{name} has changed since it was loaded; run again")
    return content


def _parse(name: str, data: bytes, source: Source) -> OnnxFile:
    """Return the graph of an ONNX file."""
    if not data:
        raise FileFormatError(f"{name} is empty; export or copy it again")
    folder = (os.path.dirname(source) or ".") if isinstance(source, str | os.PathLike) else None  # noqa: PTH120
    try:
        file = read_onnx(data, folder)
        file.external_paths()
        file.check()
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    return file


def _load_program(
    name: str, data: bytes, device: str, threads: int | str, *, check: bool, onnxruntime: bool
) -> Model:
    """Open a native program, which needs no onnxruntime."""
    from .native.engine import NativeEngine

    if onnxruntime:
        raise InputError(f"{name} is a native program, which onnxruntime can't run; load the .onnx file")
    if device == "cuda":
        raise ProviderError(f"{name} is a native program, which runs on the CPU; load the .onnx file")
    count = threads if isinstance(threads, int) else 1
    try:
        native = NativeEngine(data, None, count)
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    identity = Identity(data, (), native.manifest.identity)
    core = Core(
        None,
        native.manifest,
        identity,
        has_manifest=True,
        check=check,
        open_native=lambda: native,
        native_calls=True,
    )
    options = SessionOptions(providers=(CPU,), threads=count)
    return Model(core, options)


def _native(
    engine: str, session: Any, file: OnnxFile, manifest: Manifest, threads: int, *, given: bool
) -> "Callable[[], NativeEngine | None]":
    """Return a function for the native engine, which exists already if it is required.

    With ``given`` providers, it is only used if it is required.
    """
    on_cpu = session.get_providers()[0] == CPU
    if engine == "native":
        if not on_cpu:
            raise ProviderError(f"engine='native' runs on the CPU, not on {session.get_providers()[0]}")
        from .native.choice import compile_engine

        native = compile_engine(file, manifest, threads, session)
        return lambda: native
    if engine == "onnxruntime" or given or not on_cpu:
        return lambda: None
    from .native.library import installed

    if not installed():
        return lambda: None
    return partial(_try_native, file, manifest, threads, session)


def _try_native(file: OnnxFile, manifest: Manifest, threads: int, session: Any) -> "NativeEngine | None":
    """Return the native engine where it covers the file and replays its golden case."""
    from .native.choice import compile_engine

    try:
        return compile_engine(file, manifest, threads, session)
    except UnsupportedError:
        return None
    except (CheckFailedError, MissingDependencyError, FileFormatError) as error:
        warnings.warn(f"streams run on onnxruntime: {error}", RuntimeWarning, stacklevel=5)
        return None


def _content(source: Source) -> tuple[str, bytes, FileStamp | None]:
    """Return the path, or a name for messages, the file's bytes, and which file they were read from."""
    if isinstance(source, bytes | bytearray | memoryview | mmap.mmap):
        return "the model", bytes(source), None
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"got a {type(source).__name__}, expected a path, or a file's bytes or memory map")
    path = os.fspath(source)
    try:
        with open_regular(path) as file:
            stamp = FileStamp(path, os.fstat(file.fileno()))
            return path, file.read(), stamp
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{path} does not exist, expected an .onnx file") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise FileFormatError(f"{path!r} can't be read: {reason}") from error


def _open(
    target: str | bytes, name: str, options: SessionOptions, device: str, providers: Sequence[Provider] | None
) -> tuple[Any, SessionOptions]:
    """Open a session; ``device="auto"`` falls back to the CPU with a warning.

    Args:
        target: the path, or the content.
        name: of the file in messages.
        options: session options.
        device: as of ``load``.
        providers: as of ``load``.

    Returns:
        The session and the options that it was opened with.
    """
    try:
        return open_session(target, options, name=name), options
    except ProviderError as error:
        if device != "auto" or providers is not None:
            raise
        warnings.warn(f"running on the CPU: {error}", RuntimeWarning, stacklevel=3)
        options = options._replace(providers=(CPU,))
        return open_session(target, options, name=name), options
