"""What a run keeps of every series for the next one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import parquet

from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.hold import NO_LABEL

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
    age: int
    """Steps since the state was at reset."""
    hold: tuple[int, int, int]
    """What ``Hold`` saves."""


def write_kept(job: Job, kept: Mapping[str, Kept]) -> None:
    """Write what is kept of series, a file for each bucket."""
    buckets: dict[int, list[dict[str, Any]]] = {}
    for name, each in kept.items():
        row: dict[str, Any] = {"series": name, "last": each.last, "age": each.age, "hold": list(each.hold)}
        row |= each.span._asdict() if each.span else {}
        row |= {f"state/{key}": array.tobytes() for key, array in each.state.items()}
        buckets.setdefault(hash_of(name) % job.buckets, []).append(row)
    for bucket, rows in buckets.items():
        schema = {
            "series": pa.string(),
            "last": job.order_storage,
            "label": pa.int32(),
            "start": job.order_storage,
            "total": pa.float64(),
            "samples": pa.int64(),
            "age": pa.int64(),
            "hold": pa.list_(pa.int64(), 3),
            **{key: pa.binary() for key in rows[0] if key.startswith("state/")},
        }
        with writing(job, job.folder("new") / _FOLDER / _name(bucket, job.buckets), durable=True) as path:
            parquet.write_table(pa.Table.from_pylist(rows, pa.schema(schema)), path)


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
    common = min(job.buckets, job.previous_buckets)
    for each in range(bucket % common, job.previous_buckets, common):
        path = Path(job.previous) / _FOLDER / _name(each, job.previous_buckets)
        if not path.exists():
            continue
        try:
            for row in parquet.read_table(path, use_threads=False).to_pylist():
                if hash_of(row["series"]) % job.buckets == bucket:
                    state = {
                        key: np.frombuffer(row[f"state/{key}"], array.dtype).reshape(array.shape)
                        for key, array in like.items()
                    }
                    values = [row["last" if name == "end" else name] for name in Span._fields]
                    span = None if row["label"] is None else Span(*values)
                    label, candidate, count = row.get("hold", NO_LABEL)  # outputs made before have none
                    kept[row["series"]] = Kept(
                        row["last"], span, state, int(row.get("age", 0)), (label, candidate, count)
                    )
        except (pa.ArrowException, OSError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path} is not what an earlier run kept ({first_line(error)}); score without --since"
            ) from error
    return kept


def _name(bucket: int, buckets: int) -> str:
    return f"{bucket:05d}-of-{buckets:05d}.parquet"
