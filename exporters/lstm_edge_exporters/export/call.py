"""How ``forward`` is called: the flat view of its arguments and results, and the copies that are run."""

import ast
import dataclasses
import inspect
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import dropwhile
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.jit import ScriptModule
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils.rnn import PackedSequence
from torch.utils import _pytree as pytree

from lstm_edge_runtime.errors import InputError, UnsupportedError, first_line
from lstm_edge_runtime.manifest import Array, Axes

from .floats import Floats, copy_as

Path = tuple[str | int, ...]
"""Where a tensor is in nested arguments or results: keys and fields, and places in tuples and lists."""
_KEYWORDS = inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)])


@dataclass(frozen=True)
class Call:
    """The flat view of a call ``module(*args, **kwargs)``."""

    paths: tuple[Path, ...]
    """Where each tensor is, from the parameter of ``forward`` on, in the order of the parameters."""
    leaves: tuple[Any, ...]
    """Every leaf of the example's call, those that are no tensors too."""
    spec: pytree.TreeSpec
    """The tree of ``(args, kwargs)``."""

    @classmethod
    def of(cls, module: nn.Module, example: Any) -> "Call":
        """Bind ``example`` to ``module.forward``.

        Args:
            module: any module.
            example: one tensor, a tuple of positional arguments, or a mapping of keyword arguments.

        Raises:
            InputError: the example does not fit ``forward``, or holds no tensor.
        """
        args, kwargs = _arguments(example)
        signature = inspect.signature(module.forward)
        if hasattr(module.forward, "__wrapped__") and not args and not set(kwargs) <= {*signature.parameters}:
            signature = _KEYWORDS  # a decorator that takes what forward itself does not, by name
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise InputError(
                f"the example does not fit {type(module).__name__}.forward{signature}: {error}; a dict gives "
                "arguments by name, so give one that is an argument itself in a tuple"
            ) from error
        leaves, spec = pytree.tree_flatten((bound.args, bound.kwargs))
        paths = [path for name, value in _named(bound) for path in _paths(value, name)]
        tensors = [path for path, leaf in zip(paths, leaves, strict=True) if isinstance(leaf, Tensor)]
        if not tensors:
            raise InputError("the example holds no tensor; pass one tensor for each input of the network")
        return cls(tuple(tensors), tuple(leaves), spec)

    @property
    def example(self) -> tuple[Tensor, ...]:
        """The example's tensors in the order of ``paths``."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, Tensor))

    @property
    def names(self) -> tuple[str, ...]:
        """One name a tensor, in the order of ``forward``'s parameters."""
        return tuple("_".join(map(str, path)) for path in self.paths)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The example's shapes by input name."""
        return {name: tuple(tensor.shape) for name, tensor in zip(self.names, self.example, strict=True)}

    @property
    def arrays(self) -> dict[str, Array]:
        """The example as a file takes it: arrays by input name, every float in float32."""
        tensors = zip(self.names, self.as_floats(torch.float32).example, strict=True)
        return {name: tensor.numpy() for name, tensor in tensors}

    def as_floats(self, dtype: torch.dtype) -> "Call":
        """Return the same call with the example on the CPU, every float of it in ``dtype``."""
        own = [x.detach().cpu().to(dtype if x.is_floating_point() else x.dtype) for x in self.example]
        return dataclasses.replace(self, leaves=self._leaves(own))

    def with_two(self, axes: Mapping[str, Axes]) -> "Call":
        """Return the same call with two elements where a dynamic axis has one, which may broadcast."""
        own = list(self.example)
        for index, name in enumerate(self.names):
            for axis, size in enumerate(axes.get(name, ())):
                if isinstance(size, str) and own[index].shape[axis] == 1:
                    own[index] = own[index].repeat_interleave(2, axis)
        return dataclasses.replace(self, leaves=self._leaves(own))

    def _leaves(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        given = iter(tensors)
        return tuple(next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves)

    def run(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call ``module`` with ``tensors`` in the places of the example's."""
        args, kwargs = pytree.tree_unflatten(self._leaves(tensors), self.spec)
        return module(*args, **kwargs)


def flatten_output(output: Any, path: Path = ()) -> list[tuple[str, Tensor]]:
    """Return the tensors of ``output`` with names: dict keys and dataclass fields, else ``""``.

    Nested names, behind ``path``, are joined with ``_``; None, numbers and text are left out.

    Raises:
        InputError: a ``PackedSequence`` or another container that has no flat form.
    """
    if isinstance(output, Tensor):
        return [("_".join(map(str, dropwhile(lambda step: isinstance(step, int), path))), output)]
    parts: Iterable[tuple[str | int, Any]] = ()
    if isinstance(output, Mapping):
        parts = output.items()
    elif dataclasses.is_dataclass(output):
        parts = vars(output).items()
    elif isinstance(output, tuple | list) and not isinstance(output, PackedSequence | torch.Size):
        parts = output._asdict().items() if hasattr(output, "_asdict") else enumerate(output)
    elif output is not None and not isinstance(output, bool | int | float | str | torch.Size):
        raise InputError(
            f"forward returns a {type(output).__name__}; return tensors in a tuple, dict or dataclass "
            "(pad_packed_sequence(...)[0])"
        )
    return [found for key, item in parts for found in flatten_output(item, (*path, key))]


def returned_names(module: nn.Module, count: int) -> list[str]:
    """Return the ``count`` variables in the last ``return`` of ``forward``; ``""`` for other expressions."""
    with suppress(OSError, TypeError, SyntaxError, ValueError):
        nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(type(module).forward))))
        returns = [node for node in nodes if isinstance(node, ast.Return)]
        names = _variables(max(returns, key=lambda node: node.lineno).value)
        if len(names) == count:
            return names
    return [""] * count


def _variables(node: Any) -> list[str]:
    if isinstance(node, ast.Tuple | ast.List):
        return [name for item in node.elts for name in _variables(item)]
    return [node.id if isinstance(node, ast.Name) else ""]


def own_copy(module: nn.Module) -> nn.Module:
    """Copy ``module`` in float32 and eval mode, without a wrapper for several devices or ``torch.compile``.

    Raises:
        UnsupportedError: a scripted module.
        InputError: a parameter that is not finite, or a module that can't be copied.
    """
    while isinstance(module, DataParallel | DistributedDataParallel | OptimizedModule):
        module = module._orig_mod if isinstance(module, OptimizedModule) else module.module
    kind = type(module).__name__
    if any(isinstance(layer, ScriptModule) for layer in module.modules()):
        raise UnsupportedError(f"{kind} holds TorchScript; export the module that it was scripted from")
    try:
        wrong = [name for name, value in module.named_parameters() if not bool(torch.isfinite(value).all())]
        copied = copy_as(module, torch.float32)
    except Exception as error:
        raise InputError(
            f"{kind} can't be copied ({first_line(error)}); call it once if it is lazy, and keep no tensors "
            "with gradients or open files in its attributes"
        ) from error
    if wrong:
        raise InputError(f"{wrong[0]} holds NaN or infinity; train again, or load other weights")
    return copied


def try_example(module: nn.Module, call: Call) -> list[tuple[str, Tensor]]:
    """Run ``module``, in float32, on the example and return its outputs.

    Raises:
        InputError: it refuses the example.
    """
    try:
        with torch.no_grad(), Floats(torch.float32), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = call.run(module, call.example)
    except Exception as error:
        shapes = ", ".join(f"{name} {list(shape)}" for name, shape in call.shapes.items())
        raise InputError(
            f"{type(module).__name__} does not run on the example ({shapes}): {first_line(error)}"
        ) from error
    return flatten_output(result)


def _arguments(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, Tensor | tuple | list):
        return (example,) if isinstance(example, Tensor) else tuple(example), {}
    raise InputError(
        f"the example is a {type(example).__name__}; give a tensor, a tuple of arguments or a dict of them"
    )


def _named(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Return each argument with its name, those that only ``**kwargs`` takes too."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        yield from value.items() if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]


def _paths(value: Any, name: str) -> Iterator[Path]:
    """Return the paths of an argument's leaves, in pytree order."""
    try:
        keys = [path for path, _ in pytree.tree_flatten_with_path(value)[0]]
    except ValueError:  # a class that was registered without names for its parts
        yield from ((name, index) for index in range(len(pytree.tree_leaves(value))))
        return
    marks = ("idx", "key", "name")
    for path in keys:
        yield (name, *(next(getattr(key, mark) for mark in marks if hasattr(key, mark)) for key in path))
