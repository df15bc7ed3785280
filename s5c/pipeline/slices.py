"""Arrays in files, read a few rows at a time: `.npy`, and the members of `.npz`, packed or not.

However large a file is, memory holds one slice of it. Nothing in a file is executed: Python objects are refused.
"""

from __future__ import annotations

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from s5c.errors import UserError, nearest_first

SUFFIX = ".npy"
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)
"""What `zipfile` raises for packed files that are cut short, damaged, encrypted or packed in a way it does not know."""


class Header(NamedTuple):
    """What an array says about itself.

    Attributes:
        shape: its shape.
        dtype: its type.
        offset: where its numbers begin, bytes.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, along the first axis."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


@dataclasses.dataclass(frozen=True)
class Slices:
    """One array of a file, read along its first axis.

    Attributes:
        path: the file.
        member: name of the array in an `.npz`; None of a `.npy`.
        header: shape and type.
    """

    path: Path
    member: str | None
    header: Header

    @classmethod
    def find(cls, path: Path, name: str) -> Slices:
        """Returns the array of a name in a `.npz`, or the only one of a `.npy`.

        Raises:
            UserError: there is no such file or array, or it is not what it says.
        """
        if not path.is_file():
            raise UserError(f"{path} is no file: give an .npz with the array {name!r}, or an .npy of it.")
        member = None
        if zipfile.is_zipfile(path):
            if name not in (found := members(path)):
                listed = ", ".join(nearest_first(name, found)) or "no array"
                raise UserError(f"{path} holds {listed}; save it as np.savez(file, {name}=...).")
            member = name
        with cls._open(path, member) as (file, size):
            return cls(path, member, _header(path, member, file, size))

    @staticmethod
    @contextmanager
    def _open(path: Path, member: str | None) -> Iterator[tuple[Any, int]]:
        try:
            if member is None:
                with path.open("rb") as plain:
                    yield plain, path.stat().st_size
            else:
                with zipfile.ZipFile(path) as packed, packed.open(f"{member}{SUFFIX}") as inside:
                    yield inside, packed.getinfo(f"{member}{SUFFIX}").file_size
        except DAMAGE as error:
            raise UserError(f"{path} is cut short or damaged ({error}). Write or copy it again.") from error

    def __len__(self) -> int:
        return self.header.shape[0]

    def read(self, rows: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yields so many rows at a time, from `start` on; the last time what is left.

        Raises:
            UserError: the file is damaged.
        """
        shape, dtype, offset = self.header
        with self._open(self.path, self.member) as (file, _):
            file.seek(offset + start * self.header.row_bytes)
            for first in range(start, len(self), rows):
                count = min(rows, len(self) - first)
                content = _exactly(self.path, file, count * self.header.row_bytes)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:])

    def whole(self) -> np.ndarray:
        """Returns the whole array."""
        return np.concatenate([np.zeros((0, *self.header.shape[1:]), self.header.dtype), *self.read(max(len(self), 1))])


def members(path: Path) -> list[str]:
    """Returns the names of the arrays in a packed file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            return [name.removesuffix(SUFFIX) for name in packed.namelist() if name.endswith(SUFFIX)]
    except DAMAGE as error:
        raise UserError(f"{path} is cut short or damaged ({error}). Write or copy it again.") from error


def _header(path: Path, member: str | None, file: Any, size: int) -> Header:
    what = f"{path}{'' if member is None else f', array {member!r}'}"
    start = io.BytesIO(file.read(2**16))  # headers of plain arrays have some hundred bytes
    try:
        version = npy.read_magic(start)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"version {version} of the format")
        shape, by_columns, dtype = read(start)
    except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise UserError(
            f"{what} is no array of NumPy ({str(error).splitlines()[0] if str(error) else 'its header is damaged'}): "
            "write it with np.save or np.savez."
        ) from error
    if dtype.hasobject:
        raise UserError(
            f"{what} holds Python objects, which are not read: that would run code of the file (pickle). Save numbers; "
            "sequences of different lengths are filled up to the longest, with `lengths` beside them."
        )
    if not shape or dtype.itemsize == 0 or min(shape) < 0:
        raise UserError(f"{what} has shape {shape}, {dtype}: there is nothing along a first axis.")
    found, expected = size - start.tell(), math.prod(shape) * dtype.itemsize
    if found != expected:
        state = "is cut short" if found < expected else "has something behind its array"
        raise UserError(
            f"{what} {state}: {found:,} bytes for {shape} of {dtype}, which takes {expected:,}. Write it again."
        )
    if by_columns and len(shape) > 1:
        raise UserError(
            f"{what} is stored column by column, and cannot be read row by row: save it as np.ascontiguousarray(x)."
        )
    return Header(shape, dtype, start.tell())


def _exactly(path: Path, file: Any, count: int) -> bytes:
    parts, missing = [], count
    while missing:
        if not (part := file.read(missing)):
            raise UserError(f"{path} ends {missing:,} bytes too early: it has changed while it was read. Start again.")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
