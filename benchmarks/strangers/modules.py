"""Modules of packages that strangers wrote, through three exporters.

    python -m venv strangers && strangers/bin/pip install -e ".[cpu,export]"
    strangers/bin/pip install --no-deps -r benchmarks/strangers/packages.txt
    strangers/bin/python -m benchmarks.strangers.modules GROUP [--json FILE]
    python -m benchmarks.strangers.modules --table FILE...

Each call of ``calls.py`` builds one module and gives its inputs at any ``(N, L)``. It is exported
from those at ``TRACED`` by

- ``lstm_edge_exporters.export``, axes and states found by itself,
- ``torch.onnx.export(dynamo=True)`` with ``Dim.AUTO`` for every axis that changes with N or L,
- the deprecated TorchScript exporter with those axes as ``dynamic_axes``,

and the file is then run in onnxruntime at the sizes of ``JUDGED``, apart from what any exporter saw. It is

- *right* where it agrees with PyTorch at every size that the module itself runs at, within 1e-4 of the
  largest value of the output;
- *ranged* where it does so at every size that its manifest allows, which leaves out some;
- *wrong* where it was written and differs or does not run;
- *refused* where the exporter raised, *rightly* where the call says why no file can hold what it does, and
  for lstm-edge a *traceback* where that is no error of its own.

A package that is not installed is left out.
"""

import argparse
import contextlib
import importlib.metadata
import io
import json
import logging
import platform
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from benchmarks.strangers.calls import GROUPS, Call
from lstm_edge_exporters import ExportConfig, export
from lstm_edge_exporters.numerics.reference import Signature, flatten_output
from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import resolve
from lstm_edge_runtime.errors import LstmEdgeError
from lstm_edge_runtime.manifest import KEY, Manifest

__all__ = ["main"]

TRACED = (2, 3)
"""Rows and units of length of the example; a call says how long a unit is."""
JUDGED = ((3, 3), (1, 2), (3, 4), (4, 7), (1, 9))
TOLERANCE = 1e-4
EXPORTERS = ("lstm-edge", "dynamo, Dim.AUTO", "TorchScript")


class _Flat(nn.Module):
    """A module whose arguments and results are flat tensors, whatever nesting the package's own has."""

    def __init__(self, module: nn.Module, example: tuple[Any, ...]) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._spec = pytree.tree_flatten(example)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(each, Tensor) else each for each in self._leaves]
        return tuple(
            tensor for _, tensor in flatten_output(self.module(*pytree.tree_unflatten(leaves, self._spec)))
        )


def tensors_of(arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """Return the tensors of nested arguments, in order."""
    return tuple(each for each in pytree.tree_leaves(arguments) if isinstance(each, Tensor))


def changing_axes(call: Call) -> list[dict[int, str]]:
    """Return the axes of each input that change with N or L."""
    shapes = [
        [tensor.shape for tensor in tensors_of(call.inputs(n, length))] for n, length in (TRACED, *JUDGED)
    ]
    return [
        {axis: f"d{place}_{axis}" for axis in range(len(each[0])) if len({shape[axis] for shape in each}) > 1}
        for place, each in enumerate(zip(*shapes, strict=True))
    ]


def make(
    exporter: str, call: Call, module: nn.Module, example: tuple[Any, ...]
) -> tuple[bytes, Sequence[str]]:
    """Export ``module`` with one of ``EXPORTERS``; return the file and the names of its inputs."""
    if exporter == "lstm-edge":
        made = export(module, example, ExportConfig(inputs=call.axes))
        return made.model, Signature.of(module, example).names
    axes, buffer, tensors = changing_axes(call), io.BytesIO(), tensors_of(example)
    names = [f"x{place}" for place in range(len(tensors))]
    if exporter == "TorchScript":
        torch.onnx.export(
            _Flat(module, example),
            tensors,
            buffer,
            dynamo=False,
            input_names=names,
            dynamic_axes={name: own for name, own in zip(names, axes, strict=True) if own},
        )
        return buffer.getvalue(), names
    program = torch.onnx.export(
        _Flat(module, example),
        tensors,
        dynamo=True,
        input_names=names,
        dynamic_shapes=(tuple(dict.fromkeys(own, Dim.AUTO) for own in axes),),
        verbose=False,
    )
    assert program is not None
    program.save(buffer)
    return buffer.getvalue(), names


def judge(content: bytes, names: Sequence[str], call: Call, module: nn.Module) -> str:
    """Run a file, whose inputs have ``names``, beside its module at ``JUDGED``; return the verdict."""
    try:
        session = onnxruntime.InferenceSession(content)
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return "wrong"
    text = session.get_modelmeta().custom_metadata_map.get(KEY)
    manifest = Manifest.from_json(text) if text else None
    compared, left_out = 0, 0
    for n, length in JUDGED:
        torch.manual_seed(n + length)
        arguments = call.inputs(n, length)
        try:
            with torch.no_grad():
                expected = [tensor.numpy() for _, tensor in flatten_output(module(*arguments))]
        except Exception:  # noqa: BLE001, S112  a module may raise anything at a size that it does not take
            continue
        taken = {given.name for given in session.get_inputs()}
        named = zip(names, tensors_of(arguments), strict=True)
        feeds = {name: tensor.numpy() for name, tensor in named if name in taken}
        if manifest is not None:
            sizes = _sizes(manifest, feeds)
            if not _allows(manifest, sizes, feeds):
                left_out += 1
                continue
            feeds |= _states(manifest, sizes, feeds)
        try:
            got = session.run(None, feeds)
        except Exception:  # noqa: BLE001
            return "wrong"
        compared += 1
        if not all(_agree(one, other) for one, other in zip(got, expected, strict=False)):
            return "wrong"
    if left_out:
        return "ranged" if compared else "wrong"
    return "right" if compared else "refused"


def _allows(manifest: Manifest, sizes: Mapping[str, int], feeds: Mapping[str, npt.NDArray[Any]]) -> bool:
    """Tell whether the file says that it takes these sizes."""
    fixed = [
        (axis, size)
        for spec in manifest.inputs
        if spec.name in feeds
        for axis, size in zip(spec.axes, feeds[spec.name].shape, strict=True)
        if isinstance(axis, int)
    ]
    return all(axis == size for axis, size in fixed) and all(
        limits.nearest(sizes[axis]) == sizes[axis]
        for axis, limits in manifest.ranges.items()
        if axis in sizes
    )


def _sizes(manifest: Manifest, feeds: dict[str, npt.NDArray[Any]]) -> dict[str, int]:
    return {
        axis: size
        for spec in manifest.inputs
        if spec.name in feeds
        for axis, size in zip(spec.axes, feeds[spec.name].shape, strict=True)
        if isinstance(axis, str)
    }


def _states(
    manifest: Manifest, sizes: dict[str, int], feeds: dict[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    return {
        state.input: np.broadcast_to(np.asarray(state.reset, state.dtype), resolve(state.axes, sizes) or ())
        for state in manifest.states
        if state.input not in feeds
    }


def _agree(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> bool:
    if got.shape != expected.shape:
        return False
    scale = float(np.abs(expected).max(initial=1e-6))
    return bool(np.allclose(got, expected, rtol=0, atol=TOLERANCE * scale, equal_nan=True))


def measure(call: Call, exporter: str) -> tuple[str, str]:
    """Return the verdict on one call, and what was said where there is no file."""
    torch.manual_seed(0)
    module = call.build()
    module.eval()
    example = call.inputs(*TRACED)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            content, names = make(exporter, call, module, example)
    except Exception as error:  # noqa: BLE001  an exporter may fail in any way
        own = exporter != "lstm-edge" or isinstance(error, LstmEdgeError)
        return (
            "refused" if own else "traceback",
            f"{type(error).__name__}: {' '.join(str(error).split())[:400]}",
        )
    return judge(content, names, call, module), ""


def table(documents: Sequence[dict[str, Any]]) -> str:
    """Return the tally of several groups in Markdown, with versions."""
    rows = [each for document in documents for each in document["calls"]]
    verdicts = ("right", "ranged", "wrong", "refused", "refused rightly", "traceback")
    lines = [
        f"| {len(rows)} calls of {len({row['package'] for row in rows})} packages | {' | '.join(verdicts)} |",
        f"| --- | {' | '.join(['--:'] * len(verdicts))} |",
    ]
    for exporter in EXPORTERS:
        counts = Counter(
            f"refused{' rightly' if row['why'] else ''}"
            if row[exporter][0] == "refused"
            else row[exporter][0]
            for row in rows
        )
        lines.append(f"| {exporter} | {' | '.join(str(counts[verdict]) for verdict in verdicts)} |")
    packages = {name: version for document in documents for name, version in document["versions"].items()}
    about = ", ".join(f"{name} {version}" for name, version in sorted(packages.items()))
    return "\n".join([*lines, "", f"{about}; {documents[0]['platform']}."]) + "\n"


def main() -> None:
    """Run one group, or print the table of several."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("group", nargs="?", choices=GROUPS)
    parser.add_argument("--json", type=Path, help="write the verdicts there")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files")
    options = parser.parse_args()
    if options.table:
        print(table([json.loads(path.read_text()) for path in options.table]))
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    onnxruntime.set_default_logger_severity(4)
    rows: list[dict[str, Any]] = []
    calls = []
    for package in GROUPS[options.group]:
        try:
            calls += package()
        except ImportError as error:  # noqa: PERF203  one package after another
            print(f"{package.__name__} is left out: {error}", flush=True)
    for call in calls:
        row: dict[str, Any] = {"package": call.package, "name": call.name, "why": call.why}
        row |= {exporter: measure(call, exporter) for exporter in EXPORTERS}
        rows.append(row)
        print(
            call.package,
            call.name,
            *(f"{name}: {' '.join(row[name])[:160]}" for name in EXPORTERS),
            sep=" | ",
            flush=True,
        )
        if options.json:
            options.json.write_text(json.dumps(_document(rows), indent=1))


def _document(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    packages = {row["package"] for row in rows} | {"torch", "onnx", "onnxruntime"}
    return {
        "calls": rows,
        "versions": {name: importlib.metadata.version(name) for name in sorted(packages)}
        | {"lstm-edge": __version__},
        "platform": f"Python {platform.python_version()}, {platform.machine()}",
    }


if __name__ == "__main__":
    main()
