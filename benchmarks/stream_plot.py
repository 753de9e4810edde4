"""A bar chart of step times as SVG, drawn by hand: one group a size, each on its own scale."""

from collections.abc import Mapping
from html import escape

__all__ = ["draw"]

_BAR, _GAP, _LEFT, _WIDTH, _HEAD = 22, 26, 150, 720, 46
_COLOURS = {"step": "#0b6e4f", "bound run": "#8cc5ad", "loop": "#c8553d"}


def draw(steps: Mapping[str, Mapping[str, float]]) -> str:
    """Return the chart of ``steps``: microseconds by contestant, by size."""
    parts, y = [], _HEAD
    for size, times in steps.items():
        scale = (_WIDTH - _LEFT - 110) / max(times.values())
        parts.append(_text(10, y + _BAR * len(times) / 2 + 4, size, weight="bold"))
        for name, value in times.items():
            label = {"step": "Stream.step", "loop": "session.run loop"}.get(name, name)
            width = f"{value * scale:.1f}"
            fill = _COLOURS.get(name, "#9aa5b1")
            parts.append(_text(_LEFT - 8, y + 15, label, anchor="end"))
            parts.append(f'<rect x="{_LEFT}" y="{y + 2}" width="{width}" height="{_BAR - 5}" fill="{fill}"/>')
            parts.append(_text(_LEFT + value * scale + 6, y + 15, f"{value:.1f} µs"))
            y += _BAR
        y += _GAP
    title = _text(10, 24, "One time step on one thread (each size on its own scale)", weight="bold")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y}" width="{_WIDTH}" height="{y}" '
        'font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{y}" fill="#ffffff"/>\n' + "\n".join([title, *parts]) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
