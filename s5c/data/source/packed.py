"""Compressed files as streams: gzip, bzip2 or xz by what they begin with, whatever their names say.

What comes out is read piece by piece up to a bound that the caller sets, for a few kilobytes can unpack to terabytes.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

LAYERS = 2
"""Compressed once or, as some servers and browsers leave a file, twice."""

OPENERS: dict[bytes, Callable[[Any], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}

DAMAGE = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, OSError)
"""What decompressors raise of damaged data. An OSError with a number is the disk's: see `is_damage`."""

PIECE = 2**20


@contextmanager
def opened(path: Path) -> Iterator[io.BufferedIOBase]:
    """Opens a file, compressed or not, for reading from begin to end."""
    with ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        for _ in range(LAYERS):
            head = file.peek(8)
            opener = next((opener for magic, opener in OPENERS.items() if head.startswith(magic)), None)
            if opener is None:
                break
            file = io.BufferedReader(stack.enter_context(opener(file)))
        yield file


def read(file: io.BufferedIOBase, count: int) -> bytes:
    """Returns `count` bytes, or as many as there are; memory is taken for what comes, not for what was announced."""
    pieces = []
    while count > 0 and (piece := file.read(min(count, PIECE))):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)


def is_damage(error: Exception) -> bool:
    """Says whether an error of reading is the data's fault and not the disk's."""
    return not isinstance(error, OSError) or error.errno in (None, errno.EINVAL)  # EINVAL: a place before the begin
