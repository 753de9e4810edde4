"""From an ONNX file to a program that was verified: the one function that callers
need.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from lstm_edge_runtime import Model, load
from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import (
    CheckFailedError,
    FileFormatError,
    UnsupportedError,
    first_line,
)
from lstm_edge_runtime.files import read_content, refuse_program
from lstm_edge_runtime.manifest import Array, Golden, Manifest, TensorSpec
from lstm_edge_runtime.model import open_content, runner
from lstm_edge_runtime.native import NativeEngine
from lstm_edge_runtime.selftest import golden_limits

from ...cast import widened
from ...verify.cases import (
    CaseGenerator,
    Feeds,
    Procedure,
    case_size,
    in_chunks,
    whole,
)
from ...verify.compare import Pair, compare_all
from ...verify.float64 import Graph64
from .compiler import Compiled, compile_program
from .memory import INT8

_INT8_SHARE = 0.25
"""Largest difference of an int8 file from onnxruntime, as a fraction of an output: a
random case shows that every node means the same, the golden case how it rounds."""
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
    and single steps, each from the states of the one before. A graph in int8 is
    compared with onnxruntime.

    Raises:
        NotFoundError, FileFormatError, ManifestError, ContractError: the file is not
            there, or is not a usable model.
        UnsupportedError: the file can't be streamed, or a node is not covered; the
            message says which.
        MissingDependencyError: no ``lstm-edge-native``, or no onnxruntime.
        CheckFailedError: a result is beyond its limit.
    """
    model, proto = read(source)
    compiled = compile_file(proto, model.manifest)
    return verified_program(model, proto, compiled)


def verified_program(model: Model, proto: onnx.ModelProto, compiled: Compiled) -> bytes:
    """Return the program file of a compiled file, verified as by ``to_native``."""
    if model.manifest.golden is not None:
        record(model, compiled)
    program, native = open_program(model, compiled)
    if model.manifest.golden is not None:
        worst = NativeEngine(program, 1).selftest()
        if worst > 1:
            raise CheckFailedError(
                f"the program's own golden case is at {worst:.3g} of its limit"
            )
    verify(model, proto, native, "the native program")
    return program


def read(source: str | os.PathLike[str] | bytes) -> tuple[Model, onnx.ModelProto]:
    """Return a file as a model and as a graph with its weights; raises as ``load``, and
    for a program.
    """
    name, content = read_content(source)
    refuse_program(name, content)
    model = open_content(name, content)
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
    """Return the native engine on a file; its program is not verified, unlike that of
    ``to_native``.

    Raises:
        UnsupportedError: a part of it is not covered.
        MissingDependencyError: ``lstm-edge-native`` is not installed.
    """
    return runner(open_program(model, compile_file(proto, model.manifest))[1])


def record(model: Model, compiled: Compiled) -> None:
    """Store onnxruntime's outputs for every row of the file's golden cases in its
    program. Shorter rows are repeated.

    Raises:
        CheckFailedError: onnxruntime does not give what the golden cases say.
    """
    golden = model.manifest.golden
    assert golden is not None
    model.selftest().require()
    rows = []
    for case in (golden, *golden.more):
        count, _ = case_size(model.manifest, case.inputs)
        rows += [_GoldenRow(model.manifest, case, row) for row in range(count)]
    _record(model, compiled, rows, steps=max(row.steps for row in rows))


def record_first_row(model: Model, compiled: Compiled, steps: int) -> None:
    """Store ``steps`` steps of the first row alone; see ``record``."""
    manifest = model.manifest
    assert manifest.golden is not None
    row = _GoldenRow(manifest, manifest.golden, 0)
    steps = steps if manifest.time_axes else row.steps
    _record(model, compiled, [row], steps=steps)


def _record(
    model: Model, compiled: Compiled, rows: Sequence["_GoldenRow"], steps: int
) -> None:
    """Store rows of golden cases in a program, each of ``steps`` steps from reset."""
    manifest = model.manifest
    inputs: dict[str, list[Array]] = {}
    expected: dict[str, list[Sequence[Array]]] = {}
    for row in rows:
        feeds = row.feeds(steps)
        for spec in manifest.data_inputs:
            calls = _in_calls(
                manifest, spec, row=feeds[spec.name], calls=steps // manifest.unit
            )
            inputs.setdefault(spec.name, []).append(calls)
        case = _Recorded(
            golden=row.case,
            manifest=manifest,
            outputs=manifest.all_outputs(*model.run(feeds)),
            shaken=manifest.all_outputs(*model.run(_shaken(feeds))),
        )
        for name, both in _expected(compiled, case).items():
            expected.setdefault(name, []).append(np.broadcast_arrays(*both))
    compiled.writer.golden(
        {name: np.concatenate(arrays) for name, arrays in inputs.items()},
        {
            name: [
                np.concatenate([array.reshape(-1) for array in arrays])
                for arrays in zip(*both, strict=True)
            ]
            for name, both in expected.items()
        },
        len(rows),
    )


def _expected(compiled: Compiled, case: "_Recorded") -> dict[str, list[Array]]:
    """Return the expected values and limits of outputs and states, by their names in
    the program.
    """
    expected = {spec.name: case.limited(spec) for spec in case.manifest.outputs}
    for program_state in compiled.states:  # the outputs show what a ring holds
        if program_state.past is None and program_state.state.dtype == "float32":
            state = program_state.state
            both = case.limited(TensorSpec(state.output, state.dtype, state.axes))
            if program_state.layer is not None:
                both = [array[program_state.layer] for array in both]
            expected[program_state.name] = both
    return expected


@dataclass(frozen=True)
class _GoldenRow:
    """A row of a golden case."""

    manifest: Manifest
    """Manifest of the file."""
    case: Golden
    """The case."""
    row: int
    """Its index."""

    @property
    def steps(self) -> int:
        """The valid steps of the row."""
        lengths = self.manifest.lengths_in(self.case.inputs)
        if lengths is None:
            return self.manifest.steps(self.case.inputs)
        return int(lengths.reshape(-1)[self.row])

    def feeds(self, steps: int) -> dict[str, Array]:
        """Return the inputs of the row, repeated or cut to ``steps``."""
        feeds = {}
        for spec in self.manifest.data_inputs:
            array = self.case.inputs[spec.name]
            batch = self.manifest.batch_axis(spec.axes)
            time = self.manifest.time_axis(spec.axes)
            if batch is not None:
                array = array.take([self.row], batch)
            if time is not None:
                array = array.take(np.arange(steps) % self.steps, time)
            feeds[spec.name] = array
        return feeds


@dataclass(frozen=True)
class _Recorded:
    """Outputs of onnxruntime for a golden case."""

    golden: Golden
    """The golden case."""
    manifest: Manifest
    """Manifest of the file."""
    outputs: Mapping[str, Array]
    """Outputs by name."""
    shaken: Mapping[str, Array]
    """The same for inputs that differ in their last bit."""

    def limited(self, spec: TensorSpec) -> list[Array]:
        """Return the expected values of an output, and its limits, step by step."""
        array = self.outputs[spec.name].astype("float64")
        shaken = self.shaken[spec.name].astype("float64")
        time = self.manifest.time_axis(spec.axes)
        batch = self.manifest.batch_axis(spec.axes)
        limits = golden_limits(self.golden, spec.name)
        if limits.ndim == len(spec.axes):  # the smallest of any row and step
            shared = tuple(axis for axis in (time, batch) if axis is not None)
            limits = limits.min(shared, keepdims=True)
        is_equal = shaken == array  # infinities too
        moved = _GROWTH * np.abs(np.where(is_equal, 0, shaken - array))
        both = [array, np.maximum(limits, moved)]
        if time is None:
            return both
        return [np.moveaxis(values, time, 0) for values in both]


def _in_calls(manifest: Manifest, spec: TensorSpec, row: Array, calls: int) -> Array:
    """Return a row as ``(calls, width)``; an input without a time axis is repeated."""
    time = manifest.time_axis(spec.axes)
    if time is None:
        flat = row.reshape(1, -1)
        return np.broadcast_to(flat, (calls, flat.shape[1]))
    return np.moveaxis(row, time, 0).reshape(calls, -1)


def verify(model: Model, proto: onnx.ModelProto, target: Model, name: str) -> None:
    """Raise ``CheckFailedError`` if a file and a target of it, ``name`` in the message,
    give different results.
    """
    manifest = model.manifest
    if manifest.golden is not None:
        target.selftest().require()
    is_int8 = manifest.arithmetic in INT8
    pair = None if is_int8 else _pair_of(model, proto)
    cases = _INT8_CASES if is_int8 else _CASES
    for rows, units in cases if manifest.sequence else cases[:1]:
        feeds = _draw(manifest, rows, units)
        for name, procedure in _procedures(manifest, units).items():
            got = procedure(runner(target), feeds)
            if pair is None:
                want, limits = _int8_expected(model, feeds, procedure)
            else:
                want = procedure(pair.exact, feeds)
                limits = pair.limits(feeds, procedure)
            floats = {
                output: array
                for output, array in want.items()
                if output in got and output in limits
            }
            for comparison in compare_all(got, floats, limits):
                if not comparison.ok:
                    case = f"{rows} rows of {units * manifest.unit} steps, {name}"
                    raise CheckFailedError(
                        f"{name} differs from the graph in {case}: {comparison}"
                    )


def _procedures(manifest: Manifest, units: int) -> dict[str, Procedure]:
    """Return how a case of some units is run, by name."""
    procedures: dict[str, Procedure] = {"whole": whole}
    if units == sum(_CUTS):
        sizes = [size * manifest.unit for size in _CUTS]
        procedures["in chunks"] = in_chunks(manifest, sizes)
        procedures["step by step"] = in_chunks(manifest, [manifest.unit] * units)
    return procedures


def _pair_of(model: Model, proto: onnx.ModelProto) -> Pair:
    """Return the graph in float64 as its own reference.

    Raises:
        UnsupportedError: it can't be evaluated.
    """
    graph = Graph64(widened(proto))
    pair = Pair(
        manifest=model.manifest, graph=graph, reference=graph, engine=runner(model)
    )
    try:
        pair.exact(_draw(model.manifest, 1, 1))
    except RuntimeError as error:
        raise UnsupportedError(
            f"the graph can't be evaluated in float64: {first_line(error)}"
        ) from error
    return pair


def _int8_expected(
    model: Model, feeds: Feeds, procedure: Procedure
) -> tuple[Feeds, Mapping[str, Any]]:
    """Return onnxruntime's outputs for a case, and the limits of float outputs."""
    run = runner(model)
    expected = procedure(run, feeds)
    near = procedure(run, _shaken(feeds))
    limits = {}
    for name, array in expected.items():
        if array.dtype.kind == "f" and np.isfinite(array).all():
            largest = float(np.abs(array).max(initial=1e-3))
            moved = float(np.abs(near[name] - array).max(initial=0))
            limits[name] = _INT8_SHARE * largest + _GROWTH * moved
    return expected, limits


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
