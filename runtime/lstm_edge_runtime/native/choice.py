"""Choose the engine that takes the steps of a model's streams."""

from typing import TYPE_CHECKING

from ..errors import CheckFailedError, UnsupportedError
from ..manifest import Manifest
from ..onnx_reader import OnnxFile
from ..selftest import check_golden, compare_golden, golden_misfit

if TYPE_CHECKING:
    from .engine import NativeEngine

__all__ = ["compile_engine", "uncovered"]


def compile_engine(file: OnnxFile | None, manifest: Manifest, threads: int) -> "NativeEngine":
    """Return the native engine of a file, after it has replayed the file's golden case.

    Args:
        file: the graph; None for a file in onnxruntime's own format.
        manifest: the file's manifest, or what was inferred from its graph.
        threads: for batches.

    Raises:
        UnsupportedError: the file can't be streamed, or a part of it is not covered.
        MissingDependencyError: ``lstm-edge-native`` is not installed.
        CheckFailedError: an output of the golden case is beyond its limit.
        ManifestError: the golden case leaves something out.
    """
    from .engine import NativeEngine

    engine = NativeEngine(_program(file, manifest), manifest, threads)
    if manifest.golden is not None:
        check_golden(manifest, manifest.golden)
        if misfit := golden_misfit(manifest, manifest.golden):
            raise CheckFailedError(f"the golden case does not run: {misfit}")
        records = compare_golden(manifest.golden, manifest.all_outputs(*engine.call(manifest.golden.inputs)))
        worst = max(records, key=lambda record: record.ratio, default=None)
        if worst is not None and not worst.ok:
            raise CheckFailedError(f"the golden case fails on the native engine: {worst}")
    return engine


def uncovered(file: OnnxFile | None, manifest: Manifest) -> str:
    """Return why the native engine does not run a file's streams, empty where it does.

    It need not be installed for that.
    """
    try:
        _program(file, manifest)
    except UnsupportedError as error:
        return str(error)
    return ""


def _program(file: OnnxFile | None, manifest: Manifest) -> bytes:
    from .compiler import compile_program

    if file is None:
        raise UnsupportedError("a file in onnxruntime's own format")
    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it carries no states")
    return compile_program(file, manifest).writer.to_bytes()
