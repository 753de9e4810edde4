"""Reading series of samples from ``.npz``, ``.npy`` and ``.csv`` files, or saying what is wrong with them."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.files import read_arrays

__all__ = ["Series", "read_series"]

_SERIES, _ORDER = "series", "order"


@dataclass(frozen=True)
class Series:
    """One series of samples."""

    name: str
    """Its id in the file, or its number from 0."""
    x: npt.NDArray[Any]
    """``(L, I)``, finite."""


def read_series(
    path: Path, width: int, features: Sequence[str] = (), series: str | None = None, order: str | None = None
) -> list[Series]:
    """Read every series of a data file.

    Args:
        path: ``.npz`` with ``x (samples, L, I)`` and optional ``lengths (samples,)``; ``.npy`` with such an
            ``x``, or with one series ``(L, I)``; ``.csv`` with a header and a row per time step.
        width: I, how many features the file takes.
        features: their names; a CSV's columns are picked by them where the file states them.
        series: the CSV column that tells series apart; by default ``series`` where there is one.
        order: the CSV column that orders a series' rows; by default ``order`` where there is one.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read as what its name says.
        InputError: its content does not fit; the message names the row and column or the index.
    """
    if not path.is_file():
        raise NotFoundError(f"{path} is not there; name a .npz, .npy or .csv file")
    if path.suffix == ".csv":
        found = _read_csv(path, width, tuple(features), series, order)
    elif path.suffix in (".npz", ".npy"):
        found = _read_arrays(path, width)
    else:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected .npz, .npy or .csv")
    if not found:
        raise InputError(f"{path} holds no samples; expected at least one")
    return found


def _read_arrays(path: Path, width: int) -> list[Series]:
    arrays = read_arrays(path, "can't be read", "save plain numbers with numpy")
    if "x" not in arrays:
        raise InputError(f"{path} holds {', '.join(sorted(arrays)) or 'nothing'}; expected an array named x")
    x = arrays["x"]
    if x.dtype.kind not in "fiu":
        raise InputError(f"{path}: x has dtype {x.dtype}; expected numbers")
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3 or x.shape[2] != width or x.shape[1] == 0:
        raise InputError(f"{path}: x has shape {arrays['x'].shape}; expected (samples, L, {width})")
    lengths = _lengths(path, arrays.get("lengths"), x.shape[0], x.shape[1])
    found = [Series(str(index), x[index, :length]) for index, length in enumerate(lengths)]
    for index, one in enumerate(found):
        if not np.isfinite(one.x).all():
            step, feature = np.argwhere(~np.isfinite(one.x))[0]
            raise InputError(
                f"{path}: x[{index}, {step}, {feature}] is {one.x[step, feature]}; expected a finite number"
            )
    return found


def _lengths(path: Path, lengths: npt.NDArray[Any] | None, rows: int, longest: int) -> list[int]:
    if lengths is None:
        return [longest] * rows
    if lengths.dtype.kind not in "iu" or lengths.shape != (rows,):
        raise InputError(
            f"{path}: lengths is {lengths.dtype} {lengths.shape}; expected whole numbers of shape ({rows},)"
        )
    if rows and not 1 <= lengths.min() <= lengths.max() <= longest:
        raise InputError(f"{path}: lengths holds {lengths.min()}..{lengths.max()}; expected 1..{longest}")
    return [int(length) for length in lengths]


def _read_csv(
    path: Path, width: int, features: tuple[str, ...], series: str | None, order: str | None
) -> list[Series]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            rows = csv.reader(file, strict=True)
            header = [name.strip() for name in next(rows, [])]
            series_at = _column(path, header, series, _SERIES)
            order_at = _column(path, header, order, _ORDER)
            columns = _feature_columns(path, header, width, features, {series_at, order_at})
            gathered: dict[str, list[tuple[float, list[float]]]] = {}
            for line, row in _full_rows(path, rows, len(header)):
                key = row[series_at].strip() if series_at is not None else "0"
                place = _number(path, line, header[order_at], row[order_at]) if order_at is not None else 0.0
                sample = [_number(path, line, header[column], row[column]) for column in columns]
                gathered.setdefault(key, []).append((place, sample))
        except (UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(f"{path} is not CSV text in UTF-8 ({error})") from error
    return [
        Series(key, np.array([sample for _, sample in sorted(steps, key=lambda step: step[0])]))
        for key, steps in gathered.items()
    ]


def _column(path: Path, header: list[str], asked: str | None, usual: str) -> int | None:
    if asked is not None and asked not in header:
        raise InputError(f"{path} has no column {asked!r}; its columns are {', '.join(header)}")
    name = asked or usual
    return header.index(name) if name in header else None


def _feature_columns(
    path: Path, header: list[str], width: int, features: tuple[str, ...], taken: set[int | None]
) -> list[int]:
    if not header:
        raise InputError(f"{path} is empty; expected a header line and a row per time step")
    if features and set(features) <= set(header):
        return [header.index(name) for name in features]
    columns = [index for index in range(len(header)) if index not in taken]
    if not features and len(columns) == width:
        return columns
    missing = [name for name in features if name not in header]
    raise InputError(
        f"{path} has the columns {', '.join(header)}; "
        + (f"{', '.join(missing)} missing" if missing else f"expected {width} beside series and order")
    )


def _full_rows(path: Path, rows: Iterator[list[str]], width: int) -> Iterator[tuple[int, list[str]]]:
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != width:
            raise InputError(f"{path} row {line} has {len(row)} columns; expected the header's {width}")
        yield line, row


def _number(path: Path, line: int, column: str, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path} row {line}, column {column!r} is {cell!r}; expected a finite number")
    return value
