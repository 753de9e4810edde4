"""Three exporters on modules that strangers wrote, and on a matrix of recurrent layers.

    python -m benchmarks.strangers.exporters matrix [--first N]

    python -m venv strangers && strangers/bin/pip install -e ".[cpu,export]"
    strangers/bin/pip install --no-deps -r benchmarks/strangers/packages.txt
    strangers/bin/python -m benchmarks.strangers.exporters GROUP --json GROUP.json
    python -m benchmarks.strangers.exporters --table *.json

Each call of ``calls.py`` builds one module and makes its inputs for any ``(N, L)``. It
is exported from one size, by lstm-edge and by PyTorch's exporters with every axis
dynamic that changes, and run at other sizes:

- *right* agrees with PyTorch at every size that the module itself runs at, within 1e-4
  of the largest value of the output (2e-5 for the matrix);
- *ranged* does so at every size that its manifest allows, which leaves out some;
- *wrong* was written and differs or does not run;
- *refused* raised, *rightly* if the call says why no file can express what it does; a
  *traceback* of lstm-edge is no error of its own.

Modules with loops (GROUP ``loops``) are compared with what stays in PyTorch: a script,
a trace, and a program of torch.export whose axes are Dim.DYNAMIC.

The matrix counts files with *states as inputs*: right, and with all of h and c among
the inputs.
"""

import contextlib
import importlib.metadata
import io
import json
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from benchmarks.common import parser, quiet, table
from benchmarks.strangers import matrix
from benchmarks.strangers.calls import GROUPS, Call, calls_of
from benchmarks.torch_exporters import dynamo, torchscript
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.export.call import Call as Called
from lstm_edge_exporters.export.call import flatten_output
from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.checks import read_manifest
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import KEY, Manifest

Arrays = Mapping[str, npt.NDArray[Any]]
EXPORTERS = {
    "dynamo, Dim.AUTO": "torch.onnx.export(dynamo=True), Dim.AUTO",
    "TorchScript": "torch.onnx.export(dynamo=False), TorchScript",
    "lstm-edge": "lstm-edge",
}
PROGRAMS = {
    "torch.jit.script": "TorchScript, script",
    "torch.jit.trace": "TorchScript, trace",
    "torch.export": "torch.export, Dim.DYNAMIC",
}
"""Programs that PyTorch runs itself."""
VERDICTS = ("right", "ranged", "wrong", "refused", "refused rightly", "traceback")


class Group(NamedTuple):
    """How the calls of a group are judged."""

    traced: tuple[int, int]
    """Rows and units of length of the example; a call says how long a unit is."""
    sizes: tuple[tuple[int, int], ...]
    tolerance: float
    relative: bool
    """True if the tolerance is a fraction of the output's largest value."""


MATRIX = Group(matrix.TRACED, matrix.SIZES, 2e-5, relative=False)
PACKAGES = Group((2, 3), ((3, 3), (1, 2), (3, 4), (4, 7), (1, 9)), 1e-4, relative=True)


class Outcome(NamedTuple):
    """Outcome of one call with one exporter."""

    verdict: str
    seconds: float = 0.0
    message: str = ""
    """The exporter's message, if there is no file."""
    loads: bool = False
    runs: bool = False
    stateful: bool = False


def run_module(module: nn.Module, arguments: Any) -> list[Tensor]:
    """Return a module's outputs as a flat list."""
    result = module(**arguments) if isinstance(arguments, dict) else module(*arguments)
    return [tensor for _, tensor in flatten_output(result)]


class _Flat(nn.Module):
    """A module whose arguments and results are flat tensors, whatever nesting the
    package's own has.
    """

    def __init__(self, module: nn.Module, example: Any) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._spec = pytree.tree_flatten(example)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [
            next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves
        ]
        return tuple(run_module(self.module, pytree.tree_unflatten(leaves, self._spec)))


def tensors_of(arguments: Any) -> tuple[Tensor, ...]:
    """Return the tensors of nested arguments, in order."""
    return tuple(
        leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)
    )


def changing_axes(call: Call, group: Group) -> list[dict[int, str]]:
    """Return the axes of each input that change with N or L."""
    sizes = (group.traced, *group.sizes)
    shapes = [
        [tensor.shape for tensor in tensors_of(call.inputs(n, length))]
        for n, length in sizes
    ]
    return [
        {
            axis: f"d{index}_{axis}"
            for axis in range(len(runs[0]))
            if len({shape[axis] for shape in runs}) > 1
        }
        for index, runs in enumerate(zip(*shapes, strict=True))
    ]


def make(
    exporter: str, call: Call, group: Group, module: nn.Module, example: Any
) -> tuple[bytes, Sequence[str]]:
    """Export ``module`` with one of ``EXPORTERS``; return the file and the names of its
    inputs.
    """
    if exporter == "lstm-edge":
        made = export(module, example, ExportConfig(inputs=call.axes))
        return made.model, Called.of(module, example).names
    axes = changing_axes(call, group)
    tensors = tensors_of(example)
    names = [f"x{index}" for index in range(len(tensors))]
    flat = _Flat(module, example)
    if exporter == "TorchScript":
        return torchscript(flat, tensors, names, axes), names
    shapes = (tuple(dict.fromkeys(dynamic, Dim.AUTO) for dynamic in axes),)
    return dynamo(flat, tensors, shapes, names), names


class File:
    """A file, whose inputs have ``names``, in onnxruntime."""

    def __init__(self, content: bytes, names: Sequence[str]) -> None:
        self.session = onnxruntime.InferenceSession(content)
        self.names = names
        text = self.session.get_modelmeta().custom_metadata_map.get(KEY)
        self.manifest = read_manifest(text) if text else None
        self.taken = {given.name for given in self.session.get_inputs()}

    def run(self, arguments: Any) -> Sequence[Any] | None:
        """Return the outputs, or None for sizes that the manifest leaves out."""
        named = zip(self.names, tensors_of(arguments), strict=True)
        feeds = {name: tensor.numpy() for name, tensor in named if name in self.taken}
        if self.manifest is not None:
            sizes = {
                axis: size
                for axis, size in _axes(self.manifest, feeds)
                if isinstance(axis, str)
            }
            if not _allows(self.manifest, sizes, feeds):
                return None
            feeds |= _states(self.manifest, sizes, feeds)
        return list(self.session.run(None, feeds))


class Program:
    """The program that one of ``PROGRAMS`` makes from a module."""

    taken: Sequence[str] = ()

    def __init__(
        self, exporter: str, call: Call, group: Group, module: nn.Module, example: Any
    ) -> None:
        tensors = tensors_of(example)
        flat = _Flat(module, example)
        self.is_script = exporter == "torch.jit.script"
        self.program: Callable[..., Any]
        if self.is_script:
            _forget_scripts()
            self.program = torch.jit.script(module)
        elif exporter == "torch.jit.trace":
            self.program = torch.jit.trace(flat, tensors, check_trace=False)
        else:
            axes = changing_axes(call, group)
            shapes = (tuple(dict.fromkeys(dims, Dim.DYNAMIC) for dims in axes),)
            exported = torch.export.export(flat, tensors, dynamic_shapes=shapes)
            self.program = exported.module()

    def run(self, arguments: Any) -> Sequence[Any]:
        """Return the outputs."""
        with torch.no_grad():
            if self.is_script and isinstance(arguments, dict):
                result = self.program(**arguments)
            elif self.is_script:
                result = self.program(*arguments)
            else:
                result = self.program(*tensors_of(arguments))
        return [tensor.numpy() for _, tensor in flatten_output(result)]


def _forget_scripts() -> None:
    """Let no class that failed to compile stand in the way of the next module."""
    torch._C._jit_clear_class_registry()
    recursive = torch.jit._recursive
    recursive.concrete_type_store = recursive.ConcreteTypeStore()
    torch.jit._state._clear_class_state()


def judge(made: File | Program, call: Call, group: Group, module: nn.Module) -> Outcome:
    """Run what was made and its module at the group's sizes."""
    verdicts = []
    for n, length in group.sizes:
        torch.manual_seed(n + length)
        arguments = call.inputs(n, length)
        try:
            with torch.no_grad():
                expected = [tensor.numpy() for tensor in run_module(module, arguments)]
        except Exception:  # noqa: BLE001, S112  a module may raise anything at a size that it does not take
            continue
        try:
            got = made.run(arguments)
        except Exception:  # noqa: BLE001  engines share no base class for their errors
            return Outcome("wrong", loads=True)
        if got is None:
            verdicts.append("left out")
            continue
        agree = all(
            _agree(group, array, reference)
            for array, reference in zip(got, expected, strict=False)
        )
        verdicts.append("agrees" if agree else "wrong")
    if not verdicts:
        return Outcome("refused", loads=True)
    right = "agrees" in verdicts and "wrong" not in verdicts
    verdict = ("ranged" if "left out" in verdicts else "right") if right else "wrong"
    return Outcome(
        verdict, loads=True, runs=True, stateful=right and len(made.taken) == call.takes
    )


def _allows(manifest: Manifest, sizes: Mapping[str, int], feeds: Arrays) -> bool:
    """Return True if the manifest allows these sizes."""
    fixed = (
        axis == size for axis, size in _axes(manifest, feeds) if isinstance(axis, int)
    )
    ranges = (
        (limits, sizes[axis])
        for axis, limits in manifest.ranges.items()
        if axis in sizes
    )
    return all(fixed) and all(limits.nearest(size) == size for limits, size in ranges)


def _axes(manifest: Manifest, feeds: Arrays) -> Iterator[tuple[str | int, int]]:
    """Yield every axis that the file declares, and its size in a call."""
    for spec in manifest.inputs:
        if spec.name in feeds:
            yield from zip(spec.axes, feeds[spec.name].shape, strict=True)


def _states(
    manifest: Manifest, sizes: dict[str, int], feeds: Arrays
) -> dict[str, npt.NDArray[Any]]:
    return {
        state.input: np.broadcast_to(
            np.asarray(state.reset, state.dtype), resolve(state.axes, sizes) or ()
        )
        for state in manifest.states
        if state.input not in feeds
    }


def _agree(group: Group, got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if got.shape != expected.shape:
        return False
    scale = float(np.abs(expected).max(initial=1e-6)) if group.relative else 1.0
    return bool(
        np.allclose(got, expected, rtol=0, atol=group.tolerance * scale, equal_nan=True)
    )


def measure(call: Call, group: Group, exporter: str) -> Outcome:
    """Put one call through one exporter."""
    torch.manual_seed(0)
    module = call.build()
    module.eval()
    example = call.inputs(*group.traced)
    start = time.perf_counter()
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            if exporter in PROGRAMS:
                made: File | Program = Program(exporter, call, group, module, example)
            else:
                content, names = make(exporter, call, group, module, example)
    except Exception as error:  # noqa: BLE001  an exporter may fail in any way
        refused = exporter != "lstm-edge" or isinstance(error, LstmEdgeError)
        verdict = (
            ("refused rightly" if call.why else "refused") if refused else "traceback"
        )
        return Outcome(
            verdict,
            message=f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
        )
    seconds = time.perf_counter() - start
    if exporter not in PROGRAMS:
        try:
            made = File(content, names)
        except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return Outcome("wrong")
    return judge(made, call, group, module)._replace(seconds=seconds)


def by_package(document: dict[str, Any]) -> str:
    """Return the tally of modules with loops by package, and the refusals."""
    columns = [key for key in (*PROGRAMS, *EXPORTERS) if key in document["calls"][0]]
    lines = []
    totals = {key: Counter[str]() for key in columns}
    calls = document["calls"]
    for package in dict.fromkeys(row["package"] for row in calls):
        cells = []
        for key in columns:
            verdicts = [
                row[key]["verdict"] for row in calls if row["package"] == package
            ]
            totals[key].update(verdicts)
            cells.append(_tally(Counter(verdicts)))
        lines.append([f"{package} {document['versions'][package]}", *cells])
    lines.append([f"all {len(calls)}", *map(_tally, totals.values())])
    head = table(["right / refused / wrong", *columns], lines)
    refusals = [
        f"- {row['package']}, {row['name']}: {row['lstm-edge']['message']}"
        for row in calls
        if row["lstm-edge"]["message"]
    ]
    return "\n".join([head, "", *refusals])


def _tally(counts: Counter[str]) -> str:
    refused = counts["refused"] + counts["refused rightly"]
    wrong = counts["wrong"] + counts["traceback"]
    return f"{counts['right'] + counts['ranged']} / {refused} / {wrong}"


def tables(documents: Sequence[dict[str, Any]]) -> str:
    """Return the tally of several groups in Markdown, with versions."""
    rows = [row for document in documents for row in document["calls"]]
    packages = {row["package"] for row in rows}
    head = [f"{len(rows)} calls of {len(packages)} packages", *VERDICTS]
    lines = []
    if packages == {"matrix"}:
        reached = (
            "exported",
            "load",
            "run at 6 sizes",
            "agree",
            "states as inputs",
            "median s",
        )
        head = ["exporter", "cells", *reached]
    for key, name in EXPORTERS.items():
        if not (outcomes := [row[key] for row in rows if key in row]):
            continue
        counts = Counter(outcome["verdict"] for outcome in outcomes)
        if packages != {"matrix"}:
            lines.append([key, *(counts[verdict] for verdict in VERDICTS)])
            continue
        seconds = [outcome["seconds"] for outcome in outcomes if outcome["seconds"]]
        loads, runs, stateful = (
            sum(row[what] for row in outcomes) for what in ("loads", "runs", "stateful")
        )
        median = f"{statistics.median(seconds or [0]):.2f}"
        lines.append(
            [
                name,
                len(outcomes),
                len(seconds),
                loads,
                runs,
                counts["right"],
                stateful,
                median,
            ]
        )
    versions = {
        name: version
        for document in documents
        for name, version in document["versions"].items()
    }
    about = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    return (
        f"{table(head, lines)}\n\n{about}; Python {platform.python_version()},"
        f" {platform.machine()}."
    )


def main() -> None:
    """Run one group, or print the table of several."""
    arguments = parser(__doc__)
    arguments.add_argument("group", nargs="?", choices=GROUPS)
    arguments.add_argument("--first", type=int, help="that number of calls")
    arguments.add_argument(
        "--exporters", nargs="*", choices=[*PROGRAMS, *EXPORTERS], help="by the group"
    )
    arguments.add_argument("--json", type=Path, help="write the outcomes there")
    arguments.add_argument(
        "--table", type=Path, nargs="+", help="print the table of these files"
    )
    options = arguments.parse_args()
    if options.table or not options.group:
        print(
            tables(
                [
                    json.loads(path.read_text())
                    for path in options.table or arguments.error("no group")
                ]
            )
        )
        return
    quiet()
    calls = list(calls_of(options.group))[: options.first]
    group = MATRIX if options.group == "matrix" else PACKAGES
    is_loops = options.group == "loops"
    usual = [*PROGRAMS, "lstm-edge"] if is_loops else [*EXPORTERS]
    packages = {call.package for call in calls} - {"matrix"} | {
        "torch",
        "onnx",
        "onnxruntime",
    }
    versions = {name: importlib.metadata.version(name) for name in packages} | {
        "lstm-edge": __version__
    }
    document: dict[str, Any] = {"calls": [], "versions": versions}
    for call in calls:
        outcomes = {
            exporter: measure(call, group, exporter)
            for exporter in options.exporters or usual
        }
        row = {name: outcome._asdict() for name, outcome in outcomes.items()}
        document["calls"].append({"package": call.package, "name": call.name, **row})
        words = (
            f"{name}: {o.verdict} {o.message}"[:160].rstrip()
            for name, o in outcomes.items()
        )
        print(call.package, call.name, *words, sep=" | ", flush=True)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1))
    print(by_package(document) if is_loops else tables([document]))


if __name__ == "__main__":
    main()
