"""How a module is called and what it gives: named tensors in, named tensors out.

``Signature.of`` reads ``forward``'s parameters and an example; it turns any nesting of arguments into a
flat, named list of tensors and back. ``flatten_output`` does the same for what ``forward`` returns.
"""

import dataclasses
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from lstm_edge_runtime.errors import InputError

__all__ = ["Signature", "flatten_output"]


@dataclasses.dataclass(frozen=True)
class Signature:
    """The flat view of a call ``module(*args, **kwargs)``."""

    names: tuple[str, ...]
    """One name a tensor, in the order of ``forward``'s parameters."""
    example: tuple[Tensor, ...]
    """The example's tensors in that order."""
    leaves: tuple[Any, ...]
    """Every leaf of the call; a tensor's place holds its index in ``names`` wrapped in ``_Slot``."""
    spec: pytree.TreeSpec
    """The tree of ``(args, kwargs)``."""

    @classmethod
    def of(cls, module: nn.Module, example: Any) -> "Signature":
        """Bind ``example`` to ``module.forward``.

        Args:
            module: any module.
            example: one tensor, a tuple of positional arguments, or a mapping of keyword arguments.

        Raises:
            InputError: the example does not fit ``forward``, or holds no tensor.
        """
        args, kwargs = _arguments(example)
        try:
            bound = inspect.signature(module.forward).bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(
                f"the example does not fit {type(module).__name__}.forward{inspect.signature(module.forward)}"
                f": {error}"
            ) from error
        call = (bound.args, bound.kwargs)
        leaves, spec = pytree.tree_flatten(call)
        names = list(_leaf_names(bound))
        if len(names) != len(leaves):
            raise InputError(
                "the example holds a container that is not a tuple, list or dict; pass its tensors apart"
            )
        tensors = [(name, leaf) for name, leaf in zip(names, leaves, strict=True) if isinstance(leaf, Tensor)]
        if not tensors:
            raise InputError("the example holds no tensor; pass one tensor for each input of the network")
        slots = iter(range(len(tensors)))
        return cls(
            names=tuple(name for name, _ in tensors),
            example=tuple(tensor for _, tensor in tensors),
            leaves=tuple(_Slot(next(slots)) if isinstance(leaf, Tensor) else leaf for leaf in leaves),
            spec=spec,
        )

    def as_float32(self) -> "Signature":
        """Return the same signature with the example on the CPU, every float of it in float32."""
        example = tuple(
            tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu() for tensor in self.example
        )
        return dataclasses.replace(self, example=example)

    def call(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call ``module`` with ``tensors`` in the places of the example's."""
        leaves = [tensors[leaf.index] if isinstance(leaf, _Slot) else leaf for leaf in self.leaves]
        args, kwargs = pytree.tree_unflatten(leaves, self.spec)
        return module(*args, **kwargs)


def flatten_output(output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of ``output`` with names: dict keys and dataclass fields, ``""`` where none says.

    Nested names are joined with ``_``; what is not a tensor (None, a number) is left out.

    Raises:
        InputError: a ``PackedSequence`` or another container that has no flat form.
    """
    return list(_flatten(output, ""))


@dataclasses.dataclass(frozen=True)
class _Slot:
    index: int


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise InputError(
        f"the example is a {type(example).__name__}; give a tensor, a tuple of arguments or a dict of them"
    )


def _leaf_names(bound: inspect.BoundArguments) -> Iterator[str]:
    """Name the leaves of ``(bound.args, bound.kwargs)`` in pytree order."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            for key, item in value.items():
                yield from _paths(item, key)
        else:
            yield from _paths(value, name)


def _paths(value: Any, name: str) -> Iterator[str]:
    try:
        paths = [path for path, _ in pytree.tree_flatten_with_path(value)[0]]
    except ValueError:  # a class that was registered without names for its parts
        yield from (f"{name}_{place}" for place in range(len(pytree.tree_leaves(value))))
        return
    for path in paths:
        yield "_".join([name, *map(_step, path)])


def _step(key: Any) -> str:
    """Return a dict's key, a sequence's index or a field's name without pytree's marks."""
    return str(next((getattr(key, mark) for mark in ("key", "idx", "name") if hasattr(key, mark)), key))


def _flatten(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, PackedSequence):
        raise InputError("forward returns a PackedSequence; return pad_packed_sequence(...)[0] instead")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flatten(item, f"{name}_{key}" if name else str(key))
    elif dataclasses.is_dataclass(value):
        for entry in dataclasses.fields(value):
            yield from _flatten(getattr(value, entry.name), f"{name}_{entry.name}" if name else entry.name)
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        for key in value._fields:
            yield from _flatten(getattr(value, key), f"{name}_{key}" if name else key)
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _flatten(item, f"{name}_{index}" if name else "")
    elif value is not None and not isinstance(value, bool | int | float | str | torch.Size):
        raise InputError(
            f"forward returns a {type(value).__name__}; return tensors in a tuple, dict or dataclass"
        )
