"""Golden vectors in a folder: ONNX's own test-data layout, and the same arrays for devices without onnx."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lstm_edge_runtime._files import replacing, write_bytes
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.golden import ARRAYS, FORMAT, INDEX, INPUT, OUTPUT, SCHEMA
from lstm_edge_runtime.manifest import Manifest

from ._chunks import even_cuts
from ._file import ModelFile
from ._subject import Against, Subject
from .config import ValidateConfig

__all__ = ["save_vectors"]

Array = npt.NDArray[Any]

_SIZES = ((1, 1), (3, 12), (2, 33))
_CHUNKS, _CHUNK = 4, 5
"""A stream of four calls of five steps, each from the states of the one before."""


@dataclass(frozen=True)
class _Set:
    about: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    floor: Mapping[str, float]
    continues: int | None = None


def save_vectors(
    folder: str | os.PathLike[str], file: ModelFile, against: Against, config: ValidateConfig
) -> list[str]:
    """Record the reference on a few cases and on a stream of several calls.

    Writes ``model.onnx`` and ``test_data_set_N/input_i.pb`` and ``output_i.pb``, in the order of the graph's
    inputs and outputs, as onnx's backend tests read them; beside them ``data.npz``; and ``index.json``.

    Args:
        folder: made if need be.
        file: the file that the vectors are for, with its contract whole.
        against: what computes the outputs, in its own dtype.
        config: its seed draws the inputs.

    Returns:
        The names of the sets.

    Raises:
        InputError: the folder can't be written, or holds something else already.
    """
    root = Path(folder)
    _make_room(root)
    subject = Subject(file, against, config)
    model = onnx.load(str(file.path))
    entering = [value.name for value in model.graph.input]
    leaving = [value.name for value in model.graph.output]
    entries = []
    for number, each in enumerate(_record(subject)):
        name = f"test_data_set_{number}"
        _write_set(root / name, each, entering, leaving)
        entries.append(
            {
                "name": name,
                "about": each.about,
                "continues": None if each.continues is None else f"test_data_set_{each.continues}",
                "inputs": entering,
                "outputs": leaving,
                "floor": dict(each.floor),
                "limit": {} if subject.judge.exact else _limits(subject, each),
            }
        )
    write_bytes(root / "model.onnx", model.SerializeToString())
    index = {
        "format": FORMAT,
        "schema": SCHEMA,
        "model_sha256": file.sha256,
        "reference": against.about,
        "states": {state.input: state.output for state in file.contract.states},
        "sets": entries,
    }
    write_bytes(root / INDEX, (json.dumps(index, indent=2) + "\n").encode())
    return [str(entry["name"]) for entry in entries]


def _record(subject: Subject) -> Iterator[_Set]:
    for place, (n, length) in enumerate(_SIZES):
        feeds = subject.draw(n, length, 9100 + place, fresh=place == 0)
        own, wide = subject.judge.reference(feeds)
        start = "states at reset" if place == 0 else "random states"
        yield _Set(f"N={n}, L={length}, {start}", feeds, own, subject.judge.floors(feeds, own, wide))
    contract = subject.contract
    if contract.states and contract.sequence is not None and not contract.unstreamable:
        yield from _stream(subject, contract)


def _stream(subject: Subject, contract: Manifest) -> Iterator[_Set]:
    steps = _CHUNKS * _CHUNK
    feeds = subject.draw(1, steps, 9200, fresh=True)
    states = {state.input: feeds[state.input] for state in contract.states}
    exact: dict[str, Array] = dict(states)
    for place, (start, stop) in enumerate(even_cuts(steps, _CHUNK)):
        piece = dict(feeds)
        for spec in contract.inputs:
            if contract.sequence in spec.axes:
                axis = spec.axes.index(contract.sequence)
                piece[spec.name] = feeds[spec.name].take(range(start, stop), axis=axis)
        if contract.lengths is not None:
            piece[contract.lengths] = np.full_like(feeds[contract.lengths], stop - start)
        own = subject.against.reference.run(piece | states)
        wide = subject.against.reference.run64(piece | exact)
        about = f"stream, steps {start + 1} to {stop}"
        before = len(_SIZES) + place - 1 if place else None
        yield _Set(about, piece | states, own, subject.judge.floors(piece | states, own, wide), before)
        states = {state.input: own[state.output] for state in contract.states}
        exact = {state.input: wide[state.output] for state in contract.states}


def _limits(subject: Subject, each: _Set) -> dict[str, float]:
    return {
        name: subject.judge.budget_for(name, array)
        for name, array in each.outputs.items()
        if array.dtype.kind == "f"
    }


def _write_set(folder: Path, each: _Set, entering: list[str], leaving: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for kind, names, arrays in (("input", entering, each.inputs), ("output", leaving, each.outputs)):
        for number, name in enumerate(names):
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(arrays[name]), name)
            write_bytes(folder / f"{kind}_{number}.pb", tensor.SerializeToString())
    content: dict[str, Any] = {INPUT + name: array for name, array in each.inputs.items()}
    content |= {OUTPUT + name: array for name, array in each.outputs.items()}
    with replacing(folder / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez(file, **content)


def _make_room(root: Path) -> None:
    if root.is_dir() and any(root.iterdir()) and not (root / INDEX).is_file():
        raise InputError(f"{root} holds other files; name a new folder for the golden vectors")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root} can't be made: {error.strerror or error}") from error
    for old in root.glob("test_data_set_*"):
        for entry in old.iterdir():
            entry.unlink()
        old.rmdir()
