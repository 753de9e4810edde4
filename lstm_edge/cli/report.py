"""``lstm-edge report``: write a report of a trained run."""

from pathlib import Path

import click

from ._extras import needing
from ._options import PATH, json_option
from ._output import echo, echo_json


@click.command("report")
@click.argument("run", type=PATH)
@json_option
def command(run: Path, as_json: bool) -> None:
    """Write report.html and curves.png to the folder RUN, from its metrics.

    The report shows loss and score by epoch, the confusion matrix with precision, recall and F1 of each class
    or the error against the target, misclassified samples, the mean signal of each class, and a description
    of the data. It needs neither torch nor the data.

    \b
    Example:
      lstm-edge report runs/har
    """  # noqa: D301
    with needing("report", "report"):
        from lstm_edge.report.training import write_report
    page, curves = write_report(run)
    if as_json:
        echo_json({"report": str(page), "curves": str(curves)})
    else:
        echo(f"wrote {page} and {curves}")
