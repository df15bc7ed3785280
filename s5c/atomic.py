"""Files and folders that appear whole or not at all, also where the process is killed or the machine loses power.

What is new is written beside its place, flushed, and renamed. What it replaces goes only then.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

UNFINISHED = ".unfinished"
"""How the names of files and folders begin that are not whole yet, or belong to a process that was killed."""

_AT_FDCWD = -100
_LINUX_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_MACOS_SWAP = 2  # RENAME_SWAP of renamex_np(2)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write a file to; it takes the place of `path` if the block ends well.

    The unfinished file has the same ending: `numpy.savez` appends one of its own to any other.

    Args:
        path: the file; its folder is made if need be. Of several writers at once, in processes of their own, each
            writes a whole file, and the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{UNFINISHED}-{os.getpid()}-{path.name}")
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8."""
    with written(path) as unfinished:
        unfinished.write_text(text, "utf-8")


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes a compressed `.npz`, unless the file holds just these arrays already."""
    try:
        with np.load(path) as stored:
            if set(stored) == set(arrays) and all(_equal(stored[name], arrays[name]) for name in arrays):
                return
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error):
        pass  # none there, or a damaged one
    with written(path) as unfinished:
        np.savez_compressed(unfinished, **arrays)


def _equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


def put(new: Path, place: Path) -> None:
    """Moves a finished folder to its place; one that is there already goes once the new one has taken its name.

    The name is never missing where the system can exchange two names in one step (Linux, macOS, on most file systems).
    Elsewhere it is for the moment between two renames, and a process killed then leaves both folders whole.

    Args:
        new: a folder on the file system of `place`.
        place: its name from now on.
    """
    for path in new.rglob("*"):
        _flush(path)
    _flush(new)
    place.parent.mkdir(parents=True, exist_ok=True)
    if not place.exists():
        new.rename(place)
    elif _exchange(new, place):
        shutil.rmtree(new)
    else:
        old = new.with_name(f"{new.name}.replaced")
        place.rename(old)
        new.rename(place)
        shutil.rmtree(old)
    _flush(place.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; returns whether the system could."""
    with suppress(OSError, AttributeError):
        system = ctypes.CDLL(None, use_errno=True)
        names = os.fsencode(one), os.fsencode(other)
        if sys.platform == "linux":
            return system.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _LINUX_EXCHANGE) == 0
        if sys.platform == "darwin":
            return system.renamex_np(*names, _MACOS_SWAP) == 0
    return False


def _flush(path: Path) -> None:
    """Has the system write a file, or the names in a folder, to the disk."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a folder on a system where folders cannot be opened
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
