"""One ``torch.export`` of a module in float64: its axes, and the sizes that they may have."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch._export.utils import node_inline_
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as _tracing
from torch.utils._sympy.numbers import int_oo

from lstm_edge_runtime.axes import parse_sum
from lstm_edge_runtime.errors import InputError, LstmEdgeError, UnsupportedError
from lstm_edge_runtime.manifest import LONGEST, Axes, AxisRange

from ..pairing import is_called_like_a_state
from .advice import fixing_line, frame_line, refusal, stack_line
from .call import Call, flatten_output
from .config import ExportConfig
from .floats import Floats
from .record import Recorder, RecurrentCall
from .sizes import keeping_sizes

_TRIED = (1, 2, 3, 4, 5, 7, 31, 40, 257, 1000, 4097, 10**6)
"""Sizes at which a condition on sizes is evaluated."""


@dataclass(frozen=True)
class Program:
    """A module as it was traced."""

    exported: ExportedProgram
    calls: tuple[RecurrentCall, ...]
    """The recurrent calls, their sizes as axes."""
    axes: Mapping[str, Axes]
    outputs: tuple[tuple[str, Axes], ...]
    """Name (empty if the module gives none) and axes of each output."""
    ranges: Mapping[str, AxisRange]
    """The sizes of each dynamic axis that does not take all."""
    symbols: Mapping[str, str]
    """What each of the tracer's symbols is: an axis, or the example's size."""
    batch: str | None
    sequence: str | None


class _Flat(nn.Module):
    """Flat tensors in, flat tensors out, every float in float64."""

    def __init__(self, module: nn.Module, call: Call, recorder: Recorder) -> None:
        super().__init__()
        self.module, self._call, self._recorder = module, call, recorder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        with Floats(torch.float64), self._recorder as recorder:
            recorder.begin([tensor.shape for tensor in tensors])
            flat = flatten_output(self._call.run(self.module, tensors))
            recorder.outputs.extend((name, tensor.shape) for name, tensor in flat)
        return tuple(tensor for _, tensor in flat)


def capture(module: nn.Module, call: Call, config: ExportConfig) -> Program:
    """Trace ``module``, a copy in float64 that is ours, once, with the example of ``call`` in float64.

    Raises:
        InputError: no axis is given, and no layer shows any.
        UnsupportedError: the module can't be traced, or fixes an axis that is to be dynamic.
    """
    given, recorder = config.given_axes(call.shapes), Recorder()
    recorder.instrument(module)
    dims = [
        [Dim.STATIC if isinstance(axis, int) else Dim.AUTO for axis in given.get(name, [""] * tensor.dim())]
        for name, tensor in zip(call.names, call.example, strict=True)
    ]
    tracing: Any = _tracing
    with quietly(), torch.no_grad(), tracing.patch(backed_size_oblivious=True), keeping_sizes(module):
        try:
            exported = torch.export.export(
                _Flat(module, call, recorder), call.example, dynamic_shapes=(tuple(dims),), strict=False
            )
        except LstmEdgeError:
            raise
        except Exception as error:
            raise refusal("can't be traced", error) from error
    _inline_autocast(exported.graph_module)
    for node in exported.graph.nodes:
        if isinstance(node.target, torch._ops.HigherOrderOperator):
            raise UnsupportedError(
                f"forward calls {node.target} ({stack_line(node.meta)}), which a file can't hold; use "
                "torch.where(condition, a, b) for a branch, nn.LSTM, nn.GRU or nn.RNN for a loop"
            )
    return _Sizes(exported, recorder, call, config, given).program()


def _inline_autocast(graph: torch.fx.GraphModule) -> None:
    """Inline regions of ``torch.autocast``, which leaves float64 as it is."""
    for node in graph.graph.find_nodes(op="call_function", target=torch.ops.higher_order.wrap_with_autocast):
        body, *inputs = node.args[4:]
        with graph.graph.inserting_before(node):
            call = graph.graph.call_module(body.target, tuple(inputs))
        call.meta = node.meta
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        node_inline_(call)
    graph.recompile()


@dataclass(frozen=True)
class _Sizes:
    """The sizes of one trace: what they are called, and what is known of them."""

    exported: ExportedProgram
    recorder: Recorder
    call: Call
    config: ExportConfig
    given: Mapping[str, Axes]

    def program(self) -> Program:
        """Name every axis; refuse what would be another function at another size."""
        if not self.names and not self.recorder.calls and not self.given:
            raise InputError(
                "can't tell which axes are batch and time, because forward calls no recurrent layer; pass "
                f'inputs={{"{self.call.names[0]}": ("N", "L", 8)}} (names for dynamic axes, numbers for '
                "fixed ones)"
            )
        self._refuse_fixed()
        ranges = dict(self._ranges())
        self._refuse_conditions(ranges)
        calls = [replace(c, steps=self.axis(c.steps), rows=self.axis(c.rows)) for c in self.recorder.calls]
        shapes = {name: tuple(map(self.axis, shape)) for name, shape, _ in self._inputs()}
        return Program(
            self.exported,
            tuple(calls),
            {**shapes, **self.given},
            tuple((name, tuple(map(self.axis, shape))) for name, shape in self.recorder.outputs),
            {name: limits for name, limits in ranges.items() if limits != AxisRange()},
            {str(symbol): str(found).replace(" ", "") for symbol, found in self._expressions.items()},
            self._seen("rows", "N"),
            self._seen("steps", "L"),
        )

    @cached_property
    def names(self) -> dict[str, str]:
        """The axis of each of the tracer's symbols: as given, or batch and time as the layers see them."""
        names = self._given_names()
        times, rows = (
            dict.fromkeys(each for call in self.recorder.calls for each in _growing(getattr(call, part)))
            for part in ("steps", "rows")
        )
        batches = [each for each in rows if each not in times] or [*rows]
        for stem, found in (("N", batches), ("L", [*times])):
            fresh = [each for each in found if each not in names and each.startswith("s")]
            taken = sum(stem in parse_sum(name)[0] for name in names.values())
            for number, each in enumerate(fresh, 1 + taken):
                names[each] = stem if number == 1 else f"{stem}{number}"
        names = names | self._of_batch_size(names) | self._of_signal(names)
        return {symbol: name for symbol, name in names.items() if symbol not in self._pinned or self.given}

    @cached_property
    def _pinned(self) -> set[str]:
        """The symbols that an equation fixes, as ``s0 + s1 = 12`` does."""
        equations = [guard for guard, _ in self._guards() if isinstance(guard, sympy.Eq)]
        sums = [sympy.expand(each.lhs - each.rhs) for each in equations]
        fixed = [each for each in sums if each.as_coeff_Add()[0] != 0 and each.is_polynomial()]
        sizes = self._example_sizes  # a stride along an axis of 1 may be any number
        pairs = ((symbol, each) for each in fixed for symbol in each.free_symbols)
        return {str(symbol) for symbol, each in pairs if sizes.get(symbol) != 1 or each == symbol - 1}

    def _guards(self) -> list[tuple[Any, str]]:
        """Every condition on sizes that the trace rests on, and the user's line that asked for it."""
        traced: list[Any] = [
            size for shape in self.recorder.shapes for size in shape if isinstance(size, torch.SymInt)
        ]
        guards = traced[0].node.shape_env.guards if traced else ()
        return [(guard.expr, frame_line(guard.sloc.framework_loc)) for guard in guards]

    @cached_property
    def _example_sizes(self) -> dict[Any, int]:
        """The example's size of each of the tracer's symbols, those that were replaced later too."""
        return {
            expression: tensor.shape[place]
            for _, shape, tensor in self._inputs()
            for place, size in enumerate(shape)
            if isinstance(size, torch.SymInt)
            for expression in (size.node.expr, size.node._expr)
            if expression.is_symbol
        }

    def _given_names(self) -> dict[str, str]:
        names: dict[str, str] = {}
        for name, shape, _ in self._inputs():
            for axis, size in zip(self.given.get(name, ()), shape, strict=False):
                if isinstance(axis, str) and isinstance(size, torch.SymInt) and size.node.expr.is_symbol:
                    other = names.setdefault(str(size.node.expr), axis)
                    if other != axis and axis.isidentifier():
                        raise UnsupportedError(
                            f"forward works only where axes {other} and {axis} have the same size; give them "
                            "the same name, or mend the order of its axes"
                        )
        return names

    def _of_batch_size(self, names: Mapping[str, str]) -> dict[str, str]:
        """Name first axes that no layer sees and that have the batch's size in the example."""
        firsts = [
            (str(shape[0]), tensor.shape[0])
            for name, shape, tensor in self._inputs()
            if name not in self.given
            and shape
            and isinstance(shape[0], torch.SymInt)
            and "N" not in [names.get(str(size)) for size in shape[1:]]
        ]
        batch = {size for symbol, size in firsts if names.get(symbol) == "N"}
        return {
            symbol: "N"
            for symbol, size in firsts
            if symbol not in names and symbol.isidentifier() and {size} == batch
        }

    def _of_signal(self, names: Mapping[str, str]) -> dict[str, str]:
        """Name the free axes of a network without recurrent layers: the first is the batch, another is time.

        They are those of the first input that is not called like a state.
        """
        if names or self.recorder.calls or self.given:
            return {}
        shapes = {name: shape for name, shape, _ in self._inputs()}
        signal = next((name for name in shapes if not is_called_like_a_state(name)), next(iter(shapes)))
        example = self.call.shapes[signal]
        free = {
            symbol: "L" if place else "N"
            for place, size in reversed([*enumerate(shapes[signal])])
            for symbol in _symbols(size)
            if symbol not in self._pinned and (place == 0 or example[place] > 1)  # one step stays one
        }
        return free if len({*free.values()}) == len(free) else {}

    def _inputs(self) -> Iterator[tuple[str, Sequence[Any], Tensor]]:
        return zip(self.call.names, self.recorder.shapes, self.call.example, strict=True)

    def axis(self, size: Any) -> int | str:
        """Return the axis of a traced size: a number, a name, or text in terms of names."""
        if (number := _fixed(size)) is not None:
            return number
        found = size.node.expr.subs(self._expressions)
        return int(found) if found.is_number else str(found).replace(" ", "")

    @cached_property
    def _expressions(self) -> dict[Any, Any]:
        """What each of the tracer's symbols is in terms of names; the example's size if it has none."""
        sizes = self._example_sizes
        every: list[Any] = [size for _, shape in self.recorder.outputs for size in shape]
        every += [size for call in self.recorder.calls for size in (call.steps, call.rows)]
        traced = (size.node.expr.free_symbols for size in every if isinstance(size, torch.SymInt))
        return {
            symbol: _sum(self.names[str(symbol)])
            if str(symbol) in self.names
            else _name(LONGEST)
            if str(symbol).startswith("u")
            else sympy.Integer(sizes.get(symbol, 1))
            for symbol in sizes.keys() | {symbol for symbols in traced for symbol in symbols}
        }

    def _refuse_fixed(self) -> None:
        """Refuse a size that the user's code takes for a number, where the axis is to be dynamic."""
        calls = self.recorder.calls
        sizes = {_fixed(size) for call in calls for size in (call.steps, call.rows)} - {None, 1}
        timeless = not any(_growing(call.steps) for call in calls) and not self.given
        for name, shape, tensor in self._inputs():
            for place, size in enumerate(shape):
                line = fixing_line(size)
                if isinstance(size, torch.SymInt) and "L" not in self.names.values():  # else it is channels
                    line = line or self.recorder.loops.get(size.node._expr, "")
                last = len(shape) - tensor.is_floating_point()  # features are no time, tokens have none
                looped = timeless and bool(line) and 0 < place < last and tensor.shape[place] > 1
                free = looped or (place == 0 and _fixed(size) in sizes)
                wanted = isinstance(self.given[name][place], str) if name in self.given else free
                if wanted and _fixed(size) is not None:
                    raise UnsupportedError(
                        f"forward fixes axis {place} of {name} at {tensor.shape[place]}"
                        f"{f' ({line})' if line else ''}: a loop, a layer or a kept state takes the size for "
                        "a number; use tensor operations over the whole axis, take and return the state and "
                        "export one step a call: --input x=N,1,8, or fix the axis: "
                        f"inputs={{{name!r}: (... {tensor.shape[place]} ...)}}"
                    )

    def _ranges(self) -> Iterator[tuple[str, AxisRange]]:
        """Yield the sizes of each dynamic axis: those that are asked for, within what the tracer promises."""
        guards = [guard for guard, line in self._guards() if line]
        for symbol, bounds in self.exported.range_constraints.items():
            factors, constant = parse_sum(self.names.get(str(symbol), ""))
            if len(factors) != 1 or not all(map(str.isidentifier, factors)):
                continue
            ((name, factor),) = factors.items()
            lower = 2 if sympy.Ne(symbol, 1) in guards else int(bounds.lower)  # a branch for one step
            least = max(1, -(-(lower - constant) // factor))
            most = None if bounds.upper == int_oo else (int(bounds.upper) - constant) // factor
            yield name, self._asked(name, AxisRange(least, most))
        promised = {name for text in self.names.values() for name in parse_sum(text)[0]}
        yield from ((name, limits) for name, limits in self.config.ranges.items() if name not in promised)

    def _asked(self, name: str, promised: AxisRange) -> AxisRange:
        asked = self.config.ranges.get(name)
        if asked is None:
            return promised
        most = promised.most is not None and (asked.most or promised.most + 1) > promised.most
        if (most and asked.most is not None) or asked.nearest(1) < promised.least != 1 != asked.least:
            raise UnsupportedError(f"axis {name}: {asked} is asked for, {promised} is what forward takes")
        return AxisRange(max(asked.least, promised.least), asked.most or promised.most, asked.multiple)

    def _refuse_conditions(self, ranges: Mapping[str, AxisRange]) -> None:
        """Refuse a condition in a line of the user's that does not hold at every size within ``ranges``.

        The tracer accounts for the conditions of operators.
        """
        for expression, line in self._guards():
            if not line:
                continue
            condition = expression.subs(self._expressions)
            free = sorted(condition.free_symbols, key=str)
            limits = [ranges.get(str(each), AxisRange()) for each in free]
            tried = [sorted({each.nearest(size) for size in _TRIED}) for each in limits]
            for sizes in product(*tried):
                _refuse_at(condition, dict(zip(free, sizes, strict=True)), line)

    def _seen(self, part: str, usual: str) -> str | None:
        """Return the axis that the first layer sees as batch (``rows``) or time (``steps``)."""
        known = {name for text in self.names.values() for name in parse_sum(text)[0]}
        if not self.recorder.calls:
            return usual if usual in known else None
        calls = sorted(self.recorder.calls, key=lambda call: not call.lengths)
        own, others = (
            [
                name
                for call in calls
                for each in _growing(getattr(call, side))
                for name in parse_sum(self.names.get(each, ""))[0]
            ]
            for side in (part, "rows" if part == "steps" else "steps")
        )
        if part == "rows":
            own = [each for each in own if each not in others] or own
        return next((each for each in own if each.isidentifier()), None)


def _refuse_at(condition: Any, sizes: Mapping[Any, int], line: str) -> None:
    holds = condition.subs(sizes)
    if holds == sympy.true:
        return
    at = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if holds == sympy.false:
        raise UnsupportedError(
            f"at {at} forward does something else than at the example ({line}); write it with tensor "
            "operations that hold at any size, or state the sizes that the axis has (ranges=, or "
            "--input x=N,L:16..4096,8)"
        )
    raise UnsupportedError(f"forward depends on a condition that can't be evaluated at {at} ({line})")


def _symbols(size: Any) -> list[str]:
    """Return the tracer's symbols of a size that is not a number."""
    return sorted(map(str, size.node.expr.free_symbols)) if isinstance(size, torch.SymInt) else []


def _growing(size: Any) -> list[str]:
    """Return the tracer's symbols that a size grows with: ``min(L, 5)`` grows with none."""
    if not _symbols(size):
        return []
    expression = size.node.expr
    here = dict.fromkeys(expression.free_symbols, 97)
    symbols = sorted(expression.free_symbols, key=str)
    return [str(each) for each in symbols if expression.subs(here) != expression.subs({**here, each: 193})]


def _fixed(size: Any) -> int | None:
    if isinstance(size, torch.SymInt):
        return int(size.node.expr) if size.node.expr.is_number else None
    return int(size)


def _name(name: str) -> Any:
    return sympy.Symbol(name, integer=True, positive=True)


def _sum(axis: str) -> Any:
    """Return an axis such as ``4*L+1`` as an expression."""
    factors, constant = parse_sum(axis)
    return sympy.Add(*(factor * _name(name) for name, factor in factors.items()), constant)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep back what PyTorch's exporters say about themselves; what matters comes as an exception."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
