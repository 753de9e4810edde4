"""``lstm-edge selftest``: replay a file's golden case on this device."""

from pathlib import Path

from lstm_edge_runtime.errors import CheckFailedError

from ._model import ModelOptions, open_model
from ._options import model_argument, options_of, verb
from ._output import Report


@verb("selftest")
@model_argument
@options_of(options=ModelOptions)
def command(model: Path, options: ModelOptions) -> Report:
    """Replay MODEL's golden cases on this device, whole and in chunks, and compare with the reference.

    If an output exceeds its limit, the worst element is printed and the exit code is 1.

    \b
    Example:
      lstm-edge selftest har.onnx --device cuda
      lstm-edge selftest har.lep
    """  # noqa: D301
    with open_model(model, options) as opened:
        replays, engine = opened.selftest().replays, opened.engine
    several = any(replay.case for replay in replays)
    found = [
        (f"{replay.how}, case {replay.case + 1}" if several else replay.how, each)
        for replay in replays
        for each in replay.comparisons
    ]
    rows = [
        {
            "ok": each.ok,
            "replayed": how,
            "output": each.name,
            "max_abs": each.max_abs,
            "limit": each.limit,
            "floor": each.floor,
            "where": each.where,
        }
        for how, each in found
    ]
    how, worst = max(found, key=lambda pair: pair[1].ratio)
    error = None if worst.ok else CheckFailedError(f"the golden case fails on this device ({how}): {worst}")
    notes = []
    if all(how.startswith("whole") for how, _ in found):
        notes.append("not replayed in chunks: the file can't be run in chunks, or the case is too short")
    summary = {"ok": worst.ok, "engine": engine, "device": options.device}
    return Report(summary | {"comparisons": rows, "notes": notes}, str(model), error=error)
