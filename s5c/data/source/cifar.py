"""CIFAR-10 in its binary version: rows of one label byte and 3 x 32 x 32 colour bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from s5c.data.cache import Writer
from s5c.errors import UserError

FOLDER = "cifar-10-batches-bin"
ROW = 1 + 3 * 32 * 32
PARTS = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
JPEG_COPY = "750cfe38"
"""Begin of the checksum of a known grey copy that was decoded from JPEG files."""


def find(folder: Path) -> Path | None:
    """Returns the folder of the binary batches."""
    for candidate in (folder, folder / FOLDER):
        if (candidate / "test_batch.bin").is_file():
            return candidate
        if (candidate / "test_batch").is_file() or (folder / "cifar-10-batches-py").is_dir():
            raise UserError(
                f"{folder} holds CIFAR-10 in its Python version, which is pickled and never loaded here. "
                f"Get the binary version (folder {FOLDER})."
            )
    return None


def build(folder: Path, writer: Writer) -> str:
    """Writes the images (n, 32, 32, 3) and labels of both parts; a grey copy is called so."""
    grey = True
    for split, names in PARTS.items():
        for name in names:
            path = folder / name
            if not path.is_file():
                raise UserError(f"{path} is missing: the set has six files.")
            content = path.read_bytes()
            if len(content) % ROW or not content:
                raise UserError(
                    f"{path} is cut short or of another format: {len(content)} bytes are not a multiple of {ROW}, "
                    f"row {len(content) // ROW + 1} is incomplete. Get it again."
                )
            writer.raw.update(content)
            rows = np.frombuffer(content, np.uint8).reshape(-1, ROW)
            writer.labels(split, rows[:, 0], classes=10, where=path)
            channels = rows[:, 1:].reshape(-1, 3, 32, 32)
            grey = grey and bool((channels == channels[:, :1]).all())
            writer.add(f"{split}.inputs", channels.transpose(0, 2, 3, 1))
    writer.facts["grey"] = grey
    checksum = writer.raw.hexdigest()[:8]
    name = "cifar10-jpeg-grey" if checksum == JPEG_COPY else "cifar10-grey-copy" if grey else "cifar-10-binary"
    return f"{name} (files {checksum})"
