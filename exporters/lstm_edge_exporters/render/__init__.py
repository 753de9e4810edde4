"""Plots and pages: the one place that draws with matplotlib and fills HTML templates with jinja2.

Nothing here imports torch. ``pip install "lstm-edge[report]"`` installs what it needs.
"""

from .pages import render_page
from .plots import Axis, Plot, Series, draw_plot, draw_png

__all__ = ["Axis", "Plot", "Series", "draw_plot", "draw_png", "render_page"]
