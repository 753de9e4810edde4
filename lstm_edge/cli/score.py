"""``lstm-edge score``: run a model on a folder of Parquet files of any size."""

import time
from pathlib import Path

import click

from lstm_edge_runtime.errors import counted

from ._options import (
    PATH,
    check_models,
    needing,
    read_names,
    reader,
    reset_every_option,
    verb,
)
from ._output import Output


@verb("score")
@click.argument("data", type=PATH)
@click.option(
    "-m", "--model", type=PATH, required=True, callback=check_models, help="Model file."
)
@click.option("-o", "--output", type=PATH, required=True, help="Folder of the results.")
@click.option(
    "--series", default="series", metavar="COLUMN", help="Column that names the source."
)
@click.option(
    "--order", default="order", metavar="COLUMN", help="Column to sort each source by."
)
@click.option(
    "--features",
    callback=reader(read_names),
    metavar="NAMES",
    help="Feature columns.  [default: the model's]",
)
@reset_every_option
@click.option(
    "--spark", metavar="MASTER", help="Run on Spark: its master, such as local[4]."
)
def command(
    data: Path,
    model: Path,
    output: Path,
    series: str,
    order: str,
    features: tuple[str, ...] | None,
    reset_every: int | str | None,
    spark: str | None,
) -> Output:
    """Run a model on every source in DATA, a folder of Parquet files with one row per
    sample.

    Each run scores the files that are new since the last one, continues the state of
    every source, and adds a folder to OUTPUT. It has one row per sample: the source, the
    order, and the label and probability of each class after that sample, or the predicted
    values. Results and states of a run appear together or not at all.

    \b
    Example:
      lstm-edge score recordings/ -m har.onnx -o scores --series device \\
          --order time
    """  # noqa: D301
    begun = time.monotonic()
    names = (series, order, features or ())
    with needing("spark" if spark else "parquet", "score"):
        from lstm_edge.score.job import open_job, summarize

        with open_job(
            data, model, output, names, reset_every, "Spark" if spark else "DuckDB"
        ) as job:
            if spark:
                from lstm_edge.score.on_spark import run_on_spark

                run_on_spark(job, spark)
            else:
                from lstm_edge.score.on_duckdb import run_on_duckdb

                run_on_duckdb(job)
    document = summarize(job)
    notes = []
    if document["late"]:
        notes.append(
            f"{counted(document['late'], 'row')} came before the last scored row of their"
            " source and were left out; see the folder _late of the run"
        )
    document["seconds"] = time.monotonic() - begun
    return Output({**document, "notes": notes})
