"""Locking: one writer at a time, known by name; a lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

# Where Windows locks a byte: beyond the text, which would otherwise be locked for readers too.
FAR = 2**30
# A name longer than this is not one that this file wrote.
LONGEST = 4096
# Asking whether a lock is held takes it for an instant: a refusal is tried again, so often, so many seconds later.
TRIES, PAUSE = 3, 0.05
# A link planted under the lock's name would have us write elsewhere.
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class Held(OSError):
    """A lock that another writer holds; the text names it."""


@contextmanager
def hold(path: Path, purpose: str) -> Iterator[None]:
    """Hold the lock that is the file ``path`` for as long as the ``with`` lasts; the file says who holds it.

    The lock is the operating system's (``flock``), not the file: it ends with the process, so that the file of a
    process that was killed stands in nobody's way. Errors: `Held`, an ``OSError``, naming process, host and purpose of
    the one who holds it; ``OSError`` where the file cannot be made, or the file system has no locks.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold(Path(folder) / "lock", "demo"):
    ...     "demo" in holder(Path(folder) / "lock")
    True
    """
    handle = _open_locked(path)
    try:
        name = {"pid": os.getpid(), "host": socket.gethostname(), "purpose": purpose, "since": _now()}
        os.ftruncate(handle, 0)
        os.write(handle, (json.dumps(name) + "\n").encode())
        yield
    finally:
        _remove_own(path, handle)
        os.close(handle)


def is_held(path: Path) -> bool:
    """Say whether a living process holds the lock ``path``."""
    try:
        handle = os.open(path, os.O_RDWR | NO_LINKS)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle, path)
    finally:
        os.close(handle)


def holder(path: Path) -> str:
    """Say in words who holds the lock ``path``, as its file tells."""
    try:
        with path.open("rb") as file:
            name = json.loads(file.read(LONGEST))
        return f"process {int(name['pid'])} on {name['host']!r} ({name['purpose']!s:.80}, since {name['since']!s:.40})"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return f"a process that has not yet said its name in '{path}'"


def _open_locked(path: Path) -> int:
    refused = 0
    while refused < TRIES:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o644)
        try:
            locked = _lock(handle, path)
            if locked and _is_file(path, handle):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # not ours, or removed by its last holder between our opening and our locking it
        if not locked:
            refused += 1
            time.sleep(PAUSE)
    raise Held(errno.EAGAIN, f"another writer is at work: {holder(path)}; wait for it, or end it", str(path))


def _lock(handle: int, path: Path) -> bool:
    try:
        if sys.platform == "win32":
            os.lseek(handle, FAR, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise OSError(
            error.errno, f"this file system has no locks ({error.strerror}): keep the store on another", str(path)
        ) from error
    return True


def _is_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _remove_own(path: Path, handle: int) -> None:
    try:
        if sys.platform != "win32" and _is_file(path, handle):
            path.unlink()
    except OSError:  # the file alone holds nothing: the next writer takes it
        return


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S %z")
