"""Reading a checkpoint's tensors safely, and telling from them which LSTM1 they belong to."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError, first_line

from .lstm1 import LSTM1

__all__ = ["build", "infer_options", "is_plain", "read_tensors"]

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
        raise NotFoundError(f"{path} is not there; expected a run folder or a checkpoint file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise FileFormatError(f"{path} is not a whole safetensors file ({first_line(error)})") from error
    return _read_pickle(path)


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        named = f"names {found.group(1)}" if found else "is no checkpoint or has more than tensors in it"
        raise FileFormatError(
            f"{path} {named}; it could run code when read, so it is refused: save model.state_dict()"
        ) from error
    except Exception as error:  # foreign bytes make the unpickler raise nearly anything
        reason = first_line(error)
        raise FileFormatError(
            f"{path} can't be read as a checkpoint ({reason}); expected a run folder, a .safetensors file or "
            "a state_dict saved by torch.save"
        ) from error
    if not isinstance(content, Mapping) or not all(map(is_plain, content.values())):
        raise FileFormatError(
            f"{path} holds {type(content).__name__} with more than named dense tensors in it; expected a "
            "state_dict: save model.state_dict() alone"
        )
    return {str(name): tensor for name, tensor in content.items()}


def is_plain(value: object) -> bool:
    """Tell whether ``value`` is a dense tensor with values: not sparse, nested, quantized or on ``meta``."""
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def infer_options(tensors: Mapping[str, Tensor], origin: Path) -> dict[str, Any]:
    """Tell the constructor arguments of the LSTM1 whose ``state_dict`` has these names and shapes.

    What shapes can't tell takes its default: dropout 0, ``batch_first``, and ``readout="stacked"`` wherever
    ``fc_1`` is as wide as one hidden state. ``seq_length`` is 1, the window being unknown.

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
        model = LSTM1(**options, device="meta")
    except (InputError, RuntimeError, TypeError, ValueError) as error:
        reason = first_line(error)
        raise FileFormatError(f"{origin} describes no LSTM1: {reason}") from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for name in (*expected, *tensors):
        if name not in tensors:
            raise FileFormatError(f"{origin} has no tensor {name}, expected {expected[name]}")
        if name not in expected:
            raise FileFormatError(f"{origin} has a tensor {name} {_shape(tensors[name])} that LSTM1 has not")
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
            raise FileFormatError(f"{origin}: {name} holds NaN or infinity; train again or use another file")


def _layers(tensors: Iterable[str]) -> int:
    return sum(_LAYER.fullmatch(name) is not None for name in tensors)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _some(names: Iterable[object]) -> str:
    found = sorted(str(name) for name in names)
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    return (", ".join(found[:4]) or "none") + more
