"""``lstm-edge inspect``: a file's inputs, outputs, cost and provenance."""

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.errors import counted
from lstm_edge_runtime.manifest import AxisRange, Trained

from ._model import ModelOptions, open_model
from ._options import json_option, model_argument
from ._output import echo_json, print_interface, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.manifest import Manifest, StateSpec


@click.command("inspect")
@model_argument
@json_option
def command(model: Path, as_json: bool) -> None:
    """Show MODEL's inputs, outputs, cost and provenance.

    Parameters are the stored weights, including the normalization. FLOPs per step are for one call with one
    time step of one stream, or with one unit if it streams by units; a multiply-add counts as two. Memory per
    stream is the size of its states; an open stream stores them twice.

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
            states = opened.manifest.streaming.states
            print_interface(document["file"]["path"], opened.manifest, states)
            print_table("properties", ["property", "value"], _facts(document))


def _describe(path: Path, model: "Model") -> dict[str, Any]:
    """Return all properties of a file as a JSON document."""
    manifest = model.manifest
    states = [_state(spec) for spec in model.manifest.streaming.states]
    return {
        "file": {
            "path": str(path),
            "bytes": path.stat().st_size,
            "sha256": model.sha256,
            "identity": model.identity,
        },
        "inputs": [spec._asdict() for spec in model.inputs],
        "outputs": [spec._asdict() for spec in model.outputs],
        "states": states,
        "engine": model.engine,
        "axes": {"batch": manifest.batch, "sequence": manifest.sequence},
        "cost": _cost(path, model) | {"state_bytes_per_stream": sum(state["bytes"] for state in states)},
    } | _declared(manifest)


def _declared(manifest: "Manifest") -> dict[str, Any]:
    golden = manifest.golden
    return {
        "streamable": manifest.streaming.streamable,
        "unstreamable": manifest.streaming.unstreamable or None,
        "pace": manifest.pace if manifest.stream else "",
        "delays": manifest.delays,
        "unit": manifest.unit,
        "ranges": {axis: limits._asdict() for axis, limits in manifest.ranges.items()},
        "lengths": manifest.lengths,
        "precision": manifest.precision,
        "task": manifest.task._asdict() if manifest.task else None,
        "signal": manifest.signal._asdict(),
        "trained": manifest.trained and manifest.trained._asdict(),
        "golden": golden and {name: list(array.shape) for name, array in golden.inputs.items()},
        "equivalence": manifest.equivalence,
        "provenance": manifest.provenance,
    }


def _state(spec: "StateSpec") -> dict[str, Any]:
    elements = prod(axis for axis in spec.axes if isinstance(axis, int))
    reset = "an array" if isinstance(spec.reset, np.ndarray) else spec.reset
    return spec._asdict() | {"reset": reset, "bytes": elements * np.dtype(spec.dtype).itemsize}


def _cost(path: Path, model: "Model") -> dict[str, Any]:
    """Return parameters and operations; unknown for a native program."""
    if model.engine == "native":
        why = "the nodes of a native program can't be read"
        return {"parameters": None, "flops_per_step": None, "flops_per_call": None, "why": why}
    from lstm_edge.cost import measure_cost
    from lstm_edge_exporters.targets.native import uncovered
    from lstm_edge_runtime.onnx_reader import add_initializers, read_onnx

    content = path.read_bytes()
    file, manifest = read_onnx(content, path.parent), model.manifest
    cost = measure_cost(content, file)
    if manifest.stream is not None:
        graph = add_initializers(manifest.stream.graph, content)
        of_unit = measure_cost(graph, read_onnx(graph), {manifest.sequence or "": manifest.unit})
        cost = replace(of_unit, parameters=cost.parameters)
    fixed = any(isinstance(axis, int) and axis > 1 for spec in model.inputs for axis in spec.axes[:-1])
    return {
        "parameters": cost.parameters,
        "flops_per_step": None if fixed or cost.flops is None else round(cost.flops / manifest.unit),
        "flops_per_call": cost.flops,
        "not_counted": list(cost.uncounted),
        "why": cost.reason or ("the file has a fixed number of steps or rows per call" if fixed else None),
        "nodes": len(file.graph.nodes),
        "opsets": {domain or "ai.onnx": version for domain, version in file.opsets.items()},
        "ir_version": file.ir_version,
        "producer": file.producer,
        "not_native": uncovered(path, manifest) or None,
    }


def _facts(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the rows of the second table."""
    yield from _costs(document)
    yield "engine used here", document["engine"]
    yield from _contract(document)


def _costs(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield facts about the file itself and the cost of a call."""
    file, cost = document["file"], document["cost"]
    yield "file", f"{file['bytes']:,} bytes, sha256 {file['sha256'][:16]}"
    yield "parameters", "unknown" if cost["parameters"] is None else f"{cost['parameters']:,}"
    flops, of_step, steps = cost["flops_per_call"], cost["flops_per_step"], document.get("unit", 1)
    if flops is None:
        yield "FLOPs per step", f"unknown: {cost['why']}"
    elif steps > 1:
        yield f"FLOPs per unit of {steps} steps", f"{flops:,} ({of_step:,} per step)"
    else:
        yield f"FLOPs per {'call' if of_step is None else 'step'}", f"{flops:,}"
    if cost.get("not_counted"):
        yield "not counted", ", ".join(cost["not_counted"])
    yield "memory per stream", f"{cost['state_bytes_per_stream']:,} bytes of states"
    if "nodes" in cost:
        opsets = ", ".join(f"{domain} {version}" for domain, version in cost["opsets"].items())
        yield (
            "graph",
            f"{counted(cost['nodes'], 'node')}; opset {opsets}; IR {cost['ir_version']}; {cost['producer']}",
        )
        yield "as .lep", f"no: {cost['not_native']}" if cost["not_native"] else "lstm-edge convert"


def _contract(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the facts in the manifest."""
    for axis, limits in document["ranges"].items():
        yield f"sizes of axis {axis}", str(AxisRange(**limits))
    yield "precision", document["precision"]
    yield (
        "streaming",
        document["unstreamable"]
        or (document["pace"] or "yes" if document["streamable"] else "no: it has no states"),
    )
    yield "variable lengths", document["lengths"] or "no"
    if task := document["task"]:
        yield task["kind"], ", ".join(task["labels"] or task["units"]) or "no names"
    signal = document["signal"]
    yield "features", ", ".join(signal["features"]) or "no names"
    yield "sampling rate", f"{signal['sampling_rate']:g} Hz" if signal["sampling_rate"] else "unknown"
    if document["trained"]:
        yield "trained on", str(Trained(**document["trained"]))
    elif signal["window"]:
        yield "trained on", f"windows of {counted(signal['window'], 'step')}"
    if signal["missing"]:
        yield "missing in training", signal["missing"]
    yield (
        "golden case",
        ", ".join(f"{n} {describe(tuple(s))}" for n, s in (document["golden"] or {}).items()) or "none",
    )
    for title in ("equivalence", "provenance"):
        for key, value in sorted(document[title].items()):
            yield f"{title}: {key}", _short(value)


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in sorted(value.items()))
    if isinstance(value, list):
        return "; ".join(map(_short, value)) or "none"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
