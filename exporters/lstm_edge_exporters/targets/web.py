"""A static site that runs a program in the browser, also offline."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import MissingDependencyError
from lstm_edge_runtime.files import read_content

from .native import to_native

_CONTENTS = "site.js"
"""The contents of a site."""
_LIBRARY = "lstm-edge/lstm_edge.wasm"
_MODEL = "model.lep"


def to_site(
    model: str | os.PathLike[str],
    recordings: Sequence[tuple[str, npt.NDArray[np.float32]]],
) -> dict[str, bytes]:
    """Return the files of a file's site by their path in it, for ``write_folder``.

    Args:
        model: an ``.onnx`` file or a native program with a manifest.
        recordings: replayed by the page: each with its title and ``x (L, I)`` in the
            file's units.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or is no
            usable model.
        UnsupportedError: a node that native programs lack; the message says which.
        MissingDependencyError: the library was not built.
        CheckFailedError: the golden case fails.
    """
    path = Path(model)
    is_program = path.suffix == ".lep"
    program = read_content(path)[1] if is_program else to_native(path)
    with load(program) as opened:
        signal = opened.manifest.signal
        if is_program:
            opened.selftest().require()
    files = {_MODEL: program, **_page()}
    version = hashlib.sha256(
        b"".join(name.encode() + content for name, content in sorted(files.items()))
    )
    described = {
        "model": _MODEL,
        "name": path.name,
        "recordings": [
            _recorded(*recording, signal.features) for recording in recordings
        ],
        "files": ["./", _CONTENTS, *sorted(name for name in files if name != "sw.js")],
    }
    version.update(json.dumps(described).encode())
    text = json.dumps({**described, "version": version.hexdigest()[:16]})
    return {**files, _CONTENTS: f"self.SITE = {text};\n".encode()}


def _recorded(
    label: str, x: npt.NDArray[np.float32], features: Sequence[str]
) -> dict[str, Any]:
    """Return a recording as the page reads it."""
    names = list(features) or [f"x{index}" for index in range(x.shape[1])]
    return {
        "label": label,
        "features": names,
        "x": base64.b64encode(x.astype("<f4").tobytes()).decode(),
    }


def _page() -> dict[str, bytes]:
    """Return the page's own files: inside the wheel, or in the repository."""
    packed = Path(__file__).with_name("site")
    folder = packed if packed.is_dir() else Path(__file__).parents[3] / "web" / "site"
    if not (folder / _LIBRARY).is_file():
        raise MissingDependencyError(
            "the library for browsers is not built here; run make wasm in the clone"
        )
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
