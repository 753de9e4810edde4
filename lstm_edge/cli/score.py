"""``lstm-edge score``: run a file on a Parquet data set of any size."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from ._extras import needing
from ._options import NAMES, PATH, engine_option, json_option, reset_every_option
from ._output import echo, echo_json, note, note_resets, print_table, progress

__all__ = ["command"]


@click.command("score")
@click.argument("dataset")
@click.option("-m", "--model", type=PATH, required=True, help="The model file.")
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write.")
@click.option("--series", metavar="COLUMN", help="Column that tells series apart.  [default: series]")
@click.option("--order", metavar="COLUMN", help="Column that a series is sorted by.  [default: order]")
@click.option("--features", type=NAMES, default=(), help="Columns.  [default: the model's]")
@click.option("--by-window", is_flag=True, help="Each row is a whole window: lists in place of numbers.")
@click.option("--events", is_flag=True, help="Write changes of the label too, in OUTPUT/_events.")
@click.option(
    "--hold",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="For --events, a label counts once it was the same for so many steps.",
)
@reset_every_option
@click.option(
    "--since",
    type=PATH,
    metavar="OUTPUT",
    help="Score only files that this earlier output does not hold, and go on from its states.",
)
@click.option("--skip-bad", is_flag=True, help="Leave out files that can't be read, and count them.")
@click.option("--workers", type=click.IntRange(1), help="Processes on this machine.  [default: one a core]")
@click.option("--address", help="A running Ray cluster to join: ray://HOST:PORT, HOST:PORT or auto.")
@engine_option
@json_option
def command(dataset: str, model: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Run a model on every series of DATASET, a folder, a file or a glob of Parquet with one row a sample.

    OUTPUT gets a file for each file of DATASET, with as many rows in the same order: the series, the order,
    and the label and each class's probability after that sample, or the predicted values. A series may be
    split over many files and longer than memory. OUTPUT appears when it is whole, and a second run replaces
    it.

    With the extra [cluster], Ray Data spreads the work over all cores or a cluster; with [parquet] alone, or
    with --workers 1, it is done in one process. The results are the same bits.

    \b
    Example:
      lstm-edge score days/ -m har.onnx -o scores --series device --order time
      lstm-edge score days/ -m har.onnx -o scores --since scores
      lstm-edge score 'windows/*.parquet' -m har.onnx -o scores --by-window
    """  # noqa: D301
    with needing("parquet", "score"):
        from lstm_edge.score.config import ScoreConfig
        from lstm_edge.score.pipeline import score
    with progress(quiet=as_json) as show:
        report = score(dataset, model, output, ScoreConfig(**options), show)
    if as_json:
        echo_json({"output": str(output), **asdict(report)})
        return
    if report.from_reset and options["since"] and not report.reset_every:
        note(
            f"the run in {options['since']} carried states on, and so did this one, though each window of "
            "the training started from reset; score everything without --since to start again with each"
        )
    elif report.from_reset:
        note_resets(report.reset_every, "series start again every {}")
    rows = [
        (stage.name, f"{stage.rows:,}", f"{stage.seconds:.1f}", f"{stage.rows_per_second:,.0f}")
        for stage in report.stages
    ]
    print_table(str(output), ("stage", "rows", "seconds", "rows/s"), rows)
    for name, why in report.left_out.items():
        echo(f"left out: {name}: {why}")
    known = f", {report.known:,} known from {options['since']}" if options["since"] else ""
    bad = f", {len(report.left_out):,} left out" if report.left_out else ""
    series = f" of {report.series:,} series" if report.series is not None else ""
    events = f"; {report.events:,} events" if report.events is not None else ""
    echo(f"{report.rows:,} rows{series} in {report.files:,} files{known}{bad}{events}")
    echo(
        f"{report.seconds:.1f} s, {report.rows_per_second:,.0f} rows/s, {report.workers} workers "
        f"({report.distribution}, {report.engine}); the slowest stage: {report.slowest}"
    )
