"""Folders of a run: the working folder, and the output, which appears when it is complete."""

import base64
import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from lstm_edge_runtime.errors import FileFormatError, InputError, NotFoundError
from lstm_edge_runtime.files import check_folder, put_in_place
from lstm_edge_runtime.json_reader import malformed_as, read_json, text, text_or_none, texts
from lstm_edge_runtime.reading import open_regular

from .job import MOST_PARTS

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LEDGER = "_run.json"
"""Name of the file in an output with the scored files and the settings."""
_SCHEMA = 1


def check_output(output: Path, dataset: str, files: Iterable[str]) -> None:
    """Refuse an output that can't be made, or that would be read as input by the next run.

    Args:
        output: the folder to make.
        dataset: the data set.
        files: paths of its files.

    Raises:
        NotFoundError: the parent folder does not exist.
        InputError: it is no output of an earlier run and not empty, or is in the data set or contains it.
    """
    own, data = output.resolve(), Path(dataset).resolve()
    if own == data or data in own.parents or own in data.parents:
        raise InputError(f"{output} and the data set {dataset} contain each other; name another output")
    if inside := next((path for path in files if own in Path(path).resolve().parents), None):
        raise InputError(f"the data set {dataset} includes {output}, as {inside}; name another output")
    if not (output / LEDGER).exists():
        check_folder(output, lambda _: False)


def read_ledger(output: Path) -> dict[str, Any]:
    """Return the settings and files of an earlier run.

    Raises:
        NotFoundError: there is none.
        FileFormatError: it is damaged or of another version.
        InputError: another run is writing this output.
    """
    path = output / LEDGER
    if not output.exists() and (_folder(output) / "old").exists():
        with workspace(output):  # restores an output that a killed run had moved
            pass
    if not path.exists():
        raise NotFoundError(f"{output} is no output of lstm-edge score; score without --since first")
    with malformed_as(FileFormatError, f"{path} can't be read", "score without --since"):
        with open_regular(path) as file:
            raw = read_json(file.read())
        if raw["schema"] != _SCHEMA:
            raise FileFormatError(f"{path} is of another version of lstm-edge; score without --since")
        earlier = {"hold": 1, "reset_every": None}  # versions that did not write them
        ledger: dict[str, Any] = _checked(earlier | raw, _FORM)
    return ledger


def encode_keys(series: pa.DataType, order: pa.DataType) -> str:
    """Return the types of series and order as text."""
    keys = pa.schema({"series": series, "order": order})
    return base64.b64encode(keys.serialize().to_pybytes()).decode()


def decode_keys(keys: str) -> list[pa.DataType]:
    """Return the types of series and order."""
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(keys, validate=True)))
    return [schema.field(name).type for name in ("series", "order")]


def _keys(raw: Any) -> str:
    decode_keys(text(raw))
    return str(raw)


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def check(raw: Any) -> int:
        if type(raw) is not int or not least <= raw <= most:
            raise ValueError(f"{raw!r:.60}, expected a whole number from {least} to {most}")
        return raw

    return check


def _one_of(*values: Any) -> Callable[[Any], Any]:
    def check(raw: Any) -> Any:
        if not any(raw == value and type(raw) is type(value) for value in values):
            raise ValueError(f"{raw!r:.60}, expected one of {values}")
        return raw

    return check


def _checked(raw: Any, form: Any) -> Any:
    """Return a value that has a form: a function that checks it, or a mapping of forms."""
    return form(raw) if callable(form) else {name: _checked(raw[name], inner) for name, inner in form.items()}


_MARK = {"rows": _whole(0, 1 << 63), "bytes": _whole(0, 1 << 63), "modified": _whole(-1 << 63, 1 << 63)}
_FORM = {
    "model": {"name": text, "identity": text},
    "engine": _one_of("native", "onnxruntime"),
    "columns": {"series": text_or_none, "order": text_or_none, "features": texts},
    "keys": _keys,
    "events": _one_of(False, True),
    "by_window": _one_of(False, True),
    "hold": _whole(1, 1 << 31),
    "reset_every": lambda raw: None if raw is None else _whole(1, 1 << 31)(raw),
    "buckets": _one_of(*(1 << bits for bits in range(MOST_PARTS.bit_length()))),
    "number": _whole(1, 1 << 31),
    "files": lambda raw: {name: _checked(mark, _MARK) for name, mark in raw.items()},
    "left_out": lambda raw: {name: _checked(mark, _MARK | {"why": text}) for name, mark in raw.items()},
}
"""The form of a ledger; a value of another raises an exception for ``malformed_as``."""


@contextlib.contextmanager
def workspace(output: Path) -> Iterator[Path]:
    """Yield an empty folder next to ``output``, which is removed at the end.

    Leftovers of a killed run are removed first, and an output that it had moved is restored.

    Raises:
        InputError: another run is writing the same output, or the folder can't be created.
    """
    folder = _folder(output)
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise InputError(f"{output} can't be written: {error.strerror}") from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"another run is writing {output}; wait for it, or name another output"
                ) from None
        if (folder / "old").exists() and not output.exists():
            (folder / "old").rename(output)
        for each in folder.iterdir():
            if each.is_dir():
                shutil.rmtree(each)
        yield folder
    finally:
        if fcntl is None:
            os.close(lock)  # first: Windows can't remove an open file
            shutil.rmtree(folder, ignore_errors=True)
        else:
            if _is_ours(folder, lock):
                shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.partial")


def adopt(previous: Path, new: Path) -> None:
    """Add the files of an earlier output to the new one, as hard links or, if that fails, as copies.

    States, open events and the ledger are left out, because the new run writes its own.
    """
    for path in previous.rglob("*"):
        name = path.relative_to(previous)
        replaced = name.parts[0] in ("_state", LEDGER) or (
            name.parts[0] == "_events" and path.name.startswith("open-")
        )
        if path.is_dir() or replaced:
            continue
        target = new / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copy2(path, target)


def publish(folder: Path, output: Path, ledger: Mapping[str, Any]) -> None:
    """Replace ``output`` by the output in a workspace.

    Raises:
        InputError: it can't be written.
    """
    new = folder / "new"
    try:
        new.mkdir(exist_ok=True)
        document = json.dumps({"schema": _SCHEMA, **ledger}, indent=1)
        (new / LEDGER).write_text(document + "\n", encoding="utf-8")
        put_in_place(new, output, folder / "old")
    except OSError as error:
        raise InputError(f"{output} can't be written: {error.strerror or error}") from error


def _is_ours(folder: Path, lock: int) -> bool:
    """Return whether this process has the lock, and so may remove the folder."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(lock), (folder / "lock").stat())
    except OSError:
        return False
