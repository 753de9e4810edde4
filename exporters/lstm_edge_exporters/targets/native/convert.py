"""Make a program file (``.lep``) of an ``.onnx`` file, and verify it before it is given away."""

import os
from collections.abc import Mapping

import numpy as np

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.axes import shape_of
from lstm_edge_runtime.chunks import join_chunks, run_chunks
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError
from lstm_edge_runtime.manifest import Array, Golden, Manifest, TensorSpec
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.native.engine import NativeEngine
from lstm_edge_runtime.selftest import golden_limits
from lstm_edge_runtime.tolerance import compare

from ...onnx_reader import OnnxFile, read_model
from .compiler import Compiled, compile_program

_SHARE, _INT8_SHARE = 1e-3, 0.25
"""Largest difference of a random case from onnxruntime, as a fraction of an output's largest value: a random
case shows that every node means the same, the golden case how it rounds."""
_GROWTH = 10
"""Times the effect of a change in the last bits of the inputs that a result may be away from another one."""
_CASES, _INT8_CASES = ((1, 1), (2, 3), (3, 12)), ((1, 1), (1, 12))
"""Rows and units of the random cases; onnxruntime quantizes the rows of an int8 file together."""
_CUTS = (1, 1, 4, 6)
"""Units of the chunks of the longest one."""


def to_native(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the program file of an ``.onnx`` file, after it was verified.

    It contains the manifest with the file's identity. On the C library it replays the golden cases, and gives
    what onnxruntime gives for random sequences, chunks and restored states.

    Raises:
        NotFoundError, FileFormatError, ManifestError, ContractError: the file is not there, or is no usable
            model.
        UnsupportedError: the file can't be streamed, or a node is not covered; the message says which.
        MissingDependencyError: no ``lstm-edge-native``, or no onnxruntime.
        CheckFailedError: a result is beyond its limit.
    """
    content, file = read_model(source)
    model = load(content)
    program = _write(model, file)
    try:
        native = load(program)
    except FileFormatError as error:  # sizes in the graph that do not fit one another
        raise UnsupportedError(f"a part that is not covered ({error})") from error
    _verify(model, native, program, file)
    return program


def uncovered(source: str | os.PathLike[str] | bytes, manifest: Manifest) -> str:
    """Return why a file can't be converted, empty if it can; the C library need not be installed.

    Args:
        source: the ``.onnx`` file.
        manifest: the file's.
    """
    try:
        compile_file(read_model(source)[1], manifest)
    except UnsupportedError as error:
        return str(error)
    return ""


def compile_file(file: OnnxFile, manifest: Manifest) -> Compiled:
    """Return the program of a file.

    Raises:
        UnsupportedError: the file can't be streamed, or a node is not covered; the message says which.
    """
    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it has no states")
    return compile_program(file, manifest)


def _write(model: Model, file: OnnxFile) -> bytes:
    """Compile a file, with its manifest and the first row of its golden case."""
    manifest = model.manifest
    compiled = compile_file(file, manifest)
    if (golden := manifest.golden) is not None:
        model.selftest().require()
        feeds = _first_row(manifest, golden)
        outputs, near = (manifest.all_outputs(*model.run(each)) for each in (feeds, _shaken(feeds)))
        slack = {
            name: np.asarray(_GROWTH * np.abs(near[name] - array) if array.dtype.kind == "f" else 0 * array)
            for name, array in outputs.items()
        }
        _record(compiled, manifest, golden, feeds, outputs, slack)
    compiled.writer.manifest(manifest._replace(identity=model.identity).to_json())
    return compiled.writer.to_bytes()


def _verify(model: Model, native: Model, program: bytes, file: OnnxFile) -> None:
    """Raise ``CheckFailedError`` if a program does not compute what its file does."""
    manifest = model.manifest
    if manifest.golden is not None:
        native.selftest().require()
        if (worst := NativeEngine(program, 1).selftest()) > 1:
            raise CheckFailedError(f"the program's own golden case is at {worst:.3g} of its limit")
    int8 = manifest.int8_activations or any("Quantize" in node.op_type for node in file.every_node())
    run, run_native = runner(model), runner(native)
    cases = _INT8_CASES if int8 else _CASES
    for rows, units in cases if manifest.sequence else cases[:1]:
        feeds = _draw(manifest, rows, units * manifest.unit)
        what = f"{rows} rows of {units * manifest.unit} steps"
        try:
            expected, near = run(feeds), run(_shaken(feeds))
        except Exception as error:
            raise UnsupportedError(f"onnxruntime rejects a random case ({error})") from error
        limits = {
            name: (_INT8_SHARE if int8 else _SHARE) * float(np.abs(array).max(initial=1e-3))
            + _GROWTH * float(np.abs(near[name] - array).max(initial=0))
            for name, array in expected.items()
            if array.dtype.kind == "f" and np.isfinite(array).all()
        }
        _compare(expected, run_native(feeds), limits, f"{what}, whole")
        if units == sum(_CUTS) and manifest.streamable:
            sizes = [size * manifest.unit for size in _CUTS]
            chunks = (run_chunks(each, manifest, feeds, sizes) for each in (run, run_native))
            want, have = (join_chunks(manifest, [*each]) for each in chunks)
            _compare(want, have, limits, f"{what}, in chunks")


def _shaken(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs that differ in their last bit, which shows how much rounding may grow."""
    return {
        name: np.nextafter(array, array.dtype.type(np.inf)) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


def _compare(
    want: Mapping[str, Array], have: Mapping[str, Array], limits: Mapping[str, float], what: str
) -> None:
    for name, limit in limits.items():
        if name not in want:  # frames of chunks that are not steps
            continue
        record = compare(name, have[name], want[name], floor=0.0, limit=limit)
        if not record.ok:
            raise CheckFailedError(f"the native program differs from onnxruntime in {what}: {record}")


def _draw(manifest: Manifest, rows: int, steps: int) -> dict[str, Array]:
    """Return inputs and states between -1 and 1, whole numbers 0, of full rows."""
    rng, sizes = np.random.default_rng(0), {manifest.batch or "": rows, manifest.sequence or "": steps}
    feeds = {}
    specs = [*manifest.inputs, *(TensorSpec(s.input, s.dtype, s.axes) for s in manifest.states)]
    for spec in specs:
        shape = shape_of(spec.axes, sizes)
        numbers = rng.uniform(-1, 1, shape) if np.dtype(spec.dtype).kind == "f" else np.zeros(shape)
        feeds[spec.name] = numbers.astype(spec.dtype)
    if manifest.lengths is not None:
        feeds[manifest.lengths][...] = steps
    return feeds


def _first_row(manifest: Manifest, golden: Golden) -> dict[str, Array]:
    """Return the inputs of the golden case's first row, up to its length."""
    length = None if manifest.lengths is None else int(golden.inputs[manifest.lengths].reshape(-1)[0])
    feeds = {}
    for spec in manifest.data_inputs:
        array = golden.inputs[spec.name]
        for axis, end in ((manifest.batch_axis(spec.axes), 1), (manifest.time_axis(spec.axes), length)):
            array = array if axis is None else array[(slice(None),) * axis + (slice(end),)]
        feeds[spec.name] = array
    return feeds


def _record(
    compiled: Compiled,
    manifest: Manifest,
    golden: Golden,
    feeds: Mapping[str, Array],
    outputs: Mapping[str, Array],
    slack: Mapping[str, Array],
) -> None:
    """Store a case of one row from the reset state, with what it gives and the limits of a golden case.

    The limits are at least ``slack``.
    """
    expected: dict[str, tuple[Array, Array]] = {}
    for spec in manifest.outputs:
        array, limits = _with_limits(outputs[spec.name], golden, spec.name, slack)
        if (axis := manifest.time_axis(spec.axes)) is not None:
            delay = manifest.delays.get(spec.name, 0)
            array, limits = (np.moveaxis(each, axis, 0)[delay:] for each in (array, limits))
        expected[spec.name] = (array, limits)
    for part in compiled.parts:
        if part.state.output not in outputs or part.state.dtype != "float32":
            continue
        if part.past is not None and manifest.is_buffered:  # its ring turns by several frames per unit
            continue
        array, limits = _with_limits(outputs[part.state.output], golden, part.state.output, slack)
        name = part.state.input
        if part.layer is not None:
            array, limits, name = array[part.layer], limits[part.layer], f"{name}[{part.layer}]"
        if part.past is not None:
            steps = manifest.steps(feeds)
            limits = part.past.to_rows(limits[None], steps)
            limits[:, -1] = 0
            array = part.past.to_rows(array[None], steps)
        expected[name] = array.reshape(-1), limits.reshape(-1)
    time = manifest.time_axes
    in_order = {
        name: np.moveaxis(array, time[name], 0) if name in time else array for name, array in feeds.items()
    }
    compiled.writer.golden(in_order, expected)


def _with_limits(array: Array, golden: Golden, name: str, slack: Mapping[str, Array]) -> tuple[Array, Array]:
    return array, np.maximum(np.broadcast_to(golden_limits(golden, name), array.shape), slack.get(name, 0))
