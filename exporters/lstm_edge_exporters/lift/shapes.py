"""Symbolic sizes of every value of a file from elsewhere, found by running it at several sizes.

The rules of ``streaming`` read the time axis and the rate of a value from its symbolic size. PyTorch gives
these to its own exports; a file from elsewhere names the axes of its inputs alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from math import lcm

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import FileFormatError

from ..graph import constant, dynamic_axes, is_data_free
from .running import evaluate, name_axis

_STEPS = (40, 8, 400, 4000)
"""Numbers of steps to try, rounded up to a multiple of the strides."""
_FURTHER = (0, 7, 20)
"""Further lengths, in multiples."""
_ROWS = (2, 3)
_OTHERS = 5
"""Size of the first axis that is neither batch nor time; the next ones are larger."""
_JOINED = 12
"""Frames that a Reshape may join."""
_MOST_STRIDES = 1 << 12
_MOST_KEPT = 8
"""Elements of a small value: starts, ends, axes and pads."""


def measure_shapes(model: ir.Model, batch: str | None, sequence: str | None) -> ir.Model:
    """Give every value a dtype and a symbolic size for every axis, in place; return a copy for streaming.

    In the copy, small whole numbers that are the same at every size are constants.

    Raises:
        FileFormatError: the graph runs at no size that is tried, or an output has not one rank.
    """
    values = [value for node in model.graph for value in node.outputs if value.name and _is_tensor(value)]
    runs = evaluate(model, values, _cases(model, batch, sequence), every=True)
    cases = [sizes for sizes, _ in runs]
    for value in values:
        arrays = [run[value] for _, run in runs]
        value.shape = _shape(value, [array.shape for array in arrays], cases, batch, sequence)
        value.type = ir.TensorType(ir.DataType.from_numpy(arrays[0].dtype))
    for value in model.graph.outputs:
        if value.shape is None:
            raise FileFormatError(
                f"output {value.name!r} has not the same number of axes in every run; "
                "decide the branches with --branch INPUT=NUMBER"
            )
    copy = model.clone()
    twins = {twin.name: twin for node in copy.graph for twin in node.outputs}
    for value, array in runs[0][1].items():
        small = array.dtype.kind in "iu" and array.size <= _MOST_KEPT and constant(value) is None
        same = small and all(np.array_equal(run[value], array) for _, run in runs[1:])
        if same and value.uses() and is_data_free(value):
            known = ir.val(f"{value.name}.known", const_value=ir.tensor(array))
            copy.graph.register_initializer(known)
            ir.convenience.replace_all_uses_with(twins[value.name], known)
    return copy


def _is_tensor(value: ir.Value) -> bool:
    return value.type is None or isinstance(value.type, ir.TensorType)


def _cases(model: ir.Model, batch: str | None, sequence: str | None) -> Iterator[list[dict[str, int]]]:
    """Yield sizes to run at: three lengths, then more rows, then larger other axes."""
    names = [name for name in dynamic_axes(model.graph) if name not in (batch, sequence)]
    rows = [batch] if batch else []
    base = {name: _OTHERS + place for place, name in enumerate(names)} | dict.fromkeys(rows, _ROWS[0])
    larger = [dict.fromkeys(rows, _ROWS[1]), {name: base[name] + len(names) for name in names}]
    if sequence is None:
        yield [base] * len(_FURTHER) + [base | each for each in larger]
        return
    strides = _strides(model.graph)
    for multiple in (strides, lcm(strides, _JOINED)):
        for least in _STEPS:
            first = -(-least // multiple) * multiple
            lengths = [{**base, sequence: first + more * multiple} for more in _FURTHER]
            yield [*lengths, *(lengths[0] | each for each in larger)]


def _strides(graph: ir.Graph) -> int:
    """Return a multiple of the product of the strides along time, of whatever axis they are."""
    products: dict[ir.Value, int] = {}
    for node in graph:
        product = lcm(*(products.get(value, 1) for value in node.inputs if value is not None))
        product = min(product * _stride(node), _MOST_STRIDES)
        products.update(dict.fromkeys(node.outputs, product))
    return lcm(1, *set(products.values()))


def _stride(node: ir.Node) -> int:
    if node.op_type in ("AveragePool", "Conv", "LpPool", "MaxPool"):
        return max(node.attributes.get_ints("strides", [1]), default=1)
    place = {"Range": 2, "Slice": 4, "STFT": 1}.get(node.op_type)
    steps = None if place is None or place >= len(node.inputs) else constant(node.inputs[place])
    return 1 if steps is None else max(1, *(int(step) for step in steps.flat))


def _shape(
    value: ir.Value,
    shapes: Sequence[tuple[int, ...]],
    cases: Sequence[Mapping[str, int]],
    batch: str | None,
    sequence: str | None,
) -> ir.Shape | None:
    """Return the symbolic shape of a value of these shapes; None if its rank changes."""
    if len({*map(len, shapes)}) > 1:
        return None
    beside = [0, *range(len(_FURTHER), len(shapes))]
    others = [cases[place] for place in beside]
    known = (name_axis(sizes, others) for sizes in zip(*(shapes[place] for place in beside), strict=True))
    found = [f"{value.name}.{place}" if axis is None else axis for place, axis in enumerate(known)]
    for axis, (first, second, third, wide, *_) in enumerate(zip(*shapes, strict=True)):
        if sequence is not None and len({first, second, third}) > 1:
            rows = cases[0][batch] if batch and wide != first else 1
            lengths = [case[sequence] for case in cases[:3]]
            found[axis] = _size((first, second, third), lengths, rows, sequence, batch)
    return ir.Shape(found)


def _size(sizes: Sequence[int], lengths: Sequence[int], rows: int, sequence: str, batch: str | None) -> str:
    """Return the size of an axis that grows with time: ``L``, ``L/4``, ``2*L + 3``, ``N*(L - 2)``."""
    rate = Fraction(sizes[2] - sizes[0], rows * (lengths[2] - lengths[0]))
    more = Fraction(sizes[0], rows) - rate * lengths[0]
    if Fraction(sizes[1], rows) != rate * lengths[1] + more:
        return f"uneven*{sequence}*{sequence}"  # no rule gives such a rate
    text = f"{rate.numerator}*{sequence}" if rate.numerator != 1 else sequence
    text += f"/{rate.denominator}" if rate.denominator > 1 else ""
    text += f" + {more}" if more > 0 else f" - {-more}" if more < 0 else ""
    return text if rows == 1 else f"{batch}*({text})"
