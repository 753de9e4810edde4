"""What a module's own code calls its inputs and outputs, for telling which output continues which input.

A tuple has no names, and its order says nothing. The variables that held its tensors do: in ``h, c = hidden``
and ``return y, (c, h)``. They are seen by running ``forward`` once on the example, line by line.
"""

import warnings
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from ..numerics.reference import AllFloats, Path, Signature, output_paths
from ..pairing import Names
from .source import is_own, watching

_Key = tuple[int, int, int]


def find_names(module: nn.Module, signature: Signature) -> list[Names]:
    """Return what ``forward`` calls its arguments and results, then what each function that it calls does.

    A result is called as its key or field; one in a tuple as the variables that hold it at the end.

    Args:
        module: a float32 copy in eval mode.
        signature: its inputs and an example that it takes.
    """
    inputs = [tensor.clone() for tensor in signature.example]
    calls: list[_Call] = []

    def enter(frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG001
        if not is_own(frame.f_code.co_filename):
            return None
        calls.append(_Call())
        return calls[-1].look

    with torch.no_grad(), warnings.catch_warnings(), AllFloats(torch.float32), watching(enter):
        warnings.simplefilter("ignore")
        flat = output_paths(signature.call(module, inputs))
    before = {_key(tensor): name for tensor, name in zip(inputs, signature.names, strict=True)}
    after: dict[_Key, list[int]] = {}
    for place, (_, tensor) in enumerate(flat):
        after.setdefault(_key(tensor), []).append(place)
    forward, *inner = [call.names(before, after) for call in calls] or [Names({}, {})]
    told = Names(
        {
            name: _told(path) | forward.inputs.get(name, set())
            for name, path in zip(signature.names, signature.paths, strict=True)
        },
        {place: _told(path) or forward.outputs.get(place, set()) for place, (path, _) in enumerate(flat)},
    )
    return [told, *inner]


def _told(path: Path) -> set[str]:
    """Return what a key, a field or a parameter says; a place in a tuple or list says nothing."""
    return set() if not path or isinstance(path[-1], int) else {"_".join(map(str, path)), str(path[-1])}


def _key(tensor: Tensor) -> _Key:
    """Return the same for a tensor and for views of it that hold all of its elements in place."""
    if tensor.layout is not torch.strided:
        return id(tensor), 0, 0
    return tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel()


class _Call:
    """The tensors that the variables of one call held."""

    def __init__(self) -> None:
        self._held: dict[str, list[Tensor]] = {}  # which keeps their memory from being used again

    def look(self, frame: FrameType, event: str, argument: Any) -> Any:  # noqa: ARG002
        for name, value in frame.f_locals.items():
            if isinstance(value, Tensor):
                held = self._held.setdefault(name, [])
                if not held or held[-1] is not value:
                    held.append(value)
        return self.look

    def names(self, before: dict[_Key, str], after: dict[_Key, list[int]]) -> Names:
        """Name each input by every variable that held it, each output by those that held it at the end."""
        inputs: dict[str, set[str]] = {}
        outputs: dict[int, set[str]] = {}
        for name, held in self._held.items():
            for tensor in held:
                if (known := before.get(_key(tensor))) is not None:
                    inputs.setdefault(known, set()).add(name)
            for place in after.get(_key(held[-1]), ()):
                outputs.setdefault(place, set()).add(name)
        return Names(inputs, outputs)
