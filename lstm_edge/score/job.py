"""Parameters of a run, and what all workers share."""

import contextlib
import functools
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from lstm_edge_runtime.errors import InputError

from .config import ScoreConfig

if TYPE_CHECKING:
    from lstm_edge_runtime import Model

MOST_PARTS = 4096
"""Maximum number of parts that series are split into by a hash of their names; it is a power of two."""
PLACES = np.array([int(f"{part:0{MOST_PARTS.bit_length() - 1}b}"[::-1], 2) for part in range(MOST_PARTS)])
"""Where hashes modulo ``MOST_PARTS`` are stored: those of a part, ``hash % parts``, are adjacent."""
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
    groups: tuple[int, ...] = ()
    """Rows of each row group."""
    series_type: Any = None
    """The series column's Arrow type."""
    order_type: Any = None
    """The order column's Arrow type; None if it is in the path."""

    @property
    def rows(self) -> int:
        """Number of rows by its footer."""
        return sum(self.groups)

    @property
    def path_columns(self) -> dict[str, str]:
        """The columns encoded in its path: ``day=17`` is a column ``day``."""
        pairs = (part.partition("=") for part in self.name.split("/")[:-1])
        return {key: value for key, equals, value in pairs if key and equals}

    def stored_keys(self, config: ScoreConfig) -> list[str]:
        """Return the columns of series and order that are in the file itself, not in its path."""
        given = self.path_columns
        return [name for name in (config.series, config.order) if name and name not in given]


@dataclass(frozen=True)
class Job:
    """Parameters of a run; paths are absolute and the same for all workers."""

    config: ScoreConfig
    """The options, with the values of those that were not given."""
    model: str
    identity: str
    """The model file's sha256 in hex."""
    engine: Any
    """``native`` or ``onnxruntime``."""
    work: str
    """The run's own folder."""
    series_type: Any
    """The series column's Arrow type; None for windows."""
    order_type: Any
    """The order column's Arrow type; None for windows."""
    width: int
    """I, number of features."""
    dtype: Any
    """The features' numpy dtype."""
    results: tuple[str, ...]
    """Names of the columns with probabilities or values."""
    labels: tuple[str, ...]
    """Class names; empty if the outputs are values."""
    late: bool
    """Whether samples may complete no frame, so that rows have no result."""
    number: int
    """Number of this run among those that continued each other, from 1."""
    rows: int
    """Rows in memory at once."""
    previous: str
    """The folder of an earlier run's states; empty if there is none."""
    previous_parts: int
    """Their number; 0 if there is none."""

    @property
    def order_storage(self) -> pa.DataType:
        """Type of the order between stages: nanoseconds for times."""
        return pa.float64() if pa.types.is_floating(self.order_type) else pa.int64()

    def folder(self, name: str) -> Path:
        """Return a folder of the run."""
        return Path(self.work) / name


@dataclass
class Done:
    """Results of one item of a stage, or of several."""

    rows: int = 0
    by_file: Counter[DataFile] = field(default_factory=Counter)
    """Number of rows read from each file."""
    bad: dict[DataFile, str] = field(default_factory=dict)
    """Errors of files that can't be scored."""
    names: set[int] = field(default_factory=set)
    """Hashes of the names of the series read."""
    series: int = 0
    """Number of series scored."""
    events: int = 0

    def add(self, other: "Done") -> None:
        """Add the results of another item."""
        self.rows += other.rows
        self.by_file += other.by_file
        self.bad |= other.bad
        self.names |= other.names
        self.series += other.series
        self.events += other.events


Stage = Callable[[Job, int, Any, Tell], Done]
"""Does the work of one item: the job, the number of the item, and the item."""


def exact_order(kind: pa.DataType | None) -> pa.DataType | None:
    """Return the widest type of an order's kind (numbers, times, durations); None for other types.

    A time of day is no order: it repeats every day.
    """
    types = pa.types
    if kind is None:
        return None
    if types.is_floating(kind):
        return pa.float64()
    if types.is_integer(kind):
        return pa.int64()
    if types.is_timestamp(kind) or types.is_date(kind):
        return pa.timestamp("ns", getattr(kind, "tz", None))
    return pa.duration("ns") if types.is_duration(kind) else None


def hash_of(series: str) -> int:
    """Return a 32-bit hash of a series' name, the same in every process; modulo their number its part."""
    return zlib.crc32(series.encode("utf-8", "surrogatepass"))


@functools.lru_cache(maxsize=2)
def open_job_model(path: str, identity: str) -> "Model":
    """Open the run's model, once per process.

    Raises:
        InputError: the file changed since the run began.
        LstmEdgeError: as ``load``.
    """
    from lstm_edge_runtime import load

    model = load(path)
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
    temporary.parent.mkdir(exist_ok=True)  # not the run's folder: that of a run that failed has been removed
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield str(temporary)
        if durable:
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
