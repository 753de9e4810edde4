"""``lstm-edge selftest``: whether a file computes on this device what it computed where it was made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._model import device_option, model_argument, open_model, threads_option
from ._output import console, echo_json, json_option, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime.tolerance import Comparison

__all__ = ["command"]


@click.command("selftest")
@model_argument
@device_option
@threads_option
@json_option
def command(model: Path, device: str, threads: Any, as_json: bool) -> None:
    """Replay MODEL's golden case on this device, whole and in chunks, and compare with the reference.

    Exits with 1 and names the worst element where an output is beyond its limit.

    \b
    Example:
      lstm-edge selftest har.onnx --device cuda
    """  # noqa: D301
    with open_model(model, device, threads) as opened:
        found = opened.selftest()
        providers = opened.providers
    parts = (("whole", found.whole), ("in chunks", found.chunked))
    if as_json:
        echo_json(
            {
                "ok": found.ok,
                "providers": list(providers),
                "comparisons": [_record(how, each) for how, part in parts for each in part],
            }
        )
    else:
        rows = [
            ("ok" if each.ok else "FAIL", how, each.name, f"{each.max_abs:.3g}", f"{each.limit:.3g}")
            for how, part in parts
            for each in part
        ]
        print_table(
            f"{model} on {providers[0]}", ["", "replayed", "output", "largest difference", "limit"], rows
        )
        if not found.chunked:
            console().print(
                "not replayed in chunks: the file can't be fed in chunks, or the case is too short"
            )
    found.require()


def _record(how: str, comparison: "Comparison") -> dict[str, Any]:
    """Give a comparison ready for JSON; a difference that is not finite as None."""
    return {
        "replayed": how,
        "output": comparison.name,
        "ok": comparison.ok,
        "max_abs": comparison.max_abs if comparison.max_abs < float("inf") else None,
        "limit": comparison.limit,
        "floor": comparison.floor,
        "where": list(comparison.where),
    }
