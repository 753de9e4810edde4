"""Operators along time that look back: what they look back at becomes states; see ``streaming``."""

from dataclasses import dataclass, replace

import onnx_ir as ir

from lstm_edge_runtime.manifest import Manifest, StateSpec

from ..streaming.flow import NotStreamableError
from ..streaming.stream import stream
from .config import ExportConfig


@dataclass(frozen=True)
class Past:
    """A graph whose operators along time carry what they look back at."""

    model: ir.Model
    states: tuple[StateSpec, ...]
    reach: int = 0
    """Steps that the added states hold."""
    need: str = ""
    """Why a file of its own streams, ``looks 3 steps ahead``; empty if the ordinary file does."""
    refused: str = ""
    """Why operators along time keep no past in states."""


def keep_past(model: ir.Model, manifest: Manifest, config: ExportConfig) -> Past:
    """Return the graph with the states of operators along time, if it computes the full sequence too."""
    plain = Past(model, manifest.states)
    if config.stateless or manifest.unstreamable:
        return plain
    try:
        found = stream(model, manifest.states, manifest.batch, manifest.sequence)
    except NotStreamableError as error:
        return replace(plain, refused=str(error))
    if not found.ordinary:
        return replace(plain, need=found.need)
    if not found.added:
        return plain
    added = tuple(state._replace(dtype=state.dtype.replace("float64", "float32")) for state in found.added)
    return Past(found.model, (*manifest.states, *added), found.reach)
