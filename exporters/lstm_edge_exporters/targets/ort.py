"""The ORT format: a file that a minimal build of onnxruntime reads, and the list of operators it needs.

onnxruntime's own tool makes both. It runs in a separate process, because it imports much, prints, and sets
up logging for the whole process that imports it. It optimizes the graph while it converts, folding constants:
weights that are stored small and computed in float (fp16, and int8 of GRU and RNN) come out in float32.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, InputError
from lstm_edge_runtime.files import replacing, write_bytes
from lstm_edge_runtime.manifest import KEY
from lstm_edge_runtime.model import read_model
from lstm_edge_runtime.onnx_reader import add_metadata

from ..processes import run_program

_TOOL = "onnxruntime.tools.convert_onnx_models_to_ort"
_CONFIG = "required_operators_and_types.config"


@dataclass(frozen=True)
class OrtFile:
    """A file in ORT format and the configuration of a reduced build for it."""

    model: bytes
    """The file; the manifest is in its metadata, as in the ``.onnx``, with the identity of that."""
    operators: str
    """The text of the configuration for onnxruntime's ``--include_ops_by_config``."""
    bytes_before: int
    """Size of the ``.onnx``."""

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, and the configuration of operators next to it; return the path of the latter.

        Raises:
            NotFoundError: the folder is not there.
            InputError: a path can't be written.
        """
        config = Path(path).with_suffix(f".{_CONFIG}")
        with replacing(path) as temporary:
            temporary.write_bytes(self.model)
            write_bytes(config, self.operators.encode())
        return config


def to_ort(source: str | os.PathLike[str] | bytes) -> OrtFile:
    """Convert an ``.onnx`` file to ORT format and check that it computes the same.

    Args:
        source: any ``.onnx`` file that the runtime loads, or its bytes; its golden case, if it has one,
            is the check.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or is no usable model.
        InputError: the file is in ORT format already, or the temporary folder can't be written.
        CheckFailedError: the result does not load, lost the manifest, or computes something else.
    """
    given, file = read_model(source)
    if file is None:
        raise InputError("the file is in ORT format already; give the .onnx file")
    before = load(source if file.external_paths() else given)
    before.manifest.require_no_delay("a file in ORT format")
    manifest = before.manifest and before.manifest._replace(identity=before.identity).to_json()
    content, operators = _convert(
        given if manifest is None else add_metadata(given, KEY, manifest),
        {
            tensor.external.location: tensor.external.path()
            for tensor in file.every_tensor()
            if tensor.external is not None
        },
    )
    try:
        after = load(content)
    except FileFormatError as error:
        raise CheckFailedError(f"the converted file does not load: {error}; keep the .onnx file") from error
    if (after.manifest and after.manifest.to_json()) != manifest:
        raise CheckFailedError("the converted file lost its manifest; keep the .onnx file")
    if before.manifest is not None and before.manifest.golden is not None:
        after.selftest().require()
    return OrtFile(content, operators, len(given))


def _convert(content: bytes, external: Mapping[str, str]) -> tuple[bytes, str]:
    """Convert a file's content with the tool.

    Args:
        content: the ``.onnx`` file's.
        external: the path of each file with its external data, by the path that it names.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as beside:
            path = Path(beside) / "model.onnx"
            path.write_bytes(content)
            for location, source in external.items():
                target = Path(beside) / location
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            command = [sys.executable, "-m", _TOOL, str(path), "--output_dir", folder]
            ran = run_program(
                [*command, "--optimization_style", "Fixed", "--enable_type_reduction"],
                folder=Path(folder),  # python -m imports from there first: it may have a random.py
                environment={**os.environ, "ORT_DISABLE_TELEMETRY": "1"},
            )
            files = {made.suffix: made for made in Path(folder).iterdir()}
            if ran.returncode != 0 or ".ort" not in files or ".config" not in files:
                words = (ran.stderr.strip() or ran.stdout.strip() or b"no message").decode(errors="replace")
                raise FileFormatError(
                    f"the file can't be converted: {words.splitlines()[-1]}; export it again"
                )
            text = files[".config"].read_text(encoding="utf-8")
            kept = [line for line in text.splitlines() if line and not line.startswith("#")]
            return files[".ort"].read_bytes(), "\n".join(kept) + "\n"
    except OSError as error:
        raise InputError(f"the temporary folder can't be written: {error.strerror or error}") from error
