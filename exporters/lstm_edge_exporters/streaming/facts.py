"""What grows with time in a graph, and how far behind it is: found by running the graph at several sizes."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import lcm
from typing import NamedTuple, TypeVar

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.errors import ContractError
from lstm_edge_runtime.manifest import Array, Axes

from ..evaluate import axes_in, evaluate
from ..graph import axes_of, constant, data_inputs, dynamic_axes, operands
from ..recurrent import label

_STEPS = (40, 8, 400, 4000)
"""Steps to run at; of these the first that the graph runs at: windows need many, tables of positions end."""
_FURTHER = (0, 7, 20)
"""Further steps at which the graph is run, to see whether a value grows evenly; multiples of its strides."""
_NEARER = (0, 2, 5)
"""The same for a graph that runs at few lengths, as one with a short table of positions does."""
_MOST_STRIDES = 1 << 12
"""The largest product of strides."""
_ROWS = (2, 3)
_OTHERS = 5
"""The size of the first axis that is neither batch nor time; the next ones are larger."""
_STRIDED = ("AveragePool", "Conv", "LpPool", "MaxPool")
_SCOPES = "pkg.torch.onnx.name_scopes"
"""The key of a node's ``metadata_props`` under which torch.onnx keeps the paths of modules around it."""
_MOST_KEPT = 8
"""Elements of a value that is kept: starts, ends, axes and indices."""
Found = TypeVar("Found")


class NotStreamableError(ContractError):
    """The graph has a part that can't be fed in chunks; the message is the reason."""

    gathers = False
    """Whether an operator takes all steps together, which chunks show too."""


class GrowsTwiceError(NotStreamableError):
    """A value grows with time on several axes, as the scores of an attention do."""


class GathersTimeError(NotStreamableError):
    """An operator takes all steps together."""

    gathers = True


@dataclass(frozen=True)
class Fact:
    """A value that grows with time."""

    axis: int
    """Where time is."""
    delay: int = 0
    """Frame j of the whole is frame j + delay of the stream."""
    pad: int = 0
    """The whole begins with that number of frames of ``fill``, which are not in the graph yet."""
    fill: float = 0.0
    merged: bool = False
    """Whether rows of another axis are merged with time."""
    constant: bool = False
    """Whether all frames are the same and depend on no data."""
    ahead: str = ""
    """The first node above that looks ahead."""
    rate: Fraction = Fraction(1)
    """Frames per step."""

    @property
    def start(self) -> int:
        """The place of the first frame that the graph gives; what is before it means nothing."""
        return self.delay + self.pad

    @property
    def start_step(self) -> int:
        """The step of that frame."""
        return int(self.start / self.rate)


class Growth(NamedTuple):
    """How a value grows with time."""

    axis: int
    merged: bool
    """Whether rows are merged with it."""
    rate: Fraction
    """Frames per step."""


class Counter(NamedTuple):
    """How a value counts frames."""

    first: float | None
    """Its first frame; None if not all numbers of it are the same."""
    more: float
    """How much more each frame is than the one before."""


class Windows(NamedTuple):
    """Places of steps: of frame j and tap k ``first + j * hop + k * apart``."""

    first: int
    hop: int
    apart: int
    taps: int
    axis: int
    """Of frames; the other one is of taps."""


@dataclass(frozen=True)
class Shapes:
    """The shapes of every value of a graph in several runs, and the numbers of some."""

    runs: tuple[Mapping[ir.Value, tuple[int, ...]], ...]
    """At three lengths, at the first with more rows, and with larger axes beside time and rows, if any."""
    growths: Mapping[ir.Value, Growth | NotStreamableError]
    """How values grow with time, or why they can't be fed in chunks; the others do not grow."""
    numbers: tuple[Mapping[ir.Value, Array], ...]
    """Small values."""
    even: frozenset[ir.Value]
    """Values that are the same in every frame."""
    uniform: Mapping[ir.Value, float]
    """Values whose elements are all one number."""
    counters: Mapping[ir.Value, Counter]
    """Values that grow with time and count."""
    windows: Mapping[ir.Value, Windows]
    """Values that are places of steps."""
    dtypes: Mapping[ir.Value, str]
    batch: str | None
    sizes: tuple[dict[str, int], ...]
    """Of the first run, and of those that differ in other axes than time."""
    steps: tuple[int, ...]
    """Of the first three runs."""

    @property
    def unit(self) -> int:
        """The least number of steps in which every value that grows evenly has whole frames."""
        return lcm(*(each.rate.denominator for each in self.growths.values() if isinstance(each, Growth)))

    def surplus(self, value: ir.Value, fact: Fact) -> int:
        """Return how many frames more than a stream of its rate a value has in the whole."""
        frames = self.shape(value)[fact.axis]
        return frames // (_ROWS[0] if fact.merged else 1) - int(fact.rate * self.steps[0])

    def shape(self, value: ir.Value | None) -> tuple[int, ...]:
        """Return a value's shape in the first run."""
        array = constant(value)
        return array.shape if array is not None else () if value is None else self.runs[0].get(value, ())

    def lengths(self, value: ir.Value, axis: int) -> list[int]:
        """Return a value's sizes on ``axis`` at the three lengths."""
        return [run[value][axis] for run in self.runs[:3]]

    def number(
        self,
        value: ir.Value | None,
        place: int,
        lengths: list[int] | None = None,
        *,
        from_end: bool = False,
    ) -> int | None:
        """Return a number of a small value where it is the same at every length.

        Args:
            value: such as the starts of a Slice.
            place: which of its numbers.
            lengths: what a negative number counts from at each length; None where it is no place.
            from_end: whether to count it from the end.
        """
        known = constant(value)
        runs = self.numbers[:3] if value and known is None else ()
        arrays = [run.get(value) for run in runs if value] or [known] * 3
        found = [int(array.flat[place]) for array in arrays if array is not None]
        if lengths is not None:
            pairs = [pair for pair in zip(found, lengths, strict=False) if -pair[1] <= pair[0] < pair[1]]
            found = [each % size - size * from_end for each, size in pairs]
        return found[0] if len(found) == 3 and len(set(found)) == 1 else None

    def axes(self, value: ir.Value) -> Axes:
        """Return a value's axes at the first length: fixed, or named."""
        shapes = [run[value] for run in (self.runs[0], *self.runs[3:])]
        return axes_in(str(value.name), shapes, self.sizes) or ()


def find_shapes(model: ir.Model, batch: str | None, sequence: str) -> Shapes | None:
    """Run a graph at several sizes; None where it runs at none.

    Raises:
        NotStreamableError: its strides are larger than any are.
    """
    strides = _product_of_strides(model.graph)
    names = [name for name in dynamic_axes(model.graph) if name not in (batch, sequence)]
    rows = [batch] if batch else []
    base = {name: _OTHERS + place for place, name in enumerate(names)} | dict.fromkeys(rows, _ROWS[0])
    larger = [dict.fromkeys(rows, _ROWS[1]), {name: base[name] + len(names) for name in names}]
    values = [value for node in model.graph for value in node.outputs if value.name]
    for further, (least, multiple) in product((_FURTHER, _NEARER), _lengths(model.graph, strides)):
        steps = tuple(least + more * multiple for more in further)
        cases = [{**base, sequence: each} for each in steps]
        cases += [cases[0] | each for each in larger[: 2 if names else 1]]
        try:
            runs = evaluate(model, values, cases)
        except Exception:  # noqa: BLE001, S112  onnxruntime's exceptions share no base class
            continue
        return _to_shapes(model, batch, runs, cases, steps)
    return None


def _lengths(graph: ir.Graph, strides: int) -> Iterator[tuple[int, int]]:
    """Return numbers of steps to try, and a multiple that more steps are: of strides, then of frames."""
    numbers = (constant(value) for node in graph if node.op_type == "Reshape" for value in _above(node))
    known = (array for array in numbers if array is not None and array.size <= _MOST_KEPT)
    sizes = sorted({int(size) for array in known for size in array.flat})
    frames = (size * strides for size in sizes if size > 1 and size * strides <= _MOST_STRIDES)
    for multiple in (strides, *frames):
        yield from dict.fromkeys((-(-steps // multiple) * multiple, multiple) for steps in _STEPS)


def _above(node: ir.Node) -> list[ir.Value]:
    """Return the shape that a Reshape takes, and what it is joined of."""
    given = node.inputs[1]
    return [] if given is None else [given, *operands(given)]


def _product_of_strides(graph: ir.Graph) -> int:
    """Return a multiple of the product of the strides along time, of whatever axis they are."""
    products: dict[ir.Value, int] = {}
    for node in graph:
        product = lcm(*(products.get(value, 1) for value in node.inputs if value is not None))
        product *= _stride(node)
        if product > _MOST_STRIDES:
            raise NotStreamableError(f"strides of {product} steps together, at {name_node(node)}")
        products.update(dict.fromkeys(node.outputs, product))
    return lcm(*products.values())


def _stride(node: ir.Node) -> int:
    """Return the largest stride of a node on any axis."""
    if node.op_type in _STRIDED:
        return max(node.attributes.get_ints("strides", [1]), default=1)
    place = {"Range": 2, "Slice": 4, "STFT": 1}.get(node.op_type)
    steps = None if place is None or place >= len(node.inputs) else constant(node.inputs[place])
    return 1 if steps is None else max(1, *(int(step) for step in steps.flat))


def _to_shapes(
    model: ir.Model,
    batch: str | None,
    runs: Sequence[dict[ir.Value, Array]],
    cases: Sequence[dict[str, int]],
    steps: tuple[int, ...],
) -> Shapes:
    computed = list(runs[0])
    for run, case in zip(runs, cases, strict=True):
        for value in data_inputs(model.graph):
            shape = [axis if isinstance(axis, int) else case.get(axis, 1) for axis in axes_of(value)]
            run[value] = np.broadcast_to(np.zeros((), value.dtype.numpy() if value.dtype else None), shape)
    short, long = runs[0], runs[2]
    shapes = tuple({value: array.shape for value, array in run.items()} for run in runs)
    growths = {value: _growth(value, [run[value] for run in shapes[:4]], steps) for value in short}
    return Shapes(
        runs=shapes,
        growths={value: found for value, found in growths.items() if found is not None},
        numbers=tuple(
            {value: run[value] for value in computed if run[value].size <= _MOST_KEPT} for run in runs
        ),
        even=frozenset(value for value in computed if _is_even(long[value], short[value])),
        uniform=_found(_uniform, computed, long, short),
        counters=_found(_counted, computed, long, short),
        windows=_found(_windows, computed, long, short),
        dtypes={value: array.dtype.name for value, array in short.items()},
        batch=batch,
        sizes=(cases[0], *cases[3:]),
        steps=steps,
    )


def _found(
    find: Callable[[Array, tuple[int, ...]], Found | None],
    values: Sequence[ir.Value],
    long: Mapping[ir.Value, Array],
    short: Mapping[ir.Value, Array],
) -> dict[ir.Value, Found]:
    """Return what ``find`` tells of values at many steps and their shapes at fewer, unless it is None."""
    found = {value: find(long[value], short[value].shape) for value in values}
    return {value: each for value, each in found.items() if each is not None}


def _growth(
    value: ir.Value, shapes: Sequence[tuple[int, ...]], steps: tuple[int, ...]
) -> Growth | NotStreamableError | None:
    """Return how a value of these shapes at three lengths, and with more rows, grows; None if it does not."""
    short, middle, long, wide = shapes
    if len({*map(len, shapes[:3])}) > 1:
        return NotStreamableError(f"{_made_by(value)} gives another rank at other lengths")
    axes = [axis for axis, sizes in enumerate(zip(*shapes[:3], strict=True)) if len(set(sizes)) > 1]
    if len(axes) > 1:
        return GrowsTwiceError(f"attention over the whole sequence, {_made_by(value)}")
    if not axes:
        return None
    (axis,) = axes
    merged, first = wide[axis] != short[axis], steps[0]
    rates = [
        Fraction(run[axis] - short[axis], (_ROWS[0] if merged else 1) * (each - first))
        for run, each in zip((middle, long), steps[1:], strict=True)
    ]
    if rates[0] != rates[1] or rates[0] < 0:
        return GathersTimeError(f"another number of frames than steps, {_made_by(value)}")
    return Growth(axis, merged, rates[0])


def _is_even(long: Array, short: Array) -> bool:
    """Return whether a value is the same in every frame of the axes on which it grows."""
    if long.ndim != short.ndim:
        return False
    axes = [axis for axis in range(long.ndim) if long.shape[axis] != short.shape[axis]]
    return all(np.array_equal(long, np.broadcast_to(long.take([0], axis), long.shape)) for axis in axes)


def _counted(array: Array, short: tuple[int, ...]) -> Counter | None:
    """Return how a value counts; None where a frame is not always as much more than the one before."""
    axes = [axis for axis, sizes in enumerate(zip(array.shape, short, strict=False)) if len(set(sizes)) > 1]
    if len(axes) != 1 or array.ndim != len(short) or array.dtype.kind not in "fi":
        return None
    if not np.isfinite(array).all():
        return None
    more = np.diff(array, axis=axes[0])
    if not (step := _uniform(more)):
        return None
    return Counter(_uniform(array.take(0, axis=axes[0])), step)


def _windows(array: Array, short: tuple[int, ...]) -> Windows | None:
    """Return which places of steps a table of two axes has, one of which grows."""
    if array.ndim != 2 or array.dtype != np.int64:
        return None
    growing = [axis for axis in (0, 1) if array.shape[axis] != short[axis]]
    if len(growing) != 1:
        return None
    axis = growing[0]
    places = np.moveaxis(array, axis, 0)
    if len(places) < 2 or not places.size:
        return None
    first, taps = int(places[0, 0]), places.shape[1]
    hop, apart = int(places[1, 0]) - first, int(places[0, 1]) - first if taps > 1 else 1
    even = first + hop * np.arange(len(places))[:, None] + apart * np.arange(taps)
    if first < 0 or hop < 1 or apart < 1 or not np.array_equal(even, places):
        return None
    return Windows(first, hop, apart, taps, axis)


def _uniform(array: Array, _: tuple[int, ...] = ()) -> float | None:
    """Return the number that all elements are."""
    alike = array.size and array.dtype.kind in "fiu" and (array == array.flat[0]).all()
    return float(array.flat[0]) if alike else None


def _made_by(value: ir.Value) -> str:
    node = value.producer()
    return str(value.name) if node is None else name_node(node)


def name_node(node: ir.Node) -> str:
    """Return the node's operator and the module's path that it comes from, or its own name."""
    paths = re.findall(r"'module\.([\w.]+)'", node.metadata_props.get(_SCOPES, ""))
    return f"{node.op_type} {paths[-1]!r}" if paths else label(node)
