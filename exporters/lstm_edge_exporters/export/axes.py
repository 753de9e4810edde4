"""The axes of the inputs: as given, or as the recurrent layers see them when the module is traced."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from lstm_edge_runtime.axes import is_sum, parse_sum
from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Axes

from ..numerics.reference import Signature
from ..pairing import is_called_like_a_state
from .config import ExportConfig
from .record import LoopError, Recorder
from .request import Request, runs
from .sizes import keeping_sizes, size_text, symbols
from .source import Place
from .trace import FoundAxes, Program, export_program

_MOST_SINGLES = 8
"""Beyond so many axes of size 1 not every choice of them is tried."""


def find_axes(request: Request) -> FoundAxes:
    """Return every input's axes: given ones as they are, the others as tracing finds them; and that trace.

    Raises:
        InputError: axes that do not fit the example, or no dynamic axis can be found.
        UnsupportedError: the module does what can't be exported right.
    """
    signature, config = request.signature, request.config
    shapes, given = signature.shapes, config.given_axes(signature.shapes)
    missing = [name for name in signature.names if name not in given]
    if not missing:
        return FoundAxes(given)
    found = keeping_sizes(request.module, lambda module: _search(module, signature, config))
    _refuse_fixed(found, shapes, missing)
    if not found.layers:
        _refuse_loops(found, shapes, missing)
    free = any(isinstance(axis, str) for name in missing for axis in found.axes[name])
    if not free and not given and not found.batches:
        lines = "; ".join(dict.fromkeys(place.line for place in found.fixed.values() if place.line))
        raise InputError(
            f"no dynamic axis found{f' ({lines})' if lines else ''}: forward calls no recurrent layer; name "
            f'the axes: inputs={{"{missing[0]}": ("N", ...)}}, by its number each one that is fixed'
        )
    for name in missing:
        pairs = zip(found.axes[name], shapes[name], strict=True)
        given[name] = tuple(axis if isinstance(axis, str) else size for axis, size in pairs)
    program = found.program if found.example is signature else None
    return FoundAxes({name: given[name] for name in signature.names}, program)


@dataclass(frozen=True)
class _Found:
    """What tracing found with every axis free."""

    example: Signature
    """What was traced."""
    program: Program
    axes: Mapping[str, Axes]
    """By input; a name where the recurrent layers see batch or time, else the example's size."""
    batches: frozenset[int]
    """The batch sizes of layers that see always the same one."""
    times: frozenset[int]
    """The counts of steps of layers that see always the same one."""
    loops: Mapping[int, str]
    """How often one layer is called for a single step, and the line that calls it."""
    layers: bool
    """Whether ``forward`` calls recurrent layers."""
    fixed: Mapping[tuple[str, int], Place]
    """Where the module's code fixes an axis of an input."""


def _search(module: nn.Module, signature: Signature, config: ExportConfig) -> _Found:
    """Trace with every axis free, at an example that shows them."""
    found, singles = _trace_free(module, signature, config), _singles(signature)
    if 1 in found.batches | found.times or (not found.layers and singles):
        if 1 in found.batches and len(singles) > _MOST_SINGLES:
            raise InputError(
                f"the example has {len(singles)} axes of size 1; give one of two rows and two "
                "steps, or name the axes of every input with inputs="
            )
        for larger in _enlarged(module, signature):
            with suppress(LoopError):  # over an axis of which the example has one step
                return _trace_free(module, larger, config)
    return found


def _enlarged(module: nn.Module, signature: Signature) -> Iterator[Signature]:
    """Repeat the example along axes of size 1 that the module lets be larger together, the most first.

    Tracing takes 1 for a constant, and one row is what most examples have.
    """
    places = _singles(signature)
    taken = {size for tensor in signature.example for size in tensor.shape}
    size = next(size for size in range(2, len(taken) + 3) if size not in taken)
    for count in range(len(places), 0, -1) if len(places) <= _MOST_SINGLES else ():
        for chosen in combinations(places, count):
            example = list(signature.example)
            for place, axis in chosen:
                example[place] = example[place].repeat_interleave(size, dim=axis)
            larger = signature.with_example(example)
            if runs(module, larger):
                yield larger


def _singles(signature: Signature) -> list[tuple[int, int]]:
    """Return the place of each input and axis that has size 1."""
    return [
        (place, axis)
        for place, tensor in enumerate(signature.example)
        for axis, size in enumerate(tensor.shape)
        if size == 1
    ]


def _trace_free(module: nn.Module, signature: Signature, config: ExportConfig) -> _Found:
    """Trace with every axis dynamic; those that turn out to be neither batch nor time keep their size."""
    shapes = [[Dim.AUTO] * tensor.dim() for tensor in signature.example]
    program = export_program(module, signature, signature.example, shapes)
    recorder = program.recorder
    names = _name_symbols(recorder, signature, config)
    axes = {
        name: tuple(_axis_of(size, names, number) for size, number in zip(shape, tensor.shape, strict=True))
        for name, shape, tensor in zip(signature.names, recorder.shapes, signature.example, strict=True)
    }
    times, batches = (
        frozenset(int(text) for call in recorder.calls if (text := size_text(call.shape[place])).isdecimal())
        for place in (0, 1)
    )
    single = Counter((call.path, call.line) for call in recorder.calls if size_text(call.shape[0]) == "1")
    loops = {count: line for (_, line), count in single.items() if count > 1}
    fixed = recorder.fixed_places(signature.names)
    return _Found(signature, program, axes, batches, times, loops, bool(recorder.calls), fixed)


def _name_symbols(recorder: Recorder, signature: Signature, config: ExportConfig) -> dict[str, str]:
    """Return the axis of each traced size: batch and time as the layers see them."""
    steps, rows = (
        list(dict.fromkeys(symbol for call in recorder.calls for symbol in symbols(call.shape[place])))
        for place in (0, 1)
    )
    if not recorder.calls:  # the first free axis is taken for the batch, the next one for the time
        free = _free_symbols(recorder, signature.names)
        rows, steps = free[:1], free[1:]
    # Where words are read by letters, the batch of the letters' layer holds the time of the words' layer.
    rows = [symbol for symbol in rows if symbol not in steps] or rows
    names: dict[str, str] = {}
    for stem, found in ((config.batch, rows), (config.sequence, steps)):
        fresh = [symbol for symbol in found if symbol not in names]
        names |= {symbol: stem if index == 0 else f"{stem}{index + 1}" for index, symbol in enumerate(fresh)}
    return names | _of_same_size(recorder, names, signature.example)


def _free_symbols(recorder: Recorder, names: Sequence[str]) -> list[str]:
    """Return the sizes of the inputs that follow from no others, those of a cell's caches left out.

    Such have the shape of an output, and no axis of them is time. The first input that is not called like a
    state is the signal, whatever its shape.
    """
    texts, returned = (
        [list(map(size_text, shape)) for shape in shapes] for shapes in (recorder.shapes, recorder.returned)
    )
    tied = {symbol for text in chain(*texts) if not is_sum(text) for symbol in symbols(text)}
    signal = next((i for i, name in enumerate(names) if not is_called_like_a_state(name)), 0)
    seen = [text for i, shape in enumerate(texts) if i == signal or shape not in returned for text in shape]
    return list(dict.fromkeys(symbol for text in seen for symbol in symbols(text) if symbol not in tied))


def _axis_of(size: Any, names: Mapping[str, str], example: int) -> str | int:
    """Return the axis of a traced size: a name, a multiple or sum of names, else the example's size."""
    factors, constant = parse_sum(size_text(size))
    if not all(symbol in names for symbol in factors):
        return example
    terms = [
        names[symbol] if factor == 1 else f"{factor}*{names[symbol]}" for symbol, factor in factors.items()
    ]
    return "+".join([*terms, *([str(constant)] if constant else [])])


def _of_same_size(recorder: Recorder, names: Mapping[str, str], tensors: Sequence[Tensor]) -> dict[str, str]:
    """Name further dynamic axes after the one axis that has their size in the example.

    Such are the axes of an input that reaches the layers through a gather: its rows are picked, not seen. Two
    axes of one input are never the same.
    """
    sizes: dict[str, int] = {}
    others: dict[int, set[str]] = {}
    for shape, tensor in zip(recorder.shapes, tensors, strict=True):
        for size, number in zip(shape, tensor.shape, strict=True):
            if size_text(size) in names:
                others.setdefault(number, set()).add(names[size_text(size)])
            elif isinstance(size, torch.SymInt) and not size_text(size).isdecimal():
                sizes[size_text(size)] = number
    unique = {number: found.pop() for number, found in others.items() if len(found) == 1}
    clashing = {
        (size_text(size), names.get(size_text(each)))
        for shape in recorder.shapes
        for size in shape
        for each in shape
    }
    return {
        symbol: unique[number]
        for symbol, number in sizes.items()
        if number in unique and (symbol, unique[number]) not in clashing
    }


def _refuse_fixed(found: _Found, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise ``UnsupportedError`` where ``forward``'s code fixes the example's batch or count of steps.

    Args:
        found: what tracing found.
        shapes: the shapes of what the user gave; one step is what a loop may take.
        names: the inputs whose axes are wanted.
    """
    for name, axes in ((name, found.axes[name]) for name in found.example.names if name in names):
        for place, axis in enumerate(axes):
            if not isinstance(axis, int) or axis == 1 or 0 < place == len(axes) - 1:
                continue
            given = f"or name the axes of {name} with inputs=, this one by its number"
            if axis in found.batches:
                fixed = found.fixed.get((name, place))
                at_line = f" ({fixed.line})" if fixed and fixed.line else ""
                raise UnsupportedError(
                    f"forward fixes the batch, axis {place} of {name}, at the example's size{at_line}: "
                    f"len(...), int(...size({place})) or a state that the module keeps does this; write "
                    f"{name}.size({place}), make the state an argument, {given}"
                )
            if axis in found.loops and shapes[name][place] > 1:
                raise LoopError(
                    f"forward calls a layer {axis} times for one step each ({found.loops[axis]}), as many "
                    f"as axis {place} of {name} has, and a file's loops have a fixed length; call it once on "
                    f"the whole, {given}",
                    axis,
                )


def _refuse_loops(found: _Found, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise ``LoopError`` where a loop of ``forward`` runs as often as an axis of the example is long."""
    for (name, axis), place in found.fixed.items():
        if name in names and place.loop and (steps := shapes[name][axis]) > 1:
            raise LoopError(
                f"forward loops over axis {axis} of {name} ({place.line}), and a file would hold its "
                f"{steps} turns and no more; write it with tensor operations over the whole "
                f"axis, or name the axes of {name} with inputs=, this one by its number",
                steps,
            )
