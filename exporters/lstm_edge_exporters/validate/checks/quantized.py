"""The weights of an int8 or fp16 file: they must be the reference's, but for their rounding.

Each rounded weight, multiplied by its scale, must be within half a step of one of the reference's. Then the
file's float twin is compared with the reference in float64: each element of the fixed axes may differ in
mean, and in the spread around it, by a few times what moving every rounded weight by a random part of its
step does. The budgets, which have room for quantized activations, are not as sharp.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import onnx
import onnx_ir as ir
from onnx import numpy_helper

from lstm_edge_runtime.chunks import Runner
from lstm_edge_runtime.errors import UnsupportedError
from lstm_edge_runtime.manifest import Array

from ...graph import to_proto
from ...lift.quantized import STEP, float_twin, is_quantized
from ...numerics.cases import Feeds
from ...numerics.compare import REFUSALS, RefusedError
from ...numerics.graph64 import Graph64
from ..report import Check, answered
from ..subject import Subject

_NAME = "weights are the reference's, rounded"
_SIZES = ((8, 48), (1, 200))
"""Rows and steps that are compared, the first from random states."""
_DRAWS = (16, 64)
"""Runs with other roundings, and where an element is beyond its limit still."""
_MULTIPLE = 6.0
"""How many times the root mean square over the draws a mean or a spread may be."""
_HALF_STEP = 0.51
"""Steps that a rounded weight may be away."""
_FLOAT = 1e-5
"""What the rest may differ by, as a fraction of an element's largest value: a bias stays in float32."""
_COARSEST = 60.0
"""Steps from 0 to the largest weight, at the least: 7 bits have 63."""


def check_weights(subject: Subject) -> Iterator[Check]:
    """Compare the float twin of a quantized file with its reference."""
    twin = _twin(subject)
    if isinstance(twin, str):
        yield Check(_NAME, "skipped", twin)
        return
    wrong = list(_strangers(subject, *twin))
    for place, (rows, steps) in enumerate(_SIZES):
        feeds = subject.full(subject.draw(rows, steps, 8000 + place, at_reset=place > 0))
        try:
            expected = subject.reference.computation.run64(feeds)
            got = _runner(*twin)(feeds)
            for draws in _DRAWS:
                others = [_runner(*twin, seed)(feeds) for seed in range(draws)]
                found = list(_differing(subject, expected, got, others))
                if not found:
                    break
        except REFUSALS as error:
            yield Check(_NAME, "skipped", str(RefusedError(error)))
            return
        wrong += (f"at N={rows}, L={steps} {each}" for each in found)
    yield answered(_NAME, "; ".join(wrong))


Steps = Mapping[str, Array]
"""How far apart the values of a weight may be, by its name."""


def _twin(subject: Subject) -> tuple[onnx.ModelProto, Steps] | str:
    """Return the float twin and the steps of its rounded weights, or why there is none."""
    model = ir.load(subject.file.path)
    twin = float_twin(model) if is_quantized(model) else model
    if twin is None:
        return "an operator that quantizes has no constant weights"
    steps = {
        name: value.meta[STEP]
        for name, value in twin.graph.initializers.items()
        if value.meta.get(STEP) is not None
    }
    proto = to_proto(twin)
    used = {name for node in proto.graph.node for name in node.input}
    for tensor in (each for each in proto.graph.initializer if each.name in used):
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8):
            steps[tensor.name] = np.ones(1)
        elif tensor.data_type == onnx.TensorProto.FLOAT16:
            steps[tensor.name] = np.abs(np.spacing(numpy_helper.to_array(tensor))).astype(np.float64)
    try:
        _runner(proto, steps)
    except UnsupportedError as error:
        return str(error)
    return proto, steps


def _strangers(subject: Subject, proto: onnx.ModelProto, steps: Steps) -> Iterator[str]:
    """Return the weights that none of the reference's rounds to.

    Sorted values are compared, as gates and axes may stand in another order. Weights whose scale comes in
    behind a product are left to what the twin computes.
    """
    theirs = [np.sort(tensor, axis=None) for tensor in subject.reference.computation.tensors]
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    readers = {name: node for node in proto.graph.node for name in node.input}
    for name, step in steps.items():
        if arrays[name].dtype.kind in "iu":
            (decoded,) = readers[name].output
            multiplied = readers.get(decoded)
            if multiplied is None or multiplied.op_type != "Mul":
                continue
            step = next((arrays[each] for each in multiplied.input if each in arrays), step)
            mine = np.sort(arrays[name] * step.astype(np.float64), axis=None)
        elif name in readers and readers[name].op_type.startswith("MatMul"):
            continue
        else:
            mine = np.sort(arrays[name], axis=None)
        alike = [each for each in theirs if each.size == mine.size]
        if alike and not any(np.all(np.abs(each - mine) <= _HALF_STEP * step.max()) for each in alike):
            yield f"{name} is none of the reference's weights, rounded"


def _runner(proto: onnx.ModelProto, steps: Steps, seed: int | None = None) -> Runner:
    """Return the twin in float64; with a seed every rounded weight is moved by up to half a step."""
    moved = onnx.ModelProto()
    moved.CopyFrom(proto)
    rng = np.random.default_rng(seed)
    for tensor in moved.graph.initializer:
        if tensor.name in steps:
            array = numpy_helper.to_array(tensor).astype(np.float64)
            finest = np.abs(array).max(initial=0.0) / _COARSEST
            step = np.minimum(steps[tensor.name], max(finest, np.finfo(np.float32).tiny))
            if seed is not None:
                array = array + step * rng.uniform(-0.5, 0.5, array.shape)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return Graph64(moved, "the float twin").run64


def _differing(subject: Subject, expected: Feeds, got: Feeds, others: Sequence[Feeds]) -> Iterator[str]:
    """Return where the mean difference, or its spread, is more than rounding weights can make it."""
    axes = subject.manifest.axes
    for name, exact in expected.items():
        if exact.dtype.kind != "f" or not exact.size:
            continue
        free = tuple(place for place, axis in enumerate(axes[name]) if isinstance(axis, str))
        scale = np.abs(exact).max(axis=free, keepdims=True)
        if got[name].shape != exact.shape:
            yield f"{name} is {got[name].shape}, expected {exact.shape}"
            continue
        for what, measure in (("mean", np.mean), ("spread", np.std)):
            take = partial(measure, axis=free, keepdims=True)
            drawn = [take(other[name] - got[name]) for other in others]
            limit = _MULTIPLE * np.sqrt(np.mean(np.square(drawn), axis=0)) + _FLOAT * scale
            away = np.abs(take(got[name] - exact))
            worst = np.unravel_index(int(np.argmax(away - limit)), away.shape)
            if not away[worst] <= limit[worst]:
                where = ", ".join(map(str, worst))
                yield (
                    f"{what} difference of {name} at [{where}] is {away[worst]:.3g}, expected at most "
                    f"{limit[worst]:.3g} from rounding the weights"
                )
