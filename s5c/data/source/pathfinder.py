"""The Pathfinder folders of the Long Range Arena's release: PNG images, and metadata in text files called .npy."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from s5c.data.cache import Writer
from s5c.data.progress import progress
from s5c.data.source.folder import entries, lines
from s5c.errors import UserError

LEVELS = {6: "curv_baseline", 9: "curv_contour_length_9", 14: "curv_contour_length_14"}
KNOWN_EMPTY = {"curv_baseline/imgs/0/sample_172.png"}
"""One image of pathfinder32 is an empty file in the release itself; the published loaders leave it out."""

DAMAGE = (SyntaxError, ValueError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow's readers let through of damaged images, besides OSError and its own."""

CHUNK = 4096


class Listed(NamedTuple):
    """One row of the metadata."""

    image: Path
    label: int
    where: str


def find(folder: Path, size: int, contour_length: int) -> Path | None:
    """Returns the folder of one level at one resolution."""
    level, release = LEVELS[contour_length], folder / "lra_release"
    for candidate in (folder, *(base / f"pathfinder{size}" for base in (folder, release, release / "lra_release"))):
        if (candidate / level / "metadata").is_dir():
            return candidate / level
        if candidate.name == level and (candidate / "metadata").is_dir():
            return candidate
    return None


def build(folder: Path, writer: Writer, *, size: int) -> str:
    """Writes all images (n, size, size) and labels, in the order of the metadata."""
    listed = [row for row in _rows(folder) if f"{folder.name}/{row.image.relative_to(folder)}" not in KNOWN_EMPTY]
    rows = iter(listed)
    with ThreadPoolExecutor() as pool, progress("images", len(listed)) as advance:
        while chunk := list(islice(rows, CHUNK)):
            images = np.stack(list(pool.map(lambda row: _image(row, size), chunk)))
            writer.raw.update(images.data)
            writer.add("all.inputs", images)
            writer.labels("all", [row.label for row in chunk], classes=2)
            advance(len(chunk))
    return f"LRA pathfinder{size} {folder.name} (files {writer.raw.hexdigest()[:8]})"


def _rows(folder: Path) -> Iterator[Listed]:
    files = entries(folder / "metadata", ".npy")
    if not files or any(re.fullmatch("[0-9]{1,9}", path.stem) is None for path in files):
        raise UserError(f"{folder / 'metadata'} should hold 0.npy, 1.npy, ..., and nothing else that ends in .npy.")
    for path in sorted(files, key=lambda path: int(path.stem)):
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(f"{path} is a NumPy file; the release has text in it: folder, file, number, label, ...")
        for number, line in lines(path):
            fields = line.split()
            where = f"{path}, line {number}"
            if len(fields) < 4 or fields[3] not in ("0", "1"):
                raise UserError(f"{where}: expected folder, file, number, label (0 or 1), ..., got {line[:80]!r}.")
            image = folder / fields[0] / fields[1]
            if Path(fields[0]).is_absolute() or ".." in Path(fields[0], fields[1]).parts:
                raise UserError(f"{where}: the path {fields[0]}/{fields[1]} leaves the folder.")
            yield Listed(image, int(fields[3]), where)


def _image(row: Listed, size: int) -> np.ndarray:
    from PIL import Image  # comes with matplotlib

    try:
        with Image.open(row.image) as image:
            if image.size != (size, size):  # before the pixels are unpacked, of which there may be too many
                raise UserError(f"{row.image} is {image.size[0]} x {image.size[1]} pixels, not {size} x {size}.")
            return np.asarray(image.convert("L"))
    except UserError:
        raise
    except (OSError, Image.DecompressionBombError, *DAMAGE) as error:
        raise UserError(f"{row.image} (named in {row.where}) cannot be read: {error}. Get it again.") from error
