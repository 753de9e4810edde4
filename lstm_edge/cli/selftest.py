"""``lstm-edge selftest``: replay a file's golden cases on this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.errors import CheckFailedError

from ._model import ModelOptions, model_options, open_model
from ._options import json_option, model_argument
from ._output import echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime.tolerance import Comparison

_ENGINES = {"native": "the C library", "onnxruntime": "onnxruntime"}


@click.command("selftest")
@model_argument
@model_options
@json_option
def command(model: Path, options: ModelOptions, as_json: bool) -> None:
    """Replay MODEL's golden cases on this device, in chunks, and compare with the reference.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx --device cuda
      lstm-edge selftest har.lep
    """  # noqa: D301
    with open_model(model, options) as opened:
        found, engine = opened.selftest(), opened.engine
    cases = [(number, each) for number, case in enumerate(found.cases, 1) for each in case]
    if as_json:
        records = [_record(number, each) for number, each in cases]
        echo_json({"ok": found.ok, "engine": engine, "device": options.device, "comparisons": records})
    else:
        rows = (
            ("ok" if each.ok else "FAIL", str(number), each.name, f"{each.max_abs:.3g}", f"{each.limit:.3g}")
            for number, each in cases
        )
        header = ("", "case", "output", "largest difference", "limit")
        print_table(f"{model} on {_ENGINES[engine]} ({options.device})", header, rows)
    if not found.ok:
        raise CheckFailedError(f"the golden case fails on this device: {found.worst}")


def _record(case: int, comparison: "Comparison") -> dict[str, Any]:
    """Return a comparison as a JSON document, with None for a difference that is not finite."""
    return {
        "case": case,
        "output": comparison.name,
        "ok": comparison.ok,
        "max_abs": comparison.max_abs if comparison.max_abs < float("inf") else None,
        "limit": comparison.limit,
        "floor": comparison.floor,
        "where": list(comparison.where),
    }
