"""Rows on their way from one stage to the next: Arrow files in which every record batch has a key."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import ipc

from lstm_edge_runtime.manifest import Array

from .job import Job, writing

__all__ = ["Shuffled", "shuffle_writer"]


@contextmanager
def shuffle_writer(
    job: Job, folder: str, number: int, schema: pa.Schema
) -> Iterator[Callable[[pa.RecordBatch, Array], None]]:
    """Yield a function that writes rows, given the key of each, whole numbers ``(rows,)``.

    Each call writes a record batch for every key that it has, with its rows in their order, which
    ``Shuffled`` reads.
    """
    path = job.folder(folder) / f"{number:05d}.arrow"
    keys: list[int] = []
    with writing(job, path) as temporary, ipc.new_file(temporary, schema) as writer:

        def write(rows: pa.RecordBatch, key: Array) -> None:
            places = np.argsort(key, kind="stable")
            batch = rows.take(pa.array(places))
            own, begins = np.unique(key[places], return_index=True)
            for begin, end in zip(begins, [*begins[1:], len(key)], strict=True):
                writer.write_batch(batch.slice(begin, end - begin))
            keys.extend(own.tolist())

        yield write
    with writing(job, path.with_suffix(".npy")) as temporary, Path(temporary).open("wb") as file:
        np.save(file, np.array(keys, dtype=np.int32))


class Shuffled:
    """What one ``shuffle_writer`` wrote."""

    def __init__(self, job: Job, folder: str, number: int) -> None:
        self._path = job.folder(folder) / f"{number:05d}.arrow"
        self.keys: Array = np.load(self._path.with_suffix(".npy"))
        """Of each batch ``(batches,)``."""

    def places(self, keys: Sequence[int]) -> list[int]:
        """Return the numbers of the batches with these keys."""
        places: list[int] = np.flatnonzero(np.isin(self.keys, keys)).tolist()
        return places

    def read(self, places: Sequence[int], fields: Sequence[int] = ()) -> Iterator[pa.RecordBatch]:
        """Yield batches by their numbers, with some or all of their columns."""
        options = ipc.IpcReadOptions(included_fields=list(fields), use_threads=False)
        if places:
            with pa.OSFile(str(self._path)) as raw, ipc.open_file(raw, options=options) as reader:
                yield from map(reader.get_batch, places)
