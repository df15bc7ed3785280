"""CIFAR-10 in its binary version, rows of one label byte and 3 x 32 x 32 colour bytes, or in its Python version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from s5c.data.cache import Writer
from s5c.data.source import pickled
from s5c.data.source.folder import find_file
from s5c.errors import UserError

FOLDER, PYTHON_FOLDER = "cifar-10-batches-bin", "cifar-10-batches-py"
ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz", f"{PYTHON_FOLDER}.tar.gz")
PIXELS = 3 * 32 * 32
ROW = 1 + PIXELS
PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
FILES = tuple(f"{name}{end}" for names in PARTS.values() for name in names for end in (".bin", ""))
JPEG_COPY = "750cfe38"
"""Begin of the checksum of a known grey copy that was decoded from JPEG files."""

LARGEST = 2**27
"""Bytes of one batch of the Python version, four times those of the published ones."""


def find(folder: Path) -> Path | None:
    """Returns the folder of the batches, of the binary version if there is any."""
    for candidate in (folder, folder / FOLDER):
        if find_file(candidate, "test_batch.bin") is not None:
            return candidate
    for candidate in (folder, folder / PYTHON_FOLDER, folder / f"{PYTHON_FOLDER}-target" / PYTHON_FOLDER):
        if find_file(candidate, "test_batch") is not None or (candidate.name == PYTHON_FOLDER and candidate.is_dir()):
            return candidate
    return None


def build(folder: Path, writer: Writer) -> str:
    """Writes the images (n, 32, 32, 3) and labels of both parts; a grey copy is called so."""
    binary = find_file(folder, "test_batch.bin") is not None
    read: Callable[[Path, Writer], tuple[np.ndarray, np.ndarray]] = _binary if binary else _python
    grey = True
    for split, path in _paths(folder, ".bin" if binary else ""):
        labels, pixels = read(path, writer)
        writer.labels(split, labels, classes=10, where=path)
        channels = pixels.reshape(-1, 3, 32, 32)
        grey = grey and bool((channels == channels[:, :1]).all())
        writer.add(f"{split}.inputs", channels.transpose(0, 2, 3, 1))
    writer.facts["grey"] = grey
    checksum = writer.raw.hexdigest()[:8]
    version = "cifar-10-binary" if binary else "cifar-10-python"
    name = "cifar10-jpeg-grey" if checksum == JPEG_COPY else "cifar10-grey-copy" if grey else version
    return f"{name} (files {checksum})"


def _paths(folder: Path, end: str) -> Iterator[tuple[str, Path]]:
    for split, names in PARTS.items():
        for name in names:
            path = find_file(folder, f"{name}{end}")
            if path is None:
                missing = f"{folder / f'{name}{end}'} is missing: the set has six files."
                raise UserError(missing if end else f"{missing} {_advice()}")
            yield split, path


def _binary(path: Path, writer: Writer) -> tuple[np.ndarray, np.ndarray]:
    content = path.read_bytes()
    if len(content) % ROW or not content:
        raise UserError(
            f"{path} is cut short or of another format: {len(content)} bytes are not a multiple of {ROW}, "
            f"row {len(content) // ROW + 1} is incomplete. Get it again."
        )
    writer.raw.update(content)
    rows = np.frombuffer(content, np.uint8).reshape(-1, ROW)
    return rows[:, 0], rows[:, 1:]


def _python(path: Path, writer: Writer) -> tuple[np.ndarray, np.ndarray]:
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("it is larger than any of the set")
        batch = pickled.load(path.read_bytes())
        pixels, labels = batch["data"], batch["labels"]
        if pixels.ndim != 2 or pixels.shape != (len(labels), PIXELS) or not all(type(label) is int for label in labels):
            raise ValueError(f"it has not {PIXELS} bytes and one label a row")
        numbers = np.array(labels, np.int64)
    except pickled.DAMAGE as error:
        raise UserError(f"{path} is no batch of CIFAR-10 ({error}). {_advice()}") from error
    writer.raw.update(numbers.astype(np.uint8).data)
    writer.raw.update(np.ascontiguousarray(pixels).data)
    return numbers, pixels


def _advice() -> str:
    return (
        "The Python version is pickled and never loaded as a program: only plain arrays and lists are read. Get it "
        f"again, or get the binary version (folder {FOLDER})."
    )
