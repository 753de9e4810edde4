"""Where the rows of a batch and the channels of an output lie in a file's arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lstm_edge_runtime.manifest import Axes, Manifest

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """Axes by input or output name; what is left out has none."""

    batch: Mapping[str, int] = field(default_factory=dict)
    """Each input's batch axis."""
    channels: Mapping[str, int] = field(default_factory=dict)
    """Each output's axis of channels that may differ in scale or unit, counted from the end: -1 is the last.
    For an output it is the last axis of fixed size, for a state the one that counts layers and directions."""

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """Read the axes off a manifest."""
        inputs = {spec.name: spec.axes for spec in manifest.inputs}
        inputs |= {state.input: state.axes for state in manifest.states}
        channels = {spec.name: _fixed(spec.axes)[-1:] for spec in manifest.outputs}
        channels |= {state.output: _fixed(state.axes)[:-1] for state in manifest.states}
        return cls(
            {name: rows for name, axes in inputs.items() if (rows := manifest.batch_axis(axes)) is not None},
            {name: places[0] for name, places in channels.items() if places},
        )


def _fixed(axes: Axes) -> list[int]:
    """Return the places of fixed axes, counted from the end."""
    return [place - len(axes) for place, axis in enumerate(axes) if isinstance(axis, int)]
