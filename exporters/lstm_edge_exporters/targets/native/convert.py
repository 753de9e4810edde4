"""From an ONNX file to a program that was verified: the one function that callers
need.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    InputError,
    UnsupportedError,
)
from lstm_edge_runtime.files import read_content
from lstm_edge_runtime.manifest import Array, Axes, Manifest
from lstm_edge_runtime.model import open_content, runner
from lstm_edge_runtime.native import NativeEngine
from lstm_edge_runtime.selftest import golden_limits

from ...cast import widened
from ...chunks import Runner
from ...verify.cases import CaseGenerator, Feeds, Procedure, in_chunks, whole
from ...verify.compare import Pair, compare_all
from ...verify.float64 import Graph64
from .compiler import Compiled, compile_program
from .memory import INT8

_SHARE = 1e-3
_INT8_SHARE = 0.25
"""Largest difference from onnxruntime, as a share of an output, where there is no graph
in float64: a random case shows that every node means the same, the golden case how it
rounds."""
_GROWTH = 10
"""Times the effect of a change in the last bits of the inputs that a result may be away
from another one."""
_CASES = ((1, 1), (2, 3), (3, 12))
_INT8_CASES = ((1, 1), (1, 12))
"""Rows and units of the random cases; onnxruntime quantizes the rows of an int8 file
together."""
_CUTS = (1, 1, 4, 6)
"""Units of the chunks of the longest one."""


def to_native(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the program file of an ``.onnx`` file, after it was verified.

    It contains the manifest with the file's identity. On the C library it replays the
    golden cases, and gives what the graph in float64 gives for random sequences, chunks
    and single steps, each from the states of the one before. A graph that can't be
    evaluated in float64, as one in int8, is compared with onnxruntime.

    Raises:
        NotFoundError, FileFormatError, ManifestError, ContractError: the file is not
            there, or is no usable model.
        UnsupportedError: the file can't be streamed, or a node is not covered; the
            message says which.
        MissingDependencyError: no ``lstm-edge-native``, or no onnxruntime.
        CheckFailedError: a result is beyond its limit.
    """
    model, proto = read(source)
    compiled = compile_file(proto, model.manifest)
    if model.manifest.golden is not None:
        record(model, compiled)
    program, native = open_program(model, compiled)
    _verify(model, native, program, proto)
    return program


def read(source: str | os.PathLike[str] | bytes) -> tuple[Model, onnx.ModelProto]:
    """Return a file as a model and as a graph with its weights; raises as ``load``, and
    for a program.
    """
    name, content = read_content(source)
    model = open_content(name, content)
    if model.engine == "native":
        raise InputError(
            "this is a program; convert the .onnx file that it was made from"
        )
    return model, onnx.load_from_string(content)


def compile_file(proto: onnx.ModelProto, manifest: Manifest) -> Compiled:
    """Return the program of a file; raises ``UnsupportedError`` as ``to_native``."""
    if not manifest.streamable:
        raise UnsupportedError(manifest.unstreamable or "it has no states")
    return compile_program(ir.from_proto(proto), manifest)


def open_program(model: Model, compiled: Compiled) -> tuple[bytes, Model]:
    """Return a program with its manifest, and the same loaded; raises
    ``UnsupportedError``.
    """
    compiled.writer.manifest(model.manifest._replace(identity=model.identity).to_json())
    program = compiled.writer.to_bytes()
    try:
        return program, load(program)
    except FileFormatError as error:  # sizes in the graph that do not fit one another
        raise UnsupportedError(f"a part that is not covered ({error})") from error


def native_runner(model: Model, proto: onnx.ModelProto) -> Runner:
    """Return the native engine on a file, whose program is not verified as ``to_native``
    does.

    Raises:
        UnsupportedError: a part of it is not covered.
        MissingDependencyError: ``lstm-edge-native`` is not installed.
    """
    return runner(open_program(model, compile_file(proto, model.manifest))[1])


def record(model: Model, compiled: Compiled, steps: int | None = None) -> None:
    """Store what onnxruntime gives for the first row of the file's golden case in its
    program.

    Args:
        model: a file with a golden case.
        compiled: its program.
        steps: their number; a shorter row is repeated. The row's if None, or without a
            time axis.

    Raises:
        CheckFailedError: onnxruntime does not give what the golden case says.
    """
    manifest = model.manifest
    writer = compiled.writer
    golden = manifest.golden
    feeds = dict[str, Array]()
    rows = dict[str, Array]()
    assert golden is not None
    model.selftest().require()
    if steps is None or not manifest.time_axes:
        lengths = golden.inputs.get(manifest.lengths or "")
        steps = (
            manifest.steps(golden.inputs)
            if lengths is None
            else int(lengths.reshape(-1)[0])
        )
    calls = steps // manifest.unit
    for spec in manifest.data_inputs:
        array = golden.inputs[spec.name]
        batch = manifest.batch_axis(spec.axes)
        array = array if batch is None else array.take([0], batch)
        if (time := manifest.time_axis(spec.axes)) is not None:
            array = array.take(range(steps), time, mode="wrap")
        feeds[spec.name] = array
        in_order = (
            array.reshape(1, -1)
            if time is None
            else np.moveaxis(array, time, 0).reshape(calls, -1)
        )
        rows[spec.name] = np.broadcast_to(in_order, (calls, in_order.shape[1]))
    outputs, near = (
        manifest.all_outputs(*model.run(feed)) for feed in (feeds, _shaken(feeds))
    )

    def limited(
        name: str, axes: Axes
    ) -> list[Array]:  # what is expected and its limits, step by step
        array = outputs[name]
        limits = golden_limits(golden, name)
        time = manifest.time_axis(axes)
        rows = manifest.batch_axis(axes)
        if limits.ndim == len(axes):  # the least of any row and step
            limits = limits.min(
                tuple(axis for axis in (time, rows) if axis is not None), keepdims=True
            )
        both = array, np.maximum(limits, _GROWTH * np.abs(near[name] - array))
        return [
            array if time is None else np.moveaxis(array, time, 0) for array in both
        ]

    expected = {spec.name: limited(spec.name, spec.axes) for spec in manifest.outputs}
    for part in compiled.parts:  # the outputs show what a ring holds
        if part.past is None and part.state.dtype == "float32":
            both = limited(part.state.output, part.state.axes)
            expected[part.name] = (
                both if part.layer is None else [array[part.layer] for array in both]
            )
    writer.golden(rows, expected)


def _verify(
    model: Model, native: Model, program: bytes, proto: onnx.ModelProto
) -> None:
    """Raise ``CheckFailedError`` if a program does not compute what its file does."""
    manifest = model.manifest
    if manifest.golden is not None:
        native.selftest().require()
        if (worst := NativeEngine(program, 1).selftest()) > 1:
            raise CheckFailedError(
                f"the program's own golden case is at {worst:.3g} of its limit"
            )
    int8 = manifest.arithmetic in INT8
    exact = None if int8 else _exact(model, proto)
    cases = _INT8_CASES if int8 else _CASES
    for rows, units in cases if manifest.sequence else cases[:1]:
        feeds = _draw(manifest, rows, units)
        ways: dict[str, Procedure] = {"whole": whole}
        if units == sum(_CUTS):
            ways["in chunks"] = in_chunks(
                manifest, [size * manifest.unit for size in _CUTS]
            )
            ways["step by step"] = in_chunks(manifest, [manifest.unit] * units)
        for how, procedure in ways.items():
            want, limits = _expected(model, exact, feeds, procedure, int8=int8)
            got = procedure(runner(native), feeds)
            floats = {
                name: array
                for name, array in want.items()
                if name in got and name in limits
            }
            for record in compare_all(got, floats, limits):
                if not record.ok:
                    case = f"{rows} rows of {units * manifest.unit} steps, {how}"
                    raise CheckFailedError(
                        f"the native program differs from the graph in {case}: {record}"
                    )


def _exact(model: Model, proto: onnx.ModelProto) -> Pair | None:
    """Return the graph in float64; None where it can't be evaluated."""
    try:
        graph = Graph64(widened(proto))
        pair = Pair(model.manifest, graph, graph, runner(model))
        pair.exact(_draw(model.manifest, 1, 1))
    except (UnsupportedError, NotImplementedError, RuntimeError):
        return None
    return pair


def _expected(
    model: Model, exact: Pair | None, feeds: Feeds, procedure: Procedure, *, int8: bool
) -> tuple[Feeds, Mapping[str, Any]]:
    """Return what a case must give, and the largest difference allowed of each output
    of floats.
    """
    if exact is not None:
        return procedure(exact.exact, feeds), exact.limits(feeds, procedure)
    run = runner(model)
    expected = procedure(run, feeds)
    near = procedure(run, _shaken(feeds))
    share = _INT8_SHARE if int8 else _SHARE
    return expected, {
        name: (
            share * float(np.abs(array).max(initial=1e-3))
            + _GROWTH * float(np.abs(near[name] - array).max(initial=0))
        )
        for name, array in expected.items()
        if array.dtype.kind == "f" and np.isfinite(array).all()
    }


def _shaken(feeds: Feeds) -> dict[str, Array]:
    """Return inputs that differ in their last bit, which shows how much rounding may
    grow.
    """
    return {
        name: (
            np.nextafter(array, array.dtype.type(np.inf))
            if array.dtype.kind == "f"
            else array
        )
        for name, array in feeds.items()
    }


def _draw(manifest: Manifest, rows: int, units: int) -> Feeds:
    """Return random inputs and states, of full rows."""
    feeds = (
        CaseGenerator.of(manifest)
        .case(rows, units * manifest.unit, at_reset=False, full=True)
        .feeds
    )
    if manifest.lengths is not None:
        feeds[manifest.lengths][...] = units * manifest.unit
    return feeds
