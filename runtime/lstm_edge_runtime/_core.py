"""What a model, its streams and its batches share: the session, the manifest and the checks of a call."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ._identity import Identity
from .axes import learn_sizes, resolve, with_ones
from .errors import ContractError, InputError, StateError
from .inputs import Samples, as_array, as_lengths, by_name, refuse_not_finite
from .manifest import Manifest, TensorSpec
from .ort import run_by_name, run_error
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativeEngine

__all__ = ["Core"]

Array = npt.NDArray[Any]


class Core:
    """An open session and the manifest that was checked against it; nothing in it changes."""

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        source: Identity,
        *,
        has_manifest: bool,
        check: bool,
        open_native: "Callable[[], NativeEngine | None]" = lambda: None,
    ) -> None:
        """Take what ``load`` opened.

        Args:
            session: onnxruntime's; None where the native engine runs everything.
            manifest: the file's, or an inferred one.
            source: gives the file's identity.
            has_manifest: whether the manifest is the file's own.
            check: whether samples are searched for NaN and infinity.
            open_native: makes the engine of streams, None where onnxruntime takes their steps; called once,
                when the first stream is opened.
        """
        self.session, self.manifest, self.source = session, manifest, source
        self.has_manifest, self.check = has_manifest, check
        self._open_native = open_native

    @property
    def identity(self) -> str:
        """The sha256 of the file, in hex."""
        return self.source.digest

    @cached_property
    def native(self) -> "NativeEngine | None":
        """The engine of streams and batches; None where onnxruntime takes their steps."""
        engine = self._open_native()
        self._open_native = lambda: None  # it holds the file's bytes
        return engine

    @cached_property
    def data(self) -> tuple[TensorSpec, ...]:
        """The inputs that are neither states nor lengths."""
        return self.manifest.data_inputs

    @cached_property
    def lengths(self) -> TensorSpec | None:
        """The input with each row's count of valid steps, if any."""
        return self.manifest.lengths_input

    def require_streamable(self) -> None:
        """Raise ``ContractError`` where carried states are missing or would not equal the whole sequence."""
        if reason := self.manifest.unstreamable:
            raise ContractError(f"this file can't be streamed: {reason}; use run() on whole sequences")
        if not self.manifest.states:
            raise ContractError("this file carries no states; export it with them, or use run()")

    def run(
        self, x: Samples, state: State | None = None, lengths: npt.ArrayLike | None = None
    ) -> tuple[dict[str, Array], State]:
        """Run the file once; see ``Model.run``."""
        sizes: dict[str, int] = {}
        feeds: dict[str, Array] = {}
        for spec, value in self.take(x):
            feeds[spec.name] = value
            learn_sizes(spec.name, spec.axes, value.shape, sizes)
        feeds.update(self.valid_steps(lengths, sizes))
        feeds.update(self.start(sizes) if state is None else self.admit(state, sizes))
        outputs, states = self.call(feeds)
        return outputs, State(states, self.identity)

    def call(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run the session on every input; give the outputs by name, and the new states by input name.

        Raises:
            ContractError: onnxruntime refuses, or a state comes out in another shape than it went in.
        """
        if self.session is None:
            assert self.native is not None
            return self.native.call(feeds)
        try:
            results = run_by_name(self.session, feeds, self.manifest.output_names)
        except Exception as error:
            raise run_error(error) from error
        new = self.manifest.states_out(results)
        for name, array in new.items():
            if array.shape != feeds[name].shape:
                raise ContractError(
                    f"state {name} went in as {feeds[name].shape} and came out as {array.shape}; "
                    "the file does not keep its state contract"
                )
        return {spec.name: results[spec.name] for spec in self.manifest.outputs}, new

    def take(self, x: Samples) -> list[tuple[TensorSpec, Array]]:
        """Return each data input's spec and array, converted and, where the model checks, searched."""
        values = by_name(x, self.data)
        taken = [(spec, as_array(spec.name, values[spec.name], spec.dtype)) for spec in self.data]
        if self.check:
            for spec, array in taken:
                refuse_not_finite(spec.name, array)
        return taken

    def valid_steps(self, lengths: npt.ArrayLike | None, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the file's ``lengths`` by name, all full where none came; nothing where it takes none."""
        valid = as_lengths(lengths, self.lengths, sizes, self.manifest.sequence)
        return {} if self.lengths is None or valid is None else {self.lengths.name: valid}

    def start(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the reset values in arrays of their own; an axis that no input names has size 1."""
        start = {}
        for spec in self.manifest.states:
            shape = resolve(spec.axes, with_ones(spec.axes, sizes))
            assert shape is not None
            start[spec.input] = np.empty(shape, dtype=spec.dtype)
            start[spec.input][...] = spec.reset
        return start

    def zeros(self) -> dict[str, Array]:
        """Return data inputs of zeros, every named axis at size 1."""
        return {
            spec.name: np.zeros([a if isinstance(a, int) else 1 for a in spec.axes], dtype=spec.dtype)
            for spec in self.data
        }

    def admit(self, state: State, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the arrays of ``state`` if they are this model's and of this batch size."""
        if not isinstance(state, State):
            raise StateError(f"a {type(state).__name__} came, expected the State that run() gave")
        if state.identity != self.identity:
            raise StateError(
                f"this state belongs to model {state.identity[:12]}, not to {self.identity[:12]}; "
                "start from state=None"
            )
        for spec in self.manifest.states:
            array, known = state.get(spec.input), dict(sizes)
            if array is None or array.dtype != spec.dtype:
                raise StateError(f"the state has no {spec.dtype} {spec.input}; start from state=None")
            try:
                learn_sizes(f"state {spec.input}", spec.axes, array.shape, known)
            except InputError as error:
                raise StateError(f"{error}; nothing is reset by itself") from error
        return dict(state)
