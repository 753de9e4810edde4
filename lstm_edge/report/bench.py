"""The page of ``lstm-edge bench --html``."""

from collections.abc import Sequence
from typing import Any

from lstm_edge_exporters.render import Axis, Plot, Series, render_page

from ..timing.measure import STREAMS

__all__ = ["bench_page"]

_PERCENTILES = ((2.0, "p50"), (10.0, "p90"), (100.0, "p99"))
"""Where a percentile stands on a logarithmic axis: one call in so many takes longer."""
_COSTS = (
    "bytes",
    "load, ms",
    "imports, ms",
    "peak memory, MB",
    "after imports, MB",
    "processor while waiting",
    "processor at the rate",
    "processor of pacing alone",
    "real-time factor",
)


def bench_page(document: dict[str, Any], changes: Sequence[str] = ()) -> str:
    """Return the page for what ``measure`` returned, and for the lines of a comparison with a baseline."""
    files = document["files"]
    rate = document["preemptions_per_second"]
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
        costs=list(zip(_COSTS, *map(_costs, files), strict=True)),
    )


def _plots(files: Sequence[dict[str, Any]]) -> list[Plot]:
    steps = [
        Series(
            file["name"],
            [x for x, _ in _PERCENTILES],
            [file["latency_us"]["step"][key] for _, key in _PERCENTILES],
        )
        for file in files
        if "step" in file["latency_us"]
    ]
    throughputs = {
        file["name"]: sorted((float(count), value) for count, value in file["samples_per_second"].items())
        for file in files
        if file["samples_per_second"]
    }
    streams = [
        Series(name, [count for count, _ in found], [value for _, value in found])
        for name, found in throughputs.items()
    ]
    plots = []
    if steps:
        percentiles = Axis("percentile", "log", ticks=_PERCENTILES)
        microseconds = Axis("microseconds", "log")
        plots.append(Plot("step", "One step", tuple(steps), percentiles, microseconds, "Time of one step."))
    if streams:
        counts = sorted({x for series in streams for x in series.x})
        ticks = tuple((count, f"{count:g}") for count in counts)
        throughput = Axis("samples per second", "log")
        plots.append(
            Plot(
                "streams",
                f"Many {STREAMS.strip()}",
                tuple(streams),
                Axis("streams per call", "log", ticks=ticks),
                throughput,
                "Throughput when streams share a call.",
            )
        )
    return plots


def _costs(file: dict[str, Any]) -> list[str]:
    load, cpu = file["load"], file["cpu"]
    return [
        f"{file['bytes']:,}",
        f"{load['load_ms']:.1f}",
        f"{load['import_ms']:.0f}",
        *(
            "" if load[key] is None else f"{load[key] / 1e6:.1f}"
            for key in ("peak_bytes", "beyond_import_bytes")
        ),
        *("" if cpu[key] is None else f"{cpu[key]:.2%}" for key in ("idle", "at_rate", "pacing_alone")),
        "" if file["real_time_factor"] is None else f"{file['real_time_factor']:.2g}",
    ]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(each)}" for key, each in value.items() if each not in (None, []))
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
