"""Checkpoints: the weights of a run with all that an export needs, or a bare ``state_dict``.

A run is one safetensors file whose metadata describe the network. Tensors are read without running code.
"""

import hashlib
import json
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line
from lstm_edge_runtime.files import malformed_as, read_json, write_bytes
from lstm_edge_runtime.manifest import Signal, Task, Trained, decode

from .lstm1 import LSTM1, SCALES
from .run_files import CHECKPOINT_SUFFIXES, MODEL, is_run

if TYPE_CHECKING:
    from lstm_edge_exporters import ExportConfig

_KEY = "lstm-edge"
_LAYER = re.compile(r"lstm\.weight_ih_l(\d+)")
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_NEEDED = ("lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc_1.weight", "fc.weight")
_WRAPPERS = ("model_state_dict", "state_dict")
"""Keys under which training scripts save the ``state_dict``."""
_PARALLEL = "module."
"""Prefix of the names that ``nn.DataParallel`` saves."""
_LFS = b"version https://git-lfs"
_EXAMPLE_ROWS, _EXAMPLE_STEPS = 3, 5


@dataclass(frozen=True)
class Run:
    """A trained network and its metadata."""

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
        """Raise InputError for a task or signal of another width than the network's."""
        task, classes = self.task or Task("", ""), self.model.num_classes
        for name, entries, expected in (
            ("features", self.signal.features, self.model.lstm.input_size),
            ("labels", task.labels, classes),
            ("units", task.units, classes),
        ):
            if len(entries) not in (0, expected):
                raise InputError(f"{name} has {len(entries)} entries, expected {expected}")


def save(run: Run, folder: str | os.PathLike[str]) -> Run:
    """Save ``run`` to ``folder``, creating it if necessary; an existing run is replaced atomically.

    Returns:
        ``run`` with its ``sha256``.

    Raises:
        InputError: ``folder`` is a file or can't be written.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"can't create the run folder {folder}: {error.strerror}") from error
    facts = {
        "network": run.model.options,
        "task": run.task and run.task._asdict(),
        "signal": run.signal._asdict(),
        "trained": run.trained and run.trained._asdict(),
    }
    content = write_tensors(folder / MODEL, run.model.state_dict(), facts)
    return replace(run, sha256=hashlib.sha256(content).hexdigest())


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run folder, its ``model.safetensors``, or a bare ``state_dict`` of the tutorials' LSTM1 class.

    The sizes of a bare file are inferred from its tensors; it carries no labels or window. No code in a file
    is ever run.

    Raises:
        NotFoundError: nothing there, or a folder without a trained network.
        FileFormatError: truncated, foreign, unsafe, or tensors that do not fit; the message names the tensor,
            the shape it has and the shape that was expected.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / MODEL).is_file():
            advice = "its training was stopped; train again with --resume" if is_run(path) else "train again"
            raise NotFoundError(f"{path} has no {MODEL}; {advice}")
        path = path / MODEL
    if path.suffix not in CHECKPOINT_SUFFIXES and is_run(path.parent):
        raise FileFormatError(f"{path} is a file of a run; the run is the folder: {path.parent}")
    tensors, facts = read_tensors(path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    if not facts:
        return Run(_build({}, tensors, path), sha256=sha256)
    with malformed_as(FileFormatError, f"the metadata of {path} are malformed", "train again"):
        task, signal, trained = facts["task"], facts["signal"], facts["trained"]
        return Run(
            _build(facts["network"], tensors, path),
            task and decode(Task, task),
            decode(Signal, signal),
            trained and decode(Trained, trained),
            sha256=sha256,
        )


def deployable(run: Run, *, lengths: bool = False) -> "tuple[LSTM1, tuple[Tensor, ...], ExportConfig]":
    """Return the arguments of ``export`` for ``run``.

    Args:
        run: a trained run or a loaded checkpoint.
        lengths: True for a file with the input ``lengths``, for batches of sequences of different length.

    Returns:
        The network in evaluation mode; an example ``(x, h_0, c_0[, lengths])`` of 3 sequences
        of 5 steps in the data's own scale; and the configuration: axes, states, the task, the signal and
        the checkpoint's hash.
    """
    from lstm_edge_exporters.export.config import ExportConfig

    model = run.model.eval()
    lstm, dtype = model.lstm, model.fc.weight.dtype
    layers, width = lstm.num_layers * (1 + lstm.bidirectional), lstm.proj_size or lstm.hidden_size
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_EXAMPLE_ROWS, _EXAMPLE_STEPS, lstm.input_size, generator=generator, dtype=dtype)
    if model.x_mean is not None and model.x_std is not None:
        x = x * model.x_std + model.x_mean
    example = (
        x,
        *(torch.zeros(layers, _EXAMPLE_ROWS, size, dtype=dtype) for size in (width, lstm.hidden_size)),
    )
    config = ExportConfig(
        inputs={
            "x": ("N", "L", lstm.input_size),
            "h_0": (layers, "N", width),
            "c_0": (layers, "N", lstm.hidden_size),
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> bytes:
    """Write tensors, with facts as JSON in the metadata, whole or not at all; return the content."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content: bytes = to_bytes(plain, metadata={_KEY: json.dumps(facts, sort_keys=True, allow_nan=False)})
    write_bytes(path, content)
    return content


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a ``.safetensors`` file, or a ``state_dict`` saved by ``torch.save``, without running code.

    A ``state_dict`` under the key ``model_state_dict`` or ``state_dict`` is found, and the prefix
    ``module.`` of ``nn.DataParallel`` is removed.

    Returns:
        The tensors by name, and the facts that ``write_tensors`` wrote; {} for other files.

    Raises:
        NotFoundError: no such file.
        FileFormatError: truncated, foreign, or a pickle with more than tensors and plain values in it.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} does not exist; expected a run folder or a checkpoint file")
    with path.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            raise FileFormatError(f"{path} is a git-lfs pointer, not the file itself; run: git lfs pull")
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
    except pickle.UnpicklingError as error:
        raise FileFormatError(
            f"{path} contains more than tensors; loading it could run code, so it is refused: save "
            "model.state_dict()"
        ) from error
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        raise FileFormatError(
            f"{path} can't be read as a checkpoint ({first_line(error)}); expected a run folder, a "
            ".safetensors file or a state_dict saved by torch.save"
        ) from error
    tensors = _unwrapped(content, path)
    with malformed_as(FileFormatError, f"the metadata of {path} are malformed", "train again"):
        return tensors, dict(read_json(facts)) if facts else {}


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a checkpoint, by their names in the module itself."""
    if isinstance(content, Mapping):
        content = next((content[name] for name in _WRAPPERS if name in content), content)
    plain = isinstance(content, Mapping) and all(
        isinstance(each, Tensor) and not each.is_nested and each.layout is torch.strided
        and each.device.type == "cpu" and not each.is_quantized
        for each in content.values()
    )  # fmt: skip
    if not plain:
        raise FileFormatError(
            f"{path} contains more than named dense tensors; expected a state_dict: save only "
            "model.state_dict()"
        )
    prefix = _PARALLEL if content and all(str(name).startswith(_PARALLEL) for name in content) else ""
    return {str(name).removeprefix(prefix): tensor for name, tensor in content.items()}


def _infer_options(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Any]:
    """Return the constructor arguments of the LSTM1 whose ``state_dict`` has these names and shapes.

    The rest have their defaults: dropout 0, ``seq_length`` 1, and ``readout="stacked"`` if ``fc_1`` is as
    wide as one hidden state.
    """
    for name in _NEEDED:
        if name not in tensors or tensors[name].dim() != 2:
            widths = [tensor.shape[-1] for key, tensor in tensors.items() if key.endswith("weight_ih_l0")]
            raise FileFormatError(
                f"{origin} has no matrix {name} (it has {', '.join([*tensors][:4])}), so it is not an "
                "LSTM1; write a function build() in mynet.py that returns the untrained module, then run: "
                f"lstm-edge export mynet:build --weights {origin} --input "
                f"x=N,L,{widths[0] if widths else 'FEATURES'} -o {origin.stem}.onnx"
            )
    rows, columns = tensors["lstm.weight_hh_l0"].shape
    proj_size = columns if "lstm.weight_hr_l0" in tensors else 0
    bidirectional = "lstm.weight_ih_l0_reverse" in tensors
    both = bidirectional and tensors["fc_1.weight"].shape[1] == 2 * (proj_size or rows // 4)
    return {
        "num_classes": tensors["fc.weight"].shape[0],
        "input_size": tensors["lstm.weight_ih_l0"].shape[1],
        "hidden_size": rows // 4,
        "num_layers": sum(_LAYER.fullmatch(name) is not None for name in tensors),
        "seq_length": 1,
        "readout": "last" if both else "stacked",
        "bias": "lstm.bias_ih_l0" in tensors,
        "bidirectional": bidirectional,
        "proj_size": proj_size,
    }


def _build(options: Mapping[str, Any], tensors: Mapping[str, Tensor], origin: Path) -> LSTM1:
    """Make the LSTM1 of these tensors, and of options that their shapes don't show, in evaluation mode."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    sizes = _infer_options(tensors, origin)
    if len(dtypes) != 1 or not dtypes <= _FLOATS:
        raise FileFormatError(f"{origin} has tensors of {sorted(map(str, dtypes))}, expected one float dtype")
    try:
        more = {name: options[name] for name in ("seq_length", "readout", "added", "dropout") if options}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options without effect
            model = LSTM1(**{**sizes, **more}, device="meta")
        for name in SCALES:
            if {f"{name[:2]}mean", f"{name[:2]}std"} & tensors.keys():
                width = model.lstm.input_size if name.startswith("x") else model.num_classes
                setattr(model, name, torch.empty(width, device="meta"))
        model.load_state_dict(dict(tensors), assign=True)
    except (InputError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).split("\n\t")[-1]  # PyTorch gives one line for each tensor
        raise FileFormatError(
            f"{origin} does not describe an LSTM1: {first_line(ValueError(reason))}"
        ) from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all() or (name in SCALES and name.endswith("std") and (tensor <= 0).any()):
            raise FileFormatError(
                f"{origin}: {name} has values that are not finite or not positive; train again"
            )
    if model.added:
        model.added_columns = torch.eye(model.lstm.input_size).to(model.fc.weight)[:, list(model.added)]
    return model.eval()
