"""What every stream requires: a file that streams, a reset interval, one thread at a
time.
"""

import sys
from typing import Any

import numpy as np

from .axes import Layout, layouts
from .engine import Engine
from .errors import ContractError, InputError, StateError
from .manifest import Manifest

NEVER = sys.maxsize
"""The reset interval of a stream that is never reset."""


class Entry:
    """A context for one thread at a time; a second one is refused at once and never
    waits.
    """

    __slots__ = ("free",)

    def __init__(self) -> None:
        self.free = [None]
        """Empty while a thread is inside: ``pop`` is atomic and takes half the time of
        a lock."""

    def __enter__(self) -> None:
        try:
            self.free.pop()
        except IndexError:
            raise in_use() from None

    def __exit__(self, *error: object) -> None:
        self.free.append(None)


def in_use() -> StateError:
    """Return the error for a second thread."""
    return StateError(
        "another thread is using this stream; use one per thread, or take turns"
    )


def reset_interval(reset_every: Any) -> int:
    """Return the number of steps after which a stream is reset."""
    if reset_every is None or reset_every == "never":
        return NEVER
    if type(reset_every) is not int or reset_every < 1:
        raise InputError(
            f"reset_every is {reset_every!r:.40}, expected a positive integer or 'never'"
        )
    return reset_every


def check_streamable(manifest: Manifest) -> None:
    """Raise ``ContractError`` if the file has no states, or chunks differ from the full
    sequence.
    """
    reason = manifest.unstreamable
    if not reason and not manifest.states and not manifest.is_buffered:
        reason = "it has no states"
    if reason:
        raise ContractError(
            f"this file can't be streamed: {reason}; use run() on whole sequences"
        )


def check_batched(engine: Engine) -> None:
    """Raise ``ContractError`` if a tensor has no batch axis, or an output has no NaN to
    mark frames that are missing.
    """
    manifest = engine.manifest
    states = layouts(manifest.states, manifest)
    for layout in (*engine.inputs, *engine.outputs, *states):
        is_output = layout in engine.outputs
        if layout.batch is None or (layout.factor and not is_output):
            raise _not_batched(layout, f"has no axis {manifest.batch or 'N'}")
        if manifest.is_buffered and is_output and np.dtype(layout.dtype).kind != "f":
            raise _not_batched(layout, f"is {layout.dtype}, which has no NaN")


def _not_batched(layout: Layout, reason: str) -> ContractError:
    """Return the error for a file whose tensors have no batch axis."""
    return ContractError(
        f"{layout.name} {reason}; open one stream() per source instead"
    )
