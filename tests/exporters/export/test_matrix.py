"""Every form of a recurrent layer exports, and runs at sizes that it was not traced
at."""

import numpy as np
import onnxruntime
import pytest
import torch
from compared import export_and_compare as export

from benchmarks.strangers import matrix
from lstm_edge_exporters.targets.native import to_native
from lstm_edge_runtime import load
from lstm_edge_runtime.model import runner
from lstm_edge_runtime.native import installed

COVERING = matrix.covering()
REST = [cell for cell in matrix.cells() if cell not in COVERING]
NODES = {"LSTM": "LSTM", "GRU": "GRU", "RNN-tanh": "RNN", "RNN-relu": "RNN"}


pytestmark = pytest.mark.filterwarnings(
    "ignore:LSTM with projections is not supported with oneDNN"
)


def check(cell):
    torch.manual_seed(0)
    module = matrix.Recurrent(cell).eval()
    generator = torch.Generator().manual_seed(1)
    example = matrix.draw(cell, *matrix.TRACED, generator)
    artifact = export(module, example)
    assert artifact.nodes[NODES[cell.kind]] == cell.layers
    assert [len(state.axes) for state in artifact.manifest.states] == [3] * len(
        cell.widths
    )
    assert artifact.manifest.batch == "N"
    assert artifact.manifest.sequence == "L"
    assert bool(artifact.manifest.unstreamable) == cell.bidirectional
    session = onnxruntime.InferenceSession(artifact.model)
    names = [output.name for output in session.get_outputs()]
    native = None
    if installed() and not cell.bidirectional:
        native = runner(load(to_native(artifact.model)))
    for n, length in matrix.SIZES:
        feeds = matrix.draw(cell, n, length, generator)
        with torch.no_grad():
            expected = module(**feeds)
        fed = {name: tensor.numpy() for name, tensor in feeds.items()}
        for state in artifact.manifest.states:
            shape = [n if axis == "N" else axis for axis in state.axes]
            fed.setdefault(state.input, np.broadcast_to(np.float32(state.reset), shape))
        got = dict(zip(names, session.run(names, fed), strict=True))
        if native is not None:
            for name, array in native(fed).items():
                np.testing.assert_allclose(
                    array, got[name], rtol=0, atol=2e-5, err_msg=f"native {name}"
                )
        plain = [spec.name for spec in artifact.manifest.outputs]
        after = (
            [state.output for state in artifact.manifest.states]
            if cell.state == "argument"
            else []
        )
        for name, tensor in zip(plain + after, expected, strict=True):
            np.testing.assert_allclose(
                got[name], tensor.numpy(), rtol=0, atol=2e-5, err_msg=f"{n},{length}"
            )


@pytest.mark.parametrize("cell", COVERING, ids=str)
def test_every_pair_of_options_exports_and_agrees(cell):
    check(cell)


@pytest.mark.slow
@pytest.mark.parametrize("cell", REST, ids=str)
def test_every_combination_exports_and_agrees(cell):
    check(cell)


def test_the_matrix_is_whole():
    assert len(COVERING) + len(REST) == 960
