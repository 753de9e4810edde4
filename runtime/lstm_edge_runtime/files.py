"""Write files whole or not at all."""

import contextlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from .errors import InputError, LstmEdgeError, NotFoundError

_LONGEST_WAIT = 10.0
"""Seconds to wait for another writer of the same file."""
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


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

    An exception (a full disk and Ctrl-C included) removes the temporary file and leaves the old target. A
    link remains a link: its target is replaced, and the new file has the permissions of the old one. A
    second writer of the same target waits for the first (not on Windows), and replaces what a killed one
    has left.

    Raises:
        NotFoundError: the folder of ``target`` does not exist.
        InputError: ``target`` can't be written (a folder, a device, no permission, a full disk).
    """
    check_target(target)
    target = Path(os.path.realpath(target))  # pathlib's own raises on links in a ring
    temporary, lock = target.with_name(f".{target.name}.tmp"), -1
    try:
        lock = _create(temporary, private=target.exists())
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        if target.exists():
            _keep_permissions(target, temporary)
        temporary.replace(target)
        _sync_folder(target.parent)
    except LstmEdgeError:  # of the block's own work; some are OSErrors too
        temporary.unlink(missing_ok=True)
        raise
    except OSError as error:
        if lock >= 0:
            temporary.unlink(missing_ok=True)
        raise InputError(f"{target} can't be written: {error.strerror or error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        if lock >= 0 and fcntl is not None:
            os.close(lock)


def _create(temporary: Path, *, private: bool) -> int:
    """Create a file that nobody else writes meanwhile; return its descriptor, which locks it.

    Nobody else may read what is to replace something; its permissions come last.
    """
    end = time.monotonic() + _LONGEST_WAIT
    while True:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600 if private else 0o666)
        if fcntl is None:
            os.close(descriptor)
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() > end:
                raise OSError(None, "another process is writing it") from None
            time.sleep(0.001)
            continue
        except OSError:  # a file system without locks
            pass
        with contextlib.suppress(FileNotFoundError):  # the writer before has renamed it
            if os.path.samestat(os.fstat(descriptor), temporary.stat()):
                if private:
                    os.fchmod(descriptor, 0o600)
                return descriptor
        os.close(descriptor)


def _keep_permissions(old: Path, new: Path) -> None:
    """Give ``new`` the owner, where that is allowed, and the permissions of what it is to replace."""
    facts = old.stat()
    if hasattr(os, "chown"):
        with contextlib.suppress(PermissionError):
            os.chown(new, facts.st_uid, facts.st_gid)
    new.chmod(stat.S_IMODE(facts.st_mode))


def _sync_folder(folder: Path) -> None:
    """Write a folder's new names to the disk, where the system can."""
    if fcntl is not None:
        descriptor = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system that can't
            os.fsync(descriptor)
        os.close(descriptor)


def write_bytes(target: str | os.PathLike[str], content: bytes) -> None:
    """Write ``content`` to ``target`` atomically; raises as ``replacing``."""
    with replacing(target) as temporary:
        temporary.write_bytes(content)
