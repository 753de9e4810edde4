"""The verification of a lifted file: the original is the reference, from the reset
states.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from lstm_edge_runtime.chunks import Runner, take_steps
from lstm_edge_runtime.errors import CheckFailedError, first_line
from lstm_edge_runtime.manifest import Array, Manifest
from lstm_edge_runtime.ort import open_session

from ..cast import widened
from ..graph import data_inputs, forget_shapes, to_bytes, to_proto
from ..progress import ignore
from ..verify.cases import (
    Case,
    CaseGenerator,
    Feeds,
    full_length,
    in_chunks,
    remember,
)
from ..verify.compare import FLOOR, Pair, compare_all
from ..verify.engine import engine_of
from ..verify.float64 import Graph64
from ..verify.verify import Verified, find_streaming, row_checks, verify
from .axes import NamedAxes
from .read import Original
from .running import case_generator, runner

_GRID = ((1, 1), (2, 7), (3, 12), (1, 33))
"""``(N, L)`` of a verification."""
_STRICT = 1e-6
"""Largest difference in float64, whatever rounding does, as a fraction of a channel's
largest value."""


@dataclass(frozen=True)
class Cases(CaseGenerator):
    """Draws inputs at the sizes that the original takes."""

    declared: Mapping[str, int] = field(default_factory=dict)
    """Sizes in the original of axes that are fixed there and dynamic in the lifted
    graph."""

    def cases(self) -> Iterator[Case]:
        """Generate the cases of a verification; lifted states are at reset."""
        for index, (rows, steps) in enumerate(_GRID if self._names() else _GRID[:2]):
            yield self.case(
                self.declared.get(str(self.batch), rows),
                self.declared.get(str(self.sequence), steps),
                at_reset=False,
                offset=index,
                full=index % 2 == 0,
                others=self.declared,
            )


def lifted_cases(
    lifted: ir.Graph,
    original: ir.Graph,
    manifest: Manifest,
    axes: NamedAxes,
    *,
    declared: Mapping[str, int],
    seed: int,
) -> Cases:
    """Return cases; states that are not inputs of the original are at reset."""
    states = {state.input for state in manifest.states}
    added = states.difference(str(value.name) for value in original.inputs)
    return Cases(
        case_generator(lifted, manifest, axes.steps).inputs,
        manifest.batch,
        manifest.sequence,
        seed=seed,
        held=frozenset(added),
        declared=declared,
    )


@dataclass(frozen=True)
class LiftedPair:
    """A lifted file and its original."""

    pair: Pair
    """The lifted graph, and the original's in float64."""
    original32: Runner
    """The original file itself, run by onnxruntime."""


def pair_up(
    manifest: Manifest, original: Original, lifted: ir.Model, constants: Feeds
) -> LiftedPair:
    """Return a lifted file and its original, whose missing inputs are ``constants``."""
    graph64 = original.graph.clone()
    forget_shapes(graph64)
    graph = Graph64(widened(to_proto(lifted)))
    exact = Graph64(widened(to_proto(graph64)))
    float32 = runner(original.graph, "the original")
    as_it_is = engine_of(open_session(original.content))
    engine = engine_of(open_session(to_bytes(lifted)))

    def reference(feeds: Feeds) -> Mapping[str, Array]:
        """Run the original in float64, after onnxruntime has checked the sizes."""
        feeds = {**constants, **feeds}
        try:
            float32(feeds)  # onnxruntime checks sizes that the float64 run would take
            return exact(feeds)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise RuntimeError(first_line(error)) from error

    inputs = [str(value.name) for value in data_inputs(original.graph.graph)]

    def original32(feeds: Feeds) -> Mapping[str, Array]:
        """Run the original file."""
        feeds = {**constants, **feeds}
        return as_it_is({name: feeds[name] for name in inputs})

    pair = Pair(
        manifest=manifest, graph=graph, reference=remember(reference), engine=engine
    )
    return LiftedPair(pair, original32)


def verify_lifted(both: LiftedPair, cases: Cases) -> Verified:
    """Check that a lifted file equals its original, and single rows the rows of a
    batch.

    Raises:
        CheckFailedError: it does not.
    """
    pair = both.pair
    verified = verify(pair, cases, module32=both.original32, show=ignore)
    if verified.largest > _STRICT:  # allowed where the effect of rounding is as large
        raise CheckFailedError(
            f"it differs from the original by {verified.largest:.2g} of the largest"
            " value in float64; a network with random numbers, or one that amplifies"
            " rounding, can't be verified"
        )
    if cases.declared:  # the original does not take several rows
        for check in row_checks(replace(pair, reference=pair.graph), cases):
            if check.status == "failed":
                raise CheckFailedError(f"{check.name}: {check.message}")
    return verified


def find_chunks(pair: Pair, cases: Cases, reach: int, cause: str) -> Manifest:
    """Return the manifest with the reason why chunks do not equal the full sequence, if
    so, and with the effect of padding.

    The lifted graph is its own reference here: also at sizes that the original does not
    take.
    """
    pair = replace(pair, reference=pair.graph)
    manifest = find_streaming(pair, cases, reach=reach, cause=cause)
    if manifest.unstreamable and not cause:
        node = _first_node(pair, cases)
        if not node:
            return manifest
        return manifest._replace(unstreamable=f"{node} sees more than its chunk")
    if manifest.lengths is None or manifest.unstreamable or not manifest.time_axes:
        return manifest
    feeds = dict(cases.case(2, 24, at_reset=True).feeds)
    feeds[manifest.lengths] = np.array([21, 24], feeds[manifest.lengths].dtype)
    got = in_chunks(manifest, (5, 12, 7))(pair.graph, feeds)
    full = pair.graph(feeds)
    want = {name: full[name] for name in got}
    limits = {}
    for name, array in want.items():
        limits[name] = _STRICT * pair.largest(name, array) + FLOOR * 2.0**-29
    comparisons = compare_all(got, want, limits)
    failed = [str(comparison) for comparison in comparisons if not comparison.ok]
    if failed:
        reason = (
            "the graph reorders the batch in a way that could not be determined"
            f" ({'; '.join(failed)})"
        )
        return manifest._replace(unstreamable=reason)
    return manifest


def _first_node(pair: Pair, cases: Cases) -> str:
    """Return the first node whose outputs for a first chunk differ from the start of
    the full sequence.
    """
    feeds = full_length(pair.manifest, cases.case(2, 30, at_reset=True).feeds)
    chunk = full_length(
        pair.manifest, take_steps(pair.manifest.time_axes, feeds, start=0, stop=5)
    )
    try:
        found = next(pair.graph.differences(feeds, chunk, _starts_otherwise), None)
    except RuntimeError:
        return ""
    node = None if found is None else found.producer()
    if found is None or node is None:
        return ""
    return f"{node.op_type} {node.name or found.name!r}"


def _starts_otherwise(full: Any, chunk_value: Any) -> bool:
    """Return True if ``chunk_value`` is not the start of ``full`` along the axes in which they
    differ in size.
    """
    is_float = isinstance(full, np.ndarray) and full.dtype.kind == "f"
    if not is_float or full.ndim != np.ndim(chunk_value):
        return False
    start = full[tuple(map(slice, chunk_value.shape))]
    is_longer = full.shape != chunk_value.shape and start.shape == chunk_value.shape
    if not is_longer:
        return False
    largest = np.abs(full).max(initial=1e-300)
    return not np.allclose(start, chunk_value, rtol=0, atol=1e-9 * largest)
