"""Does validation find faults? Files of healthy networks, spoiled at random, and
validated.

    python -m benchmarks.proof.mutants --count 500 --processes 2

A mutant is a file with one change: of the graph, of one weight by one unit in the last
place, of a state, of the manifest, of the delay of a stream, of the golden case, or of
an int8 weight. A change of the graph counts if it moves an output in float64 by 1e-9 of
a channel's largest value, on cases that validation does not draw. Exit status 1: a
mutant is not found, or less than 95 in 100 of those of int8 files.
"""

import contextlib
import json
import math
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from benchmarks.common import parser, print_machine, quiet, table
from benchmarks.networks import Chain, gru, lstm, over_time
from lstm_edge import LSTM1
from lstm_edge.checkpoint import Run, deployable
from lstm_edge_exporters import ExportConfig, QuantizeConfig, export, quantize
from lstm_edge_exporters.cast import widened
from lstm_edge_exporters.graph import UniqueNames, data_inputs, infer_shapes
from lstm_edge_exporters.validate.config import ValidateConfig
from lstm_edge_exporters.validate.expected import Expected, against_module
from lstm_edge_exporters.validate.validation import Validation
from lstm_edge_exporters.verify.file import open_file
from lstm_edge_exporters.verify.float64 import Graph64
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import KEY, Array, Signal, Task, Trained
from lstm_edge_runtime.ort import sealed

Rng = np.random.Generator
Made = tuple[nn.Module, Any, ExportConfig]
DIFFERS = 1e-9
SIZES = ((1, 1), (2, 7), (3, 19), (45, 6))
_SEED = 77_000
_UNREAD = ("equivalence", "provenance", "golden", "schema")
"""Fields of the manifest that nothing reads, or that other groups change."""


class NotApplicableError(Exception):
    """The file has nothing that this change could spoil."""


def _lstm1(
    *, layers: int = 1, lengths: bool = False, hidden: int = 12, **options: Any
) -> Made:
    network = LSTM1(4, 6, hidden, layers, 20, **options).eval()
    network.set_scales((torch.linspace(-3, 3, 6), 10.0 ** torch.linspace(-2, 2, 6)))
    run = Run(
        network,
        task=Task("classification", "logits", ("rest", "walk", "run", "fall")),
        signal=Signal(("ax", "ay", "az", "gx", "gy", "gz"), 50.0, 20),
        sha256="0123456789abcdef" * 4,
        trained=Trained(carry=True, window=20, reset=0.5),
    )
    return deployable(run, lengths=lengths)


def _stream(*convolutions: nn.Module) -> Made:
    layers = over_time(*convolutions), lstm(8, 10), nn.Linear(10, 3)
    return Chain(*layers), torch.randn(3, 40, 3), ExportConfig(stream=True)


NETWORKS: dict[str, Callable[[], Made]] = {
    "LSTM1": _lstm1,
    "LSTM1, two layers, lengths": lambda: _lstm1(layers=2, lengths=True),
    "LSTM1, both directions": lambda: _lstm1(hidden=8, bidirectional=True),
    "GRU tagger": lambda: (
        Chain(nn.Embedding(24, 6), gru(6, 9, 2), nn.Linear(9, 5), nn.LogSoftmax(-1)),
        {"x": torch.randint(0, 24, (3, 5))},
        ExportConfig(),
    ),
    "stream with a delay": lambda: _stream(nn.Conv1d(3, 8, 5, padding=2), nn.ELU()),
    "stream with a unit": lambda: _stream(
        nn.Conv1d(3, 8, 4, stride=2, padding=1), nn.ReLU()
    ),
    "int8": lambda: _lstm1(hidden=64),
    "int8 GRU": lambda: (
        Chain(gru(5, 40), nn.Linear(40, 3)),
        torch.randn(3, 5, 5),
        ExportConfig(),
    ),
}
"""Each makes a module, an example and a configuration; those called int8 are
quantized."""


class Draft:
    """A model that is being changed."""

    def __init__(self, content: bytes) -> None:
        proto = onnx.load_model_from_string(content)
        self.manifest = read_manifest(
            next(p.value for p in proto.metadata_props if p.key == KEY)
        )
        self.model = ir.from_proto(proto)
        self.values = {
            str(value.name): value for value in data_inputs(self.model.graph)
        }
        self.values |= {
            str(value.name): value
            for node in self.model.graph
            for value in node.outputs
        }
        self.about = ""
        """The changed field, for functions that change many."""

    def write(self, manifest: str) -> None:
        """Replace the manifest."""
        self.model.metadata_props.clear()
        self.model.metadata_props[KEY] = manifest

    def spoil(
        self,
        rng: Rng,
        change: Callable[[Array, Rng], Array],
        *kinds: str,
        least: int = 1,
    ) -> None:
        """Change an initializer whose dtype is in ``kinds`` and that has a minimum
        number of elements.
        """
        constants = [
            (initializer, initializer.const_value.numpy())
            for initializer in self.model.graph.initializers.values()
        ]
        fitting = [
            (v, a) for v, a in constants if a.dtype.name in kinds and a.size >= least
        ]
        value, array = _pick(fitting, rng)
        new = np.ascontiguousarray(change(array.copy(), rng)).astype(array.dtype)
        value.const_value = ir.tensor(new, name=value.name)
        value.shape = ir.Shape(new.shape)

    def insert(self, name: str, kind: str, *numbers: float, **attributes: Any) -> None:
        """Replace a value by the result of a node on it and ``numbers``."""
        graph = self.model.graph
        value = self.values[name]
        names = UniqueNames(self.model.graph)
        constants = []
        for number in numbers:
            tensor = ir.tensor(np.array(number, value.dtype.numpy()))
            constants.append(ir.val(names.unique("number"), const_value=tensor))
            graph.register_initializer(constants[-1])
        node = ir.node(
            kind, [value, *constants], attributes, name=names.unique("mutant")
        )
        new = node.outputs[0]
        new.name = names.unique("changed")
        new.type = value.type
        new.shape = value.shape
        if value.is_graph_output():
            new.name, value.name = value.name, new.name
        ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
        node.replace_input_with(0, value)
        producer = value.producer()
        (
            graph.insert_before(graph[0], node)
            if producer is None
            else producer.append(node)
        )
        self.values[name] = new


Spoil = Callable[[Draft, Rng], object]


def _pick(choices: Sequence[Any], rng: Rng) -> Any:
    if not choices:
        raise NotApplicableError
    return choices[int(rng.integers(len(choices)))]


def _change_one(change: Callable[[Any], Any]) -> Callable[[Array, Rng], Array]:
    def changed(array: Array, rng: Rng) -> Array:
        flat = array.reshape(-1)
        index = rng.choice(np.flatnonzero(flat)) if flat.any() else 0
        flat[index] = change(flat[index])
        return array

    return changed


def _swapped(array: Array, rng: Rng) -> Array:
    axis = int(rng.integers(array.ndim)) if array.ndim else _pick([], rng)
    order = rng.permutation(array.shape[axis])
    return array.take(order, axis)


_WEIGHTS: tuple[Callable[[Array, Rng], Array], ...] = (
    _change_one(lambda value: -value),
    _change_one(lambda value: 0 * value),
    _change_one(lambda value: value + 1e-4),
    _swapped,
    lambda array, _: array * 1.0001,
    lambda array, _: array.astype(np.float16),
    lambda array, _: array[::-1] if array.ndim else -array,
)


def _weight(draft: Draft, rng: Rng) -> None:
    draft.spoil(rng, _pick(_WEIGHTS, rng), "float32")


def _ulp(draft: Draft, rng: Rng) -> None:
    draft.spoil(
        rng,
        _change_one(lambda value: np.nextafter(value, np.float32(np.inf))),
        "float32",
    )


def _value(draft: Draft, rng: Rng) -> None:
    """Change one float value on its way."""
    infer_shapes(draft.model)
    floats = [
        name for name, value in draft.values.items() if value.dtype is ir.DataType.FLOAT
    ]
    _change(draft, _pick(floats, rng), rng)


def _change(draft: Draft, name: str, rng: Rng) -> None:
    changes = (
        ("Mul", 1.0001),
        ("Mul", 0.0),
        ("Mul", -1.0),
        ("Add", 1e-4),
        ("Clip", -0.5, 0.5),
        (),
    )
    if change := _pick(changes, rng):
        draft.insert(name, *change)
    else:
        draft.insert(name, "Cast", to=int(ir.DataType.FLOAT16))
        draft.insert(name, "Cast", to=int(ir.DataType.FLOAT))


def _state(draft: Draft, rng: Rng) -> None:
    """Change a state on its way in or out, carry nothing, or exchange two states."""
    states = draft.manifest.states
    state = _pick(states, rng)
    kind = int(rng.integers(4))
    if kind < 2:  # the states of an input or an output, exchanged or not carried
        others = [spec for spec in states if spec != state and spec.axes == state.axes]
        source = draft.values[_pick(others, rng).output if kind else state.input]
        index = [value.name for value in draft.model.graph.outputs].index(state.output)
        same = ir.node("Identity", [source])
        draft.model.graph.append(same)
        same.outputs[0].name = state.output
        draft.values[state.output].name = f"{state.output}_before"
        same.outputs[0].type = source.type
        same.outputs[0].shape = source.shape
        draft.model.graph.outputs[index] = same.outputs[0]
    elif state.dtype == "float32":
        _change(draft, state.input if kind == 2 else state.output, rng)
    else:
        draft.insert(state.output, "Add", 1)


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, (dict, list)) and value and "data" not in value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return [
            leaf
            for key, item in items
            if key not in _UNREAD
            for leaf in _leaves(item, (*path, key))
        ]
    return [path]


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [] if value else "other"


def _claim(draft: Draft, rng: Rng, within: tuple[str, ...] = ()) -> None:
    """Change one value of the manifest."""
    text = json.loads(draft.manifest.to_json())
    *path, last = _pick(
        [leaf for leaf in _leaves(text) if not within or leaf[0] in within], rng
    )
    owner = text
    for key in path:
        owner = owner[key]
    is_array = isinstance(owner[last], dict)
    is_reason = last == "unstreamable" and owner[last]  # words for people
    if is_array or is_reason:
        raise NotApplicableError
    draft.about = ".".join(map(str, (*path, last)))
    owner[last] = _other(owner[last])
    draft.write(json.dumps(text))


def _golden(draft: Draft, rng: Rng) -> None:
    """Change one number of the golden case, its limits, or leave a part out."""
    golden = draft.manifest.golden or _pick([], rng)
    name = _pick(sorted(golden.outputs), rng)
    value = golden.outputs[name]
    off = value + 0.01 * np.abs(value).max().astype(value.dtype)
    changes: dict[str, Any] = {
        "outputs": {**golden.outputs, name: off.astype(value.dtype)},
        "inputs": {key: 0 * input_ for key, input_ in golden.inputs.items()},
        "more": (),
        "limits": {key: 9.9 * limit for key, limit in golden.limits.items()},
        "limit": dict.fromkeys(golden.outputs, 1e9),
    }
    draft.about = _pick(list(changes), rng)
    new = draft.manifest._replace(
        golden=golden._replace(**{draft.about: changes[draft.about]})
    )
    if new.to_json() == draft.manifest.to_json():
        raise NotApplicableError
    draft.write(new.to_json())


def _int8(draft: Draft, rng: Rng) -> None:
    """Change one int8 weight by one, or one scale by one unit in the last place."""
    if rng.random() < 0.7:
        change = _change_one(lambda value: value - 1 if value > 0 else value + 1)
        draft.spoil(rng, change, "int8", "uint8", least=8)
    else:
        _ulp(draft, rng)


class Group(NamedTuple):
    """Changes of one kind."""

    spoils: tuple[Spoil, ...]
    judged: bool = False
    """True if the change only counts when it moves an output."""
    networks: str = ""
    """Networks whose names contain this."""


GROUPS = {
    "graph": Group((_weight, _value), judged=True),
    "states": Group((_state,), judged=True),
    "one ULP": Group((_ulp,)),
    "manifest": Group((_claim,)),
    "unit and delay": Group(
        (lambda d, r: _claim(d, r, ("unit", "delays")),), networks="stream"
    ),
    "golden case": Group((_golden,)),
    "int8": Group((_int8,), networks="int8"),
}


@dataclass
class Healthy:
    """One exported network."""

    content: bytes
    reference: Expected
    graph: Graph64
    cases: list[tuple[Mapping[str, Array], Mapping[str, Array]]]
    """Inputs, and the outputs of the healthy graph in float64."""


@cache
def _healthy(name: str) -> Healthy:
    quiet()
    torch.manual_seed(sum(map(ord, name)))
    module, example, config = NETWORKS[name]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export(module.eval(), example, config).save(path)
        if "int8" in name:
            quantize(path, QuantizeConfig()).save(path.with_name("int8.onnx"))
            path = path.with_name("int8.onnx")
        reference = against_module(module, open_file(path), example, config=config)
        content = path.read_bytes()
    graph = Graph64(reference.exact)
    generator = replace(reference.cases, seed=_SEED)
    cases = []
    for number, size in enumerate(SIZES):
        with contextlib.suppress(
            RuntimeError, ValueError
        ):  # a size that the network refuses
            feeds = generator.case(
                *size, at_reset=number % 3 == 1, offset=number, full=True
            ).feeds
            cases.append((feeds, graph(feeds)))
    return Healthy(content, reference, graph, cases)


def _moves(healthy: Healthy, model: onnx.ModelProto) -> float:
    """Return the largest difference as a fraction of a channel's largest value; -1 for
    no graph at all.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        graph = Graph64(widened(model, healthy.reference.exact))
    except Exception:  # noqa: BLE001  checkers raise kinds of their own
        return -1.0
    largest = 0.0
    for feeds, outputs in healthy.cases:
        try:
            got = graph(feeds)
        except RuntimeError:
            return math.inf
        for name, expected in outputs.items():
            if got[name].shape != expected.shape:
                return math.inf
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-30)
            away = np.abs(got[name].astype(np.float64) - expected)
            largest = max(
                largest,
                float(np.nan_to_num(away, nan=math.inf).max(initial=0.0)) / scale,
            )
    return largest


def _find(healthy: Healthy, path: Path) -> str:
    """Return the group of checks, or the error, that rejects the file; empty for
    none.
    """
    try:
        validation = Validation(
            open_file(path), healthy.reference, ValidateConfig(quick=True)
        )
        return next((group.title for group in validation.groups() if group.failed), "")
    except LstmEdgeError as error:
        return type(error).__name__
    except Exception as error:  # noqa: BLE001  a defect of validation
        print(f"TRACEBACK: {type(error).__name__}: {error}", file=sys.stderr)
        return ""


def spoil(task: tuple[str, int]) -> tuple[str, str, float, str] | None:
    """Return group, description, effect and finder of a mutant; None if nothing
    changes.
    """
    name, number = task
    group = GROUPS[name]
    rng = np.random.default_rng((number, *map(ord, name)))
    network = _pick([network for network in NETWORKS if group.networks in network], rng)
    if group.judged and "int8" in network:
        return None
    healthy = _healthy(network)
    change = _pick(group.spoils, rng)
    draft = Draft(healthy.content)
    try:
        change(draft, rng)
    except (NotApplicableError, IndexError, ValueError, TypeError):
        return None
    mutant = ir.to_proto(draft.model)
    moves = _moves(healthy, mutant) if group.judged else math.inf
    if moves < DIFFERS:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.onnx"
        path.write_bytes(sealed(mutant.SerializeToString()))
        about = (
            f"{getattr(change, '__name__', name)} {draft.about} in {network}, number"
            f" {number}"
        )
        return name, about, moves, _find(healthy, path)


def _finders(found: Iterable[tuple[str, float, str]]) -> str:
    """Return how many mutants each group of checks was the first to find."""
    counts = Counter(finder for _, _, finder in found if finder)
    return ", ".join(f"{finder} {count}" for finder, count in counts.most_common())


def main() -> int:
    """Spoil, validate, and print the table and the survivors."""
    options = parser(__doc__)
    options.add_argument(
        "--count", type=int, default=500, help="mutants that are tried"
    )
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--processes", type=int, default=1)
    options.add_argument("--groups", nargs="*", choices=GROUPS, default=list(GROUPS))
    chosen = options.parse_args()
    names = chosen.groups
    tasks = [
        (names[i % len(names)], chosen.seed * chosen.count + i)
        for i in range(chosen.count)
    ]
    mutants: dict[str, list[tuple[str, float, str]]] = defaultdict(list)
    with ProcessPoolExecutor(chosen.processes) as pool:
        for made in pool.map(spoil, tasks, chunksize=len(names)):
            if made is not None:
                mutants[made[0]].append(made[1:])
    counts = {
        name: (len(group), sum(bool(mutant[2]) for mutant in group))
        for name, group in mutants.items()
    }
    rows = [[name, *two, _finders(mutants[name])] for name, two in counts.items()]
    print(table(["group", "mutants that differ", "found", "first found by"], rows))
    for name, about, moves, check in (
        (name, *mutant) for name, group in mutants.items() for mutant in group
    ):
        if not check:
            print(f"- not found: {name}, {about}, moves {moves:.2g}")
    print_machine("onnxruntime", "torch")
    return int(
        any(
            got < (0.95 if name == "int8" else 1.0) * of
            for name, (of, got) in counts.items()
        )
    )


if __name__ == "__main__":
    sys.exit(main())
