"""``lstm-edge selftest``: replay a file's golden case on this device."""

from pathlib import Path
from typing import Any

import click

from lstm_edge_runtime import load
from lstm_edge_runtime.errors import CheckFailedError
from lstm_edge_runtime.selftest import Comparison

from ._options import PATH, ModelOptions, model_argument, options_of, verb
from ._output import Output


@verb("selftest", extra="export")
@model_argument
@click.option(
    "--trace",
    "source",
    type=PATH,
    metavar="ONNX",
    help="Compare every operation of an .lep file with the graph that it was converted"
    " from, and name the first that differs.",
)
@options_of(options=ModelOptions)
def command(model: Path, source: Path | None, options: ModelOptions) -> Output:
    """Replay MODEL's golden cases on this device, in chunks, and compare with the
    reference.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx
      lstm-edge selftest har.lep --trace har.onnx
    """  # noqa: D301
    with load(model, **vars(options)) as opened:
        result = opened.selftest()
        engine = opened.engine
    rows = []
    for number, case in enumerate(result.cases, 1):
        rows += [_row(number, output) for output in case]
    error = None
    if not result.ok:
        error = CheckFailedError(
            f"the golden case fails on this device: {result.worst}"
        )
    traced: dict[str, Any] = {}
    if source is not None:
        from lstm_edge_exporters.targets.native.trace import trace

        comparison = trace(model, source)
        traced = {"trace": comparison}
        if comparison.first is not None:
            error = CheckFailedError(str(comparison.first))
    summary = {
        "ok": error is None,
        "engine": engine,
        "device": options.device,
        "comparisons": rows,
        **traced,
    }
    return Output(summary, title=str(model), error=error)


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
