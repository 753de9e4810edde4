"""Golden vectors in a folder: recorded cases that any device replays with numpy and onnxruntime alone.

The folder has the layout of ONNX's own test data, ``test_data_set_N/input_i.pb`` and ``output_i.pb``, for
tools that have onnx, and beside those files in each set the same arrays as ``data.npz`` for devices that do
not. ``index.json`` names the sets in order and says what each is, which set's last states it starts from,
and how exact the reference was. ``lstm_edge_exporters.validate.vectors`` writes such folders.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import FileFormatError, InputError, NotFoundError
from .json_reader import malformed_as, number, read_json, text, text_or_none
from .manifest import Array, Golden, Manifest
from .model import Model, runner
from .reading import read_arrays
from .selftest import compare_golden
from .tolerance import Comparison

INDEX, ARRAYS = "index.json", "data.npz"
"""The file that describes the folder, and the file with one set's arrays."""
INPUT, OUTPUT = "input/", "output/"
"""Prefixes of array names in ``data.npz``, before the names in the graph."""
FORMAT, SCHEMA = "lstm-edge golden vectors", 1
"""What the index calls itself, and the schema version that this package reads."""


@dataclass(frozen=True)
class GoldenSet:
    """One recorded call."""

    name: str
    """The set's folder: ``test_data_set_0``."""
    about: str
    """Description of the case."""
    golden: Golden
    continues: str | None = None
    """The set whose last states this one starts from; None if it starts from its own."""


@dataclass(frozen=True)
class GoldenFolder:
    """Recorded cases of one model."""

    model_sha256: str
    """Of the model file that they were recorded for."""
    sets: tuple[GoldenSet, ...]


@dataclass(frozen=True)
class Replayed:
    """One output of one set compared with the recorded one."""

    set_name: str
    carried: bool
    """Whether the states came from this device's own run of the set before, not from the record."""
    comparison: Comparison

    def __str__(self) -> str:
        """Return the set and the difference in one line."""
        return f"{self.set_name}{' with states carried' if self.carried else ''}: {self.comparison}"


def encode_golden(folder: GoldenFolder, reference: str, manifest: Manifest) -> dict[str, bytes]:
    """Return the files of a folder that this package reads, by their paths in it.

    Args:
        folder: the sets.
        reference: what they were recorded from, in words.
        manifest: the model's.
    """
    index = {
        "format": FORMAT,
        "schema": SCHEMA,
        "model_sha256": folder.model_sha256,
        "reference": reference,
        "states": {state.input: state.output for state in manifest.states},
        "sets": [
            {
                "name": each.name,
                "about": each.about,
                "continues": each.continues,
                "inputs": list(each.golden.inputs),
                "outputs": list(each.golden.outputs),
                "floor": dict(each.golden.floor),
                "limit": dict(each.golden.limit),
            }
            for each in folder.sets
        ],
    }
    files = {INDEX: (json.dumps(index, indent=2) + "\n").encode()}
    for each in folder.sets:
        content: dict[str, Any] = {INPUT + name: array for name, array in each.golden.inputs.items()}
        content |= {OUTPUT + name: array for name, array in each.golden.outputs.items()}
        file = io.BytesIO()
        np.savez(file, **content)
        files[f"{each.name}/{ARRAYS}"] = file.getvalue()
    return files


def read_golden(folder: str | os.PathLike[str]) -> GoldenFolder:
    """Read a folder of golden vectors; no pickle is ever opened.

    Raises:
        NotFoundError: no folder, no index in it, or a set that the index names is not there.
        FileFormatError: an index or an array file that is truncated, foreign or of a newer schema.
    """
    root = Path(folder)
    index = _read_index(root / INDEX)
    sets: list[GoldenSet] = []
    with malformed_as(FileFormatError, f"{root / INDEX} is malformed", "save the vectors again"):
        for each in index["sets"]:
            name, continues = text(each["name"]), text_or_none(each["continues"])
            if continues is not None and continues not in [one.name for one in sets]:
                raise ValueError(f"{name!r} continues {continues!r}, which is not an earlier set")
            golden = _read_arrays(root, name, each["floor"], each["limit"])
            sets.append(GoldenSet(name, text(each["about"]), golden, continues))
        if not sets:
            raise ValueError("'sets' names none")
        return GoldenFolder(text(index["model_sha256"]), tuple(sets))


def replay(model: Model, folder: GoldenFolder) -> tuple[Replayed, ...]:
    """Run every set on ``model``, and each set that continues another also from this device's own states.

    Returns:
        One record an output and run, in the order of the index.

    Raises:
        InputError: the vectors have other inputs or outputs than the model.
    """
    run, records = runner(model), list[Replayed]()
    ends: dict[str, dict[str, Array]] = {}
    for each in folder.sets:
        _check_names(model, each)
        starts = [each.golden.inputs]
        if each.continues in ends:
            starts.append({**each.golden.inputs, **ends[each.continues]})
        for carried, inputs in enumerate(starts):
            outputs = run(inputs)
            records += [
                Replayed(each.name, bool(carried), comparison)
                for comparison in compare_golden(each.golden, outputs)
            ]
            ends[each.name] = model.manifest.states_out(outputs)
    return tuple(records)


def _check_names(model: Model, each: GoldenSet) -> None:
    for role, found, expected in (
        ("inputs", set(each.golden.inputs), set(model.manifest.input_names)),
        ("outputs", set(each.golden.outputs), set(model.manifest.output_names)),
    ):
        if found != expected:
            raise InputError(
                f"{each.name} has the {role} {sorted(found)}, the model {sorted(expected)}; "
                "these golden vectors are of another model"
            )


def _read_index(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(
            f"{path} does not exist; expected a folder made by `lstm-edge validate --save-test-data`"
        )
    with malformed_as(FileFormatError, f"{path} can't be read as JSON", "save the vectors again"):
        index = read_json(path.read_bytes())
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise FileFormatError(f"{path} does not describe golden vectors; use another folder")
    if not isinstance(index.get("schema"), int) or index["schema"] > SCHEMA:
        raise FileFormatError(
            f"{path} has schema {index.get('schema')}, this version reads {SCHEMA}; upgrade lstm-edge"
        )
    return index


def _read_arrays(root: Path, name: str, floor: Mapping[str, Any], limit: Mapping[str, Any]) -> Golden:
    if Path(name).name != name or name == "..":
        raise FileFormatError(f"{root / INDEX} names a set outside its folder ({name!r}); refused as unsafe")
    arrays = read_arrays(root / name / ARRAYS, "can't be read", "save the vectors again")
    return Golden(
        inputs={key[len(INPUT) :]: array for key, array in arrays.items() if key.startswith(INPUT)},
        outputs={key[len(OUTPUT) :]: array for key, array in arrays.items() if key.startswith(OUTPUT)},
        floor={key: number(value) for key, value in floor.items()},
        limit={key: number(value) for key, value in limit.items()},
    )
