"""A report of ``validate`` on a terminal: a row a group, then every failure in words."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lstm_edge_exporters.validate.report import Group, Report
from lstm_edge_runtime.errors import printable

__all__ = ["print_report"]

_STYLES = {"passed": "green", "failed": "bold red", "skipped": "dim"}


def print_report(report: Report, console: Console) -> None:
    """Print ``report``; names from files are taken as text, never as markup."""
    table = Table(
        title=_text(f"{report.model} against {report.reference}"), title_justify="left", header_style="bold"
    )
    for name in ("group", "checks", "floor", "error", "ratio", "result"):
        table.add_column(name, justify="left" if name in ("group", "result") else "right")
    for group in report.groups:
        table.add_row(*_row(group))
    console.print(table)
    for group, check, more in report.headlines:
        rest = f" (and {more} more in this group)" if more else ""
        console.print(_text(f"FAILED {group.title}: {check.name}: {check.message}{rest}", style="red"))
    for reason, titles in _skipped(report).items():
        console.print(_text(f"skipped {', '.join(titles)}: {reason}", style="dim"))
    for note in report.notes:
        console.print(_text(f"note: {note}"))
    console.print(_text(f"covered: {report.coverage}", style="dim"))
    console.print(_text(f"limits: {report.policy}; seed {report.seed}", style="dim"))
    total = f"{report.count('passed')} passed, {report.count('failed')} failed"
    skipped = report.count("skipped")
    console.print(
        _text(
            f"{'PASSED' if report.ok else 'FAILED'}: {total}, {skipped} skipped",
            style="bold green" if report.ok else "bold red",
        )
    )


def _text(text: str, style: str = "") -> Text:
    """Return a text with what a terminal would obey escaped."""
    return Text(printable(text), style)


def _skipped(report: Report) -> dict[str, list[str]]:
    """Return the groups that were left out, by the reason."""
    reasons: dict[str, list[str]] = {}
    for group in report.groups:
        if group.status == "skipped" and group.checks:
            reasons.setdefault(group.checks[0].message, []).append(group.title)
    return reasons


def _row(group: Group) -> list[Text]:
    worst = group.worst
    figures = ["", "", ""]
    if worst is not None:
        figures = [f"{value:.2g}" for value in (worst.floor, worst.error, worst.ratio)]
    result = _text(group.status, style=_STYLES[group.status])
    ran = len(group.checks) - group.count("skipped")
    return [_text(group.title), _text(str(ran)), *map(_text, figures), result]
