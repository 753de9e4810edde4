"""A model file, opened for running: refused if unsafe, its session opened, its manifest checked.

The loaded model is immutable and shared between threads, with the state always in the caller's hands.
"""

import mmap
import os
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Literal, overload

import numpy.typing as npt

from ._core import Core, InputArrays
from .axes import describe
from .chunks import Runner
from .errors import (
    FileFormatError,
    InputError,
    ManifestError,
    ProviderError,
    StateWarning,
    UnsupportedError,
    counted,
)
from .graph_check import (
    check_manifest,
    graph_specs,
)
from .manifest import KEY, Array, Manifest, StateSpec, TensorSpec
from .onnx_file import read_onnx_file
from .ort import CPU, CUDA, MAX_THREADS, SessionOptions, open_session
from .reading import read_content
from .state import State

if TYPE_CHECKING:
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
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    check: bool = False,
) -> "Model":
    """Open a model file: an ``.onnx`` file on onnxruntime, an ``.lep`` file on the C library.

    Args:
        source: the path of a file that ``lstm-edge export``, ``lift``, ``quantize`` or ``convert`` wrote, or
            its content (bytes, or a memory map).
        device: ``"cuda"`` is an error if CUDA is not actually used. ``.lep`` files run on the CPU.
        threads: number of threads per operator. More than one is useful from about 8 MiB of weights on.
        check: True to check every sample for NaN and infinity (about 4 us per step).

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or changed since it was written.
        UnsupportedError: its weights are in another file.
        ManifestError: no manifest, or one that can't be read.
        ContractError: the graph does not keep its state contract.
        ProviderError: CUDA is not in use.
        MissingDependencyError: no onnxruntime, or no ``lstm-edge-native``.
        InputError: an argument that is none of the above.
    """
    if type(threads) is not int or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"threads is {threads!r}, expected a whole number from 1 to {MAX_THREADS}")
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'cpu' or 'cuda'")
    name, data = read_content(source)
    if data[:8] == b"LSTMEDGE":
        return _load_program(name, data, device, threads, check=check)
    try:
        metadata, identity = read_onnx_file(data)
    except (FileFormatError, UnsupportedError) as error:
        raise type(error)(f"{name}: {error}") from error
    if KEY not in metadata:
        raise ManifestError(f"{name} has no manifest; make one with: lstm-edge lift {name} -o lifted.onnx")
    manifest = Manifest.from_json(metadata[KEY])
    options = SessionOptions(providers=(CUDA, CPU) if device == "cuda" else (CPU,), threads=threads)
    session = open_session(data, options, name=name)
    check_manifest(manifest, graph_specs(session.get_inputs()), graph_specs(session.get_outputs()))
    return Model(Core(session, manifest, identity, check=check), device)


class Model:
    """A model file opened for running; created by ``load``.

    It is immutable, so any number of threads may share it.
    """

    def __init__(self, core: Core, device: str) -> None:
        """Take what ``load`` opened and checked, and the device on which it runs."""
        self._core: Core | None = core
        self.manifest = core.manifest
        """The description in the file: inputs, outputs, states, task, signal."""
        self.engine: Literal["onnxruntime", "native"] = "native" if core.session is None else "onnxruntime"
        """What runs the file."""
        self.device = device
        """``cpu`` or ``cuda``."""
        self._identity = core.identity
        self._told = False
        """Whether a stream was opened that warned of its states."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs that are not states, including ``lengths`` if the file has it."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs that are not states."""
        return self.manifest.outputs

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The states, each with its input and its output."""
        return self.manifest.states

    @property
    def identity(self) -> str:
        """The sha256 in hex of the ``.onnx`` file without its metadata; its states carry it.

        A file that was converted from an ``.onnx`` file has that one's.
        """
        return self._identity

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
        task = self.manifest.task
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
            return SlidingStream(self.manifest, self.run, window)
        kind: type[Stream]
        if self.manifest.is_buffered:
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
        if self.manifest.is_buffered:
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
        if self.manifest.from_reset and not self._told:
            self._told = True
            window = self.manifest.window
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

        It leaves no trace: the model has no state.
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
    manifest = model.manifest

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        state = None
        if model.states and all(spec.input in feeds for spec in model.states):
            arrays = {spec.input: feeds[spec.input].astype(spec.dtype) for spec in model.states}
            state = State(arrays, model.identity)
        data = {spec.name: feeds[spec.name] for spec in manifest.data_inputs}
        outputs, after = model.run(data, state, feeds.get(manifest.lengths or ""))
        return manifest.all_outputs(outputs, after)

    return run


def _load_program(name: str, data: bytes, device: str, threads: int, *, check: bool) -> Model:
    """Open a native program, which needs no onnxruntime."""
    from .native.engine import NativeEngine

    if device != "cpu":
        raise ProviderError(f"{name} is a native program, which runs on the CPU; load the .onnx file")
    try:
        native = NativeEngine(data, threads)
    except FileFormatError as error:
        raise FileFormatError(f"{name}: {error}") from error
    return Model(Core(None, native.manifest, native.manifest.identity, check=check, native=native), device)
