"""Files with one row per time step (``.csv``, ``.parquet``, ``.wav``), or arrays made into such rows."""

import codecs
import csv
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from lstm_edge.suggest import did_you_mean
from lstm_edge_runtime.errors import (
    FileFormatError,
    InputError,
    MissingDependencyError,
    counted,
    first_line,
    install_command,
)
from lstm_edge_runtime.files import read_arrays
from lstm_edge_runtime.manifest import Array

GAPS = frozenset({"", "nan", "na", "null", "none"})
"""Cells that are missing, in lower case."""
LARGEST = float(np.finfo(np.float32).max)
_WAV_DTYPES = {(1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}
"""Samples of a WAV file by format tag (1 integer, 3 float) and bits."""
_WAV_EXTENSIBLE = 0xFFFE


def usable(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Return which numbers are finite, also as float32."""
    with np.errstate(over="ignore"):  # for float16 the bound itself is infinite
        fits: npt.NDArray[np.bool_] = np.isfinite(values) & (np.abs(values) <= LARGEST)
    return fits


def read_table(path: Path, encoding: str) -> "Table":
    """Read a table in the format that its name ends in.

    Raises:
        FileFormatError: it can't be read in that format.
        InputError: it has no header or rows, a row has another number of columns, or an array a wrong shape.
        MissingDependencyError: pyarrow is needed, but not installed.
    """
    if path.suffix == ".csv":
        return _read_csv(path, encoding)
    readers = {".parquet": _read_parquet, ".wav": _read_wav, ".npz": _read_arrays, ".npy": _read_arrays}
    return readers[path.suffix](path)


class Table:
    """Columns of one file, and where each row is in it for messages."""

    def __init__(
        self,
        path: Path,
        frame: pd.DataFrame,
        *,
        decimal_comma: bool = False,
        rate: float | None = None,
        features: Sequence[str] = (),
        named: bool = True,
        lengths: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Take columns of text without space around, or of numbers.

        Args:
            path: for messages.
            frame: the index holds the number of each row in the file.
            decimal_comma: True if ``1,5`` is a number.
            rate: sampling rate, Hertz, if the file states it.
            features: columns of features, if the file states which they are.
            named: False if their names have no meaning.
            lengths: steps of each sample, for arrays.
        """
        if frame.empty:
            raise InputError(f"{path} is empty; expected a header and one row per time step")
        self.path, self.frame, self.rate, self.features, self.named = path, frame, rate, features, named
        self.header = [str(name) for name in frame.columns]
        self._comma, self._ends = decimal_comma, None if lengths is None else lengths.cumsum()

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.frame)

    def place(self, row: int) -> str:
        """Return where a row is in the file: its line, or its sample and step."""
        if self._ends is None:
            return f"row {int(self.frame.index[row])}"
        sample = int(np.searchsorted(self._ends, row, side="right"))
        return f"sample {sample}, step {row - (int(self._ends[sample - 1]) if sample else 0)}"

    def require(self, names: Sequence[str | None], advice: str = "") -> None:
        """Raise InputError for the first column that does not exist; None is skipped."""
        for name in names:
            if name and name not in self.header:
                text = f"{self.path} has no column {name!r} (it has {', '.join(self.header)})"
                raise InputError("; ".join(filter(None, (text, did_you_mean(name, self.header), advice))))

    def texts(self, name: str) -> npt.NDArray[Any]:
        """Return a column as text ``(rows,)``; raises InputError for an empty cell."""
        column = self.frame[name]
        if pd.api.types.is_float_dtype(column):
            column = column.map("{:g}".format, na_action="ignore")
        cells = column.astype(object).fillna("").map(str).str.strip().to_numpy(dtype=object)
        if (empty := cells == "").any():
            raise InputError(f"{self.path} {self.place(int(empty.argmax()))}, column {name!r} is empty")
        texts: npt.NDArray[Any] = cells
        return texts

    def numbers(self, names: Sequence[str], *, gaps: bool, advice: str = "") -> npt.NDArray[np.float64]:
        """Return columns ``(rows, columns)``.

        Args:
            names: of the columns.
            gaps: True to return NaN for missing cells.
            advice: advice for a missing cell.

        Raises:
            InputError: a cell is not a number, or is missing although ``gaps`` is False.
        """
        values = np.empty((len(self), len(names)))
        for place, name in enumerate(names):
            values[:, place] = _to_numbers(self.frame[name], comma=self._comma)
            wrong = ~usable(values[:, place])
            if wrong.any():
                missing = np.array([_is_gap(cell) for cell in self.frame[name][wrong]])
                if not gaps or not missing.all():
                    first = int((~missing).argmax()) if gaps else 0
                    self._refuse(name, int(np.flatnonzero(wrong)[first]), advice)
        return values

    def _refuse(self, name: str, row: int, advice: str) -> None:
        cell = self.frame[name].iloc[row]
        text = "" if _is_gap(cell) else str(cell)
        if text:
            with_point = pd.to_numeric(text.replace(",", "."), errors="coerce")
            comma = "," in text and not np.isnan(with_point)
            advice = "; choose columns with --features, and --order for times"
            advice = "; write a decimal point, or separate columns by semicolons" if comma else advice
        raise InputError(
            f"{self.path} {self.place(row)}, column {name!r} is {text!r}, expected a finite number{advice}"
        )

    def order(self, name: str) -> tuple[npt.NDArray[np.float64], bool]:
        """Return the sort keys ``(rows,)``: numbers, or seconds of ISO timestamps and True.

        Raises:
            InputError: a cell is neither; the first one decides which of the two is expected.
        """
        column = self.frame[name]
        if not np.isnan(_to_numbers(column.iloc[:1], comma=self._comma)[0]) or _is_gap(column.iloc[0]):
            return self.numbers([name], gaps=False)[:, 0], False
        times = pd.to_datetime(column, format="ISO8601", utc=True, errors="coerce")
        if (wrong := times.isna()).any():
            row = int(wrong.argmax())
            raise InputError(
                f"{self.path} {self.place(row)}, column {name!r} is {str(column.iloc[row])!r}, expected a "
                "number or an ISO timestamp such as 2026-11-25T09:30:00.25"
            )
        return (times - times.iloc[0]).dt.total_seconds().to_numpy(dtype=np.float64), True


def _is_gap(cell: Any) -> bool:
    return pd.isna(cell) is True or str(cell).strip().lower() in GAPS  # a cell may be a list


def _to_numbers(column: Any, *, comma: bool) -> npt.NDArray[np.float64]:
    """Return a column as numbers, NaN for any other cell."""
    if not pd.api.types.is_numeric_dtype(column):
        if pd.api.types.is_datetime64_any_dtype(column):
            return np.full(len(column), np.nan)
        text = column.map(str).str.strip()  # cells may be bytes
        text = text.str.replace(",", ".", regex=False) if comma else text
        column = pd.to_numeric(text.where(~text.str.contains("_", regex=False)), errors="coerce")
    numbers: npt.NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers


def _read_csv(path: Path, encoding: str) -> Table:
    rows, lines = [], []
    try:
        with path.open(newline="", encoding=_encoding(path, encoding)) as file:
            separator = max(",;\t", key=_count_cells(file.readline()))
            file.seek(0)
            reader = csv.reader(file, strict=True, delimiter=separator)
            header = [name.strip() for name in next(reader, [])]
            for row in filter(None, reader):
                rows.append([cell.strip() for cell in row])
                lines.append(reader.line_num)
                if len(row) != len(header):
                    raise InputError(
                        f"{path} row {reader.line_num} has {counted(len(row), 'column')}, expected the "
                        f"header's {len(header)}"
                    )
    except (UnicodeError, LookupError) as error:
        raise FileFormatError(
            f"{path} is not {encoding} text ({first_line(error)}); name its encoding, such as "
            "--encoding latin-1"
        ) from error
    except csv.Error as error:
        raise FileFormatError(f"{path} is not CSV text ({error})") from error
    _check_header(path, header)
    return Table(path, pd.DataFrame(rows, lines, header, dtype=object), decimal_comma=separator != ",")


def _encoding(path: Path, encoding: str) -> str:
    """Return the encoding that a byte order mark names, or the given one."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding


def _count_cells(line: str) -> Any:
    return lambda separator: len(next(csv.reader([line], delimiter=separator), []))


def _check_header(path: Path, header: list[str]) -> None:
    if repeated := {name for name in header if header.count(name) > 1}:
        raise InputError(f"{path} has the column {sorted(repeated)[0]!r} twice; rename one")
    numeric = [name for name in header if not np.isnan(_to_numbers(pd.Series([name]), comma=True)[0])]
    counting = numeric == [str(place) for place in range(len(numeric))]  # as a data frame names its columns
    if numeric and not counting and (len(numeric) == len(header) or not all(map(str.isdecimal, numeric))):
        first = ", ".join(header[:3]) + (", ..." if len(header) > 3 else "")
        raise InputError(f"{path} has no header: row 1 is {first}; add a row with the names of the columns")


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa  # noqa: F401  so that its absence has an error of its own
    except ImportError as error:
        raise MissingDependencyError(
            f"{path}: reading Parquet needs pyarrow; {install_command('parquet')}"
        ) from error
    try:
        frame = pd.read_parquet(path)
    except Exception as error:  # pyarrow's errors share no base with pandas'
        raise FileFormatError(f"{path} can't be read as Parquet ({first_line(error)})") from error
    return Table(
        path, frame.set_axis(range(1, len(frame) + 1)).rename(columns=lambda name: str(name).strip())
    )


def _read_wav(path: Path) -> Table:
    """Read samples as they are in the file, integers or floats, one column per channel."""
    content = path.read_bytes()
    try:
        if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
            raise ValueError("it does not begin as one")  # noqa: TRY301  one message for all
        chunks = dict(_wav_chunks(content))
        tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", chunks[b"fmt "])
        if tag == _WAV_EXTENSIBLE:
            (tag,) = struct.unpack_from("<H", chunks[b"fmt "], 24)
        if (tag, bits) not in _WAV_DTYPES or not channels or not rate:
            raise ValueError(f"format {tag} with {bits} bits, expected 16 or 32 bits, or float")  # noqa: TRY301
        samples = np.frombuffer(chunks[b"data"], _WAV_DTYPES[tag, bits]).reshape(-1, channels)
    except (KeyError, ValueError, struct.error) as error:
        raise FileFormatError(f"{path} can't be read as WAV ({first_line(error)})") from error
    names = ["audio"] if channels == 1 else [f"audio{number}" for number in range(channels)]
    return Table(path, pd.DataFrame(samples, range(1, len(samples) + 1), names), rate=float(rate))


def _wav_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 12
    while place + 8 <= len(content):
        name, size = content[place : place + 4], int.from_bytes(content[place + 4 : place + 8], "little")
        yield name, content[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _read_arrays(path: Path) -> Table:
    """Return the steps of ``x (samples, L, I)`` as rows.

    Other arrays with one row per sample become columns, ``y0``, ``y1``, ... if they have several. Optional:
    ``lengths (samples,)``, ``features (I,)`` and ``sampling_rate``. An ``.npy`` file contains ``x``, or one
    series ``(L, I)``.
    """
    arrays = read_arrays(path, "can't be read", "save plain arrays with numpy.savez", ["x"])
    x = arrays.pop("x")
    x = x[None] if path.suffix == ".npy" and x.ndim == 2 else x
    if x.ndim != 3 or x.dtype.kind not in "fiu" or 0 in x.shape:
        advice = "; for one feature save x[:, :, None]" if x.ndim == 2 else ""
        raise InputError(f"{path}: x is {x.dtype} {x.shape}, expected numbers (samples, L, I){advice}")
    samples, longest, width = x.shape
    lengths = arrays.pop("lengths", np.full(samples, longest))
    if lengths.shape != (samples,) or lengths.dtype.kind not in "iu":
        raise InputError(
            f"{path}: lengths is {lengths.dtype} {lengths.shape}, expected integers ({samples},)"
        )
    if (wrong := (lengths < 1) | (lengths > longest)).any():
        index = int(wrong.argmax())
        raise InputError(f"{path}: lengths[{index}] is {lengths[index]}, expected 1 to {longest}")
    rate = arrays.pop("sampling_rate", None)
    if rate is not None and (rate.size != 1 or rate.dtype.kind not in "fiu" or not 0 < rate.item() < np.inf):
        raise InputError(f"{path}: sampling_rate is {rate}, expected one positive number of Hertz")
    names = arrays.pop("features", np.array([], str))
    if names.shape not in ((0,), (width,)):
        raise InputError(f"{path}: features is {names.shape}, expected ({width},)")
    features = list(map(str, names)) or [f"x{index}" for index in range(width)]
    columns = dict(zip(features, x[np.arange(longest) < lengths[:, None]].T, strict=True))
    columns["series"] = np.repeat(np.arange(samples).astype(str), lengths)
    for name, array in arrays.items():
        columns |= _columns(path, name, array, samples, lengths)
    return Table(
        path,
        pd.DataFrame(columns),
        rate=None if rate is None else float(rate.item()),
        features=features,
        named=bool(names.size),
        lengths=lengths.astype(np.int64),
    )


def _columns(
    path: Path, name: str, array: Array, samples: int, lengths: npt.NDArray[np.int64]
) -> dict[str, Array]:
    """Return the columns of an array with one row per sample."""
    whole = array.dtype.kind != "f"
    if (
        array.ndim not in (1, 2)
        or len(array) != samples
        or array.dtype.kind not in "fiubU"
        or (array.ndim == 2 and whole)
    ):
        advice = f"; of one-hot rows save {name}.argmax(axis=1)" if array.ndim == 2 and whole else ""
        raise InputError(
            f"{path}: {name} is {array.dtype} {array.shape}, expected integer or text classes ({samples},), "
            f"or float values{advice}"
        )
    if array.ndim == 1:
        return {
            name: np.repeat(array.astype(str).astype(object) if array.dtype.kind in "Ub" else array, lengths)
        }
    return {f"{name}{place}": np.repeat(column, lengths) for place, column in enumerate(array.T)}
