"""The input of a model for samples, and their layout."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge.results import frame_axis, main_name, main_output, top_rows
from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import Manifest, TensorSpec


class SampleInput:
    """An input of one vector, or one value, per time step, and the indices of its axes."""

    def __init__(self, spec: "TensorSpec", manifest: "Manifest") -> None:
        """Find the axes of ``spec``, features last if in doubt; raises InputError for other axes."""
        axes = spec.axes
        batch, sequence = manifest.batch_axis(axes), manifest.time_axis(axes)
        rest = [axis for axis in range(len(axes)) if axis not in (batch, sequence)]
        while len(rest) > 1 and len(axes) < 4:  # a fixed axis has no name; most such have size 1
            fixed = next((axis for axis in rest if axes[axis] == 1), rest[0])
            rest.remove(fixed)
            if batch is None and len(axes) == 3:
                batch = fixed
            else:
                sequence = fixed
        width = axes[rest[0]] if rest else 1
        if len(rest) > 1 or not isinstance(width, int):
            shape = ", ".join(map(str, axes))
            raise InputError(
                f"{spec.name} is ({shape}), expected (N, L, features), (N, features, L) or (N, L); "
                "run it from Python with load()"
            )
        self.spec = spec
        self.width = width
        """I, number of features per time step."""
        self.batched = batch is not None and isinstance(axes[batch], str)
        """Whether the number of rows per call is variable."""
        self.one_step = sequence is None or axes[sequence] == 1
        """Whether each call is one time step."""
        self._batch, self._sequence, self._feature = batch, sequence, rest[0] if rest else None

    def steps(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return steps ``(..., I)`` as ``step`` takes them: ``(...)`` if each is one value."""
        return x[..., 0] if self._feature is None else x

    def rows(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return series ``(N, L, I)`` as the file's input has them, with the batch axis first."""
        x = self.steps(x)
        if self._sequence is None:
            return x[:, 0]
        first = self._feature is not None and self._feature < self._sequence
        return x.swapaxes(1, 2) if first else x

    def arrange(self, series: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return equally long series, ``(L, I)`` each, in the layout of the file's input."""
        rows = self.rows(np.stack(series))
        return np.ascontiguousarray(rows[0] if self._batch is None else np.moveaxis(rows, 0, self._batch))


def sample_input(model: "Model") -> SampleInput:
    """Find the input of a model for samples; raises InputError if there are several, or of other axes."""
    manifest = model.manifest
    data = manifest.data_inputs
    if len(data) != 1:
        names = ", ".join(spec.name for spec in data) or "none"
        raise InputError(f"the file has the inputs {names}, expected one; run it from Python with load()")
    return SampleInput(data[0], manifest)


def run_series(
    model: "Model", samples: SampleInput, series: Sequence[npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Run series ``(L, I)`` from the reset state, one after another.

    Returns:
        The frames ``(frames, C)`` of the main output of each; one if it is a result of the last step alone,
        of the top layer if the file reads out every layer.
    """
    return [_frames(model, main_output(model, _run_alone(model, samples, one))) for one in series]


def _frames(model: "Model", outputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the main output of one series as ``(frames, C)``."""
    manifest = model.manifest
    batch, time = manifest.batch_axis(manifest.axes[main_name(model)]), frame_axis(model)
    if time is None:
        return top_rows(outputs, 1)
    frames = (
        np.moveaxis(outputs, time, 0) if batch is None else np.moveaxis(outputs, (batch, time), (0, 1))[0]
    )
    return frames.reshape(len(frames), -1)


def _run_alone(model: "Model", samples: SampleInput, one: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Run a series; a file with one step per call step by step, with carried states."""
    if not samples.one_step:
        return model.run(samples.arrange([one]))[0]
    state = None
    for step in range(len(one)):
        outputs, state = model.run(samples.arrange([one[step : step + 1]]), state)
    return outputs
