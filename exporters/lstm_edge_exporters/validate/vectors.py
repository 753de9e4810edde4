"""Golden vectors in a folder: ONNX's own test-data layout, and the same arrays for devices without onnx."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

from lstm_edge_runtime.chunks import run_chunks
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.files import check_folder, write_folder
from lstm_edge_runtime.golden import GoldenFolder, GoldenSet, Replayed, encode_golden, replay
from lstm_edge_runtime.manifest import Golden

from ..numerics.cases import Feeds
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
    subject, model = Subject(file, reference, config), onnx.load(str(file.path))
    inputs, outputs = ([value.name for value in each] for each in (model.graph.input, model.graph.output))
    sets = tuple(_record(subject, inputs, outputs))
    if subject.budgets and file.model is not None:  # from how far an int8 or fp16 file is away here
        replayed = replay(file.model, GoldenFolder(file.sha256, sets))
        sets = tuple(_limited(each, replayed) for each in sets)
    contents = {"model.onnx": model.SerializeToString()}
    contents |= encode_golden(GoldenFolder(file.sha256, sets), reference.about, file.manifest)
    for each in sets:
        for kind, arrays in (("input", each.golden.inputs), ("output", each.golden.outputs)):
            for number, (name, array) in enumerate(arrays.items()):
                tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
                contents[f"{each.name}/{kind}_{number}.pb"] = tensor.SerializeToString()
    write_folder(root, contents, _is_ours)
    return [each.name for each in sets]


def _limited(recorded: GoldenSet, replayed: Sequence[Replayed]) -> GoldenSet:
    found = [each.comparison for each in replayed if each.set_name == recorded.name]
    limits = device_limits(found, recorded.golden.outputs)
    return replace(recorded, golden=recorded.golden._replace(limit=limits))


def _record(subject: Subject, inputs: Sequence[str], outputs: Sequence[str]) -> Iterator[GoldenSet]:
    def record(feeds: Feeds) -> Golden:
        found = golden_case(subject.file.manifest, feeds, subject.expected(feeds))
        return found._replace(
            inputs={name: found.inputs[name] for name in inputs},
            outputs={name: found.outputs[name] for name in outputs},
        )

    for place, (n, length) in enumerate(_SIZES):
        feeds = subject.draw(n, length, 9100 + place, at_reset=place == 0)
        start = "states at reset" if place == 0 else "random states"
        yield GoldenSet(_NAME.format(place), f"N={n}, L={length}, {start}", record(feeds))
    manifest = subject.manifest
    if not manifest.states or manifest.sequence is None or subject.unstreamable:
        return
    feeds = subject.full(subject.draw(1, _CHUNKS * _CHUNK, 9200, at_reset=True))
    recorded: list[Golden] = []

    def run(chunk: Feeds) -> Feeds:
        recorded.append(record(dict(chunk)))
        return recorded[-1].outputs

    for place, _ in enumerate(run_chunks(run, manifest, feeds, [_CHUNK] * _CHUNKS)):
        number = len(_SIZES) + place
        about = f"stream, steps {place * _CHUNK + 1} to {(place + 1) * _CHUNK}"
        before = _NAME.format(number - 1) if place else None
        yield GoldenSet(_NAME.format(number), about, recorded[-1], before)


def _is_ours(name: str) -> bool:
    return _OURS.fullmatch(name) is not None
