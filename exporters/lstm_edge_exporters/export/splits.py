"""Parts of a tensor whose size is computed, as slices instead of a sequence."""

import numpy as np
import onnx_ir as ir

from ..graph import Builder, constant, line_of, set_line


def split_by_slices(model: ir.Model) -> None:
    """Replace each split into parts of one computed size, of which each is read by a
    constant index, by slices, in place.
    """
    for node in [node for node in model.graph if node.op_type == "SplitToSequence"]:
        size = node.inputs[1] if len(node.inputs) > 1 else None
        rank = None if size is None or size.shape is None else len(size.shape)
        parts = [reader for reader, _ in node.outputs[0].uses()]
        indices = [constant(part.inputs[-1]) for part in parts]
        has_indices = all(
            part.op_type == "SequenceAt" and index is not None and int(index) >= 0
            for part, index in zip(parts, indices, strict=True)
        )
        if rank != 0 or not has_indices or not node.attributes.get_int("keepdims", 1):
            continue
        for part, index in zip(parts, indices, strict=True):
            assert index is not None
            _slice(node, part, index=int(index))
        model.graph.remove(node, safe=True)


def _slice(split: ir.Node, part: ir.Node, index: int) -> None:
    """Replace a part, at an index, of a split."""
    value, size = split.inputs
    build = Builder(part, split.name or split.op_type)
    (count,) = build.node("Reshape", [size, np.array([1])])
    bounds = [
        build.node("Mul", [count, np.array([number])])[0]
        for number in (index, index + 1)
    ]
    axis = np.array([split.attributes.get_int("axis", 0)])
    (result,) = build.node("Slice", [value, *bounds, axis])
    old = part.outputs[0]
    result.name, result.type, result.shape = old.name, old.type, old.shape
    producer = result.producer()
    assert producer is not None
    set_line(producer, line_of(split))
    build.replace([result])
