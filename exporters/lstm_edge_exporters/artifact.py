"""The result of ``export``, ``lift`` and ``quantize``: a verified file."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import onnx

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import write_bytes
from lstm_edge_runtime.manifest import Manifest

Figures = TypeVar("Figures", covariant=True)


@dataclass(frozen=True, kw_only=True)
class Artifact(Generic[Figures]):
    """A verified ONNX file; it exists only if every check passed."""

    model: bytes
    """The file."""
    manifest: Manifest
    """The contract that is inside the file."""
    verified: Figures
    """Every comparison with the reference, or the figures of the accuracy gate."""
    notes: tuple[str, ...] = ()
    """Notes for the user: states left in the graph, sizes that PyTorch itself
    refuses."""

    @property
    def nodes(self) -> dict[str, int]:
        """The number of nodes per operator."""
        graph = onnx.load_from_string(self.model).graph
        return dict(Counter(node.op_type for node in graph.node))

    @property
    def streamable(self) -> bool:
        """True if chunks with carried states equal the full sequence."""
        return self.manifest.streamable

    @property
    def reason(self) -> str:
        """Why the file does not stream; empty if it does."""
        if self.streamable:
            return ""
        return self.manifest.unstreamable or "it has no states"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically: to a temporary file, which is then renamed.

        Raises:
            NotFoundError: the folder does not exist.
            InputError: the path is not named ``.onnx``, or can't be written.
        """
        if Path(path).suffix != ".onnx":
            raise InputError(
                f"{os.fspath(path)} is not named .onnx; use"
                f" {Path(path).with_suffix('.onnx')}, and convert it to .lep or C"
            )
        write_bytes(path, self.model)
