"""Line plots as inline SVG: logarithmic axes, a legend, no scripts, every text escaped."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["line_plot"]

_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 160, 20, 50
_COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#e08214", "#762a83", "#4d4d4d")

Points = Sequence[tuple[float, float]]


def line_plot(
    title: str, x_label: str, y_label: str, lines: Mapping[str, Points], ticks: Sequence[tuple[float, str]]
) -> str:
    """Draw lines over positive coordinates, both axes logarithmic.

    Args:
        title: for those who can't see it.
        x_label: under the x axis.
        y_label: beside the y axis.
        lines: by name, points ``(x, y)`` in the order of x.
        ticks: places on the x axis and what is written there.
    """
    xs = [x for x, _ in ticks]
    ys = [y for points in lines.values() for _, y in points]
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    high = max(high, low + 1)

    def across(x: float) -> float:
        span = math.log(max(xs)) - math.log(min(xs)) or 1.0
        return _LEFT + (math.log(x) - math.log(min(xs))) / span * (_WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return _HEIGHT - _BOTTOM - (math.log10(y) - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    heights = [(f"{10.0**power:g}", f"{up(10.0**power):.1f}") for power in range(low, high + 1)]
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">',
        *(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<text x="{_LEFT - 8}" y="{y}" dy="4" text-anchor="end">{text}</text>'
            for text, y in heights
        ),
        *(
            f'<text x="{across(x):.1f}" y="{bottom + 18}" text-anchor="middle">{escape(text)}</text>'
            for x, text in ticks
        ),
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {(_TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>",
    ]
    for place, (name, points) in enumerate(lines.items()):
        color = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" stroke="{color}"/>')
        parts += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{color}"/>' for x, y in points]
        row = _TOP + 12 + 18 * place
        parts.append(f'<rect x="{right + 14}" y="{row - 9}" width="10" height="10" fill="{color}"/>')
        parts.append(f'<text x="{right + 30}" y="{row}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])
