"""Data for a model: samples in the layout of its input, and their classes or values if
known.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lstm_edge.results import MainFrames, frame_axis, main_name, main_output, top_rows
from lstm_edge_runtime.errors import InputError, counted
from lstm_edge_runtime.manifest import Array

from .config import ReadConfig
from .series import Data, windows_of

if TYPE_CHECKING:
    from lstm_edge_exporters.quantize import Samples
    from lstm_edge_runtime import Model

    from .read import TargetMode


class SampleInput:
    """The input of a model for samples, of one vector or one value per time step, and
    its axes.
    """

    def __init__(self, model: "Model") -> None:
        """Find the axes, features last if in doubt; raises InputError for several
        inputs, or other axes.
        """
        manifest = model.manifest
        if len(manifest.data_inputs) != 1:
            names = ", ".join(spec.name for spec in manifest.data_inputs) or "none"
            raise InputError(
                f"the file has the inputs {names}, expected one; run it from Python"
                " with load()"
            )
        self.spec = manifest.data_inputs[0]
        axes = self.spec.axes
        batch = manifest.batch_axis(axes)
        sequence = manifest.time_axis(axes)
        rest = [axis for axis in range(len(axes)) if axis not in (batch, sequence)]
        while (
            len(rest) > 1 and len(axes) < 4
        ):  # a fixed axis has no name; most such have size 1
            fixed = next((axis for axis in rest if axes[axis] == 1), rest[0])
            rest.remove(fixed)
            if batch is None and len(axes) == 3:
                batch = fixed
            else:
                sequence = fixed
        width = axes[rest[0]] if rest else 1
        if len(rest) > 1 or not isinstance(width, int):
            shape = ", ".join(map(str, axes))
            expected = (
                "(N, L, features), (N, features, L) or (N, L); run it from Python with"
                " load()"
            )
            raise InputError(f"{self.spec.name} is ({shape}), expected {expected}")
        self.width = width
        """I, the number of features per time step."""
        self.batched = batch is not None and isinstance(axes[batch], str)
        """True if the number of rows per call is variable."""
        self.one_step = sequence is None or axes[sequence] == 1
        """True if each call is one time step."""
        self._batch = batch
        self._sequence = sequence
        self._feature = rest[0] if rest else None

    def steps(self, x: Array) -> Array:
        """Return steps ``(..., I)`` as ``step`` takes them: ``(...)`` if each is one
        value.
        """
        return x[..., 0] if self._feature is None else x

    def rows(self, x: Array) -> Array:
        """Return series ``(N, L, I)`` as the file's input has them, with the batch axis
        first.
        """
        x = self.steps(x)
        first = self._feature is not None and self._feature < (self._sequence or 0)
        return x.swapaxes(1, 2) if first else x

    def arrange(self, series: Sequence[Array]) -> Array:
        """Return equally long series, ``(L, I)`` each, in the layout of the file's
        input.
        """
        rows = self.rows(np.stack(series))
        return np.ascontiguousarray(
            rows[0] if self._batch is None else np.moveaxis(rows, 0, self._batch)
        )


def run_series(model: "Model", samples: SampleInput, x: Array) -> Array:
    """Run a series ``(L, I)`` from reset, and return the frames ``(frames, C)`` of the
    main output.
    """
    if samples.one_step:
        stream = model.stream(reset_every="never")
        main = MainFrames(model)
        steps = enumerate(samples.steps(x.astype(samples.spec.dtype)), 1)
        return np.stack(
            [
                row
                for number, step in steps
                for *_, row in main.of(stream.step(step), number)
            ]
        )
    output = main_output(model, model.run(samples.arrange([x]))[0])
    batch = model.manifest.batch_axis(model.manifest.axes[main_name(model)])
    time = frame_axis(model)
    if time is None:
        return top_rows(output, 1)
    axes = (time,) if batch is None else (time, batch)
    frames = np.moveaxis(output, axes, range(len(axes)))
    return frames.reshape(len(frames), -1)


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
    series = windows_of(data.of("test") or data.series, model.manifest.reset_every)
    if samples.one_step:
        return Samples(
            {
                samples.spec.name: samples.steps(
                    np.concatenate([record.x for record in series])
                )
            }
        )
    last = [record.y[-1] for record in series]
    truth = (
        np.array([data.classes[index] for index in last] if data.classes else last)
        if data.task
        else None
    )
    lengths = np.array([len(record) for record in series])
    padded = np.zeros((len(series), lengths.max(), samples.width), np.float32)
    for row, record in zip(padded, series, strict=True):
        row[: len(record)] = record.x
    x = {samples.spec.name: samples.rows(padded)}
    return Samples(x, truth, lengths if len(set(lengths)) > 1 else None)
