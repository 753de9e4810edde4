"""Why a module gives another output on every call: what it keeps from one to the next, or what it draws.

Every line of the module's own is watched on a copy, so that a rebound attribute, a tensor written over, a
list that grows and a generator outside of torch are found alike.
"""

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..numerics.reference import Signature, flatten_output
from .request import Request
from .source import is_own, line_at, watching

SAMPLES = (
    "forward samples: it draws random numbers ({}), and so gives another output on every call; "
    "return the distribution's parameters and sample outside, or pass the numbers in"
)

_MACHINERY = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def why_unrepeatable(request: Request) -> str:
    """Return why a module gives something else at its second call, and the way out; empty if it does not."""
    own, signature = request.copy(), request.signature
    called = copy.deepcopy(own)
    first = _call(called, signature)
    if _same(first, _call(copy.deepcopy(called), signature)):
        return ""
    drawn = _generators()
    if line := _line_after(lambda: _generators() != drawn, partial(_call, copy.deepcopy(own), signature)):
        return SAMPLES.format(line)
    kept = [place for place in _changed(own, called) if _matters(place, own, called, signature, first)]
    if not kept:
        return "forward gives another output on every call; keep states outside, and pass them in"
    watched = copy.deepcopy(called)  # the first call may only make the state
    before = _held(watched)
    line = _line_after(
        lambda: any(_held(watched).get(place) != before.get(place) for place in kept),
        partial(_call, watched, signature),
    )
    names = " and ".join(".".join(part for part in place if part) for place in kept)
    taken = f"take {names} as an argument" if len(kept) == 1 else "take them as arguments"
    values = (
        "its new value, a state of the file" if len(kept) == 1 else "their new values, states of the file"
    )
    return (
        f"forward keeps {names} in the module between calls{f' ({line})' if line else ''}, so that every "
        f"call gives another output; {taken} and return {values}"
    )


def _call(module: nn.Module, signature: Signature) -> list[Tensor] | None:
    """Return what ``forward`` gives; None where it raises, as it may with what an earlier call left."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [tensor.clone() for _, tensor in flatten_output(signature.call(module, signature.example))]
    except Exception:  # noqa: BLE001  a module may raise anything
        return None


def _same(one: list[Tensor] | None, other: list[Tensor] | None) -> bool:
    if one is None or other is None or len(one) != len(other):
        return one is other
    return all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(one, other, strict=True)
    )


def _generators() -> tuple[Any, ...]:
    """Return the state of every generator of random numbers that a module shares with others."""
    numpys = str(np.random.get_state(legacy=False))  # noqa: NPY002  what users draw from
    return random.getstate(), numpys, torch.get_rng_state().numpy().tobytes()


def _held(module: nn.Module) -> dict[tuple[str, str], list[Any]]:
    """Return what each attribute holds, by the path of its module and its name: something that compares."""
    return {
        (path, name): [
            (id(leaf), leaf._version) if isinstance(leaf, Tensor) else leaf
            for leaf in pytree.tree_leaves(value)
            if isinstance(leaf, Tensor | bool | int | float | str) or leaf is None
        ]
        for path, name, value in _attributes(module)
    }


def _attributes(module: nn.Module) -> Iterator[tuple[str, str, Any]]:
    for path, layer in module.named_modules():
        own = vars(layer).items()
        for name, value in [*own, *layer._buffers.items(), *layer._parameters.items()]:
            if name not in _MACHINERY:
                yield path, name, value


def _changed(own: nn.Module, called: nn.Module) -> list[tuple[str, str]]:
    """Return the attributes in which a copy that was called differs from one that was not."""
    before, after = (
        {(path, name): pytree.tree_leaves(value) for path, name, value in _attributes(each)}
        for each in (own, called)
    )
    return [place for place, leaves in after.items() if not _alike(before.get(place), leaves)]


def _alike(one: list[Any] | None, other: list[Any]) -> bool:
    return one is not None and len(one) == len(other) and all(map(_equal, one, other))


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return _same([one], [other])
    return type(one) is type(other) and (not isinstance(one, bool | int | float | str) or one == other)


def _matters(
    place: tuple[str, str],
    own: nn.Module,
    called: nn.Module,
    signature: Signature,
    first: list[Tensor] | None,
) -> bool:
    """Tell whether a module that holds at ``place`` what the called one does gives something else."""
    path, name = place
    other = copy.deepcopy(own)
    setattr(other.get_submodule(path), name, copy.deepcopy(getattr(called.get_submodule(path), name)))
    return not _same(first, _call(other, signature))


def _line_after(holds: Callable[[], bool], run: Callable[[], Any]) -> str:
    """Return the first line of the module's own, while ``run`` runs, after which ``holds`` is true."""
    last: dict[FrameType, int] = {}
    found = ""

    def watch(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal found
        if found or not is_own(frame.f_code.co_filename):
            return None
        if event != "call" and holds():
            found = line_at(frame.f_code.co_filename, last[frame])
        last[frame] = frame.f_lineno
        return watch

    with watching(watch):
        run()
    return found
