"""``lstm-edge score``: run a model on a Parquet data set of any size."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import click

from lstm_edge.score.config import ScoreConfig

from ._options import PATH, check_models, options_of, reset_every_option, verb
from ._output import Output, Show


@verb("score", extra="parquet")
@click.argument("dataset")
@click.option(
    "-m", "--model", type=PATH, required=True, callback=check_models, help="Model file."
)
@click.option(
    "-o",
    "--output",
    type=PATH,
    required=True,
    help="Output folder, which must not exist.",
)
@options_of(config=ScoreConfig)
@reset_every_option
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Number of processes.  [default: one per core]",
)
def command(
    dataset: str,
    model: Path,
    output: Path,
    config: ScoreConfig,
    reset_every: int | str | None,
    workers: int | None,
    show: Show,
) -> Output:
    """Run a model on every series of DATASET, a folder, a file or a glob of Parquet
    with one row per sample.

    OUTPUT has one row per sample, ordered by series: the series, the order, and the
    label and probability of each class after that sample, or the predicted values. A
    series may be split over many files and larger than memory. The same command
    continues a run that was killed.

    \b
    Example:
      lstm-edge score day2/ -m har.onnx -o scores2 --series device \\
          --order time --since scores1
    """  # noqa: D301
    from lstm_edge.score.job import score
    from lstm_edge.score.workers import processes

    used = processes(workers or os.cpu_count() or 1)
    config = replace(config, reset_every=reset_every)
    report = score(
        dataset, model, output=output, options=config, workers=used, show=show
    )
    notes = []
    if report.late:
        notes.append(
            "late rows came before the last one that was scored of their series, and"
            " were left out"
        )
    document = {
        "output": output,
        **asdict(report),
        "rows_per_second": report.rows / report.seconds,
        "notes": notes,
    }
    return Output(document)
