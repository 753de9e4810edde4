"""Choose the engine of a model's streams."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..axes import shape_of
from ..chunks import Runner
from ..errors import CheckFailedError, FileFormatError, UnsupportedError, first_line
from ..manifest import Golden, Manifest, TensorSpec
from ..onnx_reader import OnnxFile
from ..ort import run_by_name
from ..selftest import SelfTest, check_golden_case, compare_golden, replay_golden
from ..tolerance import Comparison
from .library import installed

if TYPE_CHECKING:
    from .engine import NativeEngine


def compile_engine(file: OnnxFile, manifest: Manifest, threads: int, session: Any = None) -> "NativeEngine":
    """Return the native engine of a file, after it has replayed the file's golden cases.

    Without golden cases, a random case is used: onnxruntime must give the same up to rounding.

    Args:
        file: the graph; None for a file in onnxruntime's own format.
        manifest: the file's manifest, or what was inferred from its graph.
        threads: for batches.
        session: onnxruntime's of the same file, which must replay the golden cases too; None leaves it out.

    Raises:
        UnsupportedError: the file can't be streamed, or a part of it is not covered.
        MissingDependencyError: ``lstm-edge-native`` is not installed.
        CheckFailedError: an output of a golden case is beyond its limit.
        ManifestError: a golden case leaves something out.
    """
    from .engine import NativeEngine

    program = _program(file, manifest)
    try:
        native = NativeEngine(program, manifest, threads)
    except FileFormatError as error:  # sizes in the graph that do not fit one another
        raise UnsupportedError(f"a part that is not covered ({error})") from error
    manifest = native.manifest
    runs: dict[str, Runner] = {"the native engine": lambda feeds: manifest.all_outputs(*native.call(feeds))}
    if session is not None:
        runs["onnxruntime"] = lambda feeds: run_by_name(session, feeds, manifest.output_names)
    golden, what = manifest.golden, "the golden case"
    if golden is None and session is not None:
        golden, what = _draw(file, manifest, runs.pop("onnxruntime")), "a random case"
    for case in () if golden is None else (golden, *golden.more):
        check_golden_case(manifest, case)
        for name, run in runs.items():
            try:
                outputs = run(case.inputs)
            except Exception as error:
                raise CheckFailedError(f"{what} does not run on {name}: {first_line(error)}") from error
            _check(what, name, compare_golden(case, outputs))
    return native


def _check(what: str, engine: str, records: Sequence[Comparison]) -> None:
    worst = max(records, key=lambda record: record.ratio, default=None)
    if worst is not None and not worst.ok:
        raise CheckFailedError(f"{what} fails on {engine}: {worst}")


def _draw(file: OnnxFile, manifest: Manifest, run: Runner) -> Golden | None:
    """Return a case of two rows and three steps or units as onnxruntime runs it; None where that is not finite.

    It shows that a graph means what the compiler took it for (a mean over time, say), not how it rounds.
    """
    rng = np.random.default_rng(0)
    feeds = {}
    specs = [*manifest.inputs, *(TensorSpec(s.input, s.dtype, s.axes) for s in manifest.states)]
    for spec in specs:
        shape = shape_of(spec.axes, {manifest.batch or "": 2, manifest.sequence or "": 3 * manifest.unit})
        numbers = rng.uniform(-1, 1, shape) if np.dtype(spec.dtype).kind == "f" else np.zeros(shape)
        feeds[spec.name] = numbers.astype(spec.dtype)
    if manifest.lengths is not None:
        feeds[manifest.lengths][...] = 3
    try:
        outputs = run(feeds)
    except Exception as error:
        raise UnsupportedError(f"onnxruntime rejects a random case ({first_line(error)})") from error
    if not all(np.isfinite(array).all() for array in outputs.values() if array.dtype.kind == "f"):
        return None
    int8 = any("Quantize" in node.op_type for node in file.every_node())
    int8 = int8 or manifest.int8_activations
    share = 0.1 if int8 else 1e-3
    limit = {name: share * float(np.abs(array).max(initial=1e-3)) for name, array in outputs.items()}
    return Golden(feeds, outputs, floor={}, limit=limit)


def uncovered(file: OnnxFile, manifest: Manifest) -> str:
    """Return why the native engine does not run a file's streams, empty where it does.

    It need not be installed for that.
    """
    try:
        _program(file, manifest)
    except UnsupportedError as error:
        return str(error)
    return ""


def native_selftest(file: OnnxFile, manifest: Manifest) -> SelfTest | None:
    """Replay the golden cases on the native engine; None where it is not there or does not cover the file.

    Raises:
        InputError: the file carries no golden case.
    """
    if not installed():
        return None
    try:
        native = compile_engine(file, manifest._replace(golden=None), 1)
    except UnsupportedError:
        return None
    manifest = native.manifest._replace(golden=manifest.golden)
    return SelfTest(tuple(replay_golden(manifest, lambda feeds: manifest.all_outputs(*native.call(feeds)))))


def _program(file: OnnxFile, manifest: Manifest) -> bytes:
    from .compiler import compile_program

    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it has no states")
    return compile_program(file, manifest).writer.to_bytes()
