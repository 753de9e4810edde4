"""PyTorch as the reference: a module as a function of named arrays, in float32 and in float64.

onnxruntime's CPU has no float64 kernels for recurrent nodes and computes float16 ones in float32, so a file
is float32 throughout, whatever the module's weights are in and its ``forward`` asks for; and the reference of
a verification is float64 throughout.

``Signature`` turns any nesting of ``forward``'s arguments into a flat, named list of tensors and back, and
``injected`` starts recurrent layers from states that ``forward`` does not take. ``TorchReference`` takes and
gives arrays by the names that the exported file has, as a session does.
"""

import copy
import dataclasses
import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import dropwhile
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import Array

from .cases import remember

Path = tuple[str | int, ...]
"""Where a tensor is in nested arguments or results: keys and fields, and places in tuples and lists."""

_KEYWORDS = inspect.Signature([inspect.Parameter("inputs", inspect.Parameter.VAR_KEYWORD)])


@dataclass(frozen=True)
class Signature:
    """The flat view of a call ``module(*args, **kwargs)``."""

    paths: tuple[Path, ...]
    """Where each tensor is, from the parameter of ``forward`` on, in the order of the parameters."""
    leaves: tuple[Any, ...]
    """Every leaf of the example's call, those that are no tensors too."""
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
        signature = inspect.signature(module.forward)
        if hasattr(module.forward, "__wrapped__") and not args and not set(kwargs) <= {*signature.parameters}:
            signature = _KEYWORDS  # a decorator that takes what forward itself does not, by name
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            hint = "; a dict gives arguments by name, so give one that is an argument itself in a tuple"
            raise InputError(
                f"the example does not fit {type(module).__name__}.forward{signature}: {error}"
                f"{hint if isinstance(example, Mapping) else ''}"
            ) from error
        leaves, spec = pytree.tree_flatten((bound.args, bound.kwargs))
        paths = [path for name, value in _named(bound) for path in _paths(value, name)]
        if len(paths) != len(leaves):
            raise InputError(
                "the example holds a container that is not a tuple, list or dict; pass its tensors apart"
            )
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
    def positional(self) -> set[str]:
        """The names of tensors in tuples and lists, which say nothing but the place."""
        return {name for name, path in zip(self.names, self.paths, strict=True) if isinstance(path[-1], int)}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The example's shapes by input name."""
        return {name: tuple(tensor.shape) for name, tensor in zip(self.names, self.example, strict=True)}

    @property
    def arrays(self) -> dict[str, Array]:
        """The example as a file takes it: arrays by input name, every float in float32."""
        tensors = zip(self.names, self.as_float32().example, strict=True)
        return {name: tensor.detach().numpy() for name, tensor in tensors}

    def as_float32(self) -> "Signature":
        """Return the same signature with the example on the CPU, every float of it in float32."""
        return self.with_example(
            each.cpu().float() if each.is_floating_point() else each.cpu() for each in self.example
        )

    def with_example(self, tensors: Iterable[Tensor]) -> "Signature":
        """Return the same signature with ``tensors`` in the places of the example's."""
        given = iter(tensors)
        leaves = (next(given) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves)
        return dataclasses.replace(self, leaves=tuple(leaves))

    def call(self, module: nn.Module, tensors: Sequence[Tensor]) -> Any:
        """Call ``module`` with ``tensors`` in the places of the example's."""
        args, kwargs = pytree.tree_unflatten(self.with_example(tensors).leaves, self.spec)
        return module(*args, **kwargs)


def flatten_output(output: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of ``output`` with names: dict keys and dataclass fields, ``""`` where none says.

    Nested names are joined with ``_``; what is not a tensor (None, a number) is left out.

    Raises:
        InputError: a ``PackedSequence`` or another container that has no flat form.
    """
    return [
        ("_".join(map(str, dropwhile(lambda step: isinstance(step, int), path))), tensor)
        for path, tensor in output_paths(output)
    ]


def output_paths(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield the tensors of an output and where they are in it, behind ``path``; see ``flatten_output``."""
    if isinstance(value, Tensor):
        yield path, value
    elif (parts := _parts(value)) is not None:
        for key, item in parts:
            yield from output_paths(item, (*path, key))
    elif value is not None and not isinstance(value, bool | int | float | str | torch.Size):
        raise InputError(
            f"forward returns a {type(value).__name__}; return tensors in a tuple, dict or dataclass"
        )


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


def _named(bound: inspect.BoundArguments) -> Iterator[tuple[str, Any]]:
    """Return each argument with its name, those that only ``**kwargs`` takes too."""
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        yield from value.items() if kind is inspect.Parameter.VAR_KEYWORD else [(name, value)]


def _paths(value: Any, name: str) -> Iterator[Path]:
    """Return where the leaves of an argument are, in pytree order."""
    try:
        yield from ((name, *map(_step, path)) for path, _ in pytree.tree_flatten_with_path(value)[0])
    except ValueError:  # a class that was registered without names for its parts
        yield from ((name, place) for place in range(len(pytree.tree_leaves(value))))


def _step(key: Any) -> str | int:
    """Return a dict's key, a sequence's index or a field's name without pytree's marks."""
    if isinstance(key, pytree.SequenceKey):
        return key.idx
    return str(next((getattr(key, mark) for mark in ("key", "name") if hasattr(key, mark)), key))


def _parts(value: Any) -> Iterable[tuple[str | int, Any]] | None:
    """Return what a container holds, by key, field or place; None for what is none."""
    if isinstance(value, PackedSequence):
        raise InputError("forward returns a PackedSequence; return pad_packed_sequence(...)[0] instead")
    if isinstance(value, Mapping):
        return ((str(key), item) for key, item in value.items())
    if dataclasses.is_dataclass(value):
        return ((entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return zip(value._fields, value, strict=True)
    return enumerate(value) if isinstance(value, tuple | list) else None


def weights_sha256(module: nn.Module) -> str:
    """Return the sha256 of every parameter and buffer with its name and shape, floats in float32."""
    found = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        if isinstance(value, Tensor):
            array = value.detach().cpu().float() if value.is_floating_point() else value.cpu()
            found.update(f"{name} {tuple(array.shape)}\n".encode())
            found.update(array.contiguous().numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class Injection:
    """Rows of a state that is an input of the file and not of ``forward``: a recurrent layer starts there."""

    input: str
    output: str
    path: str
    """The layer's path in the module."""
    call: int
    """Which of the layer's calls in one ``forward``."""
    part: int
    """0 for h, 1 for c."""
    row_axis: int | None
    """Which axis of the state counts layers and directions; None for a state ``(N, H)``."""
    rows: tuple[int, int]
    """First row in the state, and in the layer's own ``h_0 (layers*D, N, H)``."""
    count: int
    """How many rows."""

    def of(self, state: Tensor) -> Tensor:
        """Return these rows of ``state`` as a view ``(rows, N, H)``."""
        rows = state.unsqueeze(0) if self.row_axis is None else state.movedim(self.row_axis, 0)
        return rows.narrow(0, self.rows[0], self.count)


class LayerStates:
    """Gives one layer its initial states and keeps its last ones, call by call."""

    def __init__(
        self, injections: Sequence[Injection], store: Mapping[str, Tensor], ends: dict[str, Tensor]
    ) -> None:
        self._injections = injections
        self._store = store
        self._ends = ends
        self._call = -1

    def begin(self, layer: nn.Module, x: Any, given: Any) -> Any:
        """Return what the layer's next call starts from: ``given``, but for the injected parts."""
        self._call += 1
        own = self._own()
        if not own:
            return given
        cell = isinstance(layer, nn.RNNCellBase)
        batched = not isinstance(x, Tensor) or x.dim() == (2 if cell else 3)
        parts = list(given) if isinstance(given, tuple) else [given, None]
        for part in (0, 1):
            pieces = sorted((each for each in own if each.part == part), key=lambda each: each.rows[1])
            if pieces:
                rows = torch.cat([each.of(self._store[each.input]) for each in pieces])
                rows = rows if batched else rows.squeeze(1)
                parts[part] = rows.squeeze(0) if cell else rows
        return tuple(parts) if isinstance(layer, nn.LSTM | nn.LSTMCell) else parts[0]

    def end(self, layer: nn.Module, result: Any) -> None:
        """Keep the injected rows of the last state."""
        last = result if isinstance(layer, nn.RNNCellBase) else result[1]
        parts = last if isinstance(last, tuple) else (last,)
        for each in self._own():
            end = self._ends.setdefault(each.output, torch.zeros_like(self._store[each.input]))
            target = each.of(end)
            rows = parts[each.part].reshape(-1, *target.shape[1:])
            target.copy_(rows.narrow(0, each.rows[1], each.count))

    def _own(self) -> list[Injection]:
        return [each for each in self._injections if each.call == self._call]


@contextmanager
def injected(layer: nn.Module, states: LayerStates) -> Iterator[None]:
    """Let PyTorch's own ``forward`` of ``layer`` take and keep ``states``, whatever a subclass adds to it."""
    kind = type(layer)
    base: Any = next(each for each in kind.__mro__ if each.__module__ == nn.RNNBase.__module__)

    def forward(self: Any, input: Any, hx: Any = None) -> Any:  # noqa: A002  the name that callers use
        result = base.forward(self, input, states.begin(self, input, hx))
        states.end(self, result)
        return result

    started = type(base.__name__, (base,), {"forward": forward})
    layer.__class__ = started if kind is base else type(kind.__name__, (kind, started), {})
    try:
        yield
    finally:
        layer.__class__ = kind


OTHER_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float64})
"""The float dtypes that a file does not have."""
_FLOATS = OTHER_FLOATS | {torch.float32}
_CASTS = (Tensor.float, Tensor.half, Tensor.bfloat16, Tensor.double)


class AllFloats(TorchFunctionMode):
    """Inside it every float is ``dtype``: zeros that ``forward`` makes, casts that it does."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` with every float dtype, asked for or given, replaced."""
        if func in _CASTS:
            return args[0].to(self._dtype)
        asked = {name: self._asked(value) for name, value in kwargs.items()} if kwargs else {}
        given = [*map(self._asked, args)]
        result = func(*given, **asked)
        if isinstance(result, Tensor):
            if result.dtype in _FLOATS and result.element_size() < self._dtype.itemsize:
                result = self._of_integers(func, given, asked, result)
            return self._given(result)
        if isinstance(result, tuple | list) and not isinstance(result, torch.Size):
            return pytree.tree_map_only(Tensor, self._given, result)
        return result

    def _asked(self, value: Any) -> Any:
        return _as_wide(value, self._dtype) if isinstance(value, torch.dtype) else value

    def _of_integers(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor
    ) -> Tensor:
        """Compute ``result`` again, which PyTorch rounds to its default dtype: ``torch.arange(n) / 100``."""
        given = pytree.tree_map_only(Tensor, self._as_float, (args, kwargs))
        with suppress(Exception):  # an index, or a condition, must be whole
            return cast("Tensor", func(*given[0], **given[1]))
        return result

    def _as_float(self, value: Tensor) -> Tensor:
        return value if value.is_floating_point() or value.is_complex() else value.to(self._dtype)

    def _given(self, value: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            wanted = _as_wide(value.dtype, self._dtype)
            return value if value.dtype == wanted else value.to(wanted)


def _as_wide(own: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return ``dtype`` for a float dtype, complex numbers of it for a complex one, others as they are."""
    return dtype.to_complex() if own.is_complex else dtype if own in _FLOATS else own


def copy_module(module: nn.Module) -> nn.Module:
    """Copy ``module``; tensors that it computed and keeps, as weight norm does, lose their graph."""
    held = ((*vars(each).values(), *getattr(each, "_flat_weights", ())) for each in module.modules())
    computed = [value for each in held for value in each if isinstance(value, Tensor) and not value.is_leaf]
    return copy.deepcopy(module, {id(value): value.detach().clone() for value in computed})


def copy_as(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Copy ``module`` to the CPU with every float in ``dtype``, in eval mode.

    The epsilon of a norm is rounded to float32 as weights are, for a file holds no other.
    """
    own = copy_module(module)
    for layer in own.modules():
        if isinstance(layer, nn.RNNBase):  # it keeps weights that it computes, and no graph can be copied
            layer.requires_grad_(False)
    apply: Any = own._apply  # as .to() does, which would make complex numbers real
    apply(lambda held: held.to("cpu", _as_wide(held.dtype, dtype)))
    for layer in own.modules():
        if isinstance(layer, nn.RMSNorm) and layer.eps is None:
            layer.eps = torch.finfo(torch.float32).eps
        if isinstance(epsilon := getattr(layer, "eps", None), float):
            layer.eps = float(np.float32(epsilon))  # type: ignore[assignment]
    own.eval()  # which may give None where a module has a train() of its own
    return own


@contextmanager
def one_thread() -> Iterator[None]:
    """Run PyTorch's operations on one thread inside, and on as many as before afterwards.

    For a small LSTM a second thread gains nothing, and on a busy machine the two wait for one another at
    every step; one thread also sums in the same order on every machine of a kind.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchReference:
    """A module and how it is called, on one thread; never changes the module it is given."""

    def __init__(
        self,
        module: nn.Module,
        signature: Signature,
        outputs: Sequence[str],
        injections: Sequence[Injection] = (),
    ) -> None:
        """Copy ``module`` in eval mode; ``outputs`` names each tensor of what ``forward`` returns."""
        self._signature = signature
        self._outputs = tuple(outputs)
        self._injections = tuple(injections)
        self._float32 = copy_as(module, torch.float32)
        self._float64 = copy_as(self._float32, torch.float64)
        self._run64 = remember(partial(self._run, torch.float64))

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output for ``feeds``; raises what the module raises."""
        return self._run(torch.float32, feeds)

    def run_plain(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return what ``forward`` returns when it is called plainly, without lifted states."""
        return self._run(torch.float32, feeds, injections=())

    def run64(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Return every output in float64, from the same (rounded) weights and inputs."""
        return self._run64(feeds)

    @cached_property
    def tensors(self) -> tuple[Array, ...]:
        """Every float tensor that the module holds, in float32, and what it computed of them in float64."""
        return tuple(self._tensors())

    def _tensors(self) -> Iterator[Array]:
        for layer in self._float32.modules():
            for held in (layer._parameters, layer._buffers, vars(layer)):
                for value in held.values():
                    if isinstance(value, Tensor) and value.is_floating_point():
                        yield value.detach().numpy()
        for layer in self._float64.modules():
            for value in vars(layer).values():
                if isinstance(value, Tensor) and value.dtype == torch.float64:
                    yield value.detach().numpy()
            for name in getattr(layer, "parametrizations", ()):
                yield getattr(layer, name).detach().numpy()

    def _run(
        self, dtype: torch.dtype, feeds: Mapping[str, Array], injections: Sequence[Injection] | None = None
    ) -> dict[str, Array]:
        given = self._injections if injections is None else injections
        module = self._float32 if dtype == torch.float32 else self._float64
        tensors = [_tensor(feeds[name], dtype) for name in self._signature.names]
        store = {each.input: _tensor(feeds[each.input], dtype) for each in given}
        ends: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path in dict.fromkeys(each.path for each in given):
                own = [each for each in given if each.path == path]
                layer = module.get_submodule(path)
                stack.enter_context(injected(layer, LayerStates(own, store, ends)))
            stack.enter_context(torch.no_grad())
            stack.enter_context(warnings.catch_warnings())
            stack.enter_context(AllFloats(dtype))
            stack.enter_context(one_thread())
            warnings.simplefilter("ignore")
            flat = flatten_output(self._signature.call(module, tensors))
        named = zip(self._outputs, (tensor for _, tensor in flat), strict=True)
        return {name: tensor.detach().cpu().numpy() for name, tensor in [*named, *ends.items()]}


def _tensor(array: Array, dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.array(array))
    return tensor.to(dtype) if tensor.is_floating_point() else tensor
