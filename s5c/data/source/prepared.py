"""Data sets that TFDS has prepared, read without TensorFlow.

They lie in NAME/VERSION or, where a set has several configurations, NAME/CONFIGURATION/VERSION.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from s5c.data.source.folder import UnreadableError, entries
from s5c.errors import UserError

log = logging.getLogger(__name__)

CHUNK = 1000
INFO = "dataset_info.json"
READ = "array_record"
"""The format that is read without TensorFlow."""
VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)")
"""Name of a version's folder. While TFDS writes one, it is called 1.0.0.incompleteXXXX."""


def find(folder: Path, name: str, config: str | None = None) -> Path | None:
    """Returns the folder of the highest version of a data set that can be read.

    Args:
        folder: TFDS's data directory, or a folder of the data set in it.
        name: name of the data set.
        config: the only configuration that is taken; one without a name is taken too.

    Raises:
        UnreadableError: there are versions, and none can be read.
    """
    usable, obstacles = [], []
    for place in _versions(folder, name):
        try:
            info = _info(place)
        except UserError as error:
            obstacles.append(str(error))
            continue
        found = [info.get("name", name), info.get("configName") or config]
        if found != [name, config]:
            wanted = name if config is None else f"{name}/{config}"
            called = "/".join(str(part) for part in found if part)
            obstacles.append(f"{place} is {called} and is passed over: what is read is {wanted}.")
        elif READ not in (formats := _formats(info)):
            obstacles.append(
                f"{place} is stored as {', '.join(formats)}, which only TensorFlow reads, and is passed over: prepare "
                f"it again with `tfds build {name} --file_format={READ}`."
            )
        else:
            usable.append(place)
    if not usable and obstacles:
        raise UnreadableError("\n".join(obstacles))
    for obstacle in obstacles:
        log.warning("%s", obstacle)
    return max(usable, key=_number) if usable else None


def read(place: Path, split: str, kinds: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    """Yields the examples of a split in stored order.

    Args:
        place: the folder of a version.
        split: train | test.
        kinds: the fields that are needed, and what they must hold: text as `bytes`, images as `np.ndarray`, or `int`.

    Raises:
        UserError: a file is missing or damaged, or the examples have other fields.
    """
    import tensorflow_datasets as tfds  # 0.3 s, for those who need it

    try:
        source = tfds.builder_from_directory(place).as_data_source(split=split)
        for first in range(0, len(source), CHUNK):
            for example in source.__getitems__(list(range(first, min(first + CHUNK, len(source))))):
                yield {field: _field(example, field, kind) for field, kind in kinds.items()}
    except Exception as error:  # array_record's and TFDS's have no common class
        if isinstance(error, UserError):
            raise
        raise UserError(f"{place}: split {split!r} cannot be read ({error}). Prepare it with TFDS again.") from error


def title(place: Path) -> str:
    """Returns the name and version of a prepared data set, for the source in words."""
    info = _info(place)
    return f"{info.get('name', place.parent.name)} (tfds {info.get('version', place.name)})"


def _versions(folder: Path, name: str) -> Iterator[Path]:
    """Yields the folders of all versions, whether a folder of theirs is given or the one that holds all data sets."""
    if VERSION.fullmatch(folder.name) and (folder / INFO).exists():
        yield folder
    bases = [folder / name, *([folder] if name in (folder.name, folder.parent.name) else [])]
    for base in (base for base in bases if base.is_dir()):
        for place in (place for place in entries(base) if place.is_dir()):
            inner = [place] if VERSION.fullmatch(place.name) else [path for path in entries(place) if path.is_dir()]
            yield from (path for path in inner if VERSION.fullmatch(path.name) and (path / INFO).exists())


def _number(place: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in place.name.split("."))


def _info(place: Path) -> dict[str, Any]:
    path = place / INFO
    try:
        info = json.loads(path.read_text("utf-8"))
        if not isinstance(info, dict):
            raise ValueError("no JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is empty, cut short or damaged ({error}): prepare the set with TFDS again.") from error
    return info


def _formats(info: Mapping[str, Any]) -> list[str]:
    more = info.get("alternativeFileFormats")
    return [str(info.get("fileFormat", "tfrecord")), *(map(str, more) if isinstance(more, list) else ())]


def _field(example: Mapping[str, Any], field: str, kind: type) -> Any:
    value = example.get(field)
    if not isinstance(value, (int, np.integer) if kind is int else kind):
        raise ValueError(f"the field {field} is {type(value).__name__} instead of {kind.__name__}")
    return value
