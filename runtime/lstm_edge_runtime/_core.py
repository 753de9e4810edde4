"""Shared by a model, its streams and its batches: the session, the manifest and the checks of a call.

A caller's arrays are converted to the dtypes of the file, or refused before any work.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .axes import check_lengths, describe, learn_sizes, resolve, shape_of
from .chunks import Pace
from .errors import ContractError, InputError, StateError, first_line
from .manifest import Array, Manifest, TensorSpec
from .ort import run_by_name, run_error
from .state import State

if TYPE_CHECKING:
    from .native.engine import NativeEngine


InputArrays = npt.ArrayLike | Mapping[str, npt.ArrayLike]
"""One array for the only input, or arrays by input name."""


class Core:
    """An open session and the manifest that was checked against it; nothing in it changes."""

    def __init__(
        self,
        session: Any,
        manifest: Manifest,
        identity: str,
        *,
        check: bool,
        native: "NativeEngine | None" = None,
    ) -> None:
        """Take what ``load`` opened.

        Args:
            session: onnxruntime's; None for a native program.
            manifest: the file's.
            identity: the network's.
            check: True to search samples for NaN and infinity.
            native: the engine of a native program.
        """
        self.session, self.manifest, self.identity = session, manifest, identity
        self.check, self.native = check, native

    @cached_property
    def data(self) -> tuple[TensorSpec, ...]:
        """The inputs that are neither states nor lengths; those with sums of axes last, for their names."""
        return tuple(sorted(self.manifest.data_inputs, key=lambda spec: "+" in describe(spec.axes)))

    @cached_property
    def pace(self) -> Pace:
        """When a stream gives frames."""
        return Pace(self.manifest)

    @cached_property
    def lengths(self) -> TensorSpec | None:
        """The input with the number of valid steps of each row, if any."""
        return self.manifest.lengths_input

    def require_streamable(self) -> None:
        """Raise ``ContractError`` if there are no states, or chunks would not equal the whole sequence."""
        if reason := self.manifest.unstreamable:
            raise ContractError(f"this file can't be streamed: {reason}; use run() on whole sequences")
        if not self.manifest.states and not self.manifest.is_buffered:
            raise ContractError("this file carries no states; export it with them, or use run()")

    def steps_to_reset(self, every: "int | str | None") -> int | None:
        """Return the number of steps after which a stream is reset automatically; None for never.

        Args:
            every: as ``Model.stream`` takes it.

        Raises:
            InputError: it is none of these; or the window is not known.
        """
        if every is None or every == "never":
            return None
        if every == "window":
            if self.manifest.window is None:
                raise InputError(
                    "this file has no training window; give the number of steps, such as reset_every=100"
                )
            return self.manifest.window
        if isinstance(every, bool | str) or not isinstance(every, int | np.integer) or every < 1:
            raise InputError(f"reset_every is {every!r}, expected a positive integer, 'window' or 'never'")
        return int(every)

    def run(
        self, x: InputArrays, state: State | None = None, lengths: npt.ArrayLike | None = None
    ) -> tuple[dict[str, Array], State]:
        """Run the file once; see ``Model.run``."""
        sizes: dict[str, int] = {}
        feeds: dict[str, Array] = {}
        for spec, value in self.convert_inputs(x):
            feeds[spec.name] = value
            learn_sizes(spec.name, spec.axes, value.shape, sizes, self.manifest.ranges)
        feeds.update(self.convert_lengths(lengths, sizes))
        feeds.update(self.initial_states(sizes) if state is None else self.check_state(state, sizes))
        outputs, states = self.call(feeds)
        valid = feeds[self.lengths.name] if self.lengths else self.manifest.steps(feeds)
        return outputs, State(states, self.identity, (state.age if state else 0) + int(np.max(valid)))

    def call(self, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """Run the session, or the native engine instead.

        Returns:
            The outputs by name, and the new states by input name.

        Raises:
            ContractError: onnxruntime rejects the call, or a new state has another shape than the old one.
        """
        if self.native is not None:
            return self.native.call(feeds)
        try:
            results = run_by_name(self.session, feeds, self.manifest.output_names)
        except Exception as error:
            raise run_error(error) from error
        new = self.manifest.states_out(results)
        for name, array in new.items():
            if array.shape != feeds[name].shape:
                raise ContractError(
                    f"the new state {name} has shape {array.shape}, expected {feeds[name].shape} as before; "
                    "the file does not keep its state contract"
                )
        return {spec.name: results[spec.name] for spec in self.manifest.outputs}, new

    def convert_inputs(self, x: InputArrays, *, shared: bool = False) -> list[tuple[TensorSpec, Array]]:
        """Return each data input's spec and its array in the file's dtype.

        Args:
            x: the samples, by name where there are several inputs.
            shared: whether sources share them; onnxruntime quantizes an int8 file's inputs together.

        Raises:
            InputError: as ``by_name`` and ``as_array``; NaN or infinity where the model checks, and where
                they would reach other sources.
        """
        values = by_name(x, self.data)
        converted = [(spec, as_array(spec.name, values[spec.name], spec.dtype)) for spec in self.data]
        advice = "clean the samples first" if self.check else ""
        if shared and not advice and self.manifest.precision == "int8" and self.native is None:
            advice = "with an int8 file it would affect the other sources; omit this one from the tick"
        for spec, array in converted if advice else ():
            refuse_not_finite(spec.name, array, advice)
        return converted

    def convert_lengths(self, lengths: npt.ArrayLike | None, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return ``lengths`` by the input's name, all full where None; nothing where the file takes none."""
        valid = as_lengths(lengths, self.lengths, sizes, self.manifest.sequence)
        return {} if self.lengths is None or valid is None else {self.lengths.name: valid}

    def initial_states(self, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the states' reset values; see ``reset_states``."""
        return reset_states(self.manifest, sizes)

    def zero_inputs(self) -> dict[str, Array]:
        """Return data inputs of zeros, every named axis at its least size."""
        least = {name: allowed.nearest(1) for name, allowed in self.manifest.ranges.items()}
        return {spec.name: np.zeros(shape_of(spec.axes, least), dtype=spec.dtype) for spec in self.data}

    def check_state(self, state: State, sizes: Mapping[str, int]) -> dict[str, Array]:
        """Return the arrays of ``state``.

        Raises:
            StateError: it is of another model or another batch size.
        """
        if not isinstance(state, State):
            raise StateError(f"got a {type(state).__name__}, expected the State that run() returned")
        if state.identity != self.identity:
            raise StateError(
                f"got a state of model {state.identity[:12]}, expected one of model {self.identity[:12]}; "
                "start from state=None"
            )
        for spec in self.manifest.states:
            array, known = state.get(spec.input), dict(sizes)
            if array is None or array.dtype != spec.dtype:
                raise StateError(f"got a state without {spec.dtype} {spec.input}; start from state=None")
            try:
                learn_sizes(f"state {spec.input}", spec.axes, array.shape, known)
            except InputError as error:
                raise StateError(f"{error}; nothing is reset automatically") from error
        return dict(state)


def reset_states(manifest: Manifest, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return the states' reset values in new arrays; an axis that ``sizes`` does not name has size 1."""
    states = {}
    for spec in manifest.states:
        states[spec.input] = np.empty(shape_of(spec.axes, sizes), dtype=spec.dtype)
        states[spec.input][...] = spec.reset
    return states


class ExclusiveUse:
    """A context for one thread at a time; a second one is refused immediately and never waits.

    ``slot`` has one item while nobody is inside. ``list.pop`` is atomic and takes half the time of a lock,
    so a hot path may pop the item and append it again by hand.
    """

    __slots__ = ("_what", "slot")

    def __init__(self, what: str) -> None:
        """``what`` names the guarded object in the message: ``stream``."""
        self.slot = [None]
        self._what = what

    def error(self) -> StateError:
        """Return the exception to raise for the second thread."""
        return StateError(f"another thread is using this {self._what}; use one per thread, or take turns")

    def __enter__(self) -> None:
        try:
            self.slot.pop()
        except IndexError:
            raise self.error() from None

    def __exit__(self, *error: object) -> None:
        self.slot.append(None)


def by_name(value: InputArrays, specs: Sequence[TensorSpec]) -> dict[str, npt.ArrayLike]:
    """Return ``value`` by input name; a single array is the only input.

    Raises:
        InputError: missing or unknown names, or a single array where there are several inputs.
    """
    names = [spec.name for spec in specs]
    if not isinstance(value, Mapping):
        if len(names) != 1:
            raise InputError(f"got a single array, expected arrays for inputs {', '.join(map(repr, names))}")
        return {names[0]: value}
    if set(value) != set(names):
        raise InputError(
            f"got inputs {sorted(map(str, value))}, expected {sorted(names)}; name each input once"
        )
    return dict(value)


def as_array(name: str, value: npt.ArrayLike, dtype: str) -> Array:
    """Return ``value`` as a C-contiguous array of ``dtype``.

    Integers are converted to floats and to other integers that hold them, and wider floats to narrower ones;
    nothing else is converted.

    Raises:
        InputError: ragged, not numeric, of a kind that ``dtype`` can't hold, or an integer outside its range.
    """
    if isinstance(value, np.ndarray) and value.dtype == dtype and value.flags.c_contiguous:
        return value
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} is not a regular array ({first_line(error)}); expected {dtype}") from error
    if array.dtype == object:
        raise InputError(f"{name} is not a regular array of numbers; expected {dtype}")
    wanted = np.dtype(dtype)
    kinds = "b" if wanted.kind == "b" else "fiu"
    if array.dtype.kind not in kinds or not np.can_cast(array.dtype, wanted, "same_kind"):
        raise InputError(f"{name} has dtype {array.dtype}, expected {dtype}; convert it first")
    if wanted.kind in "iu" and array.size and not np.can_cast(array.dtype, wanted):
        least, most, allowed = int(array.min()), int(array.max()), np.iinfo(wanted)
        if least < allowed.min or most > allowed.max:
            raise InputError(
                f"{name} has values {least}..{most}, expected {dtype} ({allowed.min}..{allowed.max})"
            )
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, dtype=wanted).reshape(array.shape)


def as_lengths(
    lengths: npt.ArrayLike | None, spec: TensorSpec | None, sizes: Mapping[str, int], sequence: str | None
) -> Array | None:
    """Return ``lengths`` in the file's dtype; None where the file takes none, all full where None.

    Args:
        lengths: integers of any dtype, one per row.
        spec: the file's input for them.
        sizes: what the named axes are in this call.
        sequence: the time axis; None where it is fixed, and only the file knows how long it is.

    Raises:
        InputError: the file takes no lengths; a length is outside 1..L; not one per row; or None for a file
            whose time axis has no name.
    """
    if spec is None:
        if lengths is not None:
            raise InputError("got lengths, but this file has no such input; export it with lengths")
        return None
    shape, longest = resolve(spec.axes, sizes), sizes.get(sequence or "")
    if lengths is None:
        if longest is None or shape is None:
            raise InputError(
                f"got no {spec.name}, and this file's time axis is fixed; give run() one length per row"
            )
        return np.full(shape, longest, dtype=spec.dtype)
    array = as_array(spec.name, lengths, "int64")
    if array.shape != shape:
        raise InputError(f"{spec.name} has shape {array.shape}, expected {shape}: one length per row")
    check_lengths(spec.name, array, longest)
    return as_array(spec.name, array, spec.dtype)


def refuse_not_finite(name: str, array: Array, advice: str = "clean the samples first") -> None:
    """Raise ``InputError`` if a float array contains NaN or infinity, with the first index."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        where = tuple(int(index) for index in np.argwhere(~np.isfinite(array))[0])
        raise InputError(f"{name} is {array[where]} at {list(where)}; {advice}")
