"""Whether chunks with carried states equal the whole sequence, and if not, because of what."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from lstm_edge_runtime.errors import first_line
from lstm_edge_runtime.manifest import Manifest

from ..lift._chunks import chunk_sizes, compare_chunks
from ..lift.divergence import blame, find_culprit
from ..numerics.cases import Case
from ..numerics.verify import Candidate

__all__ = ["states_stop_at_lengths", "why_unstreamable"]

Array = npt.NDArray[Any]

_SHORT = 7
"""Steps of the rows that are compared with and without padding behind them."""
_PLANS = 3
"""Random ways to cut the sequence."""


def why_unstreamable(
    model: ir.Model, manifest: Manifest, candidate: Candidate, case: Case, bidirectional: tuple[str, ...]
) -> str:
    """Feed ``case`` in chunks; gives ``""`` where that equals the whole, or where nothing is carried.

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
    start = {state.input: case.feeds[state.input] for state in manifest.states}
    data = {name: array for name, array in case.feeds.items() if name not in start}
    lengths = [manifest.lengths] if manifest.lengths else []

    def run(
        part: Mapping[str, Array], state: Mapping[str, Array] | None, steps: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        full = {name: np.full_like(part[name], steps) for name in lengths}
        results = candidate({**part, **full, **(state or start)})
        return dict(results), {spec.input: results[spec.output] for spec in manifest.states}

    rng = np.random.default_rng(0)
    total = case.sizes[str(manifest.sequence)]
    for _ in range(_PLANS):
        sizes = chunk_sizes(total, rng)
        try:
            found = compare_chunks(run, data, axes, sizes, rng)
        except Exception as error:  # noqa: BLE001  onnxruntime's exceptions share no base class
            return f"a chunk of {min(sizes)} step does not run by itself ({first_line(error)})"
        if not found.worst.ok:
            worst = found.worst
            return blame(
                find_culprit(model, manifest.states, start, data, axes, sizes, lengths, worst.name), worst
            )
    return ""


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
