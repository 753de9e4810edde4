"""Checkpoints: a safetensors file of weights that describes its network, or a bare
``state_dict``.
"""

import hashlib
import json
import os
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    NotFoundError,
    first_line,
)
from lstm_edge_runtime.files import malformed_as, read_arrays, read_json, write_bytes
from lstm_edge_runtime.manifest import Signal, Task, Trained, decode

from .lstm1 import LSTM1
from .run_files import CHECKPOINT_SUFFIXES, MODEL, is_run, make_folder

if TYPE_CHECKING:
    from lstm_edge_exporters import ExportConfig

_KEY = "lstm-edge"
_EXPECTED_SCALES = (
    "expected x_mean and x_std, or x_min and x_max, and those of y, as JSON or in an"
    " .npz"
)
_NEEDED = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc_1.weight", "fc.weight")
_WRAPPERS = ("model_state_dict", "state_dict")
"""Keys under which training scripts save the ``state_dict``."""
_LFS = b"version https://git-lfs"


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
    trained: Trained | None = None
    """None for a bare checkpoint."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Scores, data and history of a training; empty for a run that was loaded."""
    sha256: str = ""
    """Hash of the file with the weights; empty for a run that was never saved."""

    def __post_init__(self) -> None:
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
        advice = (
            "its training was stopped; train again with --resume"
            if is_run(path)
            else "train again"
        )
        raise NotFoundError(f"{path} has no {MODEL}; {advice}")
    path = path / MODEL if path.is_dir() else path
    if path.suffix not in CHECKPOINT_SUFFIXES and is_run(path.parent):
        raise FileFormatError(
            f"{path} is a file of a run; the run is the folder: {path.parent}"
        )
    tensors, facts = read_tensors(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with malformed_as(
        FileFormatError, f"the metadata of {path} are malformed", "train again"
    ):
        model = _build(facts["network"] if facts else {}, tensors, path)
        kinds = {"task": Task, "signal": Signal, "trained": Trained}
        recorded = {
            name: decode(kind, facts[name])
            for name, kind in kinds.items()
            if facts and facts[name]
        }
        return Run(model, **recorded, sha256=sha256)


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
    x = torch.randn(
        3, 5, lstm.input_size, generator=torch.Generator().manual_seed(0), dtype=dtype
    )
    if model.x_mean is not None and model.x_std is not None:
        x = x * model.x_std + model.x_mean
    example = (
        x,
        *(
            torch.zeros(layers, 3, size, dtype=dtype)
            for size in (width, lstm.hidden_size)
        ),
    )
    states = {"h_0": (layers, "N", width), "c_0": (layers, "N", lstm.hidden_size)}
    config = ExportConfig(
        inputs={
            "x": ("N", "L", lstm.input_size),
            **states,
            **({"lengths": ("N",)} if lengths else {}),
        },
        outputs=(run.task.output if run.task else "logits", "h_n", "c_n"),
        states={"h_0": "h_n", "c_0": "c_n"},
        task=run.task,
        signal=run.signal,
        trained=run.trained,
        checkpoint_sha256=run.sha256 or None,
    )
    return model, (*example, torch.tensor([2, 5, 3])) if lengths else example, config


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> bytes:
    """Write tensors, with facts as JSON in the metadata, whole or not at all; return
    the content.
    """
    plain = {
        name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()
    }
    content: bytes = to_bytes(
        plain, metadata={_KEY: json.dumps(facts, sort_keys=True, allow_nan=False)}
    )
    write_bytes(path, content)
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a ``.safetensors`` file, or a ``state_dict`` saved by ``torch.save``,
    without running code.

    It may be under the key ``model_state_dict`` or ``state_dict``. The prefix
    ``module.`` of ``nn.DataParallel`` is removed.

    Returns:
        The tensors by name, and the facts that ``write_tensors`` wrote; {} for other
        files.

    Raises:
        NotFoundError, FileFormatError: no such file; truncated, foreign, or with more
            than tensors in it.
    """
    if not path.is_file():
        raise NotFoundError(
            f"{path} does not exist; expected a run folder or a checkpoint file"
        )
    with path.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise FileFormatError(
                f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull"
            )
    facts = None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                facts = (file.metadata() or {}).get(_KEY)
                content = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old formats
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = f"can't be read as a checkpoint ({first_line(error)})"
        if isinstance(error, pickle.UnpicklingError):
            reason = (
                "contains more than tensors; loading it could run code, so it is"
                " refused"
            )
        raise FileFormatError(f"{path} {reason}; save model.state_dict()") from error
    tensors = _unwrapped(content, path)
    with malformed_as(
        FileFormatError, f"the metadata of {path} are malformed", "train again"
    ):
        return tensors, dict(read_json(facts)) if facts else {}


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, by their names in the module itself."""
    if isinstance(content, Mapping):
        content = next(
            (content[name] for name in _WRAPPERS if name in content), content
        )
    dense = all(
        isinstance(tensor, Tensor)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        for tensor in (content.values() if isinstance(content, Mapping) else [None])
    )
    if not dense:
        raise FileFormatError(
            f"{path} contains more than named dense tensors; save only"
            " model.state_dict()"
        )
    prefix = (
        "module."
        if content and all(str(name).startswith("module.") for name in content)
        else ""
    )
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}


def _infer_options(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Any]:
    """Return the constructor arguments of the LSTM1 whose ``state_dict`` has these
    names and shapes.
    """
    for name in _NEEDED:
        if name not in tensors or tensors[name].dim() != 2:
            widths = [
                tensor.shape[-1]
                for key, tensor in tensors.items()
                if key.endswith("weight_ih_l0")
            ]
            raise FileFormatError(
                f"{origin} has no matrix {name} (it has {', '.join([*tensors][:4])}),"
                " so it is not an LSTM1; write a function build() in mynet.py that"
                " returns the untrained module, then run: lstm-edge export mynet:build"
                f" --weights {origin} --input"
                f" x=N,L,{widths[0] if widths else 'FEATURES'} -o {origin.stem}.onnx"
            )
    rows, columns = tensors["lstm.weight_hh_l0"].shape
    proj_size = columns if "lstm.weight_hr_l0" in tensors else 0
    bidirectional = "lstm.weight_ih_l0_reverse" in tensors
    both = bidirectional and tensors["fc_1.weight"].shape[1] == 2 * (
        proj_size or rows // 4
    )
    return {
        "num_classes": tensors["fc.weight"].shape[0],
        "input_size": tensors["lstm.weight_ih_l0"].shape[1],
        "hidden_size": rows // 4,
        "num_layers": sum(
            "weight_ih_l" in name and "_reverse" not in name for name in tensors
        ),
        "seq_length": 1,
        "readout": "last" if both else "stacked",
        "bias": "lstm.bias_ih_l0" in tensors,
        "bidirectional": bidirectional,
        "proj_size": proj_size,
    }


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
        more = {
            name: options[name]
            for name in ("seq_length", "readout", "added", "dropout")
            if options
        }
        model = LSTM1(**{**sizes, **more}, device="meta")
        sides = [side for side in "xy" if f"{side}_mean" in tensors]
        pairs = {
            side: (tensors[f"{side}_mean"], tensors[f"{side}_std"]) for side in sides
        }
        model.set_scales(**pairs).load_state_dict(dict(tensors), assign=True)
    except (InputError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(
            ValueError(str(error).split("\n\t")[-1])
        )  # PyTorch gives one line per tensor
        raise FileFormatError(
            f"{origin} does not describe an LSTM1: {reason}"
        ) from error
    if wrong := [
        name for name, tensor in tensors.items() if not tensor.isfinite().all()
    ]:
        raise FileFormatError(
            f"{origin}: {wrong[0]} has values that are not finite; train again"
        )
    if model.added:
        model.added_columns = torch.eye(model.lstm.input_size).to(model.fc.weight)[
            :, list(model.added)
        ]
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
        is_json = path.suffix != ".npz"
        content = (
            dict(read_json(path.read_bytes()))
            if is_json
            else read_arrays(path, "can't be read", "")
        )
        values = {
            name: torch.tensor(entry, dtype=torch.float64)
            for name, entry in content.items()
        }
        scales = {}
        for side in {name[0] for name in values}:
            names = ("mean", "std") if f"{side}_mean" in values else ("min", "max")
            first, spread = (values.pop(f"{side}_{name}").reshape(-1) for name in names)
            spread = spread if names[0] == "mean" else spread - first
            scales[side] = first, torch.where(spread == 0, 1.0, spread)
        if values or not scales:
            raise ValueError(f"it has {', '.join(content) or 'nothing'}")
        return model.set_scales(**scales)
