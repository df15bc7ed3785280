"""One writer per folder: others wait and then find what it made."""

from __future__ import annotations

import errno
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

LOCK = ".lock"
HOLDER, HOST = ".lock-holder", ".lock-host"
"""What a waiting process says: the number of the one it waits for, and the machine that runs on."""


@contextmanager
def exclusive(folder: Path, doing: str, *, mark: str | None = None) -> Iterator[None]:
    """Holds a folder's lock, waiting for the process that has it. The system drops it when a process dies.

    Args:
        folder: an existing folder.
        doing: what the holder does, for those who wait, such as "is training this model".
        mark: a file that is in the folder for as long as it may be used.

    Raises:
        FileNotFoundError: the folder has been removed by whoever held it.
    """
    lock = filelock.FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        who, host = _read(folder / HOLDER), _read(folder / HOST)
        on = f" on {host}" if host else ""
        log.info("Process %s %s (%s)%s; waiting for it.", who or "unknown", doing, folder, on)
        lock.acquire()
    try:
        if mark is not None and not (folder / mark).exists():  # the lock made the folder again, with itself in it
            shutil.rmtree(folder, ignore_errors=True)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
        (folder / HOLDER).write_text(f"{os.getpid()}\n")
        (folder / HOST).write_text(f"{platform.node()}\n")
        yield
    finally:
        lock.release()


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Holds a lock on the names in a folder for a moment, without leaving a file there.

    Where the file system has no locks on folders this does nothing: keep what happens inside safe without it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):  # none there, or a damaged one
        return ""
