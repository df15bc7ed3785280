"""MNIST's files: images and labels as IDX, plain or compressed, under the names that several tools give them."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from s5c.data.cache import Writer
from s5c.data.source import folder as folders
from s5c.data.source import packed
from s5c.errors import UserError

PARTS = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
SIDE = 28

OFFICIAL = {"b2d8f5bf": "MNIST", "14410854": "Fashion-MNIST"}
"""Begins of the checksums of the published sets, whose files have the same names."""

LARGEST = 2**29
"""Bytes of one file, unpacked: eleven times those of MNIST's largest."""


def find(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the folder of the IDX files: the given one, or `raw` or one of `names` below it."""
    for candidate in (folder, folder / "raw", *(folder / name for name in names)):
        if candidate.is_dir() and locate(candidate, "train", IMAGES) is not None:
            return candidate
    return None


def locate(folder: Path, part: str, kind: str) -> Path | None:
    """Returns the file of a part.

    The published name comes first, then that with .gz, then others: train-images.idx3-ubyte, as the packed files call
    themselves inside and many unpackers therefore call them, upper case, or a folder of that name with the file in it.
    """
    name = f"{part}-{kind}"
    loose = name.replace("-", "[-._ ]?").replace("t10k", "(t10k|test)") + r"(\.gz)?"
    if found := folders.find_file(folder, name, f"{name}.gz") or folders.match_file(folder, loose):
        return found
    for inner in folders.entries(folder):
        if inner.is_dir() and inner.name.lower() in (name, name.replace("-idx", ".idx")):
            return folders.match_file(inner, loose)
    return None


def files(folder: Path) -> tuple[str, ...]:
    """Returns the names of the files that are read."""
    found = (locate(folder, part, kind) for part in PARTS.values() for kind in (IMAGES, LABELS))
    return tuple(str(path.relative_to(folder)) for path in found if path is not None)


def build(folder: Path, writer: Writer, *, title: str) -> str:
    """Writes the images (n, h, w) and labels of both parts."""
    for split, part in PARTS.items():
        images = _read(folder, part, IMAGES, writer)
        labels = _read(folder, part, LABELS, writer)
        check(images, labels, f"{folder}: {part}")
        writer.labels(split, labels, classes=10, where=folder / f"{part}-{LABELS}")
        writer.add(f"{split}.inputs", images)
    checksum = writer.raw.hexdigest()[:8]
    if (known := OFFICIAL.get(checksum, title)) != title:
        raise UserError(
            f"{folder} holds {known} and not {title}. Give the folder of the right set with task.data_dir=..."
        )
    return f"{title} IDX (files {checksum})"


def check(images: np.ndarray, labels: np.ndarray, where: str) -> None:
    """Refuses what cannot be a part of MNIST.

    Raises:
        UserError: no images, images of another size, or not one label for each.
    """
    if len(images) != len(labels) or not len(images):
        raise UserError(f"{where}: {len(images)} images but {len(labels)} labels. Get the files again.")
    if images.shape[1:] != (SIDE, SIDE):
        h, w = images.shape[1:]
        raise UserError(f"{where}: images of {h} x {w} pixels are none of this set, whose are {SIDE} x {SIDE}.")


def _read(folder: Path, part: str, kind: str, writer: Writer) -> np.ndarray:
    path = locate(folder, part, kind)
    if path is None:
        raise UserError(f"{folder / f'{part}-{kind}'} is missing, plain or with .gz: the set has four files.")
    dimensions = 3 if kind == IMAGES else 1
    try:
        with packed.opened(path) as file:
            return _array(path, file, dimensions, writer)
    except packed.DAMAGE as error:
        if not packed.is_damage(error):
            raise
        raise UserError(f"{path} is damaged ({error}). Get it again.") from error


def _array(path: Path, file: io.BufferedIOBase, dimensions: int, writer: Writer) -> np.ndarray:
    head = packed.read(file, 4 * (1 + dimensions))
    magic, found = 0x0800 + dimensions, int.from_bytes(head[:4], "big")
    if len(head) < 4 * (1 + dimensions) or found != magic:
        raise UserError(
            f"{path} is no IDX file of {dimensions} dimensions: it begins with {found:#010x}, not {magic:#010x}."
        )
    shape = np.frombuffer(head, ">u4", dimensions, 4).tolist()
    size = math.prod(shape)
    if size > LARGEST:
        raise UserError(
            f"{path} announces {size:,} bytes, shape {shape}: more than any file of such a set. Get it again."
        )
    content = packed.read(file, size + 1)  # the end of the file, where a packed one has its checksum, is read too
    if len(content) != size:
        bytes_found = f"{len(content)} bytes" if len(content) < size else f"more than {size} bytes"
        raise UserError(f"{path} is cut short or too long: {bytes_found} of data for shape {shape}. Get it again.")
    writer.raw.update(head)
    writer.raw.update(content)
    return np.frombuffer(content, np.uint8).reshape(shape)
