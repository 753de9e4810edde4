"""Python loops over time while ``forward`` is traced: a few iterations run, marked in
the graph; ``roll`` makes one recurrence of them.

``range`` of a traced size, iteration over a traced axis, and ``zip`` and ``enumerate``
of these run ``STEPS`` iterations. What an iteration makes is tagged with it: results of
all iterations that are stacked, concatenated or written into a buffer become one node
of symbolic length. A step that is read, ``x[:, t]``, is a node of its own.
"""

import builtins
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from lstm_edge_runtime.errors import InputError, UnsupportedError

from ._torch_internals import assume, pytree
from .advice import calling_line, line_of_frame
from .list_reads import lists_read
from .loop_variables import is_unpacking, numbers_of, tensors_of
from .step_numbers import Evenly, evenly, looked_up, plain_number, plain_numbers
from .traced_sizes import (
    expression_of,
    have_same_size,
    in_example,
    is_symbolic,
    is_traced,
    rows_of,
)

DOMAIN = "lstm_edge.loop"
MARK = "Iteration"
"""``(steps (), *variables) -> int64 (1,)``: the start of an iteration, or the end of a
loop. Its attributes have the ``names`` of the variables that the loop has set, and
those of variables that are ``numbers``."""
COLLECT = "Collect"
"""``(y, ...) -> ys``: the values of all iterations along a new ``axis``."""
READ = "Read"
"""``(x,) -> x[..., index, ...]`` at ``axis``; the axis stays, with ``width`` steps, if
``width`` is not 0."""
STEPS = 5
"""Iterations that a loop makes while it is traced: the first, those that are compared,
and the last."""
_WITHOUT_DATA = frozenset(
    (
        Tensor.size,
        Tensor.dim,
        Tensor.new_zeros,
        torch.zeros_like,
        *(
            getattr(Tensor, name).__get__
            for name in ("shape", "dtype", "device", "ndim")
        ),
    )
)
"""Functions that may be called with a buffer while a loop writes it."""


@dataclass(eq=False)
class Loop:
    """One loop over time."""

    number: int
    """Number of the loop, in the order in which loops run."""
    steps: Any
    """Number of steps, traced."""
    line: str
    """The user's line."""
    iteration: int = 0
    """Index of the iteration that is running."""
    rows: Any = None
    """The first other traced size of a tensor whose steps are read, or a fixed one in
    front of the steps: ``x (2, L, 3)``."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """The Python numbers that the function has at the start of the iteration."""


@dataclass(frozen=True)
class _Tag:
    """The iteration that made a tensor."""

    tensor: Tensor
    """Kept, so that no other tensor gets its id."""
    loop: Loop
    """The loop that made the tensor."""
    iteration: int
    """Index of the iteration."""
    is_changed: bool = False
    """True if a later iteration has changed the tensor in place."""


@dataclass
class _Write:
    """A buffer that a loop writes step by step."""

    buffer: Tensor
    """The tensor as it was before the loop."""
    index: tuple[Any, ...]
    """The index, with the step at entry ``entry``."""
    entry: int
    """Number of the entry that is the step."""
    first: int
    """Position that the first iteration writes."""
    values: list[Tensor] = field(default_factory=list)
    """The value that each iteration writes."""


@dataclass(frozen=True)
class _LookedUp:
    """An instruction that took the ordinary number of a step."""

    code: CodeType
    """The function that it is in."""
    position: int
    """Its position there."""
    line: str
    """Its line."""


class Steps:
    """An iterable of as many items as a traced size: ``item(k)`` is the item of iteration
    k.
    """

    def __init__(self, loops: "Loops", length: Any, item: Callable[[int], Any]) -> None:
        """Iterate over ``length`` steps; ``item(index)`` is the value of one."""
        self._loops = loops
        self.length = length
        self.item = item

    def __iter__(self) -> Iterator[Any]:
        """Yield the marked iterations; all values where a line unpacks them."""
        if is_unpacking(sys._getframe(1)):
            return iter(self.unpacked())
        return self._loops.iterate(self)

    def unpacked(self) -> Sequence[Any]:
        """Return all items, of a fixed number."""
        raise self._loops.refusal("takes the number of steps for a number")

    def __getitem__(self, index: Any) -> Any:
        """Return the value at the number of a step; refuse other indices."""
        if isinstance(index, Evenly):
            return self.item(plain_number(index))
        raise self._loops.refusal("takes some steps only")

    def __len__(self) -> int:
        """Refuse: a traced number of steps is no ``int``."""
        raise self._loops.refusal("takes the number of steps for a number")

    def __reversed__(self) -> Iterator[Any]:
        """Refuse: a loop over time runs forwards."""
        raise self._loops.refusal("runs backwards")


class _TensorSteps(Steps):
    """The steps of a tensor along a traced axis."""

    def __init__(self, loops: "Loops", tensor: Tensor, axis: int, width: int) -> None:
        """Iterate over windows of ``width`` frames, or single frames for 0, along
        ``axis``.
        """
        super().__init__(
            loops,
            tensor.shape[axis],
            lambda index: loops.read(tensor, axis, index=index, width=width),
        )
        self._tensor = tensor
        self._axis = axis
        self._width = width

    def unpacked(self) -> Sequence[Tensor]:
        """Return the steps of an axis whose size becomes a number."""
        steps: Sequence[Tensor] = torch.ops.aten.unbind.int(self._tensor, self._axis)
        return [x.unsqueeze(self._axis) for x in steps] if self._width else steps

    def __getitem__(self, index: Any) -> Any:
        """Return the frame at a fixed index, or the frame of a step."""
        if isinstance(index, int):
            step = self._tensor.select(self._axis, index)
            return step.unsqueeze(self._axis) if self._width else step
        return super().__getitem__(index)

    def refusal(self, reason: str) -> UnsupportedError:
        """Return the error for a loop that ``reason``."""
        return self._loops.refusal(reason)

    def rest(self) -> "_TensorSteps":
        """Return the steps behind the first one."""
        frames = self._tensor.narrow(self._axis, 1, self.length - 1)
        return _TensorSteps(self._loops, frames, axis=self._axis, width=self._width)


class _StepIterator:
    """An iterator over the steps of a tensor: steps that ``next`` takes come in front
    of the loop over the rest.
    """

    def __init__(self, steps: _TensorSteps) -> None:
        """Start at the first step."""
        self.steps = steps
        """The steps that are left."""

    def __next__(self) -> Tensor:
        """Return the next step, which the loop leaves out."""
        if in_example(self.steps.length) < 1:
            raise self.steps.refusal("takes its steps by next() until none is left")
        step: Tensor = self.steps[0]
        self.steps = self.steps.rest()
        return step

    def __iter__(self) -> Iterator[Any]:
        """Loop over the rest."""
        return iter(self.steps)


class Loops:
    """The loops of one trace."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget an earlier run of ``forward``."""
        self.marks: list[Tensor] = []
        """Results of the marks; as outputs of the trace they stay in the graph."""
        self.loops: list[Loop] = []
        self.counts = False
        """True if a step changes a Python number, or asks for the length of a list."""
        self._open: Loop | None = None
        self._tags: dict[int, _Tag] = {}
        self._writes: dict[int, _Write] = {}
        self._broken: list[Loop] = []
        self._looked_up: _LookedUp | None = None

    def end(self) -> None:
        """Refuse a loop that was left before its last step."""
        self._refuse_lookup()
        for loop in self._broken:
            raise UnsupportedError(
                f"forward leaves a loop over time early ({loop.line}); run all steps,"
                " and keep the state where a step does not count:"
                " h = torch.where(mask, new, h)"
            )

    def stand_ins(self) -> Mapping[str, Any]:
        """Return the stand-ins of Python's functions, by name."""
        return {
            "range": _Range("range", (), {"loops": self}),
            "zip": self._zip,
            "enumerate": self._enumerate,
            "iter": self._iter,
            "len": self._len,
        }

    def refusal(self, reason: str) -> UnsupportedError:
        """Return the error for a loop that ``reason``; the tracer adds the line."""
        return UnsupportedError(
            f"forward has a loop over time that {reason} ({calling_line(sys._getframe(1))}); write it"
            " as for t in range(x.size(1)) that reads x[:, t]"
        )

    def iterate(self, steps: Steps) -> Iterator[Any]:
        """Yield the items of the iterations of one loop."""
        frame = sys._getframe(1)
        line = line_of_frame(frame)
        if self._open is not None:
            raise UnsupportedError(
                f"forward has a loop over a traced axis ({line}) inside of another one"
                f" ({self._open.line}); use tensor operations for the inner one"
            )
        if in_example(steps.length) < 1:
            raise InputError(
                f"forward has a loop over time that runs no step in the example ({line});"
                " give an example of more steps"
            )
        assume(steps.length >= 1)
        loop = self._open = Loop(len(self.loops), steps.length, line)
        self.loops.append(loop)
        complete = False
        try:
            for k in builtins.range(STEPS):
                loop.iteration = k
                self._mark(loop, frame)
                yield steps.item(k)
            loop.iteration = STEPS
            complete = True
        finally:
            self._open = None
            if not complete:
                self._broken.append(loop)
        self._mark(loop, frame)
        self._flush(loop)

    def _mark(self, loop: Loop, frame: FrameType) -> None:
        """Add the mark of an iteration, with the variables that the last one set."""
        self._refuse_lookup()
        named = dict[str, Tensor]()
        for name, tensor in tensors_of(frame):
            tag = self._tags.get(id(tensor))
            if tag is None:  # what no function of tensors made, such as autograd's
                tag = self._tag(tensor, loop, loop.iteration - 1)
            if tag.loop is loop and tag.iteration >= 0:
                named[name] = tensor
        numbers = numbers_of(frame)
        self.counts |= loop.iteration > 1 and numbers != loop.numbers
        loop.numbers = numbers
        made = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{MARK}",
            [torch.scalar_tensor(loop.steps, dtype=torch.int64), *named.values()],
            {
                "loop": loop.number,
                "iteration": loop.iteration,
                "line": loop.line,
                "names": [*named] or [""],
                "numbers": [*numbers] or [""],
            },
            dtypes=[torch.int64],
            shapes=[[1]],
            version=1,
        )
        self.marks.append(made[0])

    def tag(self, result: Any) -> None:
        """Note what the current iteration made."""
        if self._open is None:
            return
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self._tag(value, self._open, self._open.iteration)

    def _tag(self, tensor: Tensor, loop: Loop, iteration: int) -> _Tag:
        """Remember which iteration made a tensor."""
        earlier = self._tags.get(id(tensor))
        is_changed = earlier is not None and (
            earlier.is_changed or earlier.iteration != iteration
        )
        self._tags[id(tensor)] = tag = _Tag(
            tensor=tensor, loop=loop, iteration=iteration, is_changed=is_changed
        )
        return tag

    def _runs(self, tensors: Sequence[Any]) -> Iterator[Loop | Tensor]:
        """Yield the loop for each run of the results of all its iterations, and the
        other tensors.
        """
        position = 0
        while position < len(tensors):
            run = tensors[position : position + STEPS]
            tags = [self._tags.get(id(tensor)) for tensor in run]
            first = tags[0]
            whole = first is not None and [
                (tag.loop, tag.iteration) for tag in tags if tag
            ] == [(first.loop, k) for k in builtins.range(STEPS)]
            if whole and first and first.loop is not self._open:
                yield first.loop
                position += STEPS
            else:
                yield tensors[position]
                position += 1

    def _len(self, value: Any) -> Any:
        """Replace ``len``: the traced number of steps for what a loop iterates or
        collects.
        """
        if isinstance(value, Steps):
            return value.length
        if isinstance(value, Tensor) and value.dim():
            return value.shape[0]
        if isinstance(value, list | tuple):
            runs = [*self._runs(value)]
            if len(runs) == 1 and isinstance(runs[0], Loop):
                return runs[0].steps
            self.counts |= self._open is not None
        return builtins.len(value)

    def _zip(self, *iterables: Any, strict: bool = False) -> Any:
        """Replace ``zip``: iterate over the steps of all sequences together."""
        steps = [self._steps_of(iterable) for iterable in iterables]
        traced = [one for one in steps if one is not None]
        if not traced:
            return builtins.zip(*iterables, strict=strict)
        if len(traced) < len(steps):
            raise self.refusal("zips sequences of different lengths")
        length = traced[0].length
        for one in traced[1:]:
            length = self._shorter(length, one.length, strict=strict)
        return Steps(self, length, lambda k: tuple(one.item(k) for one in traced))

    def _shorter(self, one: Any, other: Any, *, strict: bool) -> Any:
        """Return the shorter of two lengths; refuse if it is not the same at any size."""
        difference = expression_of(one) - expression_of(other)
        if difference.is_number and not (strict and difference):
            return other if difference > 0 else one
        if not have_same_size(one, other):
            raise self.refusal("zips sequences of different lengths")
        assume(one == other)
        return one

    def _enumerate(self, iterable: Any, start: int = 0) -> Any:
        """Replace ``enumerate``: each step with its number."""
        steps = self._steps_of(iterable)
        if steps is None:
            return builtins.enumerate(iterable, start)
        return Steps(
            self,
            steps.length,
            lambda k: (
                evenly(start, slope=1, iteration=k, results=self),
                steps.item(k),
            ),
        )

    def _iter(self, iterable: Any, *sentinel: Any) -> Any:
        """Replace ``iter``: ``next`` may take first steps of what a loop iterates."""
        steps = None if sentinel else self._steps_of(iterable)
        if isinstance(steps, _TensorSteps):
            return _StepIterator(steps)
        return builtins.iter(iterable, *sentinel)

    def _steps_of(self, iterable: Any) -> Steps | None:
        """Return the steps of what a loop over time iterates over, None for anything
        else.
        """
        if isinstance(iterable, _StepIterator):
            return iterable.steps
        if isinstance(iterable, Steps):
            return iterable
        if isinstance(iterable, Tensor) and iterable.dim() and is_traced(iterable, 0):
            return _TensorSteps(loops=self, tensor=iterable, axis=0, width=0)
        if isinstance(iterable, list | tuple):
            runs = [*self._runs(iterable)]
            if len(runs) == 1 and isinstance(runs[0], Loop):
                return Steps(self, runs[0].steps, iterable.__getitem__)
        return None

    def look_up(self, frame: FrameType) -> None:
        """Note that the line that runs in ``frame`` takes the ordinary number of a step.

        A list is read by Python, and has to hold results. A function of tensors asks
        before it calls ``call``, where the number is a step again.
        """
        if self._are_read(frame):
            return
        asking = _LookedUp(frame.f_code, frame.f_lasti, calling_line(frame))
        if self._looked_up != asking:
            self._refuse_lookup()
        self._looked_up = asking

    def _refuse_lookup(self) -> None:
        """Refuse an ordinary number that no function of tensors took."""
        if self._looked_up is not None:
            raise looked_up(self._looked_up.line)

    def _are_read(self, frame: FrameType) -> bool:
        """Return True if the line that runs in ``frame`` reads lists of results by an
        index, and no other lists.
        """
        lists = lists_read(frame)
        return bool(lists) and all(map(self._are_results, lists or ()))

    def _are_results(self, items: Sequence[Any]) -> bool:
        """Return True for the results of all steps of a loop, or of those that the
        running loop has made.
        """
        runs = [*self._runs(items)]
        if len(runs) == 1 and isinstance(runs[0], Loop):
            return True
        made = []
        for item in items:
            tag = self._tags.get(id(item))
            if tag and tag.loop is self._open and tag.iteration >= 0:
                made.append(tag.iteration)
        steps = [*builtins.range(self._open.iteration if self._open else 0)]
        are_last = len(items) > len(made) or not steps
        return are_last and made in (steps, [*steps, len(steps)])

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Answer a function of tensors that a loop reads or makes; NotImplemented
        passes the call on.
        """
        has_step = bool(self.loops) and _has_step((args, kwargs))
        if has_step and self._open is None:
            raise self.refusal("uses the number of a step behind the loop")
        if func in _BY_INDEX and has_step:
            self._looked_up = None
        self._refuse_lookup()
        if (answer := _ANSWERS.get(func)) is not None:
            result = answer(self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if self._writes and func not in _WITHOUT_DATA:
            for write in self._writes.values():
                if any(arg is write.buffer for arg in args):
                    raise self.refusal("reads the buffer that it writes as a whole")
        return NotImplemented

    def with_numbers(self, args: Any) -> Any:
        """Return arguments with ordinary numbers instead of step numbers."""
        return plain_numbers(args) if self._open is not None else args

    def read(self, tensor: Tensor, axis: int, index: int, width: int = 0) -> Tensor:
        """Return one step of ``tensor``, or ``width`` steps with their axis."""
        axis %= tensor.dim()
        shape = [*tensor.shape]
        loop = self._open
        if loop is not None and loop.rows is None:
            loop.rows = rows_of(shape, axis)
        if loop is not None and have_same_size(shape[axis], loop.steps):
            assume(shape[axis] == loop.steps)
        shape[axis : axis + 1] = [width] if width else []
        made = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{READ}",
            [tensor],
            {"axis": axis, "index": index, "width": width},
            dtypes=[tensor.dtype],
            shapes=[shape],
            version=1,
        )
        self.tag(made[0])
        return made[0]

    def _collect(self, tensors: Sequence[Tensor], axis: int, loop: Loop) -> Tensor:
        """Return the results of all iterations along a new axis."""
        first = tensors[0]
        axis %= first.dim() + 1
        shape = [*first.shape]
        shape.insert(axis, loop.steps)
        made = torch.onnx.ops.symbolic_multi_out(
            f"{DOMAIN}::{COLLECT}",
            [*tensors],
            {"axis": axis, "loop": loop.number},
            dtypes=[first.dtype],
            shapes=[shape],
            version=1,
        )
        return made[0]

    def stack(self, tensors: Any, dim: int = 0, **_: Any) -> Any:
        """Stack results of all iterations, and others in front or behind."""
        if (collected := self._collected(tensors, dim)) is None:
            return NotImplemented
        return _joined(collected, dim % (tensors[0].dim() + 1))

    def cat(self, tensors: Any, dim: int = 0, axis: int | None = None, **_: Any) -> Any:
        """Concatenate results of all iterations, and others in front or behind."""
        dim = dim if axis is None else axis
        if not isinstance(tensors, tuple | list) or not tensors:
            return NotImplemented
        dim %= max(tensors[0].dim(), 1)
        if (collected := self._collected(tensors, dim)) is None:
            return NotImplemented
        return _joined([tensor.flatten(dim, dim + 1) for tensor in collected], dim)

    def _collected(self, tensors: Any, axis: int) -> list[Tensor] | None:
        """Return the tensors with a new axis, those of a loop as one; None without a
        loop.
        """
        if not isinstance(tensors, tuple | list):
            return None
        self._refuse_same(tensors)
        runs = [*self._runs(tensors)]
        if not any(isinstance(run, Loop) for run in runs):
            return None
        collected = []
        position = 0
        for run in runs:
            if isinstance(run, Loop):
                results = tensors[position : position + STEPS]
                collected.append(self._collect(results, axis, run))
                position += STEPS
            else:
                collected.append(run.unsqueeze(axis))
                position += 1
        return collected

    def _refuse_same(self, tensors: Sequence[Any]) -> None:
        """Refuse a list that holds one tensor several times, which steps change in
        place.
        """
        seen = set[int]()
        for tensor in tensors:
            tag = self._tags.get(id(tensor))
            if tag is not None and tag.is_changed and id(tensor) in seen:
                raise UnsupportedError(
                    "forward appends the same tensor at every step and changes it in"
                    f" place ({tag.loop.line}), so that all results are the last one;"
                    " append a copy, h.clone()"
                )
            seen.add(id(tensor))

    def unbind(self, tensor: Tensor, dim: int = 0) -> Any:
        """Return the steps along a traced axis."""
        return (
            _TensorSteps(loops=self, tensor=tensor, axis=dim, width=0)
            if self._has_steps(tensor, dim)
            else NotImplemented
        )

    def _has_steps(self, tensor: Tensor, dim: int) -> bool:
        """Return True for a traced axis of steps. In a loop, another axis than its own
        is one of features that are taken apart, and its size becomes a number.
        """
        if not is_traced(tensor, dim):
            return False
        size = tensor.shape[dim]
        if self._open is None or expression_of(size) == expression_of(self._open.steps):
            return True
        int(size)
        return False

    def split(
        self, tensor: Tensor, split_size: Any = None, dim: int = 0, **named: Any
    ) -> Any:
        """Return the steps along a traced axis, which stays, with one step."""
        size = named.get("split_size_or_sections", split_size)
        is_single = type(size) is int and size == 1
        if not is_single or not self._has_steps(tensor, dim):
            return NotImplemented
        return _TensorSteps(loops=self, tensor=tensor, axis=dim, width=1)

    def chunk(self, tensor: Tensor, chunks: Any, dim: int = 0) -> Any:
        """Return the steps along a traced axis of ``chunks`` steps."""
        if not is_symbolic(chunks) or not self._has_steps(tensor, dim):
            return NotImplemented
        if expression_of(chunks) != expression_of(tensor.shape[dim]):
            return NotImplemented
        return _TensorSteps(loops=self, tensor=tensor, axis=dim, width=1)

    def log_cum_sum_exp(self, tensor: Tensor, dim: int) -> Tensor:
        """Return ``tensor.logcumsumexp(dim)``."""
        steps: Any = self._along(tensor, dim)
        first = tensor.select(dim, 0)
        log_sum = torch.full_like(first, torch.finfo(torch.float32).min)
        results = []
        for step in steps:
            log_sum = torch.logaddexp(log_sum, step)
            self.tag(log_sum)
            results.append(log_sum)
        stacked = self.stack(results, dim)
        return torch.stack(results, dim) if stacked is NotImplemented else stacked

    def _along(self, tensor: Tensor, dim: int) -> Any:
        """Return the steps along an axis, traced or not."""
        steps = self.unbind(tensor, dim)
        return tensor.unbind(dim) if steps is NotImplemented else steps

    def item(self, tensor: Tensor, index: Any) -> Any:
        """Return ``tensor[..., t, ...]`` of the step number t."""
        step = _StepIndex.of(tensor, index)
        if step is None or self._open is None:
            return NotImplemented
        write = self._writes.get(id(tensor))
        if write is not None:
            return self._written(write, step)
        if step.position < -1:  # the first step alone may differ from the others
            raise self.refusal(
                "reads two or more steps back from the first step on, where PyTorch"
                " takes the last ones"
            )
        if step.position < 0:
            return NotImplemented
        return step.read(self)

    def _written(self, write: _Write, step: "_StepIndex") -> Any:
        """Return a step of a buffer that the loop writes."""
        number = step.position - write.first
        if 0 <= number < len(write.values):
            if step.width or not step.selects_only_step:
                raise self.refusal("reads the buffer that it writes as a whole")
            return write.values[number]
        if number >= len(write.values):  # as it was before the loop
            return step.read(self)
        if self._open is not None and self._open.iteration == 0:
            return NotImplemented
        raise self.refusal("reads a step of a buffer that it writes later")

    def select(self, tensor: Tensor, dim: int, index: Any) -> Any:
        """Return ``tensor.select(dim, t)``."""
        return self._indexed(tensor, dim, index)

    def narrow(self, tensor: Tensor, dim: int, start: Any, length: Any) -> Any:
        """Return ``tensor.narrow(dim, t, width)``."""
        if not _is_step(start) or type(length) is not int:
            return NotImplemented
        return self._indexed(tensor, dim, slice(start, start + length))

    def _indexed(self, tensor: Tensor, dim: int, index: Any) -> Any:
        """Read one frame of a tensor along ``dim``."""
        before = [slice(None)] * (dim % tensor.dim())
        return self.item(tensor, (*before, index))

    def write(self, buffer: Tensor, index: Any, value: Any) -> Any:
        """Note ``buffer[:, t] = value``; the values are written when the loop ends."""
        step = _StepIndex.of(buffer, index)
        loop = self._open
        if step is None or loop is None:
            return NotImplemented
        write = self._writes.get(id(buffer))
        if write is None:
            write = _Write(
                buffer=buffer, index=step.index, entry=step.entry, first=step.position
            )
            self._writes[id(buffer)] = write
        position = write.first + len(write.values)
        in_order = len(write.values) == loop.iteration and step.position == position
        is_same = (step.index, step.entry) == (write.index, write.entry)
        if not in_order or not is_same or step.width > 1:
            raise self.refusal("does not write its buffer once per step, in order")
        slot = buffer[step.at(0)]
        if not isinstance(value, Tensor):
            value = torch.full_like(slot, value)
        if step.width:
            value = value.expand(slot.unsqueeze(step.axis).shape).squeeze(step.axis)
        value = value.to(slot.dtype).expand(slot.shape).clone()
        self._tag(value, loop, loop.iteration)
        write.values.append(value)
        return None

    def _flush(self, loop: Loop) -> None:
        """Write the values of all iterations into their buffers."""
        writes = [*self._writes.values()]
        self._writes.clear()
        for write in writes:
            if len(write.values) < STEPS:
                raise self.refusal("writes its buffer in some steps only")
            step = _StepIndex.of(
                write.buffer,
                _placed(write, evenly(base=0, slope=1, iteration=0, results=self)),
            )
            assert step is not None
            collected = self._collect(write.values, step.result_axis, loop)
            end = write.first + loop.steps
            size = write.buffer.shape[step.axis]
            to_the_end = expression_of(size) == expression_of(end)
            if to_the_end and step.selects_only_step:
                front = write.buffer.narrow(step.axis, 0, write.first)
                tensors = [front, collected] if write.first else [collected]
                write.buffer.copy_(_joined(tensors, step.axis))
            else:
                steps = slice(write.first, end)
                write.buffer[_placed(write, steps)] = collected


def _placed(write: _Write, step: Any) -> tuple[Any, ...]:
    """Return the index of a write with ``step`` on the time axis."""
    return _with_entry(write.index, write.entry, step)


def _with_entry(index: tuple[Any, ...], entry: int, value: Any) -> tuple[Any, ...]:
    """Return an index with another value as one of its entries."""
    return (*index[:entry], value, *index[entry + 1 :])


_ANSWERS: dict[Any, Callable[..., Any]] = {
    torch.stack: Loops.stack,
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), Loops.cat),
    **dict.fromkeys((torch.unbind, Tensor.unbind), Loops.unbind),
    **dict.fromkeys((torch.split, Tensor.split), Loops.split),
    **dict.fromkeys((torch.chunk, Tensor.chunk), Loops.chunk),
    **dict.fromkeys((torch.select, Tensor.select), Loops.select),
    **dict.fromkeys((torch.narrow, Tensor.narrow), Loops.narrow),
    **dict.fromkeys((torch.logcumsumexp, Tensor.logcumsumexp), Loops.log_cum_sum_exp),
    Tensor.__getitem__: Loops.item,
    Tensor.__setitem__: Loops.write,
}


_BY_INDEX = frozenset((torch.select, Tensor.select, torch.narrow, Tensor.narrow))
"""Functions that ask for the ordinary number of a step before they are called."""


class _Range(type):
    """``range``: of a traced size it is a loop over time."""

    loops: Loops

    def __instancecheck__(cls, value: Any) -> bool:
        """Accept ordinary ranges, as the built-in type does."""
        return isinstance(value, range)

    def __call__(cls, *args: Any) -> Any:
        """Return the steps of a traced range, or an ordinary range."""
        if not any(map(is_symbolic, args)):
            return range(*args)
        start, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        if is_symbolic(step) or step != 1:
            raise cls.loops.refusal(
                "runs backwards"
                if not is_symbolic(step) and step < 0
                else "skips steps"
            )
        if is_symbolic(start):
            raise cls.loops.refusal("starts at a traced size")
        return Steps(
            cls.loops,
            stop - start if start else stop,
            lambda k: evenly(int(start), slope=1, iteration=k, results=cls.loops),
        )


@dataclass(frozen=True)
class _StepIndex:
    """An index with one step number: ``[:, t]`` or ``[:, t:t + 1, 0]``."""

    tensor: Tensor
    """The tensor that is indexed."""
    index: tuple[Any, ...]
    """All entries, with a colon instead of the step."""
    entry: int
    """Number of the entry that is the step."""
    axis: int
    """Axis of the steps."""
    result_axis: int
    """Axis of the steps in the result, if a slice were taken."""
    position: int
    """Number of the step."""
    width: int
    """Number of steps of a slice, 0 for a single index."""

    @classmethod
    def of(cls, tensor: Tensor, index: Any) -> "_StepIndex | None":
        """Return the entries of ``index``; None if it has no step number."""
        entries = index if isinstance(index, tuple) else (index,)
        if any(isinstance(entry, Tensor) for entry in entries):
            return None
        steps = [number for number, entry in enumerate(entries) if _position(entry)]
        if len(steps) != 1:
            return None
        (number,) = steps
        before = entries[:number]
        position, width = _position(entries[number]) or (0, 0)
        takes_axis = [entry is not None and entry is not Ellipsis for entry in entries]
        rest = tensor.dim() - sum(takes_axis)
        axis = sum(takes_axis[:number])
        result_axis = sum(not isinstance(entry, int) for entry in before)
        if any(entry is Ellipsis for entry in before):
            axis += rest
            result_axis += rest - 1
        return cls(
            tensor=tensor,
            index=_with_entry(entries, number, slice(None)),
            entry=number,
            axis=axis,
            result_axis=result_axis,
            position=position,
            width=width,
        )

    @property
    def selects_only_step(self) -> bool:
        """True if the index selects nothing but the step."""
        return all(entry is Ellipsis or entry == slice(None) for entry in self.index)

    def at(self, step: Any) -> tuple[Any, ...]:
        """Return the index with ``step`` instead of the step number."""
        return _with_entry(self.index, self.entry, step)

    def read(self, loops: Loops) -> Tensor:
        """Return the step, then what the rest of the index selects of it."""
        made = loops.read(self.tensor, self.axis, index=self.position, width=self.width)
        if self.selects_only_step:
            return made
        time_axis = (slice(None),) if self.width else ()
        before = self.index[: self.entry]
        behind = self.index[self.entry + 1 :]
        rest = (*before, *time_axis, *behind)
        return made[rest]


def _position(entry: Any) -> tuple[int, int] | None:
    """Return position and width of a step number, or of a slice between two."""
    if _is_step(entry):
        return plain_number(entry), 0
    if not isinstance(entry, slice) or entry.step not in (None, 1):
        return None
    if not (_is_step(entry.start) and _is_step(entry.stop)):
        return None
    start = plain_number(entry.start)
    return start, plain_number(entry.stop) - start


def _is_step(number: Any) -> bool:
    """Return True for the number of a step plus a constant."""
    return isinstance(number, Evenly) and number.is_whole and number.slope == 1


def _joined(tensors: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate tensors along ``axis``."""
    return tensors[0] if len(tensors) == 1 else torch.cat([*tensors], axis)


def _has_step(args: Any) -> bool:
    """Return True if arguments contain the number of a step."""
    return any(isinstance(leaf, Evenly) for leaf in pytree.tree_leaves(args))
