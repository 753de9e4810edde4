"""How ``forward`` is called: the flat view of its arguments and results, and the copies
that are run.
"""

import dataclasses
import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Axes

from ._torch_internals import PACK, OptimizedModule, original_module, pytree
from .floats import OTHER_FLOATS, Floats, copy_as

Path = tuple[str | int, ...]
"""Path of a tensor in nested arguments or results: keys, fields, and indices in tuples
and lists."""


@dataclass(frozen=True)
class Call:
    """The flat view of a call ``module(*args, **kwargs)``."""

    signature: inspect.Signature
    """The parameters of ``forward``."""
    paths: tuple[Path, ...]
    """Path of each tensor, from the parameter of ``forward`` on, in the order of the
    parameters."""
    leaves: tuple[Any, ...]
    """Every leaf of the example's call, including those that are not tensors."""
    spec: pytree.TreeSpec
    """The tree of the arguments by parameter."""
    has_fields: bool = False
    """True if an argument holds a named tuple or a dataclass."""

    @classmethod
    def of(cls, module: nn.Module, example: Any) -> "Call":
        """Bind ``example``, a tensor, a tuple of arguments or a dict of them, to
        ``module.forward``.
        """
        args, kwargs = _arguments(example)
        try:
            signature = inspect.signature(module.forward)
            arguments = dict(signature.bind(*args, **kwargs).arguments)
            flat, spec = pytree.tree_flatten_with_path(arguments)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"the example does not fit {type(module).__name__}.forward: {error};"
                " give a tensor, a tuple of arguments or a dict of them, and an"
                " argument that is a dict itself in a tuple"
            ) from error
        paths = [
            _path_of(keys, signature) for keys, leaf in flat if isinstance(leaf, Tensor)
        ]
        if not paths:
            raise InputError(
                "the example holds no tensor; pass one tensor for each input of the"
                " network"
            )
        leaves = tuple(leaf for _, leaf in flat)
        has_fields = any(hasattr(key, "name") for keys, _ in flat for key in keys)
        call = cls(
            signature=signature,
            paths=tuple(paths),
            leaves=leaves,
            spec=spec,
            has_fields=has_fields,
        )
        repeated = [name for name, count in Counter(call.names).items() if count > 1]
        if repeated:
            raise InputError(
                f"two inputs of {type(module).__name__}.forward are both called"
                f" {repeated[0]}: a parameter and an item of another; rename one"
            )
        return call

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The example's tensors in the order of ``paths``."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    @property
    def names(self) -> tuple[str, ...]:
        """One name per tensor, in the order of ``forward``'s parameters."""
        return tuple("_".join(map(str, path)) for path in self.paths)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The example's shapes by input name."""
        return {
            name: tuple(tensor.shape)
            for name, tensor in zip(self.names, self.example, strict=True)
        }

    @property
    def nested_paths(self) -> dict[str, list[str | int]]:
        """Path of each tensor by name if an argument holds several; empty if none does,
        or if a tree of dicts, tuples and lists of tensors can't express the call.
        """
        is_flat = all(len(path) == 1 for path in self.paths)
        has_others = len(self.leaves) > len(self.paths)
        if is_flat or has_others or self.has_fields:
            return {}
        return dict(zip(self.names, map(list, self.paths), strict=True))

    def as_floats(self, dtype: torch.dtype) -> "Call":
        """Return the same call with the example on the CPU, every float of it in
        ``dtype``.
        """
        tensors = [
            x.detach().cpu().to(dtype if x.is_floating_point() else x.dtype)
            for x in self.example
        ]
        return dataclasses.replace(self, leaves=self._leaves(tensors))

    def with_two(self, axes: Mapping[str, Axes]) -> "Call":
        """Return the same call with two elements along dynamic axes of one, which may
        broadcast.
        """
        tensors = list(self.example)
        for index, name in enumerate(self.names):
            for axis, size in enumerate(axes.get(name, ())):
                if isinstance(size, str) and tensors[index].shape[axis] == 1:
                    tensors[index] = tensors[index].repeat_interleave(2, axis)
        return dataclasses.replace(self, leaves=self._leaves(tensors))

    def with_another_row(self, rows: int) -> "Call":
        """Return the same call with one element more along first axes of ``rows``."""
        tensors = [
            torch.cat([x, x[:1]]) if x.dim() and x.shape[0] == rows else x
            for x in self.example
        ]
        return dataclasses.replace(self, leaves=self._leaves(tensors))

    def _leaves(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Return the leaves of a call with other tensors."""
        remaining = iter(tensors)
        return tuple(
            next(remaining) if isinstance(leaf, Tensor) else leaf
            for leaf in self.leaves
        )

    def run(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call ``module`` with copies of ``tensors`` in the places of the example's:
        ``forward`` may change its arguments in place.
        """
        return self.run_in_place(module, [tensor.clone() for tensor in tensors])

    def run_in_place(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call ``module`` with ``tensors`` themselves in the places of the
        example's.
        """
        arguments = pytree.tree_unflatten(self._leaves(tensors), self.spec)
        bound = inspect.BoundArguments(self.signature, arguments)
        return module(*bound.args, **bound.kwargs)


def _arguments(example: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the positional and the keyword arguments that an example stands for."""
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), example
    return example, {}


def _path_of(keys: Sequence[Any], signature: inspect.Signature) -> Path:
    """Return the path of a leaf from its parameter on; the name of ``**kwargs`` is no
    part of it.
    """
    path = []
    for key in keys:
        mark = next(mark for mark in ("key", "idx", "name") if hasattr(key, mark))
        path.append(getattr(key, mark))
    is_keyword = signature.parameters[path[0]].kind is inspect.Parameter.VAR_KEYWORD
    return tuple(path[1:] if is_keyword else path)


def flatten_output(output: Any, path: Path = ()) -> list[tuple[str, Tensor]]:
    """Return the tensors of ``output`` with names: keys and fields joined with ``_``,
    else ``""``.
    """
    if isinstance(output, Tensor):
        return [
            (
                "_".join(map(str, dropwhile(lambda step: isinstance(step, int), path))),
                output,
            )
        ]
    entries: Iterable[tuple[str | int, Any]] = ()
    if isinstance(output, Mapping):
        entries = output.items()
    elif dataclasses.is_dataclass(output):
        names = [field.name for field in dataclasses.fields(output)]
        entries = [(name, getattr(output, name)) for name in names]
    elif isinstance(output, tuple | list) and not isinstance(
        output, PackedSequence | torch.Size
    ):
        entries = (
            output._asdict().items()
            if hasattr(output, "_asdict")
            else enumerate(output)
        )
    elif output is not None and not isinstance(
        output, bool | int | float | str | torch.Size
    ):
        raise InputError(
            f"forward returns a {type(output).__name__}; return tensors in a tuple,"
            " dict or dataclass (pad_packed_sequence(...)[0])"
        )
    return [
        pair for key, item in entries for pair in flatten_output(item, (*path, key))
    ]


def unwrapped(module: nn.Module) -> nn.Module:
    """Return ``module`` without wrappers for several devices or a compiler."""
    while isinstance(module, DataParallel | DistributedDataParallel | OptimizedModule):
        module = (
            original_module(module)
            if isinstance(module, OptimizedModule)
            else module.module
        )
    return module


def own_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` in float32 and eval mode, without its wrappers."""
    module = unwrapped(module)
    class_name = type(module).__name__
    for layer in module.modules():
        if isinstance(layer, torch.jit.ScriptModule):
            raise UnsupportedError(
                f"{class_name} is or contains a TorchScript module ({layer.original_name});"
                " export the module that it was scripted or traced from"
            )
    try:
        wrong = _not_finite(module)
        copied = copy_as(module, torch.float32)
        _compute_parametrized(copied)
    except Exception as error:
        raise InputError(
            f"{class_name} can't be copied ({first_line(error)}); call it once if it is lazy,"
            " and keep no tensors with gradients or open files in its attributes"
        ) from error
    if wrong:
        raise InputError(
            f"{wrong[0]} holds NaN or infinity; train again, or load other weights"
        )
    return copied


def _compute_parametrized(module: nn.Module) -> None:
    """Replace parametrized weights by their values, in place.

    ``remove_parametrizations`` would change the class of a layer, which copies share.
    """
    for layer in module.modules():
        if not parametrize.is_parametrized(layer):
            continue
        parametrized: Any = layer.parametrizations
        with torch.no_grad():
            values = {name: getattr(layer, name).detach() for name in parametrized}
        layer.__class__ = type(layer).__bases__[0]
        del layer.parametrizations
        for name, value in values.items():
            setattr(layer, name, nn.Parameter(value, requires_grad=False))


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Restore the tensors that ``forward`` assigns to attributes of layers: the next
    call may have another batch size.
    """
    spaces = [vars(layer) for layer in module.modules()]
    spaces += [layer._buffers for layer in module.modules()]
    held = []
    for space in spaces:
        tensors = {name: x for name, x in space.items() if isinstance(x, Tensor)}
        held.append((space, tensors))
    try:
        yield
    finally:
        for space, tensors in held:
            space.update(tensors)


class _WholeLengths(TorchFunctionMode):
    """Refuses lengths of packed sequences that are computed from a float input."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        inputs = zip(call.names, call.example, strict=True)
        self._floats = [
            name
            for name, tensor in inputs
            if tensor.dim() == 1 and tensor.is_floating_point()
        ]
        """Float inputs with one axis."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``; raise InputError if it packs by lengths that are not
        positive.
        """
        packs = func == PACK
        if packs and self._floats and bool((args[1] < 1).any()):
            raise InputError(float_lengths(self._floats[0]))
        return func(*args, **(kwargs or {}))


def float_lengths(name: str) -> str:
    """Return the message for lengths of packed sequences that are floats."""
    return (
        f"{name} has floats, but packed sequences take it as lengths, which are int64;"
        f" give whole numbers: --input {name}=N:int64"
    )


def _not_finite(module: nn.Module) -> list[str]:
    """Return the names of parameters with NaN or infinity, and of buffers with NaN; a
    mask may hold infinity.
    """
    wrong = [
        name
        for name, value in module.named_parameters()
        if not bool(torch.isfinite(value).all())
    ]
    wrong += [
        name for name, value in module.named_buffers() if bool(value.isnan().any())
    ]
    return wrong


def note_on_dtype(module: nn.Module) -> str:
    """Return a note on weights that are not float32; empty if all are."""
    values = (*module.parameters(), *module.buffers())
    other = {value.dtype for value in values} & OTHER_FLOATS
    names = sorted(str(dtype).removeprefix("torch.") for dtype in other)
    return f"{' and '.join(names)} weights are float32 in the file" if names else ""


def try_example(module: nn.Module, call: Call) -> list[tuple[str, Tensor]]:
    """Run ``module`` twice on the example in float32 and return its outputs; raise if
    the runs differ.
    """
    try:
        with (
            torch.no_grad(),
            _WholeLengths(call),
            Floats(torch.float32),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            copies = [tensor.clone() for tensor in call.example]
            first = flatten_output(call.run_in_place(module, copies))
            second = flatten_output(call.run(module, call.example))
    except InputError:
        raise
    except Exception as error:
        shapes = ", ".join(
            f"{name} {list(shape)}" for name, shape in call.shapes.items()
        )
        raise InputError(
            f"{type(module).__name__} does not run on the example ({shapes}):"
            f" {first_line(error)}"
        ) from error
    if not _are_equal(first, second):
        raise UnsupportedError(
            "forward is not deterministic: two calls with the same input gave different"
            " outputs, so it keeps a state in the module, or draws random numbers; take"
            " the state or the numbers as an argument and return the state's next value"
        )
    returned = {id(tensor) for _, tensor in first}
    for name, original, copied in zip(call.names, call.example, copies, strict=True):
        is_changed = not torch.equal(original.nan_to_num(), copied.nan_to_num())
        if is_changed and id(copied) not in returned:
            raise UnsupportedError(
                f"forward changes its argument {name} in place and does not return it;"
                " also return the new value, so that it is an output of the file"
            )
    if any(tensor.is_complex() for _, tensor in first):
        raise UnsupportedError(
            "forward returns complex numbers, which ONNX files can't hold; return their"
            " magnitude, or torch.view_as_real(...)"
        )
    return first


def _are_equal(
    first: Sequence[tuple[str, Tensor]], second: Sequence[tuple[str, Tensor]]
) -> bool:
    """Return True if two calls gave the same tensors; NaN equals NaN."""
    if len(first) != len(second):
        return False
    pairs = zip(first, second, strict=True)
    return all(torch.equal(x.nan_to_num(), y.nan_to_num()) for (_, x), (_, y) in pairs)
