"""The page of ``lstm-edge bench --html``."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

from lstm_edge_exporters.render import Axis, Plot, Series, render_page

from ..timing.measure import STREAMS, describe_costs

_PERCENTILES = ((2.0, "p50"), (10.0, "p90"), (100.0, "p99"))
"""Position of a percentile on a logarithmic axis: one call in this number takes longer."""


def bench_page(document: dict[str, Any], changes: Sequence[str] = ()) -> str:
    """Return the page for the result of ``measure``, and for the lines of a comparison with a baseline."""
    files = document["files"]
    rate = document["preemptions_per_second"]
    costs = list(map(describe_costs, files))
    return render_page(
        __package__,
        "bench.html.j2",
        files=files,
        ratios=document["ratios"],
        changes=changes,
        noise=document["noise"],
        preemptions=None if rate is None else f"{rate:.1f}",
        facts=[
            (title, _words(document[title])) for title in ("host", "software", "settings") if document[title]
        ],
        plots=_plots(files),
        costs=[(what, *(each.get(what, "") for each in costs)) for what in dict.fromkeys(chain(*costs))],
    )


def _plots(files: Sequence[dict[str, Any]]) -> list[Plot]:
    places = [place for place, _ in _PERCENTILES]
    steps = tuple(
        Series(file["name"], places, [found[name] for _, name in _PERCENTILES])
        for file in files
        if (found := file["latency_us"].get("step"))
    )
    streams = tuple(
        Series(file["name"], [float(count) for count in counts], [found[count] for count in counts])
        for file in files
        if (counts := sorted(found := file["samples_per_second"], key=float))
    )
    ticks = tuple((count, f"{count:g}") for count in sorted({x for series in streams for x in series.x}))
    percentiles, microseconds = Axis("percentile", "log", ticks=_PERCENTILES), Axis("microseconds", "log")
    together, throughput = Axis("streams per call", "log", ticks), Axis("samples per second", "log")
    shared = "Throughput when streams share a call."
    plots = [
        Plot("step", "One step", steps, percentiles, microseconds, "Time of one step."),
        Plot("streams", f"Many {STREAMS.strip()}", streams, together, throughput, shared),
    ]
    return [plot for plot in plots if plot.series]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items() if each not in (None, []))
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
