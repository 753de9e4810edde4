"""The file under test: opened by the runtime's own rules, then run on plain named arrays."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import ContractError, InputError, ManifestError
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.ort import CPU, Provider, SessionOptions, open_session, run_by_name

__all__ = ["ModelFile", "Runner", "open_file"]

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Every input by name in, every output by name out."""


@dataclass(frozen=True)
class ModelFile:
    """An ONNX file and the contract it keeps, or why it keeps none."""

    path: Path
    sha256: str
    model: Model | None
    """None where the contract is broken."""
    broken: str
    """Why the file keeps no contract; empty where it does."""

    @property
    def contract(self) -> Manifest:
        """The manifest, or what was read off the graph of a file without one."""
        assert self.model is not None
        return self.model.interface

    def runner(self, threads: int = 1, providers: tuple[Provider, ...] = (CPU,)) -> Runner:
        """Open a session of its own.

        Raises:
            ProviderError: a provider is not really in use.
            FileFormatError: onnxruntime can't read the file.
        """
        session = open_session(str(self.path), SessionOptions(providers=providers, threads=threads))
        dtypes = {
            each.name: np.dtype(_DTYPES.get(each.type, "float32"))
            for each in session.get_inputs()
            if each.type in _DTYPES
        }

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            own = {name: array.astype(dtypes.get(name, array.dtype)) for name, array in feeds.items()}
            return run_by_name(session, own)

        return run


_DTYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64"}
"""A file may take its floats narrower or wider than the reference."""


def open_file(path: str | os.PathLike[str]) -> ModelFile:
    """Open the file under test.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or unsafe.
        InputError: in ORT format, which says too little of its graph.
    """
    path = Path(path)
    if path.suffix == ".ort":
        raise InputError(f"{path} is in ORT format; validate the .onnx file that it was made from")
    model, broken = None, ""
    try:
        model = load(path, device="cpu", threads=1)
    except (ContractError, ManifestError) as error:
        broken = str(error)
    return ModelFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), model, broken)
