"""Whether chunks with carried states equal the whole sequence, and if not, because of what."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.manifest import Manifest

from ..lift.divergence import ChunkedFile, run_in_chunks
from ..numerics.cases import Case
from ..numerics.verify import Candidate

__all__ = ["states_stop_at_lengths", "why_unstreamable"]

Array = npt.NDArray[Any]

_SHORT = 7
"""Steps of the rows that are compared with and without padding behind them."""


def why_unstreamable(
    model: ir.Model, manifest: Manifest, candidate: Candidate, case: Case, bidirectional: tuple[str, ...]
) -> str:
    """Feed ``case`` in chunks; return ``""`` where that equals the whole, or where nothing is carried.

    Args:
        model: the graph behind ``candidate``.
        manifest: its contract.
        candidate: runs the file.
        case: inputs with every state at its reset value and every row at its full length.
        bidirectional: paths of the layers that read time backwards.
    """
    if bidirectional and manifest.sequence is not None:
        return f"layer {bidirectional[0] or 'rnn'} is bidirectional"
    axes = {
        spec.name: spec.axes.index(manifest.sequence)
        for spec in manifest.inputs
        if manifest.sequence in spec.axes
    }
    if not axes or not manifest.states:
        return ""
    lengths = (manifest.lengths,) if manifest.lengths else ()
    file = ChunkedFile(model, candidate, manifest.states, axes, lengths)
    return run_in_chunks(file, case.feeds, np.random.default_rng(0))[1]


def states_stop_at_lengths(manifest: Manifest, candidate: Candidate, case: Case) -> bool:
    """Tell whether what stands behind a row's length leaves its last states alone, as packing has it.

    Args:
        manifest: the contract.
        candidate: runs the file.
        case: inputs of more than ``_SHORT`` steps.
    """
    if manifest.lengths is None or manifest.sequence is None or not manifest.states:
        return True
    lengths = {manifest.lengths: np.full_like(case.feeds[manifest.lengths], _SHORT)}
    cut = {
        spec.name: case.feeds[spec.name].take(range(_SHORT), axis=spec.axes.index(manifest.sequence))
        for spec in manifest.inputs
        if manifest.sequence in spec.axes
    }
    try:
        padded, alone = candidate({**case.feeds, **lengths}), candidate({**case.feeds, **cut, **lengths})
    except Exception:  # noqa: BLE001  onnxruntime's exceptions share no base class
        return False
    return all(
        np.allclose(padded[state.output], alone[state.output], rtol=1e-3, atol=1e-4)
        for state in manifest.states
    )
