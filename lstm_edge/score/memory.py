"""What a run keeps of every series for the next one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from lstm_edge_runtime.errors import FileFormatError, first_line

from .events import Span
from .job import Job, hash_of, writing

__all__ = ["Kept", "read_kept", "write_kept"]

_FOLDER = "_state"


class Kept(NamedTuple):
    """One series after its last sample."""

    last: int | float
    """The order of the last sample."""
    span: Span | None
    """Its last span; None where no events are written."""
    state: Mapping[str, npt.NDArray[Any]]
    """By state input, as ``State``."""


def write_kept(job: Job, kept: Mapping[str, Kept]) -> None:
    """Write what is kept of series, a file for each bucket."""
    buckets: dict[int, dict[str, Kept]] = {}
    for name, each in kept.items():
        buckets.setdefault(hash_of(name) % job.buckets, {})[name] = each
    for bucket, own in buckets.items():
        with writing(job, job.folder("new") / _FOLDER / _name(bucket, job.buckets), durable=True) as path:
            parquet.write_table(_table(job, own), path)


def _table(job: Job, kept: Mapping[str, Kept]) -> pa.Table:
    series = list(kept.values())
    spans = [each.span for each in series]
    columns: dict[str, pa.Array] = {
        "series": pa.array(list(kept), pa.string()),
        "last": pa.array([each.last for each in series], job.order_storage),
        "label": pa.array([span and span.label for span in spans], pa.int32()),
        "start": pa.array([span and span.start for span in spans], job.order_storage),
        "total": pa.array([span and span.total for span in spans], pa.float64()),
        "samples": pa.array([span and span.samples for span in spans], pa.int64()),
    }
    for name in series[0].state:
        columns[f"state/{name}"] = pa.array([each.state[name].tobytes() for each in series], pa.binary())
    return pa.table(columns)


def read_kept(job: Job, bucket: int, like: Mapping[str, npt.NDArray[Any]]) -> dict[str, Kept]:
    """Return what an earlier run kept of the series of one bucket.

    Args:
        job: the run.
        bucket: of this run, which may have another number of them than the earlier one.
        like: arrays of the states' shapes and dtypes.

    Raises:
        FileFormatError: a file of it can't be read.
    """
    if job.previous is None:
        return {}
    kept = {}
    for path in _files(Path(job.previous) / _FOLDER, bucket, job.buckets, job.previous_buckets):
        try:
            columns = parquet.read_table(path, use_threads=False).to_pydict()
            for place, name in enumerate(columns["series"]):
                if hash_of(name) % job.buckets == bucket:
                    state = {
                        key: np.frombuffer(columns[f"state/{key}"][place], array.dtype).reshape(array.shape)
                        for key, array in like.items()
                    }
                    row = {key: columns[key][place] for key in ("last", "label", "start", "total", "samples")}
                    span = None
                    if row["label"] is not None:
                        span = Span(row["label"], row["start"], row["last"], row["total"], row["samples"])
                    kept[name] = Kept(row["last"], span, state)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:  # noqa: PERF203
            raise FileFormatError(
                f"{path} is not what an earlier run kept ({first_line(error)}); score without --since"
            ) from error
    return kept


def _files(folder: Path, bucket: int, buckets: int, previous: int) -> Iterator[Path]:
    common = min(buckets, previous)
    for each in range(bucket % common, previous, common):
        path = folder / _name(each, previous)
        if path.exists():
            yield path


def _name(bucket: int, buckets: int) -> str:
    return f"{bucket:05d}-of-{buckets:05d}.parquet"
