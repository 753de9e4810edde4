"""A model file, opened for running: checked, then shared between threads; states are
always the caller's.
"""

import mmap
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt

from . import results
from .arrays import (
    InputArrays,
    as_lengths,
    by_name,
    check_state,
    refuse_not_finite,
    reset_states,
)
from .axes import describe, learn_sizes
from .batch import StreamBatch
from .checks import read_manifest
from .engine import Engine
from .errors import (
    FileFormatError,
    InputError,
    ProviderError,
    StateError,
    UnsupportedError,
)
from .files import is_program, read_content
from .manifest import KEY, Array, Manifest, StateSpec, TensorSpec
from .results import Label, Prediction
from .selftest import SelfTest, selftest
from .sliding import SlidingStream
from .state import State
from .stream import Stream

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | mmap.mmap
ResetEvery = int | Literal["never"]
"""Number of steps after which a stream is reset."""


def load(
    source: Source,
    *,
    device: Literal["cpu", "cuda"] = "cpu",
    threads: int = 1,
    check: bool = False,
) -> "Model":
    """Open a model file: an ``.onnx`` file on onnxruntime, an ``.lep`` file on the C
    library.

    Args:
        source: the path of a file that ``lstm-edge export``, ``lift``, ``quantize`` or
            ``convert`` wrote, or its content (bytes, or a memory map).
        device: ``"cuda"`` is an error if CUDA is not actually used. ``.lep`` files run
            on the CPU.
        threads: number of threads per operator, useful from about 8 MiB of weights on.
            An ``.lep`` file divides the rows of ``run`` and of a batch between them;
            a stream of one source uses one.
        check: True to check every sample for NaN and infinity (about 4 us per step).

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or changed since it was written.
        UnsupportedError: its weights are in another file; or too many threads for an
            ``.lep`` file.
        ManifestError: no manifest, or one that can't be read. ContractError: the graph
        does not keep its state contract. ProviderError: CUDA is not in use.
        MissingDependencyError: no onnxruntime, or no ``lstm-edge-native``. InputError:
        an argument has another value.
    """
    if type(threads) is not int or not 1 <= threads <= 1024:
        raise InputError(
            f"threads is {threads!r}, expected a whole number from 1 to 1024"
        )
    if device not in ("cpu", "cuda"):
        raise InputError(f"device is {device!r}, expected 'cpu' or 'cuda'")
    return open_content(*read_content(source), device, threads, check=check)


def open_content(
    name: str,
    content: bytes,
    device: str = "cpu",
    threads: int = 1,
    *,
    check: bool = False,
) -> "Model":
    """Open a file's content, of ``name`` in messages; raises as ``load``."""
    opened = _open_program if is_program(name, content) else _open_onnx
    try:
        engine, identity = opened(content, name, device, threads)
    except (FileFormatError, UnsupportedError) as error:
        raise type(error)(f"{name}: {error}") from error
    return Model(engine, identity, device, check=check)


def _refuse_arguments(x: Mapping[str, Any], manifest: Manifest) -> None:
    """Raise InputError if lengths or states are among the samples."""
    arguments = {state.input: "state" for state in manifest.states}
    if manifest.lengths is not None:
        arguments[manifest.lengths] = "lengths"
    for name, argument in arguments.items():
        if name in x:
            raise InputError(
                f"got {name!r} among the samples; give it as run(x, {argument}=...)"
            )


def _open_program(
    content: bytes, name: str, device: str, threads: int
) -> tuple[Engine, str]:
    """Open a program on the C library."""
    from .native import NativeEngine

    if device != "cpu":
        raise ProviderError(
            f"{name} is a native program, which runs on the CPU; load the .onnx file"
        )
    engine = NativeEngine(content, threads)
    return engine, engine.manifest.identity


def _open_onnx(
    content: bytes, name: str, device: str, threads: int
) -> tuple[Engine, str]:
    """Open the session of an ``.onnx`` file after its seal was checked."""
    from .ort import CPU, CUDA, OrtEngine, check_graph, check_seal, open_session

    identity = check_seal(content, name)
    session = open_session(
        content, (CUDA, CPU) if device == "cuda" else (CPU,), threads
    )
    try:
        text = session.get_modelmeta().custom_metadata_map.get(KEY, "")
        manifest = read_manifest(text)
        check_graph(session, manifest)
    except UnicodeDecodeError as error:
        raise FileFormatError(
            "its names or metadata are not UTF-8; export it again"
        ) from error
    return OrtEngine(session, manifest, device), identity


class Model:
    """A model file opened for running; created by ``load``.

    It is immutable, so any number of threads may share it.
    """

    def __init__(
        self, engine: Engine, identity: str, device: str, *, check: bool
    ) -> None:
        """Wrap an opened and checked engine; see ``load``."""
        self._engine = engine
        self._check = check
        self.manifest: Manifest = engine.manifest
        """The description in the file: inputs, outputs, states, task, signal."""
        self.inputs: tuple[TensorSpec, ...] = engine.manifest.inputs
        """Inputs that are not states, including ``lengths`` if the file has it."""
        self.outputs: tuple[TensorSpec, ...] = engine.manifest.outputs
        """Outputs that are not states."""
        self.states: tuple[StateSpec, ...] = engine.manifest.states
        """The states, each with its input and its output."""
        self.engine = engine.name
        """``onnxruntime`` or ``native``."""
        self.device = device
        """``cpu`` or ``cuda``."""
        self.couples_rows = engine.couples_rows
        """True if the rows of a call share the scales of quantized values."""
        self.identity = identity
        """The sha256 in hex of the ``.onnx`` file without its seal, or of the one that
        it was converted from; states carry it."""

    def run(
        self,
        x: InputArrays,
        state: State | None = None,
        lengths: npt.ArrayLike | None = None,
    ) -> tuple[dict[str, Array], State]:
        """Run the file once.

        Args:
            x: the samples, for example float32 ``(N, L, I)``; a mapping by name if
                there are several inputs. Integers and other floats are converted.
            state: the initial state; None for the reset values.
            lengths: integers ``(N,)``, number of valid steps of each row, 1 to L; None
                for L.

        Returns:
            The outputs that are not states, by name, and the new state.

        Raises:
            InputError: an input of another name, rank, width or dtype; empty; lengths
                out of range; NaN or infinity where the model was loaded with
                ``check=True``.
            StateError: a state of another model, or of another batch size.
            ContractError: the file gave a state of another shape than it took.
        """
        manifest = self.manifest
        sizes = dict[str, int]()
        if isinstance(x, Mapping):
            _refuse_arguments(x, manifest)
        feeds = by_name(
            x, sorted(manifest.data_inputs, key=lambda spec: "+" in describe(spec.axes))
        )
        if self._check:
            refuse_not_finite(feeds, "clean the samples first")
        for spec in manifest.data_inputs:
            learn_sizes(
                spec.name,
                spec.axes,
                shape=feeds[spec.name].shape,
                sizes=sizes,
                ranges=manifest.ranges,
            )
        valid = as_lengths(lengths, manifest, sizes)
        if manifest.lengths is not None and valid is not None:
            feeds[manifest.lengths] = valid
        rows = manifest.rows_of(sizes)
        if state is None:
            feeds |= reset_states(manifest, rows)
        else:
            feeds |= check_state(state, manifest, identity=self.identity, rows=rows)
            if state.samples:
                raise StateError(
                    "the state has samples of an incomplete unit; restore it in a"
                    " stream, which keeps them"
                )
        results = self._engine.call(feeds, sizes)
        steps = manifest.steps(feeds) if valid is None else int(np.max(valid))
        age = steps + (state.age if state else 0)
        outputs = {spec.name: results[spec.name] for spec in manifest.outputs}
        return outputs, State(manifest.states_out(results), self.identity, age)

    def predict(
        self, x: InputArrays, lengths: npt.ArrayLike | None = None
    ) -> Prediction:
        """Run from reset; return labels and probabilities, or values.

        There is a row per series ``(L, I)`` in ``x``: the result after its last step.
        If the output has a time axis, a row has a result per frame, and labels are in
        the order of ``values.reshape(-1, C)``. Rows of layers are layer-major.

        A file trained on windows from reset (``manifest.reset_every``) runs on windows
        of that length. One result per row of a table ``(L, I)``::

            windows = sliding_window_view(table, model.manifest.reset_every, axis=0)
            model.predict(windows.swapaxes(1, 2))

        Args:
            x: the samples, as for ``run``.
            lengths: number of valid steps of each row, as for ``run``.

        Raises:
            InputError: as ``run``; or the file does not describe its outputs.
            ContractError: the file's labels are not as many as the values.
        """
        task = self.manifest.task
        if task is None:
            raise InputError("this file does not describe its outputs; use run()")
        outputs, _ = self.run(x, lengths=lengths)
        return results.predict(outputs[task.output], self.manifest, task)

    def frames(self, result: Any) -> Array:
        """Return the frames ``(frames, C)`` of the main output in a stream's result.

        The main output is the task's, or the first one. There are no frames in None. Of
        an output with one row per layer, a frame is the row of the top layer.

        Raises:
            InputError: ``result`` is not what ``step`` or ``process`` of a single
                stream returned.
            ContractError: the file has no outputs, or frames with several axes.
        """
        name = results.main_name(self.manifest)
        layout = next(out for out in self._engine.outputs if out.name == name)
        return results.frames_of(result, layout)

    def interpret(self, values: Any) -> Label:
        """Return the label and the probabilities of the last frame in a stream's
        result.

        Raises:
            InputError: the file has no classification; there is no frame in ``values``,
                as in the None of a step that completes none; or the largest logit is
                NaN or infinite.
            ContractError: the file's labels are not as many as the values.
        """
        frames = self.frames(values)
        if not len(frames):
            raise InputError(
                "got a result without a frame, expected logits; skip the None that a"
                " stream returns until its first frame"
            )
        return results.label_of(frames[-1], self.manifest.task)

    @overload
    def stream(self, *, reset_every: ResetEvery | None = None) -> Stream: ...

    @overload
    def stream(self, *, window: int) -> SlidingStream: ...

    def stream(
        self, *, reset_every: ResetEvery | None = None, window: int | None = None
    ) -> Stream | SlidingStream:
        """Open a stream: one source of samples that owns its state.

        Args:
            window: run the last ``window`` samples from the reset state at every step,
                as in a training on windows; for networks trained on windows from reset,
                and for bidirectional ones.
            reset_every: number of steps after which the state is reset, or ``"never"``.
                None takes ``manifest.reset_every``: a network that was trained on
                windows from reset was not trained to carry states beyond them. A
                warning tells where this resets.

        Raises:
            ContractError: the file carries no states, or chunks would not equal the
                whole sequence.
            InputError: ``window`` or ``reset_every`` has another value; or a window for
            a file that takes one step per call or has several inputs.
        """
        if window is None:
            return Stream(self, self._reset_interval(reset_every))
        if reset_every is not None:
            raise InputError(
                "a sliding window starts from reset at every step; remove reset_every"
            )
        return SlidingStream(self, window)

    def streams(
        self, capacity: int, *, reset_every: ResetEvery | None = None
    ) -> StreamBatch:
        """Open a batch of up to ``capacity`` streams with one call into the engine per
        tick.

        Each source counts its own steps for ``reset_every``.

        Raises:
            ContractError, InputError: as ``stream``; or an input, output or state has
                no batch axis; or there is no memory for so many.
        """
        interval = self._reset_interval(reset_every)
        try:
            return StreamBatch(self, capacity, interval)
        except MemoryError as error:
            raise InputError(
                f"capacity is {capacity}, whose states do not fit into memory; open a"
                " batch of fewer streams"
            ) from error

    def _reset_interval(self, reset_every: ResetEvery | None) -> ResetEvery | None:
        """Return ``reset_every``; for None the manifest's, with a warning."""
        interval = self.manifest.reset_every
        if reset_every is not None or interval is None:
            return reset_every
        warnings.warn(
            f"the state is reset every {interval} steps, the training window; pass"
            f" reset_every={interval} to confirm, or reset_every='never' to carry it on",
            stacklevel=3,
        )
        return interval

    def selftest(self) -> SelfTest:
        """Replay the golden cases on this device, in chunks with carried states; raises
        as ``selftest``.
        """
        return selftest(self.manifest, runner(self))

    def __enter__(self) -> "Model":  # noqa: PYI034
        return self

    def __exit__(self, *error: object) -> None:
        """Release the engine; open streams keep it until they are deleted."""
        del self._engine

    def __getattr__(self, name: str) -> Any:
        """Raise ``StateError`` for the engine of a model that is closed."""
        if name == "_engine":
            raise StateError("this model is closed; load it again")
        raise AttributeError(
            f"{type(self).__name__!r} object has no attribute {name!r}"
        )

    def __repr__(self) -> str:
        inputs = ", ".join(f"{spec.name} {describe(spec.axes)}" for spec in self.inputs)
        return f"Model({inputs}; states {[spec.input for spec in self.states]})"


def runner(model: Model) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """Return a function that runs ``model`` from inputs by name to every output of the
    graph.
    """
    manifest = model.manifest

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on inputs and states by name."""
        state = None
        if manifest.states and all(spec.input in feeds for spec in manifest.states):
            arrays = {
                spec.input: feeds[spec.input].astype(spec.dtype)
                for spec in manifest.states
            }
            state = State(arrays, model.identity)
        data = {spec.name: feeds[spec.name] for spec in manifest.data_inputs}
        lengths = manifest.lengths_in(feeds)
        outputs, new_state = model.run(data, state, lengths)
        return manifest.all_outputs(outputs, new_state)

    return run
