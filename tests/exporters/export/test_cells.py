"""Generated cells: no state is paired with another's output, and none is missed without a word."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from lstm_edge_exporters import export
from lstm_edge_exporters.numerics.reference import flatten_output
from lstm_edge_runtime import load
from lstm_edge_runtime.errors import InputError
from lstm_edge_runtime.onnx_reader import read_onnx

_SPEC = importlib.util.spec_from_file_location("cells", Path(__file__).with_name("cells.py"))
cells = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(cells)

EVERY = cells.sample(200, seed=16)


def assert_stream_is_module(artifact, cell, module):
    """Step a stream beside the module, called in a loop with the pairing that is known to be right."""
    names = [output.name for output in read_onnx(artifact.model).graph.outputs]
    generator = torch.Generator().manual_seed(1)
    stream, given = load(artifact.model).stream(), cell.inputs(1, generator)
    held = list(given[1]) if cell.arguments == "packed" else list(given[1:])
    for _ in range(16):
        x = torch.randn(1, cells.WIDTH, generator=generator)
        with torch.no_grad():
            result = module(x, tuple(held)) if cell.arguments == "packed" else module(x, *held)
        flat = [tensor for _, tensor in flatten_output(result)]
        held = [flat[place] for place in cell.truth.values()]
        got = stream.step(x[0].numpy())
        y = flat[cell.order.index(0)][0].numpy()
        limit = 1e-5 * max(1.0, float(np.abs(y).max()))
        np.testing.assert_allclose(got, y, rtol=0, atol=limit, err_msg=str(names))


def check(cell, folder):
    module = cell.build(folder)
    example = cell.inputs(3, torch.Generator().manual_seed(0))
    try:
        artifact = export(module, example)
    except InputError as error:
        if "--state" in str(error):
            return
        raise
    order = [output.name for output in read_onnx(artifact.model).graph.outputs]
    found = {state.input: order.index(state.output) for state in artifact.manifest.states}
    assert found == {name: cell.truth[name] for name in found}, "swapped"
    for name in set(cell.truth) - set(found):
        assert any(name in note and "--state" in note for note in artifact.notes), f"{name} was missed"
    if len(found) == len(cell.truth):
        assert_stream_is_module(artifact, cell, module)


@pytest.mark.slow
@pytest.mark.parametrize("cell", EVERY[8:], ids=str)
def test_states_of_a_generated_cell_are_neither_swapped_nor_missed_silently(cell, tmp_path):
    check(cell, tmp_path)


@pytest.mark.parametrize("cell", EVERY[:8], ids=str)
def test_states_of_some_generated_cells_are_neither_swapped_nor_missed_silently(cell, tmp_path):
    check(cell, tmp_path)
