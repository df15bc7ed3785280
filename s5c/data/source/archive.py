"""Unpacking of published archives: no member may leave the folder, and a half-unpacked one is never found.

Files are written here and not by `tarfile`, whose ways of extracting differ from version to version of Python. What is
not whole, or unpacks to far more than it is, is refused.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
import struct
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import filelock

from s5c.data.source import packed
from s5c.errors import UserError

log = logging.getLogger(__name__)

RATIO = 100
"""How much larger than an archive its content may be; text is packed to a third or a fifth."""
ROOM = 2**28
"""Bytes that any archive may unpack to."""
MEMBERS = 500_000
"""Files and folders that are unpacked; the sets used here have up to 200,200."""
PASSED = 10_000_000
"""Files and folders in an archive that parts are taken from; the Long Range Arena's release has 2,400,000."""
HEADERS = 2**20
"""Bytes of the headers before one member; usually 512."""
BAD_NAMES = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
"""Errors of writing that come from the names in an archive: one is a file and a folder, or too long."""


def unpack(path: Path, part: str = "") -> Path:
    """Returns the folder `<name>.unpacked` beside a tar archive, after unpacking it there if need be.

    Args:
        path: the archive.
        part: a folder in it, wherever it lies, such as "listops-1000": all other members are passed over, and the
            folder beside it is called after the part, too. All of it if empty.

    Raises:
        UserError: it is no tar archive, is cut short or damaged, unpacks to far too much, or has a member that is no
            plain file or folder, or whose path is absolute or goes up.
    """
    of = f".{part.replace('/', '-')}" if part else ""
    final = path.with_name(f"{path.name}{of}.unpacked")
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if final.is_dir() and final.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            return final
        unfinished = path.with_name(f"{path.name}{of}.part")
        for left in (unfinished, final):
            shutil.rmtree(left, ignore_errors=True)
        log.info("Unpacking %s%s -> %s", f"{part} of " if part else "", path, final)
        unfinished.mkdir()
        try:
            _extract(path, unfinished, part)
            os.utime(unfinished)
            unfinished.rename(final)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return final


class _Member(tarfile.TarInfo):
    """A member of an archive that is whole: `tarfile` takes a damaged header, or none, for the end of the archive."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _Member:
        """Returns the next member; raises EOFHeaderError where the archive ends as it should."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) from error


class _Metered:
    """A stream of which only as much can be read as was allowed before; `tarfile` itself reads what is announced."""

    def __init__(self, path: Path, file: io.BufferedIOBase) -> None:
        self.path, self.file, self.left = path, file, 0

    def read(self, count: int) -> bytes:
        content = self.file.read(count)
        self.left -= len(content)
        if self.left < 0:
            raise _too_large(self.path, "headers")
        return content


def _extract(path: Path, target: Path, part: str) -> None:
    allowed = max(ROOM, RATIO * path.stat().st_size)
    try:
        with packed.opened(path) as file:
            stream = _Metered(path, file)
            stream.left = HEADERS
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:  # type: ignore[call-overload]
                members = passed = 0
                while (member := archive.next()) is not None:
                    archive.members.clear()  # it keeps them all
                    wanted = not part or f"/{part}/" in f"/{member.name}/"
                    members, passed, allowed = members + wanted, passed + 1, allowed - member.size
                    if allowed < 0 or members > MEMBERS or passed > PASSED:
                        raise _too_large(path, repr(member.name))
                    if not wanted:
                        stream.left = member.size + 2 * HEADERS  # its content, then the next header
                        continue
                    _check(path, member)
                    stream.left = member.size + HEADERS
                    _write(archive, member, target / member.name)
                    stream.left = HEADERS
            while stream.read(2**16):  # the end of a packed file has its checksum
                pass
    except UserError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, struct.error, *packed.DAMAGE) as error:
        if not packed.is_damage(error) and getattr(error, "errno", None) not in BAD_NAMES:
            raise
        raise UserError(
            f"{path} cannot be unpacked ({error}): it is cut short, damaged or no tar archive. Get it again."
        ) from error


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source: Any = archive.extractfile(member)
    with path.open("wb") as file:
        shutil.copyfileobj(source, file)
        if file.tell() != member.size:
            raise tarfile.ReadError(f"{member.name} has {file.tell()} bytes of {member.size}")


def _check(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
        raise UserError(
            f"{path} is refused: its member {member.name!r} is a link, a device, or a path that leaves the folder. "
            "Nothing was unpacked. Get the archive from its publisher."
        )


def _too_large(path: Path, where: str) -> UserError:
    return UserError(
        f"{path} is refused at {where}: it would unpack to more than {RATIO} times its size, or to over {MEMBERS:,} "
        "files. Nothing was unpacked. Get the archive from its publisher, or unpack it yourself and give the folder."
    )
