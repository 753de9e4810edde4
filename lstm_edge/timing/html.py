"""A measurement as one HTML page that needs nothing else: tables and inline SVG, every text escaped."""

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from ._svg import Points, line_plot
from .measure import STREAMS

__all__ = ["render_html"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd }
svg { width: 100%; font: 12px system-ui, sans-serif } polyline { fill: none; stroke-width: 2 }
.grid { stroke: #ddd } footer { color: #666 }
"""

_PERCENTILES = (("p50", 50.0), ("p90", 90.0), ("p99", 99.0))


def render_html(document: dict[str, Any], changes: Sequence[str] = ()) -> str:
    """Return the page for what ``measure`` gave, and the lines of a comparison, if there was one."""
    files = document["files"]
    host, software = document["host"], document["software"]
    sections = [
        "<h1>lstm-edge bench</h1>",
        f"<p>{_join(host)}<br>{_join(software)}<br>{_join(document['settings'])}</p>",
        f"<p>A fixed piece of work varied by {document['noise']:.1%} between rounds; other work took the "
        f"core {document['preemptions_per_second'] or 0:.1f} times a second, which is in p99 and max.</p>",
        "<h2>Latency in microseconds</h2>",
        _table(
            ["file", "call", "p50", "p90", "p99", "max", "calls"],
            (
                [
                    file["name"],
                    call,
                    *(f"{found[key]:.1f}" for key in ("p50", "p90", "p99", "max")),
                    found["count"],
                ]
                for file in files
                for call, found in file["latency_us"].items()
            ),
        ),
        *_plots(files),
    ]
    if document["ratios"]:
        rows = (
            [
                one["file"],
                one["against"],
                one["measure"],
                f"{one['ratio']:.3f}",
                f"{one['low']:.3f} .. {one['high']:.3f}",
            ]
            for one in document["ratios"]
        )
        sections += [
            "<h2>Ratios of time, side by side</h2>",
            _table(["file", "against", "call", "ratio", "95 % interval"], rows),
        ]
    if changes:
        sections += [
            "<h2>Against the baseline</h2>",
            f"<ul>{''.join(f'<li>{escape(c)}' for c in changes)}</ul>",
        ]
    sections += ["<h2>Costs</h2>", _table(_COST_HEADER, map(_costs, files))]
    body = "\n".join(sections)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>lstm-edge bench</title>'
        f"<style>{_STYLE}</style><body>{body}</body></html>\n"
    )


_COST_HEADER = [
    "file", "bytes", "load ms", "import ms", "peak MB", "beyond imports MB", "of a core idle", "at the rate",
    "pacing alone", "real-time factor",
]  # fmt: skip


def _costs(file: dict[str, Any]) -> list[str]:
    load, cpu = file["load"], file["cpu"]
    return [
        file["name"],
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


def _plots(files: Sequence[dict[str, Any]]) -> list[str]:
    steps: dict[str, Points] = {
        file["name"]: [(1 / (1 - at / 100), file["latency_us"]["step"][key]) for key, at in _PERCENTILES]
        for file in files
        if "step" in file["latency_us"]
    }
    streams: dict[str, Points] = {
        file["name"]: sorted((float(count), value) for count, value in file["samples_per_second"].items())
        for file in files
        if file["samples_per_second"]
    }
    plots = []
    if steps:
        ticks = [(1 / (1 - at / 100), key) for key, at in _PERCENTILES]
        plots += ["<h2>One step</h2>", line_plot("step latency", "percentile", "microseconds", steps, ticks)]
    if streams:
        counts = sorted({x for points in streams.values() for x, _ in points})
        ticks = [(count, f"{count:g}") for count in counts]
        plots += [
            f"<h2>Many {STREAMS}</h2>",
            line_plot("throughput", "streams in a call", "samples a second", streams, ticks),
        ]
    return plots


def _table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(name)}" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}" for cell in row) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _join(mapping: dict[str, Any]) -> str:
    return escape(
        ", ".join(f"{key} {_words(value)}" for key, value in mapping.items() if value not in (None, []))
    )


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items() if part is not None)
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
