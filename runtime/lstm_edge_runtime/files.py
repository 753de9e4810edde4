"""Write files and folders atomically."""

import contextlib
import glob
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from .errors import InputError, LstmEdgeError, NotFoundError

_CURRENT, _RENAME_EXCHANGE = -100, 2
"""AT_FDCWD and a flag of Linux's renameat2."""


def check_target(target: str | os.PathLike[str]) -> None:
    """Check early what ``replacing`` would refuse after the work.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is a folder, a device or the like.
    """
    target = Path(target)
    if not target.parent.is_dir():
        raise NotFoundError(f"{target}: its folder {target.parent} does not exist; create it first")
    if target.is_dir():
        raise InputError(f"{target} is a folder, expected a file")
    if target.exists() and not target.is_file():
        raise InputError(f"{target} is not a regular file and would be replaced; use another name")


@contextlib.contextmanager
def replacing(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``target`` and rename it to ``target`` if the block succeeds.

    An exception (a full disk and Ctrl-C included) removes the temporary file and leaves the old target.
    A link remains a link: its target is replaced, and the new file has the permissions of the old one.
    Leftovers of a killed writer of the same target are removed: the lock on its temporary file ended with it
    (not on Windows, which has no such locks).

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` can't be written (a folder, a device, no permission, a full disk).
    """
    check_target(target)
    target = Path(os.path.realpath(target))  # pathlib's own raises on links in a ring
    with _temporary(target) as temporary:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        _keep_permissions(target, temporary)
        temporary.replace(target)
        _sync_folder(target.parent)


@contextlib.contextmanager
def _temporary(target: Path, *, is_folder: bool = False) -> Iterator[Path]:
    """Yield a new file or folder next to ``target`` that is removed at the end if it still exists."""
    _remove_leftovers(target)
    try:
        temporary, lock = _create_temporary(target, is_folder=is_folder)
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror}") from error
    try:
        yield temporary
    except LstmEdgeError:  # of the block's own work; some are OSErrors too
        raise
    except OSError as error:
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    finally:
        if is_folder:
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


def _create_temporary(target: Path, *, is_folder: bool) -> tuple[Path, int | None]:
    """Return a new file or folder next to ``target``, and the descriptor that locks it while it is written.

    Nobody else may read what is to replace something; its permissions come last.
    """
    private = _facts(target) is not None
    while True:
        temporary = target.with_name(f".{target.name}.{os.urandom(4).hex()}.tmp")
        # with the rights of any new file, which tempfile's have not
        if is_folder:
            temporary.mkdir(0o700 if private else 0o777)
            if fcntl is None:
                return temporary, None
            descriptor = os.open(temporary, os.O_RDONLY)
        else:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
            descriptor = os.open(temporary, flags, 0o600 if private else 0o666)
        if fcntl is None:
            os.close(descriptor)
            return temporary, None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = temporary.exists()
        except BlockingIOError:
            free = False
        except OSError:  # a file system without locks: nobody removes leftovers there
            free = True
        if free:
            return temporary, descriptor
        os.close(descriptor)  # another writer took it for a leftover before it was locked


def _keep_permissions(old: Path, new: Path) -> None:
    """Give ``new`` the owner, where that is allowed, and the permissions of what it is to replace, if any."""
    facts = _facts(old)
    if facts is None:
        return
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(new, facts.st_uid, facts.st_gid)
    new.chmod(stat.S_IMODE(facts.st_mode))


def _facts(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:  # not there, or a link to itself
        return None


def _sync_folder(folder: Path) -> None:
    """Write a folder's new names to the disk, where the system can."""
    if fcntl is None:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system that can't
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files and folders of ``target`` that no writer has locked."""
    if fcntl is None:
        return
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.tmp")
    found = []
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        found = [entry.path for entry in entries if name.fullmatch(entry.name)]
    for path in found:
        with contextlib.suppress(OSError):
            flags = os.O_RDONLY if Path(path).is_dir() else os.O_RDWR
            descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if stat.S_ISDIR(os.fstat(descriptor).st_mode):
                    shutil.rmtree(path)
                else:
                    Path(path).unlink()
            finally:
                os.close(descriptor)


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``target`` atomically; raises as ``replacing``."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def check_folder(target: str | os.PathLike[str], replaced: Callable[[str], bool]) -> None:
    """Refuse a folder that ``write_folder`` can't make, or whose files would be lost.

    Args:
        target: the folder, which need not exist.
        replaced: whether a file, by its path in the folder, will be written again.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` is no folder, or contains another file.
    """
    target = Path(os.path.realpath(target))
    if not target.parent.is_dir():
        raise NotFoundError(f"{target}: its folder {target.parent} does not exist; create it first")
    if not target.exists():
        return
    if not target.is_dir():
        raise InputError(f"{target} is not a folder; use a new or empty folder")
    files = sorted(
        path.relative_to(target).as_posix()
        for path in target.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )
    strange = next((name for name in files if not replaced(name)), None)
    if strange is not None:
        raise InputError(f"{target} contains {strange}, which would be lost; use a new or empty folder")


def write_folder(
    target: str | os.PathLike[str],
    contents: Mapping[str, bytes],
    replaced: Callable[[str], bool] | None = None,
) -> Path:
    """Write a folder with ``contents`` atomically; an existing one is replaced.

    The new folder is written next to the old one, with its permissions, and, on Linux, exchanged with it;
    elsewhere, and on file systems that can't exchange, the old one is renamed first; if the writer is killed
    between the two renames, it is kept next to the target as ``.NAME.xxxxxxxx.old``, and the next write
    restores it. Other leftovers of a killed writer are removed, as by ``replacing``.

    Args:
        target: the folder.
        contents: each file's content by its path in the folder.
        replaced: as of ``check_folder``; those in ``contents`` if it is None.

    Raises:
        NotFoundError, InputError: as ``check_folder``; or it can't be written (no permission, a full disk).
    """
    if outside := [name for name in contents if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise InputError(f"{outside[0]!r} is not a file in {target}; expected a relative path without '..'")
    folder = Path(os.path.realpath(target))
    _settle(folder)
    check_folder(target, replaced or contents.__contains__)
    with _temporary(folder, is_folder=True) as fresh:
        for name, content in contents.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path in (*fresh.rglob("*"), fresh):
            if path.is_dir():
                _sync_folder(path)
            _keep_permissions(folder / path.relative_to(fresh), path)
        put_in_place(fresh, folder, fresh.with_suffix(".old"))
        _sync_folder(folder.parent)
    return folder


def put_in_place(fresh: Path, folder: Path, stale: Path) -> None:
    """Rename ``fresh`` to ``folder``; an old folder is then at ``fresh``, or removed.

    If the file system can't exchange two names, the old folder is at ``stale`` between two renames.
    """
    if not folder.exists():
        fresh.rename(folder)
        return
    if _exchange(fresh, folder):
        return
    folder.rename(stale)
    try:
        fresh.rename(folder)
    except OSError:
        stale.rename(folder)
        raise
    shutil.rmtree(stale, ignore_errors=True)


def _settle(folder: Path) -> None:
    """End what a killed writer began: put the old folder back, or remove it where the new one is in place."""
    # listed first: what is found after both renames of a living writer is only its litter
    for stale in list(folder.parent.glob(f".{glob.escape(folder.name)}.{'[0-9a-f]' * 8}.old")):
        if folder.exists():
            shutil.rmtree(stale, ignore_errors=True)
        else:
            stale.rename(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system can't."""
    import ctypes

    try:
        rename = ctypes.CDLL(None).renameat2  # Linux; Python has no function for it
    except (AttributeError, OSError, TypeError):
        return False
    done: bool = rename(_CURRENT, os.fsencode(one), _CURRENT, os.fsencode(other), _RENAME_EXCHANGE) == 0
    return done
