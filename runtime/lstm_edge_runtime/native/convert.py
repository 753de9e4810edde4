"""Write the native program of a model as a file that C programs load without onnxruntime."""

import os
from collections.abc import Mapping

import numpy as np

from ..errors import CheckFailedError
from ..manifest import Array, Golden, Manifest
from ..model import load, read_model
from ..selftest import golden_limits
from .compiler import Compiled, compile_program
from .engine import NativeEngine


def to_native(source: str | os.PathLike[str] | bytes) -> bytes:
    """Return the program file (``.lep``) of an ``.onnx`` file, after it has replayed the golden case.

    The manifest goes into it with the file's identity, and the first row of the golden case, as onnxruntime
    runs it from the reset state.

    Raises:
        NotFoundError, FileFormatError, ContractError: the file is not there, or is no usable model.
        UnsupportedError: a node is not covered; the message says which.
        MissingDependencyError: no ``lstm-edge-native``, or no onnxruntime.
        CheckFailedError: an output of the golden case is beyond its limit.
    """
    content, file = read_model(source)
    given = source if file.external_paths() else content
    load(given, engine="native")
    model = load(given, engine="onnxruntime")
    manifest = model.interface
    compiled = compile_program(file, manifest)
    if (golden := manifest.golden) is not None:
        feeds = _first_row(manifest, golden)
        outputs, states = model.run(feeds)
        _record(compiled, manifest, golden, feeds, manifest.all_outputs(outputs, states))
    compiled.writer.manifest(manifest._replace(identity=model.identity).to_json())
    content = compiled.writer.to_bytes()
    if golden is not None:
        worst = NativeEngine(content, None, 1).selftest()
        if worst > 1:
            raise CheckFailedError(f"the golden case is at {worst:.3g} of its limit in the native program")
    return content


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
) -> None:
    """Store a case of one row from the reset state, with what it gives and the limits of a golden case."""
    expected: dict[str, tuple[Array, Array]] = {}
    for spec in manifest.outputs:
        array, limits = _with_limits(outputs[spec.name], golden, spec.name)
        if (axis := manifest.time_axis(spec.axes)) is not None:
            delay = manifest.delays.get(spec.name, 0)
            array, limits = (np.moveaxis(each, axis, 0)[delay:] for each in (array, limits))
        expected[spec.name] = (array, limits)
    for part in compiled.parts:
        if part.state.output not in outputs or part.state.dtype != "float32":
            continue
        if part.past is not None and manifest.is_buffered:  # its ring turns by several frames per unit
            continue
        array, limits = _with_limits(outputs[part.state.output], golden, part.state.output)
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


def _with_limits(array: Array, golden: Golden, name: str) -> tuple[Array, Array]:
    return array, np.broadcast_to(golden_limits(golden, name), array.shape)
