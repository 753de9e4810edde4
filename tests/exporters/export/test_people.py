"""A dozen modules and more, written the way people write them, exported, audited and compared."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from lstm_edge_exporters import export
from lstm_edge_exporters.numerics.cases import CaseGenerator
from lstm_edge_exporters.numerics.reference import Signature, flatten_output
from lstm_edge_runtime import load
from lstm_edge_runtime.native.choice import compile_engine, uncovered
from lstm_edge_runtime.native.library import installed
from lstm_edge_runtime.onnx_reader import read_onnx
from lstm_edge_runtime.state import take_steps

_SPEC = importlib.util.spec_from_file_location("people", Path(__file__).with_name("people.py"))
people = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(people)


STEPS = 7
NOT_NATIVE = {
    "Seq2SeqTeacherForced": "('N', 'L2', 3) has an axis of any size beside batch and time",
    "WordLanguageModel": "('N*L', 60) has an axis of any size beside batch and time",
    "VideoClassifier": "(Conv): an operator that is not covered",
    "EncoderWithLengths": "(GatherND): an operator of stored tensors that is not covered",
}
"""Modules that stream and whose steps the native engine does not take, with its reason."""


@pytest.mark.parametrize("person", people.PEOPLE, ids=lambda person: person.module.__name__)
def test_a_module_as_people_write_it_exports_and_agrees(person):
    torch.manual_seed(0)
    module = person.module()
    module.eval()
    artifact = export(module, person.example, person.config)
    manifest = artifact.manifest
    recurrent = {name: count for name, count in artifact.nodes.items() if name in ("LSTM", "GRU", "RNN")}
    assert recurrent == person.nodes
    assert tuple(state.input for state in manifest.states) == person.states
    assert (
        (person.unstreamable in manifest.unstreamable) if person.unstreamable else not manifest.unstreamable
    )
    assert any(person.notes in note for note in artifact.notes) if person.notes else not artifact.notes
    assert len(manifest.equivalence["cases"]) + len(manifest.equivalence["skipped"]) >= (
        6 if manifest.batch else 1
    )
    assert {axis: str(limits) for axis, limits in manifest.ranges.items()} == person.ranges
    signature = Signature.of(module, person.example)
    session = onnxruntime.InferenceSession(artifact.model)
    feeds = {name: tensor.numpy() for name, tensor in zip(signature.names, signature.example, strict=True)}
    rows = next(iter(feeds.values())).shape[_place(manifest)] if manifest.batch else 1
    for state in manifest.states:
        shape = [rows if axis == "N" else axis for axis in state.axes]
        feeds.setdefault(state.input, np.broadcast_to(np.float32(state.reset), shape))
    names = [output.name for output in session.get_outputs()]
    got = session.run(names, feeds)
    if installed() and manifest.streamable:
        reason = uncovered(read_onnx(artifact.model), manifest)
        expected = NOT_NATIVE.get(person.module.__name__, "")
        assert expected in reason
        assert bool(expected) == bool(reason)
        if not reason:
            native = compile_engine(read_onnx(artifact.model), manifest, 1)
            found = manifest.all_outputs(*native.call(feeds))
            for name, array in zip(names, got, strict=True):
                np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)
    with torch.no_grad():
        expected = flatten_output(signature.call(module, signature.example))
    for name, array, (_, tensor) in zip(names, got, expected, strict=False):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=0, atol=1e-5, err_msg=name)
    if manifest.streamable:
        _assert_stream_is_module(artifact, module, signature)


def _assert_stream_is_module(artifact, module, signature):
    """Compare steps and chunks of a stream with the module, called on all that the stream has seen.

    A module that takes one step a call is called in a loop, its states carried.
    """
    manifest, model = artifact.manifest, load(artifact.model)
    examples = {name: tensor.numpy() for name, tensor in zip(signature.names, signature.example, strict=True)}
    cases = CaseGenerator.of(manifest, examples)
    sizes = cases.example().sizes | {manifest.batch: 1, manifest.sequence: STEPS}
    feeds = dict(cases.resized({name: size for name, size in sizes.items() if name}).feeds)
    for state in manifest.states:
        feeds[state.input] = np.broadcast_to(np.asarray(state.reset, state.dtype), feeds[state.input].shape)
    data = {spec.name: feeds[spec.name] for spec in manifest.data_inputs}
    names = [output.name for output in read_onnx(artifact.model).graph.outputs]
    batch, time = manifest.batch_axes, manifest.time_axes
    compared = {
        spec.name
        for spec in manifest.outputs
        if spec.name not in manifest.counts and not any("*" in str(axis) for axis in spec.axes)
    }

    def call(given):
        if manifest.lengths:
            given = given | {manifest.lengths: np.full(1, manifest.steps(given))}
        tensors = [torch.from_numpy(np.array(given[name])) for name in signature.names]
        with torch.no_grad():
            flat = flatten_output(signature.call(module, tensors))
        return {name: tensor.numpy() for name, (_, tensor) in zip(names, flat, strict=False)}

    def without_batch(given):
        return {
            name: array[(slice(None),) * batch[name] + (0,)] if name in batch else array
            for name, array in given.items()
        }

    def check(result, expected):
        found = result if isinstance(result, dict) else {manifest.outputs[0].name: result}
        for name in compared:
            np.testing.assert_allclose(found[name].ravel(), expected[name].ravel(), rtol=0, atol=2e-5)

    stream, held = model.stream(), feeds
    for step in range(STEPS):
        sample = {
            name: array.take(step, time[name]) if name in time else array for name, array in data.items()
        }
        kept = {name: axis - (axis > time.get(name, axis)) for name, axis in batch.items()}
        sample = {
            name: array.take(0, kept[name]) if name in kept else array for name, array in sample.items()
        }
        result = stream.step(sample if len(sample) > 1 else next(iter(sample.values())))
        if manifest.sequence is None:
            expected = call(held)
            held = held | manifest.states_out(expected)
            check(result, expected)
        else:
            expected = call(take_steps(manifest, feeds, 0, step + 1))
            check(result, {n: a.take([-1], time[n]) if n in time else a for n, a in expected.items()})
    if manifest.sequence is None:
        return
    stream.reset()
    for start, stop in ((0, 3), (3, 4), (4, STEPS)):
        chunk = without_batch(take_steps(manifest, data, start, stop))
        result = stream.process(chunk if len(chunk) > 1 else next(iter(chunk.values())))
        expected = call(take_steps(manifest, feeds, 0, stop))
        check(
            result, {n: a.take(range(start, stop), time[n]) if n in time else a for n, a in expected.items()}
        )


def _place(manifest):
    return next(spec.axes.index("N") for spec in manifest.inputs if "N" in spec.axes)
