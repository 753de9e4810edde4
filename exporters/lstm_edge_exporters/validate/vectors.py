"""Golden vectors in a folder: ONNX's own test-data layout, and the same arrays for devices without onnx."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lstm_edge_runtime.chunks import run_chunks
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_folder, write_folder
from lstm_edge_runtime.golden import (
    ARRAYS,
    FORMAT,
    INDEX,
    INPUT,
    OUTPUT,
    SCHEMA,
    GoldenFolder,
    GoldenSet,
    replay,
)
from lstm_edge_runtime.manifest import Array, Golden
from lstm_edge_runtime.tolerance import Comparison

from ..numerics.verify import golden_case
from ..quantization.judge import device_limits
from .config import ValidateConfig
from .reference import ModelFile, ReferenceModel
from .subject import Subject

_NAME = "test_data_set_{}"
_SIZES = ((1, 1), (3, 12), (2, 33))
_OURS = re.compile(r"index\.json|model\.onnx|test_data_set_\d+/((input|output)_\d+\.pb|data\.npz)")
"""The files of such a folder."""
_CHUNKS, _CHUNK = 4, 5
"""A stream of four calls of five steps, each from the states of the one before."""


def save_vectors(
    folder: str | os.PathLike[str], file: ModelFile, reference: ReferenceModel, config: ValidateConfig
) -> list[str]:
    """Record the reference on a few cases and on a stream of several calls.

    Writes ``model.onnx`` and ``test_data_set_N/input_i.pb`` and ``output_i.pb``, in the order of the graph's
    inputs and outputs, as onnx's backend tests read them; beside them ``data.npz``; and ``index.json``.
    An earlier folder of golden vectors is replaced whole: an index never stands beside the sets of another.

    Returns:
        The names of the sets.

    Raises:
        InputError: the folder can't be written, or holds something else already.
    """
    root = Path(folder)
    try:
        root.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{root} can't be made: {error.strerror or error}") from error
    check_folder(root, _is_ours)
    subject = Subject(file, reference, config)
    model = onnx.load(str(file.path))
    entering = [value.name for value in model.graph.input]
    leaving = [value.name for value in model.graph.output]
    sets = tuple(_record(subject))
    held = _limits(file, sets) if subject.budgets else {}
    entries = []
    contents = {"model.onnx": model.SerializeToString()}
    for each in sets:
        files = _encode_set(each.golden, entering, leaving)
        contents |= {f"{each.name}/{name}": content for name, content in files}
        entries.append(
            {
                "name": each.name,
                "about": each.about,
                "continues": each.continues,
                "inputs": entering,
                "outputs": leaving,
                "floor": dict(each.golden.floor),
                "limit": held.get(each.name, {}),
            }
        )
    index = {
        "format": FORMAT,
        "schema": SCHEMA,
        "model_sha256": file.sha256,
        "reference": reference.about,
        "states": {state.input: state.output for state in file.manifest.states},
        "sets": entries,
    }
    contents[INDEX] = (json.dumps(index, indent=2) + "\n").encode()
    write_folder(root, contents, _is_ours)
    return [each.name for each in sets]


def _record(subject: Subject) -> Iterator[GoldenSet]:
    for place, (n, length) in enumerate(_SIZES):
        feeds = subject.draw(n, length, 9100 + place, at_reset=place == 0)
        start = "states at reset" if place == 0 else "random states"
        yield GoldenSet(_NAME.format(place), f"N={n}, L={length}, {start}", _golden(subject, feeds))
    manifest = subject.manifest
    if not manifest.states or manifest.sequence is None or subject.unstreamable:
        return
    feeds = subject.full(subject.draw(1, _CHUNKS * _CHUNK, 9200, at_reset=True))
    recorded: list[Golden] = []

    def record(chunk: Mapping[str, Array]) -> Mapping[str, Array]:
        recorded.append(_golden(subject, dict(chunk)))
        return recorded[-1].outputs

    for place, _ in enumerate(run_chunks(record, manifest, feeds, [_CHUNK] * _CHUNKS)):
        number = len(_SIZES) + place
        about = f"stream, steps {place * _CHUNK + 1} to {(place + 1) * _CHUNK}"
        before = _NAME.format(number - 1) if place else None
        yield GoldenSet(_NAME.format(number), about, recorded[-1], before)


def _golden(subject: Subject, feeds: dict[str, Array]) -> Golden:
    return golden_case(subject.file.manifest, feeds, subject.expected(feeds))


def _limits(file: ModelFile, sets: tuple[GoldenSet, ...]) -> dict[str, dict[str, float]]:
    """Return each set's limits for an int8 or fp16 file, from how far it is away here."""
    assert file.model is not None
    found: dict[str, list[Comparison]] = {each.name: [] for each in sets}
    for each in replay(file.model, GoldenFolder(file.sha256, sets)):
        found[each.set_name].append(each.comparison)
    return {each.name: device_limits(found[each.name], each.golden.outputs) for each in sets}


def _encode_set(golden: Golden, entering: list[str], leaving: list[str]) -> Iterator[tuple[str, bytes]]:
    for kind, names, arrays in (("input", entering, golden.inputs), ("output", leaving, golden.outputs)):
        for number, name in enumerate(names):
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(arrays[name]), name)
            yield f"{kind}_{number}.pb", tensor.SerializeToString()
    content: dict[str, Any] = {INPUT + name: array for name, array in golden.inputs.items()}
    content |= {OUTPUT + name: array for name, array in golden.outputs.items()}
    file = io.BytesIO()
    np.savez(file, **content)
    yield ARRAYS, file.getvalue()


def _is_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None
