"""Checkpoints: a safetensors file of weights that describes its network, or a bare
``state_dict``.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lstm_edge_exporters.weights import fit_names, read_tensors, write_tensors
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    NotFoundError,
    first_line,
)
from lstm_edge_runtime.files import malformed_as, read_arrays, read_json
from lstm_edge_runtime.manifest import Axes, Signal, Task, Trained, decode

from .lstm1 import LSTM1
from .run_files import CHECKPOINT_SUFFIXES, MODEL, is_run, make_folder

if TYPE_CHECKING:
    from lstm_edge_exporters import ExportConfig

_EXPECTED_SCALES = (
    "expected mean and std, or min and max, of x, and y_mean and y_std, or y_min and"
    " y_max, if the outputs are scaled, as JSON or in an .npz"
)
_MEAN_AND_STD = (("mean", "std"), ("mean_", "scale_"))
"""Names of a mean and a standard deviation, the second as in scikit-learn."""
_MIN_AND_MAX = (("min", "max"), ("data_min_", "data_max_"))
"""Names of a range, the second as in scikit-learn."""
_SCALE_PREFIXES = {"": "x", "x_": "x", "y_": "y"}
"""What the values of a scale with this prefix belong to: features or outputs."""
_NEEDED = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc_1.weight", "fc.weight")


@dataclass(frozen=True)
class Run:
    """A trained network and its metadata; raises InputError for metadata of another
    width.
    """

    model: LSTM1
    """In evaluation mode; takes and returns values in the units of the data."""
    task: Task | None = None
    """None if unknown, as for a bare checkpoint."""
    signal: Signal = field(default_factory=Signal)
    """Names, sampling rate and window of the input signal."""
    trained: Trained | None = None
    """None for a bare checkpoint."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Scores, data and history of a training; empty for a run that was loaded."""
    sha256: str = ""
    """Hash of the file with the weights; empty for a run that was never saved."""

    def __post_init__(self) -> None:
        """Refuse names whose number differs from the network's width."""
        task = self.task or Task("", "")
        classes = self.model.num_classes
        widths = {
            "features": self.model.lstm.input_size,
            "labels": classes,
            "units": classes,
        }
        for name, names in (*self.signal._asdict().items(), *task._asdict().items()):
            if name in widths and len(names) not in (0, widths[name]):
                raise InputError(
                    f"{name} has {len(names)} entries, expected {widths[name]}"
                )


def save(run: Run, folder: str | os.PathLike[str]) -> Run:
    """Save ``run`` to ``folder``, creating it if necessary, and return it with its
    ``sha256``.

    An existing run is replaced atomically. Raises InputError if ``folder`` is a file or
    can't be written.
    """
    facts = {
        "network": run.model.options,
        "task": run.task and run.task._asdict(),
        "signal": run.signal._asdict(),
        "trained": run.trained and run.trained._asdict(),
    }
    content = write_tensors(
        make_folder(Path(folder)) / MODEL, run.model.state_dict(), facts
    )
    return replace(run, sha256=hashlib.sha256(content).hexdigest())


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run folder, its ``model.safetensors``, or a bare ``state_dict`` of the
    tutorials' LSTM1 class.

    The sizes of a bare file are inferred from its tensors. No code in a file is ever
    run.

    Raises:
        NotFoundError: nothing there, or a folder without a trained network.
        FileFormatError: truncated, foreign, unsafe, or tensors that do not fit; the
            message names the tensor.
    """
    path = Path(path)
    if path.is_dir() and not (path / MODEL).is_file():
        advice = "expected a run folder of lstm-edge train"
        if is_run(path):
            advice = "its training was stopped; train again with --resume"
        raise NotFoundError(f"{path} has no {MODEL}; {advice}")
    path = path / MODEL if path.is_dir() else path
    if path.suffix not in CHECKPOINT_SUFFIXES and is_run(path.parent):
        raise FileFormatError(
            f"{path} is a file of a run; the run is the folder: {path.parent}"
        )
    checkpoint = read_tensors(path)
    with malformed_as(
        FileFormatError, f"the metadata of {path} are malformed", "train again"
    ):
        facts = checkpoint.facts
        tensors = fit_names(checkpoint.tensors, _NEEDED, path)
        model = _build(facts["network"] if facts else {}, tensors, path)
        types = {"task": Task, "signal": Signal, "trained": Trained}
        recorded = {
            name: decode(hint, facts[name])
            for name, hint in types.items()
            if facts and facts[name]
        }
        return Run(model, **recorded, sha256=checkpoint.sha256)


def deployable(
    run: Run, *, lengths: bool = False
) -> "tuple[LSTM1, tuple[Tensor, ...], ExportConfig]":
    """Return the arguments of ``export`` for ``run``.

    Args:
        run: a trained run or a loaded checkpoint.
        lengths: True for a file with the input ``lengths``, for batches of sequences of
            different length.

    Returns:
        The network in evaluation mode; an example ``(x, h_0, c_0[, lengths])`` of 3
        sequences of 5 steps in the data's own scale; and the configuration.
    """
    from lstm_edge_exporters.export.config import ExportConfig

    model = run.model.eval()
    lstm = model.lstm
    dtype = model.fc.weight.dtype
    layers = lstm.num_layers * (1 + lstm.bidirectional)
    width = lstm.proj_size or lstm.hidden_size
    seeded = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, lstm.input_size, generator=seeded, dtype=dtype)
    if model.x_mean is not None and model.x_std is not None:
        x = x * model.x_std + model.x_mean
    h_0 = torch.zeros(layers, 3, width, dtype=dtype)
    c_0 = torch.zeros(layers, 3, lstm.hidden_size, dtype=dtype)
    example: tuple[Tensor, ...] = (x, h_0, c_0)
    inputs: dict[str, Axes] = {
        "x": ("N", "L", lstm.input_size),
        "h_0": (layers, "N", width),
        "c_0": (layers, "N", lstm.hidden_size),
    }
    if lengths:
        example = (*example, torch.tensor([2, 5, 3]))
        inputs["lengths"] = ("N",)
    output = "logits"
    if run.task is not None and run.task.output:
        output = run.task.output
    config = ExportConfig(
        inputs=inputs,
        outputs=(output, "h_n", "c_n"),
        states={"h_0": "h_n", "c_0": "c_n"},
        task=run.task,
        signal=run.signal,
        trained=run.trained,
        checkpoint_sha256=run.sha256 or None,
    )
    return model, example, config


def _infer_options(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Any]:
    """Return the constructor arguments of the LSTM1 whose ``state_dict`` has these
    names and shapes.
    """
    for name in _NEEDED:
        if name not in tensors or tensors[name].dim() != 2:
            raise _not_lstm1(name, tensors, origin)
    rows, columns = tensors["lstm.weight_hh_l0"].shape
    hidden_size = rows // 4
    proj_size = columns if "lstm.weight_hr_l0" in tensors else 0
    bidirectional = "lstm.weight_ih_l0_reverse" in tensors
    width = proj_size or hidden_size
    reads_both = bidirectional and tensors["fc_1.weight"].shape[1] == 2 * width
    inputs = [name for name in tensors if "weight_ih_l" in name]
    layers = [name for name in inputs if "_reverse" not in name]
    return {
        "num_classes": tensors["fc.weight"].shape[0],
        "input_size": tensors["lstm.weight_ih_l0"].shape[1],
        "hidden_size": hidden_size,
        "num_layers": len(layers),
        "seq_length": 1,
        "readout": "last" if reads_both else "stacked",
        "bias": "lstm.bias_ih_l0" in tensors,
        "bidirectional": bidirectional,
        "proj_size": proj_size,
    }


def _not_lstm1(
    missing: str, tensors: Mapping[str, Tensor], origin: Path
) -> FileFormatError:
    """Return the error for a checkpoint of another network."""
    names = ", ".join([*tensors][:4])
    width = "FEATURES"
    for name, tensor in tensors.items():
        if name.endswith("weight_ih_l0"):
            width = str(tensor.shape[-1])
            break
    return FileFormatError(
        f"{origin} has no matrix {missing} (it has {names}), so it is not an LSTM1;"
        " write a function build() in mynet.py that returns the untrained module, then"
        f" run: lstm-edge export mynet:build --weights {origin} --input x=N,L,{width}"
        f" -o {origin.stem}.onnx"
    )


def _build(
    options: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: Path
) -> LSTM1:
    """Make the LSTM1 of these tensors, and of options that their shapes don't show, in
    evaluation mode.
    """
    sizes = _infer_options(tensors, origin)
    dtypes = {tensor.dtype for tensor in tensors.values()}
    if len(dtypes) != 1 or not all(dtype.is_floating_point for dtype in dtypes):
        raise FileFormatError(
            f"{origin} has tensors of {sorted(map(str, dtypes))}, expected one float"
            " dtype"
        )
    try:
        if options:
            for name in ("seq_length", "readout", "added", "dropout"):
                sizes[name] = options[name]
        model = LSTM1(**sizes, device="meta")
        scales = {}
        for side in ("x", "y"):
            if f"{side}_mean" in tensors:
                scales[side] = (tensors[f"{side}_mean"], tensors[f"{side}_std"])
        model.set_scales(**scales).load_state_dict(dict(tensors), assign=True)
    except (InputError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # PyTorch gives one line per tensor
        last_line = str(error).split("\n\t")[-1]
        reason = first_line(ValueError(last_line))
        raise FileFormatError(
            f"{origin} does not describe an LSTM1: {reason}"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise FileFormatError(
                f"{origin}: {name} has values that are not finite; train again"
            )
    if model.added:
        columns = torch.eye(model.lstm.input_size).to(model.fc.weight)
        model.added_columns = columns[:, list(model.added)]
    return model.eval()


def with_scales(model: LSTM1, path: Path) -> LSTM1:
    """Set the scales of a file on a network that has none, and return it.

    ``min`` and ``max`` are scaled to 0 and 1. As in scikit-learn, a column without
    spread is divided by 1. Raises NotFoundError, FileFormatError and InputError.
    """
    if model.x_mean is not None:
        raise InputError(f"the network has scales of its own; remove --scale {path}")
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; {_EXPECTED_SCALES}")
    with malformed_as(FileFormatError, f"{path} is not a scale", _EXPECTED_SCALES):
        if path.suffix == ".npz":
            content: Mapping[str, Any] = read_arrays(path, "can't be read", "")
        else:
            content = dict(read_json(path.read_bytes()))
        values = {name: _real_numbers(entry) for name, entry in content.items()}
        return model.set_scales(**_find_scales(values))


def _real_numbers(entry: Any) -> Tensor:
    """Return an entry of a scale, ``(C,)``; ValueError if it is not real numbers."""
    array = np.asarray(entry)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"it has an entry of {array.dtype}, expected real numbers")
    return torch.from_numpy(array.astype(np.float64).reshape(-1))


def _find_scales(values: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return offset and divisor of the features ``x`` and the outputs ``y``.

    Raises ValueError for other names, or two scales of one side.
    """
    scales: dict[str, tuple[Tensor, Tensor]] = {}
    used: set[str] = set()
    for prefix, side in _SCALE_PREFIXES.items():
        for first, second in (*_MEAN_AND_STD, *_MIN_AND_MAX):
            names = {prefix + first, prefix + second}
            if not names <= values.keys():
                continue
            if side in scales:
                raise ValueError(f"it has two scales of {side}")
            offset = values[prefix + first]
            divisor = values[prefix + second]
            if (first, second) in _MIN_AND_MAX:
                divisor = divisor - offset
            scales[side] = offset, torch.where(divisor == 0, 1.0, divisor)
            used |= names
    if not scales or used != values.keys():
        raise ValueError(f"it has {', '.join(values) or 'nothing'}")
    return scales
