"""``lstm-edge inspect``: a file's inputs, outputs, states and provenance."""

import hashlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from ._model import ModelOptions, open_model
from ._options import json_option, model_argument
from ._output import echo_json, print_interface, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import StateSpec


@click.command("inspect")
@model_argument
@json_option
def command(model: Path, as_json: bool) -> None:
    """Show MODEL's inputs, outputs, states, sizes and provenance.

    Memory per stream is the size of its states; an open stream stores them twice.

    \b
    Example:
      lstm-edge inspect har.onnx
      lstm-edge inspect har.lep
    """  # noqa: D301
    with open_model(model, ModelOptions()) as opened:
        document = _describe(model, opened)
        if as_json:
            echo_json(document)
        else:
            print_interface(str(model), opened.manifest, opened.manifest.states)
            print_table("properties", ["property", "value"], _rows(document))


def _describe(path: Path, model: "Model") -> dict[str, Any]:
    """Return all properties of a file as a JSON document."""
    contract, golden = model.manifest, model.manifest.golden
    states, content = [_state(spec) for spec in contract.states], path.read_bytes()
    return {
        "file": {"path": str(path), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
        "identity": model.identity,
        "engine": model.engine,
        "inputs": [spec._asdict() for spec in model.inputs],
        "outputs": [spec._asdict() for spec in model.outputs],
        "states": states,
        "state_bytes_per_stream": sum(state["bytes"] for state in states),
        "ranges": {axis: limits._asdict() for axis, limits in contract.ranges.items()},
        "streamable": contract.streamable,
        "unstreamable": contract.unstreamable or None,
        "unit": contract.unit,
        "delays": contract.delays,
        "lengths": contract.lengths,
        "precision": contract.precision,
        "task": contract.task and contract.task._asdict(),
        "signal": contract.signal._asdict(),
        "trained": contract.trained and contract.trained._asdict(),
        "golden": golden and {name: list(array.shape) for name, array in golden.inputs.items()},
        "equivalence": contract.equivalence,
        "provenance": contract.provenance,
    }


def _state(spec: "StateSpec") -> dict[str, Any]:
    elements = prod(axis for axis in spec.axes if isinstance(axis, int))
    reset = "an array" if isinstance(spec.reset, np.ndarray) else spec.reset
    return spec._asdict() | {"reset": reset, "bytes": elements * np.dtype(spec.dtype).itemsize}


def _rows(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table of properties; what is empty or in the first table is left out."""
    for key, value in document.items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for name, entry in entries if key not in ("inputs", "outputs", "states") else ():
            if entry not in (None, "", [], (), {}):
                yield f"{key}: {name}".strip(": "), _text(entry)


def _text(value: object) -> str:
    """Return a value of the document in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
