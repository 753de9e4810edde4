"""Run a job on Spark: its state store keeps the states, its file source the new files."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, functions
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.streaming.stateful_processor import (
    StatefulProcessor,
    StatefulProcessorHandle,
)

from lstm_edge_runtime.errors import (
    InputError,
    LstmEdgeError,
    MissingDependencyError,
    first_line,
)

from .job import Job
from .source import LATE, Scorer

_SETTINGS = {
    "spark.sql.caseSensitive": "true",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.streaming.stateStore.providerClass": (
        "org.apache.spark.sql.execution.streaming.state.RocksDBStateStoreProvider"
    ),
}
_ERROR = re.compile(r"lstm_edge_runtime\.errors\.\w+: (.+)")
"""The message of one of our errors in a worker's traceback."""


class _Sources(StatefulProcessor):
    """Scores sources on a worker, with a state each in Spark's state store."""

    def __init__(self, job: Job) -> None:
        """Take what travels to the workers."""
        self._job = job

    def init(self, handle: StatefulProcessorHandle) -> None:
        """Open the model."""
        self._scorer = Scorer(self._job.model, self._job.facts["reset_every"])
        self._state = handle.getValueState("state", "saved BINARY")

    def handleInputRows(  # noqa: N802
        self,
        key: Any,
        rows: Iterator[Any],
        timerValues: Any,  # noqa: ARG002
    ) -> Iterator[pd.DataFrame]:
        """Yield the rows of one source with their results."""
        frame = pd.concat(list(rows), ignore_index=True)
        frame = frame.sort_values("key", ignore_index=True)
        state = self._state.get() if self._state.exists() else None
        yield from self._scorer.score(
            key[0], [frame], bytes(state[0]) if state else None
        )
        self._state.update((self._scorer.saved,))

    def close(self) -> None:
        """Do nothing."""


def run_on_spark(job: Job, master: str) -> None:
    """Score the new files, after those of a run that was killed."""
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        raise MissingDependencyError("Spark needs Java 17 or newer; install it first")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.master(master).appName("lstm-edge score")
    builder = builder.config("spark.ui.enabled", "false")
    builder = builder.config("spark.ui.showConsoleProgress", "false")
    try:
        spark = builder.config("spark.log.level", "OFF").getOrCreate()
        try:
            _run(job, spark)
        finally:
            spark.stop()
    except PySparkException as error:
        for message in _ERROR.findall(str(error)):
            raise InputError(message) from error
        raise LstmEdgeError(f"Spark stopped: {first_line(error)}") from error


def _run(job: Job, spark: SparkSession) -> None:
    """Run the query until no file is left."""
    for name, value in _SETTINGS.items():
        spark.conf.set(name, value)
    if not spark.sparkContext.getConf().contains("spark.sql.shuffle.partitions"):
        partitions = 4 * spark.sparkContext.defaultParallelism
        spark.conf.set("spark.sql.shuffle.partitions", partitions)
    schema = from_arrow_schema(job.columns, prefer_timestamp_ntz=True)
    # Spark forgets files that are older than a week by its default.
    source = spark.readStream.schema(schema).options(
        recursiveFileLookup=True, pathGlobFilter="*.parquet", maxFileAge="100000d"
    )
    rows = source.parquet(re.sub(r"[\[\]{}*?\\]", r"\\\g<0>", job.facts["data"]))
    names = ["source", "order", *job.results.names[2:]]
    renamed = job.results.empty_table().rename_columns(names).schema
    sources = rows.select(*_columns(job.columns)).groupBy("source")
    results = sources.transformWithStateInPandas(
        _Sources(job),
        outputStructType=from_arrow_schema(renamed, prefer_timestamp_ntz=True),
        outputMode="Append",
        timeMode="None",
    )

    def publish(frame: DataFrame, batch: int) -> None:
        """Write the results of a batch, which is repeated if the driver was killed."""
        frame = frame.toDF(*job.results.names)
        frame.write.mode("overwrite").partitionBy(LATE).parquet(str(job.work))
        job.publish(batch + 1)

    writer = results.writeStream.foreachBatch(publish).trigger(availableNow=True)
    writer.option("checkpointLocation", str(job.output / "_spark"))
    writer.start().awaitTermination()


def _columns(schema: pa.Schema) -> list[Column]:
    """Return source, order, order as a number, and features in float32."""
    quoted = ["`" + name.replace("`", "``") + "`" for name in schema.names]
    series, order, *features = map(functions.col, quoted)
    kind = schema.types[1]
    if pa.types.is_temporal(kind):
        key = functions.unix_micros(order.cast("timestamp"))
    else:
        key = order.cast("double" if pa.types.is_floating(kind) else "bigint")
    numbers = [column.cast("float").alias(f"x{i}") for i, column in enumerate(features)]
    # pyspark gives names that are not identifiers other names
    return [series.alias("source"), order.alias("order"), key.alias("key"), *numbers]
