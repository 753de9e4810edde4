"""Parameters of a run, and helpers that all workers share."""

import contextlib
import functools
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from lstm_edge_runtime.errors import InputError

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

MOST_BUCKETS = 4096
"""Maximum number of parts that series are split into."""
Tell = Callable[[int], None]
"""Called with the number of rows processed since the last call."""


class DataFile(NamedTuple):
    """One file of the data set."""

    number: int
    path: str
    name: str
    """Its path in the data set, with slashes; the output has a file of this name."""
    size: int
    """Bytes."""
    modified: int
    """When, in nanoseconds since 1970."""


class Columns(NamedTuple):
    """Names of columns; series and order may be None for windows."""

    series: str | None
    order: str | None
    features: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """Parameters of a run; paths are absolute and the same for all workers."""

    model: str
    identity: str
    """The model file's sha256 in hex."""
    engine: str
    """``native`` or ``onnxruntime``."""
    work: str
    """The run's own folder."""
    columns: Columns
    order_type: Any
    """The order column's Arrow type; None for windows."""
    series_type: Any
    """The series column's Arrow type; None for windows."""
    width: int
    """I, number of features."""
    dtype: Any
    """The features' numpy dtype."""
    results: tuple[str, ...]
    """Names of the columns with probabilities or values."""
    labels: tuple[str, ...]
    """Class names; empty if the outputs are values."""
    buckets: int
    """The number of parts that series are split into by a hash of their names; a power of two."""
    events: bool
    late: bool
    """Whether samples may complete no frame, so that rows have no result."""
    hold: int
    """Number of equal labels in a row that confirm a label."""
    reset_every: int | None
    """Steps after which a series is reset; None for never."""
    number: int
    """Number of this run among those that continued each other, from 1."""
    rows: int
    """Rows in memory at once."""
    memory: int
    """Memory limit of DuckDB in bytes."""
    previous: str | None = None
    """The folder with an earlier run's states."""
    previous_buckets: int = 0

    @property
    def order_storage(self) -> pa.DataType:
        """Type of the order between stages: nanoseconds for times."""
        return pa.float64() if pa.types.is_floating(self.order_type) else pa.int64()

    def folder(self, name: str) -> Path:
        """Return a folder of the run."""
        return Path(self.work) / name


Stage = Callable[[Job, Mapping[str, Any], Tell], dict[str, Any]]


def exact_order(kind: pa.DataType) -> pa.DataType | None:
    """Return the widest type of an order's kind (numbers, times, durations); None for other types.

    A time of day is no order: it repeats every day.
    """
    types = pa.types
    if types.is_floating(kind):
        return pa.float64()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_timestamp(kind) or types.is_date(kind):
        return pa.timestamp("ns", getattr(kind, "tz", None))
    return pa.duration("ns") if types.is_duration(kind) else None


def hash_of(series: str) -> int:
    """Return a 32-bit hash of a series' name, the same in every process; modulo ``buckets`` its bucket."""
    return zlib.crc32(series.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=2)
def open_job_model(path: str, identity: str, engine: Any) -> "Model":
    """Open the run's model, once per process.

    Raises:
        InputError: the file changed since the run began.
        LstmEdgeError: as ``load``.
    """
    from lstm_edge_runtime import load

    model = load(path, device="cpu", threads=1, engine=engine)
    if model.identity != identity:
        raise InputError(f"{path} changed while it was used; run again")
    return model


@contextlib.contextmanager
def writing(job: Job, target: Path, *, durable: bool = False) -> Iterator[str]:
    """Yield the path of a temporary file that becomes ``target`` if the block succeeds.

    It is in a separate folder, so that leftovers of a killed worker are never among the results. A task that
    runs twice writes the same content twice.
    """
    temporary = job.folder("tmp") / f"{target.name}.{os.getpid()}.{os.urandom(4).hex()}"
    temporary.parent.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield str(temporary)
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
