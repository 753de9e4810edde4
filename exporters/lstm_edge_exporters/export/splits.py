"""Parts of a tensor whose size is computed, as slices instead of a sequence."""

import numpy as np
import onnx_ir as ir

from ..graph import Builder, constant, keep_line


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
