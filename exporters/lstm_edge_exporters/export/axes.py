"""The axes of inputs that nobody told: found by tracing."""

import contextlib
import copy
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import torch
from torch import nn

from lstm_edge_runtime.errors import InputError, UnsupportedError
from lstm_edge_runtime.manifest import Axes

from ..numerics.reference import Signature, flatten_output
from .config import ExportConfig
from .refusals import LoopError
from .sizes import keep_sizes
from .trace import FoundAxes, find_axes, runs

__all__ = ["find_missing_axes", "suggest_step"]

_MOST_SINGLES = 8
"""Beyond so many axes of size 1 not every choice of them is tried."""


def find_missing_axes(module: nn.Module, signature: Signature, config: ExportConfig) -> dict[str, Axes]:
    """Return every input's axes: of some as told, of the others as tracing finds them.

    Args:
        module: a copy in eval mode.
        signature: the inputs and an example of them.
        config: the axes of some of the inputs, checked.

    Raises:
        InputError: no dynamic axis can be found.
        UnsupportedError: the module does what can't be exported right.
    """
    shapes = signature.shapes
    missing = [name for name in signature.names if name not in config.inputs]
    found, example = _find(module, signature, config)
    _refuse_fixed(found, example, shapes, missing)
    if not found.layers:
        _refuse_loops(found, shapes, missing)
    free = any(isinstance(axis, str) for name in missing for axis in found.axes[name])
    if not free and not config.inputs and not found.batches:
        lines = "; ".join(dict.fromkeys(place.line for place in found.fixed.values() if place.line))
        raise InputError(
            f"no dynamic axis found{f' ({lines})' if lines else ''}: forward calls no recurrent layer; name "
            f'the axes: inputs={{"{missing[0]}": ("N", ...)}}, by its number each one that is fixed'
        )
    return {
        name: tuple(
            config.inputs.get(name)
            or (
                axis if isinstance(axis, str) else size
                for axis, size in zip(found.axes[name], shapes[name], strict=True)
            )
        )
        for name in signature.names
    }


def _find(module: nn.Module, signature: Signature, config: ExportConfig) -> tuple[FoundAxes, Signature]:
    """Find the axes with an example that shows them; gives it too."""
    own = copy.deepcopy(module)
    if keep_sizes(own):
        with contextlib.suppress(UnsupportedError):
            return _find_in(own, signature, config)
    return _find_in(module, signature, config)


def _find_in(module: nn.Module, signature: Signature, config: ExportConfig) -> tuple[FoundAxes, Signature]:
    found = find_axes(copy.deepcopy(module), signature, config.batch, config.sequence)
    if 1 in found.batches | found.times or (not found.layers and _singles(signature)):
        if 1 in found.batches and len(_singles(signature)) > _MOST_SINGLES:
            raise InputError(
                f"the example has {len(_singles(signature))} axes of size 1; give one of two rows and two "
                "steps, or name the axes of every input with inputs="
            )
        for larger in _enlarged(module, signature):
            with contextlib.suppress(LoopError):  # over an axis of which the example has one step
                return find_axes(copy.deepcopy(module), larger, config.batch, config.sequence), larger
    return found, signature


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
            larger = replace(signature, example=tuple(example))
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


def _refuse_fixed(
    found: FoundAxes, example: Signature, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]
) -> None:
    """Raise ``UnsupportedError`` where ``forward``'s code fixes the example's batch or count of steps.

    Args:
        found: what tracing found.
        example: what was traced.
        shapes: the shapes of what the user gave; one step is what a loop may take.
        names: the inputs whose axes are wanted.
    """
    for name, tensor in zip(example.names, example.example, strict=True):
        for place, axis in enumerate(found.axes[name]):
            if name not in names or not isinstance(axis, int) or axis == 1 or 0 < place == tensor.dim() - 1:
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
                loop = LoopError(
                    f"forward calls a layer {axis} times for one step each ({found.loops[axis]}), as many "
                    f"as axis {place} of {name} has, and a file's loops have a fixed length; call it once on "
                    f"the whole, {given}"
                )
                loop.steps = axis
                raise loop


def _refuse_loops(found: FoundAxes, shapes: Mapping[str, tuple[int, ...]], names: Sequence[str]) -> None:
    """Raise ``LoopError`` where a loop of ``forward`` runs as often as an axis of the example is long."""
    for (name, axis), place in found.fixed.items():
        if name in names and place.loop and shapes[name][axis] > 1:
            loop = LoopError(
                f"forward loops over axis {axis} of {name} ({place.line}), and a file would hold its "
                f"{shapes[name][axis]} turns and no more; write it with tensor operations over the whole "
                f"axis, or name the axes of {name} with inputs=, this one by its number"
            )
            loop.steps = shapes[name][axis]
            raise loop


def suggest_step(module: nn.Module, signature: Signature, steps: int) -> str:
    """Return how to export one step a call, where ``forward`` takes it and carries its states; else ``""``.

    Args:
        module: a copy in eval mode.
        signature: the inputs and the example on which a layer was called once a step.
        steps: how many steps that were.
    """
    cut: dict[str, int] = {}
    example = list(signature.example)
    for place, (name, tensor) in enumerate(zip(signature.names, signature.example, strict=True)):
        axis = next((axis for axis, size in enumerate(tensor.shape[:2]) if size == steps), None)
        if axis is not None and tensor.dim() > 1:
            cut[name], example[place] = axis, tensor.narrow(axis, 0, 1)
    one = replace(signature, example=tuple(example))
    if not cut or not runs(module, one):
        return ""
    with torch.no_grad():
        outputs = [tensor for _, tensor in flatten_output(one.call(module, one.example))]
    states = [
        name
        for name, tensor in zip(one.names, one.example, strict=True)
        if name not in cut
        and tensor.is_floating_point()
        and any(tensor.shape == each.shape for each in outputs)
    ]
    if not states:
        given = {name.partition("_")[0] for name in signature.names} | {*signature.names}
        absent = [
            name
            for name, parameter in inspect.signature(module.forward).parameters.items()
            if parameter.default is None and name not in given
        ]
        also = f", for which forward has {' and '.join(absent)}" if absent else ""
        return f"; or export one step a call: an example of one step with its states as arguments{also}"
    options = []
    for name, tensor in zip(one.names, one.example, strict=True):
        axis = cut.get(name, 1 if name in states and tensor.dim() == 3 else -1)
        batch = (1 if axis == 0 else 0) if name in cut else axis if axis > 0 else 0
        axes = ["N" if place == batch else str(size) for place, size in enumerate(tensor.shape)]
        options.append(f"--input {name}={','.join(axes)}")
    return (
        f"; forward takes and returns {', '.join(states)}, so that one step a call works: "
        f"{' '.join(options)} (--step makes every L of --input 1)"
    )
