"""``lstm-edge score``: run a model on a Parquet data set of any size."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lstm_edge_runtime.errors import counted

from ._extras import needing
from ._options import PATH, json_option, names, reset_every_option
from ._output import echo, echo_json, note, note_resets, print_table, progress


@click.command("score")
@click.argument("dataset")
@click.option("-m", "--model", type=PATH, required=True, help="Model file.")
@click.option("-o", "--output", type=PATH, required=True, help="Output folder.")
@click.option("--series", metavar="COLUMN", help="Column with the series id.  [default: series]")
@click.option("--order", metavar="COLUMN", help="Column to sort each series by.  [default: order]")
@click.option("--features", type=names, default=(), help="Feature columns.  [default: the model's]")
@click.option("--by-window", is_flag=True, help="Each row is a whole window: lists instead of numbers.")
@click.option("--events", is_flag=True, help="Also write changes of the label to OUTPUT/_events.")
@click.option(
    "--hold",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="For --events: a label must be the same for this number of steps.",
)
@reset_every_option
@click.option(
    "--since",
    type=PATH,
    metavar="OUTPUT",
    help="Only score files that are not in this earlier output, and continue from its states.",
)
@click.option("--skip-bad", is_flag=True, help="Skip and count files that can't be read.")
@click.option(
    "--workers", type=click.IntRange(1), help="Number of processes on this machine.  [default: one per core]"
)
@click.option("--address", help="Running Ray cluster to join: ray://HOST:PORT, HOST:PORT or auto.")
@json_option
def command(dataset: str, model: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Run a model on every series of DATASET, a folder, a file or a glob of Parquet with one row per sample.

    OUTPUT has one file per file of DATASET, with the same rows in the same order: the series, the order,
    and the label and probability of each class after that sample, or the predicted values. A series may be
    split over many files and larger than memory. OUTPUT is written atomically, and replaced by the next run.

    With the extra [cluster], Ray Data distributes the work over all cores or a cluster; with only [parquet],
    or with --workers 1, it runs in one process. The results are the same bits.

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
            f"the run in {options['since']} carried states on, and so did this one, although each training "
            "window started from reset; score everything without --since to reset at every window"
        )
    elif report.from_reset:
        note_resets(report.reset_every, "series are reset every {}")
    rows = [
        (stage.name, f"{stage.rows:,}", f"{stage.seconds:.1f}", f"{stage.rows_per_second:,.0f}")
        for stage in report.stages
    ]
    print_table(str(output), ("stage", "rows", "seconds", "rows/s"), rows)
    for name, why in report.left_out.items():
        echo(f"skipped: {name}: {why}")
    known = f", {report.known:,} already in {options['since']}" if options["since"] else ""
    bad = f", {len(report.left_out):,} skipped" if report.left_out else ""
    series = f" of {report.series:,} series" if report.series is not None else ""
    events = f"; {counted(report.events, 'event')}" if report.events is not None else ""
    echo(f"{counted(report.rows, 'row')}{series} in {counted(report.files, 'file')}{known}{bad}{events}")
    workers = f"{counted(report.workers, 'worker')} ({report.distribution}, {report.engine})"
    echo(
        f"{report.seconds:.1f} s, {report.rows_per_second:,.0f} rows/s, {workers}; the slowest stage: "
        f"{report.slowest}"
    )
