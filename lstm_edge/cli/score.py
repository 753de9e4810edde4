"""``lstm-edge score``: run a model on a Parquet data set of any size."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from lstm_edge_runtime.errors import InputError, counted

from ._extras import needing
from ._options import PATH, fill, json_option, names, reset_every_option
from ._output import echo, echo_json, progress


@click.command("score")
@click.argument("dataset")
@click.option("-m", "--model", type=PATH, required=True, help="Model file.")
@click.option("-o", "--output", type=PATH, required=True, help="Output folder, which must not exist.")
@click.option("--series", metavar="COLUMN", default="series", help="Column with the series id.")
@click.option("--order", metavar="COLUMN", default="order", help="Column to sort each series by.")
@click.option("--features", type=names, default=(), help="Feature columns.  [default: the model's]")
@click.option("--events", is_flag=True, help="Also write changes of the label to OUTPUT/_events.")
@click.option(
    "--hold",
    type=click.IntRange(min=1),
    metavar="STEPS",
    default=1,
    help="For --events: a label must be the same for this number of steps.",
)
@reset_every_option
@click.option("--since", metavar="OUTPUT", help="Continue an earlier run: skip its files, take its states.")
@click.option("--skip-bad", is_flag=True, help="Skip and name files that can't be read.")
@click.option("--workers", type=click.IntRange(1), help="Number of processes.  [default: one per core]")
@click.option("--address", help="Running Ray cluster to use: ray://HOST:PORT, HOST:PORT or auto.")
@json_option
def command(
    dataset: str,
    model: Path,
    output: Path,
    workers: int | None,
    address: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Run a model on every series of DATASET, a folder, a file or a glob of Parquet with one row per sample.

    OUTPUT has one row per sample, ordered by series: the series, the order, and the label and probability of
    each class after that sample, or the predicted values. A series may be split over many files and larger
    than memory. The same command continues a run that was killed.

    \b
    Example:
      lstm-edge score day1/ -m har.onnx -o scores1 --series device --order time
      lstm-edge score day2/ -m har.onnx -o scores2 --series device --order time --since scores1
    """  # noqa: D301
    with needing("parquet", "score"):
        from lstm_edge.score.job import score
        from lstm_edge.score.plan import Options
        from lstm_edge.score.workers import processes, ray_cluster
    if given["hold"] > 1 and not given["events"]:
        raise InputError("--hold confirms the labels of events; give --events too")
    used = ray_cluster(address) if address else processes(workers or os.cpu_count() or 1)
    with progress(quiet=as_json) as show:
        report = score(dataset, model, output, fill(Options, given), used, show)
    if as_json:
        echo_json({"output": str(output), **asdict(report)})
        return
    for name, why in report.skipped.items():
        echo(f"skipped: {name}: {why}")
    if report.late:
        echo(f"left out: {counted(report.late, 'row')} before the last one that was scored of their series")
    if given["reset_every"] is None and report.reset_every != "never":
        echo(f"series are reset every {report.reset_every} steps, as in training (--reset-every)")
    events = f"; {counted(report.events, 'event')}" if report.events is not None else ""
    known = f", {report.known:,} scored before" if report.known else ""
    rows = f"{counted(report.rows, 'row')} of {report.series:,} series"
    echo(f"{output}: {rows} in {counted(report.files, 'file')}{known}{events}")
    echo(f"{report.seconds:.1f} s, {report.rows / report.seconds:,.0f} rows/s")
