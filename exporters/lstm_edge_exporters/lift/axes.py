"""Naming the dynamic axes of a graph's inputs, and making those dynamic that only a declaration fixes."""

import re
from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from ..graph import UniqueNames, axes_of, constant, data_inputs, dynamic_axes, forget_shapes, infer_shapes
from ..recurrent import LENGTHS, recurrent_nodes
from .axis_roles import BATCH, SEQUENCE, axis_roles
from .table import Table, run_graph

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
    for value, roles in axis_roles(model.graph, model).items():
        for axis, role in roles.items():
            size = axes_of(value)[axis]
            if isinstance(size, int) and not value.is_initializer():
                sizes.setdefault(role, set()).add(size)
    return {role: found.pop() for role, found in sizes.items() if len(found) == 1}


def name_axes(
    model: ir.Model, given: Mapping[str, Axes], make_dynamic: frozenset[str]
) -> tuple[str | None, str | None, Table]:
    """Name every dynamic axis of the inputs, in place, and run the graph.

    Names in the file are kept. An axis without one is ``N`` or ``L`` if a recurrent node shows that
    it is the batch or the time, else by its place: the first is the batch, the second of three or more the
    time. Where the file's own names are left and the graph does not tell, running it does.

    Args:
        model: the graph.
        given: axes by input name that replace those declared.
        make_dynamic: which of ``batch`` and ``sequence`` to make dynamic if the inputs declare them
            fixed.

    Returns:
        The names of the batch and time axes, None if no dynamic axis is it; and what running the graph gave.

    Raises:
        InputError: ``given`` names an input that is not there, or has another rank.
    """
    take_given(model.graph, given)
    _forget_unknown(model.graph)
    roles = axis_roles(model.graph, model)
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
                if role in make_dynamic:
                    shape[axis] = names[role]
                    changed = True
            elif size.value is None:
                guessed |= not told
                role = role or (None if told else _by_place(axis, len(shape)))
                shape[axis] = names[role] if role else f"{value.name}_{axis}"
    if changed or given:
        forget_shapes(model)
    infer_shapes(model)
    bound, table = set(dynamic_axes(model.graph)), run_graph(model)
    if bound and (guessed or not bound >= set(names.values())):
        names, table = _corrected(model, names, table)
    batch, sequence = (names[role] if names[role] in bound else None for role in (BATCH, SEQUENCE))
    return batch, sequence, table


def generalize_reshapes(model: ir.Model) -> None:
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


def _corrected(model: ir.Model, names: dict[str, str], table: Table) -> tuple[dict[str, str], Table]:
    """Use the names found by running the graph; swap N and L if the guess was the reverse."""
    found = table.roles()
    if names == {BATCH: "N", SEQUENCE: "L"} and found == {BATCH: "L", SEQUENCE: "N"}:
        _rename(data_inputs(model.graph), {"N": "L", "L": "N"})
        forget_shapes(model)
        infer_shapes(model)
        return names, run_graph(model)
    others = set(found.values())
    return {role: found.get(role) or ("" if name in others else name) for role, name in names.items()}, table


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
