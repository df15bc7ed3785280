"""Unpacking of published archives: no member may leave the folder, and a half-unpacked one is never found."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath

import filelock

from s5c.errors import UserError

log = logging.getLogger(__name__)


def unpack(path: Path) -> Path:
    """Returns the folder `<name>.unpacked` beside a tar archive, after unpacking it there if need be.

    Raises:
        UserError: it is no tar archive, is cut short, or has a member that is no plain file or folder, or whose path is
            absolute or goes up.
    """
    final = path.with_name(f"{path.name}.unpacked")
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if final.is_dir() and final.stat().st_mtime_ns >= path.stat().st_mtime_ns:
            return final
        part = path.with_name(f"{path.name}.part")
        for left in (part, final):
            shutil.rmtree(left, ignore_errors=True)
        log.info("Unpacking %s -> %s", path, final)
        try:
            with tarfile.open(path) as packed:
                for member in packed:
                    _check(path, member)
                    packed.extract(member, part, set_attrs=False, filter="data")
            os.utime(part)
            part.rename(final)
        except (tarfile.TarError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk, not the archive
            raise UserError(
                f"{path} cannot be unpacked ({error}): it is cut short or no tar archive. Get it again."
            ) from error
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _check(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
        raise UserError(
            f"{path} is refused: its member {member.name!r} is a link, a device, or a path that leaves the folder. "
            "Nothing was unpacked. Get the archive from its publisher."
        )
