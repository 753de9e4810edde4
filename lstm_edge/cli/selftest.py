"""``lstm-edge selftest``: replay a file's golden case on this device."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lstm_edge_runtime.errors import CheckFailedError

from ._model import ModelOptions, model_options, open_model
from ._options import PATH, json_option, model_argument
from ._output import echo, echo_json, print_table

if TYPE_CHECKING:
    from lstm_edge_runtime import Model
    from lstm_edge_runtime.selftest import SelfTest
    from lstm_edge_runtime.tolerance import Comparison


@click.command("selftest")
@model_argument
@click.option("--golden", type=PATH, metavar="DIR", help="Replay the golden vectors in DIR instead.")
@model_options
@json_option
def command(model: Path, golden: Path | None, options: ModelOptions, as_json: bool) -> None:
    """Replay MODEL's golden case on this device, whole and in chunks, and compare with the reference.

    If streams run on the native engine, both engines replay it.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx --device cuda
      lstm-edge selftest har.onnx --golden golden
    """  # noqa: D301
    from lstm_edge_runtime.native.choice import native_selftest

    from lstm_edge_runtime.model import read_model
    from lstm_edge_runtime.ort import CPU

    with open_model(model, options) as opened:
        found = _own_case(opened.selftest()) if golden is None else _folder(opened, golden)
        providers, interface = opened.providers, opened.manifest
    engines = ["the native engine" if options.engine == "native" or not providers else providers[0]]
    if golden is None and options.engine == "auto" and providers[:1] == (CPU,):
        other = native_selftest(read_model(model)[1], interface)
        if other is not None:
            found += [(f"{how}, native engine", each) for how, each in _own_case(other)]
            engines.append("the native engine")
    if as_json:
        echo_json(
            {
                "ok": all(each.ok for _, each in found),
                "providers": list(providers),
                "engines": engines,
                "comparisons": [_record(how, each) for how, each in found],
            }
        )
    else:
        rows = (
            ("ok" if each.ok else "FAIL", how, each.name, f"{each.max_abs:.3g}", f"{each.limit:.3g}")
            for how, each in found
        )
        header = ("", "replayed", "output", "largest difference", "limit")
        print_table(f"{model} on {' and '.join(engines)}", header, rows)
        if golden is None and all(how.startswith("whole") for how, _ in found):
            echo("not replayed in chunks: the file can't be run in chunks, or the case is too short")
    how, worst = max(found, key=lambda pair: pair[1].ratio)
    if not worst.ok:
        what = "the golden case fails" if golden is None else "golden vectors fail"
        raise CheckFailedError(f"{what} on this device ({how}): {worst}")


def _own_case(found: "SelfTest") -> list[tuple[str, "Comparison"]]:
    several = any(replay.case for replay in found.replays)
    return [
        (f"{replay.how}, case {replay.case + 1}" if several else replay.how, each)
        for replay in found.replays
        for each in replay.comparisons
    ]


def _folder(model: "Model", folder: Path) -> list[tuple[str, "Comparison"]]:
    from lstm_edge_runtime.golden import read_golden, replay

    return [
        (f"{each.set_name}, states carried" if each.carried else each.set_name, each.comparison)
        for each in replay(model, read_golden(folder))
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
