"""The colors of plots and pages, in light and in dark."""

__all__ = ["PALETTE", "SERIES", "style_variables"]

PALETTE = {
    "page": ("#f6f7f9", "#10151d"),
    "card": ("#fefefe", "#19212c"),
    "text": ("#1b2330", "#e6eaf1"),
    "soft": ("#5c6778", "#9aa7b8"),
    "line": ("#dde2ea", "#2d3848"),
    "blue": ("#2457d6", "#86adff"),
    "orange": ("#b45f06", "#f0a45d"),
    "green": ("#15803d", "#4ade80"),
    "red": ("#c62828", "#ff7b72"),
    "purple": ("#7a3ea8", "#c89bf0"),
    "gray": ("#4a5260", "#b4bdca"),
    "pale": ("#b9cbf5", "#34528f"),
}
"""Name to (light, dark); the light colors are all different, so that one can be found again in an SVG."""
SERIES = ("blue", "orange", "green", "purple", "red", "gray")
"""The colors of series that name none, in turn."""


def style_variables() -> str:
    """Return the palette as CSS custom properties, dark by ``prefers-color-scheme``."""
    light, dark = (
        " ".join(f"--{name}: {shades[place]};" for name, shades in PALETTE.items()) for place in (0, 1)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
