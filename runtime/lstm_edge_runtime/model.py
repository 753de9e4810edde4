"""The loaded model: immutable, shared between threads, with the state always in the caller's hands."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from ._core import Core, InputArrays
from .axes import describe
from .errors import InputError
from .manifest import Manifest, StateSpec, TensorSpec
from .ort import SessionOptions
from .state import State

if TYPE_CHECKING:
    from .prediction import Prediction
    from .selftest import SelfTest
    from .stream import Stream
    from .stream_batch import StreamBatch

__all__ = ["Model"]

Array = npt.NDArray[Any]


class Model:
    """A model file opened for running; ``load`` makes it.

    Nothing in it changes once it is made, so that any number of threads may share it.
    """

    def __init__(self, core: Core, options: SessionOptions) -> None:
        """Take what ``load`` opened and checked, and the options of its session."""
        self._core: Core | None = core
        self._interface = core.manifest
        self._has_manifest = core.has_manifest
        self._source = core.source
        self._options = options

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
        """Inputs that are not states, ``lengths`` among them where the file takes it."""
        return self._interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs that are not states."""
        return self._interface.outputs

    @property
    def states(self) -> tuple[StateSpec, ...]:
        """The states, each with the input it enters by and the output it leaves by."""
        return self._interface.states

    @property
    def engine(self) -> str:
        """What takes the steps of streams and batches: ``native`` or ``onnxruntime``.

        The native engine is made when this is asked first, or when the first stream is opened.
        """
        return "onnxruntime" if self._open().native is None else "native"

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers really in use, the first choice first; none for a native program."""
        session = self._open().session
        return () if session is None else tuple(session.get_providers())

    @property
    def options(self) -> SessionOptions:
        """The session's options, ``threads="auto"`` and the like resolved."""
        return self._options

    @property
    def identity(self) -> str:
        """The sha256 of the file in hex; the states it makes bear it."""
        return self._source.digest

    def run(
        self, x: InputArrays, state: State | None = None, lengths: npt.ArrayLike | None = None
    ) -> tuple[dict[str, Array], State]:
        """Run the file once.

        Args:
            x: the samples, for example float32 ``(N, L, I)``; a mapping by name where there are several
                inputs. Whole numbers and wider floats are converted.
            state: where to start from; None for the reset values.
            lengths: whole numbers ``(N,)``, the valid steps of each row, 1 to L; None for all of them.

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
        """Run from the reset state and give labels and probabilities, or values, as the file's task says.

        Raises:
            InputError: as ``run``; or the file has no task.
        """
        task = self._interface.task
        if task is None:
            raise InputError("this file does not say what its outputs mean; use run()")
        from .prediction import interpret

        return interpret(self.run(x, lengths=lengths)[0][task.output], task)

    def stream(self) -> "Stream":
        """Open a stream: one source of samples that owns its state.

        Raises:
            ContractError: the file carries no states, or chunks would not equal the whole sequence.
        """
        from .stream import Stream

        return Stream(self._open())

    def streams(self, capacity: int) -> "StreamBatch":
        """Open a batch of up to ``capacity`` streams that take one call into the engine a tick.

        Raises:
            ContractError: as ``stream``; or the file has no batch axis.
            InputError: ``capacity`` is not a whole number from 1.
        """
        from .stream_batch import StreamBatch

        return StreamBatch(self._open(), capacity)

    def selftest(self) -> "SelfTest":
        """Replay the golden case in the file on this device, whole and in chunks with carried states.

        Raises:
            InputError: the file carries no golden case.
            ManifestError: the golden case leaves an input, an output or a state out.
        """
        from .selftest import selftest

        return selftest(self._open())

    def warm_up(self) -> None:
        """Run one step of zeros from the reset state, so that the first real one is not the slowest.

        It leaves no trace: the model holds no state.
        """
        core = self._open()
        core.run(core.zero_inputs())

    def close(self) -> None:
        """Let the session go; streams that are open keep it until they are dropped."""
        self._core = None

    def __enter__(self) -> "Model":  # noqa: PYI034
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Core:
        if self._core is None:
            raise InputError("this model is closed; load it again")
        return self._core

    def __repr__(self) -> str:
        inputs = ", ".join(f"{spec.name} {describe(spec.axes)}" for spec in self.inputs)
        return f"Model({inputs}; states {[spec.input for spec in self.states]})"
