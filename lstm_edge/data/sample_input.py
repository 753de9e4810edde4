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

_ROWS = 256
"""Number of series per call: enough to use the cores, few enough to keep memory small."""


class SampleInput:
    """An input of one vector, or one value, per time step, and the indices of its axes."""

    def __init__(self, spec: "TensorSpec", manifest: "Manifest") -> None:
        """Find the batch, the time and the feature axis of ``spec``, in any order, features last if in doubt.

        Raises:
            InputError: it has other axes.
        """
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
    """Find the input of a model for samples.

    Raises:
        InputError: it has several inputs, or not one vector of features or one value per time step.
    """
    manifest = model.manifest
    data = manifest.data_inputs
    if len(data) != 1:
        names = ", ".join(spec.name for spec in data) or "none"
        raise InputError(f"the file has the inputs {names}, expected one; run it from Python with load()")
    return SampleInput(data[0], manifest)


def run_series(
    model: "Model", samples: SampleInput, series: Sequence[npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Run series ``(L, I)`` from the reset state, equally long ones together.

    Returns:
        The frames ``(frames, C)`` of the main output of each; one if it is a result of the last step alone,
        of the top layer if the file reads out every layer.

    Raises:
        ContractError: as ``main_output`` and ``top_rows``.
    """
    found: list[npt.NDArray[Any]] = [np.empty(0)] * len(series)
    lengths = np.array([len(one) for one in series])
    together = _ROWS if samples.batched else 1
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for start in range(0, len(members), together):
            part = members[start : start + together]
            outputs = _run_together(model, samples, [series[index] for index in part])
            for index, frames in zip(
                part, _frames(model, main_output(model, outputs), len(part)), strict=True
            ):
                found[index] = frames
    return found


def _frames(model: "Model", outputs: npt.NDArray[Any], rows: int) -> npt.NDArray[Any]:
    """Return a main output as ``(rows, frames, C)``."""
    batch, time = model.manifest.batch_axes.get(main_name(model)), frame_axis(model)
    if time is None:
        return top_rows(outputs, rows)[:, None]
    along = time + 1 if batch is None else time + (batch > time)
    frames = np.moveaxis(outputs[None] if batch is None else np.moveaxis(outputs, batch, 0), along, 1)
    return frames.reshape(*frames.shape[:2], -1)


def _run_together(
    model: "Model", samples: SampleInput, rows: Sequence[npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Run equally long series; a file with one step per call step by step, with carried states."""
    if not samples.one_step:
        return model.run(samples.arrange(rows))[0]
    state = None
    for step in range(len(rows[0])):
        outputs, state = model.run(samples.arrange([row[step : step + 1] for row in rows]), state)
    return outputs
