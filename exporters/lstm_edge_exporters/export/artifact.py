"""The result of an export: one file's bytes and what is known about it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest

from ..numerics.verify import Equivalence

__all__ = ["Artifact"]


@dataclass(frozen=True)
class Artifact:
    """A proven ONNX file; it exists only where every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    equivalence: Equivalence
    """Every comparison with PyTorch."""
    nodes: Mapping[str, int]
    """Operator to count."""
    notes: tuple[str, ...] = ()
    """What a reader should know: states left in the graph, sizes that PyTorch itself refuses."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file whole or not at all, beside its place and then renamed.

        Raises:
            NotFoundError: the folder is not there.
            InputError: the path can't be written.
        """
        write_bytes(path, self.model)
