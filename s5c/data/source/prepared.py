"""Data sets that TFDS has prepared, read without TensorFlow."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from s5c.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 1000


def find(folder: Path, name: str) -> Path | None:
    """Returns the folder of the newest version of a data set that is stored as array_record."""
    for info in sorted(folder.glob(f"{name}/**/dataset_info.json"), reverse=True):
        stored = str(json.loads(info.read_text("utf-8")).get("fileFormat", "tfrecord"))
        if stored == "array_record":
            return info.parent
        log.warning(
            "%s is stored as %s, which only TensorFlow reads, and is passed over: prepare it again with "
            "`tfds build %s --file_format=array_record`.",
            info.parent,
            stored,
            name,
        )
    return None


def read(place: Path, split: str) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split in stored order.

    Raises:
        UserError: a file is missing or damaged.
    """
    import tensorflow_datasets as tfds  # 0.3 s, for those who need it

    try:
        source = tfds.builder_from_directory(place).as_data_source(split=split)
        for first in range(0, len(source), CHUNK):
            yield from source.__getitems__(list(range(first, min(first + CHUNK, len(source)))))
    except Exception as error:  # array_record's and TFDS's have no common class
        if isinstance(error, UserError | OSError):
            raise
        raise UserError(f"{place}: split {split!r} cannot be read ({error}). Prepare it with TFDS again.") from error


def title(place: Path) -> str:
    """Returns the name and version of a prepared data set, for the source in words."""
    info = json.loads((place / "dataset_info.json").read_text("utf-8"))
    return f"{info['name']} (tfds {info['version']})"
