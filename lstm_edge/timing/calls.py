"""A file under measurement: its model, made-up samples, and the calls that are timed."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lstm_edge.data.sample_input import SampleInput, sample_input
from lstm_edge_runtime.manifest import TensorSpec

from .rounds import Call

if TYPE_CHECKING:
    from lstm_edge_runtime import Model


@dataclass(frozen=True)
class TimedModel:
    """One file and its open model."""

    name: str
    """Its name in a report."""
    path: Path
    model: "Model"

    @property
    def streamable(self) -> bool:
        """Whether it can be fed in steps with its state carried."""
        return self.model.manifest.streamable or self.model.manifest.stream is not None

    @property
    def unit(self) -> int:
        """Time steps that a stream takes at once."""
        return self.model.manifest.unit

    @property
    def reset_every(self) -> "int | Literal['never']":
        """Steps after which a stream starts again: where the network has no more positions."""
        stream = self.model.manifest.stream
        return (stream and stream.end) or "never"

    @property
    def batched(self) -> bool:
        """Whether many streams can share a call."""
        return self.streamable and self.model.manifest.batch is not None

    def samples(self, *, streams: int | None = None, steps: int | None = None) -> dict[str, npt.NDArray[Any]]:
        """Make samples for every input, of some streams, some steps or one of each, the same each time.

        Raises:
            InputError: an input of other axes than batch, time and features.
        """
        generator = np.random.default_rng(0)
        manifest = self.model.manifest
        found = {}
        for spec in manifest.data_inputs:
            place = SampleInput(spec, manifest)
            x = _draw(spec, (streams or 1, steps or 1, place.width), generator)
            if steps is None:
                x = place.steps(x[:, 0])
                found[spec.name] = x[0] if streams is None else x
            else:
                found[spec.name] = place.chunk(x[0]) if streams is None else place.rows(x)
        return found


def step_call(timed_model: TimedModel) -> Call:
    """Return a call for one time step of one stream, or for its unit."""
    if timed_model.unit > 1:
        return chunk_call(timed_model, timed_model.unit)
    stream = timed_model.model.stream(reset_every=timed_model.reset_every)
    sample = _alone(timed_model.samples())
    return lambda: stream.step(sample)


def chunk_call(timed_model: TimedModel, steps: int) -> Call:
    """Return a call of ``steps`` time steps, or of a whole sequence if it can't be streamed."""
    if timed_model.streamable:
        stream = timed_model.model.stream(reset_every=timed_model.reset_every)
        chunk = _alone(timed_model.samples(steps=steps))
        return lambda: stream.process(chunk)
    model = timed_model.model
    samples = sample_input(model)
    whole = samples.arrange([_draw(samples.spec, (steps, samples.width), np.random.default_rng(0))])
    return lambda: model.run(whole)


def streams_call(timed_model: TimedModel, streams: int) -> Call:
    """Return a call for one time step of ``streams`` streams together, or for a unit of each."""
    batch, unit = timed_model.model.streams(streams, reset_every=timed_model.reset_every), timed_model.unit
    ids = np.array([batch.add() for _ in range(streams)])
    samples = _alone(timed_model.samples(streams=streams, steps=unit if unit > 1 else None))
    take = batch.process if unit > 1 else batch.step
    return lambda: take(samples, ids)


def _alone(samples: dict[str, npt.NDArray[Any]]) -> Any:
    return next(iter(samples.values())) if len(samples) == 1 else samples


def _draw(spec: TensorSpec, shape: tuple[int, ...], generator: np.random.Generator) -> npt.NDArray[Any]:
    if np.dtype(spec.dtype).kind != "f":
        return np.zeros(shape, spec.dtype)
    return generator.normal(size=shape).astype(spec.dtype)
