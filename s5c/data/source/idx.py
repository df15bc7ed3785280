"""MNIST's file format: images and labels as IDX, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from s5c.data.cache import Writer
from s5c.errors import UserError

PARTS = {"train": "train", "test": "t10k"}
IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def find(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Returns the folder of the IDX files: the given one, or `raw` or one of `names` below it."""
    for candidate in (folder, folder / "raw", *(folder / name for name in names)):
        if any((candidate / f"train-{IMAGES}{end}").is_file() for end in ("", ".gz")):
            return candidate
    return None


def build(folder: Path, writer: Writer, *, title: str) -> str:
    """Writes the images (n, h, w) and labels of both parts."""
    for split, part in PARTS.items():
        images = _read(folder, f"{part}-{IMAGES}", 3, writer)
        labels = _read(folder, f"{part}-{LABELS}", 1, writer)
        if len(images) != len(labels):
            raise UserError(f"{folder}: {len(images)} images but {len(labels)} labels for {part}. Get the files again.")
        writer.labels(split, labels, classes=10, where=folder / f"{part}-{LABELS}")
        writer.add(f"{split}.inputs", images)
    return f"{title} IDX (files {writer.raw.hexdigest()[:8]})"


def _read(folder: Path, name: str, dimensions: int, writer: Writer) -> np.ndarray:
    path = next((p for p in (folder / name, folder / f"{name}.gz") if p.is_file()), None)
    if path is None:
        raise UserError(f"{folder / name} is missing, plain or with .gz: the set has four files.")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path} is damaged ({error}). Get it again.") from error
    header = 4 * (1 + dimensions)
    magic = 0x0800 + dimensions
    found = int.from_bytes(content[:4], "big")
    if len(content) < header or found != magic:
        raise UserError(
            f"{path} is no IDX file of {dimensions} dimensions: it begins with {found:#010x}, not {magic:#010x}."
        )
    shape = np.frombuffer(content, ">u4", dimensions, 4).tolist()
    if len(content) != header + math.prod(shape):
        raise UserError(
            f"{path} is cut short or too long: {len(content) - header} bytes of data for shape {shape}. Get it again."
        )
    writer.raw.update(content)
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
