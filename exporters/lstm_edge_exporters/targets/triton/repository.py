"""A model repository for Triton, by the Python backend or by onnxruntime's.

The configuration's fields are those of Triton's ``model_config.proto``; sequence batching and implicit states
are described in Triton's user guide, "Stateful models".
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from lstm_edge_runtime import load
from lstm_edge_runtime.axes import row_factor
from lstm_edge_runtime.errors import ContractError, InputError
from lstm_edge_runtime.files import check_folder, write_folder
from lstm_edge_runtime.manifest import Axes, Manifest, StateSpec, TensorSpec
from lstm_edge_runtime.model import content_of

from ..names import file_name, line, pbtxt_string

BACKENDS = ("python", "onnxruntime")
IDLE_SECONDS = 60
"""How long a sequence may be silent before its state is dropped."""
SEQUENCES = 1024
"""How many sequences may be open at once."""
MAX_ROWS = 64
"""Maximum number of sequences per call."""

_DTYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


@dataclass(frozen=True)
class Repository:
    """One model's folder, ready to be written."""

    name: str
    """The model's name for clients."""
    contents: dict[str, bytes]
    """Each file by its path in the model's folder."""
    reset_every: int | None
    """Steps after which a sequence is reset, as in training; None for never."""

    def save(self, root: str | os.PathLike[str]) -> Path:
        """Write the model's folder into the repository ``root``, whole or not at all; return its path.

        Raises:
            NotFoundError: the folder of ``root`` does not exist.
            InputError: it can't be written, or contains something else with the model's name.
        """
        folder = Path(root) / self.name
        check_folder(root if not Path(root).exists() else folder, self.contents.__contains__)
        Path(root).mkdir(exist_ok=True)
        return write_folder(folder, self.contents)


def to_triton(path: str | os.PathLike[str], backend: str = "python") -> Repository:
    """Return a model repository's folder for a file, named after it.

    Args:
        path: an ``.onnx`` file whose states are carried.
        backend: ``python``: a small model on lstm_edge_runtime, one state for each sequence. ``onnxruntime``:
            Triton's own backend, states by its implicit state management, one sequence a call.

    Raises:
        NotFoundError, FileFormatError: the file is not there, or is no usable model.
        ContractError: it can't be streamed, or has no batch axis.
        UnsupportedError: its stream is behind or has a unit, and the backend is ``onnxruntime``.
        InputError: its name can't be a model's name, or ``backend`` is none of ``BACKENDS``.
    """
    if backend not in BACKENDS:
        raise InputError(f"got backend {backend!r}, expected one of {', '.join(BACKENDS)}")
    path = Path(path)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", path.stem):
        raise InputError(
            f"got a file named {path.name!r}; Triton's names have letters, digits, - and _, rename it"
        )
    with load(path) as model:
        interface = model.manifest
        if backend == "onnxruntime":
            interface.require_no_delay("Triton's onnxruntime backend", "use the python backend")
        model.streams(1, reset_every="never")  # refuses files that can't be streamed by rows
        content = content_of(model, path)
    if backend == "onnxruntime" and interface.sequence is None:
        raise ContractError("this file has one step per call; use the python backend")
    contents = {
        "1/model.onnx": content,
        "config.pbtxt": _config(path.stem, interface, backend).encode(),
    }
    labels = interface.task.labels if interface.task else ()
    if labels:
        contents["labels.txt"] = "".join(f"{line(label)}\n" for label in labels).encode()
    if backend == "python":
        contents["1/model.py"] = files(__package__).joinpath("model.py").read_bytes()
    else:
        for state in interface.states:
            contents[f"initial_state/{file_name(state.input)}"] = _initial(state, interface)
    return Repository(path.stem, contents, interface.reset_every)


_CONTROLS = (
    'START" control [{ kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }]',
    'END" control [{ kind: CONTROL_SEQUENCE_END int32_false_true: [0, 1] }]',
    'CORRID" control [{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }]',
)


def _config(name: str, interface: Manifest, backend: str) -> str:
    plain = backend == "onnxruntime"
    lines = [
        f"name: {pbtxt_string(name)}",
        f'backend: "{backend}"',
        f"max_batch_size: {0 if plain else MAX_ROWS}",
        *_list("input", interface.inputs if plain else interface.data_inputs, interface, batch=plain),
        *_list("output", interface.outputs, interface, batch=plain),
        "sequence_batching {",
        f"  max_sequence_idle_microseconds: {IDLE_SECONDS * 1_000_000}",
        f"  oldest {{ max_candidate_sequences: {SEQUENCES} }}",
    ]
    if plain:
        lines += [*(each for state in interface.states for each in _state(state, interface)), "}"]
    else:
        every = interface.reset_every or "never"
        lines += [
            *(f'  control_input {{ name: "{control} }}' for control in _CONTROLS),
            "}",
            f'parameters {{ key: "reset_every" value {{ string_value: "{every}" }} }}',
            "instance_group [{ kind: KIND_CPU count: 1 }]",
        ]
    return "".join(f"{each}\n" for each in lines)


def _state(state: StateSpec, interface: Manifest) -> list[str]:
    dtype, dims = f"TYPE_{_DTYPES[state.dtype]}", _dims(state.axes, interface, batch=True)
    entering, leaving = pbtxt_string(state.input), pbtxt_string(state.output)
    file = pbtxt_string(file_name(state.input))
    initial = f"name: {entering} data_type: {dtype} dims: {dims} data_file: {file}"
    return [
        "  state {",
        f"    input_name: {entering} output_name: {leaving}",
        f"    data_type: {dtype} dims: {dims}",
        f"    initial_state {{ {initial} }}",
        "  }",
    ]


def _initial(state: StateSpec, interface: Manifest) -> bytes:
    """Return one row of the reset values as Triton reads them: little-endian, in C order."""
    shape = _dims(state.axes, interface, batch=True)
    dtype = np.dtype(state.dtype).newbyteorder("<")
    return np.ascontiguousarray(np.broadcast_to(np.asarray(state.reset, dtype), shape)).tobytes()


def _dims(axes: Axes, interface: Manifest, *, batch: bool) -> list[int]:
    """Return a tensor's sizes for one row: -1 for time; the batch axis as 1, or left out."""
    dims = []
    for axis in axes:
        factor = row_factor(axis, interface.batch)
        if factor is not None:
            dims += [factor or 1] if batch or factor else []
        else:
            dims.append(axis if isinstance(axis, int) else -1)
    return dims


def _list(name: str, specs: Sequence[TensorSpec], interface: Manifest, *, batch: bool) -> list[str]:
    task, entries = interface.task, []
    for spec in specs:
        labeled = name == "output" and task is not None and task.labels and spec.name == task.output
        label = ' label_filename: "labels.txt"' if labeled else ""
        entries.append(
            f"  {{ name: {pbtxt_string(spec.name)} data_type: TYPE_{_DTYPES[spec.dtype]} "
            f"dims: {_dims(spec.axes, interface, batch=batch)}"
            f"{label} }}"
        )
    return [f"{name} [", ",\n".join(entries), "]"]
