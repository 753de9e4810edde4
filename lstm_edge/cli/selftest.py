"""``lstm-edge selftest``: replay a file's golden case on this device."""

from pathlib import Path
from typing import Any

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.selftest import Comparison

from ._options import ModelOptions, model_argument, options_of, verb
from ._output import Report


@verb("selftest")
@model_argument
@options_of(options=ModelOptions)
def command(model: Path, options: ModelOptions) -> Report:
    """Replay MODEL's golden cases on this device, in chunks, and compare with the
    reference.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx
    """  # noqa: D301
    with load(model, **vars(options)) as opened:
        result = opened.selftest()
        engine = opened.engine
    rows = []
    for number, case in enumerate(result.cases, 1):
        rows += [_row(number, output) for output in case]
    failed = f"the golden case fails on this device: {result.worst}"
    summary = {
        "ok": result.ok,
        "engine": engine,
        "device": options.device,
        "comparisons": rows,
    }
    return Report(
        summary, title=str(model), error=None if result.ok else CheckFailedError(failed)
    )


def _row(case: int, output: Comparison) -> dict[str, Any]:
    """Return the row of an output in the table."""
    return {
        "ok": output.ok,
        "case": case,
        "output": output.name,
        "max_abs": output.max_abs,
        "limit": output.limit,
        "where": output.where,
    }
