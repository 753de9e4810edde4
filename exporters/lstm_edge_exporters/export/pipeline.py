"""The stages of an export: request, axes, trace, lowered graph, states, file, verified artifact.

Each stage is a function from records to the next one in the file of its name, and none reaches back. Why a
stage failed is what ``diagnose`` finds out afterwards. A new graph pass is called in ``lower``.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from lstm_edge_runtime.errors import CheckFailedError, InputError, UnsupportedError

from ..numerics.reference import Signature
from ..numerics.verify import StatesRefusedError
from ..progress import Progress, ignore
from .artifact import Artifact, verify_file
from .axes import find_axes
from .config import ExportConfig
from .file import File, make_file
from .lower import lower
from .ranges import FewSizesError
from .request import Request, UnrepeatableError, make_request
from .states import keep_past, lift
from .trace import TURNS, trace


def export_verified(module: nn.Module, example: Any, config: ExportConfig, show: Progress) -> Artifact:
    """Trace, lower, verify and finalize; see ``export``. Threads take turns."""
    with TURNS:
        show(0.0, "tracing the module")
        request = make_request(module, example, config)
        try:
            return _convert_verified(request, show)
        except StatesRefusedError as error:
            if config.stateless:
                raise
            stateless = replace(request, config=replace(config, stateless=True))
            made = _convert_verified(stateless, ignore)
            note = f"states that are no arguments stay in the graph: {error}"
        except FewSizesError as error:
            made = _export_nearby(module, request.signature, config, error)
            note = f"the example itself is out of range: {error}"
        return replace(made, notes=(*made.notes, note))


def _export_nearby(
    module: nn.Module, signature: Signature, config: ExportConfig, error: FewSizesError
) -> Artifact:
    """Export at one step or row less or more than the example; raise ``error`` where neither works."""
    for feeds in error.nearby:
        tensors = tuple(torch.from_numpy(feeds[name]) for name in signature.names)
        with suppress(InputError, UnsupportedError, CheckFailedError):
            request = make_request(module, signature.with_example(tensors), config)
            return _convert_verified(request, ignore)
    raise error


def _convert_verified(request: Request, show: Progress) -> Artifact:
    """Convert and verify; without states of the past where a file with them is not the module in chunks."""
    files = convert(request)
    file = next(files)
    try:
        return verify_file(file, request.config, show)
    except StatesRefusedError:
        raise
    except (CheckFailedError, UnsupportedError):
        if (without_past := next(files, None)) is None:
            raise
        return verify_file(without_past, request.config, show)


def convert(request: Request) -> Iterator[File]:
    """Take a request through every stage up to its verification.

    Yields:
        The file; and if operators along time keep what they look back at in states, the file without these.

    Raises:
        InputError, UnsupportedError: as ``export``.
    """
    with _diagnosed(request):
        traced = trace(request, find_axes(request))
    lowered = lower(request, traced)
    lifted = lift(lowered, stateless=request.config.stateless)
    kept = keep_past(lifted, lowered, stateless=request.config.stateless)
    for each in (kept, lifted) if kept.past else (kept,):
        file = make_file(request, traced, lowered, each)
        with _diagnosed(request):
            _check_repeatable(file)  # before other batches: a kept state has one size
        yield replace(file, cases=file.cases.fitted_to(file.reference.run))


@contextmanager
def _diagnosed(request: Request) -> Iterator[None]:
    """Raise with the line, the reason and the advice what a stage raises."""
    try:
        yield
    except (InputError, UnsupportedError) as error:
        from .diagnose import diagnose

        raise diagnose(error, request) from error


def _check_repeatable(file: File) -> None:
    """Refuse a module that gives something else on every call.

    Raises:
        UnrepeatableError: two runs on the same inputs differ.
    """
    case = file.cases.example() or file.cases.case(2, 9, at_reset=True, full=True)
    try:
        first, again = file.reference.run(case.feeds), file.reference.run(case.feeds)
    except Exception:  # noqa: BLE001  a size that the module refuses tells nothing; verification will say so
        return
    for name, array in first.items():
        if not np.array_equal(array, again[name], equal_nan=array.dtype.kind == "f"):
            raise UnrepeatableError(f"forward gives another {name} on every call")
