"""Choose the engine that takes the steps of a model's streams."""

from typing import TYPE_CHECKING, Literal

from ..errors import CheckFailedError, UnsupportedError
from ..manifest import Manifest
from ..onnx_reader import OnnxFile
from ..selftest import compare_golden

if TYPE_CHECKING:
    from .engine import NativeEngine

__all__ = ["Engine", "compile_engine"]

Engine = Literal["auto", "onnxruntime", "native"]


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
    """
    from .compiler import compile_program
    from .engine import NativeEngine

    if file is None:
        raise UnsupportedError("a file in onnxruntime's own format")
    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it carries no states")
    engine = NativeEngine(compile_program(file, manifest).writer.to_bytes(), manifest, threads)
    if manifest.golden is not None:
        records = compare_golden(manifest.golden, manifest.all_outputs(*engine.call(manifest.golden.inputs)))
        worst = max(records, key=lambda record: record.ratio, default=None)
        if worst is not None and not worst.ok:
            raise CheckFailedError(f"the golden case fails on the native engine: {worst}")
    return engine
