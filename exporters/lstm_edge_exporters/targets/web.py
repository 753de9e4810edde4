"""A static site that runs a file in the browser, offline too: ``web/site``, the file, and onnxruntime-web.

onnxruntime-web (14 MB) is not part of this package: it is taken from a folder that npm installed.
"""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError, ManifestError, NotFoundError

__all__ = ["Recording", "Site", "check_folder", "find_runtime", "to_site"]

_PACKAGE = "onnxruntime-web"
_RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
_MARK = "site.js"
"""Says what is in a site; a folder that has it was made here and may be replaced."""


@dataclass(frozen=True)
class Recording:
    """A signal that the page replays."""

    label: str
    """What it is of; empty where unknown."""
    x: npt.NDArray[np.float32]
    """``(L, I)``, in the file's units."""


@dataclass(frozen=True)
class Site:
    """The files of a site by their path in it."""

    files: dict[str, bytes]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the site as ``folder``, whole or not at all; a site that was made there before is replaced.

        Raises:
            NotFoundError: the folder above it is not there.
            InputError: something else is there, or it can't be written.
        """
        folder = Path(folder).absolute()
        check_folder(folder)
        temporary, old = (folder.with_name(f".{folder.name}.{os.urandom(4).hex()}.tmp") for _ in range(2))
        try:
            for name, content in self.files.items():
                (temporary / name).parent.mkdir(parents=True, exist_ok=True)
                (temporary / name).write_bytes(content)
            if folder.exists():
                folder.rename(old)
            try:
                temporary.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
        except OSError as error:
            raise InputError(f"{folder} can't be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Refuse early what ``Site.save`` would refuse.

    Raises:
        NotFoundError: the folder above it is not there.
        InputError: it is a file, or a folder with something other than a site in it.
    """
    if not folder.absolute().parent.is_dir():
        raise NotFoundError(f"{folder}: its folder {folder.parent} does not exist; make it first")
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder} is no folder; name a folder for the site")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).is_file():
        raise InputError(f"{folder} holds other files; name a new folder, or one with an earlier site in it")


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


def to_site(model: str | os.PathLike[str], runtime: Path, recordings: Sequence[Recording]) -> Site:
    """Make the site of a file.

    Args:
        model: an ``.onnx`` or ``.ort`` file with a manifest; its golden case, where it has one, is replayed.
        runtime: the folder of onnxruntime-web, or its ``dist``.
        recordings: what the page replays; it replays the golden case too.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or is no usable model.
        ManifestError: it has no manifest.
        InputError: ``runtime`` is no onnxruntime-web.
        CheckFailedError: the golden case fails.
    """
    with load(model, device="cpu", threads=1) as opened:
        manifest = opened.manifest
        if manifest is None:
            raise ManifestError(
                f"{model} carries no manifest, which the page reads; lift it first: lstm-edge lift"
            )
        if manifest.golden is not None:
            opened.selftest().require()
    path = Path(model)
    content = path.read_bytes()
    name = "model.ort" if content[4:8] == b"ORTM" else "model.onnx"
    files = {name: content, **_page(), **_runtime(runtime)}
    version = hashlib.sha256(
        b"".join(part for item in sorted(files.items()) for part in (item[0].encode(), item[1]))
    )
    described = {
        "model": name,
        "name": path.name,
        "recordings": [
            {
                "label": one.label,
                "features": list(manifest.signal.features) or [""] * one.x.shape[1],
                "x": base64.b64encode(one.x.astype("<f4").tobytes()).decode(),
            }
            for one in recordings
        ],
        "files": ["./", _MARK, *sorted(name for name in files if name != "sw.js")],
    }
    version.update(json.dumps(described).encode())
    text = json.dumps({**described, "version": version.hexdigest()[:16]})
    return Site({**files, _MARK: f"self.SITE = {text};\n".encode()})


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
