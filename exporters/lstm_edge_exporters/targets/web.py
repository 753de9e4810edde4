"""A static site that runs a file in the browser, offline too: ``web/site``, the file, and onnxruntime-web.

onnxruntime-web (14 MB) is not part of this package: it is taken from a folder that npm installed.
"""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, NotFoundError
from lstm_edge_runtime.files import write_folder
from lstm_edge_runtime.manifest import Manifest
from lstm_edge_runtime.model import content_of

_PACKAGE = "onnxruntime-web"
_RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_CONTENTS = "site.js"
"""The contents of a site."""


@dataclass(frozen=True)
class PageSignal:
    """A signal that the page replays."""

    label: str
    """Its title; empty if unknown."""
    x: npt.NDArray[np.float32]
    """``(L, I)``, in the file's units."""


@dataclass(frozen=True)
class Site:
    """The files of a site by their path in it."""

    files: dict[str, bytes]

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the site as ``folder``, whole or not at all; one that was made there before is replaced.

        Raises:
            NotFoundError: the folder above it is not there.
            InputError: it contains something else, or can't be written.
        """
        return write_folder(folder, self.files)


def find_runtime(start: Path) -> Path:
    """Return the folder of onnxruntime-web in ``start`` or above it, as Node looks for packages.

    Raises:
        NotFoundError: it is not installed there.
    """
    start = start.absolute()
    for folder in (start, *start.parents):
        if (found := folder / "node_modules" / _PACKAGE / "dist").is_dir():
            return found
    raise NotFoundError(
        f"{_PACKAGE} is not in {start} or above; run npm install {_PACKAGE}, or name its folder with --ort"
    )


def to_site(model: str | os.PathLike[str], runtime: Path, recordings: Sequence[PageSignal]) -> Site:
    """Make the site of a file.

    Args:
        model: an ``.onnx`` file with a manifest; its golden case, if any, is replayed.
        runtime: the folder of onnxruntime-web, or its ``dist``.
        recordings: replayed by the page, in addition to the golden case.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or is no usable model.
        ManifestError: it has no manifest.
        InputError: ``runtime`` is no onnxruntime-web.
        CheckFailedError: the golden case fails.
    """
    with load(model) as opened:
        manifest = opened.manifest
        if manifest.golden is not None:
            opened.selftest().require()
        content = content_of(opened, model)
    path = Path(model)
    name = "model.onnx"
    files = {name: content, **_page(), **_runtime(runtime)}
    version = hashlib.sha256(b"".join(name.encode() + part for name, part in sorted(files.items())))
    described = {
        "model": name,
        "name": path.name,
        "recordings": [_recorded(one, manifest) for one in recordings],
        "files": ["./", _CONTENTS, *sorted(name for name in files if name != "sw.js")],
    }
    version.update(json.dumps(described).encode())
    text = json.dumps({**described, "version": version.hexdigest()[:16]})
    return Site({**files, _CONTENTS: f"self.SITE = {text};\n".encode()})


def _recorded(one: PageSignal, manifest: Manifest) -> dict[str, Any]:
    """Return a recording as the page reads it."""
    return {
        "label": one.label,
        "features": list(manifest.signal.features) or [""] * one.x.shape[1],
        "x": base64.b64encode(one.x.astype("<f4").tobytes()).decode(),
    }


def _page() -> dict[str, bytes]:
    """Return the page's own files: inside the wheel, or in the repository."""
    packed = Path(__file__).with_name("site")
    folder = packed if packed.is_dir() else Path(__file__).parents[3] / "web" / "site"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def _runtime(folder: Path) -> dict[str, bytes]:
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in _RUNTIME):
            return {f"ort/{name}": (place / name).read_bytes() for name in _RUNTIME}
    raise InputError(f"{folder} has no {_RUNTIME[0]} and {_RUNTIME[1]}; name the folder of {_PACKAGE}")
