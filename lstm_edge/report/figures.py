"""Matplotlib without a display and without files outside the given folders."""

import io
import os
import tempfile
from contextlib import AbstractContextManager
from typing import Any

with (
    tempfile.TemporaryDirectory() as _fonts
):  # matplotlib writes its list of fonts when it is imported
    _given = os.environ.setdefault("MPLCONFIGDIR", _fonts)
    import matplotlib as mpl
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator as LogLocator
    from matplotlib.ticker import MaxNLocator as MaxNLocator
    from matplotlib.ticker import NullFormatter as NullFormatter

    if _given == _fonts:
        del os.environ["MPLCONFIGDIR"]

WIDTH = 6.4
"""Inches. At 320 pixels, half of the figure's width, its text is still readable."""
_STYLE: Any = {
    "font.size": 13,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "text.parse_math": False,  # names may have dollar signs
}


def drawing() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in one style."""
    return mpl.rc_context(_STYLE)


def new_figure(rows: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure with one axes per row, of ``height`` inches each."""
    figure = Figure((WIDTH, rows * height), layout="constrained", dpi=100)
    axes = figure.subplots(rows, 1, squeeze=False)
    return figure, list(axes[:, 0])


def to_png(figure: Figure) -> bytes:
    """Return a figure as PNG, the same bytes for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()
