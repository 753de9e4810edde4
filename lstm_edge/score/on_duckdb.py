"""Run a job on this machine: DuckDB sorts rows out of core, and one batch is in memory."""

# ruff: noqa: S608

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from pyarrow import compute, dataset

from lstm_edge_runtime.errors import FileFormatError, first_line

from .job import Job, find_runs
from .source import LATE, Scorer

_STATES = "_states.parquet"
"""File of a run with the states of all sources, of this run and of those before."""
_BATCH = 131_072
"""Number of rows in memory, and of a row group."""
_MAX_STATES = 1000
"""Number of states that are inserted together."""


def run_on_duckdb(job: Job) -> None:
    """Score the new files in one run, if any."""
    files = list(job.facts["files"])
    if not files:
        return
    job.work.mkdir()
    settings = {"memory_limit": "512MB", "temp_directory": str(job.work / "spilled")}
    try:
        with duckdb.connect(config={**settings, "threads": 2}) as database:
            database.execute("SET preserve_insertion_order = false")
            database.execute("SET enable_progress_bar = false")
            series = _name(job.columns.names[0])
            states = f"SELECT {series} AS source, '' :: BLOB AS state"
            states += f" FROM {_files(files)} LIMIT 0"
            database.execute(f"CREATE TABLE new AS {states}")
            for folder in find_runs(job.output)[-1:]:
                states = f"SELECT * FROM {_files([str(folder / _STATES)])}"
            database.execute(f"CREATE VIEW old AS {states}")
            dataset.write_dataset(
                _results(job, database),
                job.work,
                schema=job.results,
                format="parquet",
                partitioning=[LATE],
                partitioning_flavor="hive",
                existing_data_behavior="overwrite_or_ignore",
                min_rows_per_group=_BATCH,
                use_threads=False,
            )
            database.sql(
                "SELECT * FROM new UNION ALL SELECT * FROM old ANTI JOIN new USING"
                " (source) ORDER BY source"
            ).write_parquet(str(job.work / _STATES))
    except (duckdb.Error, pa.ArrowException) as error:
        raise FileFormatError(f"DuckDB stopped: {first_line(error)}") from error
    job.publish(job.earlier + 1)


def _results(job: Job, database: duckdb.DuckDBPyConnection) -> Iterator[pa.RecordBatch]:
    """Yield the results of all rows, source by source; insert the states into ``new``."""
    scorer = Scorer(job.model, job.facts["reset_every"])
    states: dict[Any, bytes] = {}
    for (source, saved), parts in groupby(_rows(job, database), itemgetter(0, 1)):
        for frame in scorer.score(source, map(itemgetter(2), parts), saved):
            yield pa.RecordBatch.from_pandas(frame, job.results, preserve_index=False)
        states[source] = scorer.saved
        if len(states) == _MAX_STATES:
            _insert(database, states)
    _insert(database, states)


def _insert(database: duckdb.DuckDBPyConnection, states: dict[Any, bytes]) -> None:
    """Move states into the table ``new``."""
    table = pa.table({"source": list(states), "state": list(states.values())})
    database.register("states", table).execute("INSERT INTO new SELECT * FROM states")
    states.clear()


def _rows(
    job: Job, database: duckdb.DuckDBPyConnection
) -> Iterator[tuple[Any, bytes | None, pd.DataFrame]]:
    """Yield source, saved state and rows of each source in each batch of sorted rows."""
    series, order, *features = map(_name, job.columns.names)
    is_time = pa.types.is_temporal(job.columns.types[1])
    key = f"epoch_us({order})" if is_time else order
    columns = [series, order, key, *(f"TRY_CAST({name} AS FLOAT)" for name in features)]
    query = (
        f"SELECT {', '.join(columns)} FROM {_files(job.facts['files'])} ORDER BY 1, 2"
    )
    for batch in database.cursor().sql(query).to_arrow_reader(_BATCH):
        sources = compute.call_function("run_end_encode", [batch.column(0)])
        names = sources.values.to_pylist()
        between = "SELECT * FROM old WHERE source BETWEEN ? AND ?"
        saved = dict(database.execute(between, [names[0], names[-1]]).fetchall())
        frame = batch.to_pandas()
        start = 0
        for name, stop in zip(names, sources.run_ends.to_pylist(), strict=True):
            yield name, saved.get(name), frame.iloc[start:stop]
            start = stop


def _files(paths: Iterable[str]) -> str:
    """Return the table of files, whose names are patterns to DuckDB."""
    names = [re.sub(r"[*?\[]", r"[\g<0>]", path).replace("'", "''") for path in paths]
    listed = "', '".join(names)
    return f"read_parquet(['{listed}'], hive_partitioning = false)"


def _name(column: str) -> str:
    """Return a column's name as a quoted SQL identifier."""
    return '"' + column.replace('"', '""') + '"'
