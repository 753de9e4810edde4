"""``lstm-edge selftest``: replay a file's golden case on this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.errors import CheckFailedError

from ._model import ModelOptions, model_options, open_model
from ._options import json_option, model_argument
from ._output import echo, echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime.selftest import SelfTest
    from lstm_edge_runtime.tolerance import Comparison

_ENGINES = {"native": "the C library", "onnxruntime": "onnxruntime"}


@click.command("selftest")
@model_argument
@model_options
@json_option
def command(model: Path, options: ModelOptions, as_json: bool) -> None:
    """Replay MODEL's golden cases on this device, whole and in chunks, and compare with the reference.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx --device cuda
      lstm-edge selftest har.lep
    """  # noqa: D301
    with open_model(model, options) as opened:
        found, engine = _own_case(opened.selftest()), opened.engine
    if as_json:
        echo_json(
            {
                "ok": all(each.ok for _, each in found),
                "engine": engine,
                "device": options.device,
                "comparisons": [_record(how, each) for how, each in found],
            }
        )
    else:
        rows = (
            ("ok" if each.ok else "FAIL", how, each.name, f"{each.max_abs:.3g}", f"{each.limit:.3g}")
            for how, each in found
        )
        header = ("", "replayed", "output", "largest difference", "limit")
        print_table(f"{model} on {_ENGINES[engine]} ({options.device})", header, rows)
        if all(how.startswith("whole") for how, _ in found):
            echo("not replayed in chunks: the file can't be run in chunks, or the case is too short")
    how, worst = max(found, key=lambda pair: pair[1].ratio)
    if not worst.ok:
        raise CheckFailedError(f"the golden case fails on this device ({how}): {worst}")


def _own_case(found: "SelfTest") -> list[tuple[str, "Comparison"]]:
    several = any(replay.case for replay in found.replays)
    return [
        (f"{replay.how}, case {replay.case + 1}" if several else replay.how, each)
        for replay in found.replays
        for each in replay.comparisons
    ]


def _record(how: str, comparison: "Comparison") -> dict[str, Any]:
    """Return a comparison as a JSON document, with None for a difference that is not finite."""
    return {
        "replayed": how,
        "output": comparison.name,
        "ok": comparison.ok,
        "max_abs": comparison.max_abs if comparison.max_abs < float("inf") else None,
        "limit": comparison.limit,
        "floor": comparison.floor,
        "where": list(comparison.where),
    }
