"""What a file is compared with; another ONNX file as such (``module`` has PyTorch modules)."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Axes, Manifest

from ..numerics.noise import Layout, PerturbableReference, Rounding, Run
from .file import ModelFile, open_file, recurrent_layers

__all__ = ["ReferenceModel", "against_file", "against_itself"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReferenceModel:
    """What a file is compared with."""

    computation: PerturbableReference
    about: str
    """What it is, in words."""
    manifest: Manifest
    """What the file's manifest should say: names, axes, states and their reset values, lengths; and of what
    the numbers mean as much as the reference knows."""
    layers: Mapping[str, int] = field(default_factory=dict)
    """How many recurrent layers of each kind (``LSTM``, ``GRU``, ``RNN``) it has."""
    examples: Mapping[str, Array] = field(default_factory=dict)
    """Values as they really come, by input name."""
    values: Mapping[str, int] = field(default_factory=dict)
    """How many values are valid, by the name of an input of indices."""
    sha256: str = ""
    """Of the checkpoint, where there is one."""


def against_file(path: str | os.PathLike[str], file: ModelFile | None = None) -> ReferenceModel:
    """Compare with another ONNX file.

    Args:
        path: the reference.
        file: the file under test; where it has states that the reference lacks, as a lifted file has, they
            are compared with its own float64 run, and at reset everything else with the reference.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated or foreign.
        InputError: its manifest contradicts its graph.
        UnsupportedError: it can't be run in float64.
    """
    other = open_file(path)
    if other.model is None:
        raise InputError(f"{path} can't be a reference: {other.broken}")
    about = f"{other.path.name} (ONNX)"
    if file is not None and file.model is not None and file.manifest.states and not other.manifest.states:
        return _before_lifting(other, file, about)
    return _of_file(other, about)


def against_itself(file: ModelFile) -> ReferenceModel | None:
    """Compare with the file's own float64 run; None where it has none, as an int8 file."""
    try:
        return _of_file(file, "its own float64 run")
    except UnsupportedError:
        return None


def _of_file(file: ModelFile, about: str) -> ReferenceModel:
    from ..numerics.onnx_reference import OnnxReference, index_values

    manifest, model = file.manifest, onnx.load(str(file.path))
    return ReferenceModel(
        computation=OnnxReference(model, file.runner(), Layout.of(manifest), str(file.path)),
        about=about,
        manifest=manifest,
        layers=recurrent_layers(model),
        examples=dict(manifest.golden.inputs) if manifest.golden else {},
        values=index_values(model),
        sha256=str(manifest.provenance.get("checkpoint_sha256") or ""),
    )


def _before_lifting(original: ModelFile, lifted: ModelFile, about: str) -> ReferenceModel:
    of_lifted, of_original = _of_file(lifted, about), _of_file(original, about)
    computation = _Lifted(of_original.computation, of_lifted.computation, lifted.manifest)
    return replace(of_original, computation=computation, manifest=_freed(lifted.manifest, original.manifest))


def _freed(lifted: Manifest, original: Manifest) -> Manifest:
    """Return the lifted file's manifest with the original's names; an axis is free that either has free."""
    axes = {spec.name: spec.axes for spec in (*lifted.inputs, *lifted.outputs)}

    def merge(name: str, theirs: Axes) -> Axes:
        mine = axes.get(name, ())
        if len(mine) != len(theirs):
            return theirs
        return tuple(one if isinstance(one, str) else other for one, other in zip(mine, theirs, strict=True))

    return lifted._replace(
        inputs=tuple(spec._replace(axes=merge(spec.name, spec.axes)) for spec in original.inputs),
        outputs=tuple(spec._replace(axes=merge(spec.name, spec.axes)) for spec in original.outputs),
    )


class _Lifted:
    """A file without states as the reference of one that has them.

    From the reset states the outputs are the original's; everything else is the lifted graph's own.
    """

    def __init__(
        self, original: PerturbableReference, lifted: PerturbableReference, manifest: Manifest
    ) -> None:
        self._original, self._lifted, self._states = original, lifted, manifest.states
        self.layout = lifted.layout

    def run(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._joined(self._original.run, self._lifted.run, feeds)

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        return self._joined(self._original.run64, self._lifted.run64, feeds)

    def perturbed(self, feeds: Mapping[str, Array], rounding: Rounding) -> Mapping[str, Array]:
        return self._joined(
            lambda plain: self._original.perturbed(plain, rounding),
            lambda plain: self._lifted.perturbed(plain, rounding),
            feeds,
        )

    def _joined(self, original: Run, lifted: Run, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        found = lifted(feeds)
        if not all(np.all(feeds[state.input] == state.reset) for state in self._states):
            return found
        inputs = {state.input for state in self._states}
        return {**found, **original({name: array for name, array in feeds.items() if name not in inputs})}
