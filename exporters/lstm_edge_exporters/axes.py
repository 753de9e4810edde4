"""The axes of a module's inputs: as told, or as found by tracing."""

from collections.abc import Mapping

from torch import nn

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Axes

from .config import ExportConfig
from .signature import Signature
from .trace import find_axes

__all__ = ["resolve_axes"]


def resolve_axes(module: nn.Module, signature: Signature, config: ExportConfig) -> dict[str, Axes]:
    """Give every input's axes.

    Args:
        module: a copy in eval mode that tracing may instrument.
        signature: the inputs and an example of them.
        config: the axes of some of the inputs, or of all.

    Raises:
        InputError: axes for an input that is not there, or that do not fit the example; or no dynamic axis
            can be found.
    """
    shapes = {
        name: tuple(tensor.shape) for name, tensor in zip(signature.names, signature.example, strict=True)
    }
    for name, axes in config.inputs.items():
        _check(name, tuple(axes), shapes)
    known = {axis for axes in config.inputs.values() for axis in axes}
    for name, usual in ((config.batch, "N"), (config.sequence, "L")):
        if name != usual and known and name not in known:
            raise InputError(f"axis {name} is in none of the inputs: {', '.join(map(str, known))}")
    missing = [name for name in signature.names if name not in config.inputs]
    found = find_axes(module, signature, config.batch, config.sequence) if missing else {}
    if missing and not any(isinstance(axis, str) for name in missing for axis in found[name]):
        small = [name for name in missing if 1 in shapes[name]]
        if small and not config.inputs:
            raise InputError(
                f"no dynamic axis found; the example's {small[0]} is {list(shapes[small[0]])}: give one of "
                f'two rows and two steps or more, or name the axes: inputs={{"{small[0]}": ("N", "L", ...)}}'
            )
    return {name: tuple(config.inputs.get(name, found.get(name, ()))) for name in signature.names}


def _check(name: str, axes: Axes, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if name not in shapes:
        raise InputError(f"input {name!r} is not one of {', '.join(shapes)}")
    fits = len(axes) == len(shapes[name]) and all(
        isinstance(axis, str) or axis == size for axis, size in zip(axes, shapes[name], strict=True)
    )
    if not fits:
        raise InputError(
            f"input {name}: axes {', '.join(map(str, axes))} do not fit the example's {list(shapes[name])}"
        )
    names = [axis for axis in axes if isinstance(axis, str)]
    if len(set(names)) < len(names):
        raise InputError(f"input {name}: axis {max(names, key=names.count)} is named twice")
