"""Checkpoints: a run folder with all data of a trained network, or a bare ``state_dict`` file.

A run folder has ``config.json`` and the safetensors file that it names by content, so that replacing the
one small JSON file swaps both at once: a reader never sees the configuration of one and the weights of
another. Tensors are read without running code, and show which LSTM1 they belong to.
"""

import hashlib
import json
import math
import os
import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.json_reader import malformed_as, read_json
from lstm_edge_runtime.manifest import Signal, Task, Trained
from lstm_edge_runtime.reading import open_regular

from .lstm1 import LSTM1
from .run_files import CONFIG

_LAYER = re.compile(r"lstm\.weight_ih_l(\d+)")
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_NEEDED = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc_1.weight", "fc.weight")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a ``.safetensors`` file, or a ``state_dict`` saved by ``torch.save``, without running code.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or a pickle with more than tensors and plain values in it.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; expected a run folder or a checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path} is not a complete safetensors file ({first_line(error)})"
            ) from error
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        content = load_plain(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        named = f"names {found.group(1)}" if found else "is not a checkpoint, or contains more than tensors"
        raise FileFormatError(
            f"{path} {named}; loading it could run code, so it is refused: save model.state_dict()"
        ) from error
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = first_line(error)
        raise FileFormatError(
            f"{path} can't be read as a checkpoint ({reason}); expected a run folder, a .safetensors file or "
            "a state_dict saved by torch.save"
        ) from error
    if not isinstance(content, Mapping) or not all(map(is_plain, content.values())):
        raise FileFormatError(
            f"{path} contains {type(content).__name__} with more than named dense tensors; expected a "
            "state_dict: save only model.state_dict()"
        )
    return {str(name): tensor for name, tensor in content.items()}


def load_plain(path: Path) -> Any:
    """Return the tensors, on the CPU, and plain values that ``torch.save`` wrote; raises nearly anything."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old formats
        with open_regular(path) as file:
            return torch.load(file, map_location="cpu", weights_only=True)


def is_plain(value: object) -> bool:
    """Return whether ``value`` is a dense tensor with values: not sparse, nested, quantized or ``meta``."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def infer_options(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Any]:
    """Return the constructor arguments of the LSTM1 whose ``state_dict`` has these names and shapes.

    Options that shapes don't show have their defaults: dropout 0, ``batch_first``, and ``readout="stacked"``
    if ``fc_1`` is as wide as one hidden state. ``seq_length`` is 1, because the window is unknown.

    Raises:
        FileFormatError: a tensor that every LSTM1 has is missing or is not a matrix.
    """
    for name in _NEEDED:
        if name not in tensors:
            raise FileFormatError(
                f"{origin} has no tensor {name} (it has {_some(tensors)}); expected an LSTM1 state_dict "
                "with lstm.*, fc_1.* and fc.*"
            )
        if not is_plain(tensors[name]) or tensors[name].dim() != 2:
            raise FileFormatError(f"{origin}: {name} is {_shape(tensors[name])}, expected a matrix")
    proj_size = tensors["lstm.weight_hh_l0"].shape[1] if "lstm.weight_hr_l0" in tensors else 0
    hidden_size = tensors["lstm.weight_hh_l0"].shape[0] // 4
    bidirectional = "lstm.weight_ih_l0_reverse" in tensors
    both = bidirectional and tensors["fc_1.weight"].shape[1] == 2 * (proj_size or hidden_size)
    return {
        "num_classes": tensors["fc.weight"].shape[0],
        "input_size": tensors["lstm.weight_ih_l0"].shape[1],
        "hidden_size": hidden_size,
        "num_layers": _layers(tensors),
        "seq_length": 1,
        "readout": "last" if both else "stacked",
        "bias": "lstm.bias_ih_l0" in tensors,
        "bidirectional": bidirectional,
        "proj_size": proj_size,
    }


def build(options: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: Path) -> LSTM1:
    """Make the LSTM1 of these options, in evaluation mode, with these tensors as its parameters.

    Raises:
        FileFormatError: a tensor is missing, left over, of another shape or dtype, or not finite.
    """
    try:
        layers, found = dict(options).get("num_layers"), _layers(tensors)
        if layers != found:  # before a million layers are made
            raise ValueError(f"num_layers is {layers}, the tensors have {found}")  # noqa: TRY301
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options without effect
            model = LSTM1(**options, device="meta")
    except (InputError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise FileFormatError(f"{origin} does not describe an LSTM1: {reason}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in (*expected, *tensors):
        if name not in tensors:
            raise FileFormatError(f"{origin} has no tensor {name}, expected {expected[name]}")
        if name not in expected:
            raise FileFormatError(
                f"{origin} has a tensor {name} {_shape(tensors[name])} that LSTM1 does not have"
            )
        if tensors[name].shape != expected[name]:
            raise FileFormatError(f"{origin}: {name} is {_shape(tensors[name])}, expected {expected[name]}")
    _check_values(tensors, origin)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


def _check_values(tensors: Mapping[str, Tensor], origin: Path) -> None:
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not dtypes <= _FLOATS:
        raise FileFormatError(f"{origin} has tensors of {_some(dtypes)}, expected one float dtype")
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise FileFormatError(
                f"{origin}: {name} contains NaN or infinity; train again or use another file"
            )


def _layers(tensors: Iterable[str]) -> int:
    return sum(_LAYER.fullmatch(name) is not None for name in tensors)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _some(names: Iterable[object]) -> str:
    found = sorted(str(name) for name in names)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return (", ".join(found[:4]) or "none") + more


_FORMAT = "lstm-edge run"
_SCHEMA = 2
"""1 without ``added``, so that versions that only know that one still read such a run."""
_WEIGHTS = re.compile(r"model-[0-9a-f]{12}\.safetensors")


@dataclass(frozen=True)
class Scale:
    """Mean and scale of each column, used to normalize it in training."""

    mean: tuple[float, ...]
    """In the units of the data, one per column."""
    std: tuple[float, ...]
    """In the units of the data, one per column, all nonzero."""

    def apply(self, values: Tensor) -> Tensor:
        """Return values ``(..., columns)``, given in the units of the data, as the network has them."""
        return (values - torch.tensor(self.mean)) / torch.tensor(self.std)


@dataclass(frozen=True)
class Run:
    """A trained network and its metadata."""

    model: LSTM1
    """In evaluation mode; its inputs and outputs are scaled, if there are scales."""
    task: Task | None = None
    """None if unknown, as for a plain checkpoint."""
    signal: Signal = field(default_factory=Signal)
    trained: Trained | None = None
    """None for a bare checkpoint, and in older runs."""
    inputs: Scale | None = None
    """The scale of the features; None if the model has raw samples as inputs."""
    targets: Scale | None = None
    """The scale of the predicted values, for regression."""
    added: tuple[int, ...] = ()
    """For each value, the place of the feature whose last value is added to it: the network predicts the
    difference from now. Empty if it predicts the values themselves."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Results of training, as plain values."""
    sha256: str = ""
    """Of the file with the weights; empty for a run that was never saved."""


def save(run: Run, folder: str | os.PathLike[str]) -> Run:
    """Save ``run`` to ``folder``, creating it if necessary; an existing run is replaced atomically.

    Returns:
        ``run`` with its ``sha256``.

    Raises:
        InputError: ``folder`` is a file or can't be written.
    """
    from lstm_edge_runtime.files import write_bytes

    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't create the run folder {folder}: {error.strerror}") from error
    weights = to_bytes(
        {name: tensor.detach().cpu().contiguous() for name, tensor in run.model.state_dict().items()}
    )
    run = replace(run, sha256=hashlib.sha256(weights).hexdigest())
    name = f"model-{run.sha256[:12]}.safetensors"
    config = {
        "format": _FORMAT,
        "schema": _SCHEMA if run.added else 1,
        "weights": {"file": name, "sha256": run.sha256},
        "model": run.model.options,
        "task": run.task and run.task._asdict(),
        "signal": run.signal._asdict(),
        "trained": run.trained and run.trained._asdict(),
        "inputs": run.inputs and asdict(run.inputs),
        "targets": run.targets and asdict(run.targets),
        **({"added": run.added} if run.added else {}),
        "summary": run.summary,
    }
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_bytes(folder / name, weights)
    write_bytes(folder / CONFIG, text.encode())
    for file in folder.iterdir():
        if _WEIGHTS.fullmatch(file.name) and file.name != name:
            file.unlink(missing_ok=True)
    return run


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run folder, a ``.safetensors`` file, or a ``state_dict`` of the tutorials' LSTM1 class.

    A bare file carries no scales, labels or window; its sizes are inferred from the tensors. A weights
    file inside its run folder means that run. No code in a file is ever run.

    Raises:
        NotFoundError: nothing there, or a folder without ``config.json``.
        FileFormatError: truncated, foreign, unsafe, changed since, or tensors that do not fit; the message
            names the tensor, the shape it has and the shape that was expected.
    """
    path = Path(path)
    if path.is_dir():
        return _load_folder(path)
    if path.suffix == ".safetensors" and (path.parent / CONFIG).is_file():
        config = _read_config(path.parent / CONFIG)
        if config["weights"]["file"] == path.name:
            return _load_folder(path.parent)
    tensors = read_tensors(path)
    model = build(infer_options(tensors, path), tensors, path)
    return Run(model=model, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def _load_folder(folder: Path) -> Run:
    config = _read_config(folder / CONFIG)
    weights = folder / config["weights"]["file"]
    tensors = read_tensors(weights)
    sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
    if sha256 != config["weights"].get("sha256"):
        raise FileFormatError(f"{weights} does not match {folder / CONFIG}; train again")
    with malformed_as(FileFormatError, f"{folder / CONFIG} is malformed", "train again"):
        run = Run(
            model=build(config["model"], tensors, weights),
            task=None if config["task"] is None else _task(config["task"]),
            signal=_signal(config["signal"]),
            trained=None if config.get("trained") is None else Trained.decode(config["trained"]),
            inputs=None if config["inputs"] is None else _scale(config["inputs"]),
            targets=None if config["targets"] is None else _scale(config["targets"]),
            added=tuple(map(int, config.get("added", ()))),
            summary=dict(config["summary"]),
            sha256=sha256,
        )
    _check_widths(run, folder / CONFIG)
    return run


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(
            f"{path.parent} is not a run folder: it has no {CONFIG}; expected one of `lstm-edge train -o`"
        )
    with malformed_as(FileFormatError, f"{path} is not JSON", "train again"):
        config = read_json(path.read_bytes())
    if not isinstance(config, dict) or config.get("format") != _FORMAT:
        raise FileFormatError(
            f"{path} does not describe a run; expected a folder made by `lstm-edge train -o`"
        )
    if not isinstance(config.get("schema"), int) or config["schema"] > _SCHEMA:
        raise FileFormatError(
            f"{path} has schema {config.get('schema')}, this version reads {_SCHEMA}; upgrade lstm-edge"
        )
    weights = config.get("weights")
    file = weights.get("file") if isinstance(weights, dict) else None
    if not isinstance(file, str) or Path(file).name != file:
        raise FileFormatError(
            f"{path} names no weights file in its own folder (it has {file!r}); train again"
        )
    return config


def _task(raw: Mapping[str, Any]) -> Task:
    return Task(str(raw["kind"]), str(raw["output"]), tuple(raw["labels"]), tuple(raw["units"]))


def _signal(raw: Mapping[str, Any]) -> Signal:
    return Signal(tuple(raw["features"]), raw["sampling_rate"], raw["window"], raw.get("missing", ""))


def _scale(raw: Mapping[str, Any]) -> Scale:
    scale = Scale(tuple(float(value) for value in raw["mean"]), tuple(float(value) for value in raw["std"]))
    if not all(map(math.isfinite, (*scale.mean, *scale.std))) or min(scale.std) <= 0:
        raise ValueError(f"a scale that is not finite and positive: {raw}")
    return scale


def _check_widths(run: Run, origin: Path) -> None:
    lstm, classes = run.model.lstm, run.model.num_classes
    found = [("features", len(run.signal.features), {0, lstm.input_size})]
    if run.inputs is not None:
        found += [(f"inputs.{name}", len(row), {lstm.input_size}) for name, row in asdict(run.inputs).items()]
    if run.targets is not None:
        found += [(f"targets.{name}", len(row), {classes}) for name, row in asdict(run.targets).items()]
    if run.added:
        found += [("added", len(run.added), {classes})]
        if not all(0 <= place < lstm.input_size for place in run.added):
            raise FileFormatError(
                f"{origin}: added is {list(run.added)}, expected places below {lstm.input_size}; train again"
            )
    if run.task is not None:
        found += [
            ("labels", len(run.task.labels), {0, classes}),
            ("units", len(run.task.units), {0, classes}),
        ]
    for name, got, expected in found:
        if got not in expected:
            raise FileFormatError(
                f"{origin}: {name} has {got} entries, expected {max(expected)}; train again"
            )
