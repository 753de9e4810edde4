"""Data for a model: samples in the layout of its input, and their classes or values if
known.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge.results import sequence_frames
from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import InputError, counted
from lstm_edge_runtime.manifest import Array, Axes

from .config import ReadConfig
from .series import Data, Series, windows_of

if TYPE_CHECKING:
    from lstm_edge_exporters.quantize import Samples
    from lstm_edge_runtime import Model

    from .read import TargetMode


@dataclass(frozen=True)
class _Roles:
    """The index of each axis of an input; None for one that it does not have."""

    batch: int | None
    """Axis of the rows."""
    sequence: int | None
    """Axis of the time steps."""
    feature: int | None
    """Axis of the features."""


def _find_roles(axes: Axes, batch: int | None, sequence: int | None) -> _Roles | None:
    """Return the axes by their use; None if they can't be told apart.

    The file names the batch and the time axis if their sizes are variable. Axes of a
    fixed size are, in this order, batch and time as far as the file does not name them,
    and last the features.
    """
    fixed = [axis for axis in range(len(axes)) if axis not in (batch, sequence)]
    if any(not isinstance(axes[axis], int) for axis in fixed):
        return None
    if not fixed:
        return _Roles(batch, sequence, None)
    *leading, feature = fixed
    if leading and batch is None:
        batch = leading.pop(0)
    if leading and sequence is None:
        sequence = leading.pop(0)
    return None if leading else _Roles(batch, sequence, feature)


class SampleInput:
    """The input of a model for samples, of one vector or one value per time step, and
    its axes.
    """

    def __init__(self, model: "Model") -> None:
        """Find the axes; raises InputError for several inputs, or other axes."""
        manifest = model.manifest
        if len(manifest.data_inputs) != 1:
            names = ", ".join(spec.name for spec in manifest.data_inputs) or "none"
            raise InputError(
                f"the file has the inputs {names}, expected one; run it from Python"
                " with load()"
            )
        self.spec = manifest.data_inputs[0]
        axes = self.spec.axes
        roles = _find_roles(axes, manifest.batch_axis(axes), manifest.time_axis(axes))
        if roles is None:
            raise InputError(
                f"{self.spec.name} is {describe(axes)}, expected (N, L, features),"
                " (N, features, L) or (N, L); run it from Python with load()"
            )
        self._roles = roles
        self.width = 1
        """I, the number of features per time step."""
        if roles.feature is not None:
            self.width = int(axes[roles.feature])
        self.batched = roles.batch is not None and isinstance(axes[roles.batch], str)
        """True if the number of rows per call is variable."""
        self.one_step = roles.sequence is None or axes[roles.sequence] == 1
        """True if each call is one time step."""

    def steps(self, x: Array) -> Array:
        """Return steps ``(..., I)`` as ``step`` takes them: ``(...)`` if each is one
        value.
        """
        return x[..., 0] if self._roles.feature is None else x

    def rows(self, x: Array) -> Array:
        """Return series ``(N, L, I)`` as the file's input has them, with the batch axis
        first.
        """
        x = self.steps(x)
        feature = self._roles.feature
        sequence = self._roles.sequence
        if feature is not None and sequence is not None and feature < sequence:
            x = x.swapaxes(1, 2)
        return x

    def arrange(self, series: Sequence[Array]) -> Array:
        """Return equally long series, ``(L, I)`` each, in the layout of the file's
        input.
        """
        rows = self.rows(np.stack(series))
        batch = self._roles.batch
        arranged = rows[0] if batch is None else np.moveaxis(rows, 0, batch)
        return np.asarray(np.ascontiguousarray(arranged))


def run_series(model: "Model", samples: SampleInput, x: Array) -> Array:
    """Run a series ``(L, I)`` from reset, and return the frames ``(frames, C)`` of the
    main output.
    """
    if samples.one_step:
        stream = model.stream(reset_every="never")
        steps = samples.steps(x.astype(samples.spec.dtype))
        return np.concatenate([model.frames(stream.step(step)) for step in steps])
    outputs, _ = model.run(samples.arrange([x]))
    return sequence_frames(model, outputs)


def read_for_model(
    path: Path,
    model: "Model",
    config: ReadConfig,
    *,
    targets: "TargetMode",
    tell: Callable[[str], None],
) -> tuple[Data, SampleInput]:
    """Read data with the features of ``model``, and return the input for them; ``tell``
    takes notes.

    Raises as ``read_data`` and ``SampleInput``.
    """
    from .read import read_data  # with pandas

    samples = SampleInput(model)
    signal = model.manifest.signal
    data = read_data(path, config, targets=targets, features=signal.features)
    if (width := data.series[0].x.shape[1]) != samples.width:
        got = (
            f"got {counted(width, 'feature')}"
            f" ({', '.join(data.signal.features) or 'without names'})"
        )
        advice = "name them in the model's order with --features"
        raise InputError(f"{path}: {got}, expected {samples.width}; {advice}")
    for note in data.notes:
        tell(note)
    if data.signal.full_scale and not signal.full_scale:
        tell(
            "samples of WAV files are read as -1 to 1; the model does not record the"
            " scale of its sound"
        )
    rate = data.signal.sampling_rate
    trained = signal.sampling_rate
    if rate and trained and abs(rate / trained - 1) > 0.01:
        advice = (
            f"the model was trained at {trained:g}; --rate {trained:g} resamples data"
            " with timestamps"
        )
        tell(f"{path} has {rate:g} samples per second, {advice}")
    return data, samples


def read_samples(
    path: Path, model: "Model", config: ReadConfig, tell: Callable[[str], None]
) -> "Samples":
    """Read data as ``lstm-edge train`` does; the test set if the file defines its sets.

    Series are cut into windows if streams of the model are reset every window; raises
    as ``read_for_model``.
    """
    from lstm_edge_exporters.quantize import Samples

    data, samples = read_for_model(path, model, config, targets="optional", tell=tell)
    rows = data.of("test") or data.series
    if not data.of("test"):
        tell(
            f"{path} defines no test set, so all of it is used; if the model was trained"
            " on these rows, its accuracy here is not that on new ones"
        )
    series = windows_of(rows, model.manifest.reset_every)
    name = samples.spec.name
    if samples.one_step:
        x = np.concatenate([record.x for record in series])
        return Samples({name: samples.steps(x)})
    lengths = np.array([len(record) for record in series])
    padded = np.zeros((len(series), lengths.max(), samples.width), np.float32)
    for row, record in zip(padded, series, strict=True):
        row[: len(record)] = record.x
    are_equal = len(set(lengths)) == 1
    return Samples(
        {name: samples.rows(padded)},
        _last_targets(data, series),
        None if are_equal else lengths,
    )


def _last_targets(data: Data, series: Sequence[Series]) -> Array | None:
    """Return the class as text, or the values, of the last step of each series; None if
    these were not read.
    """
    if data.task is None:
        return None
    last = [record.y[-1] for record in series]
    if data.classes:
        last = [data.classes[index] for index in last]
    return np.array(last)
