"""One ``torch.export`` of a module in float64: its axes, and the sizes that they may
have.
"""

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lstm_edge_runtime.errors import InputError, LstmEdgeError, UnsupportedError
from lstm_edge_runtime.manifest import LONGEST, Axes, AxisRange

from ..pairing import is_called_like_a_state
from ._torch_internals import (
    fixing_frame,
    guards,
    int_oo,
    is_unbacked,
    original_symbol,
    tracing_any_size,
)
from .advice import frame_line, refusal, stack_line
from .call import Call, flatten_output, restored
from .conditions import excluded_sizes, failing_sizes
from .config import ExportConfig
from .convolutions import Convolutions
from .floats import Floats
from .kept_sizes import keeping_sizes
from .loops import Loop
from .record import Recorder, RecurrentCall

_LARGE = 10**6
"""A size above all remainders and limits in the sizes of a network."""


@dataclass(frozen=True)
class Program:
    """A traced module."""

    exported: ExportedProgram
    """The trace, in float64."""
    calls: tuple[RecurrentCall, ...]
    """The recurrent calls, their sizes as axes."""
    axes: Mapping[str, Axes]
    """Axes of each input."""
    outputs: tuple[tuple[str, Axes], ...]
    """Name (or empty) and axes of each output."""
    ranges: Mapping[str, AxisRange]
    """The sizes of each dynamic axis that does not take all."""
    symbols: Mapping[sympy.Symbol, sympy.Expr]
    """The meaning of each of the tracer's symbols: an axis, or the example's size."""
    carried: tuple[bool, ...]
    """For each of ``calls``, True if its states continue in the next call of the
    file."""
    batch: str | None
    """Name of the batch axis; None without one."""
    sequence: str | None
    """Name of the time axis; None without one."""
    loops: tuple[sympy.Expr, ...]
    """The number of steps of each loop over time, in terms of axes."""
    counts: bool
    """True if steps of a loop are counted by Python: no graph shows it."""
    texts: tuple[str, ...]
    """The user's lines that turn a size into text."""
    branches: Mapping[str, Mapping[int, str]]
    """The few sizes of each axis at which forward takes another branch, which may
    compute the same, with the user's lines."""


class _FixedRowsError(UnsupportedError):
    """A line of the user's fixes the number of rows."""

    def __init__(self, message: str, rows: int) -> None:
        super().__init__(message)
        self.rows = rows


class _Flat(nn.Module):
    def __init__(self, module: nn.Module, call: Call, recorder: Recorder) -> None:
        """Call ``module`` with flat tensors, as ``call`` says."""
        super().__init__()
        self.module = module
        self._call = call
        self._recorder = recorder

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the flat outputs, then the marks of loops."""
        with Convolutions(), Floats(torch.float64), self._recorder as recorder:
            recorder.begin([tensor.shape for tensor in tensors])
            flat = flatten_output(self._call.run(self.module, tensors))
            recorder.outputs.extend((name, tensor.shape) for name, tensor in flat)
            recorder.loops.end()
        return (*(tensor for _, tensor in flat), *recorder.loops.marks)


def capture(module: nn.Module, call: Call, config: ExportConfig) -> Program:
    """Trace ``module``, a private copy in float64, with the example of ``call`` in
    float64. Regions of ``torch.autocast`` do not change float64.

    Only a trace tells which axes are dynamic. Where forward compares rows with their
    number in the example, or PyTorch took a size of one along
    such an axis for a constant, the module is traced with another size there.
    """
    given = config.given_axes(call.shapes)
    call = call.with_two(given)
    try:
        program = _trace(module, call, given)
    except _FixedRowsError as error:
        # a buffer of an earlier call may have this size
        try:
            return _trace(module, call.with_another_row(error.rows), given)
        except UnsupportedError:
            raise error from None
    is_limited = any(limits.most is not None for limits in program.ranges.values())
    larger = call.with_two(program.axes)
    if is_limited and larger.shapes != call.shapes:
        return _trace(module, larger, given)
    return program


def _trace(module: nn.Module, call: Call, given: Mapping[str, Axes]) -> Program:
    """Return the trace of ``module`` on the example of ``call``."""
    recorder = Recorder()
    recorder.instrument(module)
    dims = []
    for name, tensor in zip(call.names, call.example, strict=True):
        axes = given.get(name, [""] * tensor.dim())
        dims.append(
            [Dim.STATIC if isinstance(axis, int) else Dim.AUTO for axis in axes]
        )
    stand_ins = recorder.loops.stand_ins()
    sizes = keeping_sizes(module, stand_ins)
    with quietly(), torch.no_grad(), tracing_any_size(), sizes, restored(module):
        try:
            exported = torch.export.export(
                _Flat(module, call, recorder),
                call.example,
                dynamic_shapes=(tuple(dims),),
                strict=False,
            )
        except LstmEdgeError:
            raise
        except Exception as error:
            has_axes = given.keys() >= {*call.names}
            raise refusal("can't be traced", error, has_axes=has_axes) from error
    return _Sizes(
        exported=exported, recorder=recorder, call=call, given=given
    ).program()


@dataclass(frozen=True)
class _Sizes:
    """The sizes of one trace: their names and ranges."""

    exported: ExportedProgram
    """The program of the trace."""
    recorder: Recorder
    """The recurrent layers and loops that were recorded in the trace."""
    call: Call
    """How ``forward`` was called."""
    given: Mapping[str, Axes]
    """The axes of the inputs that the user named, by input."""

    def program(self) -> Program:
        """Name every axis; refuse a module that is another function at another size."""
        self._refuse_unknown()
        self._refuse_unclear()
        self._refuse_equal()
        self._refuse_fixed()
        ranges = dict(self._ranges())
        self._refuse_conditions(ranges)
        rows, times = self._seen
        calls = self.recorder.calls
        loops = self.recorder.loops.loops
        axes = {name: self._axes(shape) for name, shape, _ in self._inputs()}
        return Program(
            exported=self.exported,
            calls=tuple(
                replace(call, steps=self.axis(call.steps), rows=self.axis(call.rows))
                for call in calls
            ),
            axes={**axes, **self.given},
            outputs=tuple(
                (name, self._axes(shape)) for name, shape in self.recorder.outputs
            ),
            ranges={
                name: limits for name, limits in ranges.items() if limits != AxisRange()
            },
            symbols={symbol: self._named(symbol) for symbol in self._example_sizes},
            carried=tuple(self._is_carried(call) for call in calls),
            batch=self._first(rows, "N"),
            sequence=self._first(times, "L"),
            loops=tuple(self._named(loop.steps.node.expr) for loop in loops),
            counts=self.recorder.loops.counts,
            texts=tuple(self.recorder.texts),
            branches=self._branches,
        )

    def _refuse_unclear(self) -> None:
        """Refuse a network whose batch and time axes are unknown."""
        if self.recorder.calls or self.recorder.loops.loops or self.given:
            return
        sizes = [size for _, shape in self.recorder.outputs for size in shape]
        is_mixed = any(self._axis_names(size) >= {"N", "L"} for size in sizes)
        if is_mixed:
            raise InputError(
                "can't tell which axes are batch and time, because forward calls no"
                " recurrent layer; pass "
                f'inputs={{"{self.call.names[0]}": ("N", "L", 8)}}, with numbers for'
                " fixed axes"
            )

    @cached_property
    def names(self) -> dict[str, str]:
        """The axis of each of the tracer's symbols: as given, or batch and time as the
        layers see them.
        """
        names = self._given_names()
        rows, times = self._seen
        features = set[str]()
        for axes, feature in self._joined():
            if not (names or rows):
                names |= zip(axes, "NL"[-len(axes) :], strict=False)
            features |= {feature}
        times = [symbol for symbol in times if symbol not in features]
        for stem, symbols in zip("NL", (rows, times), strict=True):
            names |= self._of_stem(stem, symbols, names)
        names = names | self._of_batch_size(names) | self._of_signal(names)
        return {
            symbol: name
            for symbol, name in names.items()
            if symbol not in self._pinned or self.given
        }

    def _joined(self) -> Iterator[tuple[list[str], str]]:
        """Yield the axes of one input that a layer reads as one axis of steps, as in
        ``x.reshape(1, -1, 4)``: rows and steps, and apart from them the features that
        were joined and split off again, else an empty text.
        """
        counts = [call.steps for call in self.recorder.calls]
        counts += [loop.steps for loop in self.recorder.loops.loops]
        for count in counts:
            joined = _growing(count)
            for name, shape, _ in self._inputs():
                axes = [size.node.expr for size in shape if str(size) in joined]
                if len(axes) < 2 or name in self.given:
                    continue
                steps = count.node.expr
                *others, last = axes
                with_features = steps.subs(last, self._example_sizes[last])
                is_split = with_features == sympy.Mul(*others)
                if is_split and steps != sympy.Mul(*axes):
                    yield [*map(str, others)], str(last)
                else:
                    yield [*map(str, axes)], ""

    def _of_stem(
        self, stem: str, symbols: Sequence[str], names: Mapping[str, str]
    ) -> dict[str, str]:
        """Name the axes without a name that layers see as ``stem``, by their sizes in the
        example: L, then L2.
        """
        known = {str(symbol): size for symbol, size in self._example_sizes.items()}
        by_size = {
            known.get(symbol, symbol): name
            for symbol, name in names.items()
            if name == stem
        }
        added = {}
        for symbol in symbols:
            if symbol in names or not symbol.startswith("s"):
                continue
            following = f"{stem}{len(by_size) + 1}" if by_size else stem
            added[symbol] = by_size.setdefault(known.get(symbol, symbol), following)
        return added

    @cached_property
    def _pinned(self) -> set[str]:
        """The symbols that an equation fixes, as ``s0 + s1 = 12`` does."""
        equations = [
            guard for guard, _ in self._guards() if isinstance(guard, sympy.Eq)
        ]
        sums = [sympy.expand(equation.lhs - equation.rhs) for equation in equations]
        fixed = [
            term
            for term in sums
            if term.as_coeff_Add()[0] != 0 and term.is_polynomial()
        ]
        sizes = self._example_sizes  # a stride along an axis of 1 may be any number
        pairs = ((symbol, term) for term in fixed for symbol in term.free_symbols)
        return {
            str(symbol)
            for symbol, term in pairs
            if sizes.get(symbol) != 1 or term == symbol - 1
        }

    def _given_names(self) -> dict[str, str]:
        """Return the user's name of each symbol that is the size of a whole axis."""
        names: dict[str, str] = {}
        for name, shape, _ in self._inputs():
            for axis, size in zip(self.given.get(name, ()), shape, strict=False):
                if not isinstance(axis, str) or not _is_symbol(size):
                    continue
                other = names.setdefault(str(size.node.expr), axis)
                if other != axis:
                    raise UnsupportedError(
                        f"forward works only where axes {other} and {axis} have the"
                        " same size; give them the same name, or mend the order of its"
                        " axes"
                    )
        return names

    def _of_batch_size(self, names: Mapping[str, str]) -> dict[str, str]:
        """Name first axes that no layer sees and that have the batch's size in the
        example.
        """
        firsts = {}
        for name, shape, tensor in self._inputs():
            if name in self.given or not shape or not _symbols(shape[0]):
                continue
            others = [names.get(str(size)) for size in shape[1:]]
            if "N" not in others:
                firsts[str(shape[0])] = tensor.shape[0]
        batch = {size for symbol, size in firsts.items() if names.get(symbol) == "N"}
        return {
            symbol: "N"
            for symbol, size in firsts.items()
            if symbol not in names and symbol.isidentifier() and {size} == batch
        }

    def _of_signal(self, names: Mapping[str, str]) -> dict[str, str]:
        """Name the free axes of the signal of a network without recurrent layers:
        batch, then time.
        """
        if names or self.recorder.calls or self.given:
            return {}
        shapes = {name: shape for name, shape, _ in self._inputs()}
        signal = next(
            (name for name in shapes if not is_called_like_a_state(name)),
            next(iter(shapes)),
        )
        free = {}
        for axis, size in reversed([*enumerate(shapes[signal])]):
            stays_one_step = axis > 0 and self.call.shapes[signal][axis] == 1
            for symbol in _symbols(size):
                if symbol not in self._pinned and not stays_one_step:
                    free[symbol] = "L" if axis else "N"
        return free if len({*free.values()}) == len(free) else {}

    def _inputs(self) -> Iterator[tuple[str, Sequence[Any], Tensor]]:
        """Return name, traced shape and example of each input."""
        return zip(
            self.call.names, self.recorder.shapes, self.call.example, strict=True
        )

    def axis(self, size: Any) -> int | str:
        """Return the axis of a traced size: a number, a name, or text in terms of
        names.
        """
        if (number := _fixed(size)) is not None:
            return number
        return axis_text(self._named(size.node.expr))

    def _axes(self, shape: Sequence[Any]) -> Axes:
        """Return the axes of a traced shape."""
        return tuple(map(self.axis, shape))

    def _is_carried(self, call: RecurrentCall) -> bool:
        """Return True if a layer runs over time, on rows that are the batch."""
        rows, times = self._seen
        grows_with = set[str]()
        if isinstance(call.steps, torch.SymInt):
            grows_with = growing(self._named(call.steps.node.expr))
        rows_names = self._axis_names(call.rows)
        over_time = _fixed(call.steps) == 1 or bool(
            grows_with & {self._first(times, "L"), LONGEST}
        )
        over_batch = _fixed(call.rows) == 1 or rows_names == {self._first(rows, "N")}
        return over_time and over_batch

    def _axis_names(self, size: Any) -> set[str]:
        """Return the names of the axes in a traced size."""
        if not isinstance(size, torch.SymInt):
            return set()
        return {str(symbol) for symbol in self._named(size.node.expr).free_symbols}

    def _named(self, expression: Any) -> Any:
        """Return an expression of sizes in terms of axes; symbols without a name have
        the example's size.
        """
        expression = expression.subs(self._replaced)
        return expression.subs({s: self._axis_of(s) for s in expression.free_symbols})

    def _axis_of(self, symbol: Any) -> Any:
        """Return the axis that one of the tracer's symbols stands for, else its size in
        the example.
        """
        name = self.names.get(str(symbol), "")
        if not name and is_unbacked(symbol):
            name = LONGEST
        if not name:
            return sympy.Integer(self._example_sizes.get(symbol, 1))
        return sympy.Symbol(name, integer=True, positive=True)

    @cached_property
    def _replaced(self) -> dict[Any, Any]:
        """The symbols of axes that the tracer found equal to another size, with that
        size.
        """
        sizes = [size for _, shape, _ in self._inputs() for size in shape]
        traced = [size for size in sizes if isinstance(size, torch.SymInt)]
        return {original_symbol(size): size.node.expr for size in traced}

    @cached_property
    def _example_sizes(self) -> dict[Any, int]:
        """The example's size of each of the tracer's symbols, including those that were
        replaced.
        """
        return {
            expression: tensor.shape[axis]
            for _, shape, tensor in self._inputs()
            for axis, size in enumerate(shape)
            if isinstance(size, torch.SymInt)
            for expression in (size.node.expr, original_symbol(size))
            if expression.is_symbol
        }

    def _refuse_unknown(self) -> None:
        """Refuse a size that the tracer can't tell, except the greatest length of a
        batch.
        """
        known = {
            symbol
            for size in self.recorder.longest
            for symbol in size.node.expr.free_symbols
        }
        for node in self.exported.graph.nodes:
            shape = getattr(node.meta.get("val"), "shape", ())
            sizes = [size for size in shape if isinstance(size, torch.SymInt)]
            symbols = {
                symbol for size in sizes for symbol in size.node.expr.free_symbols
            }
            if any(is_unbacked(symbol) for symbol in symbols - known):
                line = stack_line(node.meta) or f"operator {node.target}"
                raise UnsupportedError(
                    f"forward makes a tensor whose size can't be told from the sizes of"
                    f" its inputs ({line}); slice to a number of steps that is a sum or"
                    " multiple of these sizes, or pad: F.pad(x, (0, 0, 0, -L % 4))"
                )

    def _refuse_equal(self) -> None:
        """Refuse a condition that makes two dynamic axes of one input the same axis."""
        for name, shape, _ in self._inputs():
            axes = [axis for axis in map(self.axis, shape) if isinstance(axis, str)]
            if len(axes) == len({*axes}):
                continue
            lines = [frame_line(fixing_frame(size)) for size in shape]
            line = next(filter(None, lines), "in a library")
            raise UnsupportedError(
                f"forward works only where two axes of {name} have the same size, as in"
                f" the example ({line}); give an example whose dynamic axes differ in"
                " size"
            )

    def _refuse_fixed(self) -> None:
        """Refuse a size that the user's code treats as a constant if the axis is to be
        dynamic.
        """
        for name, shape, tensor in self._inputs():
            for axis, size in enumerate(map(_fixed, shape)):
                line = frame_line(fixing_frame(shape[axis]))
                if name in self.given:
                    is_dynamic = isinstance(self.given[name][axis], str)
                else:
                    is_batch = axis == 0 and size in self._fixed_sizes_of_layers
                    is_dynamic = is_batch or self._is_looped(tensor, axis, line)
                if is_dynamic and size is not None:
                    where = f" ({line})" if line else ""
                    axes = [str(self.axis(other)) for other in shape]
                    message = (
                        f"forward fixes axis {axis} of {name} at {size}{where}: a loop"
                        " or a layer treats the size as a constant; use tensor"
                        " operations over the whole axis, or fix the axis: --input"
                        f" {name}={','.join(axes)} (inputs=)"
                    )
                    if axis == 0 and line:
                        raise _FixedRowsError(message, size)
                    raise UnsupportedError(message)

    @cached_property
    def _fixed_sizes_of_layers(self) -> set[int | None]:
        """The fixed numbers of steps and rows that layers and loops see, except 1."""
        sizes = {_fixed(loop.rows) for loop in self.recorder.loops.loops}
        for call in self.recorder.calls:
            sizes |= {_fixed(call.steps), _fixed(call.rows)}
        return sizes - {None, 1}

    def _is_looped(self, tensor: Tensor, axis: int, line: str) -> bool:
        """Return True if a fixed axis of several steps is read by a loop, and no other
        axis is time.
        """
        calls = self.recorder.calls
        has_time = "L" in self.names.values() or any(_growing(c.steps) for c in calls)
        is_read_by_user = bool(line) or all(call.cell for call in calls)
        # the last axis of floats are features; tokens have none
        last = tensor.dim() - 1 if tensor.is_floating_point() else tensor.dim()
        is_inner = 0 < axis < last
        has_steps = tensor.shape[axis] > 1
        return (
            not (self.given or has_time) and is_read_by_user and is_inner and has_steps
        )

    def _guards(self) -> list[tuple[Any, str]]:
        """Return every condition on sizes that the trace rests on, and the user's line
        that asked for it; empty if a library did.
        """
        sizes = [size for shape in self.recorder.shapes for size in shape]
        return [(guard.condition, frame_line(guard.frame)) for guard in guards(sizes)]

    def _ranges(self) -> Iterator[tuple[str, AxisRange]]:
        """Yield the sizes of each dynamic axis that the tracer promises."""
        for symbol, bounds in self.exported.range_constraints.items():
            name = self.names.get(str(symbol))
            if name is None:
                continue
            branches = self._branches.get(name, {})
            is_compared = {*range(1, int(bounds.lower))} <= branches.keys()
            least = 1 if is_compared else int(bounds.lower)
            most = None if bounds.upper == int_oo else int(bounds.upper)
            yield name, AxisRange(max(1, least), most)

    def _refuse_conditions(self, ranges: Mapping[str, AxisRange]) -> None:
        """Refuse a condition of the user's code that fails at a size within
        ``ranges``.
        """
        for guard, line in self._guards():
            condition = self._named(guard)
            is_compared = not line or bool(excluded_sizes(condition))
            failing = None if is_compared else failing_sizes(condition, ranges)
            if failing is not None:
                size = ", ".join(f"{name}={size}" for name, size in failing.items())
                raise UnsupportedError(
                    f"forward takes another branch at {size} than for the example"
                    f" ({line}); write it with tensor operations that hold at any size"
                )

    @cached_property
    def _branches(self) -> dict[str, dict[int, str]]:
        """The few sizes that a condition of the user's code excludes, by axis."""
        branches = dict[str, dict[int, str]]()
        for guard, line in self._guards():
            condition = self._named(guard)
            for size in excluded_sizes(condition) if line else ():
                (axis,) = condition.free_symbols
                branches.setdefault(str(axis), {})[size] = line
        return branches

    @cached_property
    def _seen(self) -> tuple[list[str], list[str]]:
        """The symbols that the layers, those with lengths first, see as batch and as
        time.
        """
        layers = sorted(self.recorder.calls, key=lambda call: not call.lengths)
        calls: list[RecurrentCall | Loop] = [*layers, *self.recorder.loops.loops]
        rows = self._distinct(call.rows for call in calls)
        steps = (call.steps for call in calls)
        times = self._distinct(steps, inner_first=True)  # rows are in front of steps
        rows_alone = [symbol for symbol in rows if symbol not in times]
        return rows_alone or rows, times

    def _distinct(
        self, sizes: Iterable[Any], *, inner_first: bool = False
    ) -> list[str]:
        """Return the symbols that some sizes grow with, in the order of the sizes, those
        of one size in the order of the inputs and of their axes, or the last axis first.
        """
        in_inputs = []
        for _, shape, _ in self._inputs():
            for size in reversed(shape) if inner_first else shape:
                in_inputs += _symbols(size)
        symbols: dict[str, None] = {}
        for size in sizes:
            of_size = _growing(size)
            known = [symbol for symbol in in_inputs if symbol in of_size]
            symbols |= dict.fromkeys([*known, *of_size])
        return [*symbols]

    def _first(self, symbols: Sequence[str], usual: str) -> str | None:
        """Return the first name among ``symbols``; without layers ``usual``, if an axis
        has that name.
        """
        if not (self.recorder.calls or self.recorder.loops.loops):
            return usual if usual in self.names.values() else None
        return next(
            (self.names[symbol] for symbol in symbols if symbol in self.names), None
        )


def axis_text(size: sympy.Expr) -> int | str:
    """Return a size in terms of axes, in the form of the manifest: a number, a name, or
    a text.
    """
    if size.is_number:
        return int(size)
    if size.is_symbol:
        return str(size)
    return re.sub(r"\(\((\w+//\d+)\)\)", r"(\1)", str(size).replace(" ", ""))


def _symbols(size: Any) -> list[str]:
    """Return the tracer's symbols in a size."""
    if not isinstance(size, torch.SymInt):
        return []
    return sorted(map(str, size.node.expr.free_symbols))


def _is_symbol(size: Any) -> bool:
    """Return True if a traced size is a symbol of the tracer's, not computed."""
    return isinstance(size, torch.SymInt) and size.node.expr.is_symbol


def _growing(size: Any) -> list[str]:
    """Return the tracer's symbols that a size grows with: ``min(L, 5)`` grows with
    none.
    """
    return sorted(growing(size.node.expr)) if _symbols(size) else []


def growing(size: sympy.Expr) -> set[str]:
    """Return the names that a size grows with: ``min(L, 5)`` and ``L % 5`` grow with
    none.
    """
    sizes = dict.fromkeys(size.free_symbols, _LARGE)
    return {
        str(symbol)
        for symbol in sizes
        if abs(size.subs({**sizes, symbol: _LARGE**2}) - size.subs(sizes)) > _LARGE
    }


def _fixed(size: Any) -> int | None:
    """Return a traced size that is a number; None for any other."""
    if isinstance(size, torch.SymInt):
        return int(size.node.expr) if size.node.expr.is_number else None
    return None if size is None else int(size)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress the messages of PyTorch's exporters; errors are raised as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
