"""Parts of a tensor: splits into parts of a computed size become slices, slices of a
whole axis are removed, and reads of one piece of a concatenation read the piece.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ..graph import Builder, axes_of, constant, keep_line
from .unrolled import number_of

_WHOLE = 2**62
"""An end that lies behind any size."""


def split_by_slices(model: ir.Model) -> None:
    """Replace splits into parts of one computed size by slices, in place, where
    constant indices read the parts.
    """
    for node in [node for node in model.graph if node.op_type == "SplitToSequence"]:
        readers = [reader for reader, _ in node.outputs[0].uses()]
        if _has_one_size(node) and all(map(_has_fixed_index, readers)):
            for reader in readers:
                _slice(node, reader)
            model.graph.remove(node, safe=True)


def drop_whole_slices(model: ir.Model) -> None:
    """Remove the slices that take all of an axis, in place.

    PyTorch writes ``x[:, :, None]`` without one as soon as it knows the axis, so that
    the first iteration of a loop may have a slice that the others lack.
    """
    for node in [node for node in model.graph if node.op_type == "Slice"]:
        value, start, end, *_ = node.inputs
        step = node.inputs[4] if len(node.inputs) > 4 else None
        is_whole = _is(start, 0) and _is(end, _WHOLE) and (step is None or _is(step, 1))
        if is_whole and value is not None and not node.outputs[0].is_graph_output():
            ir.convenience.replace_all_uses_with(node.outputs[0], value)
            model.graph.remove(node, safe=True)


def read_pieces(model: ir.Model) -> None:
    """Let every Gather of an element of the first or last piece of a concatenation read
    the piece, in place: ``h = y[:, -1]`` after a write into ``h`` and so into ``y``.
    """
    for node in [node for node in model.graph if node.op_type == "Gather"]:
        joined, index = node.inputs
        position = number_of(index)
        concat = _without_transposes(joined)
        if position is None or position.size != 1 or concat is None:
            continue
        axis = concat.attributes.get_int("axis", 0)
        number = int(position.item())
        piece = concat.inputs[0 if number >= 0 else -1]
        sizes = axes_of(piece) if piece is not None else ()
        size = sizes[axis] if sizes else None
        has_axis = node.attributes.get_int("axis", 0) == axis
        if has_axis and isinstance(size, int) and -size <= number < size:
            node.replace_input_with(0, piece)


def _without_transposes(value: ir.Value | None) -> ir.Node | None:
    """Return the concatenation that makes a value, behind transposes that cancel."""
    order: Sequence[int] | None = None
    node = value.producer() if value is not None else None
    while node is not None and node.op_type == "Transpose":
        perm = node.attributes["perm"].as_ints()
        order = perm if order is None else [perm[axis] for axis in order]
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    is_moved = order is not None and [*order] != sorted(order)
    is_concat = node is not None and node.op_type == "Concat"
    return node if is_concat and not is_moved else None


def _is(value: ir.Value | None, number: int) -> bool:
    """Return True if a value is a number, or larger for ``_WHOLE``."""
    found = number_of(value)
    if found is None or found.size != 1:
        return False
    return bool(found.item() >= number if number == _WHOLE else found.item() == number)


def _has_one_size(split: ir.Node) -> bool:
    """Return True if all parts have one size, and keep the axis."""
    size = split.inputs[1] if len(split.inputs) > 1 else None
    if size is None or size.shape is None:
        return False
    return len(size.shape) == 0 and bool(split.attributes.get_int("keepdims", 1))


def _has_fixed_index(reader: ir.Node) -> bool:
    """Return True if a node reads the part at a constant index from the first."""
    if reader.op_type != "SequenceAt":
        return False
    index = constant(reader.inputs[1])
    return index is not None and int(index) >= 0


def _slice(split: ir.Node, part: ir.Node) -> None:
    """Replace a part of a split by a slice."""
    value, size = split.inputs
    index = constant(part.inputs[1])
    assert index is not None
    build = Builder(part, split.name or split.op_type)
    count = build.value("Reshape", [size, np.array([1])])
    bounds = [
        build.value("Mul", [count, np.array([number])])
        for number in (int(index), int(index) + 1)
    ]
    axis = np.array([split.attributes.get_int("axis", 0)])
    result = build.value("Slice", [value, *bounds, axis])
    old = part.outputs[0]
    result.name = old.name
    result.type = old.type
    result.shape = old.shape
    keep_line(result, split)
    build.replace([result])
