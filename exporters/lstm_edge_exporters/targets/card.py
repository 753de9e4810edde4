"""A folder that model registries recognize: a Hugging Face model repository with an MLflow model inside.

The card's metadata are those of the hub's ``modelcard.md``, its ``model-index`` that of Papers with Code; the
files' names are those of Optimum and Transformers.js (``onnx/model.onnx``, ``onnx/model_int8.onnx``). The
folder ``onnx/`` is an MLflow model with the flavors ``onnx`` and ``python_function``.
"""

import hashlib
import json
import os
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import onnx

from lstm_edge_runtime import __version__
from lstm_edge_runtime.axes import describe
from lstm_edge_runtime.files import check_folder, write_folder
from lstm_edge_runtime.manifest import Manifest, StateSpec, TensorSpec

from .names import markdown, text_templates, yaml_value

FILES = ("README.md", "config.json", "onnx/model.onnx", "onnx/MLmodel", "onnx/requirements.txt")
"""What the folder holds."""


class Score(NamedTuple):
    """One figure of a data set."""

    metric: str
    """``accuracy``, ``mae`` or ``rmse``."""
    value: float
    split: str
    """``test`` or ``validation``."""
    target: str = ""
    """The predicted value that it is of, for a regression."""
    how: str = ""
    """What was scored, if not streams of the network: a baseline, or windows from reset."""

    @property
    def words(self) -> str:
        """The metric with what it is of."""
        target = f" of {self.target}" if self.target else ""
        return f"{self.metric}{target}{f', {self.how}' if self.how else ''}"


@dataclass(frozen=True)
class Card:
    """A model's folder, ready to be written."""

    files: Mapping[str, bytes]
    """Each file's content by its path in the folder."""

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder whole or not at all; return its path.

        Raises:
            NotFoundError: the folder's own folder does not exist.
            InputError: it can't be written, or holds another file.
        """
        return write_folder(folder, self.files)


def check_card(folder: str | os.PathLike[str]) -> None:
    """Refuse a folder that ``Card.save`` would refuse; raises as that does."""
    check_folder(folder, FILES.__contains__)


def to_card(
    name: str, model: bytes, manifest: Manifest, data: str = "", scores: Sequence[Score] = ()
) -> Card:
    """Return the folder of a verified file.

    Args:
        name: what the card calls the model.
        model: the ``.onnx`` file.
        manifest: what is inside of it.
        data: the name of the data that ``scores`` were measured on.
        scores: figures of the training run; the card has none without.
    """
    config = {
        "model_type": "lstm-edge",
        "task": manifest.task and manifest.task.kind,
        "id2label": dict(enumerate(manifest.task.labels if manifest.task else ())),
        "features": manifest.signal.features,
        "sampling_rate": manifest.signal.sampling_rate,
        "window": manifest.signal.window,
        "precision": manifest.precision,
        "inputs": [spec._asdict() for spec in manifest.inputs],
        "outputs": [spec._asdict() for spec in manifest.outputs],
        "states": [{"input": state.input, "output": state.output} for state in manifest.states],
    }
    contents = {
        "README.md": _readme(name, manifest, data, scores),
        "config.json": json.dumps(config, indent=2) + "\n",
        "onnx/MLmodel": _mlmodel(model, manifest),
        "onnx/requirements.txt": f"mlflow\nonnx>={onnx.__version__.rpartition('.')[0]}\nonnxruntime>=1.18\n",
    }
    return Card({"onnx/model.onnx": model} | {path: text.encode() for path, text in contents.items()})


def _readme(name: str, manifest: Manifest, data: str, scores: Sequence[Score]) -> str:
    kind = f"time-series-{manifest.task.kind}" if manifest.task else "time-series"
    tensors: list[tuple[str, str, TensorSpec | StateSpec]] = [
        *((spec.name, "input", spec) for spec in manifest.inputs),
        *((spec.name, "output", spec) for spec in manifest.outputs),
        *((f"{state.input} to {state.output}", "state", state) for state in manifest.states),
    ]
    environment = text_templates(__package__)
    environment.filters |= {"describe": describe, "markdown": markdown, "yaml": yaml_value}
    return environment.get_template("card.md.j2").render(
        name=name,
        kind=kind,
        manifest=manifest,
        signal=manifest.signal,
        tensors=tensors,
        data=data,
        scores=scores,
        results=list(_results(kind, data, scores)),
        cases=manifest.equivalence.get("cases"),
        difference=manifest.equivalence.get("max_abs"),
        version=__version__,
    )


def _results(kind: str, data: str, scores: Sequence[Score]) -> Iterator[dict[str, Any]]:
    """Yield the model card's entry for each split of the data."""
    for split in dict.fromkeys(score.split for score in scores):
        own = [score for score in scores if score.split == split and not score.how]
        yield {
            "task": {"type": kind},
            "dataset": {"type": data, "name": data, "split": split},
            "metrics": [{"type": each.metric, "name": each.words, "value": each.value} for each in own],
        }


def _mlmodel(model: bytes, manifest: Manifest) -> str:
    """Return MLflow's description of the folder; its identifier is the file's hash, the same each time."""
    digest = hashlib.sha256(model).hexdigest()
    flavors = {
        "onnx": {
            "data": "model.onnx",
            "onnx_version": onnx.__version__,
            "providers": ["CPUExecutionProvider"],
        },
        "python_function": {
            "data": "model.onnx",
            "loader_module": "mlflow.onnx",
            "python_version": platform.python_version(),
        },
    }
    entering = [TensorSpec(state.input, state.dtype, state.axes) for state in manifest.states]
    leaving = [TensorSpec(state.output, state.dtype, state.axes) for state in manifest.states]
    signature = {
        "inputs": json.dumps(list(map(_column, (*manifest.inputs, *entering)))),
        "outputs": json.dumps(list(map(_column, (*manifest.outputs, *leaving)))),
        "params": None,
    }
    fields: dict[str, Any] = {
        "flavors": flavors,
        "model_size_bytes": len(model),
        "model_uuid": uuid.UUID(digest[:32]).hex,
        "signature": signature,
    }
    return "".join(f"{key}: {yaml_value(value)}\n" for key, value in fields.items())


def _column(spec: TensorSpec) -> dict[str, Any]:
    shape = [axis if isinstance(axis, int) else -1 for axis in spec.axes]
    return {"name": spec.name, "type": "tensor", "tensor-spec": {"dtype": spec.dtype, "shape": shape}}
