"""Operators of a loop's body that no state passes through run once for all steps,
outside of the loop.

In front of the loop stand those that read scanned inputs and constants only, behind it
those that nothing in the body needs. A product with weights always leaves; any other
operator leaves if no more elements per step pass into and out of the loop than before.
A state that holds the value of the step before is the sequence, shifted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import onnx_ir as ir

from ..graph import Builder, axes_of, constant
from ..streaming.rewrite import fill_of
from .all_steps import AllSteps, apply, for_all_steps, has_weights, is_plain_gemm
from .roll import ROLLED, RolledLoop

_NAMED_AXIS = 64
"""Number of elements that stands for an axis of any size."""
_LAST = np.array(-1)


def hoist(model: ir.Model) -> None:
    """Move operators out of the loops of the main graph, in place.

    Constants of the bodies are initializers of the main graph.
    """
    for node in [node for node in model.graph if ROLLED in node.meta]:
        if node.op_type == "Scan":
            _Scan(node).rewrite()


@dataclass(frozen=True)
class _Front:
    """What can leave a body in front of the loop."""

    changes: dict[ir.Node, AllSteps]
    """The operators, and how each is applied to all steps."""
    order: list[ir.Node | int]
    """Operators, and indices of states that are shifts, in the order of computation."""
    values: set[ir.Value]
    """Values of the body that have values of all steps outside."""


class _Scan:
    """One loop while operators leave it."""

    def __init__(self, node: ir.Node) -> None:
        """Read states, results and scanned inputs off a Scan."""
        self.node = node
        self.loop: RolledLoop = node.meta[ROLLED]
        self.body = node.attributes["body"].as_graph()
        self.build = Builder(node, node.name or "loop")
        count = len(node.inputs) - node.attributes["num_scan_inputs"].as_int()
        self.before = [*self.body.inputs[:count]]
        """States before a step."""
        self.after = [_original(value) for value in self.body.outputs[:count]]
        """States behind a step."""
        results = zip(self.body.outputs, node.outputs, strict=True)
        read = [pair for pair in [*results][count:] if _is_read(pair[1])]
        self.results = [_original(inner) for inner, _ in read]
        """Values that are collected and read behind the loop."""
        self.collects = [outer for _, outer in read]
        """The values of all steps of ``results``."""
        self.entries = [*self.body.inputs[count:]]
        self.outer: dict[ir.Value, ir.Value] = {}
        """Values of all steps outside of the loop, by those of the body."""
        for inner, outer in zip(self.entries, node.inputs[count:], strict=True):
            assert outer is not None
            self.outer[inner] = outer
        self.steps = axes_of(next(iter(self.outer.values())))[0]
        """Axis of the steps."""
        self.shifts: list[int] = []
        """Indices of the states that are shifts."""

    def rewrite(self) -> None:
        """Replace the loop by what stands in front of it, a smaller loop, and what
        stands behind it.
        """
        self._drop_copies()
        while self._split_products():
            pass
        self._add_by_products()
        self._move_to_front()
        self._drop_unread()
        behind = self._behind()
        self._replace_loop(behind)

    def _drop_copies(self) -> None:
        """Let readers in the body read originals; outputs are copied again later."""
        for node in [node for node in self.body if node.op_type == "Identity"]:
            original = _original(node.outputs[0])
            for reader, index in list(node.outputs[0].uses()):
                reader.replace_input_with(index, original)
        self.body.outputs.clear()
        self._remove([node for node in self.body if node.op_type == "Identity"])

    def _remove(self, nodes: Iterable[ir.Node]) -> None:
        """Remove operators of the body whose results nothing in it reads."""
        for node in reversed([*nodes]):
            self.body.remove(node, safe=True)

    def _drop_unread(self) -> None:
        """Remove operators of the body that nothing needs."""
        for node in reversed([*self.body]):
            needed = (*self.after, *self.results)
            if not any(value.uses() or value in needed for value in node.outputs):
                self.body.remove(node, safe=True)

    # Products

    def _split_products(self) -> bool:
        """Split products of ``Concat(x, h)`` into one of x, which leaves the loop, and
        one of h; return True if there was one.
        """
        outside = self._front(self._possible_shifts()).values
        products: dict[tuple[object, ...], ir.Value] = {}
        changed = False
        for node in [*self.body]:
            operands = _joined_operands(node)
            leaving = [operand in outside for operand in operands]
            if any(leaving) and not all(leaving):
                self._split(node, operands, leaving=leaving, products=products)
                changed = True
        return changed

    def _split(
        self,
        node: ir.Node,
        operands: Sequence[ir.Value],
        leaving: Sequence[bool],
        products: dict[tuple[object, ...], ir.Value],
    ) -> None:
        """Replace a product of joined operands by the sum of two; ``products`` are those
        that exist already.
        """
        build = Builder(node, self.node.name or "loop")
        summands = []
        for is_leaving in (True, False):
            chosen = [at for at, leaves in enumerate(leaving) if leaves == is_leaving]
            bias = node.inputs[2:] if is_leaving else []
            key = (*node.inputs[1:2], *bias, None, *(operands[at] for at in chosen))
            if key not in products:
                products[key] = self._product(
                    build, node, operands=operands, chosen=chosen, bias=bias
                )
            summands.append(products[key])
        total = build.value("Add", summands)
        total.shape = node.outputs[0].shape
        self._replace_in_results(node.outputs[0], total)
        build.replace([total])

    def _product(
        self,
        build: Builder,
        node: ir.Node,
        operands: Sequence[ir.Value],
        chosen: Sequence[int],
        bias: Sequence[ir.Value | None],
    ) -> ir.Value:
        """Return the product of some of the operands that ``node`` joins."""
        weight = constant(node.inputs[1])
        assert weight is not None
        axis = 1 if node.attributes.get_int("transB", 0) else 0
        ends = np.cumsum([axes_of(operand)[-1] for operand in operands])[:-1]
        blocks = np.split(weight, ends, axis)
        columns = np.concatenate([blocks[at] for at in chosen], axis)
        (joined, *others) = (operands[at] for at in chosen)
        if others:
            axes = axes_of(joined)[:-1]
            joined = build.value("Concat", [joined, *others], {"axis": -1})
            joined.shape = ir.Shape([*axes, columns.shape[axis]])
        inputs = [joined, self.build.constant(columns, "weight"), *bias]
        product = build.value(node.op_type, inputs, _attributes(node))
        product.shape = node.outputs[0].shape
        return product

    def _replace_in_results(self, old: ir.Value, new: ir.Value) -> None:
        """Let states and results be another value."""
        self.after = [new if value is old else value for value in self.after]
        self.results = [new if value is old else value for value in self.results]

    def _add_by_products(self) -> None:
        """Let products of states add what comes from outside: ``Gemm(h, w, sum)``."""
        outside = self._front(self._possible_shifts()).values
        for node in [node for node in self.body if node.op_type == "Add"]:
            for added, product in (node.inputs, node.inputs[::-1]):
                gemm = self._only_product(product)
                if gemm is not None and added in outside and _are_alike(added, product):
                    self._add_by_product(node, gemm, added)
                    break

    def _only_product(self, value: ir.Value | None) -> ir.Node | None:
        """Return the product with weights that gives ``value`` to one reader alone."""
        node = value.producer() if value is not None else None
        if node is None or value is None or node.op_type != "Gemm":
            return None
        is_inner = node.graph is self.body and len(value.uses()) == 1
        is_read = value in (*self.after, *self.results)
        is_usual = is_plain_gemm(node) and has_weights(node)
        return node if is_inner and is_usual and not is_read else None

    def _add_by_product(
        self, node: ir.Node, gemm: ir.Node, added: ir.Value | None
    ) -> None:
        """Replace the sum ``node`` of a product and a value from outside."""
        build = Builder(node, self.node.name or "loop")
        for bias in gemm.inputs[2:]:
            shape = added.shape if added is not None else None
            added = build.value("Add", [added, bias])
            added.shape = shape
        total = build.value("Gemm", [*gemm.inputs[:2], added], _attributes(gemm))
        total.shape = node.outputs[0].shape
        self._replace_in_results(node.outputs[0], total)
        build.replace([total])
        self.body.remove(gemm, safe=True)

    # In front

    def _possible_shifts(self) -> list[int]:
        """Return the states that a shifted sequence may replace: the steps in front of
        the first one hold one number.
        """
        firsts = self.node.inputs[: len(self.before)]
        return [
            index
            for index, value in enumerate(firsts)
            if value is not None and fill_of(value) is not None and not self.loop.peeled
        ]

    def _front(self, shifts: Sequence[int]) -> _Front:
        """Return what can leave in front, if these states may be shifts."""
        front = _Front({}, [], {*self.outer})
        size = -1
        while len(front.order) > size:
            size = len(front.order)
            for node in self.body:
                change = None if node in front.changes else self._change(node, front)
                if change is not None:
                    front.changes[node] = change
                    front.order.append(node)
                    front.values.update(node.outputs)
            for index in shifts:
                is_known = self.after[index] in front.values
                if is_known and self.before[index] not in front.values:
                    front.order.append(index)
                    front.values.add(self.before[index])
        return front

    def _change(self, node: ir.Node, front: _Front) -> AllSteps | None:
        """Return how an operator in front is applied to all steps, None if it reads a
        value of the loop.
        """
        timed = [value in front.values for value in node.inputs]
        inside = [self._is_inside(value) for value in node.inputs]
        return for_all_steps(node, timed) if timed == inside else None

    def _is_inside(self, value: ir.Value | None) -> bool:
        """Return True for a value that the body computes or that it is given."""
        if value is None:
            return False
        node = value.producer()
        is_given = value in self.before or value in self.outer
        return is_given or (node is not None and node.graph is self.body)

    def _move_to_front(self) -> None:
        """Move operators in front of the loop."""
        shifts = self._possible_shifts()
        while True:
            front = self._front(shifts)
            moved = self._chosen(front)
            possible = [
                index for index in shifts if self._is_shift(index, front, moved)
            ]
            if possible == shifts:
                break
            shifts = possible
        self.shifts = shifts
        for item in front.order:
            if isinstance(item, int):
                self.outer[self.before[item]] = self._shifted(item)
            elif item in moved:
                self._write(item, front.changes[item])
        for value in [value for value in self.outer if value not in self.entries]:
            self._enter(value, moved)
        self._remove([node for node in self.body if node in moved])

    def _enter(self, value: ir.Value, moved: set[ir.Node]) -> None:
        """Let what stays in the body read a value from outside."""
        entry = ir.val(self.build.name("x"), value.dtype, value.shape)
        for node, index in list(value.uses()):
            if node not in moved:
                node.replace_input_with(index, entry)
        self._replace_in_results(value, entry)
        self.entries.append(entry)
        self.outer[entry] = self.outer.pop(value)

    def _chosen(self, front: _Front) -> set[ir.Node]:
        """Return the operators that leave in front, with all that they read."""
        moved: set[ir.Node] = set()
        for item in reversed(front.order):
            if isinstance(item, int) or item in moved:
                continue
            group = self._group_above(item, front, moved)
            free = sum(_size(x.outputs[0]) for x in group if has_weights(x))
            larger = self._passing_in(front, moved | group)
            if larger <= self._passing_in(front, moved) + free:
                moved |= group
        return moved

    def _group_above(
        self, node: ir.Node, front: _Front, moved: set[ir.Node]
    ) -> set[ir.Node]:
        """Return ``node`` and the operators that it needs in front of the loop."""
        group = set[ir.Node]()
        waiting = [node]
        while waiting:
            current = waiting.pop()
            group.add(current)
            for value in current.inputs:
                source = value
                if value in self.before:
                    source = self.after[self.before.index(value)]
                above = source.producer() if source is not None else None
                if above in front.changes and above not in group | moved:
                    waiting.append(above)
        return group

    def _passing_in(self, front: _Front, moved: set[ir.Node]) -> int:
        """Return the number of elements per step that the loop reads or gives if these
        operators stand in front of it.
        """
        outside = {*self.outer, *(value for node in moved for value in node.outputs)}
        outside.update(value for value in self.before if value in front.values)
        ends = [
            value
            for before, value in zip(self.before, self.after, strict=True)
            if before not in front.values
        ]
        read = {
            value
            for value in outside
            if value in ends or _is_read_by_others(value, moved)
        }
        given = {value for value in self.results if value not in outside}
        return sum(map(_size, read | given))

    def _is_shift(self, index: int, front: _Front, moved: set[ir.Node]) -> bool:
        """Return True if a state is a shift that nothing in the body reads."""
        before = self.before[index]
        after = self.after[index]
        if before not in front.values:
            return False
        is_ready = after in self.outer or after in self.before
        is_ready = is_ready or after.producer() in moved
        return is_ready and all(node in moved for node, _ in before.uses())

    def _shifted(self, index: int) -> ir.Value:
        """Return the values of the steps before, for all steps."""
        values = self.outer[self.after[index]]
        first = self.node.inputs[index]
        first = self.build.value("Unsqueeze", [first, np.array([0])])
        bounds = [np.array([number]) for number in (0, -1, 0)]
        rest = self.build.value("Slice", [values, *bounds])
        rest.shape = ir.Shape([self.loop.rest, *axes_of(self.before[index])])
        shifted = self.build.value("Concat", [first, rest], {"axis": 0})
        self._describe(shifted, self.before[index])
        return shifted

    def _write(self, node: ir.Node, change: AllSteps) -> None:
        """Write an operator for all steps."""
        timed = [value in self.outer for value in node.inputs]
        operands = [self.outer.get(x, x) if x else None for x in node.inputs]
        made = apply(self.build, node, change=change, operands=operands, timed=timed)
        for value, inner in zip(made, node.outputs, strict=True):
            self._describe(value, inner)
            self.outer[inner] = value

    def _describe(self, value: ir.Value, inner: ir.Value) -> None:
        """Give the values of all steps the type and shape of those of one."""
        value.type = inner.type
        value.shape = ir.Shape([self.steps, *axes_of(inner)])

    # Behind

    def _behind(self) -> list[tuple[ir.Node, AllSteps]]:
        """Return the operators that leave behind the loop, in the order of the body."""
        changes = self._possible_behind()
        moved = set[ir.Node]()
        for node in self.body:
            if node not in changes or node in moved:
                continue
            group = _group_below(node)
            free = sum(_size(x.inputs[0]) for x in group if has_weights(x))
            larger = self._passing_out(moved | group)
            if larger <= self._passing_out(moved) + free:
                moved |= group
        return [(node, changes[node]) for node in self.body if node in moved]

    def _possible_behind(self) -> dict[ir.Node, AllSteps]:
        """Return the operators that no state needs, with none behind them that stays."""
        needed = {
            value for index, value in enumerate(self.after) if index not in self.shifts
        }
        changes = {}
        for node in reversed([*self.body]):
            readers = [reader for value in node.outputs for reader, _ in value.uses()]
            is_needed = not needed.isdisjoint(node.outputs)
            timed = [self._is_inside(value) for value in node.inputs]
            change = for_all_steps(node, timed)
            is_last = not is_needed and all(reader in changes for reader in readers)
            if is_last and change is not None:
                changes[node] = change
        return changes

    def _passing_out(self, moved: set[ir.Node]) -> int:
        """Return the number of elements per step that the loop gives if these operators
        stand behind it.
        """
        return sum(map(_size, self._collected(moved)))

    def _collected(self, moved: Iterable[ir.Node]) -> list[ir.Value]:
        """Return the values that the loop gives per step if operators stand behind it."""
        moved = [*moved]
        later = {value for node in moved for value in node.outputs}
        read = [*self.results, *(value for node in moved for value in node.inputs)]
        return [
            value
            for value in dict.fromkeys(read)
            if value is not None
            and self._is_inside(value)
            and value not in self.outer
            and value not in later
        ]

    # The loop

    def _replace_loop(self, behind: Sequence[tuple[ir.Node, AllSteps]]) -> None:
        """Write the smaller loop, and the operators behind it."""
        leaving = {node for node, _ in behind}
        lasts = self._write_loop(leaving)
        for node, change in behind:
            self._write(node, change)
        self._remove([node for node in self.body if node in leaving])
        lasts |= {index: self._last(index) for index in self.shifts}
        count = len(self.before)
        old = [*self.node.outputs[:count], *self.collects]
        new = [lasts[index] for index in range(count)]
        new += [self.outer[value] for value in self.results]
        for before, after in zip(old, new, strict=True):
            ir.convenience.replace_all_uses_with(
                before, after, replace_graph_outputs=True
            )
        graph = self.node.graph
        assert graph is not None
        graph.remove(self.node, safe=True)

    def _write_loop(self, behind: set[ir.Node]) -> dict[int, ir.Value]:
        """Write the loop, if anything is left in it; return the last states."""
        states = [k for k in range(len(self.before)) if k not in self.shifts]
        if not states and all(node in behind for node in self.body):
            return {}
        collected = self._collected(behind)
        scan = self._scan(states, collected, behind)
        self.outer.update(zip(collected, scan.outputs[len(states) :], strict=True))
        return dict(zip(states, scan.outputs, strict=False))

    def _last(self, index: int) -> ir.Value:
        """Return the last value of a state that is a shift."""
        values = self.outer[self.after[index]]
        last = self.build.value("Gather", [values, _LAST], {"axis": 0})
        last.type = self.before[index].type
        last.shape = self.before[index].shape
        return last

    def _scan(
        self, states: Sequence[int], collected: Sequence[ir.Value], behind: set[ir.Node]
    ) -> ir.Node:
        """Write the loop with the operators that stay."""
        outputs = [*(self.after[index] for index in states), *collected]
        entries = [
            entry
            for entry in self.entries
            if entry in outputs or _is_read_by_others(entry, behind)
        ]
        if not entries:  # a loop runs over something
            entries = [min(self.entries, key=_size)]
        scanned = [self.outer[entry] for entry in entries]
        self.body.inputs.clear()
        self.body.inputs.extend([*(self.before[k] for k in states), *entries])
        self.body.outputs.extend(outputs)
        old = self.node.attributes.pop("body")
        scan = ir.node(
            "Scan",
            [*(self.node.inputs[k] for k in states), *scanned],
            {"body": old.as_graph(), "num_scan_inputs": len(entries)},
            num_outputs=len(outputs),
            name=self.build.name("Scan"),
        )
        self.build.insert(scan)
        for index, (value, inner) in enumerate(zip(scan.outputs, outputs, strict=True)):
            value.name = self.build.name(f"Scan_{index}")
            self._describe(value, inner)
            if index < len(states):
                value.shape = self.before[states[index]].shape
        scan.meta[ROLLED] = self._without_shifts(states)
        return scan

    def _without_shifts(self, states: Sequence[int]) -> RolledLoop:
        """Return the description of the loop, without the states that are shifts."""
        slots = []
        for slot in self.loop.states:
            if slot.input in states:
                index = [*states].index(slot.input)
                slots.append(replace(slot, input=index, output=index))
        return replace(self.loop, states=tuple(slots))


def _is_read_by_others(value: ir.Value, nodes: set[ir.Node]) -> bool:
    """Return True if a node that is not one of ``nodes`` reads the value."""
    return any(node not in nodes for node, _ in value.uses())


def _is_read(value: ir.Value) -> bool:
    """Return True for values that a node or the caller reads."""
    return bool(value.uses()) or value.is_graph_output()


def _original(value: ir.Value) -> ir.Value:
    """Return what ``value`` is a copy of."""
    node = value.producer()
    while node is not None and node.op_type == "Identity" and node.inputs[0]:
        value = node.inputs[0]
        node = value.producer()
    return value


def _joined_operands(node: ir.Node) -> list[ir.Value]:
    """Return the operands that a product with weights joins along its last axis; none for
    other operators.
    """
    joined = node.inputs[0].producer() if node.inputs and node.inputs[0] else None
    is_product = has_weights(node) and (node.op_type == "MatMul" or is_plain_gemm(node))
    if not is_product or joined is None or joined.op_type != "Concat":
        return []
    rank = len(axes_of(joined.outputs[0]))
    operands = [operand for operand in joined.inputs if operand is not None]
    is_last = joined.attributes.get_int("axis", 0) % max(rank, 1) == rank - 1
    widths = [axes_of(operand)[-1:] for operand in operands]
    are_known = all(width and isinstance(width[0], int) for width in widths)
    return operands if is_last and are_known else []


def _are_alike(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Return True for two values of one shape."""
    if one is None or other is None or one.shape is None:
        return False
    return axes_of(one) == axes_of(other)


def _group_below(node: ir.Node) -> set[ir.Node]:
    """Return ``node`` and all operators that read what it gives."""
    group = set[ir.Node]()
    waiting = [node]
    while waiting:
        current = waiting.pop()
        if current not in group:
            group.add(current)
            for value in current.outputs:
                waiting += [reader for reader, _ in value.uses()]
    return group


def _size(value: ir.Value | None) -> int:
    """Return the number of elements of one step's value."""
    axes = () if value is None else axes_of(value)
    return prod(axis if isinstance(axis, int) else _NAMED_AXIS for axis in axes)


def _attributes(node: ir.Node) -> dict[str, object]:
    """Return the values of a node's attributes."""
    return {name: attribute.value for name, attribute in node.attributes.items()}
