"""A series after its last sample: its state and the span of its label, kept for the next run; and events."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from lstm_edge_runtime import State
from lstm_edge_runtime.errors import FileFormatError, first_line
from lstm_edge_runtime.hold import NO_LABEL, Hold
from lstm_edge_runtime.reading import open_regular

from .job import Job, exact_order, hash_of, writing

if TYPE_CHECKING:
    from lstm_edge_runtime.manifest import Array

_FOLDER, _REST = "_state", "rest/"
_DAMAGED = pa.ArrowException, EOFError, OSError


class Span(NamedTuple):
    """Consecutive samples of one series that have one label."""

    label: int
    """Index of the class; -1 before the first confirmed label."""
    start: int | float
    """Order of the first sample."""
    end: int | float
    """Order of the last sample."""
    total: float
    """Sum of the label's probabilities."""
    samples: int


@dataclass
class Series:
    """One series after its last sample."""

    state: State
    hold: Hold
    last: int | float | None = None
    """Order of the last sample; None before the first."""
    span: Span | None = None
    """The span of the last sample; None without events."""


def add_samples(
    series: Sequence[Series], counts: "Array", order: "Array", values: "Array"
) -> Iterator[tuple[int, Span]]:
    """Extend the spans of series by their next samples; yield the spans that end, with the series' index.

    Args:
        series: the series.
        counts: number of samples of each ``(K,)``, from 1.
        order: of the samples, one series after another ``(n,)``.
        values: probabilities of the classes ``(n, C)``.
    """
    labels, owners = values.argmax(axis=1), np.repeat(np.arange(len(counts)), counts)
    first = np.flatnonzero((np.diff(owners, prepend=-1) != 0) | (np.diff(labels, prepend=-1) != 0))
    for begin, end in pairwise([*first.tolist(), len(labels)]):
        owner = int(owners[begin])
        one, before = series[owner], series[owner].hold.label
        confirmed = begin + one.hold.take(int(labels[begin]), end - begin)
        for label, low, high in ((before, begin, confirmed), (one.hold.label, confirmed, end)):
            if low == high:
                continue
            if one.span is not None and one.span.label != label:
                yield owner, one.span
                one.span = None
            old = one.span or Span(label, order[low].item(), 0, 0.0, 0)
            # in order, so that the sum does not depend on how the samples are split
            shares = np.append(old.total, values[low:high, label].astype(np.float64))
            total, samples = float(np.cumsum(shares)[-1]), old.samples + high - low
            one.span = Span(label, old.start, order[high - 1].item(), total, samples)


def write_events(job: Job, name: str, found: Iterable[tuple[str, Span]], *, is_open: bool) -> int:
    """Write events with the names of their series, sorted by series and start; return their number.

    Args:
        job: the run.
        name: of the file, which is not written without events.
        found: spans and the names of their series; those without a label are left out.
        is_open: whether later samples may extend them.
    """
    rows = [
        (series, start, end, job.labels[label], samples, total / samples, is_open)
        for series, (label, start, end, total, samples) in sorted(
            found, key=lambda each: (each[0], each[1].start)
        )
        if label >= 0
    ]
    if rows:
        series, start, end, *others = zip(*rows, strict=True)
        columns = [pa.array(series).cast(job.series_type), from_storage(job, start), from_storage(job, end)]
        titles = [str(job.config.series), "start", "end", "label", "samples", "mean_probability", "open"]
        with writing(job, job.folder("new") / "_events" / name, durable=True) as path:
            parquet.write_table(pa.table([*columns, *map(pa.array, others)], titles), path)
    return len(rows)


def from_storage(job: Job, values: Sequence[int | float]) -> pa.Array:
    """Return orders in the type of the data set."""
    return pa.array(values, job.order_storage).cast(exact_order(job.order_type)).cast(job.order_type)


def write_series(job: Job, part: int, parts: int, series: Mapping[str, Series]) -> None:
    """Write the series of a part for the next run."""
    rows = [
        {
            "series": name,
            "last": each.last,
            "age": each.state.age,
            "hold": list(each.hold.saved),
            **(each.span._asdict() if each.span else {}),
            **{f"state/{key}": array.tobytes() for key, array in each.state.items()},
            **{_REST + key: _to_npy(array) for key, array in each.state.rest.items()},
        }
        for name, each in series.items()
    ]
    schema = {
        "series": pa.string(),
        "last": job.order_storage,
        "label": pa.int32(),
        "start": job.order_storage,
        "end": job.order_storage,
        "total": pa.float64(),
        "samples": pa.int64(),
        "age": pa.int64(),
        "hold": pa.list_(pa.int64(), 3),
        **{key: pa.binary() for row in rows for key in row if key.startswith(("state/", _REST))},
    }
    with writing(job, job.folder("new") / _FOLDER / _name(part, parts), durable=True) as path:
        parquet.write_table(pa.Table.from_pylist(rows, pa.schema(schema)), path)


def read_series(job: Job, part: int, parts: int, reset: State) -> dict[str, Series]:
    """Return the series of a part as an earlier run, with any number of parts, left them.

    Raises:
        FileFormatError: a file of the earlier run can't be read.
    """
    found: dict[str, Series] = {}
    common = min(parts, job.previous_parts)
    for each in range(part % common, job.previous_parts, common) if common else ():
        path = Path(job.previous) / _FOLDER / _name(each, job.previous_parts)
        if not path.exists():
            continue
        try:
            with open_regular(path) as file:
                rows = parquet.read_table(file, use_threads=False).to_pylist()
            for row in rows:
                if hash_of(row["series"]) % parts == part:
                    found[row["series"]] = _decode(row, job, reset)
        except (*_DAMAGED, AttributeError, LookupError, TypeError, ValueError) as error:
            raise FileFormatError(
                f"{path} is not the state of an earlier run ({first_line(error)}); score without --since"
            ) from error
    return found


def _decode(row: Mapping[str, Any], job: Job, reset: State) -> Series:
    hold = Hold(job.config.hold or 1)
    # outputs of earlier versions have neither hold nor age, and spans end with the last sample
    hold.restore(*row.get("hold", NO_LABEL))
    arrays = {
        key: np.frombuffer(row[f"state/{key}"], like.dtype).reshape(like.shape) for key, like in reset.items()
    }
    rest = {
        key.removeprefix(_REST): np.load(io.BytesIO(data), allow_pickle=False)
        for key, data in row.items()
        if key.startswith(_REST) and data is not None
    }
    span = None
    if row["label"] is not None:
        span = Span(*({"end": row["last"], **row}[name] for name in Span._fields))
    return Series(State(arrays, reset.identity, int(row.get("age", 0)), rest), hold, row["last"], span)


def _to_npy(array: "Array") -> bytes:
    """Return an array with its shape, which depends on how many samples are kept."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def _name(part: int, parts: int) -> str:
    return f"{part:05d}-of-{parts:05d}.parquet"
