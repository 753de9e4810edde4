"""Read a data file: a table (``.csv``, ``.parquet``), arrays (``.npz``, ``.npy``), or a folder of tables.

Every verb reads data with this.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lstm_edge_runtime.errors import InputError, NotFoundError

from ..run_files import RESUME
from .arrays import read_array_file
from .config import ReadConfig
from .recordings import ModelFeatures, Recordings, TargetMode, relabeled
from .tables import read_csv, read_parquet

_TABLES = {".csv": read_csv, ".parquet": read_parquet}
_READERS = {**_TABLES, ".npz": read_array_file, ".npy": read_array_file}
_KINDS = "a .npz, .npy, .csv or .parquet file, or a folder of tables"


def read_recordings(
    path: Path,
    config: ReadConfig | None = None,
    *,
    targets: TargetMode = "required",
    model: ModelFeatures | None = None,
) -> Recordings:
    """Read a data file in the format that its name ends in, or every table in a folder.

    Args:
        path: the file or folder. Each table of a folder is one series, or several if it has a column for
            them; their class is in a column, or in the file's path.
        config: names of columns or arrays, and the layout of arrays.
        targets: whether classes or values must be in the file, are read if they are there, or are ignored.
        model: features of the model, to select and check the features.

    Raises:
        NotFoundError: no such file.
        FileFormatError: it can't be read in the format of its suffix.
        InputError: it is empty, of another kind, or its content does not fit; the message names the row and
            column, or the array and index.
    """
    config = config or ReadConfig()
    if path.is_dir():
        return _read_folder(path, config, targets, model)
    if config.label_pattern:
        raise InputError(f"{path} is a file; --label-pattern requires a folder of files")
    if not path.exists():
        raise NotFoundError(f"{path} does not exist; expected {_KINDS}")
    if not path.is_file():
        raise InputError(f"{path} is not a file; expected {_KINDS}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected {_KINDS} with samples")
    if path.suffix not in _READERS:
        raise InputError(f"{path} ends in {path.suffix or 'nothing'!r}; expected {_KINDS}")
    return _READERS[path.suffix](path, config, targets, model)


def data_files(path: Path) -> list[Path]:
    """Return the file itself, or every table in a folder and its sub-folders, sorted."""
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix in _TABLES and file.is_file())


def _read_folder(
    folder: Path, config: ReadConfig, targets: TargetMode, model: ModelFeatures | None
) -> Recordings:
    if (folder / RESUME).is_file():
        raise InputError(f"{folder} is a trained run, not data; run lstm-edge export {folder} -o model.onnx")
    files = data_files(folder)
    if not files:
        raise InputError(
            f"{folder} contains no .csv or .parquet files; expected a folder with one per recording"
        )
    names = [file.relative_to(folder).as_posix() for file in files]
    label_of = (_labels_in_paths(folder, names, config) or {}) if targets != "ignored" else {}
    plain, mode = replace(config, label_pattern=None), "ignored" if label_of else targets
    found = {}
    for file, name in zip(files, names, strict=True):
        one = read_recordings(file, plain, targets=mode, model=model)
        found[name] = _of_file(one, name, label_of.get(name), named_groups=bool(config.group))
    return _join(folder, found)


def _of_file(one: Recordings, file: str, label: str | None, *, named_groups: bool) -> Recordings:
    """Return the recordings of one file of a folder; ``label`` is their class if their path has it."""
    series = tuple(
        replace(
            each,
            name=file if each.name == "0" and len(one.series) == 1 else f"{file}: {each.name}",
            group=each.group if named_groups else f"{file}: {each.group}",
            y=each.y if label is None else np.zeros(len(each.x), np.int64),
        )
        for each in one.series
    )
    return replace(one, series=series, labels=one.labels if label is None else (label,))


def _join(folder: Path, found: dict[str, Recordings]) -> Recordings:
    """Return the recordings of all files, which have the same features and targets."""
    names, first = [*found], next(iter(found.values()))
    for name, one in found.items():
        if one.features != first.features or one.targets != first.targets:
            raise InputError(
                f"{folder}: {name} has the features {', '.join(one.features)}, expected those of {names[0]}: "
                f"{', '.join(first.features)}"
            )
    rates = {one.sampling_rate for one in found.values()}
    parts = relabeled([*found.values()])
    return replace(
        parts[0],
        series=tuple(each for one in parts for each in one.series),
        sampling_rate=rates.pop() if len(rates) == 1 else None,
        notes=tuple(f"{name}: {note}" for name, one in found.items() for note in one.notes),
    )


def _labels_in_paths(folder: Path, names: list[str], config: ReadConfig) -> dict[str, str] | None:
    """Return the class of each file by a pattern or by its subfolder; None if columns have it."""
    if config.label_pattern:
        matches = {name: re.search(config.label_pattern, name) for name in names}
        for name, match in matches.items():
            if match is None:
                raise InputError(f"{folder}: --label-pattern {config.label_pattern!r} does not match {name}")
        return {name: match[1] for name, match in matches.items() if match}
    if config.label or config.targets or config.forecast or not all("/" in name for name in names):
        return None
    return {name: name.rpartition("/")[0] for name in names}
