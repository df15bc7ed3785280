"""MNIST as Keras keeps it: one file mnist.npz with x_train, y_train, x_test and y_test."""

from __future__ import annotations

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from s5c.data.cache import Writer
from s5c.data.source import folder as folders
from s5c.data.source import idx, packed
from s5c.errors import UserError

FILE = "mnist.npz"


def find(folder: Path) -> Path | None:
    """Returns the folder of the file."""
    for candidate in (folder, folder / "datasets", folder / "mnist"):
        if folders.find_file(candidate, FILE) is not None:
            return candidate
    return None


def build(folder: Path, writer: Writer) -> str:
    """Writes the images (n, 28, 28) and labels of both parts."""
    path = folders.find_file(folder, FILE) or folder / FILE
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name: _array(archive, name) for name in ("x_train", "y_train", "x_test", "y_test")}
    except (
        zipfile.BadZipFile,
        KeyError,
        ValueError,
        OverflowError,
        RuntimeError,
        struct.error,
        *packed.DAMAGE,
    ) as error:
        if not packed.is_damage(error):  # RuntimeError: encrypted, or packed in a way that is not known here
            raise
        raise UserError(f"{path} is damaged or not Keras's {FILE} ({error}). Get it again.") from error
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if images.ndim != 3 or images.dtype != np.uint8 or labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise UserError(
                f"{path}: x_{split} is {images.dtype} {images.shape}, y_{split} {labels.dtype} {labels.shape}; "
                "expected uint8 images (n, 28, 28) and whole numbers (n,)."
            )
        idx.check(images, labels, f"{path}: {split}")
        writer.raw.update(np.ascontiguousarray(images).data)
        writer.labels(split, labels, classes=10, where=path)
        writer.raw.update(labels.astype(np.uint8).data)
        writer.add(f"{split}.inputs", images)
    return f"MNIST npz (files {writer.raw.hexdigest()[:8]})"


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Reads an array that is no pickle, once its header agrees with the size of what is packed."""
    packed_file: Any = archive.open(f"{name}.npy")
    with io.BufferedReader(packed_file) as file:
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"{name}.npy has format {version}")
        shape, fortran, dtype = readers[version](file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or size > idx.LARGEST:
            raise ValueError(f"{name}.npy announces {dtype} {shape}")
        content = packed.read(file, size + 1)
    if len(content) != size:
        raise ValueError(f"{name}.npy does not hold {size} bytes")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran else "C")
