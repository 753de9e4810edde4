"""The axes of a graph's inputs: which one is batch or time, their names, and fixed ones made dynamic."""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from ..evaluate import numbers_of
from ..graph import UniqueNames, axes_of, constant, data_inputs, dynamic_axes, forget_shapes, infer_shapes
from ..recurrent import LENGTHS, is_recurrent, recurrent_nodes
from .subgraphs import Recurrence, SequenceInput, generalize_loops, recurrences

BATCH, SEQUENCE = "batch", "sequence"

# fmt: off
_KEEPING = (
    "Abs", "BatchNormalization", "Cast", "Clip", "CumSum", "Dropout", "Elu", "Erf", "Exp", "Floor", "Gelu",
    "GroupNormalization", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "MatMul", "Neg", "Not", "Pad", "PRelu",
    "Reciprocal", "Relu", "ReverseSequence", "Round", "Selu", "Sigmoid", "Sign", "Slice", "Softmax",
    "Softplus", "Split", "Sqrt", "Tanh", "ThresholdedRelu",
)
"""Operators whose first operand has the batch and time axes of the result."""
_COMBINING = (
    "Add", "Concat", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Pow", "Sub", "Sum", "Where",
)
# fmt: on
"""Operators of which every operand of the result's rank has them."""
_WINDOWED = ("AveragePool", "Conv", "LpPool", "MaxPool")
"""Operators that keep the batch at 0 and keep each further axis in its place."""
_UNKNOWN = r"unk__\d+"
"""How tf2onnx calls an axis that it knows nothing of."""


def fixed_roles(model: ir.Model) -> dict[str, int]:
    """Return the sizes of ``batch`` and ``sequence`` if all inputs declare the same fixed ones.

    Empty if a constant ``sequence_lens`` fixes both.
    """
    if any(
        len(node.inputs) > LENGTHS and constant(node.inputs[LENGTHS]) is not None
        for node in recurrent_nodes(model)
    ):
        return {}
    sizes: dict[str, set[int]] = {}
    for value, roles in axis_roles(model).items():
        for axis, role in roles.items():
            size = axes_of(value)[axis]
            if isinstance(size, int) and not value.is_initializer():
                sizes.setdefault(role, set()).add(size)
    return {role: found.pop() for role, found in sizes.items() if len(found) == 1}


def free_axes(model: ir.Model, make_dynamic: Mapping[str, int]) -> ir.Model:
    """Let no Reshape and no loop count to a declared size of the axes to make dynamic; return a copy.

    Raises:
        ContractError: see ``generalize_loops``.
    """
    if make_dynamic:
        _generalize_reshapes(model)
    if SEQUENCE in make_dynamic:
        generalize_loops(model)
    return model.clone()  # in a copy, nodes without a name are numbered from 0


def name_axes(
    model: ir.Model, given: Mapping[str, Axes], make_dynamic: Mapping[str, int]
) -> tuple[dict[str, str], bool]:
    """Name every dynamic axis of the inputs, in place.

    Names in the file are kept. An axis without one is ``N`` or ``L`` if a recurrent node shows that
    it is the batch or the time, else by its place: the first is the batch, the second of three or more the
    time.

    Args:
        model: the graph.
        given: axes by input name that replace those declared.
        make_dynamic: which of ``batch`` and ``sequence`` to make dynamic if the inputs declare them
            fixed.

    Returns:
        The names of the batch and time axes; and whether the graph does not tell which axes these are.

    Raises:
        InputError: ``given`` names an input that is not there, or has another rank.
    """
    take_given(model.graph, given)
    _forget_unknown(model.graph)
    roles = axis_roles(model)
    _tell_apart(roles)
    names = {BATCH: _known(roles, BATCH) or "N", SEQUENCE: _known(roles, SEQUENCE) or "L"}
    changed = guessed = False
    for value in data_inputs(model.graph):
        shape = value.shape
        if shape is None or value.name in given:
            continue
        told = roles.get(value, {})
        for axis, size in enumerate(shape):
            role = told.get(axis)
            if isinstance(size, int):
                if role is not None and role in make_dynamic:
                    shape[axis] = names[role]
                    changed = True
            elif size.value is None:
                guessed |= not told
                role = role or (None if told else _by_place(axis, len(shape)))
                shape[axis] = names[role] if role else f"{value.name}_{axis}"
    if changed or given:
        forget_shapes(model)
    infer_shapes(model)
    return names, guessed or not {*names.values()} <= {*dynamic_axes(model.graph)}


def swap_names(model: ir.Model) -> None:
    """Call N what is called L, and the other way round."""
    _rename(data_inputs(model.graph), {"N": "L", "L": "N"})
    forget_shapes(model)
    infer_shapes(model)


def _generalize_reshapes(model: ir.Model) -> None:
    """Let a Reshape that only drops a node's direction axis take any batch and length, in place.

    The declared sizes must still be there.

    PyTorch's exporter, given a fixed shape, turns ``(L, N, 1, H)`` into ``(L, N, H)`` by three numbers. With
    0 for an axis that stays in its place and -1 for one that moves up, they do the same at every size.
    """
    infer_shapes(model)
    names = UniqueNames(model.graph)
    for node in recurrent_nodes(model):
        value, axis = node.outputs[0], 2 if node.attributes.get_int("layout", 0) else 1
        while len(users := list(value.uses())) == 1 and users[0].node.op_type == "Transpose":
            axis = list(users[0].node.attributes.get_ints("perm", (3, 2, 1, 0))).index(axis)
            value = users[0].node.outputs[0]
        sizes = list(axes_of(value))
        for user, place in users:
            target = constant(user.inputs[1]) if user.op_type == "Reshape" and place == 0 else None
            dropped = sizes[:axis] + sizes[axis + 1 :]
            if target is None or axis not in (1, 2) or sizes[axis] != 1 or target.tolist() != dropped:
                continue
            name = names.unique(f"{user.name}.sizes")
            numbers = ir.tensor(np.array([0, -1 if axis == 1 else 0, dropped[2]]), name=name)
            target_value = ir.val(name, const_value=numbers)
            model.graph.register_initializer(target_value)
            user.replace_input_with(1, target_value)
            user.attributes.pop("allowzero", None)


def transpose_reshapes(model: ir.Model) -> None:
    """Replace a Reshape that only swaps the first two of three axes by a Transpose, in place.

    tf2onnx writes one if batch or time is 1 and every size is declared; a Transpose works at every size.
    """
    for node in [node for node in model.graph if node.op_type == "Reshape" and node.domain == ""]:
        source, target = node.inputs[0], constant(node.inputs[1])
        sizes = () if source is None else axes_of(source)
        if target is None or len(sizes) != 3 or target.tolist() != [sizes[1], sizes[0], sizes[2]]:
            continue
        if 1 in sizes[:2] and sizes[0] != sizes[1]:
            swapped = ir.node("Transpose", [source], {"perm": [1, 0, 2]}, name=node.name)
            old, new = node.outputs[0], swapped.outputs[0]
            new.name, new.type, new.shape = old.name, old.type, old.shape
            model.graph.insert_before(node, swapped)
            ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
            model.graph.remove(node, safe=True)


def _forget_unknown(graph: ir.Graph) -> None:
    """Take away the names that tf2onnx makes up, one for every unknown axis."""
    axes = {axis for value in data_inputs(graph) for axis in axes_of(value)}
    _rename(data_inputs(graph), {axis: None for axis in axes if re.fullmatch(_UNKNOWN, str(axis))})


def _rename(values: Iterable[ir.Value], names: Mapping[int | str, int | str | None]) -> None:
    """Replace the axes of ``values`` that are in ``names``, in place."""
    for value in values:
        for place, axis in enumerate(axes_of(value)):
            if axis in names and value.shape is not None:
                value.shape[place] = names[axis]


def _tell_apart(roles: Mapping[ir.Value, Mapping[int, str]]) -> None:
    """Take the name away from a batch and a time that share it: some files call every dynamic axis ``?``."""
    for value, told in roles.items():
        names = {role: axes_of(value)[axis] for axis, role in told.items()}
        if (
            value.shape is not None
            and names.get(BATCH) == names.get(SEQUENCE)
            and isinstance(names[BATCH], str)
        ):
            for axis in told:
                value.shape[axis] = None


def _by_place(axis: int, rank: int) -> str | None:
    if axis == 0:
        return BATCH
    return SEQUENCE if axis == 1 and rank > 2 else None


def take_given(graph: ir.Graph, given: Mapping[str, Axes]) -> None:
    """Declare the inputs as given, in place; others that share an axis by its old name take the new one.

    Raises:
        InputError: ``given`` names an input that is not there, or has another rank.
    """
    inputs = {str(value.name): value for value in data_inputs(graph)}
    renamed: dict[int | str, int | str | None] = {}
    for name, axes in given.items():
        _check_given(name, axes, inputs)
        old = axes_of(inputs[name])
        renamed |= {was: axis for was, axis in zip(old, axes, strict=False) if isinstance(was, str)}
        inputs[name].shape = ir.Shape(axes)
    _rename((value for name, value in inputs.items() if name not in given), renamed)


def _check_given(name: str, axes: Axes, inputs: Mapping[str, ir.Value]) -> None:
    if name not in inputs:
        raise InputError(f"no input {name!r}; the inputs are {', '.join(inputs)}")
    declared = axes_of(inputs[name])
    if inputs[name].shape is not None and len(declared) != len(axes):
        raise InputError(f"input {name} has {len(declared)} axes, {len(axes)} were given: {axes}")
    for axis in axes:
        if (isinstance(axis, str) and axes.count(axis) > 1) or (isinstance(axis, int) and axis < 1):
            raise InputError(
                f"input {name} was given the axes {axes}: sizes are from 1, and no two names are the same"
            )


def _known(roles: Mapping[ir.Value, Mapping[int, str]], role: str) -> str | None:
    """Return the name that the file itself has for a role."""
    for value, told in roles.items():
        for axis, found in told.items():
            size = value.shape[axis] if value.shape is not None else None
            if found == role and isinstance(size, ir.SymbolicDim) and size.value:
                return size.value
    return None


def axis_roles(model: ir.Model) -> dict[ir.Value, dict[int, str]]:
    """Map graph inputs to the roles of their axes, as far as they follow from the graph.

    Followed back from X, ``sequence_lens`` and the initial states of every recurrent node.
    """
    found: dict[ir.Value, dict[int, str]] = {}
    inputs = set(model.graph.inputs)
    for each in recurrences(model):
        for value, roles in _told_by(each):
            for source, axes in _origins(value, roles):
                if source in inputs and source.shape is not None:
                    known = found.setdefault(source, {})
                    for axis, role in axes.items():
                        if 0 <= axis < len(source.shape):
                            known.setdefault(axis, role)
    return found


def follows_input(each: SequenceInput, graph: ir.Graph) -> bool:
    """Return whether the steps that are read are an axis of an input, by the graph alone."""
    return any(
        source in graph.inputs and roles for source, roles in _origins(each.value, {each.time: SEQUENCE})
    )


def row_orders(node: ir.Node) -> tuple[ir.Value, ...]:
    """Return the computed indices by which rows are gathered between the inputs and a node's X, in order."""
    value, axis = node.inputs[0], 0 if node.attributes.get_int("layout", 0) else 1
    found: list[ir.Value] = []
    while value is not None and (above := value.producer()) is not None and above.domain == "":
        if above.op_type == "Gather" and constant(above.inputs[1]) is None and _gathers(above, axis):
            found.append(above.inputs[1])  # type: ignore[arg-type]
            value = above.inputs[0]
            continue
        axes = list(_back(above, value, {axis: BATCH}))
        sources = _sources(above, value)
        if not axes or not sources:
            break
        value, axis = sources[0], axes[0]
    return tuple(reversed(found))


def _gathers(node: ir.Node, axis: int) -> bool:
    """Return whether a Gather picks entries along ``axis`` of its first operand by a vector of indices."""
    data, indices = node.inputs[:2]
    if data is None or indices is None or indices.shape is None or len(indices.shape) != 1:
        return False
    return constant(data) is None and _at(node.attributes.get_int("axis", 0) or 0, data) == axis


def _told_by(each: Recurrence) -> Iterator[tuple[ir.Value, dict[int, str]]]:
    yield from ((read.value, {read.time: SEQUENCE, read.batch: BATCH}) for read in each.reads)
    if each.looped:
        return
    states = 0 if each.node.attributes.get_int("layout", 0) else 1
    for value, axis in zip(each.node.inputs[LENGTHS:7], (0, states, states), strict=False):
        if value is not None:
            yield value, {axis: BATCH}


def _origins(value: ir.Value, roles: dict[int, str]) -> Iterator[tuple[ir.Value, dict[int, str]]]:
    """Follow a value back as far as the roles of its axes are known."""
    waiting, seen = [(value, roles)], {value}
    while waiting:
        value, roles = waiting.pop()
        node = value.producer()
        if node is None:
            yield value, roles
        elif node.domain == "":
            told = _back(node, value, roles)
            for source in _sources(node, value) if told else ():
                if source not in seen:
                    seen.add(source)
                    waiting.append((source, _without_broadcast(node, source, value, told)))


def _sources(node: ir.Node, result: ir.Value) -> list[ir.Value]:
    """Return the operands that are no constants: the first, and others of the result's rank."""
    operands = [entry for entry in node.inputs if entry is not None and constant(entry) is None]
    rank = None if result.shape is None else len(result.shape)
    return [
        entry
        for place, entry in enumerate(operands)
        if place == 0 or (node.op_type in _COMBINING and entry.shape is not None and len(entry.shape) == rank)
    ]


def _without_broadcast(
    node: ir.Node, source: ir.Value, result: ir.Value, roles: dict[int, str]
) -> dict[int, str]:
    """Drop the axes of an operand that are 1 and grow in the result."""
    if node.op_type not in _COMBINING or source.shape is None or result.shape is None:
        return roles
    pairs = list(zip(source.shape, result.shape, strict=False))
    return {
        axis: role
        for axis, role in roles.items()
        if axis >= len(pairs) or pairs[axis][0] != 1 or pairs[axis][1] == 1
    }


def _back(node: ir.Node, value: ir.Value, roles: dict[int, str]) -> dict[int, str]:
    """Return the roles of the axes of the node's operands."""
    find = _of_sequence if is_recurrent(node) else _SOURCES.get(node.op_type)
    moved = find(node, value, roles) if find else {}
    return {moved[axis]: role for axis, role in roles.items() if axis in moved}


def _at(axis: int, value: ir.Value) -> int:
    """Return an axis counted from the front, as far as the value's rank is known."""
    return axis + len(value.shape) if axis < 0 and value.shape is not None else axis


def _of_sequence(node: ir.Node, value: ir.Value, _: Collection[int]) -> dict[int, int]:
    """Map axes of a recurrent node's Y to X's."""
    if value.index():
        return {}
    return {0: 0, 1: 1} if node.attributes.get_int("layout", 0) else {0: 0, 2: 1}


def _in_place(node: ir.Node, value: ir.Value, axes: Collection[int]) -> dict[int, int]:
    """Map axes to themselves, except for the one along which a Concat joins."""
    joined = _at(node.attributes.get_int("axis", 0) or 0, value) if node.op_type == "Concat" else None
    return {axis: axis for axis in axes if axis != joined}


def _transposed(node: ir.Node, _: ir.Value, __: Collection[int]) -> dict[int, int]:
    return dict(enumerate(node.attributes.get_ints("perm", ()) or ()))


def _picked(node: ir.Node, _: ir.Value, axes: Collection[int]) -> dict[int, int]:
    """Map axes of the result of a Gather to its operand's: the first one's if the indices are constant."""
    picked, axis = constant(node.inputs[1]), node.attributes.get_int("axis", 0) or 0
    if picked is None and constant(node.inputs[0]) is not None:
        return {each: each for each in axes}
    if picked is None or axis < 0:
        return {}
    new = range(axis, axis + picked.ndim)
    return {place: place - picked.ndim + 1 if place >= axis else place for place in axes if place not in new}


def _resized(node: ir.Node, value: ir.Value, roles: Collection[int]) -> dict[int, int]:
    """Map axes of a Squeeze's or Unsqueeze's result to its operand's."""
    longer = value if node.op_type == "Unsqueeze" else node.inputs[0]
    axes = [_at(axis, longer) for axis in numbers_of(node, 1, "axes", {}) if longer is not None]
    if not axes or min(axes) < 0:
        return {}
    if node.op_type == "Unsqueeze":
        return {axis: axis - sum(new < axis for new in axes) for axis in roles if axis not in axes}
    kept = [axis for axis in range(max(roles, default=0) + len(axes) + 1) if axis not in axes]
    return {axis: kept[axis] for axis in roles}


_SOURCES: dict[str, Callable[[ir.Node, ir.Value, Collection[int]], dict[int, int]]] = {
    **dict.fromkeys((*_KEEPING, *_COMBINING, *_WINDOWED), _in_place),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _resized),
    "Transpose": _transposed,
    "Gather": _picked,
}
"""By operator: maps axes of the result to axes of its operand."""
