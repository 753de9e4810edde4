"""A report as one HTML page: the verdict, the smallest failing case, figures, and every check."""

from collections.abc import Sequence

from ..render import Axis, Plot, Series, render_page
from .report import MAX_CHECKS, Curve, Group, Report


def to_html(report: Report) -> str:
    """Return ``report`` as an HTML document; everything that comes from a file is escaped."""
    return render_page(__package__, "report.html.j2", report=report, plots=_plots(report), most=MAX_CHECKS)


def _plots(report: Report) -> list[Plot]:
    """Return every plot that ``report`` has figures for."""
    figures = report.figures
    plots = [_ratios(report.groups)]
    if figures.steps:
        caption = "One sample at a time, states carried by the file."
        plots.append(_curve("steps", "Error against step", figures.steps, caption))
    if figures.margins:
        plots.append(_margins(report))
    return plots


def _ratios(groups: Sequence[Group]) -> Plot:
    """One row a group, one dot a check: its error as a fraction of its limit."""
    rows: list[str] = []
    dots: dict[str, list[tuple[float, float]]] = {"passed": [], "failed": []}
    for group in groups:
        measured = [(each, each.worst) for each in group.checks if each.worst and each.worst.ratio > 0]
        for check, worst in measured:
            dots["failed" if check.status == "failed" else "passed"].append((worst.ratio, len(rows)))
        rows += [group.title] if measured else []
    kinds = (
        ("a check", dots["passed"], "points", "blue"),
        ("a failed check", dots["failed"], "points", "red"),
        ("limit", [(1.0, place) for place in range(len(rows))], "marks", "orange"),
    )
    return Plot(
        "ratios",
        "Error by limit, by group",
        tuple(
            Series(name, [x for x, _ in found], [y for _, y in found], kind, color)  # type: ignore[arg-type]
            for name, found, kind, color in kinds
            if found
        ),
        Axis("error ÷ limit", "log"),
        Axis(rows=tuple(rows)),
        "A dot a check; beyond the mark it fails.",
    )


def _curve(key: str, title: str, curve: Curve, caption: str) -> Plot:
    return Plot(
        key,
        title,
        (
            Series("limit", curve.steps, [curve.limit] * len(curve.steps), color="orange"),
            Series("this file", curve.steps, curve.error, color="blue"),
        ),
        Axis("time step"),
        Axis("absolute error", "log"),
        caption,
    )


def _margins(report: Report) -> Plot:
    """A dot a sample: how sure the reference was; those that the file labels otherwise stand out."""
    margins = report.figures.margins
    wrong = {each.place for each in report.figures.disagreements}
    alike = [place for place in range(len(margins)) if place not in wrong]
    return Plot(
        "disagreements",
        "Samples that the two label differently",
        tuple(
            Series(name, places, [margins[place] for place in places], "points", color)
            for name, places, color in (
                ("labeled alike", alike, "blue"),
                ("labeled differently", sorted(wrong), "red"),
            )
            if places
        ),
        Axis("sample"),
        Axis("margin", "log"),
        f"{len(wrong) or 'None'} of {len(margins)}. The margin is how sure the reference was.",
    )
