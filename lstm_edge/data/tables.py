"""Files with one row per time step (``.csv``, ``.parquet``, ``.wav``), or arrays made
into such rows.
"""

import csv
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge_exporters.suggest import did_you_mean
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    first_line,
    install_command,
)
from lstm_edge_runtime.files import read_arrays
from lstm_edge_runtime.manifest import Array

from .config import suffix_of

_GAPS = ("", "nan", "na", "null", "none")
"""Cells that are missing, in lower case."""
_LARGEST = float(np.finfo(np.float32).max)
_CHOOSE_COLUMNS = (
    "; choose columns with --features; --series names an id, --order a time, --label a"
    " class"
)
_WAV_INTEGERS = 1
_WAV_FLOATS = 3
_WAV_EXTENSIBLE = 0xFFFE
"""Format tag of a WAV file whose format stands in an extension: the first bytes of a
GUID."""
_WAV_FORMATS = {_WAV_INTEGERS: "integers", _WAV_FLOATS: "floats"}
_WAV_INTEGER_SCALE = 32768
"""Divisor of 16-bit samples, so that all WAV files have samples within -1 and 1."""


@dataclass(frozen=True)
class Table:
    """Columns of one file."""

    path: Path
    """The file."""
    frame: pd.DataFrame
    """Columns of text or numbers. The index is the position of each row in the file,
    named ``row``, or ``sample`` and ``step``."""
    comma: bool = False
    """True if ``1,5`` is a number."""
    rate: float | None = None
    """Sampling rate that the file states, in Hertz."""
    features: tuple[str, ...] = ()
    """Names of the features that the file states."""
    named: bool = True
    """False if the names of the features have no meaning."""
    full_scale: float | None = None
    """Largest sample of sound; None for other signals."""

    def __post_init__(self) -> None:
        """Raise InputError for a table without rows, or with two columns of one
        name.
        """
        if self.frame.empty:
            raise InputError(
                f"{self.path} is empty; expected a header and one row per time step"
            )
        if (twice := self.frame.columns.duplicated()).any():
            raise InputError(
                f"{self.path} has the column {self.frame.columns[twice][0]!r} twice;"
                " rename one"
            )

    def cell(self, row: int, column: str) -> str:
        """Return where a cell is, for messages: its line, or its sample and step, and
        its column.
        """
        label = self.frame.index[row]
        numbers = label if isinstance(label, tuple) else (label,)
        names = self.frame.index.names
        where = [f"{name} {at}" for name, at in zip(names, numbers, strict=True)]
        return f"{self.path} {', '.join(where)}, column {column!r} is"

    def require(self, names: Sequence[str | None], advice: str = "") -> None:
        """Raise InputError for the first column that does not exist; None is
        skipped.
        """
        for name in names:
            if name and name not in self.frame:
                names_found = ", ".join(self.frame)
                text = f"{self.path} has no column {name!r} (it has {names_found})"
                hints = (text, did_you_mean(name, self.frame), advice)
                raise InputError("; ".join(filter(None, hints)))

    def texts(self, name: str) -> npt.NDArray[Any]:
        """Return a column as text ``(rows,)``; raises InputError for an empty cell."""
        column = self.frame[name].astype(object).fillna("")
        texts = column.map(str).str.strip()
        cells: npt.NDArray[Any] = texts.to_numpy(dtype=object)
        if (empty := cells == "").any():
            raise InputError(f"{self.cell(int(empty.argmax()), name)} empty")
        return cells

    def numbers(
        self, names: Sequence[str], *, gaps: bool = False, advice: str = ""
    ) -> npt.NDArray[np.float64]:
        """Return columns ``(rows, columns)``, NaN for missing cells if these are
        accepted as ``gaps``.

        Raises InputError for any other cell that is not a number, with ``advice`` for a
        missing one.
        """
        values = np.empty((len(self.frame), len(names)))
        for index, name in enumerate(names):
            column = self.frame[name]
            values[:, index] = _to_numbers(column, comma=self.comma)
            is_usable = np.abs(values[:, index]) <= _LARGEST
            for row in np.flatnonzero(~is_usable).tolist():
                cell = column.iloc[row]
                is_gap = _is_gap(cell)
                if is_gap and gaps:
                    continue
                text = "" if is_gap else str(cell)
                if not is_gap:
                    advice = _CHOOSE_COLUMNS
                raise InputError(
                    f"{self.cell(row, name)} {text!r}, expected a finite number{advice}"
                )
        return values

    def order(self, name: str) -> tuple[npt.NDArray[np.float64], bool]:
        """Return sort keys ``(rows,)``: numbers, or seconds of ISO timestamps and True;
        raises InputError.
        """
        column = self.frame[name]
        first = _to_numbers(column.iloc[:1], comma=self.comma)
        if _is_gap(column.iloc[0]) or not np.isnan(first[0]):
            return self.numbers([name])[:, 0], False
        times = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
        if (wrong := times.isna()).any():
            row = int(wrong.argmax())
            expected = (
                "expected a number or an ISO timestamp such as 2026-11-25T09:30:00.25"
            )
            raise InputError(
                f"{self.cell(row, name)} {str(column.iloc[row])!r}, {expected}"
            )
        seconds = (times - times.iloc[0]).dt.total_seconds()
        return seconds.to_numpy(dtype=np.float64), True


def read_table(path: Path, encoding: str) -> Table:
    """Read a table in the format that its name ends in; raises FileFormatError and
    InputError.
    """
    if suffix_of(path) == ".csv":
        return _read_csv(path, encoding)
    readers = {".parquet": _read_parquet, ".wav": _read_wav}
    return readers.get(suffix_of(path), _read_arrays)(path)


def _is_gap(cell: Any) -> bool:
    """Return True if a cell holds no value."""
    if pd.isna(cell) is True:  # an array for a cell that is a list
        return True
    return str(cell).strip().lower() in _GAPS


def _to_numbers(column: Any, *, comma: bool) -> npt.NDArray[np.float64]:
    """Return a column as numbers, NaN for any other cell; as ``parse_number``."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return np.full(len(column), np.nan)
    if not pd.api.types.is_numeric_dtype(column):
        text = column.map(str).str.strip()  # cells may be bytes
        if comma:
            text = text.str.replace(",", ".", regex=False)
        has_underscore = text.str.contains("_", regex=False)
        column = pd.to_numeric(text.where(~has_underscore), errors="coerce")
    return np.asarray(column.to_numpy(dtype=np.float64, na_value=np.nan))


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame whose index numbers the rows from 1."""
    return frame.set_axis(pd.RangeIndex(1, 1 + len(frame), name="row"))


def _read_csv(path: Path, encoding: str) -> Table:
    """Read a CSV file as text, with the line of each row."""
    options: Any = {
        "header": None,
        "dtype": str,
        "keep_default_na": False,
        "skip_blank_lines": False,
    }
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    try:
        with path.open(newline="", encoding=codec) as file:
            separator = max(";,\t", key=file.readline().count)
            file.seek(0)
            frame = pd.read_csv(file, sep=separator, **options)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame([[""]])
    except pd.errors.ParserError as error:
        reason = _long_row(path, encoding, separator) or f"({first_line(error)})"
        raise FileFormatError(f"{path} is not CSV text: {reason}") from error
    except (UnicodeError, LookupError) as error:
        advice = "name its encoding, such as --encoding latin-1 or utf-16"
        raise FileFormatError(
            f"{path} is not {encoding} text ({first_line(error)}); {advice}"
        ) from error
    except ValueError as error:
        raise FileFormatError(
            f"{path} is not CSV text ({first_line(error)})"
        ) from error
    header = frame.iloc[0].map(str).str.strip()
    if not np.isnan(_to_numbers(header, comma=True)).any():
        names = ", ".join(header[:3])
        raise InputError(
            f"{path} has no header: row 1 is {names}; add a row with the names of the"
            " columns"
        )
    frame = _rows(frame.set_axis(header.tolist(), axis=1)).iloc[1:]
    is_blank = (frame == "").all(axis=1)
    table = Table(path, frame[~is_blank], comma=separator != ",")
    if table.comma:
        _check_decimal_marks(table)
    return table


def _long_row(path: Path, encoding: str, separator: str) -> str:
    """Return which row has more cells than the first one; empty if there is none."""
    with path.open(newline="", encoding=encoding) as file:
        rows = csv.reader(file, delimiter=separator)
        width = len(next(rows, []))
        for number, row in enumerate(rows, 2):
            if len(row) > width:
                return (
                    f"row {number} has {len(row)} cells, expected {width} as in row 1;"
                    f" put cells that contain {separator!r} in quotes"
                )
    return ""


def _check_decimal_marks(table: Table) -> None:
    """Raise InputError if some numbers have a decimal comma and others a point, which
    may separate thousands.
    """
    examples: dict[str, str] = {}
    for name, column in table.frame.items():
        is_number = ~np.isnan(_to_numbers(column, comma=True))
        for mark in ".,":
            has_mark = column.str.contains(mark, regex=False) & is_number
            if mark not in examples and has_mark.any():
                row = int(has_mark.to_numpy().argmax())
                cell = column.iloc[row].strip()
                examples[mark] = f"{table.cell(row, str(name))} {cell!r}"
    if len(examples) == 2:
        comma = examples[","].removeprefix(f"{table.path} ")
        raise InputError(
            f"{examples['.']}, and {comma}; expected one decimal mark in all numbers,"
            " without separators of thousands"
        )


def _read_parquet(path: Path) -> Table:
    """Read a Parquet file."""
    try:
        frame = pd.read_parquet(path)
        frame.select_dtypes("string").to_numpy()  # raises for text that is not UTF-8
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: Parquet files need pyarrow; {install_command('parquet')}"
        ) from error
    except Exception as error:  # pyarrow's errors share no base with pandas'
        raise FileFormatError(
            f"{path} can't be read as Parquet ({first_line(error)})"
        ) from error
    return Table(path, _rows(frame.rename(columns=lambda name: str(name).strip())))


@dataclass(frozen=True)
class _WavFormat:
    """Facts from the chunk ``fmt`` of a WAV file."""

    tag: int
    """Format of the samples, such as ``_WAV_INTEGERS``."""
    channels: int
    """Number of channels."""
    rate: int
    """Samples per second."""
    bits: int
    """Bits per sample."""

    def __str__(self) -> str:
        """Return the format for messages: ``24-bit integers``."""
        format_name = _WAV_FORMATS.get(self.tag, f"samples of format {self.tag}")
        return f"{self.bits}-bit {format_name}"


def _read_wav(path: Path) -> Table:
    """Read samples of 16-bit integers or 32-bit floats as values within -1 and 1, one
    column per channel.
    """
    chunks = _wav_chunks(path.read_bytes())
    try:
        form = _wav_format(chunks[b"fmt "])
        samples = _wav_samples(form, chunks[b"data"])
    except (KeyError, ValueError, struct.error) as error:
        raise FileFormatError(
            f"{path} can't be read as WAV ({first_line(error)}); record or convert it"
            " again"
        ) from error
    if samples is None:
        raise FileFormatError(
            f"{path} has {form}, expected 16-bit integers or 32-bit floats; convert"
            f" it: ffmpeg -i {path} -c:a pcm_s16le {path.stem}-16.wav"
        )
    names = ["audio"]
    if form.channels > 1:
        names = [f"audio{number}" for number in range(form.channels)]
    frame = _rows(pd.DataFrame(samples, columns=names))
    return Table(path, frame, rate=float(form.rate), full_scale=1.0)


def _wav_samples(form: _WavFormat, content: bytes) -> npt.NDArray[np.float32] | None:
    """Return the samples ``(L, channels)``; None for a format that is not supported.

    Raises ValueError for an incomplete last sample.
    """
    if (form.tag, form.bits) == (_WAV_INTEGERS, 16):
        integers = np.frombuffer(content, "<i2").reshape(-1, form.channels)
        return np.asarray(integers / np.float32(_WAV_INTEGER_SCALE), np.float32)
    if (form.tag, form.bits) == (_WAV_FLOATS, 32):
        floats = np.frombuffer(content, "<f4").reshape(-1, form.channels)
        return floats.astype(np.float32)
    return None


def _wav_chunks(content: bytes) -> dict[bytes, bytes]:
    """Return the chunks of a WAV file by their names; empty for any other file."""
    chunks = dict[bytes, bytes]()
    start = 12
    while content.startswith(b"RIFF") and start + 8 <= len(content):
        name = content[start : start + 4]
        size = int.from_bytes(content[start + 4 : start + 8], "little")
        start += 8
        chunks[name] = content[start : start + size]
        start += size + size % 2
    return chunks


def _wav_format(chunk: bytes) -> _WavFormat:
    """Read the chunk ``fmt``; raises ``struct.error`` if it is too short."""
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunk)
    if tag == _WAV_EXTENSIBLE:
        (tag,) = struct.unpack_from("<H", chunk, 24)
    return _WavFormat(tag=tag, channels=channels, rate=rate, bits=bits)


def _read_arrays(path: Path) -> Table:
    """Return the steps of ``x (samples, L, I)`` as rows, and other arrays with one row
    per sample as columns.

    Optional: ``lengths (samples,)``, ``features (I,)`` and ``sampling_rate``. An
    ``.npy`` file has ``x``.
    """
    arrays = read_arrays(
        path,
        wrong="can't be read",
        advice="save plain arrays with numpy.savez",
        needed=["x"],
    )
    x = _take_x(path, arrays)
    samples, longest, width = x.shape
    lengths = _take_lengths(path, arrays, samples=samples, longest=longest)
    rate = _take_rate(path, arrays)
    names = arrays.pop("features", None)
    if names is None:
        features = [f"x{index}" for index in range(width)]
    elif names.shape == (width,) and names.dtype.kind == "U":
        features = names.tolist()
    else:
        raise InputError(
            f"{path}: features is {names.dtype} {names.shape}, expected text ({width},)"
        )
    sample, step = np.nonzero(np.arange(longest) < lengths[:, None])
    columns = [*zip(features, x[sample, step].T, strict=True)]
    columns.append(("series", sample.astype(str)))
    for name, array in arrays.items():
        for key, column in _columns(path, name, array=array, samples=samples):
            columns.append((key, column[sample]))
    index = pd.MultiIndex.from_arrays([sample, step], names=["sample", "step"])
    frame = pd.DataFrame(dict(enumerate(column for _, column in columns)), index)
    frame = frame.set_axis([name for name, _ in columns], axis=1)
    has_names = names is not None
    return Table(path, frame, rate=rate, features=tuple(features), named=has_names)


def _take_x(path: Path, arrays: dict[str, Array]) -> Array:
    """Remove and return the samples ``(samples, L, I)``."""
    x = arrays.pop("x")
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape:
        advice = "; for one feature save x[:, :, None]" if x.ndim == 2 else ""
        raise InputError(
            f"{path}: x is {x.dtype} {x.shape}, expected numbers (samples, L,"
            f" I){advice}"
        )
    return x


def _take_lengths(
    path: Path, arrays: dict[str, Array], samples: int, longest: int
) -> Array:
    """Remove and return the valid steps of each sample ``(samples,)``."""
    lengths = arrays.pop("lengths", np.full(samples, longest))
    is_numbers = lengths.shape == (samples,) and lengths.dtype.kind in "fiu"
    if not is_numbers or not np.isin(lengths, np.arange(1, longest + 1)).all():
        raise InputError(
            f"{path}: lengths has other values than 1 to {longest} for each sample"
        )
    return lengths


def _take_rate(path: Path, arrays: dict[str, Array]) -> float | None:
    """Remove and return the sampling rate; None if it is not there, or 0."""
    rate = arrays.pop("sampling_rate", np.array(0.0))
    is_number = rate.size == 1 and rate.dtype.kind in "fiu"
    if not is_number or not 0 <= rate.item() < np.inf:
        raise InputError(
            f"{path}: sampling_rate is {rate}, expected one positive number of Hertz"
        )
    return float(rate.item()) or None


def _columns(
    path: Path, name: str, array: Array, samples: int
) -> list[tuple[str, Array]]:
    """Return the columns of an array with one row per sample."""
    dtype_kind = array.dtype.kind
    if array.shape == (samples,) and dtype_kind in "Ub":
        return [(name, array.astype(str).astype(object))]
    if array.shape == (samples,) and dtype_kind in "fiu":
        return [(name, array)]
    if array.ndim == 2 and len(array) == samples and dtype_kind == "f":
        return [(f"{name}{index}", column) for index, column in enumerate(array.T)]
    expected = (
        f"integer or text classes ({samples},), or float values; save {name}.argmax(1)"
        " of one-hot rows"
    )
    raise InputError(
        f"{path}: {name} is {array.dtype} {array.shape}, expected {expected}"
    )
