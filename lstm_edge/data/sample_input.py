"""The input of a model for samples, and their layout."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lstm_edge.results import frame_axis, main_name, main_output, top_rows
from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import TensorSpec

_ROWS = 256
"""Number of series per call: enough to use the cores, few enough to keep memory small."""


class SampleInput:
    """The input for samples, and the indices of its batch, time and feature axes."""

    def __init__(self, spec: "TensorSpec", width: int, batch: int | None, sequence: int | None) -> None:
        """Use the indices of the axes in ``spec``; None if the file has no such axis."""
        self.spec = spec
        self.width = width
        """I, number of features per time step."""
        self.batched = batch is not None and isinstance(spec.axes[batch], str)
        """Whether the number of rows per call is variable."""
        self.one_step = sequence is None or spec.axes[sequence] == 1
        """Whether each call is one time step."""
        self._batch, self._sequence = batch, sequence

    def arrange(self, rows: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Return equally long series, ``(L, I)`` each, in the layout of the file's input."""
        array = np.stack(rows)  # (N, L, I)
        order = {self._batch: 0, self._sequence: 1}
        if self._sequence is None:
            array = array[:, 0]
            order = {self._batch: 0}
        if self._batch is None:
            array = array[0]
            order = {self._sequence: 0}
        rest = array.ndim - 1
        places = [order.get(axis, rest) for axis in range(array.ndim)]
        return np.ascontiguousarray(array.transpose(places))


def sample_input(model: "Model") -> SampleInput:
    """Find the input of a model for samples.

    Raises:
        InputError: it has several inputs, or not one vector of features per time step.
    """
    manifest = model.interface
    data = manifest.data_inputs
    if len(data) != 1:
        names = ", ".join(spec.name for spec in data) or "none"
        raise InputError(f"the file has the inputs {names}, expected one; run it from Python with load()")
    (spec,) = data
    axes = spec.axes
    width = axes[-1] if axes else None
    if not isinstance(width, int) or len(axes) > 3:
        shape = ", ".join(map(str, axes))
        raise InputError(
            f"{spec.name} is ({shape}), expected (N, L, features); run it from Python with load()"
        )
    batch, sequence = manifest.batch_axis(axes), manifest.time_axis(axes)
    if len(axes) == 3:  # a fixed axis has no name: the remaining axis is the other one
        batch = batch if batch is not None else (1 if sequence == 0 else 0)
        sequence = 1 - batch
    elif len(axes) == 2 and batch is None:
        sequence = 0
    return SampleInput(spec, width, batch, sequence)


def run_series(model: "Model", samples: SampleInput, series: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Run series ``(L, I)`` from the reset state, equally long ones together.

    Returns:
        The main output after the last step of each, ``(series, C)``; the top layer's if the file reads out
        every layer.

    Raises:
        ContractError: as ``main_output`` and ``top_rows``.
    """
    places, values = [], []
    for part, outputs in _run_parts(model, samples, series):
        places.append(part)
        values.append(top_rows(outputs, len(part)))
    return np.concatenate(values)[np.argsort(np.concatenate(places))]


def run_frames(
    model: "Model", samples: SampleInput, series: Sequence[npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Run series ``(L, I)`` from the reset state, and return the frames ``(frames, C)`` of each.

    The main output is one with a time axis; see ``frame_axis``.
    """
    found: list[npt.NDArray[Any]] = [np.empty(0)] * len(series)
    batch, time = model.interface.batch_axes.get(main_name(model)), frame_axis(model)
    assert time is not None
    for part, outputs in _run_parts(model, samples, series):
        rows = outputs[None] if batch is None else np.moveaxis(outputs, batch, 0)
        along = time + 1 if batch is None else time + (batch > time)
        for index, row in zip(part, np.moveaxis(rows, along, 1), strict=True):
            found[index] = row.reshape(len(row), -1)
    return found


def _run_parts(
    model: "Model", samples: SampleInput, series: Sequence[npt.NDArray[Any]]
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield the indices of equally long series and their main output."""
    lengths = np.array([len(one) for one in series])
    together = _ROWS if samples.batched else 1
    for length in np.unique(lengths):
        members = np.flatnonzero(lengths == length)
        for start in range(0, len(members), together):
            part = members[start : start + together]
            yield (
                part,
                main_output(model, _run_together(model, samples, [series[index] for index in part])),
            )


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
