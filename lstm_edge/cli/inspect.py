"""``lstm-edge inspect``: a file's inputs, outputs, states and provenance."""

import hashlib
from math import prod
from pathlib import Path
from typing import Any

import click
import numpy as np

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.manifest import StateSpec

from ._options import model_argument, verb
from ._output import Output


@verb("inspect")
@model_argument
@click.option(
    "--operations",
    is_flag=True,
    help="List the operations of an .lep file, with their weights.",
)
def command(model: Path, *, operations: bool) -> Output:
    """Show MODEL's inputs, outputs, states, sizes and provenance.

    Memory per stream is the size of its states; an open stream stores them twice.

    \b
    Example:
      lstm-edge inspect har.onnx
      lstm-edge inspect har.lep --operations
    """  # noqa: D301
    with load(model) as opened:
        manifest = opened.manifest
        golden = manifest.golden
        shapes = None
        if golden is not None:
            shapes = {name: list(array.shape) for name, array in golden.inputs.items()}
        states = [_state(spec) for spec in manifest.states]
        content = model.read_bytes()
        file = {
            "path": model,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        document = {
            "file": file,
            "engine": opened.engine,
            **manifest._asdict(),
            "identity": opened.identity,
            "states": states,
            "state_bytes_per_stream": sum(state["bytes"] for state in states),
            "golden": shapes,
        }
    if operations:
        listed = _operations(model, content, document["engine"])
        return Output(
            {**document, "operations": listed},
            lines={"operations": listed},
            title=str(model),
        )
    hidden = () if manifest.lengths else ("padded_states",)
    lines = {name: entry for name, entry in document.items() if name not in hidden}
    return Output(document, lines=lines, title=str(model))


def _operations(model: Path, content: bytes, engine: str) -> list[Any]:
    """Return the operations of a program; ``InputError`` for another file."""
    from lstm_edge_exporters.targets.native.listing import ProgramFile

    if engine != "native":
        raise InputError(
            f"{model} is a graph, and --operations lists a program; convert it first:"
            f" lstm-edge convert {model} -o {model.with_suffix('.lep').name}"
        )
    return ProgramFile(content).listed()


def _state(spec: StateSpec) -> dict[str, Any]:
    """Return the fields of a state, with its size in bytes per source."""
    elements = prod(axis for axis in spec.axes if isinstance(axis, int))
    return spec._asdict() | {"bytes": elements * np.dtype(spec.dtype).itemsize}
