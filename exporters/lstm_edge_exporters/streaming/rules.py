"""What each operator that looks along time keeps: one rule for each."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import END, Builder, constant, is_used
from ..recurrent import is_reversed
from .facts import Fact, GathersTimeError, NotStreamableError, Windows, name_node
from .rewrite import Rewriter, Rule, describe_gathering

_KINDS = {"Conv": "conv", "MaxPool": "pool", "AveragePool": "pool"}
"""What the states of an operator are called."""
_PADDING = {"edge": "replicate", "wrap": "circular"}
"""PyTorch's names of ONNX's kinds of padding, where they differ."""


def _conv(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    kernel = work.shapes.shape(node.inputs[1])[2:]
    return _window(work, node, value, fact, kernel, 0.0)


def _max_pool(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    if any(map(is_used, node.outputs[1:])):
        raise NotStreamableError(f"{name_node(node)} gives the places of maxima")
    lowest = _lowest(work.shapes.dtypes[value])
    return _window(work, node, value, fact, node.attributes.get_ints("kernel_shape", []), lowest)


def _lowest(dtype: str) -> float:
    """Return what no number of a network is below, and is finite, as resets are."""
    return float(np.finfo(dtype).min) / 2 if np.dtype(dtype).kind == "f" else 0.0


def _average_pool(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    counted = node.attributes.get_int("count_include_pad", 0)
    kernel = node.attributes.get_ints("kernel_shape", [])
    return _window(work, node, value, fact, kernel, 0.0 if counted else None)


def _window(
    work: Rewriter,
    node: ir.Node,
    value: ir.Value,
    fact: Fact,
    kernel: Sequence[int],
    padding: float | None,
) -> bool:
    """Take an operator with a kernel.

    Args:
        work: the graph.
        node: the operator.
        value: what it reads.
        fact: of ``value``.
        kernel: its size on each spatial axis.
        padding: the value that it pads with; None if it leaves out what it pads.
    """
    place, rank = fact.axis - 2, len(kernel)
    if fact.axis == 1:
        raise NotStreamableError(f"{name_node(node)} takes time for channels")
    if place < 0:
        return False
    ones = [1] * rank
    dilation, stride = (node.attributes.get_ints(name, ones)[place] for name in ("dilations", "strides"))
    pads = _pads(work, node, value, kernel)
    front, reach = pads[place], (kernel[place] - 1) * dilation
    if front and padding is None:
        raise NotStreamableError(
            f"{name_node(node)} does not count its padding; let it count, or pad before it"
        )
    if front and padding is not None:
        fact = _padded(node, fact, front, padding)
    joined, fact = _look_back(work, node, value, fact, reach, stride)
    node.replace_input_with(0, joined)
    pads[place] = pads[place + rank] = 0
    for name in ("auto_pad", "ceil_mode"):
        node.attributes.pop(name, None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    work.set_fact(node, node.outputs[0], fact)
    return True


def _look_back(
    work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact, reach: int, stride: int
) -> tuple[ir.Value, Fact]:
    """Return a value behind what windows of ``reach`` + 1 frames look back at, and the fact of these.

    With a reach R, stride S and padding P it keeps C = R + 1 - S + e frames of a value of delay d, and the
    windows are (d - P + C) / S frames behind: e is the least number from 0 for which that is whole and the
    padding is among them. Of e, what is no part of a stride waits; the rest is cut off at the end.
    """
    if fact.pad:
        value, fact = work.align(node, value, fact)
    least = reach + 1 - stride
    kept = least + -(fact.delay + least) % stride
    if fact.pad and fact.pad > kept:
        kept += -(-(fact.pad - kept) // stride) * stride
    early = (kept - least) // stride * stride
    joined = work.past(node, value, fact, max(kept, 0), _KINDS.get(node.op_type, "window"))
    if kept < 0 or early:
        joined = Builder(node, "part").slice(joined, fact.axis, max(-kept, 0), -early or END)
    return joined, replace(fact, delay=(fact.delay + kept) // stride, pad=0, rate=fact.rate / stride)


def _stft(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    given = [*node.inputs, None, None]
    step = int(_constant(node, given[1]).flat[0])
    window = int(_constant(node, given[3]).flat[0]) if given[2] is None else work.shapes.shape(given[2])[0]
    joined, fact = _look_back(work, node, value, fact, window - 1, step)
    node.replace_input_with(0, joined)
    work.set_fact(node, node.outputs[0], fact)
    return True


def _transposed(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    """Take a transposed convolution: what its last taps add to later frames is a state.

    With K taps, dilation D and stride S that is (K-1) D + 1 - S frames; where it is negative, as many frames
    between two are empty. The bias is added behind the sum.
    """
    kernel = work.shapes.shape(node.inputs[1])[2:]
    place, rank, output = fact.axis - 2, len(kernel), node.outputs[0]
    if place < 0:
        raise NotStreamableError(f"{name_node(node)} takes time for channels or rows")
    auto = node.attributes.get("auto_pad")
    automatic = auto is not None and auto.as_string() not in ("NOTSET", "VALID")
    if "output_shape" in node.attributes or automatic:
        raise NotStreamableError(f"{name_node(node)} pads by its length; give it padding")
    if fact.pad and fact.fill:
        raise NotStreamableError(f"{name_node(node)} reads padding by {fact.fill:g}")
    source, fact = work.settle(node, value, fact, held=True)
    numbers = _spatial(node, rank, dilations=1, output_padding=0, pads=0, strides=1)
    stride, front = numbers["strides"][place], numbers["pads"][place]
    overlap = (kernel[place] - 1) * numbers["dilations"][place] + 1 - stride
    numbers["pads"][place] = numbers["pads"][place + rank] = numbers["output_padding"][place] = 0
    late = replace(fact, delay=fact.delay * stride + front, rate=fact.rate * stride)
    work.set_fact(node, output, late)
    build = Builder(node, "overlap")
    group = node.attributes.get_int("group", 1) or 1
    (summed,) = build.node("ConvTranspose", [source, node.inputs[1]], {**numbers, "group": group})
    summed = _add_overlap(work, build, summed, (output, late), overlap, fact.start_step)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        shape = build.constant(np.array([-1] + [1] * rank), "shape")
        (summed,) = build.node("Add", [summed, build.node("Reshape", [node.inputs[2], shape])[0]])
    node.replace_input_with(0, summed)
    work.hand_on(node, late)
    return True


def _add_overlap(
    work: Rewriter, build: Builder, summed: ir.Value, result: tuple[ir.Value, Fact], overlap: int, start: int
) -> ir.Value:
    """Return the frames of a call to which no later one adds; the others are a state.

    Args:
        work: the graph.
        build: adds nodes.
        summed: what the frames of the call give.
        result: what it is called in the graph, and its fact.
        overlap: frames at its end that later calls add to; where negative, as many empty frames are missing.
        start: of the state.
    """
    output, late = result
    axis = work.facts.get(output, late).axis
    if overlap > 0:
        state = work.frames_of(output, work.facts.get(output, late), overlap, 0.0, "overlap", start)
        first, rest = (build.slice(summed, axis, *ends) for ends in ((0, overlap), (overlap, END)))
        joined = build.concat([build.node("Add", [first, state])[0], rest], axis)
        work.end_state(build.slice(joined, axis, -overlap, END))
        return build.slice(joined, axis, 0, -overlap)
    if overlap < 0:
        pads = [0] * (2 * len(work.shapes.shape(output)))
        pads[len(pads) // 2 + axis] = -overlap
        (summed,) = build.node("Pad", [summed, build.constant(np.array(pads), "gap")])
    return summed


def _fold(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    """Take frames that are added up one stride apart, of an image that is 1 high or wide."""
    output, block = node.outputs[0], [int(each) for each in _constant(node, node.inputs[2]).flat]
    found, rank = work.growth(output), len(block)
    if found is None or fact.axis != 2 or fact.merged or fact.pad:
        raise NotStreamableError(f"{name_node(node)} takes time for channels or rows")
    place = found.axis - 2
    others = [size for axis, size in enumerate(work.shapes.shape(output)[2:]) if axis != place]
    numbers = _spatial(node, rank, dilations=1, pads=0, strides=1)
    stride, front = numbers["strides"][place], numbers["pads"][place]
    if place < 0 or any(each != 1 for each in (*others, *block[:place], *block[place + 1 :])):
        raise NotStreamableError(f"{name_node(node)} adds up frames on several axes")
    span = (block[place] - 1) * numbers["dilations"][place] + 1
    numbers["pads"][place] = numbers["pads"][place + rank] = 0
    source, fact = work.settle(node, value, fact, held=True)
    late = replace(fact, delay=fact.delay * stride + front, rate=fact.rate * stride, axis=found.axis)
    work.set_fact(node, output, late)
    build = Builder(node, "overlap")
    (shape,) = build.node("Shape", [source])
    shape.dtype = ir.DataType.INT64
    (spread,) = build.node("Mul", [build.slice(shape, 0, 2, 3), build.constant(np.array([stride]), "stride")])
    (frames,) = build.node("Add", [spread, build.constant(np.array([span - stride]), "span")])
    one = build.constant(np.array([1]), "one")
    image = build.concat([frames if axis == place else one for axis in range(rank)], 0)
    (summed,) = build.node("Col2Im", [source, image, node.inputs[2]], numbers)
    start = fact.start_step
    node.replace_input_with(0, _add_overlap(work, build, summed, (output, late), span - stride, start))
    work.hand_on(node, late)
    return True


def _spatial(node: ir.Node, rank: int, **defaults: int) -> dict[str, list[int]]:
    """Return attributes of ``rank`` spatial axes, of which padding has a number in front and one behind."""
    return {
        name: list(node.attributes.get_ints(name, [default] * rank * (2 if name == "pads" else 1)))
        for name, default in defaults.items()
    }


def _padded(node: ir.Node, fact: Fact, front: int, fill: float) -> Fact:
    """Return the fact of a value with ``front`` frames of ``fill`` before it."""
    if fact.pad and fact.fill != fill:
        raise NotStreamableError(f"{name_node(node)} pads by {fill:g} what is padded by {fact.fill:g}")
    return replace(fact, delay=fact.delay - front, pad=fact.pad + front, fill=fill)


def _cut(node: ir.Node, fact: Fact, count: int) -> Fact:
    """Return the fact of a value without its first ``count`` frames."""
    pad, delay = max(0, fact.pad - count), fact.delay + count
    ahead = fact.ahead or (name_node(node) if delay > 0 else "")
    return replace(fact, delay=delay, pad=pad, ahead=ahead)


def _pads(work: Rewriter, node: ir.Node, value: ir.Value, kernel: Sequence[int]) -> list[int]:
    """Return the padding in front of each spatial axis, and behind each."""
    rank = len(kernel)
    ones, zeros = [1] * rank, [0] * (2 * rank)
    given = node.attributes.get("auto_pad")
    auto = "NOTSET" if given is None else given.as_string()
    if auto in ("NOTSET", "VALID"):
        return list(node.attributes.get_ints("pads", zeros)) if auto == "NOTSET" else zeros
    fronts, ends = [], []
    dilations, strides = (node.attributes.get_ints(name, ones) for name in ("dilations", "strides"))
    sizes = work.shapes.shape(value)[2:]
    for size, taps, dilation, stride in zip(sizes, kernel, dilations, strides, strict=True):
        total = max(0, (-(-size // stride) - 1) * stride + (taps - 1) * dilation + 1 - size)
        fronts.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
        ends.append(total - fronts[-1])
    return fronts + ends


def _pad(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    given = [*node.inputs, None, None, None]
    rank = len(work.shapes.shape(value))
    axes = [*range(rank)] if given[3] is None else [each % rank for each in _numbers(node, given[3])]
    if fact.axis not in axes:
        return False
    count = len(axes)
    pads = [work.shapes.number(given[1], each) for each in range(2 * count)]
    place = axes.index(fact.axis)
    front, mode = pads[place], node.attributes.get("mode")
    if front is None:
        raise NotStreamableError(f"{name_node(node)} pads by more for longer sequences")
    kind = "constant" if mode is None else _PADDING.get(mode.as_string(), mode.as_string())
    if front and kind != "constant":
        raise NotStreamableError(f"padding={kind!r} before the first step, {name_node(node)}")
    if any(each != 0 for spot, each in enumerate(pads) if spot % count != place):
        if front or pads[place + count]:
            raise NotStreamableError(f"{name_node(node)} pads time and another axis at once")
        return False
    fill = 0.0 if given[2] is None else float(_constant(node, given[2]).flat[0])
    if front > 0:
        work.hand_on(node, _padded(node, fact, front, fill))
    else:
        work.hand_on(node, _cut(node, fact, -front))
    return True


def _slice(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    given = [*node.inputs, None, None]
    starts, rank = given[1], len(work.shapes.shape(value))
    (count,) = work.shapes.shape(starts)
    axes = [*range(count)] if given[3] is None else [each % rank for each in _numbers(node, given[3])]
    if fact.axis not in axes:
        return False
    place, result, node_value = axes.index(fact.axis), node.outputs[0], value
    step = 1 if given[4] is None else work.shapes.number(given[4], place)
    lengths = work.shapes.lengths(value, fact.axis)
    start = work.shapes.number(starts, place, lengths)
    if step is not None and step < 0:
        raise GathersTimeError(f"a reversal of time, {name_node(node)}")
    if step is None or count > 1:
        raise GathersTimeError(f"a choice of steps, {name_node(node)}")
    if work.growth(result) is None:
        ends = work.shapes.number(starts, place, lengths, from_end=True)
        frames = work.shapes.shape(result)[fact.axis]
        if ends != -frames:
            work.refuse_readers(node, "a choice of steps")
            return True
        if frames > 1:
            value, fact = work.settle(node, value, fact)
            node.replace_input_with(0, work.past(node, value, fact, frames - 1, "last"))
        build = Builder(node, "last")  # the value may have other steps than in the whole
        node.replace_input_with(1, build.constant(np.array([-frames]), "start"))
        node.replace_input_with(2, build.constant(np.array([END]), "end"))
        work.set_last(result, node_value, fact, frames)
        return True
    if start is None:
        raise GathersTimeError(f"a choice of steps, {name_node(node)}")
    if step > 1:
        value, fact = _look_back(work, node, value, _cut(node, fact, start), 0, step)
        build = Builder(node, "every")
        node.replace_input_with(0, value)
        node.replace_input_with(1, build.constant(np.array([0]), "start"))
        node.replace_input_with(2, build.constant(np.array([END]), "end"))
        work.set_fact(node, result, fact)
        return True
    work.hand_on(node, _cut(node, fact, start))
    return True


def _gather(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    if (node.attributes.get_int("axis", 0) or 0) % len(work.shapes.shape(value)) != fact.axis:
        return False
    windows = work.shapes.windows.get(node.inputs[1]) if node.inputs[1] is not None else None
    if windows is not None:
        return _frames(work, node, value, fact, windows)
    lengths, shape = work.shapes.lengths(value, fact.axis), work.shapes.shape(node.inputs[1])
    single = all(size == 1 for size in shape) and not fact.merged
    if not single or work.shapes.number(node.inputs[1], 0, lengths, from_end=True) != -1:
        work.refuse_readers(node, "a choice of steps")
        return True
    node.replace_input_with(1, Builder(node, "last").constant(np.full(shape, -1), "index"))
    work.set_last(node.outputs[0], value, fact)
    return True


def _frames(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact, windows: Windows) -> bool:
    """Take windows of steps, as ``unfold`` makes them: a Gather by a table of places."""
    if fact.merged:
        raise NotStreamableError(f"{name_node(node)} takes windows of merged rows")
    reach = (windows.taps - 1) * windows.apart
    joined, fact = _look_back(work, node, value, _cut(node, fact, windows.first), reach, windows.hop)
    build, axis = Builder(node, "window"), work.facts[value].axis
    (shape,) = build.node("Shape", [joined])
    shape.dtype = ir.DataType.INT64
    (size,) = build.node("Squeeze", [build.slice(shape, 0, axis, axis + 1)])
    (end,) = build.node("Sub", [size, build.constant(np.array(reach), "reach")])
    zero, hop = (build.constant(np.array(each), "number") for each in (0, windows.hop))
    (firsts,) = build.node("Range", [zero, end, hop])
    sizes = [-1, 1] if windows.axis == 0 else [1, -1]
    (column,) = build.node("Reshape", [firsts, build.constant(np.array(sizes), "shape")])
    taps = np.arange(windows.taps).reshape(sizes[::-1]) * windows.apart
    node.replace_input_with(1, build.node("Add", [column, build.constant(taps, "taps")])[0])
    node.replace_input_with(0, joined)
    work.set_fact(node, node.outputs[0], fact)
    return True


def _concat(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    rank = len(work.shapes.shape(node.outputs[0]))
    axis = (node.attributes.get_int("axis", 0) or 0) % rank
    if fact.axis != axis:
        return False
    for each in reversed(node.inputs[: node.inputs.index(value)]):
        number = work.filled(each)
        if number is None:
            raise NotStreamableError(f"steps that are no constant before the first, {name_node(node)}")
        fact = _padded(node, fact, work.shapes.shape(each)[axis], number)
    if sum(each in work.facts for each in node.inputs) > 1:
        raise NotStreamableError(f"several sequences one after another, {name_node(node)}")
    node.replace_input_with(0, value)
    work.hand_on(node, fact)
    return True


def _cumulative_sum(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    if _numbers(node, node.inputs[1])[0] % len(work.shapes.shape(value)) != fact.axis:
        return False
    if node.attributes.get_int("reverse", 0):
        raise GathersTimeError(f"a sum from the end, {name_node(node)}")
    if fact.merged:
        raise NotStreamableError(f"{name_node(node)} sums merged rows")
    exclusive = node.attributes.get_int("exclusive", 0) or 0
    build = Builder(node, "total")
    summed, fact = work.settle(node, value, fact, held=True)
    state = work.frames_of(value, fact, 1, 0.0, "total", fact.start_step)
    (own,) = build.node("CumSum", [summed, node.inputs[1]], {"exclusive": exclusive})
    (total,) = build.node("Add", [own, state])
    last = build.slice(total, fact.axis, -1, END)
    if exclusive:
        (last,) = build.node("Add", [last, build.slice(summed, fact.axis, -1, END)])
    work.end_state(last)
    node.replace_input_with(0, total)
    work.hand_on(node, fact)
    return True


def _scan(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:  # noqa: ARG001
    """Take a Scan over time: what it carries from step to step is a state, where it begins with a number."""
    count = node.attributes.get_int("num_scan_inputs", 0) or 0
    carried, zeros = len(node.inputs) - count, [0] * count
    axes, backwards = (
        node.attributes.get_ints(f"scan_input_{name}", zeros) for name in ("axes", "directions")
    )
    facts = {each: work.facts[each] for each in node.inputs if each in work.facts}
    time = {each: axis for each, axis in zip(node.inputs[carried:], axes, strict=True) if each is not None}
    if any(time.get(each) != own.axis for each, own in facts.items()):
        return False  # it runs over another axis
    if any(backwards):
        raise GathersTimeError(f"{name_node(node)} reads time backwards")
    starts = [(each, number) for each in node.inputs[:carried] if (number := work.filled(each)) is not None]
    if any(map(is_used, node.outputs[:carried])) or len(starts) < carried:
        return False  # its states are inputs and outputs, or come from data
    ready = max(work.ready(each, held=True) for each in facts.values())
    work.wait_together(node, facts, ready)
    fact = replace(fact, delay=ready, pad=0)
    for place, (start, number) in enumerate(starts):
        assert start is not None
        dtype = work.shapes.dtypes[start]
        reset = number if np.isfinite(number) else np.copysign(_lowest(dtype), number)
        state = work.state(work.shapes.axes(start), dtype, float(reset), "carried", fact.start_step)
        node.replace_input_with(place, state)
        work.end_state(node.outputs[place])
    for result in node.outputs[carried:]:
        work.set_fact(node, result, fact)
    return True


def _reshape(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    """Let the frames of the result follow from the data where they are counted as those of the whole.

    Frames that are split or joined, ``(N, L, C)`` to ``(N, L/160, 160*C)``, wait for a whole number of them.
    """
    result, sizes = node.outputs[0], node.inputs[1]
    found = work.growth(result)
    if found is None or sizes is None or not (found.rate != fact.rate or work.shapes.surplus(value, fact)):
        return False
    ratio = found.rate / fact.rate
    if ratio != 1:
        before, after = work.shapes.shape(value)[: fact.axis], work.shapes.shape(result)[: found.axis]
        if fact.merged or found.merged or prod(before) != prod(after):
            return False
        ready = -(-work.ready(fact) // ratio.denominator) * ratio.denominator
        node.replace_input_with(0, work.wait(node, value, fact, ready))
        fact = replace(fact, delay=int(ready * ratio), pad=0, rate=found.rate)
    build, axes = Builder(node, "shape"), work.shapes.axes(result)
    entries = []
    for place, size in enumerate(axes):
        if place == found.axis:
            entries.append(build.constant(np.array([-1]), "frames"))
        elif isinstance(size, int):
            entries.append(build.constant(np.array([size]), "size"))
        else:
            entries.append(build.slice(sizes, 0, place, place + 1))
    node.replace_input_with(1, build.concat(entries, 0))
    if ratio == 1:
        return False
    work.set_fact(node, result, fact)
    return True


def _resize(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    """Repeat frames a whole number of times."""
    found = work.growth(node.outputs[0])
    if found is None or (ratio := found.rate / fact.rate) == 1:
        return False
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    given = {name: node.attributes.get(name) for name in modes}
    if ratio.denominator > 1 or any(
        each is None or each.as_string() != modes[name] for name, each in given.items()
    ):
        raise NotStreamableError(f"{name_node(node)} interpolates between frames; use mode='nearest'")
    source, fact = work.settle(node, value, fact)
    node.replace_input_with(0, source)
    work.set_fact(node, node.outputs[0], replace(fact, delay=fact.delay * int(ratio), rate=found.rate))
    return True


def _recurrent(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    if fact.axis != (1 if node.attributes.get_int("layout", 0) else 0):
        return False  # it runs over another axis
    if is_reversed(node):
        raise GathersTimeError(f"{name_node(node)} reads time backwards")
    if fact.start and any(each is not None for each in node.inputs[4:5]):
        raise NotStreamableError(
            f"{name_node(node)} would start late: {fact.ahead} looks ahead, or is not padded, and rows have "
            "lengths"
        )
    source, fact = work.settle(node, value, fact, held=True)
    node.replace_input_with(0, source)
    for each in node.inputs[5:7]:
        work.hold(node, each, fact)
    for place, result in enumerate(node.outputs):
        if place:
            work.set_last(result, value, fact)
        else:
            work.set_fact(node, result, fact)
    return True


def _refuse_over_time(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:
    """Refuse a normalization, softmax, sort or transform whose axes hold time."""
    rank = len(work.shapes.shape(value))
    axis = (node.attributes.get_int("axis", -1) or 0) % rank
    first = 2 if node.op_type in ("InstanceNormalization", "GroupNormalization") else axis
    last = axis + 1 if node.op_type in ("LogSoftmax", "Softmax", "TopK") else rank
    if first <= fact.axis < last:
        raise GathersTimeError(describe_gathering(node))
    return False


def _reversal(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:  # noqa: ARG001
    if (node.attributes.get_int("time_axis", 0) or 0) != fact.axis:
        return False
    raise GathersTimeError(describe_gathering(node))


def _gather_computed(work: Rewriter, node: ir.Node, value: ir.Value, fact: Fact) -> bool:  # noqa: ARG001
    raise NotStreamableError(
        f"frames at computed places, as between two when interpolated, {name_node(node)}"
    )


def _constant(node: ir.Node, value: ir.Value | None) -> Array:
    array = constant(value)
    if array is None:
        raise NotStreamableError(f"{name_node(node)} takes computed numbers along time")
    return array


def _numbers(node: ir.Node, value: ir.Value | None) -> list[int]:
    return [int(each) for each in _constant(node, value).flat]


RULES: Mapping[str, Rule] = {
    "AveragePool": _average_pool,
    "Col2Im": _fold,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _transposed,
    "CumSum": _cumulative_sum,
    "GRU": _recurrent,
    "Gather": _gather,
    "GatherND": _gather_computed,
    "GroupNormalization": _refuse_over_time,
    "InstanceNormalization": _refuse_over_time,
    "LSTM": _recurrent,
    "LayerNormalization": _refuse_over_time,
    "LogSoftmax": _refuse_over_time,
    "MaxPool": _max_pool,
    "Pad": _pad,
    "RNN": _recurrent,
    "Reshape": _reshape,
    "Resize": _resize,
    "ReverseSequence": _reversal,
    "STFT": _stft,
    "Scan": _scan,
    "Slice": _slice,
    "Softmax": _refuse_over_time,
    "TopK": _refuse_over_time,
}
