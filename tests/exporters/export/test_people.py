"""A dozen modules and more, written the way people write them, exported, audited and
compared."""

import numpy as np
import onnxruntime
import people
import pytest
import torch
from compared import export_and_compare as export

from lstm_edge_exporters.export.call import Call, flatten_output
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.native import installed


@pytest.mark.parametrize(
    "person",
    [
        pytest.param(
            person,
            marks=[pytest.mark.system] if index % 3 else [],
            id=person.module.__name__,
        )
        for index, person in enumerate(people.PEOPLE)
    ],
)
def test_a_module_as_people_write_it_exports_and_agrees(person):
    torch.manual_seed(0)
    module = person.module()
    module.eval()
    artifact = export(module, person.example, person.config)
    manifest = artifact.manifest
    recurrent = {
        name: count
        for name, count in artifact.nodes.items()
        if name in ("LSTM", "GRU", "RNN")
    }
    assert recurrent == person.nodes
    assert tuple(state.input for state in manifest.states) == person.states
    assert (
        (person.unstreamable in manifest.unstreamable)
        if person.unstreamable
        else not manifest.unstreamable
    )
    assert (
        any(person.notes in note for note in artifact.notes)
        if person.notes
        else not artifact.notes
    )
    assert len(manifest.equivalence["cases"]) + len(
        manifest.equivalence["skipped"]
    ) >= (6 if manifest.batch else 1)
    assert {
        axis: str(limits) for axis, limits in manifest.ranges.items()
    } == person.ranges
    signature = Call.of(module, person.example)
    session = onnxruntime.InferenceSession(artifact.model)
    feeds = {
        name: tensor.numpy()
        for name, tensor in zip(signature.names, signature.example, strict=True)
    }
    rows = (
        next(iter(feeds.values())).shape[_batch_axis(manifest)] if manifest.batch else 1
    )
    for state in manifest.states:
        shape = [rows if axis == "N" else axis for axis in state.axes]
        feeds.setdefault(state.input, np.broadcast_to(np.float32(state.reset), shape))
    names = [output.name for output in session.get_outputs()]
    got = session.run(names, feeds)
    if installed() and manifest.streamable:
        native = runner(load(to_native(artifact.model)))(feeds)
        for name, array in zip(names, got, strict=True):
            np.testing.assert_allclose(
                native[name], array, rtol=0, atol=1e-5, err_msg=name
            )
    with torch.no_grad():
        expected = flatten_output(signature.run(module, signature.example))
    for name, array, (_, tensor) in zip(names, got, expected, strict=False):
        np.testing.assert_allclose(
            array, tensor.numpy(), rtol=0, atol=1e-5, err_msg=name
        )


def _batch_axis(manifest):
    return next(spec.axes.index("N") for spec in manifest.inputs if "N" in spec.axes)
