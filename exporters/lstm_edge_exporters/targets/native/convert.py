"""From an ONNX file to a program that was verified: the one function that callers need."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.axes import shape_of
from lstm_edge_runtime.errors import CheckFailedError, FileFormatError, UnsupportedError
from lstm_edge_runtime.files import read_content
from lstm_edge_runtime.manifest import Array, Golden, Manifest, TensorSpec
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.native import NativeEngine
from lstm_edge_runtime.selftest import golden_limits

from ...export.cast import widened
from ...verify.cases import Procedure, in_chunks, whole
from ...verify.compare import Pair, compare_all
from ...verify.float64 import Graph64
from .compiler import Compiled, compile_program

_SHARE, _INT8_SHARE = 1e-3, 0.25
"""Largest difference from onnxruntime, as a fraction of an output's largest value, where there is no graph in
float64: a random case shows that every node means the same, the golden case how it rounds."""
_GROWTH = 10
"""Times the effect of a change in the last bits of the inputs that a result may be away from another one."""
_CASES, _INT8_CASES = ((1, 1), (2, 3), (3, 12)), ((1, 1), (1, 12))
"""Rows and units of the random cases; onnxruntime quantizes the rows of an int8 file together."""
_CUTS = (1, 1, 4, 6)
"""Units of the chunks of the longest one."""


def to_native(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the program file of an ``.onnx`` file, after it was verified.

    It contains the manifest with the file's identity. On the C library it replays the golden cases, and gives
    what the graph in float64 gives for random sequences, chunks and single steps, each from the states of the
    one before. A graph that can't be evaluated in float64, as one in int8, is compared with onnxruntime.

    Raises:
        NotFoundError, FileFormatError, ManifestError, ContractError: the file is not there, or is no usable
            model.
        UnsupportedError: the file can't be streamed, or a node is not covered; the message says which.
        MissingDependencyError: no ``lstm-edge-native``, or no onnxruntime.
        CheckFailedError: a result is beyond its limit.
    """
    model, proto = read(source)
    program = _write(model, compile_file(proto, model.manifest))
    try:
        native = load(program)
    except FileFormatError as error:  # sizes in the graph that do not fit one another
        raise UnsupportedError(f"a part that is not covered ({error})") from error
    _verify(model, native, program, proto)
    return program


def read(source: str | os.PathLike[str] | bytes) -> tuple[Model, onnx.ModelProto]:
    """Return a file as a model and as a graph with its weights; raises as ``load``."""
    content = read_content(source)[1]
    return load(content), onnx.load_from_string(content)


def compile_file(proto: onnx.ModelProto, manifest: Manifest) -> Compiled:
    """Return the program of a file; raises ``UnsupportedError`` as ``to_native``."""
    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it has no states")
    return compile_program(ir.from_proto(proto), manifest)


def uncovered(source: str | os.PathLike[str] | bytes, manifest: Manifest) -> str:
    """Return why a file can't be converted, empty if it can; the C library need not be installed.

    Args:
        source: the ``.onnx`` file.
        manifest: the file's.
    """
    try:
        compile_file(read(source)[1], manifest)
    except UnsupportedError as error:
        return str(error)
    return ""


def _verify(model: Model, native: Model, program: bytes, proto: onnx.ModelProto) -> None:
    """Raise ``CheckFailedError`` if a program does not compute what its file does."""
    manifest = model.manifest
    if manifest.golden is not None:
        native.selftest().require()
        if (worst := NativeEngine(program, 1).selftest()) > 1:
            raise CheckFailedError(f"the program's own golden case is at {worst:.3g} of its limit")
    int8 = manifest.int8_activations or any("Quantize" in node.op_type for node in proto.graph.node)
    exact = None if int8 else _exact(model, proto)
    cases = _INT8_CASES if int8 else _CASES
    for rows, units in cases if manifest.sequence else cases[:1]:
        feeds = _draw(manifest, rows, units * manifest.unit)
        ways: dict[str, Procedure] = {"whole": whole}
        if units == sum(_CUTS):
            ways["in chunks"] = in_chunks(manifest, [size * manifest.unit for size in _CUTS])
            ways["step by step"] = in_chunks(manifest, [manifest.unit] * units)
        for how, procedure in ways.items():
            want, limits = _expected(model, exact, feeds, procedure, int8=int8)
            got = procedure(runner(native), feeds)
            floats = {name: each for name, each in want.items() if name in got and name in limits}
            for record in compare_all(got, floats, limits):
                if not record.ok:
                    case = f"{rows} rows of {units * manifest.unit} steps, {how}"
                    raise CheckFailedError(f"the native program differs from the graph in {case}: {record}")


def _exact(model: Model, proto: onnx.ModelProto) -> Pair | None:
    """Return the graph in float64; None where it can't be evaluated."""
    try:
        graph = Graph64(widened(proto))
        pair = Pair(model.manifest, graph, graph, runner(model))
        pair.exact(_draw(model.manifest, 1, model.manifest.unit))
    except (UnsupportedError, NotImplementedError, RuntimeError):
        return None
    return pair


def _expected(
    model: Model, exact: Pair | None, feeds: Mapping[str, Array], procedure: Procedure, *, int8: bool
) -> tuple[Mapping[str, Array], Mapping[str, Any]]:
    """Return what a case must give, and the largest difference allowed of each output of floats."""
    if exact is not None:
        return procedure(exact.exact, feeds), exact.limits(feeds, procedure)
    run = runner(model)
    try:
        expected, near = procedure(run, feeds), procedure(run, _shaken(feeds))
    except Exception as error:
        raise UnsupportedError(f"onnxruntime rejects a random case ({error})") from error
    share = _INT8_SHARE if int8 else _SHARE
    return expected, {
        name: share * float(np.abs(array).max(initial=1e-3))
        + _GROWTH * float(np.abs(near[name] - array).max(initial=0))
        for name, array in expected.items()
        if array.dtype.kind == "f" and np.isfinite(array).all()
    }


def _shaken(feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Return inputs that differ in their last bit, which shows how much rounding may grow."""
    return {
        name: np.nextafter(array, array.dtype.type(np.inf)) if array.dtype.kind == "f" else array
        for name, array in feeds.items()
    }


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


# the golden case in the program


def _write(model: Model, compiled: Compiled) -> bytes:
    """Return a program with its manifest and the first row of its golden case."""
    manifest = model.manifest
    if manifest.golden is not None:
        model.selftest().require()
        feeds = _first_row(manifest, manifest.golden)
        outputs, near = (manifest.all_outputs(*model.run(each)) for each in (feeds, _shaken(feeds)))
        expected = {}
        for name, array in outputs.items():
            if array.dtype.kind == "f":
                slack = _GROWTH * np.abs(near[name] - array)
                expected[name] = array, np.maximum(golden_limits(manifest.golden, name), slack)
        _record(compiled, manifest, feeds, expected)
    compiled.writer.manifest(manifest._replace(identity=model.identity).to_json())
    return compiled.writer.to_bytes()


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
    feeds: Mapping[str, Array],
    outputs: Mapping[str, tuple[Array, Array]],
) -> None:
    """Store a case of one row from the reset state, with what it gives and the limits of each number."""
    expected: dict[str, tuple[Array, Array]] = {}
    for spec in manifest.outputs:
        arrays, time = outputs[spec.name], manifest.time_axis(spec.axes)
        if time is not None:
            delay = manifest.delays.get(spec.name, 0)
            array, limits = (np.moveaxis(np.broadcast_to(each, arrays[0].shape), time, 0) for each in arrays)
            arrays = array[delay:], limits[delay:]
        expected[spec.name] = arrays
    for part in compiled.parts:
        name = part.state.input
        if part.state.output not in outputs or part.past is not None:  # the outputs show what a ring holds
            continue
        array, limits = outputs[part.state.output]
        if part.layer is not None:
            array, limits = array[part.layer], np.broadcast_to(limits, array.shape)[part.layer]
            name = f"{name}[{part.layer}]"
        expected[name] = array.reshape(-1), np.broadcast_to(limits, array.shape).reshape(-1)
    axes = manifest.time_axes
    in_order = {
        name: np.moveaxis(array, axes[name], 0) if name in axes else array for name, array in feeds.items()
    }
    compiled.writer.golden(in_order, expected)
