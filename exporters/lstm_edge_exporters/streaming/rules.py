"""The streaming rules: how each operator changes the flow of its first operand with
frames.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.manifest import Array

from ..graph import END, MOVING_AXES, axes_of, constant, data_inputs, values_read
from ..recurrent import is_reversed
from .operands import elements, ints, numbers
from .per_frame import PER_FRAME, per_frame
from .positions import count_on, spread
from .rewrite import Flow, Rewriter, fill_of, with_frames

Rule = Callable[[Rewriter, ir.Node, ir.Value], None]


def windows(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite Conv and pooling: past frames come from a state."""
    flow = work.flows[value]
    dim = flow.axis - 2
    kernel = kernel_of(work, node)
    if dim == -1:
        raise work.refusal("takes time for channels")
    if dim < 0:
        per_frame(work, node, value)
        return
    if any(result.uses() or result.is_graph_output() for result in node.outputs[1:]):
        raise work.refusal("gives the places of maxima")
    ones = [1] * len(kernel)
    pads = ints(node, "pads") or [0] * (2 * len(kernel))
    if (
        pads[dim]
        and node.op_type == "AveragePool"
        and not node.attributes.get_int("count_include_pad", 0)
    ):
        raise work.refusal("does not count its padding")
    stride, dilation = (
        (ints(node, name) or ones)[dim] for name in ("strides", "dilations")
    )
    fill = float(np.finfo(np.float32).min) if node.op_type == "MaxPool" else 0.0
    joined, flow = work.look_back(
        value,
        flow,
        taps=(kernel[dim] - 1) * dilation + 1,
        stride=stride,
        front=pads[dim],
        fill=fill,
    )
    pads[dim] = pads[dim + len(kernel)] = 0
    node.attributes.pop("ceil_mode", None)
    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
    node.replace_input_with(0, joined)
    work.set(node.outputs[0], flow)


def kernel_of(work: Rewriter, node: ir.Node) -> list[int]:
    """Return the size of the kernel along each spatial axis; refuse padding that
    depends on the length.
    """
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise work.refusal(
            "pads by its length (auto_pad); export it with explicit padding"
        )
    kernel = ints(node, "kernel_shape")
    if kernel or node.inputs[1] is None:
        return kernel
    return [int(size) for size in axes_of(node.inputs[1])[2:]]


def hand_on(work: Rewriter, node: ir.Node, value: ir.Value, flow: Flow) -> None:
    """Make ``value`` the result of a node."""
    work.set(node.outputs[0], flow)
    node.op_type = "Identity"
    node.attributes.clear()
    node.resize_inputs(1)
    node.replace_input_with(0, value)


def pad(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Pad of other axes, or of constant frames in front; frames after the
    last one are not needed.
    """
    flow = work.flows[value]
    rank = len(axes_of(value))
    axes = numbers(work, node, index=3, default=range(rank))
    pads = elements(node.inputs[1], 2 * len(axes))
    pads_by_axis = zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True)
    widths = {axis % rank: (before, after) for axis, before, after in pads_by_axis}
    front, end = widths.pop(flow.axis, (0, 0))
    of_others = [*widths.values()]
    if front is None or any(None in width for width in of_others):
        raise work.refusal("takes computed padding")
    if any(width != (0, 0) for width in of_others):
        if (front, end) != (0, 0):
            raise work.refusal("pads time and another axis at once")
        per_frame(work, node, value)
        return
    mode = node.attributes.get_string("mode", "constant")
    if front and mode == "edge":
        hand_on(work, node, *work.repeat_first(value, flow, front))
        return
    if front and mode != "constant":
        raise work.refusal(f"pads by {mode} in front of the first frame")
    fill = float(numbers(work, node, index=2, default=[0])[0])
    hand_on(work, node, *work.shift(value, flow, frames=front, fill=fill))


def concat(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Concat along another axis, or of constant frames in front."""
    flow = work.flows[value]
    axis = node.attributes.get_int("axis", 0) % len(axes_of(value))
    if axis != flow.axis:
        _spread_operands(work, node)
        per_frame(work, node, value)
        return
    if sum(operand in work.flows for operand in node.inputs) > 1:
        raise work.refusal("joins several sequences")
    index = [*node.inputs].index(value)
    before = [earlier for earlier in node.inputs[:index] if earlier is not None]
    if len(before) == 1 and work.first.get(before[0]) is value:
        hand_on(work, node, *work.repeat_first(value, flow, 1))
        return
    if any(earlier in work.first for earlier in before):
        raise work.refusal("puts a first frame in front of other frames")
    if any(map(work.is_from_state, before)):
        raise work.undecided("puts a state in front of the frames")
    frames, fill = _constant_frames(work, before, flow.axis)
    hand_on(work, node, *work.shift(value, flow, frames=frames, fill=fill))


def _constant_frames(
    work: Rewriter, operands: Iterable[ir.Value], axis: int
) -> tuple[int, float]:
    """Return how many frames ``operands`` are, and their number."""
    frames = 0
    fills: set[float | None] = set()
    for operand in operands:
        size = axes_of(operand)[axis]
        if isinstance(size, int):
            fills.add(fill_of(operand))
            frames += size
        else:
            fills.add(None)
    fill = fills.pop() if fills else 0.0
    if fills or fill is None:
        raise work.refusal(
            "puts frames in front that are not one constant, or not a fixed number of"
            " them"
        )
    return frames, fill


def _spread_operands(work: Rewriter, node: ir.Node) -> None:
    """Give operands that are computed from sizes one frame per frame of the others."""
    moving = [value for value in node.inputs if value in work.flows and value]
    partner = max(moving, key=lambda value: work.flows[value].delay)
    for index, value in enumerate(node.inputs):
        if value is None or value in work.flows or work.time_of(value) is None:
            continue
        result = count_on(work, value, partner)
        node.replace_input_with(
            index, spread(work, result, value=value, partner=partner)
        )


def choice(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Slice: along another axis, without the first or last frames, of every
    k-th frame, or of the last frames.
    """
    flow = work.flows[value]
    rank = len(axes_of(value))
    axes = [axis % rank for axis in _axes_cut(work, node)]
    if flow.axis not in axes:
        per_frame(work, node, value)
        return
    starts = numbers(work, node, 1)
    if len(axes) > 1:
        raise work.refusal("cuts time and another axis at once")
    start = starts[0]
    step = numbers(work, node, index=4, default=[1])[0]
    end = elements(node.inputs[2], 1)[0]
    has_end = end is not None and end < 2**31 - 1
    keeps_time = work.time_of(node.outputs[0]) is not None
    to_the_end = end is not None and not has_end and not keeps_time
    if (start, end, step) == (0, 1, 1):
        work.first[node.outputs[0]] = value
    elif start < 0 and step == 1 and to_the_end:
        last_frames(work, node, value=value, flow=flow, frames=-start)
    elif start < 0 or step < 1:
        raise work.refusal("selects frames from the end")
    elif step == 1:
        hand_on(work, node, *work.shift(value, flow, -start))
    else:
        every_frame(work, node, value=value, flow=flow, start=start, step=step)


def _axes_cut(work: Rewriter, node: ir.Node) -> list[int]:
    """Return the axes that a Slice cuts."""
    if len(node.inputs) > 3 and node.inputs[3] is not None:
        return numbers(work, node, 3)
    return [*range(len(numbers(work, node, 1)))]


def every_frame(
    work: Rewriter,
    node: ir.Node,
    value: ir.Value,
    flow: Flow,
    start: int,
    step: int,
) -> None:
    """Let a Slice take every ``step``-th frame."""
    late = replace(flow, delay=flow.delay + start)
    joined, flow = work.look_back(value, late, taps=1, stride=step)
    node.replace_input_with(0, joined)
    node.replace_input_with(1, work.constant([0]))
    node.replace_input_with(2, work.constant([END]))
    work.set(node.outputs[0], flow)


def tile(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Tile of other axes."""
    flow = work.flows[value]
    repeats = elements(node.inputs[1], len(axes_of(value)))
    if repeats[flow.axis] != 1:
        raise work.refusal("repeats the sequence")
    per_frame(work, node, value)


def last_frames(
    work: Rewriter, node: ir.Node, value: ir.Value, flow: Flow, frames: int
) -> None:
    """Let a Slice or Gather take the last frames of the stream."""
    padded, flow = work.pad_front(value, flow)
    source = work.past(padded, flow, frames - 1) if frames > 1 else padded
    node.replace_input_with(0, source)
    work.take_last(node.outputs, value, flow=flow, frames=frames)


def gather(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Gather along another axis, or of the last frame."""
    flow = work.flows[value]
    axis = node.attributes.get_int("axis", 0) % len(axes_of(value))
    reads_table = node.inputs[0] is not value  # with indices that move
    if reads_table or axis != flow.axis:
        per_frame(work, node, value)
        return
    index = constant(node.inputs[1])
    if index is None or index.size != 1 or int(index.flat[0]) != -1:
        raise work.refusal("selects frames")
    last_frames(work, node, value=value, flow=flow, frames=1)


def transposed(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite ConvTranspose: what its last taps add to later frames is a state."""
    flow = work.flows[value]
    dim = flow.axis - 2
    kernel = kernel_of(work, node)
    if dim < 0 or "output_shape" in node.attributes:
        raise work.refusal("takes time for channels or rows, or pads by its length")
    value, flow = work.pad_front(*work.clean(value, flow, 0.0))
    rank = len(kernel)
    result = node.outputs[0]
    stride = (ints(node, "strides") or [1] * rank)[dim]
    dilation = (ints(node, "dilations") or [1] * rank)[dim]
    pads = ints(node, "pads") or [0] * (2 * rank)
    extra = ints(node, "output_padding") or [0] * rank
    spread_flow = Flow(flow.axis, flow.delay * stride + pads[dim], flow.rate * stride)
    pads[dim] = 0
    pads[dim + rank] = 0
    extra[dim] = 0
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    attributes = {**node.attributes, "pads": pads, "output_padding": extra}
    spread = work.add("ConvTranspose", value, node.inputs[1], like=result, **attributes)
    span = (kernel[dim] - 1) * dilation + 1
    summed = overlap_add(work, spread, flow=spread_flow, overlap=span - stride)
    if bias is not None:
        spatial = work.constant([*range(1, rank + 1)])
        per_channel = work.add("Unsqueeze", bias, spatial)
        summed = work.add("Add", summed, per_channel)
    hand_on(work, node, value=summed, flow=spread_flow)


def overlap_add(work: Rewriter, spread: ir.Value, flow: Flow, overlap: int) -> ir.Value:
    """Return the frames of a call that are complete; the last ``overlap`` frames, to
    which later calls add, are a state.
    """
    if overlap <= 0:  # empty frames between those of two frames
        pads = [0] * (2 * len(axes_of(spread)))
        pads[len(pads) // 2 + flow.axis] = -overlap
        return work.add("Pad", spread, work.constant(pads)) if overlap else spread
    axis = flow.axis
    state = work.state(
        "overlap", with_frames(spread, flow, overlap), dtype=spread.dtype, reset=0.0
    )
    begun = work.add("Add", work.cut(spread, axis, start=0, end=overlap), state)
    joined = work.add("Concat", begun, work.cut(spread, axis, start=overlap), axis=axis)
    work.end_state(work.cut(joined, axis, start=-overlap))
    return work.cut(joined, axis, start=0, end=-overlap)


def repeat(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Resize that repeats each frame a whole number of times."""
    flow = work.flows[value]
    modes = {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    }
    time = work.time_of(node.outputs[0])
    rate = None if time is None else time.rate
    ratio = Fraction(0) if rate is None else rate / flow.rate
    repeats_whole = ratio > 0 and ratio.denominator == 1
    has_modes = all(
        node.attributes.get_string(name, "") == mode for name, mode in modes.items()
    )
    if not repeats_whole or not has_modes:
        raise work.refusal("interpolates between frames")
    value, flow = work.pad_front(value, flow)
    node.replace_input_with(0, value)
    delay = flow.delay * int(ratio)
    work.set(node.outputs[0], Flow(flow.axis, delay, flow.rate * ratio))


def sum_so_far(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a CumSum over time: the sum of all earlier frames is a state."""
    flow = work.flows[value]
    if numbers(work, node, 1)[0] % len(axes_of(value)) != flow.axis:
        per_frame(work, node, value)
        return
    if node.attributes.get_int("exclusive", 0) or node.attributes.get_int("reverse", 0):
        raise work.refusal("sums backwards, or without the frame itself")
    value, flow = work.pad_front(*work.clean(value, flow, 0.0))
    state = work.state(
        "total", with_frames(value, flow, 1), dtype=value.dtype, reset=0.0
    )
    of_call = work.add("CumSum", value, node.inputs[1])
    total = work.add("Add", of_call, state, like=value)
    work.end_state(work.cut(total, flow.axis, start=-1))
    hand_on(work, node, value=total, flow=replace(flow, fill=None))


def recurrent(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite LSTM, GRU and RNN: their states are inputs already, and stay at reset
    before frame 0.
    """
    flow = work.flows[value]
    if flow.axis == 1 and node.inputs[0] is value:  # runs over another axis
        per_frame(work, node, value)
        return
    is_input = node.inputs[0] is value
    has_usual_layout = node.attributes.get_int("layout", 0) == 0
    if flow.axis != 0 or not is_input or not has_usual_layout:
        raise work.refusal("does not run over the first axis of its input")
    direction = node.attributes.get_string("direction", "forward")
    if direction != "forward":
        reason = f"is {direction} and reads time backwards"
        raise work.refusal(reason + _advice_on_axes(work))
    padded, flow = work.pad_front(value, flow)
    if flow.delay > 0:
        padded = hold(work, node, value=padded, flow=flow)
    node.replace_input_with(0, padded)
    work.set(node.outputs[0], replace(flow, fill=None))
    work.take_last(node.outputs[1:], value, flow=flow, frames=1)


def _advice_on_axes(work: Rewriter) -> str:
    """Return how to name time if an input has another axis that may be time."""
    for source in data_inputs(work.graph):
        names = [axis for axis in axes_of(source) if isinstance(axis, str)]
        others = {*names} - {work.batch, work.sequence}
        if work.sequence in names and others:
            return (
                f"; if time is axis {min(others)} of {source.name} and not"
                f" {work.sequence}, name it and give the other as a number with inputs="
            )
    return ""


def scan(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite a Scan over time whose states are inputs: a step reads its slices
    alone.
    """
    first = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
    _check_captured(work, node)
    if not all(source and work.is_from_state(source) for source in node.inputs[:first]):
        raise work.undecided("starts again with every call")
    read = work.flows[value]
    axes = ints(node, "scan_input_axes") or [0] * (len(node.inputs) - first)
    for index, axis in enumerate(axes, first):
        node.replace_input_with(
            index, _scanned(work, node.inputs[index], axis=axis, read=read)
        )
    if is_reversed(node) or any(ints(node, "scan_output_directions")):
        raise work.refusal("reads time backwards")
    for result in node.outputs[first:]:
        time = work.time_of(result)
        work.set(result, Flow(0 if time is None else time.index, rate=read.rate))
    work.take_last(node.outputs[:first], value, flow=replace(read, delay=0), frames=1)


def _check_captured(work: Rewriter, node: ir.Node) -> None:
    """Refuse a body that reads frames which are not scanned."""
    operands = [value for value in node.inputs if value is not None]
    captured = [*values_read(node)][len(operands) :]
    if any(source in work.flows or source in work.last for source in captured):
        raise work.refusal("reads all frames in each step")


def _scanned(
    work: Rewriter, source: ir.Value | None, axis: int, read: Flow
) -> ir.Value:
    """Return an input that a Scan reads along an axis, without delay and at the rate of
    ``read``.
    """
    flow = None if source is None else work.flows.get(source)
    if source is None or flow is None:
        raise work.undecided("reads values that are computed from sizes or states")
    if not axes_of(source):
        raise work.refusal(
            f"reads {source.name}, which restarts with every call; count the steps in the"
            " loop, n = n + 1"
        )
    if axis % len(axes_of(source)) != flow.axis:
        raise work.refusal("does not run over time")
    padded, flow = work.pad_front(source, flow)
    if flow.delay > 0 or flow.rate != read.rate:
        raise work.refusal("lags; pad in front of it, or use a layer of torch.nn")
    return padded


def hold(work: Rewriter, node: ir.Node, value: ir.Value, flow: Flow) -> ir.Value:
    """Return ``value`` so that a recurrent layer stays at zero until its first frame.

    Before it the layer reads zeros, and two more features that are 1 there and 0 later.
    Their weights cancel the biases that would move a state at zero: the cell gate of an
    LSTM, the hidden gate of a GRU (with the reset gate at one half), an RNN. They are
    as large as biases, as int8 and fp16 need.
    """
    biases = constant(_operand(node, 3))
    weights = _held_weights(work, node)
    value, flow = work.clean(value, flow, 0.0)
    if biases is None:
        return value
    columns = _bias_columns(node, biases)
    rows = axes_of(value)[1]
    if rows not in (1, work.batch):
        raise work.refusal(f"lags, and has a fixed number of rows, {rows}")
    feature = work.add("Cast", work.mask(value, flow), to=int(value.dtype or 0))
    feature.type = ir.TensorType(value.dtype or ir.DataType.FLOAT)
    widened = np.concatenate([weights, columns], -1)
    node.replace_input_with(1, work.constant(widened, weights.dtype))
    return work.add("Concat", value, feature, feature, axis=2)


def _held_weights(work: Rewriter, node: ir.Node) -> Array:
    """Return the input weights of a layer that can be held at zero.

    Raises:
        NotStreamableError: its states do not start at zero, or stay there.
    """
    has_lengths = _operand(node, 4) is not None
    is_at_zero = not any(np.any(state.reset) for state in work.given_states)
    if has_lengths or _operand(node, 5) is None or not is_at_zero:
        raise work.refusal(
            "lags, and has lengths, or states that are not inputs or not zero at the"
            " start"
        )
    weights = constant(node.inputs[1])
    activations = [*(node.attributes.get_strings("activations", None) or ())]
    is_usual = activations in ([], ["Relu"], ["Tanh"]) and "clip" not in node.attributes
    if weights is None or not is_usual:
        raise work.refusal(
            "lags, and has computed weights, clip or activations of its own"
        )
    return weights


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    """Return an input of a node; None if it is left out."""
    return node.inputs[index] if index < len(node.inputs) else None


def _bias_columns(node: ir.Node, biases: Array) -> Array:
    """Return two columns of weights that take the biases off, ``(D, G*H, 2)``, one per
    bias.
    """
    reset_gate = 0.5 if node.attributes.get_int("linear_before_reset", 0) else 1
    by_gate: dict[str, Any] = {
        "RNN": [[1, 1]],
        "LSTM": [[0, 0]] * 3 + [[1, 1]],
        "GRU": [[0, 0], [1, 1], [1, reset_gate]],
    }
    hidden = node.attributes.get_int("hidden_size", 0)
    fractions = np.repeat(by_gate[node.op_type], hidden, 0).astype(biases.dtype)
    columns: Array = -np.stack(np.split(biases, 2, axis=1), axis=-1) * fractions
    return columns


def reshape(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Count the frames of the result by the data; join or split frames where the rate
    changes.
    """
    flow = work.flows[value]
    result = node.outputs[0]
    sizes = node.inputs[1]
    time = work.time_of(result)
    if time is None or sizes is None:
        raise work.refusal("reads all time")
    if time.rate is None:
        raise work.refusal("selects frames, or changes their number")
    axis = time.index
    ratio = time.rate / flow.rate
    if ratio != 1:
        if axes_of(value)[: flow.axis] != axes_of(result)[:axis]:
            raise work.refusal("joins frames with other axes")
        value, flow = work.pad_front(value, flow)
        value, flow = work.wait(value, flow, -flow.delay % ratio.denominator)
        flow = replace(flow, delay=int(flow.delay * ratio), rate=flow.rate * ratio)
    frames = -1 if node.op_type == "Reshape" else 1  # Expand keeps an axis by 1
    shape = []
    for index, size in enumerate(axes_of(result)):
        if index == axis:
            shape.append(work.constant([frames]))
        elif isinstance(size, int):
            shape.append(work.constant([size]))
        else:
            shape.append(work.cut(sizes, axis=0, start=index, end=index + 1))
    node.replace_input_with(0, value)
    node.replace_input_with(1, work.add("Concat", *shape, axis=0))
    work.set(result, replace(flow, axis=axis))


def layout(work: Rewriter, node: ir.Node, value: ir.Value) -> None:
    """Rewrite an operator that only moves elements: padding may be filled in after
    it.
    """
    flow = work.flows[value]
    for result in node.outputs:
        time = work.time_of(result)
        if time is None:
            raise work.refusal("does not keep time")
        work.set(result, replace(flow, axis=time.index))


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(PER_FRAME, per_frame),
    **dict.fromkeys(MOVING_AXES, layout),
    **dict.fromkeys(("Expand", "Reshape"), reshape),
    **dict.fromkeys(("AveragePool", "Conv", "MaxPool"), windows),
    "Pad": pad,
    "Concat": concat,
    "Slice": choice,
    "Tile": tile,
    "Gather": gather,
    "ConvTranspose": transposed,
    "CumSum": sum_so_far,
    "Resize": repeat,
    **dict.fromkeys(("GRU", "LSTM", "RNN"), recurrent),
    "Scan": scan,
}
"""By operator; any other is refused."""
